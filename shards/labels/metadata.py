"""The metadata beside class folders, `metadata.parquet`: what an export, or its owner, says of each picture.

In: the folder. Out: names of classes, facts of pictures. On disk: only reads.

The table has `file_name` and, as far as they are known, the columns of a shard's table. It may tell of some pictures
alone, and a cell may be empty: then it says nothing there.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shards.disk.amounts import counted
from shards.disk.layout import EDIT_FIELD, SAMPLE_SCHEMA
from shards.disk.safe_text import one_line, quoted

METADATA = "metadata.parquet"
FILE_NAME = pa.field("file_name", pa.string(), nullable=False)
FACTS = (*SAMPLE_SCHEMA.names, EDIT_FIELD.name)
_FIELDS = {FILE_NAME.name: FILE_NAME} | {one.name: one.with_nullable(True) for one in (*SAMPLE_SCHEMA, EDIT_FIELD)}


def facts_beside(folder: Path, facts: Sequence[str] = FACTS) -> dict[str, dict[str, Any]]:
    """File name -> those of these facts that the table says of the picture; {} without a table.

    Raises ValueError for a table that cannot be used, and for a file that it names twice.
    """
    path = folder / METADATA
    if not path.is_file():
        return {}
    try:
        there = pq.read_schema(path).names
        columns = [FILE_NAME.name, *(name for name in facts if name in there)]
        rows = _columns(path, columns).to_pylist()
    except (KeyError, ValueError, OSError, pa.ArrowException) as error:
        raise ValueError(
            f"{path}: found a table that cannot be used ({one_line(str(error), 200)}), expected the columns file_name "
            "and, as far as known, those of a shard's table; move it away to use the pictures alone"
        ) from None
    named = {row.pop(FILE_NAME.name): {name: value for name, value in row.items() if value is not None} for row in rows}
    if len(named) < len(rows):
        raise ValueError(
            f"{path}: found {counted(len(rows) - len(named), 'file name')} a second time, expected each once; mend it"
        )
    return named


def names_beside(folder: Path) -> dict[int, str]:
    """Class id -> name, from the metadata that an export wrote beside its class folders; {} without any.

    Raises ValueError for a table that cannot be used.
    """
    path = folder / METADATA
    if not path.is_file():
        return {}
    try:
        table = _columns(path, ["class_id", "class_name"]).drop_null()
        pairs = table.group_by(["class_id", "class_name"]).aggregate([]).to_pylist()
        return {row["class_id"]: row["class_name"] for row in pairs}
    except (KeyError, ValueError, OSError, pa.ArrowException) as error:
        if "class_id" in str(error) or "class_name" in str(error):
            return {}  # of pictures whose classes the folders tell
        raise ValueError(
            f"{path}: found a table that cannot be read ({one_line(str(error), 200)}); move it away"
        ) from None


def refuse_twins(ids: Iterable[tuple[str, str]], folder: Path) -> None:
    """Raises ValueError for two pictures of one id, of (file name, id): `verify` would call what is made of them
    damaged."""
    seen: dict[str, str] = {}
    for name, uid in ids:
        first = seen.setdefault(uid, name)
        if first != name:
            raise ValueError(
                f"{folder / METADATA}: found the uid {quoted(uid, 40)} for {quoted(first, 60)} and "
                f"{quoted(name, 60)}, expected each once; mend the table, or move it away to use the pictures alone"
            )


def _columns(path: Path, names: Sequence[str]) -> pa.Table:
    table = pq.read_table(path, columns=list(names), partitioning=None)
    return table.select(names).cast(pa.schema([_FIELDS[name] for name in names]))
