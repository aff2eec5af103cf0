"""Several runs that make one output together: each unit is claimed by one of them, and no run is told its share.

In: a store, the id of this life, units. Out: the units that this run is to make, as they become free. On disk, below
`_meta/shared/`: `<life>/lease.json`, a run's sign of life, as that of `cluster.process.lease`, removed at its end;
`claims/<unit>.<n>`, made exclusively: the life that has the unit in its n-th claim, what that life was submitted with,
and how far it is (`claimed`, `begun`, `failed`). All claims of a unit are removed once it has a record.

Runs may join and leave at any time. A run that leaves gives back what it has claimed and not made. A claim whose run
was killed, or whose heart has not beaten for a while of this machine's clock, is taken over by the next number. A *try*
is a claim whose run was killed after it had begun the unit, or failed at it; after `attempts` tries the unit is left,
so that one that kills its process does not kill all. Tries that were over before this run came do not count, unless
they are of the same submission: the same command again tries once more. A claim only saves double work: units are
published exclusively.
"""

import contextlib
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol

from cluster.process.identity import alive
from cluster.process.lease import PATIENCE_S, Holder, Lease, last_holder
from cluster.process.stop_flag import StopFlag
from cluster.process.writers import READERS, SHARED, WriterStore, end_for, lease_folder
from cluster.waiting import waiting
from shards.disk.amounts import counted
from shards.disk.record import ATTEMPT_PATTERN

CLAIMS = f"{SHARED}/claims"
LOOK_S = 2.0  # between two looks at what other runs have made
State = Literal["claimed", "begun", "failed"]


class ClaimStore(WriterStore, Protocol):
    """What claims need of a store."""

    def list(self, prefix: str = "") -> "list[str]":
        """The names of the files directly in a folder."""

    def delete(self, name: str) -> None:
        """Remove a file if it is there."""

    def delete_folder(self, name: str) -> None:
        """Remove a folder if it is there and empty."""


@dataclass(frozen=True)
class Claim:
    """What a claim's file says; one of an earlier version says the life alone."""

    life: str  # "": the file is damaged, and the claim of nobody
    submission: str = ""
    state: str = "claimed"

    def to_bytes(self) -> bytes:
        """The contents of the file."""
        return f"{self.life} {self.submission} {self.state}\n".encode("ascii")

    @classmethod
    def of(cls, data: bytes) -> "Claim":
        """What the file says."""
        words = data[:1000].decode("ascii", "replace").split()
        if not words or len(words) > 3 or not ATTEMPT_PATTERN.fullmatch(words[0]):
            return cls("")
        return cls(*words)


