"""Rows and JPEGs into one shard: `NNNNN.tar`, `NNNNN.parquet` and, last, the record `NNNNN_stats.json`.

In: rows after `SAMPLE_SCHEMA` (one per draw, rejected draws included), the JPEG bytes of the successes, in the order of
their keys, and small pictures of rejected draws. Out: the published `Record`. On disk: the files of
`shards.set.commit`. Tar and table depend on rows and images alone: no clock, user, host or version of a library reaches
their bytes, except the name of the parquet library in the table.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.disk.jpeg import SOURCE_TYPES, jpeg_size, read_source_type
from shards.disk.layout import (
    DOMAINS,
    EDIT_FIELD,
    EDITED_SCHEMA,
    KEY_PATTERN,
    MAX_ROWS_PER_SHARD,
    SAMPLE_SCHEMA,
    SUCCESS,
    TABLE_SCHEMA,
    shard_name,
)
from shards.disk.object_store import ObjectStore
from shards.disk.record import JSON, FileStamp, Record
from shards.disk.store import FolderStore
from shards.disk.tar import header, padding, trailer
from shards.set.commit import begin
from shards.set.rejected import RejectedPictures, table_entry

MAX_TEXT_BYTES = 1 << 16  # of one text field; the longest prompt that means something is far shorter
_STATUS = re.compile(r"[a-z][a-z0-9_]{0,39}")
_UID = re.compile(r"[0-9a-f]{32}")
_MAX_FLOAT32 = float(np.finfo(np.float32).max)
_INT_BOUNDS = {pa.int16(): 1 << 15, pa.int32(): 1 << 31, pa.int64(): 1 << 63}
# A member is one flat object, four blanks deep. Python's JSON encoder in C cannot indent; with this separator it need
# not, and takes a third of the time of the one that can.
_JSON = json.JSONEncoder(separators=(",\n    ", ": "), sort_keys=True, ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class _Column:
    """What a value of one column must be; read from the schema once, because that costs more than the checks."""

    name: str
    nullable: bool
    kind: type  # str, int or float
    bound: int  # of integers
    type_name: str


def _column(field: pa.Field) -> _Column:
    kind = str if pa.types.is_string(field.type) else int if pa.types.is_integer(field.type) else float
    return _Column(field.name, field.nullable, kind, _INT_BOUNDS.get(field.type, 0), str(field.type))


_COLUMNS = tuple(_column(field) for field in SAMPLE_SCHEMA)
_EDIT = _column(EDIT_FIELD)  # of rows that have it
_NAMES = frozenset(column.name for column in (*_COLUMNS, _EDIT))


class ShardWriter:
    """An attempt at one shard, row by row. A context manager: leaving it without `commit` removes what was written."""

    def __init__(self, store: FolderStore | ObjectStore, shard: int, attempt: str, fingerprint: str) -> None:
        if not re.fullmatch(r"[0-9a-f]{64}", fingerprint):
            raise ValueError(f"fingerprint: found {fingerprint[:80]!r}, expected the 64 hex digits of a sha256")
        self.store, self.shard, self.attempt, self.fingerprint = store, shard, attempt, fingerprint
        self._attempt = begin(store, shard, attempt)
        self._rows: dict[str, dict[str, object]] = {}
        self._rejected = RejectedPictures()
        self._last_key = ""
        self._size = 0
        self._committed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._attempt.abandon()

    def add(self, row: Mapping[str, object], jpeg: bytes | None, small: bytes | None = None) -> None:
        """Add a draw: its row after SAMPLE_SCHEMA (absent = null), and its JPEG if it is a success.

        `small`: a picture of a rejected draw (`shards.set.rejected`), kept while there is room.
        Raises ValueError, and leaves the shard as it was, if row or image do not fit.
        """
        if self._committed:
            raise ValueError(f"shard {self.shard}: a row came after the commit")
        checked = checked_row(row, self.shard)
        key = str(checked["key"])
        where = f"shard {self.shard}, key {key}"
        if key in self._rows:
            raise ValueError(f"{where}: found twice, expected every key once")
        if (jpeg is not None) != (checked["status"] == SUCCESS):
            found = "no JPEG" if jpeg is None else "a JPEG"
            raise ValueError(
                f"{where}: found {found} with status {checked['status']!r}, expected one with {SUCCESS!r} only"
            )
        table_row: dict[str, object] = {**checked, "shard": self.shard}
        if jpeg is not None:
            if key <= self._last_key:
                raise ValueError(f"{where}: found after {self._last_key}, expected the successes in rising key order")
            _check_jpeg(checked, jpeg, where)
            table_row, sample = placed(checked, jpeg, self._size)
            self._attempt.write(sample)
            self._size += len(sample)
            self._last_key = key
        elif small is not None:
            self._rejected.offer(key, str(checked["status"]), small)
        self._rows[key] = table_row

    def commit(
        self,
        started: float,
        ended: float,
        extra: Mapping[str, JSON],
        slots: int | None = None,
        allow_empty: bool = False,
    ) -> Record:
        """Publish the shard; the record that is published then, ours or that of another attempt that won.

        `started`, `ended`: seconds since 1970. `slots`: samples asked for (None: as many as succeeded). Raises
        ValueError if no sample succeeded (unless `allow_empty`: the rows are then kept beside a tar without members) or
        if the winner belongs to another run, OSError (in a folder CommitError) if the disk or the store failed.
        """
        if self._committed:
            raise ValueError(f"shard {self.shard}: committed twice")
        statuses = Counter(str(row["status"]) for row in self._rows.values())
        successes = statuses[SUCCESS]
        asked = successes if slots is None else slots
        if asked < successes:
            raise ValueError(f"shard {self.shard}: found {successes} successes for {asked} slots")
        if successes == 0 and not allow_empty:
            seen = ", ".join(f"{status} {num}" for status, num in sorted(statuses.items())) or "no draw"
            raise ValueError(f"shard {self.shard}: no sample succeeded ({seen}); nothing was published")
        self._committed = True
        self._attempt.write(trailer(self._size))

        def make_record(tar: FileStamp, parquet: FileStamp) -> Record:
            return Record(
                shard=self.shard,
                attempt=self.attempt,
                fingerprint=self.fingerprint,
                tar=tar,
                parquet=parquet,
                count=len(self._rows),
                successes=successes,
                slots=asked,
                status_dict={status: num for status, num in sorted(statuses.items()) if num},
                start_time=started,
                end_time=ended,
                extra=extra,
            )

        try:
            rows = [self._rows[key] for key in sorted(self._rows)]
            done = self._attempt.publish(table_bytes(rows, self._rejected.jpegs), make_record)
        finally:
            self._attempt.abandon()
        if done.fingerprint != self.fingerprint:
            raise ValueError(
                f"{self.store.url}: shard {self.shard} was made by another recipe "
                f"(fingerprint {done.fingerprint[:12]}, expected {self.fingerprint[:12]}); use another output folder"
            )
        return done


def checked_row(row: Mapping[str, object], shard: int) -> dict[str, object]:
    """`row` as plain values in the order of SAMPLE_SCHEMA, absent ones None, and `edit` if it is there. Raises
    ValueError if it does not fit."""
    key = row.get("key")
    where = f"shard {shard}, key {str(key)[:20]!r}"
    if not isinstance(key, str) or not KEY_PATTERN.fullmatch(key) or not key.isascii() or key[:5] != shard_name(shard):
        raise ValueError(f"{where}: expected {shard_name(shard)} and 4 more digits")
    unknown = sorted(set(row) - _NAMES)
    if unknown:
        raise ValueError(f"{where}: found the unknown field {unknown[0][:40]!r}, expected those of SAMPLE_SCHEMA")
    columns = (*_COLUMNS, _EDIT) if _EDIT.name in row else _COLUMNS
    checked = {column.name: _checked_value(column, row.get(column.name), where) for column in columns}
    if not _STATUS.fullmatch(str(checked["status"])):
        raise ValueError(
            f"{where}: found the status {str(checked['status'])[:40]!r}, expected a word such as success or blank"
        )
    if not _UID.fullmatch(str(checked["uid"])):
        raise ValueError(f"{where}: found the uid {str(checked['uid'])[:40]!r}, expected 32 hex digits")
    if checked["domain"] not in DOMAINS:
        raise ValueError(
            f"{where}: found the domain {str(checked['domain'])[:40]!r}, expected one of {', '.join(DOMAINS)}"
        )
    return checked


def members_of(row: Mapping[str, object], jpeg: bytes, jpeg_sha256: str) -> dict[str, bytes]:
    """The four members of a success, extension -> bytes, in the order of the tar. `row` is a checked row."""
    facts = {column.name: row[column.name] for column in _COLUMNS if row[column.name] is not None}
    if row.get(_EDIT.name) is not None:
        facts[_EDIT.name] = row[_EDIT.name]
    facts["sha256"] = jpeg_sha256
    return {
        "cls": str(row["class_id"]).encode("ascii"),
        "jpg": jpeg,
        "json": f"{{\n    {_JSON.encode(facts)[1:-1]}\n}}".encode(),
        "txt": str(row["caption"]).encode("utf-8"),
    }


def placed(row: Mapping[str, object], jpeg: bytes, at: int) -> tuple[dict[str, object], bytes]:
    """A success in the tar from byte `at` on: its row of the table, and the bytes of its members. `row` is a checked
    row."""
    key, jpeg_sha256 = str(row["key"]), hashlib.sha256(jpeg).hexdigest()
    table_row: dict[str, object] = {**row, "shard": int(key[:5])}
    blocks = []
    for extension, data in members_of(row, jpeg, jpeg_sha256).items():
        blocks += [header(f"{key}.{extension}", len(data)), data, padding(len(data))]
        table_row[f"{extension}_offset"] = at + sum(map(len, blocks[:-2]))
        table_row[f"{extension}_size"] = len(data)
        if extension == "jpg":
            table_row["sha256"] = jpeg_sha256
        else:
            table_row[f"{extension}_sha256"] = hashlib.sha256(data).hexdigest()
    return table_row, b"".join(blocks)


def table_bytes(rows: list[dict[str, object]], rejected: Mapping[str, bytes]) -> bytes:
    """The bytes of the parquet file of a shard, with the pictures of rejected draws (key -> JPEG) in its footer. One
    row group, so a column is one read; zstd; no date, so equal rows give equal bytes."""
    schema = EDITED_SCHEMA if any(_EDIT.name in row for row in rows) else TABLE_SCHEMA
    table = pa.Table.from_pylist(rows, schema=schema)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd", compression_level=3, write_statistics=True) as writer:
        writer.write_table(table, row_group_size=MAX_ROWS_PER_SHARD)
        if rejected:
            writer.add_key_value_metadata(table_entry(rejected))
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _checked_value(column: _Column, value: object, where: str) -> object:
    if value is None:
        if not column.nullable:
            raise ValueError(f"{where}: {column.name} is missing")
        return None
    if column.kind is str:
        if not isinstance(value, str):
            raise _unfit(column, value, "text", where)
        try:
            size = len(value.encode("utf-8"))
        except UnicodeEncodeError:
            raise ValueError(
                f"{where}: {column.name} holds half a character (a lone surrogate), expected UTF-8 text"
            ) from None
        if size > MAX_TEXT_BYTES:
            raise ValueError(f"{where}: {column.name} has {size} bytes, at most {MAX_TEXT_BYTES} are stored")
        return value
    if column.kind is int:
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, Integral))  # int by name, because asking Integral takes longer
            or not -column.bound <= int(value) < column.bound
        ):
            raise _unfit(column, value, column.type_name, where)
        return int(value)
    if isinstance(value, bool) or not isinstance(value, Real) or not abs(float(value)) <= _MAX_FLOAT32:
        raise _unfit(column, value, "a finite 32-bit number", where)
    return float(np.float32(float(value)))  # as the table holds it, so that .json and table agree


def _unfit(column: _Column, value: object, expected: str, where: str) -> ValueError:
    return ValueError(f"{where}: {column.name} is {str(value)[:40]!r} ({type(value).__name__}), expected {expected}")


def _check_jpeg(row: Mapping[str, object], jpeg: bytes, where: str) -> None:
    try:
        height, width = jpeg_size(jpeg)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if (row["width"], row["height"]) != (width, height):
        raise ValueError(f"{where}: the JPEG has {width}x{height} pixels, the row says {row['width']}x{row['height']}")
    source = read_source_type(jpeg)
    if row["domain"] in ("synthetic", "edited") and source not in SOURCE_TYPES:
        raise ValueError(
            f"{where}: a {row['domain']} image must say so in its XMP (encode_jpeg with a source type), found {source}"
        )
