"""The split of the scans into training, validation, test sets and the pool.

In: nothing. Out: disjoint sets of scan numbers for each role and class. On disk: nothing. The split is by writers:
scikit-learn's table holds 14 forms of about 130 digits one after the other, each filled in by one person, and each form
begins the row of digits anew. The pool has its forms, the real sets have theirs, and shifted-v2 has one of its own. So
no hand of a test set is in the pool. Training, validation and test share their writers, scan by scan, as the parts of
ImageNet share their sources.
"""

from functools import cache
from typing import Literal

import numpy as np

from sandbox.world import CLASS_NAMES, scans

Role = Literal["pool", "train", "val", "test", "v2"]
# The rows of scikit-learn's table, first to behind the last: seven forms, six forms, one form.
REAL_ROWS, POOL_ROWS, V2_ROWS = (0, 906), (906, 1667), (1667, 1797)
# Scans per class of the real sets; the few that are left over (2 to 5 of the 88 to 91 a class has) belong to no set.
PER_CLASS: dict[Role, int] = {"train": 50, "val": 12, "test": 24}
V2_PER_CLASS = 12
SPLIT_SEED = 20_261


@cache
def scans_of(role: Role) -> tuple[tuple[int, ...], ...]:
    """The scan numbers of a role, one tuple for each class, in a fixed random order; prefixes are the nested shots."""
    rng = np.random.default_rng(SPLIT_SEED)
    result = []
    for class_id in range(len(CLASS_NAMES)):
        real, pool, v2 = (_shuffled(class_id, rows, rng) for rows in (REAL_ROWS, POOL_ROWS, V2_ROWS))
        parts: dict[Role, tuple[int, ...]] = {"pool": pool, "v2": v2[:V2_PER_CLASS]}
        start = 0
        for name, count in PER_CLASS.items():
            parts[name] = real[start : start + count]
            start += count
        result.append(parts[role])
    return tuple(result)


def _shuffled(class_id: int, rows: tuple[int, int], rng: np.random.Generator) -> tuple[int, ...]:
    """The scans of a class in some rows of the table, in random order."""
    return tuple(int(row) for row in rng.permutation(np.arange(*rows)[scans()[1][slice(*rows)] == class_id]))
