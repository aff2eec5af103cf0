"""Subsets that are drawn at random within each class: so many samples of one, so many of another.

In: a data set of ours, a subset to draw from, how many samples of a class stay. Out and on disk: a subset with its
rule, see `shards.set.manifest`.

Which samples of a class stay is drawn by their ids. With the same seed a class that keeps fewer keeps some of the same:
10 of each class are among 100 of each, also in a subset of another rule.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from shards.disk.record import JSON
from shards.disk.store import Store
from shards.set.manifest import write_subset_once
from shards.set.subset import iter_samples


def successes(store: Store, of: str | None = None) -> pa.Table:
    """Uid, key, shard and class_id of the samples that are no rejected draws, out of the subset `of` (None: of all).

    Raises ValueError if there are none, and as `iter_samples` does.
    """
    parts = list(iter_samples(store, of, ["uid", "key", "shard", "status", "class_id"], "subset"))
    if not sum(map(len, parts)):
        where = "that is done" if of is None else f"of the subset {of!r}"
        raise ValueError(f"{store.url}: found no sample {where}, expected some; generate it first")
    return pa.concat_tables(parts)


def counts_of(samples: pa.Table) -> dict[int, int]:
    """Class id -> samples of it, by class id."""
    ids, has = np.unique(samples["class_id"].to_numpy(), return_counts=True)
    return dict(zip(ids.tolist(), has.tolist(), strict=True))


def drawn(samples: pa.Table, keeps: Mapping[int, int], seed: int) -> pa.Table:
    """`keeps[class_id]` samples of each class, all of them if it has fewer, in the order of `samples`."""
    labels = samples["class_id"].to_numpy()
    draws = np.array([_draw(seed, uid) for uid in samples["uid"].to_pylist()], np.uint64)
    order = np.lexsort((draws, labels))
    _, starts, inverse = np.unique(labels[order], return_index=True, return_inverse=True)
    place = np.arange(len(order)) - starts[inverse]
    most = np.array([keeps[label] for label in labels[order].tolist()])
    return samples.take(np.sort(order[place < most]))


def write_per_class(store: Store, name: str, per_class: int, seed: int, of: str | None = None) -> dict[int, int]:
    """Write the subset `name`, `per_class` samples of each class: class id -> samples in it, fewer where the class has
    no more. Nothing changes where it is there already.

    Raises ValueError for less than one of a class, as `successes` does, and for a subset of this name with other
    samples.
    """
    if per_class < 1:
        raise ValueError(f"--per-class: found {per_class}, expected 1 or more")
    samples = successes(store, of)
    keeps = {label: min(has, per_class) for label, has in counts_of(samples).items()}
    rule: dict[str, JSON] = {"per_class": per_class, "seed": seed, "of": of}
    write_subset_once(store, name, drawn(samples, keeps, seed), rule)
    return keeps


def _draw(seed: int, uid: str) -> int:
    return int.from_bytes(hashlib.sha256(f"long tail {seed} {uid}".encode()).digest()[:8], "big")
