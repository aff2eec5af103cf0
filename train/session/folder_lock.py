"""A folder in which one process at a time writes: a training's, a sweep's.

In: the folder, the name of its lock file, who works in it. Out: nothing. On disk: the lock file, which stays.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from shards.disk.lock import try_lock


@contextlib.contextmanager
def folder_locked(out: Path, lock: str, who: str, advice: str) -> Iterator[None]:
    """Make the folder and hold its lock. Raises ValueError if it cannot be written, or if another `who` ("training")
    holds the lock; `advice` then says what to do."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        fd = os.open(out / lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ValueError(f"{out}: cannot be written ({error.strerror}); give a folder that can be written") from None
    try:
        if not try_lock(fd):
            raise ValueError(f"{out}: found another {who} at work in this folder, expected none; {advice}")
        yield
    finally:
        os.close(fd)
