"""The store of a data set: a local folder or any fsspec URL, behind one small interface.

In: an address (shards.disk.address). Out: a `FolderStore` or an `ObjectStore`. On disk: only `_meta/tmp`,
`_meta/claims` and a probe, which is removed again.

A store must have exclusive create (of two writers of one name exactly one succeeds) and read-after-write; both are
tested when it is opened for writing. A folder has them through hard links, S3 through the conditional put
(`If-None-Match: *`). Any other store is refused, unless the caller states that there is only one writer. No listing
decides what is published.

An address with a key in it is refused, and what a client library says is redacted: no key reaches a log.
"""

import contextlib
import errno
import os
import secrets
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import fsspec

from shards.disk.address import local_root, one_spelling, protocol_of
from shards.disk.file_calls import (
    OS_DISK,
    Disk,
    link_once,
    links_are_exclusive,
    make_folders,
    refuse_linked_folders,
    unlink_if_there,
    write_all,
)
from shards.disk.layout import META, checked_name, record_name
from shards.disk.lock import try_lock
from shards.disk.object_store import ObjectStore
from shards.disk.regular import MAX_BYTES, open_regular, read_regular
from shards.disk.safe_text import one_line, visible

TMP = f"{META}/tmp"
CLAIMS = f"{META}/claims"
# fsspec systems whose mode="create" is atomic; the base class's is a look followed by a write
EXCLUSIVE_CREATE = frozenset({"memory", "s3", "s3a"})
S3, GOOGLE = "`uv pip install 'sixfold[s3]'`", "`uv pip install gcsfs`"
CLIENTS = {"s3": S3, "s3a": S3, "gs": GOOGLE, "gcs": GOOGLE}  # how a missing client is installed
HOW_TO_MAKE = (
    "check the path, make one with `sixfold generate`, or of a folder of pictures with `sixfold export --to shards`"
)
REAL_SETS = "real"  # the folder that holds the sandbox's real sets, as its recipes name it


class Store(Protocol):
    """Files under one root. Names are relative, `/`-separated, of letters, digits, dot, dash and underscore."""

    @property
    def url(self) -> str:
        """The address for people and messages, redacted."""

    @property
    def single_writer(self) -> bool:
        """Whether the caller has stated that no other run writes here."""

    @property
    def read_only(self) -> bool:
        """Whether it was opened for reading: then not even a cache is written."""

    def read_bytes(self, name: str, at_most: int = MAX_BYTES) -> bytes:
        """The whole file. Raises FileNotFoundError, and OSError for one of more than `at_most` bytes, or that is no
        regular file."""

    def read_range(self, name: str, start: int, size: int) -> bytes:
        """`size` bytes from `start` on; fewer only at the end of the file. Raises FileNotFoundError."""

    def size(self, name: str) -> int:
        """The size of a file in bytes. Raises FileNotFoundError."""

    def exists(self, name: str) -> bool:
        """Whether the file is there now."""

    def folders(self, prefix: str = "") -> list[str]:
        """The names of the folders directly in the folder `prefix`, sorted."""

    def list(self, prefix: str = "") -> list[str]:
        """The names of the files directly in the folder `prefix` ("" or "a/b/"), sorted."""

    def stamps(self, prefix: str = "") -> dict[str, tuple[int, str]]:
        """Of the files that `list` names: (size in bytes, a text that changes when the file does)."""

    def write_exclusive(self, name: str, data: bytes) -> bool:
        """Create a file with `data`; False, and nothing changed, if the name has other bytes."""

    def replace(self, name: str, data: bytes) -> None:
        """Write a file over what is there; readers see the old bytes or the new ones. For `_meta` only."""

    def move(self, name: str, new_name: str) -> None:
        """Rename a file. Raises FileNotFoundError."""

    def delete(self, name: str) -> None:
        """Remove a file if it is there."""

    def delete_folder(self, name: str) -> None:
        """Remove a folder if it is there and empty."""


