"""Augmentation of training pictures: crop, flip, RandAugment, TrivialAugment, jitter, grey, blur, erasing; pure.

In: uint8 RGB arrays [H, W, 3], an `AugmentSpec` (from the recipe) and the sample's own `KeyedRandom`. Out: uint8 RGB
arrays of the same size. On disk: nothing.

The operations and their ranges are torchvision's (31 levels, 0..30; a higher level is a stronger change). Blends and
geometry use OpenCV, whose rounding differs from Pillow's by at most two levels of 255;
`tests/shards/stream/test_augment.py` measures the differences.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from shards.stream.keyed_random import KeyedRandom

Image: TypeAlias = npt.NDArray[np.uint8]
Colour: TypeAlias = tuple[int, int, int]
Box: TypeAlias = tuple[int, int, int, int]  # top, left, height, width

MAX_LEVEL = 30.0
MAX_BLUR_PX = 100.0
_TRIES = 10  # for a box inside the picture, as torchvision
_MEAN_COLOUR = (124, 116, 104)  # ImageNet's: 0 after the usual normalisation
_RANKS = np.arange(256, dtype=np.float64)
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


class AugmentSpec(BaseModel):
    """The `augment` part of a recipe; the same for all domains."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: tuple[float, float] = Field(default=(0.08, 1.0), description="part of the picture's area in the crop")
    ratio: tuple[float, float] = Field(default=(3 / 4, 4 / 3), description="width / height of the crop")
    resize: Literal["bilinear", "bicubic"] = Field(default="bilinear", description="of the crop to the batch's size")
    flip: float = Field(default=0.5, ge=0, le=1, description="chance to mirror left and right")
    policy: Literal["none", "rand", "trivial"] = Field(
        default="none",
        description="rand: RandAugment, some operations of one level; trivial: TrivialAugmentWide, one",
    )
    num_ops: int = Field(default=2, ge=1, le=8, description="operations of RandAugment on each picture")
    magnitude: float = Field(default=9.0, ge=0, le=MAX_LEVEL, description="level of RandAugment, 0..30")
    magnitude_std: float = Field(default=0.0, ge=0, description="the level of each operation varies normally by this")
    jitter: tuple[float, float, float] = Field(
        default=(0.0, 0.0, 0.0), description="colour jitter: brightness, contrast, saturation vary by up to this part"
    )
    hue: float = Field(
        default=0.0, ge=0, le=0.5, description="of colour jitter: hues turn by up to this part of the colour circle"
    )
    jitter_chance: float = Field(default=1.0, ge=0, le=1, description="chance of colour jitter, hue included")
    grey: float = Field(default=0.0, ge=0, le=1, description="chance to lose all colour")
    blur: float = Field(default=0.0, ge=0, le=1, description="chance of a Gaussian blur")
    blur_px: tuple[float, float] = Field(
        default=(0.1, 2.0), description="least and greatest standard deviation of the blur, in pixels of the batch"
    )
    solarize: float = Field(default=0.0, ge=0, le=1, description="chance to invert all values from 128 on")
    erase: float = Field(default=0.0, ge=0, le=1, description="chance to erase a random rectangle")
    fill: Colour = Field(default=_MEAN_COLOUR, description="red, green, blue of what has no picture behind it")

    @model_validator(mode="after")
    def _scale_is_a_range(self) -> "AugmentSpec":
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale: found {self.scale}, expected 0 < least <= most <= 1")
        return self

    @model_validator(mode="after")
    def _ratio_is_a_range(self) -> "AugmentSpec":
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio: found {self.ratio}, expected 0 < least <= most")
        return self

    @model_validator(mode="after")
    def _jitter_is_bounded(self) -> "AugmentSpec":
        if not all(0 <= part <= 1 for part in self.jitter):
            raise ValueError(f"jitter: found {self.jitter}, expected three numbers in 0..1")
        return self

    @model_validator(mode="after")
    def _blur_is_a_range(self) -> "AugmentSpec":
        if not 0 < self.blur_px[0] <= self.blur_px[1] <= MAX_BLUR_PX:
            raise ValueError(f"blur_px: found {self.blur_px}, expected 0 < least <= most <= {MAX_BLUR_PX:g}")
        return self

    @model_validator(mode="after")
    def _fill_is_a_colour(self) -> "AugmentSpec":
        if not all(0 <= value <= 255 for value in self.fill):
            raise ValueError(f"fill: found {self.fill}, expected three numbers in 0..255")
        return self

    @property
    def has_jitter(self) -> bool:
        """Whether colours vary for some pictures."""
        return self.jitter_chance > 0 and (any(self.jitter) or self.hue > 0)

    @property
    def only_crops(self) -> bool:
        """Whether nothing but the crop can differ from one time to the next."""
        chances = (self.flip, self.grey, self.blur, self.solarize, self.erase)
        return self.policy == "none" and not any(chances) and not self.has_jitter