class Claims:
    """This run's part in an output that it shares. Enter it to show that the run lives."""

    def __init__(
        self,
        store: ClaimStore,
        life: str,
        submission: str,
        attempts: int,
        is_done: Callable[[int], bool],
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`life`: the id of this run; `submission`: of what it was submitted with; `attempts`: tries of a unit."""
        self._store, self._attempts, self._is_done, self._patience_s = store, attempts, is_done, patience_s
        self._me = Claim(life, submission)
        self._last: dict[int, int] = {}  # unit: the number of its newest claim
        self._beats: dict[str, tuple[int, float]] = {}  # life: its heartbeat, and since when it is that
        self._before: set[tuple[int, int]] | None = None  # claims whose lives were over when this run came
        self._first_beats: dict[str, int] = {}  # life elsewhere: its heartbeat when this run came
        self._mine: dict[int, int] = {}  # unit: the number of this run's claim, until it is made or given back
        self.left: dict[int, int] = {}  # units that no run takes any more: how often they were tried

    @contextlib.contextmanager
    def joined(self, on_lost: Callable[[str], None]) -> Iterator[Lease]:
        """The other runs see that this one lives, inside. At the end nothing stays claimed."""
        folder = lease_folder(self._me.life)
        with Lease.take(self._store, self._me.life, on_lost, folder=folder) as lease:
            try:
                yield lease
            finally:
                with contextlib.suppress(Exception):  # a store that is away: then the others see that this run is over
                    self.give_back()
        with contextlib.suppress(Exception):
            newest = last_holder(self._store, folder)
            if newest is not None and newest.life == self._me.life and newest.released:
                self._store.delete(f"{folder}/leases/{lease.generation:06d}.json")
                self._store.delete(f"{folder}/lease.json")
                for name in (f"{folder}/leases", folder):
                    self._store.delete_folder(name)

    def take(self, units: Sequence[int]) -> Iterator[int]:
        """The units that this run makes: each is claimed when it is asked for. Those that other runs make are passed
        over. Each run begins elsewhere, so that they seldom want the same."""
        self._look()
        first = zlib.crc32(self._me.life.encode()) % max(1, len(units))
        for unit in [*units[first:], *units[:first]]:
            if self._claim(unit):
                yield unit

    def begun(self, unit: int) -> None:
        """This run begins to make a unit that it has claimed: if it is killed from now on, that is a try."""
        self._say(unit, "begun")

    def failed(self, unit: int) -> None:
        """This run gives the unit up: that is a try, and another run may take it."""
        self._say(unit, "failed")
        self._mine.pop(unit, None)

    def give_back(self) -> None:
        """What this run has claimed and not made is free again, and was no try."""
        self.missing(list(self._mine))
        for unit, number in list(self._mine.items()):
            self._store.delete(_name(unit, number))
            del self._mine[unit]

    def missing(self, units: Sequence[int]) -> list[int]:
        """Those that have no record yet; the claims of those that this run made are removed."""
        missing = []
        for unit in units:
            if not self._is_done(unit):
                missing.append(unit)
            elif unit in self._mine:
                for number in range(1, self._mine.pop(unit) + 1):
                    self._store.delete(_name(unit, number))
        return missing

    def wait(self, units: Sequence[int], stop: StopFlag, look_s: float = LOOK_S) -> list[int]:
        """Wait for what other runs make. The units that are still missing when one of them is free for this run; none
        when all are done, or left. Ends early after a stop request. A run whose heart does not beat is waited for no
        longer, so the wait ends."""
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
        found = []
        for name in self._store.list(f"{CLAIMS}/"):
            unit, _, number = name.rpartition("/")[2].partition(".")
            if unit.isdecimal() and number.isdecimal():
                found.append((int(unit), int(number)))
        self._last = {}
        for one, nth in sorted(found):
            self._last[one] = nth
        if self._before is None:
            self._before = set()
            self._look_first(found)

    def _look_first(self, found: Collection[tuple[int, int]]) -> None:
        """Which claims are of runs that were over before this one came."""
        with ThreadPoolExecutor(READERS) as pool:
            claims = dict(zip(found, pool.map(lambda one: self._read(*one), found), strict=True))
            lives = {claim.life for claim in claims.values() if claim is not None and claim.life}
            holders = dict(zip(lives, pool.map(self._holder, lives), strict=True))
        self._first_beats = {life: one.heartbeat for life, one in holders.items() if one and not one.is_here}
        assert self._before is not None
        for place, claim in claims.items():
            if claim is None:  # given back: another life may have this number yet
                continue
            holder = holders.get(claim.life)
            is_over = holder is None or (holder.is_here and not alive(holder.process))
            if is_over or claim.state == "failed":
                self._before.add(place)

    def _claim(self, unit: int) -> bool:
        if not self._is_free(unit):
            return False
        number = self._last.get(unit, 0) + 1
        self._last[unit] = number
        if not self._store.write_exclusive(_name(unit, number), self._me.to_bytes()):
            return False  # another run was faster
        if self._is_done(unit):  # published since we looked
            self._store.delete(_name(unit, number))
            return False
        self._mine[unit] = number
        return True

    def _say(self, unit: int, state: State) -> None:
        if unit in self._mine:
            with contextlib.suppress(Exception):  # a store that is away: then it counts as no try
                said = Claim(self._me.life, self._me.submission, state)
                self._store.replace(_name(unit, self._mine[unit]), said.to_bytes())

    def _is_free(self, unit: int) -> bool:
        number = self._last.get(unit, 0)
        if self._is_done(unit):
            return False
        if number == 0:
            return True
        claim = self._read(unit, number)
        if claim is None:  # given back since it was listed, or its unit is done
            return not self._is_done(unit)
        if claim.life == self._me.life or (claim.state != "failed" and not self._has_ended(claim.life)):
            return False
        tries = sum(self._is_try(unit, nth) for nth in range(1, number + 1))
        if tries >= self._attempts:
            self.left[unit] = tries
            return False
        return True

    def _is_try(self, unit: int, number: int) -> bool:
        """Whether a claim whose run has ended, or failed at it, counts."""
        claim = self._read(unit, number)
        if claim is None or claim.state == "claimed":
            return False
        if claim.submission != self._me.submission and self._was_over(unit, number, claim.life):
            return False
        return claim.state == "failed" or self._was_killed(claim.life)

    def _was_over(self, unit: int, number: int, life: str) -> bool:
        if (unit, number) in (self._before or ()):
            return True
        first, last = self._first_beats.get(life), self._beats.get(life)
        return first is not None and last is not None and first == last[0]  # its heart has not beaten since

    def _was_killed(self, life: str) -> bool:
        """Of a life that has ended: whether nobody has marked its end, or another life has."""
        found = last_holder(self._store, lease_folder(life))
        return found is not None and (found.life != life or not found.released)

    def _has_ended(self, life: str) -> bool:
        holder = self._holder(life) if life else None
        if holder is None:
            return True
        is_dead = holder.is_here and not alive(holder.process)
        beat, since = self._beats.get(life, (-1, 0.0))
        if beat != holder.heartbeat:
            self._beats[life] = (holder.heartbeat, time.monotonic())
        elif time.monotonic() - since > self._patience_s:
            is_dead = True
        if is_dead:
            with contextlib.suppress(Exception):  # a store that is away: the next look tells
                end_for(self._store, life, self._me.life)
        return is_dead

    def _holder(self, life: str) -> Holder | None:
        """The lease of a life that has not ended as far as the lease says."""
        found = last_holder(self._store, lease_folder(life))
        return None if found is None or found.released or found.life != life else found

    def _read(self, unit: int, number: int) -> Claim | None:
        """What a claim says; None if it is gone."""
        try:
            return Claim.of(self._store.read_bytes(_name(unit, number)))
        except FileNotFoundError:
            return None


def _name(unit: int, number: int) -> str:
    return f"{CLAIMS}/{unit:05d}.{number}"
