"""utils/batched.py, utils/steps.py and Albumentations itself, held to the same numbers and to each other."""

import random

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from albumentations.pytorch import ToTensorV2
from scipy.stats import chisquare, ks_2samp
from sklearn.datasets import load_sample_images

from utils.batched import BatchPolicy
from utils.errors import InputError
from utils.transforms import assignment_policy

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # CIFAR-10's, as an example
FILL = [125, 122, 113]  # 255 * MEAN is 125.3, 122.96, 113.9, which uint8 cuts to whole numbers
RARE = 1e-4  # two distributions differ if chance alone gives such a gap less often; the seeds are fixed


@pytest.fixture(scope="module")
def photos():
    """Real colour images, uint8 (520, 3, 32, 32): patches of two photographs that ship with scikit-learn."""
    pictures = np.stack(load_sample_images().images)[:, :416]  # (2, 416, 640, 3)
    patches = pictures.reshape(2, 13, 32, 20, 32, 3).transpose(0, 1, 3, 5, 2, 4)
    return torch.from_numpy(patches.reshape(-1, 3, 32, 32).copy())


def run_batched(transforms, images):
    return BatchPolicy(A.Compose(transforms))(images, torch.Generator().manual_seed(0))


def run_per_image(transforms, images):
    policy = A.Compose(transforms)
    policy.set_random_state(np.random.default_rng(0), random.Random(0))
    outputs = [policy(image=image.permute(1, 2, 0).numpy())["image"] for image in images]
    return torch.from_numpy(np.stack(outputs)).permute(0, 3, 1, 2).float()


both_ways = pytest.mark.parametrize("run", [run_batched, run_per_image])


def shift_scale_rotate(p=1.0):
    return assignment_policy(MEAN, STD, shift_scale_rotate=p).transforms[1]


def one_hole(p=1.0):
    return assignment_policy(MEAN, STD, coarse_dropout=p).transforms[2]


# Flips


@both_ways
@pytest.mark.parametrize(("flip", "axis"), [(A.HorizontalFlip, 3), (A.VerticalFlip, 2)])
def test_a_flip_mirrors_half_of_the_images(run, flip, axis, photos):
    flipped = run([flip(p=0.5)], photos)
    mirrored = (flipped == photos.flip(axis)).flatten(1).all(1)
    kept = (flipped == photos).flatten(1).all(1)
    assert (mirrored | kept).all()
    assert mirrored.float().mean() == pytest.approx(0.5, abs=0.07)  # 3 standard deviations of 520 coins


@both_ways
def test_probabilities_0_and_1_are_never_and_always(run, photos):
    assert (run([A.HorizontalFlip(p=0)], photos) == photos).all()
    assert (run([A.HorizontalFlip(p=1)], photos) == photos.flip(3)).all()


@both_ways
def test_the_coins_of_two_transforms_are_independent(run, photos):
    changed = run([A.HorizontalFlip(p=0.5), one_hole(p=0.5)], photos)
    holed = (changed == torch.tensor(FILL).view(3, 1, 1)).all(1).flatten(1).sum(1) >= 256
    flipped = (changed == photos.flip(3)).float().mean((1, 2, 3)) > 0.7  # the hole hides a quarter
    for flip in (flipped, ~flipped):
        for hole in (holed, ~holed):
            assert (flip & hole).float().mean() == pytest.approx(0.25, abs=0.07)


# CoarseDropout


def hole_boxes(before, after):
    """Top, left, height and width of the changed pixels of each image that has any: (n, 4)."""
    changed = (before != after).any(1)
    rows, columns = changed.any(2).int(), changed.any(1).int()
    boxes = torch.stack([rows.argmax(1), columns.argmax(1), rows.sum(1), columns.sum(1)], dim=1)
    return boxes[changed.flatten(1).any(1)]


@both_ways
def test_half_of_the_images_get_one_hole_of_16_x_16_pixels_in_the_mean_colour(run, photos):
    images = photos.repeat(4, 1, 1, 1)
    holed = run([one_hole(p=0.5)], images)
    boxes = hole_boxes(images, holed)
    assert len(boxes) / len(images) == pytest.approx(0.5, abs=0.035)
    assert (boxes[:, 2:] == 16).all()
    inside = holed.permute(0, 2, 3, 1)[(images != holed).any(1)]  # (pixels, 3)
    assert (inside == torch.tensor(FILL)).all()


