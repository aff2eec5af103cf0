"""Groups of near-duplicates inside a set: connected components of the pairs that are more alike than a threshold.

In: rows of pictures. Out: a group number for each. On disk: nothing.

Up to `EXACT_ROWS` rows every pair is compared, block by block. Above, k-means sorts the rows into clusters of about
`CLUSTER_ROWS`, and each row is compared with those of its `PROBES` nearest clusters. What is never held is the list of
pairs: a thousand blank pages are half a million.

Measured on 100,000 vectors of 512 numbers with 26,280 pairs above 0.94 (`docs/bench/leakage.py`), on two cores that
were busy with other work: every pair took 443 s; 1, 2 and 4 clusters a row found 98.5, 99.7 and 99.97 % of the pairs in
38, 57 and 146 s. On 25,000 pictures of the sandbox's pool without their light, 2,714 pairs above 0.76, they found 86.9,
97.4 and 99.6 %. k-means begins from a fixed seed; another machine may find other clusters, and so miss other pairs.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

EXACT_ROWS = 50_000  # 1.25 * 10^9 pairs: at 1,251 numbers about a minute of two cores
CLUSTER_ROWS = 1_000
PROBES = 4
BLOCK_ROWS = 2048
SEED = 0
_SAMPLE_ROWS = 64  # rows a cluster that k-means sees
_MAX_EDGES = 1 << 22  # pairs that are held at once

Rows = NDArray[np.floating]
Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


def near_groups(rows: Rows, above: float, exact_rows: int = EXACT_ROWS) -> NDArray[np.int64]:
    """N numbers: those of one group are equal, the number is its first row. Rows N D have length 1, or 0 for a picture
    that is like nothing."""
    pairs = exact_pairs(rows, above) if len(rows) <= exact_rows else clustered_pairs(rows, above)
    return groups_of(len(rows), pairs)


def exact_pairs(rows: Rows, above: float, block_rows: int = BLOCK_ROWS) -> Iterator[Pairs]:
    """All pairs (i, j), i < j, whose inner product is greater than `above`, some at a time."""
    for start in range(0, len(rows), block_rows):
        block = rows[start : start + block_rows].astype(np.float32)
        for other in range(start, len(rows), block_rows):
            products = block @ (block if other == start else rows[other : other + block_rows].astype(np.float32)).T
            first, second = np.nonzero(products > above)
            first, second = first + start, second + other
            is_pair = first < second
            yield first[is_pair], second[is_pair]


def clustered_pairs(
    rows: Rows, above: float, cluster_rows: int = CLUSTER_ROWS, probes: int = PROBES, block_rows: int = BLOCK_ROWS
) -> Iterator[Pairs]:
    """Most of the pairs of `exact_pairs`, those of rows that meet in a cluster; a pair may come twice."""
    seen = np.flatnonzero(np.einsum("nd,nd->n", rows, rows, dtype=np.float32) > 0)
    if not len(seen):
        return
    centres = _centres(rows, seen, max(1, len(seen) // cluster_rows))
    probes = min(probes, len(centres))
    near = np.empty((len(seen), probes), np.int64)
    for at in range(0, len(seen), block_rows):
        products = rows[seen[at : at + block_rows]].astype(np.float32) @ centres.T
        part = np.argpartition(-products, probes - 1, axis=1)[:, :probes]
        order = np.argsort(-np.take_along_axis(products, part, axis=1), axis=1, kind="stable")
        near[at : at + block_rows] = np.take_along_axis(part, order, axis=1)
    for number in range(len(centres)):
        mine = seen[near[:, 0] == number]
        guests = seen[(near == number).any(axis=1)]
        for at in range(0, len(mine), block_rows):
            members = mine[at : at + block_rows]
            block = rows[members].astype(np.float32)
            for other in range(0, len(guests), block_rows):
                others = guests[other : other + block_rows]
                first, second = np.nonzero(block @ rows[others].astype(np.float32).T > above)
                one, two = members[first], others[second]
                is_pair = one != two
                yield np.minimum(one, two)[is_pair], np.maximum(one, two)[is_pair]


def groups_of(num: int, pairs: Iterator[Pairs]) -> NDArray[np.int64]:
    """For each of `num` rows the first row that it is connected with, itself if with none."""
    label = np.arange(num)
    firsts: list[NDArray[np.int64]] = []
    seconds: list[NDArray[np.int64]] = []
    held = 0
    for first, second in pairs:
        is_new = label[first] != label[second]
        firsts.append(first[is_new])
        seconds.append(second[is_new])
        held += int(is_new.sum())
        if held > _MAX_EDGES:
            label = _joined(label, np.concatenate(firsts), np.concatenate(seconds))
            firsts, seconds, held = [], [], 0
    return _joined(label, np.concatenate(firsts), np.concatenate(seconds)) if held else label


def _joined(label: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """The labels when these pairs are connected too: each takes the least of its neighbours until none changes."""
    while True:
        one, two = label[first], label[second]
        differs = one != two
        if not differs.any():
            return label
        first, second, one, two = first[differs], second[differs], one[differs], two[differs]
        np.minimum.at(label, np.maximum(one, two), np.minimum(one, two))
        while not np.array_equal(shorter := label[label], label):
            label = shorter


def _centres(rows: Rows, seen: NDArray[np.int64], num: int) -> NDArray[np.float32]:
    """Unit rows of `num` clusters."""
    from sklearn.cluster import MiniBatchKMeans

    draw = np.random.default_rng(SEED)
    sample = np.sort(draw.permutation(seen)[: num * _SAMPLE_ROWS])
    model = MiniBatchKMeans(num, random_state=SEED, n_init=1, batch_size=max(1024, num), max_iter=20)
    centres = model.fit(rows[sample].astype(np.float32)).cluster_centers_.astype(np.float32)
    return np.asarray(centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12), np.float32)
