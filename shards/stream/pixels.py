"""Bytes of a picture into pixels of a training or evaluation batch.

In: the bytes of a picture file (bytes or a view of them), the side of the result in pixels; for training an
`AugmentSpec` and the sample's own `KeyedRandom`. Out: uint8 RGB [side, side, 3]. On disk: nothing.

Training decodes with simplejpeg's fast settings and resizes with OpenCV. Evaluation decodes and resizes with Pillow, so
that its pixels are exactly those of timm's evaluation transform. Files that simplejpeg refuses (CMYK, odd but readable
JPEGs, other formats) go to Pillow.
"""

import contextlib
import io
import math
from typing import Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from shards.disk.jpeg import MAX_PIXELS, may_be_turned
from shards.disk.pictures import DECODERS, rgb_pixels
from shards.disk.stand_in import HEAD_BYTES, stand_in
from shards.stream.augment import AugmentSpec, change, crop_box
from shards.stream.keyed_random import KeyedRandom

Pixels: TypeAlias = npt.NDArray[np.uint8]
Data: TypeAlias = bytes | memoryview

_HALVINGS = (8, 4, 2)  # other scales of libjpeg-turbo (6/8, 7/8) cost more than a full decode


class UnreadablePicture(ValueError):
    """The bytes cannot be decoded to a picture; the message is one line and says why."""


def train_pixels(data: Data, size_px: int, spec: AugmentSpec, rng: KeyedRandom, out: Pixels) -> bool:
    """Decode, crop, resize, flip and augment; writes the result to `out` [size_px, size_px, 3].

    If both sides of the crop are at least twice those of the result, a JPEG is decoded at a half, a quarter or an
    eighth of its size. Returns whether the fast decoder was used. Raises `UnreadablePicture`.
    """
    size = _size_for_fast_decoder(data)
    slow = None
    if size is None:
        slow = decode_with_pillow(data)
        size = (slow.shape[0], slow.shape[1])
    height, width = size
    top, left, high, wide = crop_box(height, width, spec.scale, spec.ratio, rng)
    factor = next((part for part in _HALVINGS if min(high, wide) >= part * size_px), 1)
    fast = _decode_fast(data, height, width, factor) if slow is None else None
    if fast is not None:
        image = fast
        top, left, high, wide = top // factor, left // factor, high // factor, wide // factor
    else:
        image = decode_with_pillow(data) if slow is None else slow
    part = shrink(image[top : top + high, left : left + wide], size_px, spec.resize)
    if rng.uniform() < spec.flip:
        part = _uint8(cv2.flip(part, 1))
    out[:] = change(part, spec, rng)
    return fast is not None


def eval_pixels(data: Data, size_px: int, crop_pct: float) -> Pixels:
    """Short side to size_px / crop_pct by Pillow's bicubic filter, then the centre, [size_px, size_px, 3].

    Equal in every value to `timm.data.create_transform(size_px, is_training=False, interpolation="bicubic",
    crop_pct=crop_pct)` before its normalisation, but for 16-bit and transparent pictures and those that lie on a side:
    `shards.disk.pictures` says what becomes of those. Raises `UnreadablePicture`.
    """
    from PIL import Image

    picture = Image.fromarray(decode_with_pillow(data))
    width, height = picture.size
    short_px = math.floor(size_px / crop_pct)
    long_px = int(short_px * max(width, height) / min(width, height))
    wide, high = (short_px, long_px) if width <= height else (long_px, short_px)
    left, top = round((wide - size_px) / 2.0), round((high - size_px) / 2.0)
    if wide * high > MAX_PIXELS:  # a strip: enlarged as a whole it would take all memory for its centre
        box = (
            left * width / wide,
            top * height / high,
            (left + size_px) * width / wide,
            (top + size_px) * height / high,
        )
        return np.asarray(picture.resize((size_px, size_px), Image.Resampling.BICUBIC, box=box))
    if (wide, high) != (width, height):
        picture = picture.resize((wide, high), Image.Resampling.BICUBIC)
    return np.asarray(picture.crop((left, top, left + size_px, top + size_px)))


def shrink(image: Pixels, size_px: int, resize: Literal["bilinear", "bicubic"] = "bilinear") -> Pixels:
    """Resize to [size_px, size_px, 3].

    A side of twice the size or more is first averaged over whole pixels, then interpolated, so every pixel counts.
    OpenCV's INTER_AREA at a factor that is no whole number is nearer to Pillow's filter (375x500 to 224: mean
    difference 1.1 instead of 3.0 levels on a noisy photograph), but costs 10 times as much, as much as the decoding.
    """
    height, width = image.shape[:2]
    down, across = max(1, height // size_px), max(1, width // size_px)
    if down > 1 or across > 1:
        rows, columns = height // down, width // across
        image = _uint8(
            cv2.resize(image[: rows * down, : columns * across], (columns, rows), interpolation=cv2.INTER_AREA)
        )
    last = cv2.INTER_CUBIC if resize == "bicubic" else cv2.INTER_LINEAR
    return _uint8(cv2.resize(image, (size_px, size_px), interpolation=last))


def whole_pixels(data: Data) -> Pixels:
    """uint8 RGB [H, W, 3], upright: what `decode_with_pillow` gives, for most JPEGs in a third of its time.

    Raises `UnreadablePicture`.
    """
    if _size_for_fast_decoder(data) is not None:
        with contextlib.suppress(ValueError):  # the strict decoder refuses some that Pillow reads
            image: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
            return image
    return decode_with_pillow(data)


def decode_with_pillow(data: Data) -> Pixels:
    """uint8 RGB [H, W, 3]. Raises `UnreadablePicture`, also for more than `MAX_PIXELS`, which are never decoded."""
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(data), formats=DECODERS)
        width, height = picture.size
        _check_size(height, width)
        return rgb_pixels(picture)
    except (UnreadablePicture, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins answer damaged files with errors of many types
        what = stand_in(bytes(data[:HEAD_BYTES])) or f"no picture that Pillow can decode ({type(error).__name__})"
        raise UnreadablePicture(f"found {what}") from None


def new_buffer(shape: tuple[int, ...], pin: bool) -> Pixels:
    """Zeros to decode into; `pin`: in memory that a GPU copies from at once, where there is a GPU."""
    if pin:
        import torch

        if torch.cuda.is_available():
            pinned: Pixels = torch.zeros(shape, dtype=torch.uint8, pin_memory=True).numpy()
            return pinned
    return np.zeros(shape, np.uint8)


def _size_for_fast_decoder(data: Data) -> tuple[int, int] | None:
    """(height, width) of a JPEG; None if Pillow must decode it. Raises `UnreadablePicture` above `MAX_PIXELS`."""
    if bytes(data[:2]) != b"\xff\xd8":
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    _check_size(height, width)
    return None if colours in ("CMYK", "YCCK") or may_be_turned(data) else (int(height), int(width))


def _decode_fast(data: Data, height: int, width: int, factor: int) -> Pixels | None:
    """The picture at 1 / factor of its size; None if the strict decoder refuses it."""
    try:
        image: Pixels = simplejpeg.decode_jpeg(
            data,
            colorspace="RGB",
            fastdct=True,
            fastupsample=True,
            min_height=-(-height // factor),
            min_width=-(-width // factor),
            min_factor=factor,
        )
    except ValueError:
        return None
    return image


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise UnreadablePicture(f"found {width}x{height} pixels, at most {MAX_PIXELS} are decoded")


def _uint8(image: "cv2.typing.MatLike") -> Pixels:
    assert image.dtype == np.uint8
    return image  # type: ignore[return-value]
