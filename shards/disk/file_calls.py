"""The file-system calls of the commit path, one small object between us and the kernel.

In: paths and bytes. Out: what the kernel answered. On disk: whatever the call says.

The commit protocol touches local folders only through a `Disk`, so a test can fail, cut short or kill before
and after every single call (SQLite's way of testing) without patching anything.
"""

import errno
import os
from pathlib import Path
from typing import Protocol


class Disk(Protocol):
    """What the commit path asks of a file system. Every method may raise OSError."""

    def create(self, path: Path) -> int: ...  # exclusive; descriptor open for writing
    def write(self, fd: int, data: bytes | memoryview) -> int: ...  # may accept fewer bytes
    def fsync(self, fd: int) -> None: ...
    def close(self, fd: int) -> None: ...
    def link(self, source: Path, target: Path) -> None: ...  # FileExistsError if the target exists
    def replace(self, source: Path, target: Path) -> None: ...
    def unlink(self, path: Path) -> None: ...
    def fsync_dir(self, path: Path) -> None: ...
    def mkdir(self, path: Path) -> None: ...  # FileExistsError if something is there
    def rmdir(self, path: Path) -> None: ...  # an empty folder


class OsDisk:
    """The real one."""

    def create(self, path: Path) -> int:
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def link(self, source: Path, target: Path) -> None:
        os.link(source, target)

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def fsync_dir(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def mkdir(self, path: Path) -> None:
        os.mkdir(path)

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)


OS_DISK = OsDisk()


def write_all(disk: Disk, fd: int, data: bytes) -> None:
    """Write every byte of `data`; the kernel may take fewer at a time, and 0 at a time is an error."""
    view = memoryview(data)
    while len(view):
        taken = disk.write(fd, view)
        if taken <= 0:
            raise OSError(errno.EIO, "the disk accepted no byte")
        view = view[taken:]


def same_file(one: Path, other: Path) -> bool:
    """Whether both names lead to one inode; a name that is gone is the same as nothing."""
    try:
        return os.path.samestat(os.lstat(one), os.lstat(other))
    except FileNotFoundError:
        return False


def link_once(disk: Disk, source: Path, target: Path) -> bool:
    """Give `source` the further name `target` if nobody has it; False if somebody has.

    A link that reports failure may have been made all the same (a lost NFS answer), so the outcome is read back
    from the inode instead of from the error.
    """
    try:
        disk.link(source, target)
    except FileExistsError:
        return same_file(source, target)
    except OSError:
        if not same_file(source, target):
            raise
    return True


def unlink_if_there(disk: Disk, path: Path) -> None:
    try:
        disk.unlink(path)
    except FileNotFoundError:
        return