class FolderStore:
    """The `Store` of a local or mounted folder. Tests of faults pass a `disk` of their own."""

    def __init__(self, root: Path, single_writer: bool = False, disk: Disk = OS_DISK, read_only: bool = False) -> None:
        self.root = root
        self.read_only = read_only
        self.url = visible(str(root))
        self.single_writer = single_writer
        self.disk = disk

    def path(self, name: str) -> Path:
        """Where the file `name` is. Raises ValueError for a name that is not plain and relative."""
        return self.root / checked_name(name)

    def path_to_write(self, name: str) -> Path:
        """As `path`, with its folders made. Raises ValueError if one of them is a link: what is written, moved or
        removed there would be outside of the data set."""
        make_folders(self.root, checked_name(name).split("/")[:-1])
        return self.path(name)

    def read_bytes(self, name: str, at_most: int = MAX_BYTES) -> bytes:
        return read_regular(self.path(name), at_most)

    def read_range(self, name: str, start: int, size: int) -> bytes:
        """One `pread`."""
        fd = open_regular(self.path(name))
        try:
            return os.pread(fd, size, start)
        finally:
            os.close(fd)

    def size(self, name: str) -> int:
        return self.path(name).stat().st_size

    def exists(self, name: str) -> bool:
        return os.path.lexists(self.path(name))  # a link that leads nowhere takes the name, too

    def folders(self, prefix: str = "") -> list[str]:
        """Names of folders, sorted; links to folders are none of ours."""
        try:
            with os.scandir(self._folder(prefix)) as entries:
                return sorted(prefix + entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            return []

    def list(self, prefix: str = "") -> list[str]:
        """Names of files, sorted; a missing folder has none."""
        try:
            with os.scandir(self._folder(prefix)) as entries:
                return sorted(prefix + entry.name for entry in entries if not entry.is_dir())
        except FileNotFoundError:
            return []

    def stamps(self, prefix: str = "") -> dict[str, tuple[int, str]]:
        """Name -> (size, time of the last change and inode)."""
        stamps = {}
        try:
            with os.scandir(self._folder(prefix)) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # moved away between the listing and the look
                        if not entry.is_dir():
                            stat = entry.stat()
                            stamps[prefix + entry.name] = (stat.st_size, f"{stat.st_mtime_ns}.{stat.st_ino}")
        except FileNotFoundError:
            return {}
        return stamps

    def write_exclusive(self, name: str, data: bytes) -> bool:
        """Write a temporary, then `publish` it under the name."""
        target = self.path_to_write(name)
        with self._staged(name, data) as temp:
            return self.publish(temp, target)

    def replace(self, name: str, data: bytes) -> None:
        """Write a temporary, rename it over the name, and sync the folder."""
        target = self.path_to_write(name)
        with self._staged(name, data) as temp:
            self.disk.replace(temp, target)
            self.disk.fsync_dir(target.parent)

    def move(self, name: str, new_name: str) -> None:
        target = self.path_to_write(new_name)
        self.disk.replace(self.path_to_write(name), target)

    def delete(self, name: str) -> None:
        unlink_if_there(self.disk, self.path_to_write(name))

    def delete_folder(self, name: str) -> None:
        with contextlib.suppress(OSError):  # not there, not empty, or of somebody else
            self.disk.rmdir(self.path(name))

    def publish(self, source: Path, target: Path) -> bool:
        """Give the finished file `source` the second name `target`; False if another file has that name.

        With a single writer the file is moved instead, because the file system may have no hard links.
        """
        if not self.single_writer:
            return link_once(self.disk, source, target)
        if target.exists():
            return False
        self.disk.replace(source, target)
        return True

    def _folder(self, prefix: str) -> Path:
        return self.path(prefix.rstrip("/")) if prefix else self.root

    @contextlib.contextmanager
    def _staged(self, name: str, data: bytes) -> Iterator[Path]:
        """A temporary file that holds `data`, synced. Its lock shows `commit.recover` that its owner is alive."""
        temp = self.path_to_write(f"{TMP}/{name.rpartition('/')[2]}.{secrets.token_hex(8)}.part")
        fd = self.disk.create(temp)
        try:
            with contextlib.suppress(OSError):  # a mount without locks: temporaries are then collected by age
                try_lock(fd)
            write_all(self.disk, fd, data)
            self.disk.fsync(fd)
            if os.fstat(fd).st_size != len(data):
                raise OSError(errno.EIO, f"wrote {len(data)} bytes, the disk holds {os.fstat(fd).st_size}", str(temp))
            yield temp
        finally:
            try:
                unlink_if_there(self.disk, temp)
            finally:
                self.disk.close(fd)


def open_store(url: str, single_writer: bool = False, disk: Disk = OS_DISK) -> FolderStore | ObjectStore:
    """Open `url` for reading and writing: make the folder if it is missing, and test that it can be written.

    Raises ValueError, in one line, for a text that is no address, a shell pipe or pattern, an unknown system, a file or
    dangling link in the way, a place that is read-only or has no exclusive create.
    """
    root = local_root(url)
    if root is not None:
        store = FolderStore(root, single_writer, disk)
        _try_folder(store)
        return store
    protocol = protocol_of(url)
    if protocol not in EXCLUSIVE_CREATE and not single_writer:
        raise ValueError(
            f"{one_spelling(url)}: {protocol}:// has no exclusive create that was tested; write to a folder or to "
            "s3://, or promise that one run writes there (`sixfold generate --single-writer`)"
        )
    objects = _open_objects(url, single_writer)
    _try_objects(objects)
    return objects


def open_for_reading(url: str) -> FolderStore | ObjectStore:
    """Open an existing `url`; writes nothing. Raises ValueError if there is no such folder, or a store that cannot be
    read."""
    root = local_root(url)
    if root is not None:
        if not root.is_dir():
            found = "a file" if root.exists() else "no folder"
            raise ValueError(f"{visible(str(root))}: found {found}, expected a data set; {how_to_make(root)}")
        return FolderStore(root, read_only=True)
    objects = _open_objects(url, single_writer=False, read_only=True)
    try:
        objects.size(record_name(0))
    except FileNotFoundError:
        pass  # what is there is for the caller to say
    except Exception as error:  # of the client library's own classes, as in `_try_objects`
        raise _refused(objects, "read", error) from None
    return objects


def how_to_make(root: Path) -> str:
    """What helps where a data set is missing: the sandbox's real sets come from a program of their own, which is there
    in a checkout and after an installation."""
    if root.parent.name != REAL_SETS:
        return HOW_TO_MAKE
    python = "python" if shutil.which("python") == sys.executable else shlex.quote(sys.executable)
    return (
        "check the path; if it is one of the sandbox's real sets, make them with "
        f"`{python} -m sandbox.build --data {shlex.quote(str(root.parent))}`"
    )


def _open_objects(url: str, single_writer: bool, read_only: bool = False) -> ObjectStore:
    url = one_spelling(url)
    shown = visible(url)
    try:
        # listings are never cached: another process may have published in between
        fs, root = fsspec.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        client = CLIENTS.get(protocol_of(url), "the package that it names")
        raise ValueError(f"{shown}: {one_line(str(error), 200)}; expected its client: {client}") from None
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{shown}: cannot be opened ({one_line(str(error), 200)})") from None
    return ObjectStore(fs, root, shown, single_writer, read_only)


def _try_folder(store: FolderStore) -> None:
    root, shown = store.root, store.url
    one, two = (root / TMP / f"probe.{secrets.token_hex(8)}.part" for _ in range(2))
    try:
        if root.is_symlink() and not root.exists():
            raise ValueError(
                f"{shown}: found a link that leads nowhere, expected a folder; remove the link or make its target"
            )
        if root.exists() and not root.is_dir():
            raise ValueError(f"{shown}: found a file, expected a folder; give another output folder")
        for folder in (TMP, CLAIMS):
            store.path_to_write(f"{folder}/probe")
        refuse_linked_folders(root / META)
        if any((root / folder).stat().st_dev != root.stat().st_dev for folder in (TMP, CLAIMS)):
            raise ValueError(
                f"{shown}: {META}/ lies on another device than the folder, so nothing can be published whole; "
                "make them one device"
            )
        store.disk.close(store.disk.create(one))
        try:
            if not store.single_writer and not links_are_exclusive(store.disk, one, two):
                raise ValueError(
                    f"{shown}: this file system has no hard links, so two writers could not be kept apart; use another "
                    "folder, or promise that one run writes there (`sixfold generate --single-writer`)"
                )
        finally:
            unlink_if_there(store.disk, two)
            unlink_if_there(store.disk, one)
    except OSError as error:
        raise ValueError(
            f"{shown}: cannot be written ({error.strerror or error}); give a folder that can be written"
        ) from None


def _refused(store: ObjectStore, what: str, error: Exception) -> ValueError:
    cause = one_line(str(error), 200) or type(error).__name__
    return ValueError(f"{store.url}: cannot be {what} ({cause}); check the address and the credentials")


def _try_objects(store: ObjectStore) -> None:
    name = f"{TMP}/probe.{secrets.token_hex(8)}.part"
    try:
        try:
            first = store.write_exclusive(name, b"one")
            second = store.write_exclusive(name, b"two")
            kept = store.read_bytes(name)
        finally:
            store.delete(name)
    except Exception as error:
        # client libraries raise classes of their own (NoCredentialsError, ClientError); all mean "cannot be written"
        raise _refused(store, "written", error) from None
    if not first or second or kept != b"one":
        raise ValueError(
            f"{store.url}: two exclusive writes of one name both succeeded, so two writers were not kept apart; use "
            "a store with conditional puts, or promise that one run writes there (`sixfold generate --single-writer`)"
        )
