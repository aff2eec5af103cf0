"""What a machine finds out once and keeps for all runs: compiled kernels, batch curves.

In: the environment. Out: a folder of the user's, and a lock that processes of one machine pass to each other. On disk:
``$XDG_CACHE_HOME/sixfold/<what>`` (``~/.cache/sixfold/<what>`` where that is not set), readable by its owner only. All
of it may be deleted at any time.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.1


def cache_folder(environ: Mapping[str, str], what: str) -> Path:
    """The folder for one kind of finding, made if it is not there. Raises ValueError if it cannot be written."""
    home = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME") or "~").expanduser() / ".cache")
    folder = Path(home) / "sixfold" / what
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"cache folder {folder}: found {error.strerror}, expected a place to write; set XDG_CACHE_HOME"
        ) from None
    return folder


@contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[None]:
    """Holds the lock of ``path`` (flock: it ends with its process). Raises TimeoutError after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{path}: another process has held it for {timeout_s:.0f} s") from None
                time.sleep(POLL_S)
        yield
    finally:
        os.close(descriptor)  # releases
