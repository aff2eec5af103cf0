"""Several runs that make one output together: each unit is claimed by one of them, and no run is told its share.

In: a store, the id of this life, units. Out: the units that this run is to make, as they become free. On disk, below
`_meta/shared/`: `<life>/lease.json`, a run's sign of life, as that of `cluster.process.lease`; `claims/<unit>.<n>`,
made exclusively, which holds the life that makes the unit in its n-th try. It is removed once the unit has a record.

Runs may join and leave at any time. A claim whose run has ended, or whose heart has not beaten for a while of this
machine's clock, is taken over by the next number; after `attempts` numbers the unit is left, so that one that kills its
process does not kill all. A claim only saves double work: units are published exclusively.
"""

import contextlib
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from cluster.process.identity import alive
from cluster.process.lease import PATIENCE_S, Holder, Lease, LeaseStore, last_holder
from cluster.process.stop_flag import StopFlag
from cluster.waiting import waiting
from shards.disk.amounts import counted
from shards.disk.record import ATTEMPT_PATTERN

SHARED = "_meta/shared"
CLAIMS = f"{SHARED}/claims"
LOOK_S = 2.0  # between two looks at what other runs have made


class ClaimStore(LeaseStore, Protocol):
    """What claims need of a store."""

    def list(self, prefix: str = "") -> "list[str]":
        """The names of the files directly in a folder."""

    def delete(self, name: str) -> None:
        """Remove a file if it is there."""


class Claims:
    """This run's part in an output that it shares. Enter it to show that the run lives."""

    def __init__(
        self,
        store: ClaimStore,
        life: str,
        attempts: int,
        is_done: Callable[[int], bool],
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._store, self._life, self._attempts, self._is_done = store, life, attempts, is_done
        self._patience_s = patience_s
        self._last: dict[int, int] = {}  # unit: the number of its newest claim
        self._beats: dict[str, tuple[int, float]] = {}  # life: its heartbeat, and since when it is that
        self._mine: set[int] = set()
        self.left: dict[int, int] = {}  # units that no run takes any more: how often they were claimed

    @contextlib.contextmanager
    def joined(self, on_lost: Callable[[str], None]) -> Iterator[Lease]:
        """The other runs see that this one lives, inside."""
        with Lease.take(self._store, self._life, on_lost, folder=f"{SHARED}/{self._life}") as lease:
            yield lease

    def take(self, units: Sequence[int]) -> Iterator[int]:
        """The units that this run makes: each is claimed when it is asked for. Those that other runs make are passed
        over. Each run begins elsewhere, so that they seldom want the same."""
        self._look()
        first = zlib.crc32(self._life.encode()) % max(1, len(units))
        for unit in [*units[first:], *units[:first]]:
            if self._claim(unit):
                self._mine.add(unit)
                yield unit

    def missing(self, units: Sequence[int]) -> list[int]:
        """Those that have no record yet; the claims of those that this run made are removed."""
        missing = []
        for unit in units:
            if not self._is_done(unit):
                missing.append(unit)
            elif unit in self._mine:
                self._mine.discard(unit)
                for number in range(1, self._last.get(unit, 0) + 1):
                    self._store.delete(_name(unit, number))
        return missing

    def wait(self, units: Sequence[int], stop: StopFlag, look_s: float = LOOK_S) -> list[int]:
        """Wait for what other runs make. The units that are still missing when one of them is free for this run; none
        when all are done, or left. Ends early after a stop request."""
        missing = list(units)
        with waiting(lambda: f"waiting for {counted(len(missing), 'shard')} that other runs make"):
            while True:
                self._look()
                missing = [unit for unit in self.missing(missing) if unit not in self.left]
                if not missing or stop.requested or any(self._is_free(unit) for unit in missing):
                    return missing
                time.sleep(look_s)

    def _look(self) -> None:
        """The newest claim of each unit."""
        for name in self._store.list(f"{CLAIMS}/"):
            unit, _, number = name.rpartition("/")[2].partition(".")
            if unit.isdecimal() and number.isdecimal():
                self._last[int(unit)] = max(self._last.get(int(unit), 0), int(number))

    def _claim(self, unit: int) -> bool:
        if not self._is_free(unit):
            return False
        number = self._last.get(unit, 0) + 1
        if not self._store.write_exclusive(_name(unit, number), self._life.encode()):
            self._last[unit] = number  # another run was faster
            return False
        self._last[unit] = number
        if self._is_done(unit):  # published since we looked
            self._store.delete(_name(unit, number))
            return False
        return True

    def _is_free(self, unit: int) -> bool:
        number = self._last.get(unit, 0)
        if self._is_done(unit):
            return False
        if number == 0:
            return True
        try:
            life = self._store.read_bytes(_name(unit, number)).decode("ascii", "replace")
        except FileNotFoundError:  # removed since it was listed: its unit is done, or will be claimed anew
            return not self._is_done(unit)
        if life == self._life or not self._has_ended(life):
            return False
        if number >= self._attempts:
            self.left[unit] = number
            return False
        return True

    def _has_ended(self, life: str) -> bool:
        holder: Holder | None = None
        if ATTEMPT_PATTERN.fullmatch(life):  # else a damaged claim, of nobody
            holder = last_holder(self._store, f"{SHARED}/{life}")
        if holder is None or holder.released:
            return True
        if holder.is_here:
            return not alive(holder.process)
        beat, since = self._beats.get(life, (-1, 0.0))
        if beat != holder.heartbeat:
            self._beats[life] = (holder.heartbeat, time.monotonic())
            return False
        return time.monotonic() - since > self._patience_s


def _name(unit: int, number: int) -> str:
    return f"{CLAIMS}/{unit:05d}.{number}"
