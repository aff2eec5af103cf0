"""The status of a data set, from its records: sizes are compared, no image is read.

In: a store, and who writes there now. Out: a few lines for people, and whether the set is complete. On disk, read only:
the records, and `_meta/summary.json`, which says how the last call ended.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from shards.disk.amounts import counted, size_text
from shards.disk.data_set import no_data_set
from shards.disk.layout import META, SUCCESS, shard_name
from shards.disk.store import Store
from shards.set.manifest import scan

SUMMARY = f"{META}/summary.json"
MAX_LISTED = 20  # shards in one line


@dataclass(frozen=True)
class Status:
    """How far a data set is."""

    text: str  # a few lines
    is_whole: bool  # no shard is known to be damaged or short, and none of the last call is missing


def asked_units(store: Store) -> range | None:
    """The units that the last call was asked for; None if there was none."""
    try:
        return range(json.loads(store.read_bytes(SUMMARY))["asked"]["units"])
    except FileNotFoundError:
        return None


def status_of(store: Store, writer: str | None) -> Status:
    """`writer`: who holds the data set's lease now, None if nobody does. Raises ValueError if there are no shards."""
    found = scan(store)
    if not found.records and not found.problems:
        raise no_data_set(store)
    records = found.records.values()
    statuses: Counter[str] = Counter()
    for record in records:
        statuses.update(record.status_dict)
    short = sum(record.short for record in records)
    damaged = sorted(found.problems)
    asked = asked_units(store)
    missing = [unit for unit in asked or () if unit not in found.records and unit not in found.problems]
    rejected = [f"{num:,} {status}" for status, num in sorted(statuses.items()) if status != SUCCESS]
    space = sum(record.tar.bytes + record.parquet.bytes for record in records)
    rows = [
        ("shards", f"{len(records):,} done, {len(damaged):,} damaged{_names(damaged)}"),
        ("images", f"{statuses[SUCCESS]:,}"),
        ("rejected", ", ".join(rejected) or "none"),
        ("short", f"{counted(short, 'sample')} without an image"),
        ("space", size_text(space)),
    ]
    if asked is not None:
        text = f"asked for {counted(len(asked), 'shard')}, {len(missing):,} of them missing{_names(missing)}"
        rows.append(("last call", text))
    rows.append(("writer", writer or "nobody now"))
    rows += [("damage", found.problems[shard]) for shard in damaged[:MAX_LISTED]]
    if writer is None and (damaged or missing):
        rows.append(("to do", "run the same `sixfold generate` again: it makes exactly these"))
    lines = [f"{name:<10}{text}" for name, text in rows]
    return Status("\n".join(lines), is_whole=not damaged and not missing and not short)


def _names(shards: Sequence[int]) -> str:
    more = f" and {len(shards) - MAX_LISTED} more" if len(shards) > MAX_LISTED else ""
    return f": {', '.join(shard_name(shard) for shard in shards[:MAX_LISTED])}{more}" if shards else ""
