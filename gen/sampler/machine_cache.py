"""What a machine finds out once and keeps for all runs: compiled kernels, batch curves.

In: the environment. Out: a folder of the user's, and a lock that processes of one machine pass to each other. On disk:
``$XDG_CACHE_HOME/sixfold/<what>`` (``~/.cache/sixfold/<what>`` where that is not set), readable by its owner only;
where that cannot be written, a private folder in the system's temporary one. All of it may be deleted at any time.
"""

import contextlib
import errno
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from shards.disk.lock import try_lock

POLL_S = 0.1  # the first wait for a lock; each is half as long again as the one before
MAX_POLL_S = 2.0  # 64 processes that ask ten times a second are a burden for a file server
# Lustre without flock, NFS without a lock daemon, FUSE file systems that know nothing of locks
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


def cache_folder(environ: Mapping[str, str], what: str, say: Callable[[str], None]) -> Path:
    """The folder for one kind of finding, made if it is not there; ``say`` hears if it is only a temporary one.

    Raises OSError if the temporary folder cannot be written either.
    """
    home = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME") or "~").expanduser() / ".cache")
    folder = Path(home) / "sixfold" / what
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # a folder that is there may still be read-only
    except OSError as error:
        instead = _temporary_folder() / what
        instead.mkdir(mode=0o700, exist_ok=True)
        say(
            f"cache folder {folder}: found {error.strerror}, expected a place to write; using {instead}, which other "
            "machines do not see; set XDG_CACHE_HOME"
        )
        return instead
    return folder


def _temporary_folder() -> Path:
    """A folder that nobody else can have prepared: this user's own, or else one for this process alone."""
    folder = Path(tempfile.gettempdir()) / f"sixfold_cache-{os.getuid()}"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return folder
    return Path(tempfile.mkdtemp(prefix="sixfold_cache-"))


@contextlib.contextmanager
def locked(path: Path, timeout_s: float, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds the lock of ``path`` (flock: it ends with its process); nothing where the file system has no locks.

    ``on_wait`` is called before every wait; what it raises is raised. Raises TimeoutError after ``timeout_s``, and
    OSError if the file cannot be opened.
    """
    deadline = time.monotonic() + timeout_s
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        wait_s = POLL_S
        while not _lock(descriptor):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{path}: another process has held it for {timeout_s:.0f} s; end that one, or delete the file"
                )
            on_wait()
            time.sleep(wait_s)
            wait_s = min(1.5 * wait_s, MAX_POLL_S)
        yield
    finally:
        os.close(descriptor)  # releases


def _lock(descriptor: int) -> bool:
    """Whether the lock is held now, or there are no locks to be held."""
    try:
        return try_lock(descriptor)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return True
