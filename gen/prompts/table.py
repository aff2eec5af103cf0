"""The prompt table: every prompt of every class, the texts that a generator is given.

In: prompts in order. Out: `PromptTable`. On disk: prompts.parquet, one row per prompt, sorted by (class_id, prompt_id),
prompt_id counting from 0 within a class; BASE_SCHEMA, then one column per slot with the words that went into it, so
every text can be put together again: `Wording(form, words).text(meaning or class_name)`. The same prompts give the same
bytes.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gen.wording.parts import MAX_TEXT_BYTES, check_text
from shards.disk.layout import META
from shards.disk.parquet import iter_rows, types_of_others
from shards.disk.replace import whole_file
from shards.disk.safe_text import quoted
from shards.labels.classes import Class

PROMPT_TABLE = f"{META}/prompts.parquet"  # where a data set keeps its own
ROWS_PER_GROUP = 16_384
MAX_LISTED = 5  # classes in one message

BASE_SCHEMA = pa.schema(
    [
        pa.field("class_id", pa.int32(), nullable=False),
        pa.field("prompt_id", pa.int32(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("meaning", pa.string()),  # which sense of the name; null = none was chosen
        pa.field("kind", pa.string(), nullable=False),  # name | template | caption | cd | sd
        pa.field("form", pa.string(), nullable=False),  # the text with its slots
        pa.field("text", pa.string(), nullable=False),  # what the generator sees
        pa.field("negative", pa.string(), nullable=False),
    ]
)
_ONCE_ONLY = {"class_id", "prompt_id", "text", "caption"}  # all other columns repeat themselves
_TEXTS = (pa.string(), pa.large_string(), pa.string_view())  # as other programs write them
_SAY_SOMETHING = {"class_name", "meaning", "kind", "text"}


@dataclass(frozen=True)
class Prompt:
    """One row of prompts.parquet. `words` has the slots that are not null."""

    class_id: int
    prompt_id: int
    class_name: str
    meaning: str | None
    kind: str
    form: str
    text: str
    negative: str
    words: Mapping[str, str]

    @property
    def context(self) -> str | None:
        """The words of all slots but the style's, as JSON: how rows of shards keep them."""
        words = {slot: word for slot, word in self.words.items() if slot != "style"}
        return json.dumps(words, ensure_ascii=False) if words else None


def write_table(prompts: Iterable[Prompt], slots: Sequence[str], path: Path) -> None:
    """Write prompts.parquet, all of it or nothing; holds one row group. What ``prompts`` raises is raised.

    ``slots`` names the columns of words.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent) as drawn:  # drawing may take hours; a kill leaves nothing behind
        _write_rows(prompts, slots, drawn)
        drawn.seek(0)
        with whole_file(path) as file:
            shutil.copyfileobj(drawn, file)


def _write_rows(prompts: Iterable[Prompt], slots: Sequence[str], file: IO[bytes]) -> None:
    schema = pa.schema([*BASE_SCHEMA, *(pa.field(slot, pa.string()) for slot in slots)])
    rows: list[Prompt] = []
    with pq.ParquetWriter(file, schema, compression="zstd", compression_level=3) as writer:
        for prompt in prompts:
            rows.append(prompt)
            if len(rows) == ROWS_PER_GROUP:
                writer.write_batch(_batch(rows, schema))
                rows.clear()
        writer.write_batch(_batch(rows, schema))


def _batch(rows: Sequence[Prompt], schema: pa.Schema) -> pa.RecordBatch:
    base = {name: [getattr(row, name) for row in rows] for name in BASE_SCHEMA.names}
    words = {name: [row.words.get(name) for row in rows] for name in schema.names[len(base) :]}
    return pa.RecordBatch.from_pydict(base | words, schema=schema)


class PromptTable:
    """prompts.parquet in memory: texts as one Arrow buffer, everything that repeats as a dictionary."""

    def __init__(self, table: pa.Table, starts: Mapping[int, tuple[int, int]]) -> None:
        self._table = table
        self._starts = starts  # class id -> (first row, rows)
        self._slots = table.column_names[len(BASE_SCHEMA) :]

    @staticmethod
    def load(source: Path | bytes) -> "PromptTable":
        """Read and check a table. Raises ValueError if it is not a whole, sorted prompt table."""
        where = str(source) if isinstance(source, Path) else "prompts.parquet"
        try:
            with types_of_others():
                names = pq.read_schema(_open(source)).names
                if names[: len(BASE_SCHEMA)] != BASE_SCHEMA.names or len(set(names)) < len(names):
                    raise ValueError(
                        f"{where}: found the columns {', '.join(names)[:120]}, expected "
                        f"{', '.join(BASE_SCHEMA.names)} and one per slot; write it again with `sixfold prompts`"
                    )
                schema = pa.schema([*BASE_SCHEMA, *(pa.field(slot, pa.string()) for slot in names[len(BASE_SCHEMA) :])])
                parts = [_as_ours(part, schema, where) for part in _parts(source, names, where)]
                packed = pa.schema([_in_memory(field) for field in schema])
                table = pa.concat_tables([packed.empty_table(), *parts]).unify_dictionaries()
        except FileNotFoundError:
            raise ValueError(f"{where}: found no prompt table, expected one; write it with `sixfold prompts`") from None
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:120]
            raise ValueError(
                f"{where}: found a damaged table ({reason}); write it again with `sixfold prompts`"
            ) from None
        class_ids = table.column("class_id").to_numpy()
        ids, first, sizes = np.unique(class_ids, return_index=True, return_counts=True)
        numbers = np.arange(len(class_ids)) - np.repeat(first, sizes)
        ascending = bool((np.diff(class_ids) >= 0).all())
        if not len(ids) or not ascending or not np.array_equal(table.column("prompt_id").to_numpy(), numbers):
            raise ValueError(
                f"{where}: found rows out of order or missing, expected prompt_id 0, 1, ... within ascending class_id; "
                "write it again with `sixfold prompts`"
            )
        rows = zip(first.tolist(), sizes.tolist(), strict=True)
        return PromptTable(table, dict(zip(ids.tolist(), rows, strict=True)))

    def __len__(self) -> int:
        return self._table.num_rows

    def num_per_class(self) -> dict[int, int]:
        """Class id -> number of prompts, ids ascending."""
        return {class_id: count for class_id, (_, count) in self._starts.items()}

    def num_distinct_texts(self) -> int:
        """Over all classes."""
        return int(pc.count_distinct(self._table.column("text")).as_py())

    def of_class(self, class_id: int, column: str) -> list[Any]:
        """A column of a class's prompts, in order; all None if the table has no such column."""
        first, count = self._starts[class_id]
        is_there = column in self._table.column_names
        return self._table.column(column).slice(first, count).to_pylist() if is_there else [None] * count

    def negatives(self) -> set[str]:
        """What any prompt of the table tells the generator to avoid; "" where one has nothing to say."""
        return set(self._table.column("negative").unique().to_pylist())

    def prompt(self, class_id: int, prompt_id: int) -> Prompt:
        first, count = self._starts.get(class_id, (0, 0))
        if not 0 <= prompt_id < count:
            raise KeyError(f"prompt {prompt_id} of class {class_id}: the table has {count} for this class")
        row = {name: self._table.column(name)[first + prompt_id].as_py() for name in self._table.column_names}
        words = {slot: word for slot in self._slots if (word := row.pop(slot)) is not None}
        return Prompt(**row, words=words)

    def check_classes(self, classes: Sequence[Class]) -> None:
        """Raise ValueError unless the table has exactly these classes by id and name."""
        ours = {one.id: one.name for one in classes}
        if ours.keys() != self._starts.keys():
            odd = sorted(ours.keys() ^ self._starts.keys())
            raise ValueError(
                f"prompts.file: found {len(self._starts)} classes, expected the {len(ours)} of the recipe; they differ "
                f"in {', '.join(map(str, odd[:MAX_LISTED]))}; write it with `sixfold prompts` of this recipe"
            )
        for class_id, name in ours.items():
            found = self.prompt(class_id, 0).class_name
            if found != name:
                raise ValueError(
                    f"prompts.file: found {quoted(found, 60)} as class {class_id}, expected {quoted(name, 60)}; write "
                    "it with `sixfold prompts` of this recipe"
                )


