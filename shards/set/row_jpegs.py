"""The JPEG bytes of rows, read from a shard's tar by offset and checked against the hashes in the table.

In: a store, a shard, rows with `jpg_offset`, `jpg_size` and `sha256`, in the order of their offsets. Out: bytes, or one
line that says why they cannot be read, so that a page can be made nevertheless. Neighbours come in one read.
On disk: nothing is written.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shards.disk.layout import tar_name
from shards.disk.store import Store

JPEG_COLUMNS = ("jpg_offset", "jpg_size", "sha256")
MAX_READ_BYTES = 16 << 20  # at 150 KB a picture, one request of an object store serves about 100


def read_jpegs(store: Store, shard: int, rows: Sequence[Mapping[str, Any]]) -> Iterator[bytes | str]:
    """For each row its JPEG bytes, or a `str` with the reason why they cannot be read."""
    name = tar_name(shard)
    start, block = 0, b""
    for index, row in enumerate(rows):
        offset, size = row["jpg_offset"], row["jpg_size"]
        if not start <= offset <= offset + size <= start + len(block):
            try:
                start, block = offset, store.read_range(name, offset, _stretch(rows, index))
            except OSError as error:
                start, block = 0, b""
                yield f"{name} cannot be read ({error.strerror or type(error).__name__})"
                continue
        jpeg = block[offset - start : offset - start + size]
        if hashlib.sha256(jpeg).hexdigest() == row["sha256"]:
            yield jpeg
        else:
            yield f"{name} holds other bytes here than the table says; run sixfold verify"


def _stretch(rows: Sequence[Mapping[str, Any]], first: int) -> int:
    """How many bytes to read at once from row ``first`` on."""
    offset = rows[first]["jpg_offset"]
    end = offset + rows[first]["jpg_size"]
    for row in rows[first + 1 :]:
        later = row["jpg_offset"] + row["jpg_size"]
        if later - offset > MAX_READ_BYTES:
            break
        end = max(end, later)
    return int(end - offset)
