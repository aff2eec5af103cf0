"""The plan: which image is made in which shard; pure, lazy, exact.

In: the real count n_c and the number of prompts P_c of each class, the run seed, the shard size.
Out: unit k, the samples of shard k, from k alone. On disk: nothing; every reader of a run computes the same plan.

Laws (tests/gen/make/test_plan.py proves each by brute force):

* A fold is one multiple of the real set: exactly n_c samples of every class c. Folds follow one another, a shard never
  straddles two, and only the last shard of a fold may be smaller. Unit k does not know the scale, so 1x, 2x, ... are
  prefixes of the same shards.
* The classes of a fold are interleaved: in the first r samples of a fold, class c has r * n_c / N samples, within less
  than 1 if all n_c are equal (so any two classes differ by at most one), within less than 2 for any counts, and
  within `Plan.max_deviation`, computed from the counts at hand, always.
* Sample number q of a class (counted over all folds) uses prompt q mod P_c: in any prefix of a class's samples its
  prompts are used within one of equally often.

The order is a binary tree over the classes sorted by count, each node split where it halves best. A node with s
samples, a of them on its left, sends round(r * a / s) of its first r to the left. Sample r of a fold descends the tree
to its class and its number within the class in integer arithmetic: O(depth) a sample, O(classes) memory, no state, no
floats. Measured: 7 M samples/s on one core, all of ImageNet-1k 6x in 1.0 s.

Why the bounds hold. Let e be a node's rounding error (|e| <= 1/2) and w the size of the child it goes into; a class of
n samples then deviates by at most n * sum(e_i / w_i) along its path. Halving s equal classes (|e| <= (s-1)/(2s) for odd
s) keeps e / w <= 1 / w - 1 / s, which telescopes to 1 - 1 / C < 1. In general every node but a leaf is at most 2/3 of
its parent, so the sum is at most n * (1/n + (1/n)(1 + 2/3 + 4/9 + ...)) / 2 = 2.
"""

import hashlib
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from shards.disk.layout import MAX_ROWS_PER_SHARD, MAX_SHARDS

MAX_SCALE = 1_000
MAX_INT32 = 2**31 - 1

_SCALE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)[xX]?")
_SAMPLE_ID = struct.Struct(">5q")
# copied for each draw: a third faster than naming size and purpose every time
_SEED = hashlib.blake2b(digest_size=8, person=b"sixfold seed")
_UID = hashlib.blake2b(digest_size=16, person=b"sixfold uid")

Ints = NDArray[np.int64]


def parse_scale(text: str) -> Fraction:
    """``"6x"``, ``"6"`` and ``"0.5x"`` -> an exact multiple of the real set. Raises ValueError for anything else."""
    match = _SCALE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"scale: found {text[:40]!r}, expected a multiple of the real set such as 6x or 0.5x")
    scale = Fraction(match[1])
    if not 0 < scale <= MAX_SCALE:
        raise ValueError(f"scale: found {text[:40]!r}, expected more than 0x and at most {MAX_SCALE}x")
    return scale


def sample_seed(run_seed: int, class_id: int, prompt_id: int, replicate: int, draw: int) -> int:
    """The 63-bit seed of one draw: a hash of who it is, never of when or where it is made.

    torch's CPU generator reads the low 32 bits, so two draws may begin with the same noise: of N images N**2 / 2**33
    pairs do. They share nothing else.
    """
    seed = _SEED.copy()
    seed.update(_SAMPLE_ID.pack(run_seed, class_id, prompt_id, replicate, draw))
    return int.from_bytes(seed.digest(), "big") >> 1


def sample_uid(run_seed: int, class_id: int, prompt_id: int, replicate: int, draw: int) -> str:
    """The 128-bit name of one draw, 32 hexadecimal digits."""
    uid = _UID.copy()
    uid.update(_SAMPLE_ID.pack(run_seed, class_id, prompt_id, replicate, draw))
    return uid.hexdigest()


@dataclass(frozen=True)
class Sample:
    """One image to be made, in its place."""

    slot: int  # 0.. within the shard
    class_id: int
    prompt_id: int  # 0.. within the class
    replicate: int  # 0 = first use of this prompt


@dataclass(frozen=True, eq=False)
class Unit:
    """The samples of one shard, as three arrays of equal length in slot order."""

    shard: int
    fold: int  # 0 holds 1x, 1 holds the second multiple, ...
    class_ids: Ints
    prompt_ids: Ints
    replicates: Ints

    def __len__(self) -> int:
        return len(self.class_ids)

    def __iter__(self) -> Iterator[Sample]:
        columns = (self.class_ids.tolist(), self.prompt_ids.tolist(), self.replicates.tolist())
        for slot, (class_id, prompt_id, replicate) in enumerate(zip(*columns, strict=True)):
            yield Sample(slot, class_id, prompt_id, replicate)

    @property
    def samples(self) -> list[Sample]:
        """The samples one by one, in slot order."""
        return list(self)


