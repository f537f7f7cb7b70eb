"""A policy in words."""

import albumentations as A
import cv2
import pytest

from utils.descriptions import describe
from utils.transforms import assignment_policy

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # CIFAR-10's, as an example

DESCRIPTION = """\
HorizontalFlip    p=0.5
ShiftScaleRotate  p=0.5   shift -0.0625..0.0625 of the side, scale 0.9..1.1 on each axis, \
rotate -15..15 degrees, linear, border reflect_101
CoarseDropout     p=0.25  1 hole of 16 x 16 pixels, fill = data set mean
Normalize         p=1     by mean and standard deviation of each channel"""


@pytest.mark.parametrize(("mean", "std"), [(MEAN, STD), ((0.3, 0.3, 0.3), (0.4, 0.4, 0.4))])
def test_the_description_is_the_same_for_every_data_set(mean, std):
    assert describe(assignment_policy(mean, std, coarse_dropout=0.25)) == DESCRIPTION


def test_a_crop_is_part_of_the_policy_if_asked_for():
    lines = describe(assignment_policy(MEAN, STD, crop=4)).splitlines()
    assert lines[1] == "Pad               p=1     4 pixels on each side, border reflect_101"
    assert lines[2] == "RandomCrop        p=1     32 x 32 pixels"
    assert len(lines) == 6


def test_colours_are_changed_before_the_hole_if_asked_for():
    lines = describe(assignment_policy(MEAN, STD, color_jitter=0.8)).splitlines()
    assert lines[2] == "ColorJitter       p=0.8   brightness 0.9..1.1, contrast 0.9..1.1, saturation 0.5..1.5"
    assert [line.split()[0] for line in lines[1:4]] == ["ShiftScaleRotate", "ColorJitter", "CoarseDropout"]


def test_a_fill_other_than_the_mean_is_shown():
    holes = A.CoarseDropout((1, 3), (0.1, 0.2), (0.1, 0.2), fill=(0.49, 0.48, 0.45))  # the usual mistake
    line = "CoarseDropout     p=0.5   1..3 holes of 0.1..0.2 x 0.1..0.2 of the sides, fill = (0.49, 0.48, 0.45)"
    assert describe(A.Compose([holes, A.Normalize(MEAN, STD)])).startswith(line + "\n")
    assert describe(A.Compose([holes])) == line
    near = A.CoarseDropout((1, 1), (8, 16), (16, 16), fill=(126, 124, 114))  # the mean is (125.3, 123.0, 113.9)
    assert "hole of 8..16 x 16 pixels, fill = (126" in describe(A.Compose([near, A.Normalize(MEAN, STD)]))


def test_an_affine_is_described_in_full():
    affine = A.Affine(
        scale=(0.8, 1.2),
        keep_ratio=True,
        translate_px={"x": (-3, 3), "y": 0},
        rotate=(0, 30),
        shear={"x": (-5, 5), "y": 0},
        interpolation=cv2.INTER_NEAREST,
        border_mode=cv2.BORDER_CONSTANT,
        fill=7,
        p=1,
    )
    assert describe(A.Compose([affine])) == (
        "Affine            p=1     shift x -3..3 y 0 pixels, scale 0.8..1.2 alike on both axes, "
        "rotate 0..30 degrees, shear x -5..5 y 0 degrees, nearest, border constant, fill = 7"
    )


def test_other_transforms_are_described_by_their_repr_in_one_line():
    policy = A.Compose([A.RandomGamma(p=0.3), A.OneOf([A.HorizontalFlip(), A.VerticalFlip()])])
    gamma, one_of = describe(policy).split("\n")
    assert gamma == repr(policy.transforms[0])
    assert one_of.startswith("OneOf([ HorizontalFlip(p=0.5), VerticalFlip(p=0.5), ]")
