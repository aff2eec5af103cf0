"""The lists of rows that never leave, while a server shows what does: one of them grows, and counts at once.

In: files as `retrieve.pool.blocks` reads them. Out: `Blocks`. On disk: the server's own list, to which `add` adds
lines; it is replaced as a whole, under the file's lock, so two servers may share it.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

from retrieve.pool.blocks import ENCODING, Blocks
from shards.disk.lock import locked
from shards.disk.regular import read_regular
from shards.disk.replace import replace_file

LOCK_S = 5.0  # that another writer of the list is waited for

_ADDING = threading.Lock()  # of this process, whose writers of a file share the name of its temporary

Stamp = tuple[int, int, int]


class BlockList:
    """Asked by any thread. A file is read again when it has changed; a line that is taken out counts until the end."""

    def __init__(self, files: Sequence[Path], own: Path | None, unsafe_above: float) -> None:
        """`own` may be missing: it is empty then. Raises what `Blocks.read` raises, and ValueError if `own` is a link,
        which a file that is replaced would not stay."""
        if own is not None and own.is_symlink():
            raise ValueError(f"{own}: found a link, expected a file; name the file itself")
        self.own = own
        self._files = [*files, *([] if own is None else [own])]
        self._stamps: list[Stamp | None] = [None] * len(self._files)
        self._blocks = Blocks(frozenset(), frozenset(), unsafe_above)
        self._lock = threading.RLock()
        Blocks.read(files, unsafe_above)  # these must be there
        self.current()

    def current(self) -> Blocks:
        """What is blocked now. Raises ValueError for a file that was changed to one that cannot be read."""
        with self._lock:
            stamps = [_stamp(path) for path in self._files]
            if stamps != self._stamps:
                there = [path for path, stamp in zip(self._files, stamps, strict=True) if stamp is not None]
                old, new = self._blocks, Blocks.read(there, self._blocks.unsafe_above)
                self._blocks = Blocks(old.urls | new.urls, old.hashes | new.hashes, old.unsafe_above)
                self._stamps = stamps
            return self._blocks

    def add(self, lines: Sequence[str]) -> int:
        """Put addresses and hashes at the end of the server's own list; how many of them were not there yet.

        Raises ValueError without such a list, TimeoutError if another process holds it, OSError.
        """
        if self.own is None:
            raise ValueError("found no list to write to, expected the server to be started with --block-list FILE")
        with self._lock, _ADDING:
            self.own.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.own, LOCK_S):
                text = read_regular(self.own).decode(ENCODING)
                there = {line.strip() for line in text.splitlines()}
                new = [line for line in dict.fromkeys(lines) if line not in there]
                if new:
                    whole = text if text.endswith("\n") or not text else text + "\n"
                    replace_file(self.own, (whole + "".join(line + "\n" for line in new)).encode())
            self.current()
        return len(new)


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
