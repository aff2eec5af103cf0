"""Augmentation: operations beside torchvision's or Pillow's, the laws of the random rng, the fields of the spec."""

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from shards.stream import augment
from shards.stream.augment import RAND, WIDE, AugmentSpec, change, crop_box, planted_shift
from shards.stream.keyed_random import KeyedRandom
from tests.support.photographs import photographs

FILL = (124, 116, 104)
PHOTO = np.ascontiguousarray(photographs()[1][60:284, 200:424])
DARK = (PHOTO // 2 + 20).astype(np.uint8)


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def array(image: torch.Tensor) -> np.ndarray:
    return image.numpy().transpose(1, 2, 0)


def apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Largest difference of each pixel over its channels."""
    return np.abs(one.astype(int) - other.astype(int)).max(axis=-1)


@pytest.mark.parametrize("factor", [0.1, 0.55, 1.0, 1.45, 1.9])
def test_colour_operations_differ_from_torchvisions_by_at_most_two_levels(factor: float) -> None:
    photo = tensor(PHOTO)
    assert apart(augment.brightness(PHOTO, factor), array(tv.adjust_brightness(photo, factor))).max() <= 1
    assert apart(augment.contrast(PHOTO, factor), array(tv.adjust_contrast(photo, factor))).max() <= 2
    assert apart(augment.saturation(PHOTO, factor), array(tv.adjust_saturation(photo, factor))).max() <= 2
    assert apart(augment.sharpness(PHOTO, factor), array(tv.adjust_sharpness(photo, factor))).max() <= 2


@pytest.mark.parametrize("part", [-0.5, -0.1, 0.0, 0.03, 0.25])
def test_turned_hues_differ_from_torchvisions_by_at_most_two_levels(part: float) -> None:
    assert apart(augment.turn_hue(PHOTO, part), array(tv.adjust_hue(tensor(PHOTO), part))).max() <= 2
    grey = np.repeat(PHOTO[..., :1], 3, axis=-1)
    assert np.array_equal(augment.turn_hue(grey, part), grey)


@pytest.mark.parametrize("sigma_px", [0.1, 0.5, 2.0, 7.3])
def test_a_blur_differs_from_torchvisions_by_at_most_one_level(sigma_px: float) -> None:
    wide = 2 * math.ceil(4 * sigma_px) + 1
    theirs = array(tv.gaussian_blur(tensor(PHOTO), [wide, wide], [sigma_px, sigma_px]))
    assert apart(augment.blur(PHOTO, sigma_px), theirs).max() <= 1


@pytest.mark.parametrize("image", [PHOTO, DARK, np.full((40, 30, 3), 77, np.uint8)], ids=["photo", "dark", "flat"])
def test_operations_on_single_values_equal_pillows(image: np.ndarray) -> None:
    picture = Image.fromarray(image)
    for bits in (1, 4, 7, 8):
        assert np.array_equal(augment.posterize(image, bits), np.asarray(ImageOps.posterize(picture, bits)))
    for threshold in (0, 1, 100, 255):
        assert np.array_equal(augment.solarize(image, threshold), np.asarray(ImageOps.solarize(picture, threshold)))
    assert np.array_equal(augment.equalize(image), np.asarray(ImageOps.equalize(picture)))
    assert apart(augment.autocontrast(image), np.asarray(ImageOps.autocontrast(picture))).max() <= 1


def test_equalize_of_a_picture_with_fewer_pixels_than_values_equals_torchvisions() -> None:
    few = np.random.default_rng(3).integers(0, 256, (20, 17, 3), dtype=np.uint8)
    assert np.array_equal(augment.equalize(few), array(tv.equalize(tensor(few))))


@pytest.mark.parametrize("amount", [-0.9, -0.3, -0.05, 0.1, 0.3, 0.99])
def test_shears_and_turns_are_torchvisions(amount: float) -> None:
    """Bilinear sampling with OpenCV's coarser weights: nearly all pixels within 8 levels, the mean below 0.5; at the
    border between picture and fill the two blend differently."""
    degrees = math.degrees(math.atan(amount))
    bilinear = v2.InterpolationMode.BILINEAR
    fill = [float(value) for value in FILL]
    photo = tensor(PHOTO)

    def affine(shear: list[float]) -> np.ndarray:
        return array(tv.affine(photo, 0.0, [0, 0], 1.0, shear, bilinear, fill, [0, 0]))

    pairs = {
        "x": (augment.shear_x(PHOTO, amount, FILL), affine([degrees, 0.0])),
        "y": (augment.shear_y(PHOTO, amount, FILL), affine([0.0, degrees])),
        "turn": (augment.rotate(PHOTO, 100 * amount, FILL), array(tv.rotate(photo, 100 * amount, bilinear, fill=fill))),
    }
    for name, (ours, theirs) in pairs.items():
        difference = apart(ours, theirs)
        assert (difference <= 8).mean() > 0.985, name
        assert np.minimum(difference, 8).mean() < 0.5, name


@pytest.mark.parametrize(("down_px", "right_px"), [(0, 31), (-100, 0), (0, -223), (500, 0), (7, -9)])
def test_translation_equals_torchvisions(down_px: int, right_px: int) -> None:
    theirs = tv.affine(tensor(PHOTO), 0.0, [right_px, down_px], 1.0, [0.0, 0.0], fill=[float(v) for v in FILL])
    assert np.array_equal(augment.translate(PHOTO, down_px, right_px, FILL), array(theirs))


@pytest.mark.parametrize(("table", "theirs"), [(RAND, v2.RandAugment), (WIDE, v2.TrivialAugmentWide)])
def test_the_policies_have_the_operations_and_ranges_of_torchvision(table: dict, theirs: Any) -> None:
    space = theirs._AUGMENTATION_SPACE
    assert list(table) == list(space)
    makers = {
        "ShearX": lambda t: augment.shear_x(PHOTO, t, FILL),
        "ShearY": lambda t: augment.shear_y(PHOTO, t, FILL),
        "TranslateX": lambda t: augment.translate(PHOTO, 0, int(t), FILL),
        "TranslateY": lambda t: augment.translate(PHOTO, int(t), 0, FILL),
        "Rotate": lambda t: augment.rotate(PHOTO, t, FILL),
        "Brightness": lambda t: augment.brightness(PHOTO, 1 + t),
        "Color": lambda t: augment.saturation(PHOTO, 1 + t),
        "Contrast": lambda t: augment.contrast(PHOTO, 1 + t),
        "Sharpness": lambda t: augment.sharpness(PHOTO, 1 + t),
        "Posterize": lambda t: augment.posterize(PHOTO, int(t)),
        "Solarize": lambda t: augment.solarize(PHOTO, 255 * t),
    }
    for name, (magnitudes, is_signed) in space.items():
        levels = magnitudes(31, *PHOTO.shape[:2])
        for level in (0, 9, 17, 30):
            for sign in (1, -1):
                ours = table[name](PHOTO, level / 30, sign, FILL)
                if levels is not None:
                    expected = makers[name](float(levels[level]) * (sign if is_signed else 1))
                    assert apart(ours, expected).max() <= 1 or (apart(ours, expected) > 0).mean() < 0.01, (name, level)


def test_crops_follow_the_law_of_random_resized_crop() -> None:
    """Mean area, ratio and place of 4,000 crops beside torchvision's, each within 4 standard errors."""
    count, height, width = 4_000, 375, 500
    ours = np.array(
        [crop_box(height, width, (0.08, 1.0), (3 / 4, 4 / 3), KeyedRandom(7, n)) for n in range(count)], float
    )
    torch.manual_seed(7)
    picture = torch.empty(1, height, width)
    transform = v2.RandomResizedCrop(224)
    chosen = [transform.make_params([picture]) for _ in range(count)]
    theirs = np.array([[one[key] for key in ("top", "left", "height", "width")] for one in chosen], float)
    for law in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: np.log(box[:, 3] / box[:, 2]),
        lambda box: box[:, 0],
        lambda box: box[:, 1],
        lambda box: (box[:, 2] * box[:, 3]) ** 2,
    ):
        a, b = law(ours), law(theirs)
        assert abs(a.mean() - b.mean()) < 4 * math.hypot(a.std(), b.std()) / math.sqrt(count)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 900), (900, 1), (7, 3), (375, 500)])
