"""Reads every byte of a data set and names every damage.

In: a store. Out: a `Report` with one `Damage` per finding: shard, file or member, kind, a line for people. On disk:
only reads; nothing is extracted, and no name from a file is followed.

Each part vouches for the next. The record has a checksum of itself, and holds size and hash of tar and table. The table
is parsed only if its hash is right, and holds place and hash of every member. Headers, padding, the end of the tar,
`.cls`, `.json` and `.txt` are made again from the row and compared byte by byte. So no tar parser is needed, and a
link, a device, a long name or a member of another tool is damage like any other wrong byte. JPEGs are decoded in full.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from shards.disk.jpeg import SOURCE_TYPES, decode_jpeg, read_source_type
from shards.disk.layout import (
    CARD,
    EDIT_FIELD,
    MEMBER_EXTENSIONS,
    SUCCESS,
    TABLE_SCHEMA,
    record_name,
    shard_name,
    shard_of,
    table_name,
    tar_name,
)
from shards.disk.record import Record, RecordError, read_record
from shards.disk.safe_text import one_line, visible
from shards.disk.store import Store
from shards.disk.tar import header, padding, trailer
from shards.set.manifest import parse_table, strangers_among
from shards.set.rejected import pictures_in
from shards.set.verify_meta import Samples, verify_meta
from shards.set.writer import checked_row, members_of

MAX_MORE_BYTES = 1 << 20  # behind the end of a file that the record gives, and still read to say what they are
MAX_FILE_BYTES = 16 << 30  # of a tar; each thread holds one
_DATA = (".json", ".tar", ".parquet")
# kinds of damage: the part that is wrong
KINDS = {
    "gap": "a shard number below the last one has no shard (brace ranges would break)",
    "missing": "a shard that should be there has none of its files",
    "unpublished": "a tar or table without a record: not done",
    "stray": "a file that does not belong beside the shards",
    "record": "the record is invalid",
    "file": "the tar or the table is missing or cannot be read",
    "size": "the tar or the table has another size than the record says",
    "hash": "the tar or the table has other bytes than the record says",
    "table": "the table's rows contradict the record or each other",
    "header": "a member's header is not the one its name and size ask for",
    "member": "a member's bytes do not have the hash of the table",
    "content": "a .cls, .json or .txt is not what the row says",
    "padding": "the filling between members is not zero",
    "trailer": "the end of the tar is not the end",
    "jpeg": "an image does not decode to the size in the row",
    "provenance": "a synthetic or edited image does not say so",
    "duplicate": "one sample (uid) occurs twice in the data set",
    "stranger": "the shard is whole, but another run made it",
    "meta": "a file below _meta is missing, or is not as it was written",
}


@dataclass(frozen=True, kw_only=True)
class Damage:
    """One finding."""

    shard: int | None
    member: str | None  # the file or tar member
    kind: str  # a key of KINDS
    message: str

    def __str__(self) -> str:
        shard = "-----" if self.shard is None else shard_name(self.shard)
        return f"{shard} {self.kind}: {f'{self.member}: ' if self.member else ''}{self.message}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """All findings, and how much was read."""

    damages: tuple[Damage, ...]
    shards: int  # with a record
    rows: int
    samples: int
    bytes: int  # read
    unmade: tuple[int, ...] = ()  # shards that a run at work has not made yet
    notes: tuple[str, ...] = ()  # no damage: what nobody can check, what lies there and is not ours

    def damaged_files(self) -> list[str]:
        """The files below `_meta` that `repair` puts aside."""
        return sorted({d.member for d in self.damages if d.kind == "meta" and d.member is not None})

    def damaged_shards(self) -> list[int]:
        """The shards whose files `repair` puts aside."""
        return sorted({d.shard for d in self.damages if d.shard is not None and d.kind not in ("gap", "missing")})


def verify(
    store: Store,
    progress: Callable[[int, int], None] | None = None,
    expected: Iterable[int] | None = None,
    num_threads: int = 2,
    is_running: bool = False,
) -> Report:
    """Check everything in `store`; never raises for damage. Each thread holds one shard in memory.

    `progress(done, total)` is called after every shard. `expected`: the shards that a finished run must have.
    `is_running`: a run writes there now; then a shard without a record is one that it has not made yet.
    """
    stamps = store.stamps()
    damages = [*_strays(stamps)]
    present = sorted({shard for name in stamps if (shard := shard_of(name)) is not None})
    recorded = [shard for shard in present if record_name(shard) in stamps]
    wanted = set(range(present[-1])) if present else set()
    wanted |= set(expected or ())
    unmade = sorted((wanted | set(present)) - set(recorded)) if is_running else []
    for shard in present:
        if record_name(shard) not in stamps and not is_running:
            files = ", ".join(name for name in (tar_name(shard), table_name(shard)) if name in stamps)
            damages.append(_damage(shard, files, "unpublished", "found without a record, so the unit is not done"))
    for shard in [] if is_running else sorted(wanted - set(present)):
        if present and shard < present[-1]:
            damages.append(_damage(shard, None, "gap", f"no shard {shard} below shard {present[-1]}"))
        else:
            damages.append(_damage(shard, None, "missing", "expected by the plan, found nothing"))

    rows = num_bytes = 0
    records: dict[int, Record] = {}
    samples = Samples()
    uids: list[np.ndarray] = []
    owners: list[np.ndarray] = []
    with ThreadPoolExecutor(num_threads) as pool:
        window = 4 * num_threads
        for at in range(0, len(recorded), window):
            for done, checked in enumerate(
                pool.map(lambda shard: _check_shard(store, shard), recorded[at : at + window])
            ):
                damages += checked.damages
                rows += checked.rows
                num_bytes += checked.bytes
                samples.keys.append(checked.keys)
                samples.uids.append(checked.uids[checked.is_sample])
                if checked.record is not None:
                    records[recorded[at + done]] = checked.record
                uids.append(checked.uids)
                owners.append(np.full(len(checked.uids), recorded[at + done]))
                if progress is not None:
                    progress(at + done + 1, len(recorded))
    damages += _duplicates(uids, owners)
    for shard, what in strangers_among(store, {shard: one.fingerprint for shard, one in records.items()}).items():
        damages.append(_damage(shard, record_name(shard), "stranger", what))
    samples.whole = sorted(records.keys() - {one.shard for one in damages})
    meta = verify_meta(store, records, samples)
    damages += [_damage(None, name, "meta", what) for name, what in meta.wrong.items()]
    damages.sort(key=lambda d: -1 if d.shard is None else d.shard)
    return Report(
        damages=tuple(damages),
        shards=len(recorded),
        rows=rows,
        samples=sum(map(len, samples.keys)),
        bytes=num_bytes,
        unmade=tuple(unmade),
        notes=(*meta.notes, *_notes(stamps)),
    )


@dataclass(frozen=True, kw_only=True)
class _Checked:
    damages: list[Damage]
    record: Record | None = None  # a valid one
    rows: int = 0
    bytes: int = 0
    uids: np.ndarray = field(default_factory=lambda: np.empty(0, "V16"))  # of all rows, 16 raw bytes each
    is_sample: np.ndarray = field(default_factory=lambda: np.empty(0, bool))  # of all rows
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # of the samples


def _check_shard(store: Store, shard: int) -> _Checked:
    try:
        record = read_record(store, shard)
    except (RecordError, OSError) as error:
        return _Checked(damages=[_damage(shard, record_name(shard), "record", str(error))])
    if record is None:
        return _Checked(damages=[_damage(shard, record_name(shard), "record", "vanished while reading")])
    damages: list[Damage] = []
    contents: dict[str, bytes | None] = {}
    whole: set[str] = set()
    for name, stamp in record.files().items():
        try:
            data = store.read_bytes(name, min(stamp.bytes + MAX_MORE_BYTES, MAX_FILE_BYTES))
        except OSError as error:
            contents[name] = None
            damages.append(_damage(shard, name, "file", f"cannot be read ({error.strerror or type(error).__name__})"))
            continue
        contents[name] = data
        if len(data) != stamp.bytes:
            damages.append(_damage(shard, name, "size", f"found {len(data)} bytes, the record says {stamp.bytes}"))
        elif hashlib.sha256(data).hexdigest() != stamp.sha256:
            damages.append(_damage(shard, name, "hash", "found other bytes than the record's hash says"))
        else:
            whole.add(name)
    table, tar = contents[table_name(shard)], contents[tar_name(shard)]
    num_bytes = sum(len(data) for data in contents.values() if data is not None)
    if table is None or table_name(shard) not in whole:
        # a table with a wrong hash is never parsed; without it members cannot be named
        return _Checked(damages=damages, record=record, bytes=num_bytes)
    try:
        rows = parse_table(table, record, table_name(shard)).to_pylist()
        _check_rows(rows, record)
        _check_rejected(table, rows)
    except (ValueError, pa.ArrowException) as error:
        damages.append(_damage(shard, table_name(shard), "table", str(error)))
        return _Checked(damages=damages, record=record, bytes=num_bytes)
    successes = [row for row in rows if row["status"] == SUCCESS]
    if tar is not None:
        try:
            damages += _check_tar(shard, successes, tar)
        except ValueError as error:  # a size no tar can hold
            damages.append(_damage(shard, table_name(shard), "table", str(error)))
    return _Checked(
        damages=damages,
        record=record,
        rows=len(rows),
        bytes=num_bytes,
        uids=np.frombuffer(b"".join(bytes.fromhex(row["uid"]) for row in rows), "V16"),
        is_sample=np.array([row["status"] == SUCCESS for row in rows], bool),
        keys=np.array([int(row["key"]) for row in successes], np.int64),
    )


def _check_rows(rows: list[dict[str, object]], record: Record) -> None:
    """Raises ValueError at the first row that contradicts the record, its neighbour or the schema."""
    statuses = Counter(str(row["status"]) for row in rows)
    if statuses != Counter(record.status_dict):
        raise ValueError(f"found the statuses {dict(statuses)}, the record says {dict(record.status_dict)}")
    previous = ""
    facts = set(TABLE_SCHEMA.names)
    allowed = (facts, facts | {EDIT_FIELD.name})
    for row in rows:
        key = str(row["key"])
        if key <= previous:
            raise ValueError(f"key {key} comes after {previous}, expected rising keys")
        previous = key
        plain = {name: value for name, value in row.items() if name not in _WRITER_FIELDS}
        if checked_row(plain, record.shard) != plain or row["shard"] != record.shard or set(row) not in allowed:
            raise ValueError(f"key {key}: the row is not one the writer makes")
        places = [row[name] for name in _MEMBER_FIELDS]
        if any(place is None for place in places) if row["status"] == SUCCESS else any(p is not None for p in places):
            raise ValueError(f"key {key}: members and status {row['status']!r} contradict each other")


def _check_rejected(table: bytes, rows: list[dict[str, object]]) -> None:
    """Raises ValueError if the small pictures in the table are damaged, or are not of rejected draws."""
    strange = pictures_in(table).keys() - {row["key"] for row in rows if row["status"] != SUCCESS}
    if strange:
        raise ValueError(f"key {min(strange)}: a small picture that belongs to no rejected draw")


def _check_tar(shard: int, successes: list[dict[str, object]], tar: bytes) -> list[Damage]:
    """Compare the tar with the only one that these rows can make."""
    damages: list[Damage] = []
    at = 0
    for row in successes:
        jpeg_at, jpeg_size = int(str(row["jpg_offset"])), int(str(row["jpg_size"]))
        jpeg = tar[jpeg_at : jpeg_at + jpeg_size]
        plain = {name: row[name] for name in row if name not in _WRITER_FIELDS}
        expected = members_of(plain, jpeg, hashlib.sha256(jpeg).hexdigest())
        for extension in MEMBER_EXTENSIONS:
            name = f"{row['key']}.{extension}"
            size = int(str(row[f"{extension}_size"]))
            data_at = at + len(header(name, size))
            data = tar[data_at : data_at + size]
            if row[f"{extension}_offset"] != data_at:
                damages.append(
                    _damage(
                        shard,
                        name,
                        "table",
                        f"the table puts it at byte {row[f'{extension}_offset']}, expected {data_at}",
                    )
                )
                return damages
            if data_at + size > len(tar):
                message = f"the tar ends at {len(tar)}: this member and all behind it are lost"
                damages.append(_damage(shard, name, "member", message))
                return damages
            if tar[at:data_at] != header(name, size):
                damages.append(_damage(shard, name, "header", f"found another tar header at byte {at}"))
            if hashlib.sha256(data).hexdigest() != row["sha256" if extension == "jpg" else f"{extension}_sha256"]:
                damages.append(_damage(shard, name, "member", f"found other bytes at {data_at}..{data_at + size}"))
            elif extension == "jpg":
                damages += _check_image(shard, name, row, data)
            elif data != expected[extension]:
                damages.append(_damage(shard, name, "content", "is not what the table says"))
            at = data_at + size + len(padding(size))
            if tar[data_at + size : at] != padding(size):
                damages.append(_damage(shard, name, "padding", f"found other bytes than zeros before {at}"))
    if tar[at:] != trailer(at):
        damages.append(
            _damage(shard, tar_name(shard), "trailer", f"found other bytes than the end of a tar after {at}")
        )
    return damages


def _check_image(shard: int, name: str, row: dict[str, object], jpeg: bytes) -> list[Damage]:
    try:
        height, width, _ = decode_jpeg(jpeg).shape
    except ValueError as error:
        return [_damage(shard, name, "jpeg", str(error))]
    damages = []
    if (width, height) != (row["width"], row["height"]):
        damages.append(
            _damage(shard, name, "jpeg", f"has {width}x{height} pixels, the table says {row['width']}x{row['height']}")
        )
    if row["domain"] in ("synthetic", "edited") and read_source_type(jpeg) not in SOURCE_TYPES:
        damages.append(_damage(shard, name, "provenance", f"has no XMP source type, though it is {row['domain']}"))
    return damages


def _duplicates(uids: list[np.ndarray], owners: list[np.ndarray]) -> list[Damage]:
    if not uids:
        return []
    uid, owner = np.concatenate(uids), np.concatenate(owners)
    order = np.argsort(uid, kind="stable")
    again = np.flatnonzero(uid[order][1:] == uid[order][:-1]) + 1
    return [
        _damage(
            int(owner[order[i]]),
            None,
            "duplicate",
            f"uid {uid[order[i]].tobytes().hex()} is also in shard {int(owner[order[i - 1]])}",
        )
        for i in again
    ]


def _notes(stamps: Iterable[str]) -> list[str]:
    """A line on files that nobody takes for data; a reader that guesses might."""
    others = [name for name in sorted(stamps) if shard_of(name) is None and not name.endswith(_DATA) and name != CARD]
    shown = ", ".join(visible(name)[:60] for name in others[:5])
    return [f"{len(others)} other files beside the shards: {shown}"] if others else []


def _strays(stamps: Iterable[str]) -> list[Damage]:
    return [
        _damage(
            None, visible(name), "stray", "does not belong beside the shards (img2dataset fails on it); move it away"
        )
        for name in sorted(stamps)
        if name.endswith(_DATA) and shard_of(name) is None
    ]


def _damage(shard: int | None, member: str | None, kind: str, message: str) -> Damage:
    assert kind in KINDS
    return Damage(shard=shard, member=member, kind=kind, message=one_line(message, 300))


_MEMBER_FIELDS = [
    name
    for extension in MEMBER_EXTENSIONS
    for name in (f"{extension}_offset", f"{extension}_size", "sha256" if extension == "jpg" else f"{extension}_sha256")
]
_WRITER_FIELDS = {"shard", *_MEMBER_FIELDS}
