"""The lease of an output folder: one run writes there at a time.

In: a store (a folder or a URL) and this process. Out: a ``Lease``, held while the run works, or ``LeaseHeld``, which
names the holder.
On disk: ``_meta/lease.json`` (who, generation, heartbeat, how far it is; replaced on every beat),
``_meta/leases/<generation>.json`` (created exclusively: the act of taking), and for local folders
``_meta/lease.lock`` (flock).

Clocks of two machines are never compared, so a wrong clock cannot take a lease over:
* a holder on this machine is judged by its process (boot, pid namespace, pid, start time) and the flock;
* a holder elsewhere is watched for ``patience_s`` of this machine's clock: if its heartbeat changes, it lives;
* whoever takes over creates the file of the next generation exclusively, so of two takers one wins;
* a holder that was frozen and goes on sees the newer generation at its next beat and stops.

The lease only saves double work: two runs at once would still be correct, because units are published exclusively.
"""

import contextlib
import dataclasses
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from cluster.process.identity import ProcessId, alive, this_place, this_process
from shards.disk.checked_json import plain_json
from shards.disk.lock import locked
from shards.disk.regular import NO_FILE

FOLDER = "_meta"  # where the files of a lease lie
LEASE = f"{FOLDER}/lease.json"
LOCK = "_meta/lease.lock"
HEARTBEAT_S = 10.0
PATIENCE_S = 45.0
MAX_DOING = 300  # characters


