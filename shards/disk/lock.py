"""Locks of files (flock): held through an open descriptor, let go with it and by the end of its process.

In: descriptors, paths. Out: whether a lock was free. On disk: nothing, but for the file that `remove_if_free` removes.

A file whose name goes, or leads to another file, only while its lock is held cannot be lost between a look and the
deed: whoever takes the lock asks `is_named` once, and it stays true. Mounts without locks (NFS without a lock daemon,
Lustre without flock) answer OSError, which is not caught here: what it means is for the caller to say.
"""

import fcntl
import os
import time
from pathlib import Path

FIRST_PAUSE_S = 0.02  # each is half as long again as the one before
LONGEST_PAUSE_S = 2.0  # many processes that ask often are a burden for a file server


def try_lock(fd: int) -> bool:
    """Take the lock; False if another descriptor holds one. Raises OSError where there are no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_within(fd: int, end: float, longest_pause_s: float = LONGEST_PAUSE_S) -> bool:
    """Take the lock, until the moment `end` of `time.monotonic`; False if it was held all the time. Raises OSError
    where there are no locks."""
    pause_s = FIRST_PAUSE_S
    while not try_lock(fd):
        left_s = end - time.monotonic()
        if left_s <= 0:
            return False
        time.sleep(min(pause_s, longest_pause_s, left_s))
        pause_s *= 1.5
    return True


def open_to_lock(path: Path) -> int:
    """A descriptor to lock an existing file with. Raises OSError, FileNotFoundError if there is none."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)  # NFS gives its lock only to who may write
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # another user's


def is_named(fd: int, path: Path) -> bool:
    """Whether the name leads to the descriptor's file."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def remove_if_free(path: Path) -> bool:
    """Remove the file unless somebody holds a lock of it; True if this call removed it.

    It goes while its lock is held: who takes the lock later finds no name (`is_named`, or `st_nlink` 0). Raises OSError
    where there are no locks.
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
