"""The manifest: all shards of a data set as one table of samples; records, rows, members, subsets.

In: a store. Out: records by shard, pyarrow tables after `TABLE_SCHEMA`, the bytes of single members. On disk: reads
records and tables; writes `_meta/records.jsonl` (see `ledger.py`) and subsets, `_meta/subsets/<name>.parquet` (uid,
key, shard) with the rule that made them in `<name>.json`.

Readers trust records only: a tar or table without a record does not exist, and a table whose bytes do not have the
hash in the record is refused before it is parsed.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from shards.disk.checked_json import parse_checked, to_checked
from shards.disk.layout import (
    EDIT_FIELD,
    EDITED_SCHEMA,
    META,
    RECORD,
    RUN,
    TABLE_SCHEMA,
    record_name,
    shard_of,
    table_name,
    tar_name,
)
from shards.disk.parquet import read_rows
from shards.disk.record import JSON, Record, RecordError, read_record
from shards.disk.safe_text import one_line, quoted
from shards.disk.store import Store
from shards.set.ledger import LEDGER, Line, read_ledger, write_ledger
from shards.set.origin import read_origin, run_of
from shards.set.rejected import pictures_in

SUBSETS = f"{META}/subsets"
SUBSET_SCHEMA = pa.schema(
    [pa.field(name, TABLE_SCHEMA.field(name).type, nullable=False) for name in ("uid", "key", "shard")]
)
_SUBSET_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,60}")
_SCALE_NAME = re.compile(r"[0-9.]+x")  # of the subsets that `generate` writes
MAX_SUBSET_BYTES = 2 << 30  # a sample takes 60
_READ_THREADS = 4


@dataclass(frozen=True, kw_only=True)
class Scan:
    """All records of a data set: the valid ones of its run, and what is wrong with the others (shard -> one line)."""

    records: dict[int, Record]
    problems: dict[int, str]
    strangers: dict[int, str]  # whole shards of another run, copied in

    def wrong(self) -> dict[int, str]:
        """Shard -> one line, of all that `repair` sets aside."""
        return dict(sorted({**self.problems, **self.strangers}.items()))


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
                record = read_record(store, shard)
                if record is None:
                    continue  # moved away between the listing and the read
                line = Line(stamps[name], record)
                is_behind = True
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
    strangers = strangers_among(store, {shard: record.fingerprint for shard, record in records.items()})
    own = {shard: record for shard, record in records.items() if shard not in strangers}
    return Scan(records=own, problems=problems, strangers=strangers)


def strangers_among(store: Store, fingerprints: Mapping[int, str]) -> dict[int, str]:
    """Shard -> one line, of the shards whose record has another fingerprint than the run of the data set.

    Empty if nobody can tell which run that is.
    """
    origin = None
    with contextlib.suppress(ValueError, OSError):  # damaged: `verify` names it, and most of the records decide
        origin = read_origin(store)
    run = run_of(origin, fingerprints.values())
    return {
        shard: f"{store.url}/{record_name(shard)}: found a shard of run {mark[:12]}, expected run {run[:12]}; it was "
        "copied here from another data set"
        for shard, mark in fingerprints.items()
        if run is not None and mark != run
    }


def scan_records(store: Store, fingerprint: str | None = None) -> dict[int, Record]:
    """Shard -> record, of all shards that are done.

    Raises ValueError if a shard is damaged (an invalid record, files that are missing or of another size) or was copied
    here from another data set, or if a run of another `fingerprint` made them all.
    """
    found = scan(store)
    wrong = found.wrong()
    if wrong:
        first = next(iter(wrong.values()))
        more = f" (and {len(wrong) - 1} more shards)" if len(wrong) > 1 else ""
        raise RecordError(f"{first}{more}; run `sixfold repair`, then the same command again", "damaged")
    foreign = [record for record in found.records.values() if fingerprint not in (None, record.fingerprint)]
    several = {record.fingerprint[:12] for record in found.records.values()}
    if fingerprint is None and len(several) > 1:
        raise ValueError(
            f"{store.url}: found shards of {len(several)} runs ({', '.join(sorted(several)[:3])}), and nothing says "
            f"which one is right, expected those of one; bring the right {RUN} back, or move the others away"
        )
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
    schema = TABLE_SCHEMA if columns is None else pa.schema([EDITED_SCHEMA.field(name) for name in columns])
    return pa.concat_tables([schema.empty_table(), *iter_tables(store, shards, columns)], promote_options="default")


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


def read_rejected(store: Store, record: Record) -> dict[str, bytes]:
    """Key -> small JPEG, of the rejected draws of a shard whose picture was kept (`shards.set.rejected`).

    Raises ValueError if the table's bytes are not those of the record.
    """
    name = table_name(record.shard)
    data = store.read_bytes(name, record.parquet.bytes)
    _check_hash(data, record, f"{store.url}/{name}")
    return pictures_in(data)


def write_subset(store: Store, name: str, samples: pa.Table, rule: Mapping[str, JSON]) -> None:
    """Store the samples (columns uid, key, shard) as the subset `name`, with its name and the rule that chose them."""
    path = subset_path(name)
    sink = pa.BufferOutputStream()
    pq.write_table(samples.select(SUBSET_SCHEMA.names).cast(SUBSET_SCHEMA), sink, compression="zstd")
    table: bytes = sink.getvalue().to_pybytes()
    about = {"name": name, "rule": dict(rule), "count": samples.num_rows, "sha256": hashlib.sha256(table).hexdigest()}
    store.replace(f"{path}.parquet", table)
    store.replace(f"{path}.json", to_checked(about))


def write_subset_once(store: Store, name: str, samples: pa.Table, rule: Mapping[str, JSON]) -> None:
    """As `write_subset`, for a name that a person chose: raises ValueError as `refuse_name` does, or if it has other
    samples or another rule. One of which a killed call left one of its two files is written anew."""
    refuse_name(name)
    if has_subset(store, name):
        there, its_rule = read_subset(store, name)
        if its_rule != rule or there["uid"].to_pylist() != samples["uid"].to_pylist():
            raise ValueError(
                f"{store.url}: found a subset {quoted(name, 60)} with other samples, whose rule is "
                f"{quoted(str(its_rule), 100)}, expected none; take another name"
            )
        return
    write_subset(store, name, samples, rule)


def read_subset(store: Store, name: str) -> tuple[pa.Table, dict[str, JSON]]:
    """The samples of subset `name` (uid, key, shard), and its rule. Raises ValueError if it is missing or damaged, if
    its two files do not belong together, or if they are those of another subset."""
    path = subset_path(name)
    where = f"{store.url}/{path}"
    again = "; run `sixfold repair`, then the `sixfold generate` or `sixfold subset` that wrote it"
    try:
        about = parse_checked(store.read_bytes(f"{path}.json"), f"{where}.json")
        table = store.read_bytes(f"{path}.parquet")
    except FileNotFoundError:
        known = [one for one in subset_names(store) if has_subset(store, one)]
        if name in subset_names(store):
            raise ValueError(f"{where}: found one of its two files, expected .json and .parquet{again}") from None
        raise ValueError(
            f"{where}: found no such subset, expected one of: {', '.join(known) or 'none yet'}; that of a scale is "
            "written when the scale is made (`--scale`)"
        ) from None
    rule = about.get("rule")
    if not isinstance(rule, dict):
        raise ValueError(f"{where}.json: found no rule, expected the one that chose the samples{again}")
    said = about.get("name", rule.get("scale", name))  # earlier versions stored no name; a scale's rule has it
    if said != name:
        raise ValueError(f"{where}: found the subset {quoted(said, 60)} under this name, expected {name!r}{again}")
    if hashlib.sha256(table).hexdigest() != about.get("sha256"):
        raise ValueError(f"{where}: the list does not belong to its rule (another hash){again}")
    try:
        samples = read_rows(table, SUBSET_SCHEMA.names, MAX_SUBSET_BYTES).cast(SUBSET_SCHEMA)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{where}: no list of samples ({one_line(str(error), 100)}){again}") from None
    if samples.num_rows != about.get("count"):
        raise ValueError(f"{where}: found {samples.num_rows} samples, its rule says {about.get('count')}{again}")
    return samples, rule


def has_subset(store: Store, name: str) -> bool:
    """Whether both files of the subset are there."""
    path = subset_path(name)
    return store.exists(f"{path}.json") and store.exists(f"{path}.parquet")


def subset_names(store: Store) -> list[str]:
    """The names of the stored subsets, and of those of which a killed call left one file."""
    return sorted({file.rpartition("/")[2].rpartition(".")[0] for file in subset_files(store)[0]})


def subset_files(store: Store) -> tuple[list[str], list[str]]:
    """The files of the stored subsets, and those that others put among them, under names that no subset may have."""
    own: list[str] = []
    others: list[str] = []
    for file in store.list(f"{SUBSETS}/"):
        name, _, ending = file.rpartition("/")[2].rpartition(".")
        is_own = ending in ("json", "parquet") and _SUBSET_NAME.fullmatch(name) is not None
        (own if is_own else others).append(file)
    return own, others


def refuse_name(name: str) -> None:
    """Raises ValueError for a name that a person may not give to a subset: no name at all, or that of a scale."""
    subset_path(name)
    if _SCALE_NAME.fullmatch(name):
        raise ValueError(
            f"subset: found the name {name!r}, which is that of a scale, expected another; `sixfold generate` writes "
            "those"
        )


def subset_path(name: str) -> str:
    """The files of a subset, without their endings. Raises ValueError for a name that no subset may have."""
    if not _SUBSET_NAME.fullmatch(name):
        raise ValueError(
            f"subset: found the name {name[:60]!r}, expected a-z, 0-9, '.', '-' and '_', at most 61 of them"
        )
    return f"{SUBSETS}/{name}"


def _read_one(store: Store, shard: int, known: Record | None, columns: Sequence[str] | None) -> pa.Table:
    """`known`: what a scan says of the shard, perhaps from the ledger; the record's own file has the last word."""
    record = read_record(store, shard)
    if record is None:
        raise ValueError(f"{store.url}: shard {shard} has no record ({record_name(shard)}), so it is not done")
    if known is not None and known != record:
        raise ValueError(
            f"{store.url}/{record_name(shard)}: found another record than {LEDGER} has, or it was replaced just now; "
            "run the same command again, and `sixfold repair` if it says this again"
        )
    return parse_table(
        store.read_bytes(table_name(shard), record.parquet.bytes), record, f"{store.url}/{table_name(shard)}", columns
    )


