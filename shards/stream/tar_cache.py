"""A cache folder of remote tars, each named by its hash, with a size limit; several processes may share it.

In: a tar's sha256, its size, and a function that reads its bytes. Out: the path of a local copy with that hash. On
disk: `<sha256>.tar`; `<sha256>.part`, of full size and locked, while a process fetches it; `<sha256>.checked` when a
copy has been hashed; `lock`, held while room is made and while a part becomes a tar.

A copy is touched when it is used. To make room, the copy that was not used for longest is removed first; a copy that a
process reads has a shared lock and stays. A file is removed under its own lock.

A copy is hashed while it is fetched. The first process that finds it after a day, a restart of the machine or a change
of the file hashes it again; a copy with another hash is removed and fetched again. A killed process leaves a part
without a lock, which is removed when room is needed or when its tar is fetched.
"""

import contextlib
import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from shards.disk.checked_json import plain_json
from shards.disk.lock import is_named, locked, remove_if_free, try_lock
from shards.disk.regular import read_regular, sha256_of
from shards.disk.replace import replace_file

CHUNK_BYTES = 8 << 20
CHECK_S = 86_400.0  # a copy that was hashed within this time is not hashed again
_MARKER_BYTES = 4096
_BOOT = Path("/proc/sys/kernel/random/boot_id")  # a crash of the machine may lose bytes; a restart shows it
_POLL_S = 0.05


class CacheFull(OSError):
    """There is no room for this tar, by the folder's limit or on the disk."""


class OtherBytes(OSError):
    """The fetched tar is not the one of the index."""


