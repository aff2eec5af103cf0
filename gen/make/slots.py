"""The slots of a unit: which draw is made next, and which row each draw gets; pure.

In: for each slot the number of draws it has, and the status of each draw once it is known, with the word whether other
draws of its slot would end so too. Out: batches of draws, and a row number for each draw. A slot's last draw (its
success, or its last failure) has the slot's own number; draws rejected before it get num_slots, num_slots + 1, … in the
order of rejection. On disk: nothing.

Low slots come first. So a rejected slot is drawn again before new slots, and finished ones can be written in order.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from shards.disk.layout import SUCCESS


@dataclass(frozen=True, order=True)
class Draw:
    """One try at one slot; 0 is the first."""

    slot: int
    draw: int


class Slots:
    """The queue of a unit. The same calls with the same statuses give the same draws and rows."""

    def __init__(self, num_draws: Sequence[int]) -> None:
        """``num_draws``: of each slot, 1 or more."""
        self.num_draws = num_draws
        self.num_filled = 0
        self.num_short = 0
        self.num_rejected = 0  # draws, those of short slots included
        self.num_final = 0  # of these: no other draw of their slots would do better
        self._waiting = [Draw(slot, 0) for slot in range(len(num_draws))]
        self._next_row = len(num_draws)

    @property
    def exhausted(self) -> bool:
        """Nothing is waiting; draws that are under way may still come back."""
        return not self._waiting

    def take(self, size: int) -> list[Draw]:
        """The next batch, ascending by slot; a slot is in it at most once."""
        return [heapq.heappop(self._waiting) for _ in range(min(size, len(self._waiting)))]

    def settle(self, draws: Sequence[Draw], statuses: Sequence[str], finals: Sequence[bool]) -> list[int]:
        """The row of each draw; a rejected one is queued again while its slot has draws left, unless it is final."""
        rows = []
        for draw, status, is_final in zip(draws, statuses, finals, strict=True):
            if status == SUCCESS:
                self.num_filled += 1
                rows.append(draw.slot)
                continue
            self.num_rejected += 1
            self.num_final += is_final
            if draw.draw + 1 < self.num_draws[draw.slot] and not is_final:
                heapq.heappush(self._waiting, Draw(draw.slot, draw.draw + 1))
                rows.append(self._next_row)
                self._next_row += 1
            else:
                self.num_short += 1
                rows.append(draw.slot)
        return rows
