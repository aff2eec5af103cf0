"""The commit protocol: how an attempt at a shard becomes the shard, exactly once, whatever is killed in between.

In: a store, a shard number, an attempt id; tar bytes as they come, then the table and the record. Out: the published
record, that of this attempt or of the one that won. On disk, for a folder (object stores: `object_commit.py`):

    _meta/tmp/NNNNN.<attempt>.tar .parquet .json    private to the attempt, which holds a lock (flock) on the tar
    _meta/claims/NNNNN.json                         a claim: the winner's record, linked here exclusively
    NNNNN.tar NNNNN.parquet NNNNN_stats.json        published; the record is the claim under its final name

    1  write tar and table to the temporaries while hashing, fsync, compare sizes; the same for the record
    2  claim: link the record's temporary to the claim; the first attempt wins; the claim names attempt and hashes
    3  finish: link tar and table to their final names, fsync the folder, link the claim to the record's name, fsync
    4  remove the temporaries, then the claim

Any process may do steps 3 and 4 for the winner, any number of times: a loser, the next run, any process that finds the
claim. So a winner that is stopped or dead blocks nobody, and a winner that goes on late finds its work done.

* Final files without a record are left-overs, and are replaced.
* A claim whose temporaries are gone or altered is void, and is put aside.
* An attempt with an I/O error before its claim is thrown away as a whole: no fsync of data is ever repeated.
* After the claim all data is on disk. `settle` finishes it in the next attempt, `recover` in the next run.

flock tells live attempts from dead ones when temporaries are collected. On a network mount without locks only
temporaries older than a day are collected; if one belonged to a live attempt, its commit would fail, and the unit would
be made again. Some mounts have locks that only the same machine sees; so while other runs share the output, the
temporaries of their attempts stay, and those of nobody in particular until they are a day old.

`repair` may run only while no run writes; the run's lease says so.
"""

import contextlib
import errno
import hashlib
import os
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shards.disk.file_calls import same_file, unlink_if_there, write_all
from shards.disk.layout import record_name, shard_name, table_name, tar_name
from shards.disk.lock import try_lock
from shards.disk.object_store import ObjectStore
from shards.disk.record import (
    ATTEMPT_PATTERN,
    MAX_RECORD_BYTES,
    FileStamp,
    Record,
    RecordError,
    parse_record,
    read_record,
)
from shards.disk.regular import read_regular, sha256_of
from shards.disk.store import CLAIMS, TMP, FolderStore, Store
from shards.set import object_commit
from shards.set.manifest import scan
from shards.set.quarantine import set_aside

OLD_S = 24 * 3600.0
_CLAIM_ROUNDS = 8
_FLUSH_BYTES = 1 << 20
_CLAIM = re.compile(r"(?P<shard>[0-9]{5})(\.g[0-9]{1,3})?\.json")  # of a folder; of an object store
_TEMP = re.compile(r"(?P<shard>[0-9]{5})\.(?P<attempt>[0-9a-z-]{1,40})\.(tar|parquet|json)(\.[0-9a-f]{16}\.spare)?")


class CommitError(OSError):
    """The disk failed this attempt. The unit can be tried again; ask `settle` first, because it may be done."""


class Attempt(Protocol):
    """An open attempt at one shard, with files of its own."""

    def write(self, data: bytes) -> None:
        """Append bytes to the tar. Raises OSError."""

    def publish(self, table: bytes, make_record: Callable[[FileStamp, FileStamp], Record]) -> Record:
        """Publish tar and table with the record that `make_record` makes of their sizes and hashes.

        Returns the record of the shard, which is another attempt's if that one won. Raises OSError.
        """

    def abandon(self) -> None:
        """Remove the temporaries; does nothing after `publish`."""


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """What `recover` found and what it did."""

    finished: tuple[int, ...] = ()  # shards whose claim was finished
    void: tuple[int, ...] = ()  # shards whose claim could not be finished and was put aside
    collected: tuple[str, ...] = ()  # temporaries of dead attempts, removed
    alive: tuple[str, ...] = ()  # temporaries of live attempts, left in place
    set_aside: tuple[int, ...] = ()  # shards whose record is invalid, or whose files are gone or cut short