def crop_box(height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: KeyedRandom) -> Box:
    """A random part of a picture, as torchvision's RandomResizedCrop draws it.

    The area is uniform in `scale`, the logarithm of the ratio is uniform. If none of ten tries fits into the picture,
    the largest centred part with an allowed ratio.
    """
    area = height * width
    log_ratio = (math.log(ratio[0]), math.log(ratio[1]))
    for _ in range(_TRIES):
        wanted = area * rng.uniform(*scale)
        shape = math.exp(rng.uniform(*log_ratio))
        wide, high = round(math.sqrt(wanted * shape)), round(math.sqrt(wanted / shape))
        if 0 < wide <= width and 0 < high <= height:
            return rng.below(height - high + 1), rng.below(width - wide + 1), high, wide
    wide, high = width, height
    if width < ratio[0] * height:
        high = max(1, round(width / ratio[0]))
    elif width > ratio[1] * height:
        wide = max(1, round(height * ratio[1]))
    return (height - high) // 2, (width - wide) // 2, high, wide


def change(image: Image, spec: AugmentSpec, rng: KeyedRandom) -> Image:
    """Policy, jitter, grey, blur, solarisation and erasing on a cropped picture, in this order. May change `image` in
    place, or return it."""
    if spec.policy == "rand":
        for _ in range(spec.num_ops):
            name = RAND_NAMES[rng.below(len(RAND_NAMES))]
            level = spec.magnitude + (spec.magnitude_std * rng.normal() if spec.magnitude_std else 0.0)
            image = _act(image, RAND[name], min(max(level, 0.0), MAX_LEVEL), spec.fill, rng)
    elif spec.policy == "trivial":
        name = WIDE_NAMES[rng.below(len(WIDE_NAMES))]
        image = _act(image, WIDE[name], float(rng.below(int(MAX_LEVEL) + 1)), spec.fill, rng)
    if spec.has_jitter and _falls(spec.jitter_chance, rng):
        image = _jitter(image, spec, rng)
    if _falls(spec.grey, rng):
        image = saturation(image, 0.0)
    if _falls(spec.blur, rng):
        image = blur(image, rng.uniform(*spec.blur_px))
    if _falls(spec.solarize, rng):
        image = solarize(image, 128)
    if spec.erase and rng.uniform() < spec.erase:
        image = _erase(image, spec.fill, rng)
    return image


def _falls(chance: float, rng: KeyedRandom) -> bool:
    """Whether it is done; nothing is drawn for what is certain, so that pictures of before a field came stay."""
    return chance == 1 or (chance > 0 and rng.uniform() < chance)


def _jitter(image: Image, spec: AugmentSpec, rng: KeyedRandom) -> Image:
    """As torchvision's ColorJitter: all parts, in random order."""
    for number in rng.shuffled(range(4 if spec.hue else 3)):
        if number == 3:
            image = turn_hue(image, rng.uniform(-spec.hue, spec.hue))
        else:
            factor = rng.uniform(1 - spec.jitter[number], 1 + spec.jitter[number])
            image = (brightness, contrast, saturation)[number](image, factor)
    return image


def planted_shift(image: Image, strength: float) -> Image:
    """Another camera for experiments: red and green lose contrast and gain light, blue stays. 0: nothing, 1: red keeps
    0.4 of its contrast and gains 120 of 255 levels, green 0.7 and 40."""
    scale, offset = np.array([0.6, 0.3, 0.0]), np.array([120.0, 40.0, 0.0])
    return _look_up(image, _RANKS[:, None] * (1 - strength * scale) + strength * offset)


def shear_x(image: Image, slope: float, fill: Colour = _MEAN_COLOUR) -> Image:
    """Each row moves left by `slope` of its distance from the top."""
    return _warp(image, np.array([[1, -slope, -slope / 2], [0, 1, 0]]), fill)


def shear_y(image: Image, slope: float, fill: Colour = _MEAN_COLOUR) -> Image:
    """Each column moves up by `slope` of its distance from the left."""
    return _warp(image, np.array([[1, 0, 0], [-slope, 1, -slope / 2]]), fill)


