"""The place of an output: free space, what its store promises, and its clock.

In: a folder or an address. Out: `Check`s. On disk: a folder (or a few objects) of a random name in it, removed again.

A run needs of a store that of two writers of one name one succeeds, that what is written is read at once and listed,
and that a file can be replaced as a whole. `shards.disk.store` tests the first when it opens a store to write.
"""

import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.doctor.check import Check, check
from shards.disk.address import local_root
from shards.disk.amounts import counted, size_text, time_text
from shards.disk.layout import META
from shards.disk.safe_text import one_line
from shards.disk.store import FolderStore, ObjectStore, open_store

STORE_S = 60.0  # for a store to answer all that is asked
CLOCK_S = 60.0  # between two clocks, from which on it is worth a note
FREE_BYTES = 2e9
FREE_FILES = 10_000
SCRATCH = "sixfold-doctor-"
FILE = f"{META}/doctor.txt"
ANOTHER = "give another folder as --out"


def place(out: str, within_s: float = STORE_S, clock: Callable[[], float] = time.time) -> Iterator[Check]:
    """Space and files of a folder's disk; then what only a try tells, for at most `within_s`. `clock`: of this machine,
    in seconds since 1970."""
    try:
        root = local_root(out)
    except ValueError as error:
        yield _refused("output", error)
        return
    where: Path | None = None
    if root is not None:
        where = next(parent for parent in [root.absolute(), *root.absolute().parents] if parent.exists())
        if not where.is_dir():
            yield Check("disk", "bad", f"{where} is a file, nothing can be written below it", ANOTHER)
            return
        free = shutil.disk_usage(where).free
        yield check("disk", free > FREE_BYTES, f"{size_text(free)} free at {where}", "free some")
        yield _files_left(where)
    found: list[Check] = []
    thread = threading.Thread(target=_try_into, args=(found, out, where, clock), name="try of the store", daemon=True)
    thread.start()
    thread.join(within_s)
    if thread.is_alive():
        yield Check("store", "bad", f"no answer within {time_text(within_s)}", "is the mount or the store reachable?")
    else:
        yield from found


def _files_left(where: Path) -> Check:
    told = os.statvfs(where)
    if not told.f_files:
        return Check("inodes", "ok", "this file system counts none")
    few = told.f_favail < FREE_FILES
    return check("inodes", not few, f"{counted(told.f_favail, 'file')} more fit", "remove files, or ask for a quota")


def _try_into(found: list[Check], out: str, where: Path | None, clock: Callable[[], float]) -> None:
    try:
        found += _try_objects(out, clock) if where is None else _try_folder(where, clock)
    except ValueError as error:
        found.append(_refused("store", error))
    except Exception as error:  # client libraries raise classes of their own; all mean that it cannot be used
        said = one_line(str(error), 200) or type(error).__name__
        found.append(Check("store", "bad", said, f"check the address and the credentials, or {ANOTHER}"))


def _try_folder(where: Path, clock: Callable[[], float]) -> list[Check]:
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f".{SCRATCH}", dir=where))
    except OSError as error:
        return [Check("store", "bad", f"{where}: cannot be written ({error.strerror})", ANOTHER)]
    try:
        store = open_store(str(scratch))
        assert isinstance(store, FolderStore)
        return _try_store(store, lambda: store.path(FILE).stat().st_mtime, clock)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _try_objects(out: str, clock: Callable[[], float]) -> list[Check]:
    store = open_store(f"{out.rstrip('/')}/{SCRATCH}{secrets.token_hex(8)}")
    assert isinstance(store, ObjectStore)
    return _try_store(store, lambda: _time_of(store.fs.info(store.path(FILE))), clock)


def _try_store(
    store: FolderStore | ObjectStore, stamp: Callable[[], float | None], clock: Callable[[], float]
) -> list[Check]:
    """`stamp`: the store's own time of the file."""
    began = time.monotonic()
    wrong = []
    try:
        before = clock()
        if not store.write_exclusive(FILE, b"one") or store.write_exclusive(FILE, b"two"):
            wrong.append("exclusive create")
        after = clock()
        if store.read_bytes(FILE) != b"one":
            wrong.append("read after write")
        if FILE not in store.list(f"{META}/"):
            wrong.append("list after write")
        written = stamp()
        store.replace(FILE, b"three")
        if store.read_bytes(FILE) != b"three":
            wrong.append("read after replace")
    finally:
        store.delete(FILE)
    if store.exists(FILE):
        wrong.append("removal")
    held = "exclusive create, read and list after write, replace, removal"
    said = f"fails: {', '.join(wrong)}" if wrong else f"{held}: all hold, in {time.monotonic() - began:.1f} s"
    return [check("store", not wrong, said, ANOTHER), _clock(written, (before + after) / 2)]


def _clock(written: float | None, here: float) -> Check:
    if written is None:
        return Check("clock", "ok", "the store tells no times to compare it with")
    apart = written - here
    side = "ahead of" if apart > 0 else "behind"
    found = f"the store's is {time_text(abs(apart))} {side} this machine's" if abs(apart) >= 1 else "as the store's"
    advice = "set the clocks by NTP (`timedatectl`); S3 refuses requests of a clock that is 15 minutes wrong"
    return check("clock", abs(apart) <= CLOCK_S, found, advice, "note")


def _time_of(info: dict[str, Any]) -> float | None:
    """When an object was written, by its store."""
    for name in ("LastModified", "mtime", "created"):
        value = info.get(name)
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    return None


def _refused(name: str, error: ValueError) -> Check:
    """The errors of addresses and stores say what was found, then what to do."""
    found, _, advice = str(error).partition("; ")
    return Check(name, "bad", found, advice or ANOTHER)
