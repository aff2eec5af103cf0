"""Tables of others: few bytes never unpack to more than a bound."""

import resource

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.disk.parquet import MAX_TABLE_BYTES, open_table, read_rows


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


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("shards.disk.parquet.MAX_TABLE_BYTES", 32 << 20)
    return 32 << 20


@pytest.mark.parametrize(("text_bytes", "rows"), [(100_000, 10_000), (1_000_000, 1_000)])
def test_a_text_that_is_repeated_into_a_gigabyte_is_refused_before_it_fills_the_memory(
    bound: int, text_bytes: int, rows: int
) -> None:
    data = repeated(text_bytes, rows)
    assert len(data) < 120_000
    before = peak_bytes()
    with pytest.raises(ValueError, match=f"found rows of more than {bound:,} bytes, expected fewer"):
        read_rows(open_table(data))
    assert peak_bytes() - before < 4 * bound
    assert read_rows(open_table(data), ["row"]).num_rows == rows, "the other columns can be read"


def test_pages_that_say_they_unpack_to_more_than_the_bound_are_not_unpacked(bound: int) -> None:
    data = packed(pa.table({"a": ["x" * 30_000_000, "y" * 30_000_000]}), use_dictionary=False)
    before = peak_bytes()
    with pytest.raises(ValueError, match=f"found rows of 6.* bytes, expected at most {bound:,}"):
        read_rows(open_table(data))
    assert peak_bytes() - before < bound


@pytest.mark.parametrize("most", [1, 40_000, MAX_TABLE_BYTES])
def test_the_rows_do_not_depend_on_how_many_are_decoded_at_a_time(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table(
        {"key": [f"{row:09d}" for row in range(1_000)], "n": range(1_000), "none": pa.nulls(1_000, pa.int8())}
    )
    data = packed(table, row_group_size=300)
    if most == 1:
        monkeypatch.setattr("shards.disk.parquet.MAX_TABLE_BYTES", most)
        with pytest.raises(ValueError, match="found rows of"):
            read_rows(open_table(data))
        return
    monkeypatch.setattr("shards.disk.parquet.MAX_TABLE_BYTES", most)
    assert read_rows(open_table(data)).equals(table)
    assert read_rows(open_table(data), ["n", "key"]).equals(table.select(["n", "key"]))
    assert read_rows(open_table(packed(table.slice(0, 0)))).equals(table.slice(0, 0))
