"""Tables for a pool that is tars alone: a row for each picture, with what lies beside it.

In: a folder of tars whose samples have a `.txt` (the caption) or a `.json` (an object; its keys are read as the columns
of a table are, see `retrieve.pool.columns`). Out: how many tables and rows. On disk: `NAME.parquet` beside `NAME.tar`,
as img2dataset writes it, each whole or not at all; one that is there is left as it is.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from retrieve.pool.columns import KNOWN
from shards.disk.replace import whole_file
from shards.disk.safe_text import quoted
from shards.disk.store import FolderStore
from shards.stream.foreign_tars import MAX_LABEL_BYTES, texts_of

MOST_COUNT = 1 << 53  # up to here a float holds each integer

# of every table, whether or not the tar says them: tables of one pool have the same columns
_SCHEMA = pa.schema(
    [("key", pa.string()), ("caption", pa.string())]
    + [(role, pa.string()) for role in ("url", "nsfw", "sha256", "licence")]
    + [("punsafe", pa.float64()), ("width", pa.int64()), ("height", pa.int64())]
)


@dataclass(frozen=True)
class Written:
    """What was written; `without_caption`: rows whose caption is empty, which no search by captions finds."""

    tables: int
    rows: int
    without_caption: int


def write_tables(folder: Path) -> Written:
    """Write the tables that are missing. Raises ValueError for a folder without tars, or with tables of something else
    than its tars, for a tar of which no picture has a caption, and for a tar or a .json that cannot be read."""
    tars = {path.stem: path for path in sorted(folder.glob("*.tar"))}
    if not tars:
        raise ValueError(f"{folder}: found no *.tar, expected some; their .txt or .json become tables")
    others = [path for path in (*folder.glob("*.parquet"), folder / "metadata") if path.stem not in tars]
    if others := [path for path in others if path.exists()]:
        raise ValueError(f"{others[0]}: found a table that is of none of the tars, expected none beside written ones")
    written = Written(0, 0, 0)
    store = FolderStore(folder, read_only=True)
    for stem, tar in tars.items():
        target = folder / f"{stem}.parquet"
        if target.exists():
            continue
        rows = [_row(key, texts, str(tar)) for key, texts in texts_of(store, tar.name, tar.stat().st_size).items()]
        missing = sum(not row["caption"] for row in rows)
        if missing == len(rows):
            raise ValueError(
                f"{tar}: found no caption of its {len(rows):,} pictures, expected a .txt, or a .json with "
                f"{' or '.join(KNOWN['caption'])}, beside them"
            )
        with whole_file(target) as file:
            pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), file, compression="zstd")
        written = Written(written.tables + 1, written.rows + len(rows), written.without_caption + missing)
    return written


def _row(key: str, texts: dict[str, bytes], tar: str) -> dict[str, object]:
    where = f"{tar}: {quoted(key, 80)}"
    told = _told(texts.get("json", b"{}"), where)
    row: dict[str, object] = {"key": key}
    for field in _SCHEMA:
        value = next((told[name] for name in KNOWN[field.name] if told.get(name) is not None), None)
        if field.name != "key":
            row[field.name] = _of_type(value, field.type, f"{where}: {field.name}")
    if "txt" in texts or row["caption"] is None:
        row["caption"] = texts.get("txt", b"").decode("utf-8", "replace").strip()
    return row


def _told(data: bytes, where: str) -> dict[str, object]:
    """Of a .json: key in lower case -> value, None for NaN; nothing of a list or a single value. Raises ValueError for
    one that cannot be read."""
    try:
        body = json.loads(data.decode("utf-8-sig"), parse_constant=_constant)
    except (ValueError, RecursionError):
        raise ValueError(
            f"{where}: found a .json that cannot be read, expected JSON of at most {MAX_LABEL_BYTES:,} bytes in UTF-8: "
            "it may say that the picture is unsafe; mend or remove it"
        ) from None
    return {str(key).lower(): value for key, value in body.items()} if isinstance(body, dict) else {}


def _constant(word: str) -> float | None:
    """Of the words that Python writes for numbers that JSON does not have: NaN says nothing, Infinity is above all."""
    return None if word == "NaN" else float(word)


def _of_type(value: object, kind: pa.DataType, where: str) -> object:
    """Raises ValueError for a value that is no number where one decides or counts; None for a count that is NaN or
    endless."""
    if value is None or isinstance(value, (list, dict)):
        return None
    if pa.types.is_string(kind):
        return str(value)
    try:
        number = float(str(value))
    except ValueError:
        raise ValueError(f"{where}: found {quoted(str(value), 40)}, expected a number") from None
    if pa.types.is_floating(kind):
        return number
    return int(number) if abs(number) < MOST_COUNT else None
