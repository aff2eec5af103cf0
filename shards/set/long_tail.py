"""Long-tailed subsets: the class at place i of C keeps the largest number times ratio ** (-i / (C - 1)) samples.

In: a data set of ours, the ratio of the largest class to the smallest. Out and on disk: a subset with its rule, see
`shards.set.manifest`. Source: Cui et al. 2019, "Class-balanced loss based on effective number of samples", section 5.1,
which makes long-tailed CIFAR so; the numbers of samples are rounded down as there.

Classes stand in the order of their ids. The largest number is the highest for which every class has enough. Which
samples of a class stay is drawn by their ids; with the same seed a class that keeps fewer keeps some of the same.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.disk.layout import SUCCESS
from shards.disk.store import Store
from shards.set.manifest import iter_tables, scan_records, write_subset_once

_ROUND = 1e-9  # 5.000 is 4.999... as a power


def tail_counts(counts: Sequence[int], ratio: float) -> list[int]:
    """How many samples each class keeps of those it has, at least one. Raises ValueError for fewer than two classes, an
    empty one, or a ratio below 1."""
    if len(counts) < 2 or min(counts) < 1:
        raise ValueError(f"long tail: found {len(counts)} classes with samples, expected at least two")
    if not 1 <= ratio < math.inf:
        raise ValueError(f"long tail: found the ratio {ratio:g}, expected 1 or more, such as 100")
    shares = [ratio ** (-place / (len(counts) - 1)) for place in range(len(counts))]
    largest = min(int(count / share + _ROUND) for count, share in zip(counts, shares, strict=True))
    return [max(1, int(largest * share + _ROUND)) for share in shares]


def write_long_tail(store: Store, name: str, ratio: float, seed: int) -> dict[int, int]:
    """Write the subset `name`: class id -> samples in it. Nothing changes where it is there already.

    Raises ValueError as `tail_counts` and `scan_records` do, and for a subset of this name with other samples.
    """
    columns = ["uid", "key", "shard", "status", "class_id"]
    parts = [
        table.filter(pc.equal(table["status"], SUCCESS)) for table in iter_tables(store, scan_records(store), columns)
    ]
    if not parts:
        raise ValueError(f"{store.url}: found no shard that is done, expected a data set; generate it first")
    samples = pa.concat_tables(parts)
    labels = samples["class_id"].to_numpy()
    ids, has = np.unique(labels, return_counts=True)
    keeps = dict(zip(ids.tolist(), tail_counts(has.tolist(), ratio), strict=True))
    draws = np.array([_draw(seed, uid) for uid in samples["uid"].to_pylist()], np.uint64)
    order = np.lexsort((draws, labels))
    place = np.arange(len(order)) - np.repeat(np.cumsum(has) - has, has)
    chosen = np.sort(order[place < np.repeat(list(keeps.values()), has)])
    write_subset_once(store, name, samples.take(chosen), {"long_tail": ratio, "seed": seed, "classes": len(ids)})
    return keeps


def _draw(seed: int, uid: str) -> int:
    return int.from_bytes(hashlib.sha256(f"long tail {seed} {uid}".encode()).digest()[:8], "big")
