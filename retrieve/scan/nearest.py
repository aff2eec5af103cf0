"""The nearest vectors of some queries, and how those of several files become those of all.

In: scores and rows. Out: `Nearest`. On disk: nothing. Shapes: Q queries, K columns.

An order that leaves nothing open: higher score first, of equal scores the lower row first. So `merge` gives the same
whatever is merged first. For speed a score and a row of one file are one number of 64 bits, whose order is this one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NO_ROW = -1
NO_SCORE = -np.inf
ROW_BITS = np.uint64(32)
LAST_ROW = np.uint64(2**32 - 1)


@dataclass(frozen=True, eq=False)
class Nearest:
    """The best of a file or of many. K is `k`, or fewer if there were fewer vectors.

    Where fewer than K vectors were fit to be found, the last columns hold -inf and row -1.
    """

    k: int  # that were asked for
    scores: np.ndarray  # float32 (Q, K), inner products, descending
    rows: np.ndarray  # int64 (Q, K), of the pool
    num_rows: int  # vectors that were looked at
    num_unusable: int  # of them: zero, NaN, or of a length that no embedding has; never found


def merge(parts: Sequence[Nearest]) -> Nearest:
    """The best of all parts, whose rows are different ones. Associative, and in any order.

    Raises ValueError for no parts, and for parts of other queries or another k.
    """
    shapes = {(one.k, len(one.scores)) for one in parts}
    if len(shapes) != 1:
        raise ValueError(f"found parts of (k, queries) {sorted(shapes)}, expected one or more of one kind")
    k = parts[0].k
    scores = np.concatenate([one.scores for one in parts], axis=1)
    rows = np.concatenate([one.rows for one in parts], axis=1)
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return Nearest(
        k=k,
        scores=np.take_along_axis(scores, order, axis=1),
        rows=np.take_along_axis(rows, order, axis=1),
        num_rows=sum(one.num_rows for one in parts),
        num_unusable=sum(one.num_unusable for one in parts),
    )


def pack(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """uint64, greater for what comes first. `scores` float32 and finite; `rows` of one file, below 2**32. Never 0."""
    bits = (scores + np.float32(0)).view(np.uint32)  # + 0: -0.0 is 0.0
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    packed: np.ndarray = (ordered.astype(np.uint64) << ROW_BITS) | (LAST_ROW - rows.astype(np.uint64))
    return packed


def unpack(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(scores float32, rows int64); 0 is no row."""
    ordered = (packed >> ROW_BITS).astype(np.uint32)
    scores = np.where(ordered >> 31, ordered & np.uint32(2**31 - 1), ~ordered).astype(np.uint32).view(np.float32)
    rows = (LAST_ROW - (packed & LAST_ROW)).astype(np.int64)
    none = packed == 0
    return np.where(none, np.float32(NO_SCORE), scores), np.where(none, NO_ROW, rows)
