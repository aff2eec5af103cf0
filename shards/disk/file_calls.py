"""The file-system calls of the commit protocol, one small object between us and the kernel.

In: paths and bytes. Out: the kernel's answers. On disk: what each call says.

The commit protocol uses local folders only through a `Disk`. So a test can make any single call fail, cut it short, or
kill the process before or after it, as SQLite's tests do, without patching anything.
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from shards.disk.safe_text import visible


class Disk(Protocol):
    """The calls of the commit protocol. Every method may raise OSError."""

    def create(self, path: Path) -> int:
        """Create a file and return a descriptor open for writing. Raises FileExistsError if the name is taken."""

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write a part of `data`; returns how many bytes were taken."""

    def fsync(self, fd: int) -> None:
        """Return when the file's bytes are on the device."""

    def close(self, fd: int) -> None:
        """Close a descriptor of `create`."""

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name. Raises FileExistsError if that name is taken."""

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file, over the target if there is one."""

    def unlink(self, path: Path) -> None:
        """Remove a name. Raises FileNotFoundError if there is none."""

    def fsync_dir(self, path: Path) -> None:
        """Return when the names in a folder are on the device."""

    def mkdir(self, path: Path) -> None:
        """Make a folder. Raises FileExistsError if the name is taken."""

    def rmdir(self, path: Path) -> None:
        """Remove an empty folder."""


class OsDisk:
    """The `Disk` of the operating system."""

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
    """Write every byte of `data`, in as many calls as it takes. Raises OSError if a call takes no byte."""
    view = memoryview(data)
    while len(view):
        taken = disk.write(fd, view)
        if taken <= 0:
            raise OSError(errno.EIO, "the disk accepted no byte")
        view = view[taken:]


def same_file(one: Path, other: Path) -> bool:
    """Whether both names lead to the same inode; False if one of them does not exist."""
    try:
        return os.path.samestat(os.lstat(one), os.lstat(other))
    except FileNotFoundError:
        return False


def link_once(disk: Disk, source: Path, target: Path) -> bool:
    """Give `source` the second name `target`; False if another file has that name.

    A link that reports failure may have been made nevertheless (a lost answer of NFS), so the inode decides and not the
    error.
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
    """Remove a name if it exists."""
    try:
        disk.unlink(path)
    except FileNotFoundError:
        return


def links_are_exclusive(disk: Disk, one: Path, two: Path) -> bool:
    """Whether a second name can be given to the file `one`, and only once; leaves the name `two`. Raises OSError."""
    try:
        first = link_once(disk, one, two)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK):
            return False
        raise
    try:
        disk.link(one, two)
    except FileExistsError:
        return first
    return False


def make_folders(root: Path, parts: Sequence[str]) -> None:
    """Make `root`, and in it the folders `parts`, each in the one before. Raises ValueError if one of them is a link;
    `root` may be one."""
    root.mkdir(parents=True, exist_ok=True)
    for part in parts:
        root /= part
        _refuse_link(root)
        root.mkdir(exist_ok=True)


def refuse_linked_folders(folder: Path) -> None:
    """Raises ValueError if the folder holds a link to a folder, or one that leads nowhere."""
    for entry in folder.iterdir():
        if not entry.is_file():
            _refuse_link(entry)


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise ValueError(f"{visible(str(path))}: found a link, expected a folder of the data set; remove the link")