def begin(store: FolderStore | ObjectStore, shard: int, attempt: str) -> Attempt:
    """Open an attempt. Raises ValueError for a bad or used attempt id, CommitError if the disk fails."""
    shard_name(shard)
    if not ATTEMPT_PATTERN.fullmatch(attempt):
        raise ValueError(f"attempt id: found {attempt[:60]!r}, expected 1..40 of 0-9, a-z and '-'")
    if isinstance(store, ObjectStore):
        return object_commit.ObjectAttempt(store, shard, attempt)
    return FolderAttempt(store, shard, attempt)


def settle(store: FolderStore | ObjectStore, shard: int) -> Record | None:
    """The record of `shard` if it is done; finishes a claim if there is one. None if the unit must be made.

    Cheap: a worker asks before it makes images. Raises RecordError if the record is invalid.
    """
    if isinstance(store, ObjectStore):
        return read_record(store, shard)
    return read_record(store, shard) or _finish(store, shard, None)


def recover(store: FolderStore | ObjectStore, now_s: float | None = None, lives: Collection[str] = ()) -> Recovered:
    """Finish the claims of earlier runs, remove their temporaries, and put their damaged shards aside.

    A run calls it at its start, and makes again what was put aside. It compares sizes, not bytes (`verify` does that).
    It leaves the temporaries of live attempts. `now_s`, in seconds since 1970, serves for temporaries without locks.
    `lives`: runs that share the output and work now; the ids of their attempts begin with them and a dash.
    """
    if isinstance(store, ObjectStore):
        return Recovered(finished=object_commit.finish_claims(store), set_aside=_set_torn_aside(store))
    # temporaries first: an attempt that claims after this listing still holds its lock or has its claim in the second
    # list
    temps = store.list(f"{TMP}/")
    finished: list[int] = []
    void: list[int] = []
    for name in store.list(f"{CLAIMS}/"):
        stem = name.rpartition("/")[2].removesuffix(".json")
        if len(stem) == 5 and stem.isdigit():
            (void if _finish(store, int(stem), None) is None else finished).append(int(stem))
    collected, alive = _collect(store, temps, time.time() if now_s is None else now_s, lives)
    return Recovered(
        finished=tuple(finished),
        void=tuple(void),
        collected=tuple(collected),
        alive=tuple(alive),
        set_aside=_set_torn_aside(store),
    )


def claimed(store: Store) -> dict[int, str]:
    """Shard -> fingerprint of its run, of the claims that are there. `recover`, or the next attempt at the shard,
    publishes what they name, so whoever asks whether anything was made asks for them too."""
    marks = {}
    for name in store.list(f"{CLAIMS}/"):
        if match := _CLAIM.fullmatch(name.rpartition("/")[2]):
            with contextlib.suppress(FileNotFoundError, RecordError):  # carried out just now; void
                data = store.read_range(name, 0, MAX_RECORD_BYTES)
                claim = parse_record(data, int(match["shard"]), f"{store.url}/{name}")
                marks[claim.shard] = claim.fingerprint
    return marks


