"""Locks of files (flock). A lock belongs to an open descriptor and ends with it, or with its process.

In: descriptors, paths. Out: whether a lock was free; blocks that run while one is held. On disk: the lock files that
`locked` makes and leaves, never through a link; `remove_if_free` removes a file.

A process may remove or rename a file only while it holds the file's lock. So a process that takes the lock asks
`is_named` once, and the answer stays true. Mounts without locks (NFS without a lock daemon, Lustre without flock) raise
OSError; only `locked` catches it, and says that it holds nothing.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

FIRST_PAUSE_S = 0.05  # each pause is 1.5 times as long as the one before
REMOVED_S = 10.0  # how long a lock is taken anew whose file its holders remove
LONGEST_PAUSE_S = 2.0  # shorter ones of many processes would load a file server
# Lustre without flock, NFS without a lock daemon, FUSE file systems that know nothing of locks
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


@contextlib.contextmanager
def locked(
    path: Path,
    within_s: float = 0.0,
    on_wait: Callable[[], None] = lambda: None,
    longest_pause_s: float = LONGEST_PAUSE_S,
) -> Iterator[bool]:
    """Hold the lock of a file, made if it is not there; the block gets False where the file system has no locks.

    `on_wait` is called before every wait; what it raises is raised. Raises TimeoutError if another holds the lock for
    `within_s`, OSError if the file cannot be opened.
    """
    end = time.monotonic() + within_s
    while True:
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            has_locks = True
            try:
                is_mine = lock_within(fd, end, longest_pause_s, on_wait)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                has_locks, is_mine = False, True
            if not is_mine:
                raise TimeoutError(
                    f"{path}: another process has held it for {within_s:.0f} s; end that one, or delete the file"
                )
            if has_locks and not is_named(fd, path):  # its holder removed it while this one waited
                if time.monotonic() >= end + REMOVED_S:
                    raise TimeoutError(
                        f"{path}: found it removed each time that its lock was taken, for {REMOVED_S:.0f} s, expected "
                        "one file to lock; see what removes it, or whether this mount tells a file's identity"
                    )
                time.sleep(FIRST_PAUSE_S)
                continue
            yield has_locks
            return
        finally:
            os.close(fd)  # releases


@contextlib.contextmanager
def folder_locked(folder: Path, lock: str, who: str, advice: str) -> Iterator[None]:
    """Make a folder in which one process at a time works, and hold its lock, the file `lock`.

    Raises ValueError if it cannot be written, or if another `who` ("training") holds the lock; `advice` then says what
    to do. Raises OSError where there are no locks.
    """
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            has_locks = held.enter_context(locked(folder / lock))
        except TimeoutError:
            raise ValueError(f"{folder}: found another {who} at work in this folder, expected none; {advice}") from None
        except OSError as error:
            raise ValueError(
                f"{folder}: cannot be written ({error.strerror}); give a folder that can be written"
            ) from None
        if not has_locks:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(folder / lock))
        yield


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file now; False if there is no file, or if nobody can tell."""
    try:
        fd = open_to_lock(path)
    except OSError:
        return False
    try:
        return not try_lock(fd)
    except OSError:
        return False
    finally:
        os.close(fd)


def try_lock(fd: int) -> bool:
    """Take the lock; False if another descriptor holds it. Raises OSError if the mount has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_within(
    fd: int, end: float, longest_pause_s: float = LONGEST_PAUSE_S, on_wait: Callable[[], None] = lambda: None
) -> bool:
    """Take the lock, or wait for it until `time.monotonic` reaches `end`; False if it was never free.

    `on_wait` is called before every wait. Raises OSError if the mount has no locks.
    """
    pause_s = FIRST_PAUSE_S
    while not try_lock(fd):
        left_s = end - time.monotonic()
        if left_s <= 0:
            return False
        on_wait()
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
