"""Indexes that were saved, so that the second start takes a moment.

In: an index and what it was built from. Out: the same index, its arrays mapped. On disk, in `index/<set>/` of the cache
folder given, else of this user's on this machine (`shards.disk.machine_cache`):

    lock                    held by the process that builds; the others wait for what it saves
    <key>/index.json        what each tar was when it was read, the digest; written last
    <key>/first.npy ...     the arrays, no pickles

Never in the data set: an index decides which label a picture has, so it is believed only where nobody but its user
writes. One that came with a data set would be the word of whoever made it, and no record's hash vouches for it.

The set is a hash of address and subset, the key one of the entries: for each tar, all that its part of the index
depends on. An index whose bytes do not give its digest is built again. The newest `KEPT` of a set stay, and those that
a process still reads; what nobody read for `UNUSED_S` goes when another is saved.
"""

import contextlib
import fcntl
import io
import json
import mmap
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.disk.checked_json import plain_json
from shards.disk.lock import locked, open_to_lock, try_lock
from shards.disk.machine_cache import cache_folder
from shards.disk.regular import open_regular, read_regular
from shards.disk.store import FolderStore, Store
from shards.stream.index_arrays import ARRAYS, Index, arrays_of, hash_of, hash_of_arrays, make_index

SAVED = 3  # version of the files
KEPT = 2
UNUSED_S = 90 * 86_400.0
BUILD_S = 3600.0  # longest wait for another process that builds the same index
INDEXES = "index"
_SMALL_BYTES = 4096  # a map costs more than such a read


@dataclass(frozen=True)
class Before:
    """An index that was saved, and the number of each of its tars by what that tar was then."""

    index: Index
    tars: dict[str, int]

    def rows(self, name: str, tar: int) -> npt.NDArray[Any]:
        """The part of the array `name` that belongs to a tar."""
        part: npt.NDArray[Any] = getattr(self.index, name)[int(self.index.first[tar]) : int(self.index.first[tar + 1])]
        return part


def key_of(entries: Sequence[str]) -> str:
    """The name of the folder of an index that was built from these entries."""
    return hash_of({"version": SAVED, "entries": list(entries)})


def places_of(store: Store, subset: str | None, cache: Path | None) -> list[Path]:
    """The folders where an index of this set may be saved, in the order of preference."""
    bases = [] if cache is None else [cache.absolute() / INDEXES]
    with contextlib.suppress(OSError):  # a machine without a place to write: each start builds
        bases.append(cache_folder(os.environ, INDEXES, lambda line: None))
    return [base / hash_of([store.url, subset])[:16] for base in bases]


@contextlib.contextmanager
def one_builder(places: Sequence[Path]) -> Iterator[None]:
    """One process at a time, of all that see the first of these folders that can be locked. After `BUILD_S`, or where
    there are no locks, each builds for itself: the results are equal."""
    with contextlib.ExitStack() as held:
        for place in places:
            try:
                place.mkdir(parents=True, exist_ok=True)
                if held.enter_context(locked(place / "lock", BUILD_S)):
                    break
            except TimeoutError:
                break
            except OSError:
                continue
        yield


def save_index(places: Sequence[Path], entries: Sequence[str], index: Index) -> None:
    """Write the index to the first place that takes it. None does: the next start takes as long as this one."""
    key = key_of(entries)
    for place in places:
        try:
            files = FolderStore(place)
            for name, array in arrays_of(index).items():
                file = io.BytesIO()
                np.save(file, array, allow_pickle=False)
                files.replace(f"{key}/{name}.npy", file.getvalue())
            about = {
                "version": SAVED,
                "key": key,
                "digest": index.digest,
                "picture_hash": hash_of_arrays(index.picture_hash),
                "entries": list(entries),
                "tars": index.tars,
                "tar_sha256": index.tar_sha256,
            }
            files.replace(f"{key}/index.json", (json.dumps(about, indent=1) + "\n").encode("ascii"))
            for folder in [*_newest_first(place)[KEPT:], *_unused(place.parent)]:
                _remove_unread(folder)
            return
        except OSError:
            continue  # a full or read-only disk; the index is a copy of what the data set says


def _newest_first(place: Path) -> list[Path]:
    """The folders of the indexes saved there."""
    with contextlib.suppress(OSError):
        found = [path for path in place.iterdir() if (path / "index.json").is_file()]
        return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return []


def _unused(base: Path) -> list[Path]:
    """The saved indexes of all sets that were not read for `UNUSED_S`."""
    oldest = time.time() - UNUSED_S
    with contextlib.suppress(OSError):
        return [about.parent for about in base.glob("*/*/index.json") if about.stat().st_mtime < oldest]
    return []


def read_saved(url: str, places: Sequence[Path], key: str) -> Index | None:
    """The saved index; None if there is none, or if its bytes do not give its digest."""
    for place in places:
        found = _open_saved(url, place / key)
        if found is not None:
            return found.index
    return None


def newest_saved(url: str, places: Sequence[Path]) -> Before | None:
    """The last index of the set that was saved and is whole."""
    found = (_open_saved(url, folder) for place in places for folder in _newest_first(place))
    return next((one for one in found if one is not None), None)


def _open_saved(url: str, folder: Path) -> Before | None:
    with contextlib.suppress(Exception):  # numpy, ast and tokenize raise a dozen kinds for bytes that are no array
        about = plain_json(read_regular(folder / "index.json"))
        arrays = {name: _mapped(folder / f"{name}.npy") for name in ARRAYS}
        index = make_index(url, about["tars"], about["tar_sha256"], arrays)
        entries = [str(entry) for entry in about["entries"]]
        said = (about["version"], about["key"], about["digest"], about["picture_hash"])
        found = (SAVED, folder.name, index.digest, hash_of_arrays(index.picture_hash))
        is_whole = said == found and len(entries) == len(index.tars)
        if is_whole and key_of(entries) == folder.name:
            with contextlib.suppress(OSError):  # read-only, or another user's
                os.utime(folder / "index.json")
            return Before(index, {entry: number for number, entry in enumerate(entries)})
    return None


def _mapped(path: Path) -> npt.NDArray[Any]:
    """The array in a .npy file, its pages shared by all processes that read it.

    A map keeps the file's descriptor, and with it the shared lock that keeps the file from being removed: on a network
    mount a map of a removed file ends the process.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        is_small = os.fstat(file.fileno()).st_size <= _SMALL_BYTES
        if not is_small:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise  # it is being removed
            except OSError:
                pass  # a mount without locks, where nothing is removed
            else:
                if not os.fstat(file.fileno()).st_nlink:
                    raise FileNotFoundError(f"{path}: removed between the opening and the lock")
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{path}: found another version of the format, expected 1.0")
        (num,), _, kind = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
        file.seek(0)
        data = file.read() if is_small else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(data, kind, num, start)


def _remove_unread(folder: Path) -> None:
    """Remove a saved index that no process has mapped. Where there are no locks nothing is removed."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as held:
        for file in folder.glob("*.npy"):
            fd = open_to_lock(file)
            held.callback(os.close, fd)
            if not try_lock(fd):
                return
        shutil.rmtree(folder, ignore_errors=True)  # under the locks, so that no process takes it up meanwhile