def parse_table(data: bytes, record: Record, where: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows in the bytes of a table; `edit`, if it is asked for, is null where nothing was edited.

    Raises ValueError if they are not the bytes, schema or count of `record`.
    """
    _check_hash(data, record, where)
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        is_ours = any(file.schema_arrow.equals(schema) for schema in (TABLE_SCHEMA, EDITED_SCHEMA))
        if is_ours and file.metadata.num_rows == record.count:
            if columns is None or EDIT_FIELD.name in file.schema_arrow.names or EDIT_FIELD.name not in columns:
                return read_rows(data, columns).replace_schema_metadata(None)
            found = read_rows(data, [name for name in columns if name != EDIT_FIELD.name])
            there = {name: found[name] for name in found.column_names}
            there[EDIT_FIELD.name] = pa.nulls(record.count, EDIT_FIELD.type)
            return pa.table({name: there[name] for name in columns})
    except (pa.ArrowException, OSError, ValueError) as error:  # of bad pages; nothing is read from disk here
        raise ValueError(f"{where}: no parquet file ({one_line(str(error), 100)})") from None
    raise ValueError(f"{where}: found other columns or another number of rows than its record; it is not one of ours")


def _check_hash(data: bytes, record: Record, where: str) -> None:
    if len(data) != record.parquet.bytes or hashlib.sha256(data).hexdigest() != record.parquet.sha256:
        raise ValueError(f"{where}: the bytes do not have the hash of the record; run `sixfold repair`")
