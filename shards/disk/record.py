"""The record of one shard, `NNNNN_stats.json`: written last, so a shard is done when its record is there.

In and out: a frozen `Record`. On disk: img2dataset's keys (`count`, `successes`, `failed_to_download`,
`failed_to_resize`, `duration`, `start_time`, `end_time`, `status_dict`), so its tools read the file; and ours: shard
and attempt, the run's fingerprint, size and sha256 of tar and table, and a sha256 of the record itself.

A record is invalid if its `schema` or shard number is another one, if a key is missing, or if the checksum is wrong.
Unknown keys are ignored, because a newer minor version may add some.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from shards.disk.checked_json import CHECKSUM, checksum_of, plain_json
from shards.disk.layout import SUCCESS, record_name, shard_name, table_name, tar_name
from shards.disk.regular import NO_FILE
from shards.disk.store import Store

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

SCHEMA = 1
MAX_RECORD_BYTES = 1 << 20
ATTEMPT_PATTERN = re.compile(r"[0-9a-z-]{1,40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class RecordError(ValueError):
    """An invalid record. `kind`: "damaged", "misplaced" (that of another shard), or "schema" (of another version)."""

    def __init__(self, message: str, kind: Literal["damaged", "misplaced", "schema"]) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, kw_only=True)
class FileStamp:
    """Size and hash of one published file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a record says: who made the shard, how many samples it has, which bytes belong to it."""

    shard: int
    attempt: str
    fingerprint: str
    tar: FileStamp
    parquet: FileStamp
    count: int  # draws: rows of the table
    successes: int  # samples in the tar
    slots: int  # samples asked for
    status_dict: Mapping[str, int]  # status -> draws, successes included
    start_time: float  # seconds since 1970
    end_time: float
    extra: Mapping[str, JSON]  # device, versions, code hash, ...

    @property
    def short(self) -> int:
        """Slots that no success filled."""
        return self.slots - self.successes

    @property
    def duration(self) -> float:
        """Seconds from the start of the attempt to its end."""
        return self.end_time - self.start_time

    def files(self) -> dict[str, FileStamp]:
        """File name -> size and hash, in the order in which the files are published."""
        return {tar_name(self.shard): self.tar, table_name(self.shard): self.parquet}

    def to_bytes(self) -> bytes:
        """The contents of the file. Raises ValueError if JSON cannot hold `extra` exactly."""
        body = self.to_body()
        body[CHECKSUM] = checksum_of(body)
        return (json.dumps(body, indent=4, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")

    def to_body(self) -> dict[str, object]:
        """The JSON object in the file, without its checksum."""
        return {
            "count": self.count,
            "successes": self.successes,
            "failed_to_download": self.status_dict.get("failed_to_download", 0),
            "failed_to_resize": self.status_dict.get("failed_to_resize", 0),
            "duration": self.duration,
            "start_time": self.start_time,
            "end_time": self.end_time,
            "status_dict": dict(sorted(self.status_dict.items())),
            "schema": SCHEMA,
            "shard": self.shard,
            "attempt": self.attempt,
            "fingerprint": self.fingerprint,
            "files": {
                "tar": {"bytes": self.tar.bytes, "sha256": self.tar.sha256},
                "parquet": {"bytes": self.parquet.bytes, "sha256": self.parquet.sha256},
            },
            "slots": self.slots,
            "short": self.short,
            "extra": dict(self.extra),
        }


def parse_record(data: bytes, shard: int, where: str) -> Record:
    """The record in `data`, the contents of shard `shard`'s record file; `where` begins the messages.

    Raises RecordError if it is empty, cut short, altered, of another schema or of another shard.
    """
    if len(data) > MAX_RECORD_BYTES:
        raise RecordError(f"{where}: found {len(data)} bytes, a record has at most {MAX_RECORD_BYTES}", "damaged")
    try:
        body = plain_json(data)
    except ValueError:
        what = "an empty file" if not data.strip(b"\0 \r\n") else "no whole JSON text"
        raise RecordError(
            f"{where}: found {what}, expected the record of shard {shard_name(shard)}", "damaged"
        ) from None
    if not isinstance(body, dict):
        raise RecordError(f"{where}: found a JSON {type(body).__name__}, expected the record of a shard", "damaged")
    if body.get("schema") != SCHEMA:
        raise RecordError(
            f"{where}: found schema {str(body.get('schema', 'none'))[:20]!r}, expected {SCHEMA}; this "
            "folder was written by another version or another tool, use another output folder",
            "schema",
        )
    checksum = body.pop(CHECKSUM, None)
    if checksum != checksum_of(body):
        raise RecordError(f"{where}: the content does not match its own checksum", "damaged")
    return record_of(body, shard, where)


def record_of(body: Mapping[str, Any], shard: int, where: str) -> Record:
    """The record in a JSON object whose checksum is right. Raises RecordError if a field is missing or wrong."""
    try:
        record = Record(
            shard=_integer(body["shard"]),
            attempt=str(body["attempt"]),
            fingerprint=str(body["fingerprint"]),
            tar=_file_stamp(body["files"]["tar"]),
            parquet=_file_stamp(body["files"]["parquet"]),
            count=_integer(body["count"]),
            successes=_integer(body["successes"]),
            slots=_integer(body["slots"]),
            status_dict={str(status): _integer(num) for status, num in body["status_dict"].items()},
            start_time=float(body["start_time"]),
            end_time=float(body["end_time"]),
            extra=body["extra"],
        )
        if not ATTEMPT_PATTERN.fullmatch(record.attempt):
            raise ValueError("attempt")
        if record.status_dict.get(SUCCESS, 0) != record.successes or sum(record.status_dict.values()) != record.count:
            raise ValueError("counts")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordError(
            f"{where}: bad or missing field {str(error)[:60]}, expected a whole record", "damaged"
        ) from None
    if record.shard != shard:
        raise RecordError(
            f"{where}: found the record of shard {record.shard}, expected {shard}; it was copied or renamed",
            "misplaced",
        )
    return record


def read_record(store: Store, shard: int) -> Record | None:
    """The published record of `shard`; None if there is none. Raises RecordError if it is invalid or no file."""
    name = record_name(shard)
    try:
        data = store.read_bytes(name, MAX_RECORD_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
        raise RecordError(f"{store.url}/{name}: {error.strerror}, expected a record", "damaged") from None
    return parse_record(data, shard, f"{store.url}/{name}")


def _integer(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{str(value)[:20]!r}")
    return value


def _file_stamp(value: Mapping[str, object]) -> FileStamp:
    sha256 = value["sha256"]
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ValueError("sha256")
    return FileStamp(bytes=_integer(value["bytes"]), sha256=sha256)
