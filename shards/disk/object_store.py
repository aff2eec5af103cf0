"""A store of files that is no folder: an object store, through fsspec.

In: a file system of fsspec and a root. Out: an `ObjectStore`, a `Store` as shards.disk.store describes it. On disk:
nothing; a put makes a whole object visible, so it has no temporaries.
"""

import contextlib
import errno
import time
from typing import Any

from shards.disk.layout import checked_name
from shards.disk.regular import MAX_BYTES
from shards.disk.safe_text import one_line

_PUT_TRIES = 4
_CHANGES_WITH_BYTES = ("ETag", "etag", "mtime", "LastModified", "created")  # of a listing; the first that is there


class ObjectStore:
    """The `Store` of an object store, through fsspec. A put makes a whole object visible, so it has no temporaries."""

    def __init__(self, fs: Any, root: str, url: str, single_writer: bool, read_only: bool = False) -> None:
        self.fs = fs
        self.root = root.rstrip("/")
        self.read_only = read_only
        self.url = url
        self.single_writer = single_writer

    def path(self, name: str) -> str:
        """The object's path for fsspec. Raises ValueError for a name that is not plain and relative."""
        return f"{self.root}/{checked_name(name)}"

    def read_bytes(self, name: str, at_most: int = MAX_BYTES) -> bytes:
        data: bytes = b""
        try:
            data = self.fs.cat_file(self.path(name), start=0, end=at_most + 1)
        except FileNotFoundError:
            raise
        except Exception:  # client libraries raise classes of their own
            if self.size(name):  # a range of an empty object is an error to S3
                raise
        if len(data) > at_most:
            raise OSError(errno.EFBIG, f"found more than {at_most:,} bytes", f"{self.url}/{name}")
        return data

    def read_range(self, name: str, start: int, size: int) -> bytes:
        if size == 0:
            return b""
        data: bytes = self.fs.cat_file(self.path(name), start=start, end=start + size)
        return data

    def size(self, name: str) -> int:
        """The size that the store gives now: nothing is cached."""
        self.fs.invalidate_cache()
        return int(self.fs.info(self.path(name))["size"])

    def exists(self, name: str) -> bool:
        """What the store answers now: nothing is cached."""
        self.fs.invalidate_cache()
        return bool(self.fs.exists(self.path(name)))

    def _entries(self, prefix: str, kind: str) -> list[tuple[str, Any]]:
        """Name, and what one listing says of it."""
        folder = f"{self.root}/{checked_name(prefix.rstrip('/'))}" if prefix else self.root
        self.fs.invalidate_cache()
        try:
            entries = self.fs.ls(folder, detail=True)
        except FileNotFoundError:
            return []
        return [
            (prefix + entry["name"].rstrip("/").rpartition("/")[2], entry)
            for entry in entries
            if entry["type"] == kind and entry["name"].rstrip("/") != folder
        ]

    def folders(self, prefix: str = "") -> list[str]:
        """The first parts of the names below `prefix` that go on, sorted."""
        return sorted(name for name, _ in self._entries(prefix, "directory"))

    def list(self, prefix: str = "") -> list[str]:
        return sorted(self.stamps(prefix))

    def stamps(self, prefix: str = "") -> dict[str, tuple[int, str]]:
        """Name -> (size, ETag or time), by one listing."""
        return {
            name: (
                int(entry["size"]),
                str(next((entry[word] for word in _CHANGES_WITH_BYTES if entry.get(word)), "")),
            )
            for name, entry in self._entries(prefix, "file")
        }

    def write_exclusive(self, name: str, data: bytes) -> bool:
        """Put the object if the name is free. True also if the object there is exactly `data`: the answer to a put may
        be lost, and the client library's repetition then meets a 412."""
        path = self.path(name)
        failure: Exception | None = None
        for wait_s in [0.0] + [0.2 * 3**n for n in range(_PUT_TRIES - 1)]:
            time.sleep(wait_s)
            try:
                if self.single_writer:
                    if not self.exists(name):
                        self.fs.pipe_file(path, data)
                        return True
                else:
                    self.fs.pipe_file(path, data, mode="create")
                    return True
            except FileExistsError:
                failure = None
            except (OSError, TimeoutError) as error:
                failure = error  # a conflict (409), a time-out, a lost connection: what is stored decides
            try:
                return self.size(name) == len(data) and self.read_bytes(name, len(data)) == data
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.EFBIG:  # else it has grown since: other bytes
                    raise
                return False
        raise OSError(f"{self.url}/{name}: could not be written in {_PUT_TRIES} tries ({self._clean(failure)})")

    def replace(self, name: str, data: bytes) -> None:
        self.fs.pipe_file(self.path(name), data)

    def move(self, name: str, new_name: str) -> None:
        """Copy, then delete: a crash in between leaves both names."""
        source, target = self.path(name), self.path(new_name)
        self.fs.cp_file(source, target)
        self.fs.rm_file(source)

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    def delete_folder(self, name: str) -> None:
        """Nothing: a folder is there as long as a name begins with it."""

    def _clean(self, error: Exception | None) -> str:
        return "the name was taken, then free again" if error is None else one_line(str(error), 200)
