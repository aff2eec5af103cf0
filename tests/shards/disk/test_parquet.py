"""Tables of others: few bytes never unpack to more than a bound."""

import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.disk.parquet import MAX_TABLE_BYTES, read_rows, take_rows


def packed(table: pa.Table, **how: object) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", **how)
    return bytes(sink.getvalue())


def repeated(text_bytes: int, rows: int) -> bytes:
    """A file that holds one text once, and a number for each row that says so."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * text_bytes]))
    return packed(pa.table({"caption": texts, "row": range(rows)}), store_schema=False)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


BOUND = 32 << 20


@pytest.mark.parametrize(("text_bytes", "rows"), [(100_000, 10_000), (1_000_000, 1_000), (40, 10_000_000)])
def test_a_text_that_is_repeated_into_a_gigabyte_is_refused_before_it_fills_the_memory(
    text_bytes: int, rows: int
) -> None:
    data = repeated(text_bytes, rows)
    assert len(data) < 120_000 or rows == 10_000_000
    before = peak_bytes()
    with pytest.raises(ValueError, match=f"found rows of .* bytes, expected at most {BOUND:,}"):
        read_rows(data, ["caption"], BOUND)
    assert peak_bytes() - before < 4 * BOUND
    if rows < 10_000_000:
        assert read_rows(data, ["row"], BOUND).num_rows == rows, "the other columns can be read"


def test_pages_that_say_they_unpack_to_more_than_the_bound_are_not_unpacked() -> None:
    data = packed(pa.table({"a": ["x" * 30_000_000, "y" * 30_000_000]}), use_dictionary=False)
    before = peak_bytes()
    with pytest.raises(ValueError, match=f"found rows of 6.* bytes, expected at most {BOUND:,}"):
        read_rows(data, None, BOUND)
    assert peak_bytes() - before < BOUND


@pytest.mark.parametrize("most", [200_000, MAX_TABLE_BYTES])
def test_the_rows_do_not_depend_on_how_they_are_read(most: int) -> None:
    keys, none = [f"{row:09d}" for row in range(1_000)], pa.nulls(1_000, pa.int8())
    few = [None if row % 3 else f"text {row % 7}" for row in range(1_000)]
    table = pa.table(
        {"key": keys, "n": range(1_000), "none": none, "few": few, "all_null": pa.nulls(1_000, pa.string())}
    )
    data = packed(table, row_group_size=300)
    assert read_rows(data, None, most).equals(table)
    assert read_rows(data, ["n", "key"], most).equals(table.select(["n", "key"]))
    assert read_rows(packed(table.slice(0, 0)), None, most).equals(table.slice(0, 0))
    with pytest.raises(ValueError, match="expected at most 1,000"):
        read_rows(data, None, 1_000)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary_view()])
def test_rows_that_are_taken_are_those_of_the_whole_table_whatever_its_type_and_groups(
    tmp_path: Path, kind: pa.DataType
) -> None:
    few = pa.array([None if row % 3 else f"text {row % 7}" for row in range(1_000)]).cast(pa.binary()).cast(kind)
    pq.write_table(pa.table({"n": range(1_000), "few": few}), tmp_path / "0.parquet", row_group_size=300)
    rows = np.array([0, 5, 5, 299, 300, 301, 302, 303, 999])  # nothing of the third group
    found = take_rows(tmp_path / "0.parquet", ["few", "n"], rows, num_rows=2)
    assert found.column_names == ["few", "n"]
    assert found["n"].to_pylist() == rows.tolist()
    assert found["few"].to_pylist() == [few[row].as_py() for row in rows]
    assert take_rows(tmp_path / "0.parquet", ["n"], rows[:0], num_rows=2).num_rows == 0
