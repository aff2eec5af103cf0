"""Files and folders that appear as a whole or not at all.

In: the final name, and bytes or a block of code that writes. Out: nothing, a file to write into, or a folder to build.
On disk: the file or folder under its final name; while it is written, `.NAME.PID.tmp` or `.NAME.PID.new` beside it (at
the same depth, so relative links stay right). A file is synced to the disk before it gets its name.

Shards and checkpoints have stricter protocols of their own (`shards.set.commit`, `train.session.checkpoint`).
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from shards.disk.file_calls import OS_DISK


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` under the name, whatever was there; all of it or nothing. Raises OSError."""
    with whole_file(path) as file:
        file.write(data)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write into; it takes the name `path` when the block ends well. Makes the folder. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temp.open("wb") as file:
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

    What is already there is only replaced when a file `mark` in it says that it is ours to replace. Raises ValueError
    if `target` is a file, cannot be written, or holds files without `mark` among them (with None: holds any).
    """
    target = target.absolute()
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ValueError(f"{target}: found a file or a link, expected a new folder; choose another name")
    if target.exists() and any(target.iterdir()) and not (mark and (target / mark).is_file()):
        raise ValueError(
            f"{target}: found a folder with other files in it, expected an empty or new one; choose another"
        )
    building = target.with_name(f".{target.name}.{os.getpid()}.new")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    shutil.rmtree(building, ignore_errors=True)
    try:
        building.mkdir(parents=True)
    except OSError as error:
        raise ValueError(f"{target}: cannot be written ({error.strerror}); choose another folder") from None
    try:
        yield building
        if mark:
            (building / mark).write_text(
                "this folder is replaced as a whole when it is written again\n", encoding="utf-8"
            )
        if target.exists():
            target.rename(old)
        building.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(building, ignore_errors=True)
