"""utils/transforms.py: the policy has the assignment's parameters; the per-image path is reproducible."""

import warnings

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from albumentations.pytorch import ToTensorV2
from sklearn.datasets import load_sample_images

from utils.data import Split
from utils.errors import InputError
from utils.transforms import PerImage, affine_policy, assignment_policy, per_image_loader

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # CIFAR-10's, as an example


@pytest.fixture(scope="module")
def split():
    """200 real colour images: patches of two photographs that ship with scikit-learn. Labels are indices."""
    pictures = np.stack(load_sample_images().images)[:, 240:400]  # (2, 160, 640, 3), below the sky
    patches = pictures.reshape(2, 5, 32, 20, 32, 3).transpose(0, 1, 3, 5, 2, 4).reshape(-1, 3, 32, 32)
    classes = tuple(map(str, range(200)))
    images, labels = torch.from_numpy(patches.copy()), torch.arange(200)
    return Split(images, labels, classes, MEAN, STD, name="train", dataset="photographs", provenance="a test")


# The policy


def test_the_transforms_are_the_assignment_s():
    flip, affine, dropout, normalize = assignment_policy(MEAN, STD).transforms
    assert type(flip) is A.HorizontalFlip

    assert type(affine) is A.ShiftScaleRotate  # by name: Affine would not do
    assert affine.translate_percent == {"x": (-0.0625, 0.0625), "y": (-0.0625, 0.0625)}
    assert affine.scale == {"x": (0.9, 1.1), "y": (0.9, 1.1)}
    assert affine.rotate == (-15, 15)
    assert affine.border_mode == cv2.BORDER_REFLECT_101

    assert type(dropout) is A.CoarseDropout
    assert dropout.num_holes_range == (1, 1)
    assert dropout.hole_height_range == dropout.hole_width_range == (16, 16)
    assert dropout.fill_mask is None

    assert type(normalize) is A.Normalize
    assert (normalize.mean, normalize.std, normalize.max_pixel_value) == (MEAN, STD, 255)
    assert normalize.p == 1


def test_the_affine_policy_differs_in_its_affine_alone():
    ours, theirs = affine_policy(MEAN, STD, shift_scale_rotate=0.3), assignment_policy(MEAN, STD)
    affine = ours.transforms[1]
    assert type(affine) is A.Affine
    assert affine.p == 0.3
    assert (affine.border_mode, affine.fill) == (cv2.BORDER_CONSTANT, 0)
    same = ("translate_percent", "scale", "rotate", "shear")
    assert [getattr(affine, name) for name in same] == [getattr(theirs.transforms[1], name) for name in same]
    others = [[repr(policy.transforms[i]) for i in (0, 2, 3)] for policy in (ours, theirs)]
    assert others[0] == others[1]


def test_the_hole_has_the_mean_colour_of_the_images(split):
    pixels = split.images.double()
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), correction=0)
    dropout = assignment_policy(mean / 255, std / 255).transforms[2]
    assert dropout.fill == pytest.approx(mean.tolist())  # in units of the uint8 image, not 0..1


def test_the_probabilities_are_the_caller_s():
    policy = assignment_policy(MEAN, STD, flip=0.1, shift_scale_rotate=0.2, coarse_dropout=0.3)
    assert [transform.p for transform in policy.transforms] == [0.1, 0.2, 0.3, 1]


def test_no_warning_reaches_the_user():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy = assignment_policy(MEAN, STD)
        policy(image=np.zeros((32, 32, 3), dtype=np.uint8))


def test_the_warning_is_silenced_nowhere_else():
    before = list(warnings.filters)
    assignment_policy(MEAN, STD)
    assert warnings.filters == before


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((125.3, 123.0, 113.9), STD),
        (MEAN, (63.0, 62.1, 66.7)),
        (MEAN, (0.2, 0.0, 0.2)),
        ((0.5,), (0.5,)),
    ],
)
def test_statistics_outside_0_to_1_are_refused(mean, std):
    with pytest.raises(InputError, match="0..255, divide them by 255"):
        assignment_policy(mean, std)


@pytest.mark.parametrize("name", ["flip", "shift_scale_rotate", "color_jitter", "coarse_dropout"])
@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_refused_by_name(name, p):
    with pytest.raises(InputError, match=f"^{name}={p} is no probability"):
        assignment_policy(MEAN, STD, **{name: p})


# One image at a time


def epoch_of(split, *, seed=0, epoch=1, order=range(200), workers=0, policy=None):
    """Images and labels of one epoch, batches of 64 put together."""
    policy = policy or assignment_policy(MEAN, STD)
    batches = list(per_image_loader(split, policy, 64, seed, epoch, order, workers))
    assert [len(labels) for _, labels in batches] == [64, 64, 64, 8]  # a short last batch counts
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def test_batches_are_normalised_float_images_and_their_labels(split):
    images, labels = epoch_of(
        split, policy=assignment_policy(MEAN, STD, flip=0, shift_scale_rotate=0, coarse_dropout=0)
    )
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    assert images.dtype == torch.float32 and labels.dtype == torch.int64
    torch.testing.assert_close(images, (split.images / 255 - mean) / std, atol=1e-4, rtol=0)
    assert labels.tolist() == list(range(200))


def test_the_number_of_workers_changes_nothing(split):
    for alone, shared in zip(epoch_of(split, workers=0), epoch_of(split, workers=2), strict=True):
        assert torch.equal(alone, shared)


def test_the_order_changes_nothing_but_the_order(split):
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    in_order, _ = epoch_of(split)
    shuffled, labels = epoch_of(split, order=order)
    assert torch.equal(labels, order)
    assert torch.equal(shuffled, in_order[order])


def test_every_epoch_and_every_seed_augments_anew(split):
    policy = assignment_policy(MEAN, STD, shift_scale_rotate=1)
    first, _ = epoch_of(split, seed=0, epoch=1, policy=policy)
    for other in ({"seed": 0, "epoch": 2}, {"seed": 1, "epoch": 1}, {"seed": 1, "epoch": 0}):
        images, _ = epoch_of(split, **other, policy=policy)
        assert not (images == first).flatten(1).all(1).any()


def test_the_coins_of_the_transforms_are_independent(split):
    """Compose.set_random_seed lets them all fall alike; see PerImage.__getitem__."""
    coins = A.Compose([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)])
    dataset = PerImage(split, coins, seed=0)
    plain = split.images.float()
    share = {"none": 0, "x": 0, "y": 0, "xy": 0}
    for index in range(200):
        image, _ = dataset[0, index]
        ways = zip(share, [plain[index].flip(axes) for axes in ([], [2], [1], [1, 2])], strict=True)
        share[next(name for name, flipped in ways if torch.equal(image, flipped))] += 1 / 200
    assert list(share.values()) == pytest.approx([0.25] * 4, abs=0.1)


def test_a_policy_may_end_with_to_tensor(split):
    ending = A.Compose([*assignment_policy(MEAN, STD).transforms, ToTensorV2()])
    assert torch.equal(epoch_of(split, policy=ending)[0], epoch_of(split)[0])


def test_the_caller_s_policy_and_torch_s_random_state_are_left_alone(split):
    policy = assignment_policy(MEAN, STD)
    before = policy.py_random.getstate(), torch.get_rng_state()
    epoch_of(split, policy=policy)
    assert policy.py_random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
