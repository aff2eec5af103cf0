"""Small copies of pictures for pages; pure.

In: a JPEG, or pixels, and the longest side. Out: a JPEG that is encoded anew, so nothing of the old file but its pixels
and its source type reaches a page. On disk: nothing.
"""

import cv2
import numpy as np

from shards.disk.jpeg import SOURCE_TYPES, SourceType, decode_jpeg, encode_jpeg, read_source_type


def small_copy(jpeg: bytes, longest_px: int, quality: int, subsampling: str) -> bytes:
    """A copy of a JPEG, with its source type. Raises ValueError if it cannot be decoded."""
    pixels_HWC = decode_jpeg(jpeg)
    found = read_source_type(jpeg)
    source_type = next((known for known in SOURCE_TYPES if known == found), None)
    return small_jpeg(pixels_HWC, longest_px, quality, subsampling, source_type)


def small_jpeg(
    pixels_HWC: np.ndarray, longest_px: int, quality: int, subsampling: str, source_type: SourceType | None
) -> bytes:
    """Pixels (uint8 RGB) as a JPEG of at most ``longest_px`` on each side."""
    height, width = pixels_HWC.shape[:2]
    scale = longest_px / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels_HWC = cv2.resize(pixels_HWC, size, interpolation=cv2.INTER_AREA)
    return encode_jpeg(pixels_HWC, quality, subsampling, source_type)