@both_ways
def test_every_place_of_the_hole_is_equally_likely(run, photos):
    images = photos.repeat(6, 1, 1, 1)
    boxes = hole_boxes(images, run([one_hole()], images))
    for start in boxes[:, :2].T:
        counts = torch.bincount(start, minlength=17)
        assert len(counts) == 17  # 0..16, so that the hole lies wholly inside the image
        assert chisquare(counts.numpy()).pvalue > RARE


@both_ways
def test_holes_vary_in_number_and_size(run):
    images = torch.full((4000, 3, 32, 32), 200, dtype=torch.uint8)
    one = A.CoarseDropout((1, 1), (2, 5), (7, 7), fill=9, p=1)
    boxes = hole_boxes(images, run([one], images))
    assert chisquare(torch.bincount(boxes[:, 2])[2:].numpy()).pvalue > RARE  # heights 2, 3, 4, 5 alike
    assert boxes[:, 2].max() == 5 and (boxes[:, 3] == 7).all()

    several = A.CoarseDropout((1, 3), (1, 1), (1, 1), fill=9, p=1)
    holes = (run([several], images) == 9).all(1).flatten(1).sum(1)
    # 1, 2 or 3 single pixels, less the few that fall on one another (1 in 1024 for a pair).
    assert chisquare(torch.bincount(holes, minlength=4)[1:].numpy()).pvalue > RARE

    parts = A.CoarseDropout((1, 1), (0.25, 0.5), (0.125, 0.125), fill=9, p=1)
    boxes = hole_boxes(images, run([parts], images))
    assert (boxes[:, 3] == 4).all()  # an eighth of 32
    assert set(boxes[:, 2].tolist()) == set(range(8, 16))  # 8 <= 32 * u < 16, cut to whole pixels


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 32), (32, 8)])
def test_a_hole_larger_than_the_image_is_refused(height, width):
    images = torch.zeros(1, 3, height, width, dtype=torch.uint8)
    with pytest.raises(InputError, match=f"16x16 hole does not fit into a {height}x{width} image"):
        run_batched([one_hole()], images)


@both_ways
def test_holes_know_height_from_width(run):
    images = torch.full((400, 3, 16, 40), 200, dtype=torch.uint8)
    for size in ((6, 6), (0.375, 0.15)):
        boxes = hole_boxes(images, run([A.CoarseDropout((1, 1), (size[0],) * 2, (size[1],) * 2, fill=9, p=1)], images))
        assert (boxes[:, 2:] == 6).all()
        assert boxes[:, 0].unique().tolist() == list(range(11))
        assert boxes[:, 1].unique().tolist() == list(range(35))
    boxes = hole_boxes(images, run([A.CoarseDropout((1, 1), (8, 64), (30, 64), fill=9, p=1)], images))
    for side, smallest in (boxes[:, 2], 8), (boxes[:, 3], 30):  # no larger than the image, and each size as likely
        assert chisquare(torch.bincount(side)[smallest:].numpy()).pvalue > RARE


# ShiftScaleRotate and Affine


def ramp(n):
    """n images whose red is 8 times x and whose green is 8 times y: the colour of a pixel tells its place."""
    x = (8 * torch.arange(32, dtype=torch.uint8)).expand(32, 32)
    return torch.stack([x, x.T, torch.zeros_like(x)]).expand(n, 3, 32, 32).contiguous()


def measure_affine(warped):
    """(n, 5): angle in degrees, scale_x, scale_y, shift_x, shift_y, fitted to what became of `ramp`."""
    inner = slice(8, 24)  # what lands here came from inside the image
    centred = torch.arange(32, dtype=torch.float64)[inner] - 15.5
    y, x = torch.meshgrid(centred, centred, indexing="ij")
    output = torch.stack([x, y, torch.ones_like(x)], dim=-1).view(-1, 3)
    source = warped[:, :2, inner, inner].double().flatten(2).transpose(1, 2) / 8 - 15.5
    fit = torch.linalg.lstsq(output.expand(len(source), -1, -1), source).solution.transpose(1, 2)  # (n, 2, 3)
    forward = torch.linalg.inv(fit[:, :, :2])  # rotation @ scale: columns scale_x (cos, -sin), scale_y (sin, cos)
    angle = torch.atan2(-forward[:, 1, 0], forward[:, 0, 0]).rad2deg()
    shift = -(forward @ fit[:, :, 2:]).squeeze(2)
    return torch.cat([angle[:, None], forward.norm(dim=1), shift], dim=1)