def _in_memory(field: pa.Field) -> pa.Field:
    """What repeats itself is a dictionary."""
    repeats = field.name not in _ONCE_ONLY
    return pa.field(field.name, pa.dictionary(pa.int32(), pa.string()) if repeats else field.type, field.nullable)


def _parts(source: Path | bytes, names: Sequence[str], where: str) -> Iterator[pa.Table]:
    try:
        yield from iter_rows(source, names, ROWS_PER_GROUP)
    except (pa.ArrowException, OSError):
        raise
    except ValueError as error:  # a few bytes that stand for more than the memory holds
        raise ValueError(f"{where}: {error}; write it again with `sixfold prompts`") from None


def _as_ours(part: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """Rows of a table, which another program may have written, with our types. Raises ValueError for what no prompt
    could say."""
    columns = []
    for name, field in zip(schema.names, schema, strict=True):
        column = part.column(name)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        is_fit = pa.types.is_integer(kind) if field.type == pa.int32() else kind in _TEXTS
        if not is_fit and not (field.nullable and pa.types.is_null(kind)):
            raise ValueError(
                f"{where}: found {kind} in the column {name}, expected {field.type}; write it as such, or write the "
                "table again with `sixfold prompts`"
            )
        if not field.nullable and column.null_count:
            raise ValueError(f"{where}: found a null in the column {name}, expected a value in every row; fill it in")
        column = column.cast(field.type)
        if field.type == pa.string():
            _check_texts(column, f"{where}, column {name}", name not in _SAY_SOMETHING)
        columns.append(column.cast(_in_memory(field).type) if field.type == pa.string() else column)
    return pa.table(columns, pa.schema([_in_memory(field) for field in schema]))


def _check_texts(column: pa.ChunkedArray, where: str, may_be_empty: bool) -> None:
    """As `check_text`, of a column: only a text that looks odd is looked at by itself."""
    column.validate(full=True)
    is_odd = pc.or_(pc.greater(pc.binary_length(column), MAX_TEXT_BYTES), pc.match_substring(column, "\0"))
    if not may_be_empty:
        is_odd = pc.or_(is_odd, pc.equal(pc.utf8_trim_whitespace(column), ""))
    for text in column.filter(is_odd).to_pylist():
        check_text(text, where, may_be_empty)


def _open(source: Path | bytes) -> Path | pa.BufferReader:
    return source if isinstance(source, Path) else pa.BufferReader(source)