class FolderAttempt:
    """An attempt at one shard in a folder; owns the temporary of the tar and its lock."""

    def __init__(self, store: FolderStore, shard: int, attempt: str) -> None:
        self.store, self.shard, self.attempt = store, shard, attempt
        self._tar, self._table, self._record = _temps(store, shard, attempt)
        self._buffer = bytearray()
        self._hash = hashlib.sha256()
        self._size = 0
        self._claimed = False
        self._fd = -1
        try:
            store.path_to_write(f"{TMP}/{self._tar.name}")
            self._fd = store.disk.create(self._tar)
        except FileExistsError:
            raise ValueError(
                f"attempt {attempt!r} at shard {shard} exists already; every try needs an id of its own"
            ) from None
        except OSError as error:
            raise self._failed(error) from error
        # fails if a collector has it for an instant, or on a mount without locks; the next line tells whether we exist
        with contextlib.suppress(OSError):
            try_lock(self._fd)
        if os.fstat(self._fd).st_nlink == 0:
            self.abandon()
            raise CommitError(
                f"shard {shard}, attempt {attempt}: the temporary was collected as it was made; try again"
            )

    def write(self, data: bytes) -> None:
        """Append bytes to the tar. Raises CommitError if the disk fails."""
        self._hash.update(data)
        self._size += len(data)
        self._buffer += data
        if len(self._buffer) >= _FLUSH_BYTES:
            self._flush()

    def publish(self, table: bytes, make_record: Callable[[FileStamp, FileStamp], Record]) -> Record:
        """Steps 1 to 4 of the protocol. Raises CommitError if the disk fails."""
        try:
            self._flush()
            self._sync(self._fd, self._tar, self._size)
            self._write_temp(self._table, table)
            ours = make_record(
                FileStamp(bytes=self._size, sha256=self._hash.hexdigest()),
                FileStamp(bytes=len(table), sha256=hashlib.sha256(table).hexdigest()),
            )
            self._write_temp(self._record, ours.to_bytes())
            claim = self.store.path_to_write(_claim_name(self.shard))
            for _ in range(_CLAIM_ROUNDS):
                done = read_record(self.store, self.shard)
                if done is None:
                    self._claimed = self.store.publish(self._record, claim)
                    done = _finish(self.store, self.shard, self.attempt if self._claimed else None)
                if done is not None:
                    self._claimed = False
                    return done
        except OSError as error:
            raise self._failed(error) from error
        finally:
            self.abandon()
        raise CommitError(
            f"{self.store.url}: shard {self.shard}: {_CLAIM_ROUNDS} claims were void; look at _meta/quarantine"
        )

    def abandon(self) -> None:
        """Remove the temporaries, unless they are claimed, and release the lock. A failing disk raises nothing here.

        A claim is never withdrawn, because another process may be finishing it.
        """
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            # the locked file goes last: whoever finds the others without it knows that their attempt is over
            for path in () if self._claimed else (self._table, self._record, self._tar):
                unlink_if_there(self.store.disk, path)
        except OSError:
            pass  # the error that matters is on its way up, and `recover` collects what is left
        finally:
            os.close(fd)

    def _flush(self) -> None:
        try:
            write_all(self.store.disk, self._fd, bytes(self._buffer))
        except OSError as error:
            raise self._failed(error) from error
        self._buffer.clear()

    def _write_temp(self, path: Path, data: bytes) -> None:
        fd = self.store.disk.create(path)
        try:
            write_all(self.store.disk, fd, data)
            self._sync(fd, path, len(data))
        finally:
            self.store.disk.close(fd)

    def _sync(self, fd: int, path: Path, size: int) -> None:
        self.store.disk.fsync(fd)
        if (found := os.fstat(fd).st_size) != size:
            raise OSError(errno.EIO, f"a write was cut short: found {found} bytes, expected {size}", str(path))

    def _failed(self, error: OSError) -> CommitError:
        if isinstance(error, CommitError):
            return error
        name = Path(error.filename).name if isinstance(error.filename, str) else self._tar.name
        return CommitError(
            f"{self.store.url}: shard {self.shard}, attempt {self.attempt}: {error.strerror or error} ({name}); "
            "the unit can be tried again"
        )


def _finish(store: FolderStore, shard: int, trusted: str | None) -> Record | None:
    """Finish the claim on `shard`; returns the published record, or None if there is no claim or a void one.

    The temporaries of attempt `trusted`, which this process has just written and synced, are not hashed again.
    """
    claim_path, record_path = _claim(store, shard), store.path(record_name(shard))
    try:
        data = read_regular(claim_path, MAX_RECORD_BYTES)
    except FileNotFoundError:
        return read_record(store, shard)
    done = read_record(store, shard)
    if done is None:
        try:
            claim = parse_record(data, shard, f"{store.url}/{CLAIMS}/{claim_path.name}")
        except RecordError as error:
            return _void(store, shard, str(error))
        tar_temp, table_temp, _ = _temps(store, shard, claim.attempt)
        for temp, name, stamp in (
            (tar_temp, tar_name(shard), claim.tar),
            (table_temp, table_name(shard), claim.parquet),
        ):
            if not _place(store, temp, store.path(name), stamp, hashed=claim.attempt == trusted):
                return _void(store, shard, f"{temp.name} of attempt {claim.attempt} is gone or altered")
        store.disk.fsync_dir(store.root)
        try:
            store.publish(claim_path, record_path)
        except FileNotFoundError:
            return read_record(store, shard)  # somebody finished, or withdrew the claim
        store.disk.fsync_dir(store.root)
        done = read_record(store, shard)
        assert done is not None, "a published record is never removed while a run is at work"
    table_temp, record_temp, tar_temp = (_temps(store, shard, done.attempt)[i] for i in (1, 2, 0))
    for path in (table_temp, record_temp, tar_temp, claim_path):
        unlink_if_there(store.disk, path)
    return done


