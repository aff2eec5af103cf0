"""Checkpoints, each complete or ignored.

In: named parts (bytes of safetensors or JSON). Out: the newest complete checkpoint, read back and checked. On disk,
below the folder of a run:

    checkpoints/step-000123/<part> ...      written, synced, closed
    checkpoints/step-000123/hashes.json     size and sha256 of every part; comes last, under its name at once

A save that fails removes what it has written. A folder without hashes.json was left by a killed process: it is ignored,
named, and removed by the next start. With a hashes.json every byte must be right. Otherwise the run is refused, because
a person must decide whether to go on from older weights. An older checkpoint is removed only after a newer one is
complete, and its hashes.json first.
"""

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster.recipes.load import canonical_json
from shards.disk.checked_json import plain_json
from shards.disk.file_calls import OS_DISK, Disk, write_all

VERSION = 1
MARKER = "hashes.json"
MAX_MARKER_BYTES = 1_000_000
_FOLDER = re.compile(r"step-([0-9]{6,12})")
_PART = re.compile(r"[a-z][a-z0-9_]{0,40}\.(json|safetensors)")


@dataclass(frozen=True)
class Found:
    """What lies in the checkpoints folder of a run."""

    newest: Path | None  # complete
    incomplete: tuple[str, ...]  # names, newest first

    @property
    def step(self) -> int:
        """That of the newest; -1 without one."""
        return -1 if self.newest is None else int(self.newest.name.removeprefix("step-"))


def find(root: Path) -> Found:
    """Reads names only."""
    folders = _folders(root)
    complete = [path for _, path in folders if (path / MARKER).is_file()]
    rest = tuple(path.name for _, path in folders if path not in complete)
    return Found(complete[0] if complete else None, rest)


def save(root: Path, step: int, parts: Iterable[tuple[str, bytes]], disk: Disk = OS_DISK) -> Path:
    """Write a checkpoint; `parts` is read one by one.

    Raises ValueError if there is one of this step already, OSError if the disk did not take every byte; then what was
    written is taken away again, as far as the disk lets it, and is no checkpoint.
    """
    folder = root / f"step-{step:06d}"
    if (folder / MARKER).exists():
        raise ValueError(
            f"{folder}: found a used folder, expected a fresh one for this checkpoint; move it away, or start a new run"
        )
    for path in reversed([root, *root.parents]):
        if not path.is_dir():
            disk.mkdir(path)
    if folder.is_dir():  # of a save that failed, on a disk that would not remove it either
        _remove(folder, disk)
    try:
        disk.mkdir(folder)
        _fill(folder, step, parts, disk)
        disk.fsync_dir(root)
    except Exception:
        if folder.is_dir():
            with contextlib.suppress(OSError):
                _remove(folder, disk)
        raise
    return folder


def keep_newest(root: Path, count: int, disk: Disk = OS_DISK) -> None:
    """Remove all checkpoints but the newest `count` (at least one), and what failed saves left. Raises OSError for one
    that cannot be removed. Only for the process that alone writes into `root`."""
    complete = [path for _, path in _folders(root) if (path / MARKER).is_file()]
    for _, path in reversed(_folders(root)):
        if path not in complete[: max(count, 1)]:
            _remove(path, disk)


def _fill(folder: Path, step: int, parts: Iterable[tuple[str, bytes]], disk: Disk) -> None:
    files: dict[str, dict[str, int | str]] = {}
    for name, data in parts:
        assert _PART.fullmatch(name), name
        assert name not in (MARKER, *files), name
        _write(folder / name, data, disk)
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    disk.fsync_dir(folder)
    marker = canonical_json({"version": VERSION, "step": step, "files": files})
    temp = folder / f".{MARKER}.tmp"
    _write(temp, marker, disk)
    disk.replace(temp, folder / MARKER)
    disk.fsync_dir(folder)


def read(folder: Path, wanted: Iterable[str]) -> dict[str, bytes]:
    """All parts of a complete checkpoint. Raises ValueError for one that is missing or has other bytes than when it was
    written."""
    advice = "restore it, or remove the folder to go on from an older one"
    try:
        body = (folder / MARKER).read_bytes()
        if len(body) > MAX_MARKER_BYTES:
            raise ValueError(f"{len(body)} bytes")
        marker = plain_json(body)
        files = {str(name): (int(row["bytes"]), str(row["sha256"])) for name, row in marker["files"].items()}
        version, step = int(marker["version"]), int(marker["step"])
        if not all(_PART.fullmatch(name) for name in files):
            raise ValueError("a part with a strange name")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{folder / MARKER}: found no list of parts ({type(error).__name__}: {' '.join(str(error).split())[:80]}), "
            f"expected one; {advice}"
        ) from None
    if version != VERSION or f"step-{step:06d}" != folder.name:
        raise ValueError(
            f"{folder / MARKER}: found version {version} of step {step}, expected version {VERSION} of {folder.name}; "
            f"{advice}"
        )
    missing = sorted(set(wanted) - set(files))
    if missing:
        raise ValueError(f"{folder}: found no {missing[0]} in its list of parts, expected it; {advice}")
    parts = {}
    for name, (size, sha256) in files.items():
        try:
            data = (folder / name).read_bytes()
        except FileNotFoundError:
            raise ValueError(f"{folder / name}: found no such part, expected {size} bytes; {advice}") from None
        if len(data) != size or hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError(
                f"{folder / name}: found other bytes than were written ({len(data)}, then {size}), expected sha256 "
                f"{sha256[:16]}; {advice}"
            )
        parts[name] = data
    return parts


def clear_incomplete(root: Path, disk: Disk = OS_DISK) -> tuple[str, ...]:
    """Remove what killed processes left; the names. Only for the process that alone writes into `root`."""
    names = find(root).incomplete
    for name in names:
        _remove(root / name, disk)
    return names


def _folders(root: Path) -> list[tuple[int, Path]]:
    """(step, folder), newest first."""
    if not root.is_dir():
        return []
    found = [
        (int(match[1]), path)
        for path in root.iterdir()
        if (match := _FOLDER.fullmatch(path.name)) and not path.is_symlink() and path.is_dir()
    ]
    return sorted(found, reverse=True)


def _write(path: Path, data: bytes, disk: Disk) -> None:
    fd = disk.create(path)
    try:
        write_all(disk, fd, data)
        disk.fsync(fd)
        if os.fstat(fd).st_size != len(data):
            raise OSError(errno.EIO, f"{path}: the disk took {os.fstat(fd).st_size} of {len(data)} bytes")
    finally:
        disk.close(fd)


def _remove(folder: Path, disk: Disk) -> None:
    """The marker first, so that half a removal is never taken for a checkpoint."""
    names = sorted((path.name for path in folder.iterdir()), key=lambda name: (name != MARKER, name))
    for name in names:
        disk.unlink(folder / name)
        if name == MARKER:
            disk.fsync_dir(folder)
    disk.rmdir(folder)
