"""The manifest: all shards of a data set as one table of samples; records, rows, members, subsets.

In: a store. Out: records by shard, pyarrow tables after `TABLE_SCHEMA`, the bytes of single members. On disk: reads
records and tables; writes `_meta/records.jsonl` (see `ledger.py`) and subsets, `_meta/subsets/<name>.parquet` (uid,
key, shard) with the rule that made them in `<name>.json`.

Readers trust records only: a tar or table without a record does not exist, and a table whose bytes do not have the
hash in the record is refused before it is parsed.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from shards.disk.layout import META, RECORD, TABLE_SCHEMA, record_name, shard_of, table_name, tar_name
from shards.disk.record import JSON, Record, RecordError, parse_record, read_record
from shards.disk.safe_text import one_line
from shards.disk.store import Store
from shards.set.ledger import Line, read_ledger, write_ledger

SUBSETS = f"{META}/subsets"
SUBSET_SCHEMA = pa.schema(
    [pa.field(name, TABLE_SCHEMA.field(name).type, nullable=False) for name in ("uid", "key", "shard")]
)
_SUBSET_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,60}")
_READ_THREADS = 4


@dataclass(frozen=True, kw_only=True)
class Scan:
    """All records of a data set: the valid ones, and what is wrong with the others (shard -> one line)."""

    records: dict[int, Record]
    problems: dict[int, str]


def scan(store: Store) -> Scan:
    """Read every record and compare the sizes of tar and table with it. Never raises for a damaged shard.

    With a ledger this is one listing, one stat per file and one read. The ledger is brought up to date, unless the
    store was opened for reading. Whether a shard is done depends on its record's file, never on the ledger.
    """
    stamps = store.stamps()
    remembered = read_ledger(store)
    lines: dict[str, Line] = {}
    is_behind = False
    records: dict[int, Record] = {}
    problems: dict[int, str] = {}
    for name in sorted(stamps):
        shard = shard_of(name, RECORD)
        if shard is None:
            continue
        try:
            line = remembered.get(name)
            if line is None or line.stamp != stamps[name]:
                line = Line(stamps[name], parse_record(store.read_bytes(name), shard, f"{store.url}/{name}"))
                is_behind = True
        except FileNotFoundError:
            continue  # moved away between the listing and the read
        except RecordError as error:
            if error.kind == "schema":
                raise
            problems[shard] = str(error)
            continue
        lines[name] = line
        for file, stamp in line.record.files().items():
            listed = stamps.get(file)
            if listed is not None and listed[0] == stamp.bytes:
                continue
            # a listing is no snapshot: a shard published meanwhile may show its record and not yet its tar
            try:
                found = store.size(file)
            except OSError:
                problems[shard] = f"{store.url}/{file}: found no such file, the record says {stamp.bytes} bytes"
                continue
            if found != stamp.bytes:
                problems[shard] = f"{store.url}/{file}: found {found} bytes, the record says {stamp.bytes} bytes"
        if shard not in problems:
            records[shard] = line.record
    if (is_behind or lines.keys() != remembered.keys()) and not store.read_only:
        with contextlib.suppress(OSError):  # the ledger is a cache; a full disk is found where it matters
            write_ledger(store, lines)
    return Scan(records=records, problems=problems)


def scan_records(store: Store, fingerprint: str | None = None) -> dict[int, Record]:
    """Shard -> record, of all shards that are done.

    Raises ValueError if a shard is damaged (an invalid record, files that are missing or of another size), or if a run
    of another `fingerprint` made it.
    """
    found = scan(store)
    if found.problems:
        first = found.problems[min(found.problems)]
        more = f" (and {len(found.problems) - 1} more shards)" if len(found.problems) > 1 else ""
        raise RecordError(f"{first}{more}; run `sixfold repair`, then the same command again", "damaged")
    foreign = [record for record in found.records.values() if fingerprint not in (None, record.fingerprint)]
    if foreign:
        raise ValueError(
            f"{store.url}: {len(foreign)} of {len(found.records)} shards were made by another recipe (fingerprint "
            f"{foreign[0].fingerprint[:12]}, expected {str(fingerprint)[:12]}); "
            "use another output folder, or the recipe in _meta/recipe.yaml"
        )
    return found.records


def read_table(
    store: Store, shards: Iterable[int] | Mapping[int, Record], columns: Sequence[str] | None = None
) -> pa.Table:
    """The rows of `shards`, in the order given, rejected draws included; `columns` None reads all.

    Raises ValueError if a shard has no record, or if a table's bytes are not those of its record.
    """
    schema = TABLE_SCHEMA if columns is None else pa.schema([TABLE_SCHEMA.field(name) for name in columns])
    return pa.concat_tables([schema.empty_table(), *iter_tables(store, shards, columns)])


def iter_tables(
    store: Store, shards: Iterable[int] | Mapping[int, Record], columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """As `read_table`, one table per shard. A few are read ahead; memory does not grow with the number of shards."""
    records = shards if isinstance(shards, Mapping) else {}
    numbers = list(shards)
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        for at in range(0, len(numbers), 4 * _READ_THREADS):
            batch = numbers[at : at + 4 * _READ_THREADS]
            yield from pool.map(lambda shard: _read_one(store, shard, records.get(shard), columns), batch)


def read_member(store: Store, row: Mapping[str, object], extension: str = "jpg", check: bool = True) -> bytes:
    """The bytes of one member of the sample in `row` (a row of the table: shard, key, offset, size, hash).

    Raises ValueError if the row has no members, the tar ends too early or, with `check`, the bytes have another hash.
    """
    shard, offset, size = row["shard"], row[f"{extension}_offset"], row[f"{extension}_size"]
    if not isinstance(shard, int) or not isinstance(offset, int) or not isinstance(size, int):
        raise ValueError(f"key {row['key']}: has no .{extension} (status {row.get('status', 'unknown')})")
    name = tar_name(shard)
    where = f"{store.url}/{name}, member {row['key']}.{extension}"
    try:
        data = store.read_range(name, offset, size)
    except FileNotFoundError:
        raise ValueError(f"{where}: the tar is missing; run `sixfold repair`") from None
    if len(data) != size:
        raise ValueError(f"{where}: found {len(data)} bytes, expected {size}; run `sixfold verify`")
    if check:
        expected = row["sha256" if extension == "jpg" else f"{extension}_sha256"]
        if hashlib.sha256(data).hexdigest() != expected:
            raise ValueError(f"{where}: the bytes do not have the hash of the table; run `sixfold verify`")
    return data


def write_subset(store: Store, name: str, samples: pa.Table, rule: Mapping[str, JSON]) -> None:
    """Store the samples (columns uid, key, shard) as the subset `name`, with the rule that chose them."""
    path = _subset_path(name)
    sink = pa.BufferOutputStream()
    pq.write_table(samples.select(SUBSET_SCHEMA.names).cast(SUBSET_SCHEMA), sink, compression="zstd")
    table: bytes = sink.getvalue().to_pybytes()
    about = {"rule": dict(rule), "count": samples.num_rows, "sha256": hashlib.sha256(table).hexdigest()}
    store.replace(f"{path}.parquet", table)
    store.replace(f"{path}.json", (json.dumps(about, indent=4, sort_keys=True, allow_nan=False) + "\n").encode("ascii"))


def read_subset(store: Store, name: str) -> tuple[pa.Table, dict[str, JSON]]:
    """The samples of subset `name` (uid, key, shard), and its rule. Raises ValueError if it is missing, or if the two
    files do not belong together."""
    path = _subset_path(name)
    where = f"{store.url}/{path}"
    try:
        about = json.loads(store.read_bytes(f"{path}.json"))
        table = store.read_bytes(f"{path}.parquet")
    except FileNotFoundError:
        known = sorted(
            file.rpartition("/")[2].removesuffix(".json")
            for file in store.list(f"{SUBSETS}/")
            if file.endswith(".json")
        )
        raise ValueError(
            f"{where}: found no such subset, expected one of: {', '.join(known) or 'none yet'}; that of a scale is "
            "written by `sixfold generate … --scale`"
        ) from None
    if hashlib.sha256(table).hexdigest() != about["sha256"]:
        raise ValueError(f"{where}: the list does not belong to its rule (another hash); write the subset again")
    return pq.read_table(pa.BufferReader(table), schema=SUBSET_SCHEMA), about["rule"]


def _subset_path(name: str) -> str:
    if not _SUBSET_NAME.fullmatch(name):
        raise ValueError(
            f"subset: found the name {name[:60]!r}, expected a-z, 0-9, '.', '-' and '_', at most 61 of them"
        )
    return f"{SUBSETS}/{name}"


def _read_one(store: Store, shard: int, record: Record | None, columns: Sequence[str] | None) -> pa.Table:
    record = record or read_record(store, shard)
    if record is None:
        raise ValueError(f"{store.url}: shard {shard} has no record ({record_name(shard)}), so it is not done")
    return parse_table(store.read_bytes(table_name(shard)), record, f"{store.url}/{table_name(shard)}", columns)


def parse_table(data: bytes, record: Record, where: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows in the bytes of a table. Raises ValueError if they are not the bytes, schema or count of `record`."""
    if len(data) != record.parquet.bytes or hashlib.sha256(data).hexdigest() != record.parquet.sha256:
        raise ValueError(f"{where}: the bytes do not have the hash of the record; run `sixfold repair`")
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        if file.schema_arrow.equals(TABLE_SCHEMA) and file.metadata.num_rows == record.count:
            return file.read(columns=None if columns is None else list(columns), use_threads=False)
    except (
        pa.ArrowException,
        OSError,
    ) as error:  # pyarrow answers bad pages with OSError; nothing is read from disk here
        raise ValueError(f"{where}: no parquet file ({one_line(str(error), 100)})") from None
    raise ValueError(f"{where}: found other columns or another number of rows than its record; it is not one of ours")
