"""Tables of others (parquet), read so that few bytes cannot unpack to more than the memory holds.

In: the bytes of a parquet file, the columns that are asked for. Out: a pyarrow table. On disk: nothing.

A file of 115 KB may hold one text of 100 KB for 10,000 rows, 1 GB. Rows are therefore decoded in batches, so few at a
time that a batch stays small even if every row has the longest text that the file can hold, and counted.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

MAX_TABLE_BYTES = 512 << 20  # of the decoded rows; 10,000 rows of ours take about 10 MB
_BATCHES = 4  # at least, of a file that may have more; a batch is in memory twice while it is decoded


def open_table(data: bytes | pa.Buffer) -> pq.ParquetFile:
    """The file, with its schema and number of rows; no row is decoded. Raises pa.ArrowException or OSError."""
    return pq.ParquetFile(pa.BufferReader(data))


def read_rows(file: pq.ParquetFile, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows; `columns` None reads all columns. Raises ValueError for more than `MAX_TABLE_BYTES` of rows, and
    pa.ArrowException or OSError for damaged pages."""
    about, schema = file.metadata, file.schema_arrow
    wanted = set(schema.names if columns is None else columns)
    unpacked = 0  # bytes that the pages of the wanted columns say they unpack to
    for group in range(about.num_row_groups):
        for number in range(about.num_columns):
            column = about.row_group(group).column(number)
            if column.path_in_schema.partition(".")[0] in wanted:
                unpacked += column.total_uncompressed_size
    if unpacked > MAX_TABLE_BYTES:
        raise ValueError(f"found rows of {unpacked:,} bytes, expected at most {MAX_TABLE_BYTES:,}")
    names = None if columns is None else list(columns)
    if unpacked * about.num_rows <= MAX_TABLE_BYTES:  # no text is longer than all of them together
        return file.read(columns=names, use_threads=False)
    batches = []
    found = 0
    for batch in file.iter_batches(max(1, MAX_TABLE_BYTES // _BATCHES // unpacked), columns=names, use_threads=False):
        found += batch.nbytes
        if found > MAX_TABLE_BYTES:
            raise ValueError(f"found rows of more than {MAX_TABLE_BYTES:,} bytes, expected fewer")
        batches.append(batch)
    asked = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    return pa.Table.from_batches(batches, asked).combine_chunks()
