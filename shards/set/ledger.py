"""The ledger: a copy of all records in one file, so that a resume reads one file instead of 10,000.

In: records, and the stamps (size, time, inode or ETag) of their files. Out: records by shard. On disk:
`_meta/records.jsonl`, one line per record: crc32 in hex, a blank, JSON `{"stamp": [...], "record": "..."}` with the
record file's own bytes.

The ledger is a cache. A line counts only while the record's file has the same stamp as when the line was made;
otherwise the file itself is read. A line whose crc is wrong is left out. Deleting the ledger costs time and nothing
else. `manifest.scan` replaces it as a whole when it is out of date.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from shards.disk.checked_json import plain_json
from shards.disk.layout import META
from shards.disk.record import Record, record_of
from shards.disk.store import Store

LEDGER = f"{META}/records.jsonl"


@dataclass(frozen=True)
class Line:
    """One record in the ledger, and the stamp that its file had."""

    stamp: tuple[int, str]
    record: Record


def read_ledger(store: Store) -> dict[str, Line]:
    """Name of each record file -> its line. Damaged lines are left out; of several lines the last one counts."""
    try:
        data = store.read_bytes(LEDGER)
    except OSError:  # none yet, or no file that can be read: the records are read instead
        return {}
    lines: dict[str, Line] = {}
    for raw in data.split(b"\n"):
        crc, _, body = raw.partition(b" ")
        if crc == b"%08x" % zlib.crc32(body):
            try:
                entry = plain_json(body)
                name, (size, mark) = entry["name"], entry["stamp"]
                lines[name] = Line((size, mark), record_of(entry["record"], int(name[:5]), f"{store.url}/{name}"))
            except (KeyError, TypeError, ValueError):
                continue  # another version's line; the record's file is read instead
    return lines


def write_ledger(store: Store, lines: Mapping[str, Line]) -> None:
    """Replace the ledger as a whole."""
    store.replace(LEDGER, b"".join(_encoded(name, lines[name]) for name in sorted(lines)))


def _encoded(name: str, line: Line) -> bytes:
    entry = {"name": name, "stamp": list(line.stamp), "record": line.record.to_body()}
    body = json.dumps(entry, separators=(",", ":"), allow_nan=False).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(body), body)
