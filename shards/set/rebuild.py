"""Tables that are gone or damaged, written again from their tars where nothing was lost with them.

In: a store, shards. Out: the shards whose table is whole again. On disk: `NNNNN.parquet`, byte for byte as it was: only
bytes with the hash in the record are written. A damaged table goes to the quarantine first.

The members of a sample say all that its row says. Rejected draws have rows and no members, so a table that had some
cannot be written again, and the shard is left as it is.
"""

import hashlib
from collections.abc import Iterable

from shards.disk.checked_json import plain_json
from shards.disk.layout import MEMBER_EXTENSIONS, table_name, tar_name
from shards.disk.object_store import ObjectStore
from shards.disk.record import Record, RecordError, read_record
from shards.disk.store import FolderStore
from shards.disk.tar import BLOCK, padding
from shards.set.quarantine import set_aside
from shards.set.writer import checked_row, placed, table_bytes

SIZE_AT = slice(124, 135)  # of a header's 512 bytes: the octal digits


def rebuild_tables(store: FolderStore | ObjectStore, shards: Iterable[int], write: bool = True) -> tuple[int, ...]:
    """The shards among these whose tables can be written again; they are, with `write`. The others stay as they are. No
    run may write meanwhile."""
    return tuple(shard for shard in sorted(shards) if _rebuild(store, shard, write))


def table_of_tar(tar: bytes, record: Record) -> bytes | None:
    """The table of a shard from the bytes of its tar; None if the two do not give the table of the record."""
    if record.count != record.successes or hashlib.sha256(tar).hexdigest() != record.tar.sha256:
        return None
    at, rows = 0, []
    try:
        for _ in range(record.successes):
            members = _members_at(tar, at)
            facts = plain_json(members["json"])
            del facts["sha256"]  # of the JPEG: `placed` writes it
            row, data = placed(checked_row(facts, record.shard), members["jpg"], at)
            rows.append(row)
            at += len(data)
        table = table_bytes(rows, {})
    except (ValueError, LookupError, TypeError, AttributeError):  # JSON of another shape than ours
        return None
    return table if hashlib.sha256(table).hexdigest() == record.parquet.sha256 else None


def _rebuild(store: FolderStore | ObjectStore, shard: int, write: bool) -> bool:
    name = table_name(shard)
    try:
        record = read_record(store, shard)
        if record is None:
            return False
        table = table_of_tar(store.read_bytes(tar_name(shard), record.tar.bytes), record)
    except (RecordError, OSError):
        return False
    if table is None or not write:
        return table is not None
    if store.exists(name):
        set_aside(store, [name], "damaged; written again from the tar, whose record has its hash")
    return store.write_exclusive(name, table)


def _members_at(tar: bytes, at: int) -> dict[str, bytes]:
    """The members of the sample whose first header begins at `at`. Raises ValueError or KeyError for what is no such
    sample."""
    found = {}
    for extension in MEMBER_EXTENSIONS:
        size = int(tar[at : at + BLOCK][SIZE_AT], 8)
        found[extension] = tar[at + BLOCK : at + BLOCK + size]
        at += BLOCK + size + len(padding(size))
    return found
