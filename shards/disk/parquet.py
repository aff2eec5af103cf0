"""Tables of others (parquet), read so that few bytes cannot unpack to more than the memory holds.

In: the bytes of a parquet file or its path, the columns that are asked for. Out: pyarrow tables. On disk: only reads.

A file of 115 KB may hold one text of 100 KB and say of 10,000 rows that they have it: 1 GB. So where the rows could be
that many, texts are read as a dictionary, which is never larger than the file unpacks to, and counted before they are
written out.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

MAX_TABLE_BYTES = 512 << 20  # of the rows of a shard; 10,000 of ours take about 10 MB
VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}  # pyarrow takes no rows of these


@contextlib.contextmanager
def types_of_others() -> Iterator[None]:
    """Where files of others are opened: a column may name a type that some library has registered in this process, and
    that decodes what the file says of it. Raises pa.ArrowInvalid for whatever it raises then."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, MemoryError):
        raise
    except Exception as error:
        raise pa.ArrowInvalid(f"the type of a column cannot be decoded: {type(error).__name__}") from None


def read_rows(data: bytes, columns: Sequence[str] | None = None, most: int = MAX_TABLE_BYTES) -> pa.Table:
    """All rows of the file `data`; `columns` None reads all columns.

    Raises ValueError for more than `most` bytes of rows, pa.ArrowException or OSError for damaged pages, KeyError for a
    column that is not there.
    """
    file = pq.ParquetFile(pa.BufferReader(data))
    schema = file.schema_arrow
    names = schema.names if columns is None else list(columns)
    asked = pa.schema([schema.field(name) for name in names])
    unpacked = _unpacked(file.metadata, set(names))
    if unpacked > most:
        raise ValueError(f"found rows of {unpacked:,} bytes, expected at most {most:,}")
    if unpacked * file.metadata.num_rows <= most:  # no text is longer than all of them together
        return file.read(columns=names, use_threads=False)
    texts = [field.name for field in asked if _is_text(field.type)]
    packed = pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts).read(columns=names, use_threads=False)
    size = sum(_size_of(packed.column(name)) for name in names)
    if size > most:
        raise ValueError(f"found rows of {size:,} bytes, expected at most {most:,}")
    return _written_out(packed, asked)


def iter_rows(source: Path | bytes, columns: Sequence[str], num_rows: int) -> Iterator[pa.Table]:
    """The rows of a local file, or of its bytes, at most `num_rows` at a time and in order; a file of any size takes
    little memory.

    Raises what `read_rows` raises; the limit holds for each table.
    """
    with pq.ParquetFile(_opened(source)) as file:
        asked = pa.schema([file.schema_arrow.field(name) for name in columns])
        packed = _in_dictionaries(file.metadata, asked, range(file.metadata.num_row_groups))
    with pq.ParquetFile(_opened(source), read_dictionary=packed) as file:
        for batch in file.iter_batches(num_rows, columns=list(columns), use_threads=False):
            table = pa.Table.from_batches([batch]).select(list(columns))
            _refuse_large(table)
            yield _written_out(table, asked) if packed else table


def take_rows(path: Path, columns: Sequence[str], rows: np.ndarray, num_rows: int) -> pa.Table:
    """These rows of a local file, ascending. Of the row groups that hold one, one at a time is in memory. Views become
    large texts.

    Raises what `iter_rows` raises; the limit holds for `num_rows` of the rows at a time.
    """
    with pq.ParquetFile(path) as file:
        about, asked = file.metadata, pa.schema([file.schema_arrow.field(name) for name in columns])
    asked = _without_views(asked)
    ends = np.cumsum([about.row_group(group).num_rows for group in range(about.num_row_groups)])
    groups = np.searchsorted(ends, rows, side="right")
    packed = _in_dictionaries(about, asked, np.unique(groups).tolist())
    found = [asked.empty_table()]
    with pq.ParquetFile(path, metadata=about, read_dictionary=packed) as file:
        for group in np.unique(groups).tolist():
            table = file.read_row_group(group, columns=list(columns), use_threads=False).select(list(columns))
            table = table.cast(_without_views(table.schema))
            places = rows[groups == group] - (ends[group] - len(table))
            for start in range(0, len(places), num_rows):
                taken = table.take(places[start : start + num_rows])
                _refuse_large(taken)
                found.append(_written_out(taken, asked))
    return pa.concat_tables(found)


def _refuse_large(table: pa.Table) -> None:
    size = sum(_size_of(column) for column in table.columns)
    if size > MAX_TABLE_BYTES:
        raise ValueError(f"found {len(table):,} rows of {size:,} bytes, expected at most {MAX_TABLE_BYTES:,}")


def _without_views(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_type(VIEWS.get(field.type, field.type)) for field in schema])


def _opened(source: Path | bytes) -> Path | pa.BufferReader:
    return source if isinstance(source, Path) else pa.BufferReader(source)


def _in_dictionaries(about: pq.FileMetaData, asked: pa.Schema, groups: Iterable[int]) -> list[str]:
    """The texts of these row groups of which a few may stand for many rows: only they can unpack to more than the file
    says."""
    texts = {field.name for field in asked if _is_text(field.type)}
    found = set()
    for group in groups:
        for number in range(about.num_columns):
            column = about.row_group(group).column(number)
            if any("DICTIONARY" in encoding for encoding in column.encodings):
                found.add(column.path_in_schema)
    return sorted(texts & found)


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.binary(), pa.large_string(), pa.large_binary(), pa.string_view(), pa.binary_view())


def _written_out(table: pa.Table, asked: pa.Schema) -> pa.Table:
    """Without dictionaries. From one to a view Arrow knows no direct way."""
    through = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    return table.cast(pa.schema([field.with_type(through.get(field.type, field.type)) for field in asked])).cast(asked)


def _unpacked(about: pq.FileMetaData, names: set[str]) -> int:
    """The bytes that the pages of these columns say they unpack to."""
    columns = (
        about.row_group(group).column(number)
        for group in range(about.num_row_groups)
        for number in range(about.num_columns)
    )
    return sum(one.total_uncompressed_size for one in columns if one.path_in_schema.partition(".")[0] in names)


def _size_of(column: pa.ChunkedArray) -> int:
    """The bytes of a column whose dictionaries are written out."""
    size = 0
    for chunk in column.chunks:
        if not isinstance(chunk, pa.DictionaryArray):
            size += chunk.nbytes
        elif len(chunk.dictionary):
            lengths = pc.binary_length(chunk.dictionary).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
            size += int(lengths[chunk.indices.drop_null().to_numpy(zero_copy_only=False)].sum()) + 4 * len(chunk)
    return size
