"""Pictures of others, made the images of a data set: upright, RGB, of the size of the made ones.

In: the bytes of a picture. Out: a `gen.make.maker.Picture`. On disk: nothing.

The shorter side is brought to the size and the middle is cut out. Nothing is padded: white borders would tell retrieved
images from synthetic ones. What has that size already and says nothing of its camera is stored as it is.
"""

import io

import numpy as np
from PIL import Image as pil

from gen.make.maker import Picture
from gen.prompts.real_images import decode_picture
from shards.disk.pictures import DECODERS, orientation_of
from shards.disk.stand_in import HEAD_BYTES, stand_in

SMALLEST_PX = 8  # of the shorter side: smaller pictures show nothing


def as_picture(data: bytes, size_px: int | None) -> Picture:
    """`size_px` None: every picture keeps its size."""
    pixels = decode_picture(data)
    if isinstance(pixels, str):
        why = stand_in(data[:HEAD_BYTES]) or f"{len(data):,} bytes that are no whole picture of {', '.join(DECODERS)}"
        return Picture(None, pixels, f"found {why}")
    height, width = pixels.shape[:2]
    columns = {"original_width": width, "original_height": height}
    if min(height, width) < SMALLEST_PX:
        return Picture(None, "too_small", f"found {width} x {height} pixels, expected at least {SMALLEST_PX}", columns)
    if size_px is None or (height, width) == (size_px, size_px):
        return Picture(pixels, columns=columns, jpeg=data if _is_plain_jpeg(data) else None)
    return Picture(_square(pixels, size_px), columns=columns)


def _square(pixels: np.ndarray, size_px: int) -> np.ndarray:
    """The middle square at `size_px`, with the low-pass filter that a smaller size needs."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = pil.fromarray(pixels[top : top + side, left : left + side])
    return np.asarray(middle.resize((size_px, size_px), pil.Resampling.LANCZOS))


def _is_plain_jpeg(data: bytes) -> bool:
    """Whether the bytes are a whole, upright RGB JPEG without EXIF and XMP, which may tell where it was taken."""
    if not data.endswith(b"\xff\xd9"):
        return False
    with pil.open(io.BytesIO(data), formats=DECODERS) as picture:
        told = picture.info.keys() & {"exif", "xmp", "photoshop"}
        return picture.format == "JPEG" and picture.mode == "RGB" and not told and orientation_of(picture) == 1