@dataclass(frozen=True)
class Estimate:
    """What a run of some scale will make and cost."""

    shards: int
    images: int  # asked for
    images_made: int  # with the rest of the last shard, which is always made whole
    bytes: int
    hours: float


@dataclass(frozen=True)
class Plan:
    """All units of a run. Keys of both mappings are class ids; `max_draws` only guards the room of a shard's table."""

    num_per_class: Mapping[int, int]
    num_prompts_per_class: Mapping[int, int]
    seed: int
    samples_per_shard: int
    max_draws: int = 1

    def __post_init__(self) -> None:
        if not self.num_per_class:
            raise ValueError("plan: found no classes, expected at least one")
        for class_id, count in self.num_per_class.items():
            if not 0 <= class_id <= MAX_INT32:
                raise ValueError(f"plan: found class id {class_id}, expected 0..{MAX_INT32}")
            if count < 1:
                raise ValueError(f"plan: found count {count} for class {class_id}, expected at least 1; drop the class")
            if self.num_prompts_per_class.get(class_id, 0) < 1:
                raise ValueError(f"plan: found no prompts for class {class_id}, expected at least one")
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed: found {self.seed}, expected a 64-bit integer")
        if self.samples_per_shard < 1 or self.max_draws < 1:
            raise ValueError(
                f"plan: found samples_per_shard {self.samples_per_shard} and max_draws {self.max_draws}, "
                "expected at least 1 each"
            )
        if self.samples_per_shard * self.max_draws > MAX_ROWS_PER_SHARD:
            raise ValueError(
                f"plan: found samples_per_shard {self.samples_per_shard} x max_draws {self.max_draws} = "
                f"{self.samples_per_shard * self.max_draws} rows, but a shard's table holds {MAX_ROWS_PER_SHARD}; "
                f"set samples_per_shard to {MAX_ROWS_PER_SHARD // self.max_draws} or less, or allow fewer draws"
            )
        if self.fold_size > MAX_SHARDS * MAX_ROWS_PER_SHARD:
            raise ValueError(
                f"plan: found {self.fold_size} samples in one fold, but a data set holds "
                f"{MAX_SHARDS * MAX_ROWS_PER_SHARD}; split the classes over several runs"
            )

    @cached_property
    def fold_size(self) -> int:
        """N, the size of the real set in images."""
        return sum(self.num_per_class.values())

    @cached_property
    def units_per_fold(self) -> int:
        """How many shards a fold has."""
        return -(-self.fold_size // self.samples_per_shard)

    @property
    def max_deviation(self) -> float:
        """No class is further than this from its share, in samples, in any prefix of a fold."""
        return self._order.max_deviation

    def num_samples(self, scale: Fraction) -> int:
        """Images of a scale: floor(scale * N), at least 1."""
        count = math.floor(scale * self.fold_size)
        if count < 1:
            raise ValueError(
                f"scale: found {float(scale):g}x, which is less than one image of {self.fold_size}; use a larger scale"
            )
        return count

    def num_units(self, scale: Fraction) -> int:
        """Shards that cover a scale; the last one is made whole. Raises ValueError if a data set cannot hold them."""
        folds, rest = divmod(self.num_samples(scale), self.fold_size)
        count = folds * self.units_per_fold - (-rest // self.samples_per_shard)
        if count > MAX_SHARDS:
            room = MAX_ROWS_PER_SHARD // self.max_draws
            raise ValueError(
                f"plan: {float(scale):g}x needs {count} shards, but a data set holds {MAX_SHARDS}; set "
                f"samples_per_shard above {self.samples_per_shard} (at most {room} with max_draws {self.max_draws}) "
                "or use a smaller scale"
            )
        return count

    def units(self, scale: Fraction) -> range:
        """The unit ids of a scale: always 0, 1, 2, ..., so a smaller scale is a prefix."""
        return range(self.num_units(scale))

    def subset(self, scale: Fraction) -> Iterator[tuple[int, int]]:
        """(shard, number of leading slots) that make up exactly `num_samples(scale)`."""
        left = self.num_samples(scale)
        for shard in self.units(scale):
            slots = min(left, self.unit_size(shard))
            yield shard, slots
            left -= slots

    def unit_size(self, shard: int) -> int:
        """How many samples a shard holds."""
        first, last = self._ranks(shard)
        return last - first

    def unit(self, shard: int) -> Unit:
        """The samples of shard `shard`, which may be any number a data set can hold, whatever the scale."""
        if not 0 <= shard < MAX_SHARDS:
            raise ValueError(f"unit {shard}: expected 0..{MAX_SHARDS - 1}")
        fold = shard // self.units_per_fold
        index, number = self._order.find(np.arange(*self._ranks(shard), dtype=np.int64))
        ids, counts, prompts = self._classes
        number += fold * counts[index]
        num_prompts = prompts[index]
        replicates = number // num_prompts
        return Unit(shard, fold, ids[index], number - replicates * num_prompts, replicates)

    def _ranks(self, shard: int) -> tuple[int, int]:
        first = shard % self.units_per_fold * self.samples_per_shard
        return first, min(first + self.samples_per_shard, self.fold_size)

    @cached_property
    def _classes(self) -> tuple[Ints, Ints, Ints]:
        """Ids, counts and prompts in leaf order: largest class first, equal ones in an order drawn from the seed."""

        def rank(class_id: int) -> tuple[int, bytes]:
            message = _SAMPLE_ID.pack(self.seed, class_id, 0, 0, 0)
            return -self.num_per_class[class_id], hashlib.blake2b(message, person=b"sixfold order").digest()

        ids = sorted(self.num_per_class, key=rank)
        counts = [self.num_per_class[class_id] for class_id in ids]
        prompts = [self.num_prompts_per_class[class_id] for class_id in ids]
        return np.array(ids, np.int64), np.array(counts, np.int64), np.array(prompts, np.int64)

    @cached_property
    def _order(self) -> "_Order":
        return _Order.build(self._classes[1])


@dataclass(frozen=True, eq=False)
class _Order:
    """The tree of the module's docstring as flat arrays. A leaf is its own child, so a descent needs no masks."""

    left_twice: Ints  # per node: 2 a
    size_twice: Ints  # per node: 2 s
    children: Ints  # children[2 node + 1] is the left child, children[2 node] the right one
    first_leaf: int  # leaf of class index i is node first_leaf + i
    depth: int
    max_deviation: float

    @staticmethod
    def build(counts: Ints) -> "_Order":
        """`counts` largest first."""
        num_leaves = len(counts)
        first_leaf = num_leaves - 1
        ends = np.concatenate([[0], np.cumsum(counts)])
        ends_twice = 2 * ends
        left_twice = np.full(first_leaf + num_leaves, 2, np.int64)
        size_twice = np.full(first_leaf + num_leaves, 2, np.int64)
        children = np.repeat(np.arange(first_leaf + num_leaves, dtype=np.int64), 2)
        deepest, worst, free = 0, 0.0, 1
        # (node, first class, end class, level, sum of e / w so far)
        stack = [(0, 0, num_leaves, 0, 0.0)] if num_leaves > 1 else []
        while stack:
            node, low, high, level, error = stack.pop()
            size = int(ends[high] - ends[low])
            middle = ends[low] + ends[high]
            split = min(max(int(np.searchsorted(ends_twice, middle)), low + 1), high - 1)
            if split - 1 > low and middle - ends_twice[split - 1] <= ends_twice[split] - middle:
                split -= 1
            left = int(ends[split] - ends[low])
            left_twice[node], size_twice[node] = 2 * left, 2 * size
            steps = size // math.gcd(left, size)
            for side, (start, end) in ((1, (low, split)), (0, (split, high))):
                weight = left if side else size - left
                below = error + steps // 2 / steps / weight
                if end - start == 1:
                    children[2 * node + side] = first_leaf + start
                    deepest, worst = max(deepest, level + 1), max(worst, weight * below)
                else:
                    children[2 * node + side] = free
                    stack.append((free, start, end, level + 1, below))
                    free += 1
        return _Order(left_twice, size_twice, children, first_leaf, deepest, worst)

    def find(self, ranks: Ints) -> tuple[Ints, Ints]:
        """Ranks within a fold -> (class index, number within that class and fold). Eats `ranks`."""
        node = np.zeros(len(ranks), np.int64)
        for _ in range(self.depth):
            left_twice = self.left_twice[node]
            size_twice = self.size_twice[node]
            # before = round(rank * a / s) samples went left before this one; this one does if the next value is larger
            scaled = ranks * left_twice
            scaled += size_twice >> 1
            before = scaled // size_twice
            scaled -= before * size_twice
            scaled += left_twice
            goes_left = scaled >= size_twice
            ranks = np.where(goes_left, before, ranks - before)
            node = self.children[2 * node + goes_left]
        return node - self.first_leaf, ranks


def estimate(plan: Plan, scale: Fraction, bytes_per_image: float, seconds_per_image: float, workers: int) -> Estimate:
    """Cost of a run in which every worker takes `seconds_per_image` for each image it makes."""
    shards = plan.num_units(scale)
    folds, rest = divmod(shards, plan.units_per_fold)
    made = folds * plan.fold_size + min(rest * plan.samples_per_shard, plan.fold_size)
    hours = made * seconds_per_image / workers / 3600
    return Estimate(shards, plan.num_samples(scale), made, round(made * bytes_per_image), hours)
