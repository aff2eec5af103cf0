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
