"""Files and folders that appear as a whole or not at all.

In: the final name, and bytes or a block of code that writes. Out: nothing, a file to write into, or a folder to build.
On disk: the file or folder under its final name; while it is written, `.NAME.sixfold-TOKEN.tmp` or `….new` beside it
(at the same depth, so relative links stay right), and the folder that it replaces as `….old`. TOKEN is random:
processes of two containers or machines often have the same number. A file is synced to the disk before it gets its
name.

Of several writers of one name the last one wins. What killed writers left is removed after a day, when a process first
writes something beside it.

Shards and checkpoints have stricter protocols of their own (`shards.set.commit`, `train.session.checkpoint`).
"""

import contextlib
import errno
import functools
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from shards.disk.file_calls import OS_DISK

LEFT_S = 86_400.0  # without a change; a writer that was suspended for as long is taken for dead
TRIES = 100  # to take a name; each is lost to another writer that was done meanwhile
_TEMPORARY = re.compile(r"\.(.+)\.sixfold-[0-9a-f]{16}\.(tmp|new|old)")


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` under the name, whatever was there; all of it or nothing. Raises OSError."""
    with whole_file(path) as file:
        file.write(data)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write into; it takes the name `path` when the block ends well. Makes the folder. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _collect(path.parent.absolute())
    temp = _beside(path, "tmp")
    try:
        with temp.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
        sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temp.unlink()


def sync_folder(folder: Path) -> None:
    """Wait until the names in it are on the disk, where the file system can do that (some of networks cannot)."""
    with contextlib.suppress(OSError):
        OS_DISK.fsync_dir(folder)


@contextlib.contextmanager
def whole_folder(target: Path, mark: str | None = None) -> Iterator[Path]:
    """Build a folder under another name, then give it its own.

    What is already there is only replaced when a file `mark` in it says that it is ours to replace; where it cannot be
    replaced, it stays. Raises ValueError if `target` is a file, cannot be written, or holds files without `mark` among
    them (with None: holds any), OSError if the folder cannot get its name.
    """
    target = target.absolute()
    if not _is_folder_or_nothing(target):
        raise ValueError(f"{target}: found a file or a link, expected a new folder; choose another name")
    _refuse_others(target, mark, target)
    building = _beside(target, "new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _collect(target.parent)
        building.mkdir()
    except OSError as error:
        raise ValueError(f"{target}: cannot be written ({error.strerror}); choose another folder") from None
    try:
        yield building
        if mark:
            (building / mark).write_text(
                "this folder is replaced as a whole when it is written again\n", encoding="utf-8"
            )
        for _ in range(TRIES):
            if _take_name(building, target, mark):
                return
        raise ValueError(f"{target}: found {TRIES} other writers of it in a row, expected one; write it once more")
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}.sixfold-{secrets.token_hex(8)}.{ending}")


def _is_folder_or_nothing(path: Path) -> bool:
    """One look: between two, another writer may have taken the name or given it back."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return True


def _refuse_others(folder: Path, mark: str | None, target: Path) -> None:
    """Raises ValueError if `folder`, which is or was `target`, holds files and no `mark`."""
    while True:
        try:
            before = folder.stat()
            names = os.listdir(folder)
            is_same = os.path.samestat(before, folder.stat())  # else another writer has just replaced it
        except FileNotFoundError:
            return
        if is_same:
            break
    if names and mark not in names:
        raise ValueError(
            f"{target}: found a folder with other files in it, expected an empty or new one; choose another"
        )


def _take_name(building: Path, target: Path, mark: str | None) -> bool:
    """Give a folder its name, and remove the one that had it; False if another writer took the name in between.

    Whatever fails, the folder that had the name gets it back, unless another writer has it. Raises ValueError as
    `_refuse_others` does, OSError.
    """
    old = _beside(target, "old")
    with contextlib.suppress(FileNotFoundError):
        target.rename(old)
    is_taken = False
    try:
        _refuse_others(old, mark, target)
        building.rename(target)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError):
            old.rename(target)
        is_taken = isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST)
        if not is_taken:
            raise
    shutil.rmtree(old, ignore_errors=True)
    return not is_taken


@functools.lru_cache(maxsize=1024)
def _collect(folder: Path) -> None:
    """Remove what killed writers left in a folder; a folder that none has replaced gets its name back. Once a process,
    because a large folder takes long to list."""
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir()):
            found = _TEMPORARY.fullmatch(path.name)
            with contextlib.suppress(OSError):
                if found is None or _last_change(path) > time.time() - LEFT_S:
                    continue
                if not path.is_dir():
                    path.unlink()
                elif found[2] == "old" and not os.path.lexists(path.with_name(found[1])):
                    path.rename(path.with_name(found[1]))
                else:
                    shutil.rmtree(path, ignore_errors=True)


def _last_change(path: Path) -> float:
    """When a file, or anything in a folder, was last written: seconds since 1970. Raises OSError."""
    newest = path.lstat().st_mtime
    for folder, _, files in os.walk(path):
        newest = max(newest, *(os.lstat(os.path.join(folder, name)).st_mtime for name in (".", *files)))
    return newest
