"""Locks of files (flock). A lock belongs to an open descriptor and ends with it, or with its process.

In: descriptors, paths. Out: whether a lock was free. On disk: nothing; `remove_if_free` removes a file.

A process may remove or rename a file only while it holds the file's lock. So a process that takes the lock asks
`is_named` once, and the answer stays true. Mounts without locks (NFS without a lock daemon, Lustre without flock) raise
OSError; callers decide what that means.
"""

import fcntl
import os
import time
from pathlib import Path

FIRST_PAUSE_S = 0.02  # each pause is 1.5 times as long as the one before
LONGEST_PAUSE_S = 2.0  # shorter ones of many processes would load a file server


def try_lock(fd: int) -> bool:
    """Take the lock; False if another descriptor holds it. Raises OSError if the mount has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_within(fd: int, end: float, longest_pause_s: float = LONGEST_PAUSE_S) -> bool:
    """Take the lock, or wait for it until `time.monotonic` reaches `end`; False if it was never free.

    Raises OSError if the mount has no locks.
    """
    pause_s = FIRST_PAUSE_S
    while not try_lock(fd):
        left_s = end - time.monotonic()
        if left_s <= 0:
            return False
        time.sleep(min(pause_s, longest_pause_s, left_s))
        pause_s *= 1.5
    return True


def open_to_lock(path: Path) -> int:
    """A descriptor with which an existing file can be locked. Raises OSError, as FileNotFoundError if there is none."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)  # NFS locks only descriptors that may write
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # another user's file


def is_named(fd: int, path: Path) -> bool:
    """Whether `path` is a name of the descriptor's file."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def remove_if_free(path: Path) -> bool:
    """Remove the file if no process holds its lock; True if this call removed it.

    The lock is held during the removal, so a process that takes it later finds no name (`is_named`, or `st_nlink` 0).
    Raises OSError if the mount has no locks.
    """
    try:
        fd = open_to_lock(path)
    except (FileNotFoundError, PermissionError):
        return False
    try:
        if not try_lock(fd) or not is_named(fd, path):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(fd)
