"""Random pictures and masks of any size, for laws."""

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.integers(1, 24)


def picture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Noise: uint8 (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def blot(height: int, width: int, seed: int, share: float = 0.5) -> NDArray[np.bool_]:
    """Scattered pixels: bool (height, width)."""
    return np.random.default_rng([seed, 1]).random((height, width)) < share


def disc(side: int, radius: float) -> NDArray[np.bool_]:
    """A disc in the middle of a square."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return np.hypot(y, x) <= radius


def grown(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """By definition: a pixel is of it if one of the mask is at most `reach` rows and columns away."""
    rows, columns = mask.shape
    found = np.zeros_like(mask)
    for y, x in zip(*np.nonzero(mask), strict=True):
        found[max(0, y - reach) : min(rows, y + reach + 1), max(0, x - reach) : min(columns, x + reach + 1)] = True
    return found
