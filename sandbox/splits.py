"""The split of the scans into training, validation, test sets and the pool.

In: nothing. Out: disjoint sets of scan numbers for each role and class. On disk: nothing. The split is seeded and by
scan, so no picture of a test set has its scan in the pool or in training.
"""

from functools import cache
from typing import Literal

import numpy as np

from sandbox.world import CLASS_NAMES, scans

Role = Literal["pool", "train", "val", "test", "v2"]
# Scans per class; the pool takes the rest (76 to 85 of the 174 to 183 a class has).
PER_CLASS: dict[Role, int] = {"train": 50, "val": 12, "test": 24, "v2": 12}
SPLIT_SEED = 20_261


@cache
def scans_of(role: Role) -> tuple[tuple[int, ...], ...]:
    """The scan numbers of a role, one tuple for each class, in a fixed random order; prefixes are the nested shots."""
    labels = scans()[1]
    rng = np.random.default_rng(SPLIT_SEED)
    result = []
    for class_id in range(len(CLASS_NAMES)):
        order = rng.permutation(np.flatnonzero(labels == class_id))
        start = 0
        parts: dict[Role, tuple[int, ...]] = {}
        for name, count in PER_CLASS.items():
            parts[name] = tuple(int(i) for i in order[start : start + count])
            start += count
        parts["pool"] = tuple(int(i) for i in order[start:])
        result.append(parts[role])
    return tuple(result)