class LeaseStore(Protocol):
    """What the lease needs of a store; names are relative, with slashes."""

    def read_bytes(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError if there is none."""

    def exists(self, name: str) -> bool:
        """Whether the file is there now."""

    def write_exclusive(self, name: str, data: bytes) -> bool:
        """Create the file; False, and nothing changed, if it exists."""

    def replace(self, name: str, data: bytes) -> None:
        """Write the file as a whole over what is there."""


class LeaseHeld(RuntimeError):
    """Another run holds the lease of this output; the message is one line and names it."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease: the contents of ``lease.json``."""

    generation: int
    host: str
    process: ProcessId
    life: str
    heartbeat: int = 0
    released: bool = False
    doing: str = ""  # how far it was at this heartbeat, in words

    def to_json(self) -> bytes:
        """The bytes of ``lease.json``."""
        return json.dumps(dataclasses.asdict(self), indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Self | None:
        """The holder in ``lease.json``; None if the file is damaged, and then only the generation files count."""
        try:
            row = plain_json(data)
            process = ProcessId(
                str(row["process"]["place"]), int(row["process"]["pid"]), int(row["process"]["started"])
            )
            return cls(
                int(row["generation"]), str(row["host"]), process, str(row["life"]),
                int(row["heartbeat"]), bool(row["released"]), str(row.get("doing", ""))[:MAX_DOING],
            )  # fmt: skip
        except (ValueError, KeyError, TypeError):
            return None

    @property
    def is_here(self) -> bool:
        """Whether its process is, or was, one of this machine."""
        return self.process.place == this_place()

    @property
    def words(self) -> str:
        """Who it is, for people who ask whether it still works."""
        return str(self) if self.is_here else f"{self}; on another machine, so nobody here can tell whether it works"

    def __str__(self) -> str:
        return f"host {self.host}, pid {self.process.pid}, life {self.life}, generation {self.generation}"


class Lease:
    """Held from ``take`` to ``release``; a context manager. ``lost`` turns true when a newer generation exists.

    ``doing``, which the holder sets, says how far the work is; each heartbeat writes it down for those who look.
    """

    def __init__(
        self,
        store: LeaseStore,
        holder: Holder,
        lock: contextlib.ExitStack,
        on_lost: Callable[[str], None],
        folder: str = FOLDER,
    ) -> None:
        self._store, self._holder, self._lock, self._on_lost, self._folder = store, holder, lock, on_lost, folder
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.lost = False
        self.doing: Callable[[], str] = lambda: ""

    @classmethod
    def take(
        cls,
        store: LeaseStore,
        life: str,
        on_lost: Callable[[str], None],
        *,
        lock_folder: Path | None = None,
        patience_s: float = PATIENCE_S,
        sleep: Callable[[float], None] = time.sleep,
        folder: str = FOLDER,
    ) -> Self:
        """Take the lease or raise LeaseHeld. ``lock_folder`` is the output's local path, if it has one. ``folder``:
        where the files of the lease lie; runs that share an output have one each, which only
        `cluster.process.writers.take_alone` looks at.

        ``on_lost`` is called once from the heartbeat's thread, with the reason, when another run has taken the lease
        over; give ``StopFlag.request``.
        """
        found = _read(store, folder)
        lock = _lock(lock_folder, found)
        try:
            if found is not None:
                _refuse_if_alive(store, found, patience_s, sleep, folder)
            generation = found.generation + 1 if found else 1
            me = Holder(generation, socket.gethostname(), this_process(), life)
            while not store.write_exclusive(f"{folder}/leases/{generation:06d}.json", me.to_json()):
                # taken: by a run that died before it wrote lease.json, or by one that was faster
                other = _holder(store, f"{folder}/leases/{generation:06d}.json")
                newest = _read(store, folder)
                _refuse_if_alive(
                    store, newest if newest and newest.generation >= generation else other, patience_s, sleep, folder
                )
                generation += 1
                me = dataclasses.replace(me, generation=generation)
            store.replace(_name(folder), me.to_json())
            return cls(store, me, lock, on_lost, folder)
        except BaseException:  # whatever happens, a run that did not get the lease must not keep the lock
            lock.close()
            raise

    @property
    def generation(self) -> int:
        """How many times this output has been taken, this time included."""
        return self._holder.generation

    def beat(self) -> None:
        """Write a heartbeat, unless a newer generation holds the lease."""
        newest = _read(self._store, self._folder)
        if newest is not None and newest.generation > self.generation:
            if not self.lost:
                self.lost = True
                self._on_lost(f"another run took this output over ({newest})")
            return
        if self._over.is_set():  # while it was read
            return
        beats = self._holder.heartbeat + 1
        self._holder = dataclasses.replace(self._holder, heartbeat=beats, doing=self.doing()[:MAX_DOING])
        self._store.replace(_name(self._folder), self._holder.to_json())

    def _beat_until_over(self) -> None:
        while not self._over.wait(HEARTBEAT_S) and not self.lost:
            with contextlib.suppress(Exception):  # whatever a store raises when it is full or away: the next beat tries
                self.beat()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._beat_until_over, name="lease heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def release(self) -> None:
        """Mark the output as free, if this run still holds it; the second time does nothing. Raises nothing: a store
        that is away says so to the run itself, and the next run finds out that this process has ended."""
        if self._over.is_set():
            return
        self._over.set()
        try:
            if self._thread is not None:
                self._thread.join(timeout=5.0)
            with contextlib.suppress(Exception):  # client libraries raise classes of their own
                newest = _read(self._store, self._folder)
                if newest is None or newest.generation == self.generation:
                    freed = dataclasses.replace(self._holder, released=True, doing="")
                    self._store.replace(_name(self._folder), freed.to_json())
        finally:
            self._lock.close()


def last_holder(store: LeaseStore, folder: str = FOLDER) -> Holder | None:
    """Who took the lease of a folder last, whether it lives or not; None if nobody did, or if its file is damaged."""
    return _read(store, folder)


def _name(folder: str) -> str:
    return f"{folder}/lease.json"


def _read(store: LeaseStore, folder: str = FOLDER) -> Holder | None:
    """Who took the lease last; None if nobody did, or if its file is damaged."""
    return _holder(store, _name(folder)) if store.exists(_name(folder)) else None


def _holder(store: LeaseStore, name: str) -> Holder | None:
    """The holder in a file; None if it is damaged, or no file at all."""
    try:
        return Holder.from_json(store.read_bytes(name))
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
        return None


def _lock(folder: Path | None, found: Holder | None) -> contextlib.ExitStack:
    """Holds the lock; nothing where there is no local folder. Where the file system has no locks the process and the
    heartbeat decide."""
    held = contextlib.ExitStack()
    if folder is not None:
        (folder / LOCK).parent.mkdir(parents=True, exist_ok=True)
        try:
            held.enter_context(locked(folder / LOCK))
        except TimeoutError:
            raise _held(found) from None
    return held


def _refuse_if_alive(
    store: LeaseStore, found: Holder | None, patience_s: float, sleep: Callable[[float], None], folder: str
) -> None:
    if found is None or found.released:
        return
    if found.process.place == this_place():
        if alive(found.process) and found.process != this_process():
            raise _held(found)
        return
    waited, step = 0.0, min(1.0, patience_s / 10)
    while waited < patience_s:
        sleep(step)
        waited += step
        now = _read(store, folder)
        if now is None or now.generation < found.generation:
            continue  # who was found died before it wrote lease.json, or will write it in a moment
        if now.released:
            return
        if (now.generation, now.heartbeat) != (found.generation, found.heartbeat):
            raise _held(now)


def _held(holder: Holder | None) -> LeaseHeld:
    return LeaseHeld(
        f"another run is writing here ({holder or 'it has not written its name yet'}); "
        "wait for it, stop it with SIGTERM, or choose another output folder"
    )