def translate(image: Image, down_px: int, right_px: int, fill: Colour = _MEAN_COLOUR) -> Image:
    """Move the picture down and to the right; negative numbers move it up and to the left."""
    out = np.empty_like(image)
    out[:] = fill
    height, width = image.shape[:2]
    rows = slice(max(0, down_px), min(height, height + down_px))
    columns = slice(max(0, right_px), min(width, width + right_px))
    if rows.start < rows.stop and columns.start < columns.stop:
        out[rows, columns] = image[
            rows.start - down_px : rows.stop - down_px, columns.start - right_px : columns.stop - right_px
        ]
    return out


def rotate(image: Image, degrees: float, fill: Colour = _MEAN_COLOUR) -> Image:
    """Counter-clockwise about the centre."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return _warp(image, np.asarray(matrix, np.float64), fill)


def brightness(image: Image, factor: float) -> Image:
    """0: black, 1: as it is."""
    return _look_up(image, _RANKS * factor)


def contrast(image: Image, factor: float) -> Image:
    """0: the mean grey, 1: as it is."""
    mean = float(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0])
    return _look_up(image, _RANKS * factor + mean * (1 - factor))


def saturation(image: Image, factor: float) -> Image:
    """0: grey, 1: as it is."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return _uint8(cv2.addWeighted(image, factor, grey, 1 - factor, 0.0))


def turn_hue(image: Image, part: float) -> Image:
    """Turn every hue by `part` of the colour circle, -0.5..0.5; greys stay."""
    hsv = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)  # hues in 0..360
    hsv[..., 0] = (hsv[..., 0] + 360 * part) % 360
    return np.rint(255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)).clip(0, 255).astype(np.uint8)


def blur(image: Image, sigma_px: float) -> Image:
    """Gaussian, over four standard deviations to each side; the picture is mirrored at its border."""
    wide = 2 * math.ceil(4 * sigma_px) + 1
    return _uint8(cv2.GaussianBlur(image, (wide, wide), sigma_px))


def sharpness(image: Image, factor: float) -> Image:
    """0: smoothed, 1: as it is; the outermost pixels stay."""
    if min(image.shape[:2]) < 3:
        return image
    smooth = cv2.filter2D(image, -1, _SMOOTH)
    out = _uint8(cv2.addWeighted(image, factor, smooth, 1 - factor, 0.0))
    out[[0, -1]] = image[[0, -1]]
    out[:, [0, -1]] = image[:, [0, -1]]
    return out


def posterize(image: Image, bits: int) -> Image:
    """Keep the `bits` highest bits of each value."""
    return image & np.uint8(256 - (1 << (8 - bits)))


def solarize(image: Image, threshold: float) -> Image:
    """Invert every value that reaches `threshold`."""
    return _look_up(image, np.where(threshold <= _RANKS, 255 - _RANKS, _RANKS))


def autocontrast(image: Image) -> Image:
    """Stretch each channel over 0..255; a channel of one value stays."""
    low, high = image.min(axis=(0, 1)).astype(np.float64), image.max(axis=(0, 1)).astype(np.float64)
    span = np.where(high > low, high - low, 255.0)
    base = np.where(high > low, low, 0.0)
    return _look_up(image, (_RANKS[:, None] - base) * (255.0 / span))