class TarCache:
    """A cache folder. Has no open file between calls."""

    def __init__(self, folder: Path, max_bytes: int, on_event: Callable[[str], None] = lambda name: None) -> None:
        """`on_event` is called with "cache_corrupt" and "cache_evicted". Raises ValueError if the folder cannot be
        made."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"{folder}: cannot be made ({error.strerror}), expected a folder for copies of tars; name another cache"
            ) from None
        self.folder = folder
        self.max_bytes = max_bytes
        self._on_event = on_event

    def find(self, sha256: str, size: int) -> Path | None:
        """The local copy, touched; None if there is none. A copy with other bytes is removed."""
        path = self._path(sha256)
        try:
            if self.find_checked(sha256, size) is None:
                stat = path.stat()
                if stat.st_size != size or sha256_of(path) != sha256:
                    self._on_event("cache_corrupt")
                    path.unlink()
                    return None
                self._mark(path, stat)
                _touch(path, stat)
        except FileNotFoundError:
            return None
        return path

    def find_checked(self, sha256: str, size: int) -> Path | None:
        """The local copy, touched, if a process has hashed it within `CHECK_S`; reads nothing of it. None otherwise."""
        path = self._path(sha256)
        marker = path.with_suffix(".checked")
        with contextlib.suppress(OSError, ValueError):
            stat = path.stat()
            is_recent = 0 <= time.time() - marker.stat().st_mtime < CHECK_S
            if is_recent and stat.st_size == size and plain_json(read_regular(marker, _MARKER_BYTES)) == _facts(stat):
                _touch(path, stat)
                return path
        return None

    def fetch(
        self, sha256: str, size: int, read: Callable[[int, int], bytes], deadline_s: float, keep: frozenset[str]
    ) -> Path:
        """The local copy; fetched with `read(offset, size)`, unless another process fetches it or has done so.

        Tars whose hashes are in `keep` are not removed to make room. Raises CacheFull, OtherBytes, TimeoutError if
        another process holds a lock for `deadline_s`, and the errors of `read`.
        """
        end = time.monotonic() + deadline_s
        part = self.folder / f"{sha256}.part"
        while True:
            found = self.find_checked(sha256, size)
            if found is not None:
                return found
            with _open_locked(part) as fd:
                if fd is not None:
                    try:
                        # hashed under the lock if need be, so that of several processes one does it
                        found = self.find(sha256, size)  # another process may have ended between the look and the lock
                        if found is not None:
                            return found
                        os.truncate(fd, 0)
                        self._make_room(fd, size, end, keep | {sha256})
                        return self._fill(fd, sha256, size, read, deadline_s)
                    finally:
                        if is_named(fd, part):  # once it is a tar, another process may begin a part of this name
                            part.unlink(missing_ok=True)
            if time.monotonic() > end:
                raise TimeoutError(f"{part.name}: another process has been fetching it for {deadline_s:.0f} s")
            time.sleep(_POLL_S)

    def _fill(self, fd: int, sha256: str, size: int, read: Callable[[int, int], bytes], deadline_s: float) -> Path:
        digest = hashlib.sha256()
        for offset in range(0, size, CHUNK_BYTES):
            chunk = read(offset, min(CHUNK_BYTES, size - offset))
            digest.update(chunk)
            view = memoryview(chunk)
            with self._full_disk_named():
                while view:
                    view = view[os.write(fd, view) :]
        if digest.hexdigest() != sha256:
            raise OtherBytes(f"found a tar with the hash {digest.hexdigest()[:16]}, the index says {sha256[:16]}")
        path = self._path(sha256)
        with self._locked(time.monotonic() + deadline_s):  # whoever makes room counts it under one of its two names
            os.replace(path.with_suffix(".part"), path)
        self._mark(path, path.stat())
        return path

    def _mark(self, path: Path, stat: os.stat_result) -> None:
        """Note that the copy has been hashed. On a full disk nothing is noted, and it will be hashed again."""
        with contextlib.suppress(OSError):
            replace_file(path.with_suffix(".checked"), json.dumps(_facts(stat)).encode("ascii"))

    def _make_room(self, fd: int, size: int, end: float, keep: frozenset[str]) -> None:
        """Remove the files that were not used for longest, abandoned parts included, until `size` more bytes fit. Then
        give the part `fd` its full size, so that other processes count it."""
        if size > self.max_bytes:
            raise CacheFull(f"{self.folder}: a tar of {size} bytes, the cache may hold {self.max_bytes}")
        with self._locked(end):
            files = []
            for entry in os.scandir(self.folder):
                with contextlib.suppress(FileNotFoundError):
                    files.append((entry.stat().st_atime_ns, entry.name, entry.stat().st_size))
            used = sum(num for _, name, num in files if name.endswith((".tar", ".part")))
            for _, name, num in sorted(files):
                if used + size <= self.max_bytes:
                    break
                sha256, _, kind = name.partition(".")
                if kind in ("tar", "part") and sha256 not in keep and remove_if_free(self.folder / name):
                    (self.folder / f"{sha256}.checked").unlink(missing_ok=True)
                    self._on_event("cache_evicted")
                    used -= num
            if used + size > self.max_bytes:
                raise CacheFull(f"{self.folder}: {used} of {self.max_bytes} bytes are in use, {size} more do not fit")
            with self._full_disk_named():
                os.truncate(fd, size)

    @contextlib.contextmanager
    def _full_disk_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CacheFull(f"{self.folder}: cannot be written ({error.strerror})") from None

    @contextlib.contextmanager
    def _locked(self, end: float) -> Iterator[None]:
        with locked(self.folder / "lock", end - time.monotonic(), longest_pause_s=_POLL_S) as has_locks:
            if not has_locks:
                raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), f"{self.folder}/lock")
            yield

    def _path(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.tar"


@contextlib.contextmanager
def _open_locked(part: Path) -> Iterator[int | None]:
    """A descriptor of the part, locked; None if another process has the lock or has just finished the part."""
    fd = os.open(part, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        yield fd if try_lock(fd) and is_named(fd, part) else None
    finally:
        os.close(fd)


def _facts(stat: os.stat_result) -> list[int | str]:
    """Facts that change when the file changes, or when the machine restarts after a crash that may have lost bytes."""
    boot = _BOOT.read_text("ascii").strip() if _BOOT.is_file() else ""
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino, boot]


def _touch(path: Path, stat: os.stat_result) -> None:
    """Set the time of last use; that of the last change stays, it says which bytes were hashed."""
    os.utime(path, ns=(time.time_ns(), stat.st_mtime_ns))