def test_every_crop_lies_inside_the_picture(height: int, width: int) -> None:
    for number in range(200):
        top, left, high, wide = crop_box(height, width, (0.08, 1.0), (3 / 4, 4 / 3), KeyedRandom(number))
        assert 0 <= top <= top + high <= height
        assert 0 <= left <= left + wide <= width
        assert high >= 1
        assert wide >= 1


@pytest.mark.parametrize(
    "spec",
    [
        AugmentSpec(policy="rand", magnitude=9, magnitude_std=0.5),
        AugmentSpec(policy="trivial"),
        AugmentSpec(jitter=(0.4, 0.4, 0.4)),
        AugmentSpec(hue=0.1, jitter_chance=0.8),
        AugmentSpec(blur=0.9, solarize=0.2, grey=0.2),
        AugmentSpec(erase=1.0),
    ],
    ids=["rand", "trivial", "jitter", "hue", "blur", "erase"],
)
def test_the_same_key_gives_the_same_picture_and_other_keys_give_others(spec: AugmentSpec) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    results = {}
    for number in range(40):
        first = change(PHOTO.copy(), spec, KeyedRandom(seed, number))
        assert np.array_equal(first, change(PHOTO.copy(), spec, KeyedRandom(seed, number)))
        assert first.shape == PHOTO.shape
        assert first.dtype == np.uint8
        results[first.tobytes()] = number
    assert len(results) > 10


