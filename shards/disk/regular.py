"""Files from elsewhere, opened so that none can hang or fill the memory: regular files only, their size known first.

In: a path, the most bytes that are read. Out: an open file, or its bytes. On disk: only reads.

A pipe or a device under the name of a file would wait for ever or never end; a sparse file of 20 GB takes no room on
the disk and all of it in memory. Links are followed, because exports are links to shards.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from shards.disk.address import file_path

# the errors of `read_regular` that mean: something is there, and it is no file of a size that may be read
NO_FILE = frozenset({errno.EINVAL, errno.EFBIG, errno.EISDIR, errno.ENXIO, errno.ELOOP})
END_BYTES = 1 << 16
PIECE_BYTES = 1 << 20
MAX_BYTES = 1 << 30  # of a file whose size nothing else says


def open_regular(path: Path) -> int:
    """A descriptor of the file, for reading. Raises OSError, also for what is no regular file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe that nobody writes to is opened at once
    except FileNotFoundError:
        if not path.is_symlink():
            raise
        raise OSError(errno.ELOOP, "found a link that leads nowhere, expected a file", str(path)) from None
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return fd
    os.close(fd)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "found a pipe, a device or a socket, expected a file", str(path))


def read_regular(path: Path, at_most: int = MAX_BYTES) -> bytes:
    """All bytes of the file. Raises OSError, also for a file of more than `at_most` bytes, which is not read."""
    fd = open_regular(path)
    try:
        left = os.fstat(fd).st_size
        if left > at_most:
            raise OSError(errno.EFBIG, f"found {left:,} bytes, expected at most {at_most:,}", str(path))
        parts = [os.read(fd, left)]
        while parts[-1] and (left := left - len(parts[-1])) > 0:  # one call gives at most 2 GiB
            parts.append(os.read(fd, left))
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(fd)


def size_and_ends(path: Path) -> tuple[int, str]:
    """(bytes, hex sha256 of the first and last 64 KiB): tells a file of any size from another one at once; a change in
    the middle is not seen. Raises OSError."""
    with open(open_regular(path), "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        ends = file.read(END_BYTES)
        file.seek(max(0, size - END_BYTES))
        return size, hashlib.sha256(ends + file.read(END_BYTES)).hexdigest()


def file_content(name: str | None) -> str | None:
    """What stands for a file that a recipe names in what decides: the hex sha256 of its bytes; the name if there is no
    such file, which is missed where it is read."""
    if name is None or not file_path(name).is_file():
        return name
    return sha256_of(file_path(name))


def sha256_of(path: Path, go_on: Callable[[], None] = lambda: None) -> str:
    """Hex sha256 of the file's bytes, in little memory. `go_on` is called for each piece; it ends it by what it raises.
    Raises OSError."""
    digest = hashlib.sha256()
    with os.fdopen(open_regular(path), "rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            go_on()
            digest.update(piece)
    return digest.hexdigest()
