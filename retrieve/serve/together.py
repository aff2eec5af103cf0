"""Queries of several threads in one scan: whoever comes first takes along all that wait.

In: vectors, one from each thread. Out: to each thread the nearest of its own. On disk: nothing.

A scan reads all vectors of a pool once, for one query or for sixty. A query's result does not depend on the others of
its scan (`retrieve.scan`), so it is what it would be alone.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from retrieve.scan.nearest import Nearest

MOST = 64  # queries of one scan

Tick = Callable[[], None]  # called now and then in a scan; raises TimeoutError when nobody waits for it any more
Scan = Callable[[np.ndarray, int, Tick], Nearest]  # queries Q D, k


@dataclass(eq=False)
class _Asked:
    query_D: np.ndarray
    k: int
    until: float  # time.monotonic()
    rows: np.ndarray | None = None
    scores: np.ndarray | None = None
    error: Exception | None = None

    @property
    def is_open(self) -> bool:
        return self.rows is None and self.error is None


class Together:
    """Used by any number of threads; one of them scans at a time."""

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self._waiting: list[_Asked] = []
        self._guard = threading.Lock()  # of the list
        self._turn = threading.Lock()  # to scan
        self.is_closed = False

    def nearest(self, query_D: np.ndarray, k: int, until: float) -> tuple[np.ndarray, np.ndarray]:
        """(rows int64, scores float32) of the at most `k` nearest. Raises TimeoutError at `until`, and what the scan
        raises."""
        mine = _Asked(query_D, k, until)
        with self._guard:
            self._waiting.append(mine)
        if not self._turn.acquire(timeout=max(0.0, until - time.monotonic())):
            with self._guard:
                if mine in self._waiting:
                    self._waiting.remove(mine)
            raise TimeoutError("waited for other searches")
        try:
            while mine.is_open:
                with self._guard:
                    now, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                self._answer(now)
        finally:
            self._turn.release()
        if mine.error is not None:
            raise mine.error
        assert mine.rows is not None
        assert mine.scores is not None
        return mine.rows, mine.scores

    def _answer(self, now: list[_Asked]) -> None:
        until = max(one.until for one in now)

        def tick() -> None:
            if self.is_closed or time.monotonic() > until:
                raise TimeoutError("the scan took too long")

        try:
            found = self._scan(np.stack([one.query_D for one in now]), max(one.k for one in now), tick)
        except Exception as error:  # each thread raises it
            for one in now:
                one.error = error
            return
        for place, one in enumerate(now):
            is_row = found.rows[place, : one.k] >= 0
            one.scores = found.scores[place, : one.k][is_row]
            one.rows = found.rows[place, : one.k][is_row]