def test_a_planted_shift_is_one_affine_map_of_each_channel() -> None:
    image = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, axis=2)
    assert np.array_equal(planted_shift(image, 0.0), image)
    half, whole = planted_shift(image, 0.5), planted_shift(image, 1.0)
    for channel, (scale, offset) in enumerate(((0.6, 120), (0.3, 40), (0.0, 0))):
        for strength, found in ((0.5, half), (1.0, whole)):
            expected = np.arange(256) * (1 - strength * scale) + strength * offset
            assert np.abs(found[:, 0, channel] - expected).max() <= 1


def test_without_policy_jitter_and_erasing_nothing_changes() -> None:
    assert np.array_equal(change(PHOTO.copy(), AugmentSpec(), KeyedRandom(1)), PHOTO)


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("grey", lambda: augment.saturation(PHOTO, 0.0)),
        ("solarize", lambda: augment.solarize(PHOTO, 128)),
        ("blur", lambda: augment.blur(PHOTO, 1.5)),
    ],
)
def test_a_part_of_the_pictures_as_large_as_its_chance_is_changed_and_the_others_stay(field: str, changed: Any) -> None:
    spec = AugmentSpec.model_validate({field: 0.2, "blur_px": (1.5, 1.5)})
    wanted = changed()
    found = [change(PHOTO.copy(), spec, KeyedRandom(7, number)) for number in range(400)]
    is_changed = [np.array_equal(one, wanted) for one in found]
    assert all(flag or np.array_equal(one, PHOTO) for flag, one in zip(is_changed, found, strict=True))
    assert 0.14 < np.mean(is_changed) < 0.26
    assert spec.only_crops is False


def test_jitter_leaves_the_pictures_alone_that_its_chance_spares_hue_included() -> None:
    spec = AugmentSpec(jitter=(0.4, 0.4, 0.2), hue=0.1, jitter_chance=0.8)
    spared = [np.array_equal(change(PHOTO.copy(), spec, KeyedRandom(5, number)), PHOTO) for number in range(300)]
    assert 0.13 < np.mean(spared) < 0.27
    assert AugmentSpec(jitter=(0.4, 0.4, 0.2), flip=0, jitter_chance=0).only_crops


def test_fields_that_are_off_draw_nothing_so_pictures_stay_as_earlier_versions_made_them() -> None:
    drawn, by_hand = KeyedRandom(9), KeyedRandom(9)
    change(PHOTO.copy(), AugmentSpec(jitter=(0.4, 0.4, 0.4)), drawn)
    by_hand.shuffled(range(3))
    for _ in range(3):
        by_hand.uniform()
    assert drawn.bits() == by_hand.bits()


def test_erasing_fills_one_rectangle_of_2_to_33_percent() -> None:
    spec = AugmentSpec(erase=1.0, fill=(1, 2, 3))
    for number in range(50):
        erased = (change(np.full((64, 64, 3), 200, np.uint8), spec, KeyedRandom(number)) != 200).all(axis=-1)
        rows, columns = np.flatnonzero(erased.any(axis=1)), np.flatnonzero(erased.any(axis=0))
        assert erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert 0.015 < erased.mean() < 0.35


def test_operations_leave_their_input_as_it_was() -> None:
    for table in (RAND, WIDE):
        for operation in table.values():
            before = PHOTO.copy()
            operation(before, 1.0, 1, FILL)
            assert np.array_equal(before, PHOTO)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scale", (0.5, 0.1)),
        ("scale", (0.0, 1.0)),
        ("ratio", (0.0, 1.0)),
        ("jitter", (0, 0, 2)),
        ("fill", (0, 0, 256)),
        ("magnitude", 31),
        ("hue", 0.6),
        ("blur_px", (0, 1)),
        ("blur_px", (3, 1)),
    ],
)
def test_a_spec_that_means_nothing_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        AugmentSpec.model_validate({field: value})


def test_draws_are_the_published_numbers_of_splitmix64() -> None:
    """State 0, then the first outputs of the reference implementation for it."""
    rng = KeyedRandom()
    assert [rng.bits() for _ in range(3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_draws_have_the_moments_of_their_distributions() -> None:
    count, rng = 20_000, KeyedRandom(5)
    error = 5 / math.sqrt(count)
    normal = np.array([rng.normal() for _ in range(count)])
    assert abs(normal.mean()) < error
    assert abs(normal.var() - 1) < error * math.sqrt(2)
    for alpha in (0.01, 0.2, 1.0, 2.0):
        beta = np.array([rng.beta(alpha) for _ in range(count)])
        assert abs(beta.mean() - 0.5) < error * beta.std()
        assert abs(beta.var() - 1 / (4 * (2 * alpha + 1))) < error * ((beta - 0.5) ** 2).std()
    counts = np.bincount([rng.below(7) for _ in range(count)], minlength=7)
    assert len(counts) == 7
    assert np.abs(counts - count / 7).max() < 5 * math.sqrt(count / 7)
    firsts = np.bincount([rng.shuffled(range(5))[0] for _ in range(5000)], minlength=5)
    assert np.abs(firsts - 1000).max() < 5 * math.sqrt(1000)
    assert sorted(rng.shuffled(range(10))) == list(range(10))
