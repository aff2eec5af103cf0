"""Numbers with units, read and written."""

import pytest

from shards.disk.amounts import parse_count, parse_size


@pytest.mark.parametrize(("text", "size"), [("4GB", 4e9), ("1.5 tb", 1.5e12), (" 800 MB ", 8e8), ("3kB", 3e3)])
def test_a_size_is_read_as_it_is_written(text: str, size: float) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "4", "0GB", "-1GB", "4 GiB", "4GB\n4GB", "1e3GB", "9" * 400 + "GB"])
def test_what_is_no_size_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number with kB, MB, GB or TB") as error:
        parse_size(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "number"), [("7.7M", 7_700_000), ("1B", 10**9), (" 300 k ", 300_000), ("12,000", 12_000), ("5", 5)]
)
def test_a_number_is_read_as_it_is_written(text: str, number: int) -> None:
    assert parse_count(text) == number


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "0.0001k", "1,00", "7.7 MB", "1e9", "1M\n1M", "9" * 40])
def test_what_is_no_number_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected one such as 300k, 7\.7M, 1B or 12,000") as error:
        parse_count(text)
    assert "\n" not in str(error.value)
