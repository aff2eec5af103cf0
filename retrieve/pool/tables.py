"""Tables for a pool that is tars alone: a row for each picture, with what lies beside it.

In: a folder of tars whose samples have a `.txt` (the caption) or a `.json` (an object; its keys are read as the columns
of a table are, see `retrieve.pool.columns`). Out: how many tables and rows. On disk: `NAME.parquet` beside `NAME.tar`,
as img2dataset writes it, each whole or not at all; one that is there is left as it is.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from retrieve.pool.columns import KNOWN
from shards.disk.checked_json import plain_json
from shards.disk.replace import whole_file
from shards.disk.safe_text import quoted
from shards.disk.store import FolderStore
from shards.stream.foreign_tars import texts_of

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
    than its tars, for a tar of which no picture has a caption, and for one that cannot be read."""
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
    told = _told(texts.get("json", b"{}"))
    row: dict[str, object] = {"key": key}
    for field in _SCHEMA:
        value = next((told[name] for name in KNOWN[field.name] if told.get(name) is not None), None)
        if field.name != "key":
            row[field.name] = _of_type(value, field.type, f"{where}: {field.name}")
    if "txt" in texts or row["caption"] is None:
        row["caption"] = texts.get("txt", b"").decode("utf-8", "replace").strip()
    return row


def _told(data: bytes) -> dict[str, object]:
    """Of a .json: key in lower case -> value; nothing of one that holds something else."""
    try:
        body = plain_json(data)
    except ValueError:
        return {}
    return {str(key).lower(): value for key, value in body.items()} if isinstance(body, dict) else {}


def _of_type(value: object, kind: pa.DataType, where: str) -> object:
    """Raises ValueError for a value that is no number where one decides or counts."""
    if value is None or isinstance(value, (list, dict)):
        return None
    if pa.types.is_string(kind):
        return str(value)
    try:
        return int(str(value)) if pa.types.is_integer(kind) else float(str(value))
    except ValueError:
        raise ValueError(f"{where}: found {quoted(str(value), 40)}, expected a number") from None