@both_ways
def test_shift_scale_and_rotation_are_drawn_as_asked(run):
    angle, scale_x, scale_y, shift_x, shift_y = measure_affine(run([shift_scale_rotate()], ramp(3000))).T
    # Uniform on -15..15 degrees: mean 0, standard deviation 30 / sqrt(12) = 8.66, of the mean 0.16.
    assert angle.min() == pytest.approx(-15, abs=0.3) and angle.max() == pytest.approx(15, abs=0.3)
    assert angle.mean() == pytest.approx(0, abs=0.5) and angle.std() == pytest.approx(8.66, abs=0.25)
    for scale in (scale_x, scale_y):  # uniform on 0.9..1.1: standard deviation 0.2 / sqrt(12)
        assert scale.min() == pytest.approx(0.9, abs=0.01) and scale.max() == pytest.approx(1.1, abs=0.01)
        assert scale.mean() == pytest.approx(1, abs=0.004) and scale.std() == pytest.approx(0.0577, abs=0.002)
    for shift in (shift_x, shift_y):  # 32 * u for u in -0.0625..0.0625, cut: -1, 0, 1 as 1 : 2 : 1
        assert (shift - shift.round()).abs().max() < 0.2
        counts = torch.bincount(shift.round().long() + 1)
        assert chisquare(counts.numpy(), [750, 1500, 750]).pvalue > RARE
    correlations = torch.corrcoef(torch.stack([angle, scale_x, scale_y, shift_x, shift_y]))
    assert (correlations - torch.eye(5)).abs().max() < 0.08  # each is drawn on its own


def test_both_ways_draw_the_same_distribution_of_affines():
    general = A.Affine(
        scale={"x": (0.9, 1.2), "y": (0.8, 1.0)}, rotate=(-10, 40), translate_px={"x": (-3, 1), "y": 2}, p=1
    )
    batched = measure_affine(run_batched([general], ramp(2000)))
    single = measure_affine(run_per_image([general], ramp(2000)))
    for drawn, expected in zip(batched.T, single.T, strict=True):
        assert ks_2samp(drawn.round(decimals=1), expected.round(decimals=1), method="asymp").pvalue > RARE


def test_keep_ratio_scales_both_axes_alike():
    zoom = A.Affine(scale=(0.8, 1.2), keep_ratio=True, p=1)
    _, scale_x, scale_y, _, _ = measure_affine(run_batched([zoom], ramp(200))).T
    assert (scale_x - scale_y).abs().max() < 0.02 and scale_x.std() > 0.1


def test_an_image_is_turned_counter_clockwise_about_its_centre_and_moved_right_and_down():
    angle, _, _, shift_x, shift_y = measure_affine(
        run_batched([A.Affine(rotate=10, translate_px={"x": 2, "y": 1}, p=1)], ramp(1))
    )[0]
    assert [angle, shift_x, shift_y] == pytest.approx([10, 2, 1], abs=0.1)
    dot = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    dot[0, 0, 2, 4] = 255  # right of the centre
    turned = run_batched([A.Affine(rotate=90, translate_px={"x": 1, "y": 1}, p=1)], dot)
    assert turned.nonzero().tolist() == [[0, 0, 1, 3]]  # above the centre, then one right and one down


