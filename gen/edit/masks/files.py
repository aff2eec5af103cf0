"""Masks that are there: the PNGs of a folder, each with the hash of its bytes when a run began.

In: a folder. Out: name below it -> hash; later the mask of such a name, of these very bytes. On disk: only reads.
"""

import errno
import functools
import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from cluster.process.exit import NotAgain
from gen.edit.masks.pixels import MaskHW
from gen.edit.masks.stored import decode_mask
from gen.model.folder import ModelError
from shards.disk.pictures import MAX_PICTURE_BYTES, is_picture, is_system_folder
from shards.disk.regular import NO_FILE, read_regular, sha256_of
from shards.disk.safe_text import quoted, visible

WHAT = "edit.masks.masks"  # the recipe's field, for messages
SUFFIX = ".png"
MAX_DEPTH, MAX_FILES = 16, 10_000_000  # links followed
HASH_THREADS = 4
AT_ONCE = 256  # files of one thread's task

Hashes = Mapping[str, str]  # name below the folder -> hex sha256


def hashes_of(folder: Path) -> dict[str, str]:
    """Of every mask that a key can name, sorted: links are followed, as reading them does, to files and to folders.

    A process reads a file's bytes once, and again only where its size or times changed. Raises ModelError for what
    cannot be read, for names that are one to see, and for a link to a folder above it, which would have no end.
    """
    try:
        names = sorted(_names_in(folder))
        parts = [names[at : at + AT_ONCE] for at in range(0, len(names), AT_ONCE)]
        with ThreadPoolExecutor(HASH_THREADS, "hash") as threads:
            hashes = [one for part in threads.map(partial(_hashes, folder), parts) for one in part]
    except OSError as error:
        raise ModelError(
            f"{WHAT}: {quoted(str(error.filename), 200)}: {error.strerror}; make it a file or a folder that can be "
            "read, or remove it"
        ) from None
    found = dict(zip(names, hashes, strict=True))
    names_by_key(found)
    return found


def names_by_key(hashes: Hashes) -> dict[str, str]:
    """Key of a source, whose hidden characters are shown, -> name of its mask. Raises ModelError for two of one key."""
    names: dict[str, str] = {}
    for name in hashes:
        key = visible(name.removesuffix(SUFFIX))
        if key in names:
            raise ModelError(
                f"{WHAT}: found two masks whose names are one to see, {quoted(name, 80)}, expected one; rename the "
                "other"
            )
        names[key] = name
    return names


def read_mask(folder: Path, name: str, sha256: str) -> MaskHW:
    """The mask in the very bytes that the run began with. Raises NotAgain that names the file if they are gone or
    others, ValueError if they are no mask, OSError if they cannot be read now."""
    found = "other bytes"
    try:
        data = read_regular(folder / name, MAX_PICTURE_BYTES)
        if hashlib.sha256(data).hexdigest() == sha256:
            return decode_mask(data)
    except OSError as error:
        if error.errno not in NO_FILE | {errno.ENOENT}:
            raise
        found = "other bytes" if error.errno in NO_FILE else "no such file"
    raise NotAgain(
        f"{WHAT}: {quoted(name, 80)}: found {found} below {quoted(str(folder), 200)}, expected the mask of when the "
        "run began; bring it back, and run the same command again, or edit with the new ones in another output"
    )


def _names_in(folder: Path) -> list[str]:
    names: list[str] = []
    for place, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = [name for name in folders if not is_system_folder(name)]
        here = Path(place).relative_to(folder)
        names += [(here / name).as_posix() for name in files if name.endswith(SUFFIX) and is_picture(name)]
        if len(names) > MAX_FILES or len(here.parts) > MAX_DEPTH:
            raise ModelError(
                f"{WHAT}: {quoted(place, 200)}: found more than {MAX_FILES:,} masks or {MAX_DEPTH} folders in each "
                "other, expected fewer; look for a link to a folder above it"
            )
    return names


def _refuse(error: OSError) -> None:
    raise error


def _hashes(folder: Path, names: Iterable[str]) -> list[str]:
    return [_hash(folder / name) for name in names]


def _hash(path: Path) -> str:
    try:
        about = path.stat()
    except FileNotFoundError:
        return sha256_of(path)  # raises what says whether it is a link
    if about.st_size > MAX_PICTURE_BYTES:
        told = f"found {about.st_size:,} bytes, expected at most {MAX_PICTURE_BYTES:,}"
        raise OSError(errno.EFBIG, told, str(path))
    return _hash_of(path, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


@functools.cache
def _hash_of(path: Path, size: int, modified_ns: int, changed_ns: int) -> str:
    return sha256_of(path)
