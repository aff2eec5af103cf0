"""Shuffles that depend on numbers alone: the stable argsort of hashed counters; pure.

In: a length, keys. Out: a permutation. On disk: nothing. numpy's `Generator.permutation` may change with a version.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Int64: TypeAlias = npt.NDArray[np.int64]
UInt64: TypeAlias = npt.NDArray[np.uint64]


def shuffle(count: int, key: int) -> Int64:
    """A permutation of 0 .. `count` that depends on the two numbers alone."""
    return np.argsort(shuffle_hashes(count, np.uint64(key)), kind="stable").astype(np.int64, copy=False)


def shuffle_hashes(count: int, keys: np.uint64 | UInt64) -> UInt64:
    """(count,) what a shuffle sorts by; `keys`: one, or one for each place."""
    counters = _splitmix64(np.arange(count, dtype=np.uint64) + keys)
    return _splitmix64(counters ^ keys)


def _splitmix64(values: UInt64) -> UInt64:
    """Steele, Lea and Flood 2014, figure 15: the next output of a generator in each of these states."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
