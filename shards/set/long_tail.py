"""Long-tailed subsets: the class at place i of C keeps the largest number times ratio ** (-i / (C - 1)) samples.

In: a data set of ours, the ratio of the largest class to the smallest. Out and on disk: a subset with its rule, see
`shards.set.manifest`. Source: Cui et al. 2019, "Class-balanced loss based on effective number of samples", section 5.1,
which makes long-tailed CIFAR so; the numbers of samples are rounded down as there.

Classes stand in the order of their ids. The largest number is the highest for which every class has enough. Which
samples of a class stay: see `shards.set.drawn`.
"""

import math
from collections.abc import Sequence

from shards.disk.record import JSON
from shards.disk.store import Store
from shards.set.drawn import counts_of, drawn, successes
from shards.set.manifest import write_subset_once

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


def write_long_tail(store: Store, name: str, ratio: float, seed: int, of: str | None = None) -> dict[int, int]:
    """Write the subset `name` out of the subset `of` (None: of all): class id -> samples in it. Nothing changes where
    it is there already.

    Raises ValueError as `tail_counts` and `successes` do, and for a subset of this name with other samples.
    """
    samples = successes(store, of)
    counts = counts_of(samples)
    keeps = dict(zip(counts, tail_counts(list(counts.values()), ratio), strict=True))
    rule: dict[str, JSON] = {"long_tail": ratio, "seed": seed, "classes": len(counts)}
    write_subset_once(store, name, drawn(samples, keeps, seed), rule if of is None else {**rule, "of": of})
    return keeps
