"""A folder that appears as a whole or not at all.

In: the folder's final name. Out: a folder beside it to build it in, which gets the final name at the end. On disk: the
folder, and while it is built `.NAME.PID.new` beside it (at the same depth, so relative links stay right).

A folder that is already there is replaced only if it holds the file `mark`, which says that it may be replaced.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_folder(target: Path, mark: str | None = None) -> Iterator[Path]:
    """Build a folder under another name, then give it its own.

    Raises ValueError if ``target`` is a file, cannot be written, or holds files without ``mark`` among them (with None:
    holds any).
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
