"""How often a pass visits each row of a domain, so that classes get the shares that a sampling gives them; pure.

In: the label of each row, a sampling, a seed. Out: for a pass, how often each row comes and how often it came before.
On disk: nothing.

A class with n rows gets a share that grows as n**q (Kang et al. 2020, "Decoupling representation and classifier for
long-tailed recognition", section 3): `natural` has q = 1, `sqrt` 1/2, `balanced` 0. A pass keeps its length, the number
of all rows: rare classes come more often than once, frequent ones in part. After any number of passes a class had its
share of all positions within one, and the rows of a class came equally often within one.

Each class has an endless sequence of its own rows, shuffled anew each time round. Pass t takes of it what is due: of
the first c classes together floor(t * rows * weight of the first c / weight of all) positions before the pass. Weights
are whole numbers, so every machine counts the same. To find a pass takes two sorts of all rows: half a second for 1.3
million rows, five for 8 million, once a pass.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from shards.stream.index_arrays import Int32, Int64
from shards.stream.keyed_random import hashed
from shards.stream.shuffle import shuffle_hashes

Sampling = Literal["natural", "sqrt", "balanced"]

_ROOT_BITS = 16  # behind the point, of a square root


@dataclass(frozen=True, eq=False)
class Visits:
    """Of one pass, for each of the n rows."""

    times: Int64  # (n,) how often it comes in this pass
    before: Int64  # (n,) how often it came in all earlier ones


class ClassShares:
    """The visits of a domain whose sampling is not `natural`. The last pass is cached."""

    def __init__(self, labels: Int32, sampling: Sampling, seed: int) -> None:
        """`labels`: (n,) of at least one row."""
        self.sampling = sampling
        self._seed = seed
        self._class_ids, self._class_of, self._counts = np.unique(labels, return_inverse=True, return_counts=True)
        self._first = np.cumsum(self._counts) - self._counts  # of each class, in rows sorted by class
        self._due = [0]  # weight of the first c classes
        for count in self._counts.tolist():
            self._due.append(self._due[-1] + _weight(count, sampling))
        self._kept: tuple[int, Visits] | None = None

    def visits(self, number: int) -> Visits:
        """Of pass `number`; the times add up to n."""
        if self._kept is None or self._kept[0] != number:
            self._kept = (number, self._visits(number))
        return self._kept[1]

    def _visits(self, number: int) -> Visits:
        turn, place = self._turns(number)
        next_turn, next_place = self._turns(number + 1)
        rank = self._ranks(turn)
        next_rank = rank if np.array_equal(turn, next_turn) else self._ranks(next_turn)
        of = self._class_of
        is_left = rank >= place[of]  # its class has not come to it yet in this turn
        is_reached = next_rank < next_place[of]
        turns = (next_turn - turn)[of]
        times = np.where(turns == 0, is_left & is_reached, is_left.astype(np.int64) + (turns - 1) + is_reached)
        return Visits(times.astype(np.int64), turn[of] + ~is_left)

    def _turns(self, number: int) -> tuple[Int64, Int64]:
        """Where the classes' own sequences stand before pass `number`: (turns that are done, place in the next), (C,)
        each."""
        rows, all_due = len(self._class_of), self._due[-1]
        taken = [number * rows * due // all_due for due in self._due]  # Python's integers: these are large
        pairs = [
            divmod(after - before, count)
            for before, after, count in zip(taken, taken[1:], self._counts.tolist(), strict=False)
        ]
        turns, places = np.array(pairs, np.int64).T
        return turns, places

    def _ranks(self, turn: Int64) -> Int64:
        """The place of each row in the sequence of its class in that turn of the class."""
        keys = [hashed(self._seed, int(one), int(time)) for one, time in zip(self._class_ids, turn, strict=True)]
        hashes = shuffle_hashes(len(self._class_of), np.array(keys, np.uint64)[self._class_of])
        bits = len(self._class_ids).bit_length()  # the class before the hash: one sort for all
        by_class = self._class_of.astype(np.uint64) << np.uint64(64 - bits) | hashes >> np.uint64(bits)
        order = np.argsort(by_class, kind="stable")
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.arange(len(order)) - np.repeat(self._first, self._counts)
        return ranks


def _weight(count: int, sampling: Sampling) -> int:
    """In proportion to count**q. No class gets less than a position a pass, so none is ever owed a negative number: for
    the root that is Cauchy and Schwarz's, and a floor is taken of the others' weights only."""
    if sampling == "sqrt":
        return math.isqrt(count << 2 * _ROOT_BITS)
    return 1 if sampling == "balanced" else count
