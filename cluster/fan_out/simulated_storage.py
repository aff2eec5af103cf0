"""A storage that all workers of a simulated cluster share: n transfers at once each get an n-th of its bandwidth.

In: transfers that begin or are given up, each with the time. Out: when the next one ends, and which have ended. On
disk: nothing.

All transfers have the same rate at any time, so each one ends when the bytes that *any* transfer would have got since
the start of the world reach its own mark. One heap of marks therefore answers every question, for any number of
transfers.
"""

import heapq
import math

ROUNDING = 1e-3  # of a byte


class SimulatedStorage:
    """``bytes_per_s`` for all together, ``link_bytes_per_s`` at most for one; 0 = no limit."""

    def __init__(self, bytes_per_s: float, link_bytes_per_s: float) -> None:
        self._all = bytes_per_s or math.inf
        self._link = link_bytes_per_s or math.inf
        self._now = 0.0
        self._each = 0.0  # bytes that a transfer had got by now, had it begun with the world
        self._marks: list[tuple[float, int]] = []
        self._under_way: dict[int, float] = {}  # key: its mark
        self.bytes_moved = 0.0  # of transfers that ended
        self.most_at_once = 0

    @property
    def has_limit(self) -> bool:
        """Whether a transfer takes any time."""
        return not (math.isinf(self._all) and math.isinf(self._link))

    def begin(self, key: int, num_bytes: float, now: float) -> None:
        """Begin a transfer; ``key`` has no other one."""
        assert key not in self._under_way, f"transfer {key} has begun already"
        self._advance(now)
        mark = self._each + num_bytes
        self._under_way[key] = mark
        heapq.heappush(self._marks, (mark, key))
        self.bytes_moved += num_bytes
        self.most_at_once = max(self.most_at_once, len(self._under_way))

    def give_up(self, key: int, now: float) -> None:
        """Forget the transfer, if there is one: its reader or writer is gone."""
        if key in self._under_way:
            self._advance(now)
            self.bytes_moved -= self._under_way.pop(key) - self._each

    def next_end(self) -> float | None:
        """When the next transfer ends, if none begins or is given up before."""
        self._forget_marks()
        if not self._marks:
            return None
        return self._now + max(0.0, self._marks[0][0] - self._each) / self._rate()

    def take_ended(self, now: float) -> list[int]:
        """The transfers that end at ``now``, which is the time that ``next_end`` last told."""
        self._advance(now)
        self._forget_marks()
        ended: list[int] = []
        while self._marks and (not ended or self._marks[0][0] <= self._each + ROUNDING):
            ended.append(heapq.heappop(self._marks)[1])
            del self._under_way[ended[-1]]
            self._forget_marks()
        return ended

    def _advance(self, now: float) -> None:
        if self._under_way:
            self._each += (now - self._now) * self._rate()
        self._now = now

    def _rate(self) -> float:
        return min(self._link, self._all / len(self._under_way))

    def _forget_marks(self) -> None:
        while self._marks and self._under_way.get(self._marks[0][1]) != self._marks[0][0]:
            heapq.heappop(self._marks)
