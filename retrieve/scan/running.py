"""The best candidates so far of every query, by scores that are known within a margin.

In: candidates (query, rough score, row). Out: those that may be among the k best. On disk: nothing. Q queries, W places
of a query.

A rough score r of a true score s is within margin + ROUNDING x |r| of it. The k-th best rough score therefore tells
below which rough score nothing can belong to the k best: `floor`. Candidates gather in free places; where they are
full, what has fallen below the floor goes. If too many are too close to tell, their true scores are asked for.
"""

from collections.abc import Callable

import numpy as np

from retrieve.scan.nearest import pack, unpack

LEAST_ROOM = 64
SLACK = 1.01  # covers the products of small errors

TrueScores = Callable[[np.ndarray, np.ndarray], np.ndarray]  # queries, rows -> float32


class Running:
    """Used by one thread."""

    def __init__(self, num_queries: int, k: int, rounding: float, true_scores: TrueScores) -> None:
        self._k, self._rounding, self._true = k, rounding, true_scores
        self._room = max(k, LEAST_ROOM)
        self._packed = np.zeros((num_queries, k + self._room), np.uint64)
        self._fill = np.zeros(num_queries, np.int64)
        self.floor = np.full(num_queries, -np.inf, np.float32)  # rough scores below it are of no use
        self.margin = np.zeros(num_queries, np.float64)  # greatest so far

    def start_at(self, true_scores: np.ndarray) -> None:
        """Nothing whose true score is below is of interest; with the margin of now. -inf: all is."""
        queries = np.flatnonzero(np.isfinite(true_scores))
        wide = true_scores[queries].astype(np.float64)
        self._raise_floor(queries, wide - SLACK * self.margin[queries] - 2 * self._rounding * np.abs(wide))

    def told(self, queries: np.ndarray, kth: np.ndarray) -> None:
        """`kth`: rough scores that k candidates of each query reach or exceed."""
        wide = kth.astype(np.float64)
        bound = wide - 2 * SLACK * self.margin[queries] - 3 * self._rounding * np.abs(wide)
        self._raise_floor(queries, bound)

    def add(self, queries: np.ndarray, scores: np.ndarray, rows: np.ndarray) -> None:
        """Candidates, ordered by query: rough scores, float32; rows of the file."""
        packed = pack(scores, rows)
        while len(queries):
            is_first = np.concatenate([[True], queries[1:] != queries[:-1]])
            begins = np.flatnonzero(is_first)
            place = self._fill[queries] + np.arange(len(queries)) - np.repeat(begins, np.diff([*begins, len(queries)]))
            fits = place < self._packed.shape[1]
            self._packed[queries[fits], place[fits]] = packed[fits]
            self._fill += np.bincount(queries[fits], minlength=len(self._fill))
            queries, packed = queries[~fits], packed[~fits]
            if len(queries):
                self._clear(np.unique(queries))
                still = unpack(packed)[0] >= self.floor[queries]
                queries, packed = queries[still], packed[still]

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """(queries, rows) of all candidates that may be among the k best."""
        full = np.flatnonzero(self._fill > self._k)
        if len(full):
            self._clear(full)
        queries, place = np.nonzero(self._packed)
        return queries, unpack(self._packed[queries, place])[1]

    def _clear(self, queries: np.ndarray) -> None:
        """Drops what is below the floor; at least half of the room is free after it."""
        packed = np.sort(self._packed[queries], axis=1)[:, ::-1]
        scores, rows = unpack(packed)
        enough = self._fill[queries] >= self._k
        self.told(queries[enough], scores[enough, self._k - 1])
        left = ((packed != 0) & (scores >= self.floor[queries, None])).sum(axis=1)
        for place in np.flatnonzero(left > self._k + self._room // 2):
            num, query = left[place], queries[place]
            true = self._true(np.full(num, query), rows[place, :num])
            packed[place, :num] = np.sort(pack(true, rows[place, :num]))[::-1]
            left[place] = self._k
        packed[np.arange(packed.shape[1]) >= left[:, None]] = 0
        self._packed[queries], self._fill[queries] = packed, left

    def _raise_floor(self, queries: np.ndarray, bound: np.ndarray) -> None:
        below = np.nextafter(bound.astype(np.float32), np.float32(-np.inf))
        self.floor[queries] = np.maximum(self.floor[queries], below)
