"""Rows of a prompt table, one class at a time.

In: the path or the bytes of a prompts.parquet. Out: `ClassRows`, class ids ascending; single texts by row number. On
disk: only reads; no more than one class and one batch of rows is held.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_BATCH = 16_384
COLUMNS = {
    "class_id": pa.int64(),
    "prompt_id": pa.int64(),
    "class_name": pa.string(),
    "meaning": pa.string(),
    "kind": pa.string(),
    "style": pa.string(),
    "text": pa.string(),
}
MAY_BE_NULL = ("meaning", "style")
NOT_EVERYWHERE = "style"  # tables of names and templates have no styles


@dataclass
class ClassRows:
    """The rows of one class."""

    class_id: int
    class_name: str
    meaning: str | None
    prompt_ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    styles: list[str | None] = field(default_factory=list)


def rows_by_class(source: Path | bytes, kinds: Counter[str]) -> Iterator[ClassRows]:
    """The classes of a table, one after the other."""
    where = table_name(source)
    group: ClassRows | None = None
    for batch in _batches(source, list(COLUMNS)):
        columns = batch.to_pydict()
        kinds.update(columns["kind"])
        ids = np.asarray(columns["class_id"])
        edges = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(ids)]
        for start, end in pairwise(edges):
            class_id = columns["class_id"][start]
            if group is None or class_id != group.class_id:
                if group is not None:
                    yield group
                    if class_id < group.class_id:
                        raise ValueError(
                            f"{where}: found class {class_id} after class {group.class_id}, expected ascending ids; "
                            "write it again with `sixfold prompts`"
                        )
                group = ClassRows(class_id, columns["class_name"][start], columns["meaning"][start])
            group.prompt_ids += columns["prompt_id"][start:end]
            group.texts += columns["text"][start:end]
            group.styles += columns["style"][start:end]
    if group is not None:
        yield group


def _batches(source: Path | bytes, columns: list[str]) -> Iterator[pa.RecordBatch]:
    where = table_name(source)
    try:
        file = pq.ParquetFile(source if isinstance(source, Path) else pa.BufferReader(source))
        there = [name for name in columns if name in file.schema_arrow.names]
        missing = [name for name in columns if name not in there and name != NOT_EVERYWHERE]
        if missing:
            raise ValueError(
                f"{where}: found no column {', '.join(missing)}, expected a prompt table; "
                "write it again with `sixfold prompts`"
            )
        schema = pa.schema([(name, COLUMNS[name]) for name in columns])
        for batch in file.iter_batches(ROWS_PER_BATCH, columns=there):
            arrays = [
                batch.column(name).cast(COLUMNS[name]) if name in there else pa.nulls(batch.num_rows, COLUMNS[name])
                for name in columns
            ]
            if any(array.null_count for name, array in zip(columns, arrays, strict=True) if name not in MAY_BE_NULL):
                raise ValueError(f"{where}: found an empty cell, expected a text and an id in every row")
            if batch.num_rows:
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)
    except FileNotFoundError:
        raise ValueError(f"{where}: found no prompt table, expected one; write it with `sixfold prompts`") from None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{where}: found a damaged table ({reason}); write it again with `sixfold prompts`") from None


def texts_at(source: Path | bytes, rows: Sequence[int]) -> list[str]:
    """The texts of these rows, which ascend; reads no further than the last."""
    found: list[str] = []
    first = 0
    for batch in _batches(source, ["text"]) if rows else ():
        while len(found) < len(rows) and rows[len(found)] < first + batch.num_rows:
            found.append(batch.column(0)[rows[len(found)] - first].as_py())
        if len(found) == len(rows):
            break
        first += batch.num_rows
    return found


def table_name(source: Path | bytes) -> str:
    """What messages call a prompt table."""
    return str(source) if isinstance(source, Path) else "prompts.parquet"
