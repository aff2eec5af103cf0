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
    """Rows N D of N images. Each picture has products of its own, so its row does not depend on the others."""
    logs = np.empty((len(images), 3, SIDE_PX, SIDE_PX), np.float32)
    for log, image in zip(logs, images, strict=True):
        small = cv2.resize(image, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
        log[:] = np.log(small + DARK).transpose(2, 0, 1)
    cosines, band, speed = _basis()
    waves = (cosines @ logs @ cosines.T)[:, :, band] * speed
    rows = waves.reshape(len(images), -1)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(lengths > FLAT, rows / np.maximum(lengths, FLAT), 0).astype(np.float32)


@cache
def _basis() -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
    """(cosines of one side: waves, pixels; which waves of the two-dimensional plane are in the band; their speeds)."""
    places = (np.arange(SIDE_PX) + 0.5) * np.pi / SIDE_PX
    cosines = np.cos(np.arange(SIDE_PX)[:, None] * places) * np.sqrt(2 / SIDE_PX)
    cosines[0] /= np.sqrt(2)
    speed = np.hypot(*np.mgrid[0:SIDE_PX, 0:SIDE_PX])
    band = (speed >= SLOWEST) & (speed <= FASTEST)
    return cosines.astype(np.float32), band, speed[band].astype(np.float32)