@pytest.mark.parametrize("interpolation", [cv2.INTER_LINEAR, cv2.INTER_NEAREST])
@pytest.mark.parametrize("border", [cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT_101])
def test_one_affine_gives_the_same_pixels_both_ways(border, interpolation, photos):
    affine = A.Affine(
        scale={"x": 0.83, "y": 1.04},
        rotate=17,
        shear={"x": 5, "y": -8},
        translate_percent={"x": 0.13, "y": -0.07},
        interpolation=interpolation,
        border_mode=border,
        fill=(250, 20, 100),
        p=1,
    )
    images = photos[::2, :, :, :28]  # not square, so that height and width cannot be mixed up
    difference = (run_batched([affine], images) - run_per_image([affine], images)).abs()
    if interpolation == cv2.INTER_NEAREST:  # a coordinate halfway between two pixels may go either way
        assert (difference > 0).float().mean() < 0.01
    else:
        # OpenCV 5 rounds like us, bar a pixel or two; OpenCV 4 reads between pixels in steps of 1/32 only.
        assert difference.max() <= (1 if cv2.__version__ >= "5" else 5)
        assert difference.mean() < 0.2


def test_images_that_are_normalised_already_are_turned_without_rounding(photos):
    turn = [A.Normalize(MEAN, STD), A.Affine(rotate=17, border_mode=cv2.BORDER_REFLECT_101, p=1)]
    difference = (run_batched(turn, photos) - run_per_image(turn, photos)).abs()
    assert difference.mean() < 0.01


# Pad and RandomCrop


@pytest.mark.parametrize("border", [cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT_101])
@pytest.mark.parametrize("padding", [4, (2, 5), (1, 2, 3, 4)])
def test_padding_gives_the_same_pixels_both_ways(border, padding, photos):
    pad = A.Pad(padding, border_mode=border)
    images = photos[:20, :, :, :28]
    assert torch.equal(run_batched([pad], images), run_per_image([pad], images))


@both_ways
def test_a_crop_is_a_part_of_the_image_and_every_place_is_equally_likely(run):
    x, y = run([A.RandomCrop(24, 28)], ramp(4000)[..., :30])[:, :2, 0, 0].T / 8
    assert chisquare(torch.bincount(x.long(), minlength=3).numpy()).pvalue > RARE  # 30 - 28 + 1 places
    assert chisquare(torch.bincount(y.long(), minlength=9).numpy()).pvalue > RARE
    assert (x.max(), y.max()) == (2, 8)
    assert torch.corrcoef(torch.stack([x, y]))[0, 1].abs() < 0.08
    cut = run([A.RandomCrop(24, 28)], ramp(50))
    assert cut.shape == (50, 3, 24, 28)
    corner = cut[:, :2, :1, :1]
    assert torch.equal(cut[:, :2] - corner, ramp(50)[:, :2, :24, :28].float())


@pytest.mark.parametrize(("height", "width"), [(40, 24), (24, 40)])
def test_a_crop_larger_than_the_image_is_refused(height, width, photos):
    with pytest.raises(InputError, match=f"{height}x{width} cannot be cut from a 32x32 image"):
        run_batched([A.RandomCrop(height, width)], photos)


# ColorJitter