def _place(store: FolderStore, temp: Path, final: Path, stamp: FileStamp, hashed: bool) -> bool:
    """Give `temp` its final name, over a left-over; False if the claimed bytes are in neither file."""
    if same_file(temp, final):
        return True
    try:
        if temp.stat().st_size == stamp.bytes and (hashed or sha256_of(temp) == stamp.sha256):
            if not store.publish(temp, final):
                _replace_debris(store, temp, final)
            return True
    except FileNotFoundError:
        pass  # another process finished this claim; the final file then has the claimed bytes
    try:
        return final.stat().st_size == stamp.bytes and sha256_of(final) == stamp.sha256
    except FileNotFoundError:
        return False


def _replace_debris(store: FolderStore, temp: Path, final: Path) -> None:
    if store.single_writer:
        store.disk.replace(temp, final)
        return
    spare = temp.with_name(f"{temp.name}.{os.urandom(8).hex()}.spare")
    store.disk.link(temp, spare)
    try:
        store.disk.replace(spare, final)
    finally:
        unlink_if_there(store.disk, spare)  # rename(2) keeps both names if they are one file already


def _void(store: FolderStore, shard: int, reason: str) -> Record | None:
    """Put aside a claim that cannot be finished, unless another process has just finished it."""
    done = read_record(store, shard)
    if done is None:
        set_aside(store, [f"{CLAIMS}/{_claim(store, shard).name}"], f"void claim on shard {shard}: {reason}")
    return done


def _collect(store: FolderStore, temps: list[str], now_s: float, lives: Collection[str]) -> tuple[list[str], list[str]]:
    """Remove the temporaries of dead owners; returns (removed, left in place)."""
    owned: dict[str, list[str]] = {}  # the file that carries the owner's lock -> the owner's files
    collected: list[str] = []
    alive: list[str] = []
    for name in temps:
        match = _TEMP.fullmatch(name.rpartition("/")[2])
        if match and any(match["attempt"].startswith(f"{life}-") for life in lives):
            alive.append(name)
        elif match:
            owned.setdefault(f"{TMP}/{match['shard']}.{match['attempt']}.tar", []).append(name)
        elif name.endswith(".part"):
            owned.setdefault(name, []).append(name)
    for locked, listed in owned.items():
        names = [name for name in listed if store.exists(name)]  # a claim finished since has removed its own
        if not names:
            continue
        has_attempt = _TEMP.fullmatch(locked.rpartition("/")[2]) is not None
        lock = _lock_of_dead(store.path(locked), now_s, is_enough=has_attempt or not lives)
        try:
            # an attempt that claimed in its last moment is finished next time
            if lock is None or _is_claimed(store, locked):
                alive += names
                continue
            for name in sorted(names, key=lambda name: name == locked):  # the lock goes last
                store.delete(name)
                collected.append(name)
        finally:
            if lock is not None and lock >= 0:
                os.close(lock)
    return collected, alive


def _is_claimed(store: FolderStore, locked: str) -> bool:
    match = _TEMP.fullmatch(locked.rpartition("/")[2])
    if match is None:
        return False
    try:
        return f'"attempt": "{match["attempt"]}"'.encode() in store.read_bytes(_claim_name(int(match["shard"])))
    except FileNotFoundError:
        return False


def _lock_of_dead(path: Path, now_s: float, is_enough: bool) -> int | None:
    """A descriptor that holds the lock of a dead owner; -1 if there is no file to lock; None if the owner may live.
    Not `is_enough`: that the lock is free says nothing, for the owner may be on another machine."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    is_old = now_s - os.fstat(fd).st_mtime >= OLD_S
    try:
        is_dead = try_lock(fd) and (is_enough or is_old)
    except OSError:
        is_dead = is_old
    if is_dead:
        return fd
    os.close(fd)
    return None


def _set_torn_aside(store: FolderStore | ObjectStore) -> tuple[int, ...]:
    problems = scan(store).problems
    for shard, problem in problems.items():
        set_aside(store, [record_name(shard), table_name(shard), tar_name(shard)], problem)
    return tuple(sorted(problems))


def _temps(store: FolderStore, shard: int, attempt: str) -> tuple[Path, Path, Path]:
    stem = store.root / TMP / f"{shard_name(shard)}.{attempt}"
    return (
        stem.with_name(f"{stem.name}.tar"),
        stem.with_name(f"{stem.name}.parquet"),
        stem.with_name(f"{stem.name}.json"),
    )


def _claim_name(shard: int) -> str:
    return f"{CLAIMS}/{shard_name(shard)}.json"


def _claim(store: FolderStore, shard: int) -> Path:
    return store.root / _claim_name(shard)
