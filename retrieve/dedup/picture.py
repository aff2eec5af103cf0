"""A picture without its light: a descriptor that finds a picture again, under another light, resized or re-encoded.

In: RGB images of any sizes. Out: float32 rows of length 1; a flat picture has a row of zeros, which is like nothing.
On disk: nothing.

A light multiplies what it falls on by something that changes slowly over the picture, in each colour. So the logarithm
of each colour of the picture at 32 x 32 pixels is taken apart into cosines (DCT-II), the slow ones are left out, and so
are the fastest, which are noise. What is left is weighted by its frequency, because pictures have less of the fast.

Measured on the sandbox, 40,000 pool pictures against 960 test images, of which 722 are a test image in another light:
at the threshold `TEST_ABOVE` all 722 are found, each at its own test image, and none of the 39,278 others
(`docs/bench/leakage.py`). It does not find what was cropped by more than a few per cent, turned or mirrored: that
needs a network that was trained for copies.
"""

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE_PX = 32
SLOWEST, FASTEST = 8, 24  # half waves across the picture, length of the two-dimensional frequency
DARK = 8.0  # added to the 0..255 of a colour, so that noise in the dark counts little
FLAT = 1.0  # length below which nothing is in the picture; a change of one level of 255 in a pixel is about 0.1
TEST_ABOVE = 0.76  # the sandbox: others reach 0.71, pictures of a test image are above 0.81

Image = NDArray[np.uint8]  # H W 3, RGB


def describe_pictures(images: Sequence[Image]) -> NDArray[np.float32]:
    """Rows N D of N images."""
    basis = _basis()
    rows = np.empty((len(images), 3 * len(basis)), np.float32)
    for row, image in zip(rows, images, strict=True):
        small = cv2.resize(image, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
        waves = basis @ np.log(small + DARK).reshape(-1, 3)
        length = np.linalg.norm(waves)
        row[:] = waves.reshape(-1) / length if length > FLAT else 0
    return rows


@cache
def _basis() -> NDArray[np.float32]:
    """(waves, pixels): the cosines of the band, each times its frequency."""
    places = (np.arange(SIDE_PX) + 0.5) * np.pi / SIDE_PX
    waves = np.cos(np.arange(SIDE_PX)[:, None] * places) * np.sqrt(2 / SIDE_PX)
    waves[0] /= np.sqrt(2)
    down, across = np.mgrid[0:SIDE_PX, 0:SIDE_PX]
    speed = np.hypot(down, across)
    rows = [
        (speed[y, x] * np.outer(waves[y], waves[x])).reshape(-1)
        for y, x in np.argwhere((speed >= SLOWEST) & (speed <= FASTEST))
    ]
    return np.array(rows, np.float32)