def jitter(p=1.0, **ranges):
    return A.ColorJitter(**({"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0} | ranges), p=p)


@pytest.mark.parametrize(
    ("ranges", "most", "mean"),
    [
        ({}, 0, 0),
        ({"brightness": (1.3, 1.3)}, 0, 0),
        ({"brightness": (0.6, 0.6)}, 0, 0),
        ({"contrast": (1.4, 1.4)}, 1, 0.02),  # the mean grey, of whole numbers or not, may fall just below one
        ({"contrast": (0.5, 0.5)}, 1, 0.02),
        ({"saturation": (1.7, 1.7)}, 1, 0.2),  # so may a pixel's own
        ({"saturation": (0.0, 0.0)}, 1, 0.2),
        ({"hue": (0.13, 0.13)}, 10, 0.5),  # OpenCV counts hues of uint8 images in steps of two degrees
        ({"hue": (-0.3, -0.3)}, 10, 0.5),
    ],
)
def test_one_change_of_colours_gives_the_same_pixels_both_ways(ranges, most, mean, photos):
    difference = (run_batched([jitter(**ranges)], photos) - run_per_image([jitter(**ranges)], photos)).abs()
    assert difference.max() <= most and difference.mean() <= mean


@both_ways
def test_changes_of_colours_come_in_every_order(run):
    """Black and a light grey: what is cut at white depends on whether it is made brighter first."""
    images = torch.zeros(600, 3, 2, 2, dtype=torch.uint8)
    images[:, :, 0] = 200
    light = run([jitter(brightness=(2, 2), contrast=(0.5, 0.5))], images)[:, 0, 0, 0]
    assert light.unique().tolist() == [191, 255]  # 255 * 0.5 + 127.5 / 2, and 2 * (200 * 0.5 + 100 / 2)
    assert (light == 191).float().mean() == pytest.approx(0.5, abs=0.07)


@both_ways
def test_factors_of_colours_are_drawn_as_asked(run):
    images = torch.full((2000, 3, 1, 1), 100, dtype=torch.uint8)
    brightness = run([jitter(p=0.75, brightness=0.4)], images)[:, 0, 0, 0] / 100
    changed = brightness[brightness != 1]  # but for 1 in 80, whose factors of 1.00 to 1.01 change nothing
    assert len(changed) / len(images) == pytest.approx(0.75, abs=0.04)
    assert changed.min() == pytest.approx(0.6, abs=0.01) and changed.max() == pytest.approx(1.4, abs=0.01)
    assert changed.mean() == pytest.approx(1, abs=0.02) and changed.std() == pytest.approx(0.8 / 12**0.5, abs=0.01)


def test_both_ways_draw_the_same_distribution_of_colours(photos):
    images = photos.repeat(2, 1, 1, 1)
    both = [run([A.ColorJitter(0.3, (0.5, 1.2), 0.5, 0.1, p=0.8)], images) for run in (run_batched, run_per_image)]
    measured = ([x.mean((1, 2, 3)), x.std((1, 2, 3)), (x[:, 0] - x[:, 2]).mean((1, 2))] for x in both)
    for batched, single in zip(*measured, strict=True):
        assert ks_2samp(batched, single, method="asymp").pvalue > RARE


@pytest.mark.parametrize(("channels", "before"), [(1, []), (4, []), (3, [A.Normalize(MEAN, STD)])])
def test_colours_of_what_has_none_are_refused(channels, before):
    images = torch.zeros(2, channels, 8, 8, dtype=torch.uint8)
    with pytest.raises(InputError, match="for uint8 images with three channels: put it before Normalize"):
        run_batched([*before, jitter()], images)


# Normalize, and whole policies


@both_ways
def test_normalised_photos_have_mean_0_and_deviation_1(run, photos):
    pixels = photos.double() / 255
    mean, std = pixels.mean((0, 2, 3)).tolist(), pixels.std((0, 2, 3), correction=0).tolist()
    policy = assignment_policy(mean, std, flip=0.5, shift_scale_rotate=0, coarse_dropout=0)
    normalised = run(policy.transforms, photos)
    assert normalised.dtype == torch.float32
    assert normalised.mean((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-4)
    assert normalised.std((0, 2, 3)).tolist() == pytest.approx([1, 1, 1], abs=1e-4)


def test_the_whole_policy_has_the_same_statistics_both_ways(photos):
    images = photos.repeat(8, 1, 1, 1)
    policy = assignment_policy(MEAN, STD)
    batched, single = (run(policy.transforms, images) for run in (run_batched, run_per_image))
    # A quarter of the pixels of every second image is in the hole, at about 0: deviation times sqrt(7/8).
    assert batched.mean((0, 2, 3)).tolist() == pytest.approx(single.mean((0, 2, 3)).tolist(), abs=0.02)
    assert batched.std((0, 2, 3)).tolist() == pytest.approx(single.std((0, 2, 3)).tolist(), abs=0.02)
    # Where the holes are: per pixel, the mean over images of |value| differs by no more than its own noise.
    gap = batched.abs().mean((0, 1)) - single.abs().mean((0, 1))
    assert gap.abs().max() < 0.06 and gap.abs().mean() < 0.015


def test_a_policy_without_normalize_gives_pixels_0_to_255(photos):
    assert (run_batched([A.NoOp(), ToTensorV2()], photos) == photos).all()
    assert run_batched([], photos).dtype == torch.float32


def test_a_fill_after_normalize_is_in_normalised_units(photos):
    images = photos[:50]
    transforms = [A.Normalize(MEAN, STD), A.CoarseDropout((1, 1), (32, 32), (32, 32), fill=-0.5, p=1)]
    assert (run_batched(transforms, images) == -0.5).all()
    assert (run_per_image(transforms, images) == -0.5).all()


# The runner itself


def test_the_same_seed_gives_the_same_bits_and_another_does_not(photos):
    augment = BatchPolicy(assignment_policy(MEAN, STD))
    first, again, other = (augment(photos, torch.Generator().manual_seed(seed)) for seed in (7, 7, 8))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_torch_s_global_random_state_is_left_alone(photos):
    state = torch.get_rng_state()
    run_batched(assignment_policy(MEAN, STD).transforms, photos)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_images_given_are_not_changed(photos):
    before = photos.clone()
    run_batched([shift_scale_rotate(), one_hole(), A.Normalize(MEAN, STD)], photos)
    assert torch.equal(photos, before)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_small_batches_are_augmented_too(n, photos):
    for seed in range(5):  # some of these leave no image to change
        augment = BatchPolicy(assignment_policy(MEAN, STD))
        assert augment(photos[:n], torch.Generator().manual_seed(seed)).shape == (n, 3, 32, 32)


def test_nothing_waits_for_the_device():
    """Meta tensors have shapes, but no values: whatever asks for one, as .item() or nonzero() do, raises."""
    images = torch.empty(8, 3, 32, 32, dtype=torch.uint8, device="meta")
    policy = assignment_policy(MEAN, STD, crop=2, color_jitter=0.5)
    augmented = BatchPolicy(policy)(images, generator=None)
    assert augmented.shape == images.shape and augmented.dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same_distribution(photos):
    images = photos.repeat(8, 1, 1, 1)
    augment = BatchPolicy(assignment_policy(MEAN, STD))
    on_cpu = augment(images, torch.Generator().manual_seed(0))
    on_gpu = augment(images.cuda(), torch.Generator("cuda").manual_seed(0)).cpu()
    assert on_gpu.mean((0, 2, 3)).tolist() == pytest.approx(on_cpu.mean((0, 2, 3)).tolist(), abs=0.02)
    assert on_gpu.std((0, 2, 3)).tolist() == pytest.approx(on_cpu.std((0, 2, 3)).tolist(), abs=0.02)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (
            A.GaussianBlur(),
            "GaussianBlur cannot be run on whole batches: known are HorizontalFlip, VerticalFlip",
        ),
        (A.OneOf([A.HorizontalFlip()]), "OneOf cannot"),
        (A.CoarseDropout(fill="random"), "CoarseDropout cannot .* its fill must be numbers, not 'random'"),
        (A.Affine(border_mode=cv2.BORDER_WRAP), "Affine cannot .* border_mode"),
        (A.Affine(interpolation=cv2.INTER_CUBIC), "Affine cannot .* interpolation"),
        (A.Affine(fit_output=True), "Affine cannot .* fit_output"),
        (A.Affine(balanced_scale=True), "Affine cannot .* balanced_scale"),
        (A.Normalize(normalization="min_max"), 'Normalize cannot .*"standard"'),
        (A.Normalize(p=0.5), "Normalize cannot .* p=1"),
        (A.Pad(4, p=0.5), "Pad cannot .* p=1"),
        (A.Pad(4), "Pad cannot .* border_mode must be replicate or reflect_101"),
        (A.RandomCrop(8, 8, p=0.5), "RandomCrop cannot .* p=1"),
        (A.RandomCrop(8, 8, pad_if_needed=True), "RandomCrop cannot .* pad_if_needed=False"),
    ],
)
def test_what_cannot_be_run_is_named_with_the_way_out(transform, message):
    with pytest.raises(InputError, match=message) as error:
        BatchPolicy(A.Compose([transform]))
    assert str(error.value).endswith("use dataclasses.replace(recipe, per_image=True)")


@pytest.mark.parametrize("policy", [A.Compose([], p=0.5), A.OneOf([A.NoOp()]), A.NoOp()])
def test_only_a_plain_compose_is_a_policy(policy):
    with pytest.raises(InputError, match="plain Compose with p=1"):
        BatchPolicy(policy)


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)])
def test_images_of_another_dtype_or_shape_are_refused(images):
    with pytest.raises(InputError, match=r"expected uint8 images \(N, C, H, W\), got torch"):
        run_batched([], images)