def equalize(image: Image) -> Image:
    """Spread the values of each channel so that all are about equally frequent, as Pillow's `ImageOps.equalize`."""
    tables = []
    for channel in range(3):
        counts = np.bincount(image[..., channel].ravel(), minlength=256)
        step = int(counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        if step:
            before = np.concatenate([[0], np.cumsum(counts)[:-1]])
            tables.append(((before + step // 2) // step).astype(np.float64))
        else:
            tables.append(_RANKS)
    return _look_up(image, np.stack(tables, axis=1))


# An operation of a policy: (image, strength in 0..1, sign, colour of what is uncovered) -> image.
Operation: TypeAlias = Callable[[Image, float, int, Colour], Image]
_WIDEST = 150 / 331  # RandAugment moves by at most this part of the side

# torchvision.transforms.v2.RandAugment
RAND: Mapping[str, Operation] = {
    "Identity": lambda image, strength, sign, fill: image,
    "ShearX": lambda image, strength, sign, fill: shear_x(image, sign * 0.3 * strength, fill),
    "ShearY": lambda image, strength, sign, fill: shear_y(image, sign * 0.3 * strength, fill),
    "TranslateX": lambda image, strength, sign, fill: translate(
        image, 0, sign * int(_WIDEST * image.shape[1] * strength), fill
    ),
    "TranslateY": lambda image, strength, sign, fill: translate(
        image, sign * int(_WIDEST * image.shape[0] * strength), 0, fill
    ),
    "Rotate": lambda image, strength, sign, fill: rotate(image, sign * 30.0 * strength, fill),
    "Brightness": lambda image, strength, sign, fill: brightness(image, 1 + sign * 0.9 * strength),
    "Color": lambda image, strength, sign, fill: saturation(image, 1 + sign * 0.9 * strength),
    "Contrast": lambda image, strength, sign, fill: contrast(image, 1 + sign * 0.9 * strength),
    "Sharpness": lambda image, strength, sign, fill: sharpness(image, 1 + sign * 0.9 * strength),
    "Posterize": lambda image, strength, sign, fill: posterize(image, round(8 - 4 * strength)),
    "Solarize": lambda image, strength, sign, fill: solarize(image, 255.0 * (1 - strength)),
    "AutoContrast": lambda image, strength, sign, fill: autocontrast(image),
    "Equalize": lambda image, strength, sign, fill: equalize(image),
}

# torchvision.transforms.v2.TrivialAugmentWide: the same operations, wider ranges
WIDE: Mapping[str, Operation] = {
    **RAND,
    "ShearX": lambda image, strength, sign, fill: shear_x(image, sign * 0.99 * strength, fill),
    "ShearY": lambda image, strength, sign, fill: shear_y(image, sign * 0.99 * strength, fill),
    "TranslateX": lambda image, strength, sign, fill: translate(image, 0, sign * int(32.0 * strength), fill),
    "TranslateY": lambda image, strength, sign, fill: translate(image, sign * int(32.0 * strength), 0, fill),
    "Rotate": lambda image, strength, sign, fill: rotate(image, sign * 135.0 * strength, fill),
    "Brightness": lambda image, strength, sign, fill: brightness(image, 1 + sign * 0.99 * strength),
    "Color": lambda image, strength, sign, fill: saturation(image, 1 + sign * 0.99 * strength),
    "Contrast": lambda image, strength, sign, fill: contrast(image, 1 + sign * 0.99 * strength),
    "Sharpness": lambda image, strength, sign, fill: sharpness(image, 1 + sign * 0.99 * strength),
    "Posterize": lambda image, strength, sign, fill: posterize(image, round(8 - 6 * strength)),
}
RAND_NAMES = tuple(RAND)
WIDE_NAMES = tuple(WIDE)


def _act(image: Image, operation: Operation, level: float, fill: Colour, rng: KeyedRandom) -> Image:
    sign = -1 if rng.below(2) else 1
    return operation(image, level / MAX_LEVEL, sign, fill)


def _erase(image: Image, fill: Colour, rng: KeyedRandom) -> Image:
    """Source: Zhong et al. 2017, with torchvision's ranges: area 2 to 33 %, ratio 0.3 to 3.3."""
    height, width = image.shape[:2]
    for _ in range(_TRIES):
        wanted = height * width * rng.uniform(0.02, 0.33)
        shape = math.exp(rng.uniform(math.log(0.3), math.log(3.3)))
        high, wide = round(math.sqrt(wanted * shape)), round(math.sqrt(wanted / shape))
        if 0 < high < height and 0 < wide < width:
            top, left = rng.below(height - high + 1), rng.below(width - wide + 1)
            image = image.copy()
            image[top : top + high, left : left + wide] = fill
            break
    return image


def _warp(image: Image, matrix: npt.NDArray[np.float64], fill: Colour) -> Image:
    height, width = image.shape[:2]
    warped = cv2.warpAffine(
        image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=fill
    )
    return _uint8(warped)


def _look_up(image: Image, table: npt.NDArray[np.float64]) -> Image:
    """Replace each value by `table` [256], or [256, 3] with one column for each channel; cut off to 0..255 and to whole
    numbers, as Pillow does."""
    whole = np.clip(table, 0, 255).astype(np.uint8)
    if whole.ndim == 1:
        return _uint8(cv2.LUT(image, whole))
    return _uint8(cv2.LUT(image, np.ascontiguousarray(whole).reshape(1, 256, 3)))


def _uint8(image: "cv2.typing.MatLike") -> Image:
    assert image.dtype == np.uint8
    return image  # type: ignore[return-value]
