"""Who writes to an output now: one run that has it to itself, or the runs that share it.

In: a store. Out: the `Holder`s that work there, as far as one can tell from this machine; the lease of a run that
shares with nobody. On disk: `_meta/lease.json` and its company (`cluster.process.lease`), of the run that has the
output to itself or opens it; `_meta/shared/<life>/lease.json`, of each run that shares it (`cluster.fan_out.claims`).

A run that shares an output shows its own lease before it gives the other one back, so no moment is without a writer.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from cluster.process.identity import alive
from cluster.process.lease import PATIENCE_S, Holder, Lease, LeaseHeld, LeaseStore, last_holder
from shards.disk.amounts import counted
from shards.disk.record import ATTEMPT_PATTERN
from shards.disk.store import FolderStore, ObjectStore, open_store

SHARED = "_meta/shared"
READERS = 16  # threads that read the leases of an array


class WriterStore(LeaseStore, Protocol):
    """What is needed of a store to find who writes there."""

    def folders(self, prefix: str = "") -> list[str]:
        """The names of the folders directly in a folder."""


def lease_folder(life: str) -> str:
    """Where the lease of a run that shares an output lies; `life`: its id."""
    return f"{SHARED}/{life}"


def sharers(store: WriterStore) -> list[Holder]:
    """The runs that share the output of ``store`` and work there now, as far as one can tell from this machine: one of
    another machine counts until its lease says that it has ended."""
    lives = [name.rpartition("/")[2] for name in store.folders(f"{SHARED}/")]
    lives = [life for life in lives if ATTEMPT_PATTERN.fullmatch(life)]
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda life: last_holder(store, lease_folder(life)), lives)
        # a lease of another life: who took it over saw that this one had ended
        return [one for life, one in zip(lives, found, strict=True) if one and one.life == life and _may_work(one)]


def writers_of(store: WriterStore) -> list[Holder]:
    """Who writes to the output of ``store`` now, as far as one can tell from this machine; a run that opens it or has
    it to itself stands first."""
    beside = sharers(store)  # first: a run that stops sharing does not take the other lease again
    alone = last_holder(store)
    if alone is None or not _may_work(alone):
        return beside
    return [alone, *(one for one in beside if one.life != alone.life)]


def told_writers(writers: Sequence[Holder]) -> str | None:
    """Who they are, in words; None if there are none. Those that are surely at work stand for the others."""
    if not writers:
        return None
    first = next((one for one in writers if one.is_here), writers[0])
    others = f", and {counted(len(writers) - 1, 'run')} beside it" if len(writers) > 1 else ""
    return f"{first.words}{others}"


def take_alone(
    store: WriterStore,
    life: str,
    on_lost: Callable[[str], None],
    *,
    lock_folder: Path | None = None,
    patience_s: float = PATIENCE_S,
    sleep: Callable[[float], None] = time.sleep,
) -> Lease:
    """As `Lease.take`, for a run that shares with nobody. Raises LeaseHeld too while other runs share the output.

    Runs elsewhere are watched first, all at once, for `patience_s`. Those whose heart did not beat lose their leases:
    one that was only frozen sees that at its next beat, and stops.
    """
    silent = _silent(store, patience_s, sleep)
    lease = Lease.take(store, life, on_lost, lock_folder=lock_folder, patience_s=patience_s, sleep=sleep)
    try:
        if came := [one for one in sharers(store) if one.life not in silent]:  # while this one watched or waited
            raise _shared(came)
        for one in silent:
            end_for(store, one, life)
    except BaseException:
        lease.release()
        raise
    return lease


def end_for(store: LeaseStore, life: str, by: str) -> None:
    """Take the lease of a run that shares an output and has ended, so that everybody sees the end; `by`: the life that
    saw it. Leaves the lease of one that lives here after all."""
    with contextlib.suppress(LeaseHeld):
        Lease.take(store, by, _ignore, patience_s=0.0, folder=lease_folder(life)).release()


@contextlib.contextmanager
def written_by_one(url: str, life: str, on_lost: Callable[[str], None]) -> Iterator[FolderStore | ObjectStore]:
    """A data set, opened to write, that nobody else writes meanwhile. Raises LeaseHeld, and ValueError as
    `open_store` does."""
    store = open_store(url)
    with written_alone(store, life, on_lost):
        yield store


def written_alone(store: FolderStore | ObjectStore, life: str, on_lost: Callable[[str], None]) -> Lease:
    """The lease of an open data set that nobody else writes meanwhile. Raises LeaseHeld."""
    return take_alone(store, life, on_lost, lock_folder=store.root if isinstance(store, FolderStore) else None)


def _may_work(holder: Holder) -> bool:
    return not holder.released and (not holder.is_here or alive(holder.process))


def _silent(store: WriterStore, patience_s: float, sleep: Callable[[float], None]) -> set[str]:
    """The lives of the runs that share the output and show no sign of life while they are watched. Raises LeaseHeld if
    one of them works."""
    before = {one.life: one.heartbeat for one in sharers(store)}
    waited, step = 0.0, min(1.0, patience_s / 10)
    while before:
        now = sharers(store)
        if working := [one for one in now if one.is_here or before.get(one.life, -1) != one.heartbeat]:
            raise _shared(working)
        if not now or waited >= patience_s:
            return {one.life for one in now}
        sleep(step)
        waited += step
    return set()


def _shared(writers: Iterable[Holder]) -> LeaseHeld:
    return LeaseHeld(
        f"runs that share this output are writing here ({told_writers(list(writers))}); wait for them, stop them with "
        "SIGTERM, or choose another output folder"
    )


def _ignore(reason: str) -> None:
    """The lease of a run that has ended is of use to nobody."""
