"""A JSON file that carries a hash of itself is whole or refused."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.disk.checked_json import CHECKSUM, parse_checked, plain_json, to_checked

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
BODY = {"a": [1, 2.5, None, "ü\u202e"], "b": {"c": True}}


def test_what_was_written_is_read_and_every_changed_byte_of_a_value_is_found() -> None:
    data = to_checked(BODY)
    assert parse_checked(data, "x") == {**BODY, CHECKSUM: json.loads(data)[CHECKSUM]}
    for at in range(len(data)):
        for bit in (1, 4, 16):
            changed = data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
            found: dict[str, object] | None = None
            with contextlib.suppress(ValueError):
                found = parse_checked(changed, "x")
            # read: blanks between the values, or a checksum that is no longer called so
            assert found is None or CHECKSUM not in found or found == parse_checked(data, "x")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[1]",
        b"7",
        b"\xff",
        b"[" * 100_000,
        b'{"a": 1e400, "checksum": "0"}',
        b'{"a": NaN, "checksum": "0"}',
        b'{"a": ' + b"[" * 900 + b"]" * 900 + b', "checksum": "0"}',
        b'{"checksum": null}',
    ],
)
def test_what_is_no_whole_object_is_refused_in_a_line(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^x: found ") as caught:
        parse_checked(data, "x")
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_of_an_earlier_version_has_no_checksum_and_is_read() -> None:
    assert parse_checked(b'{"a": 1}', "x") == {"a": 1}


@pytest.mark.parametrize(
    "text",
    [
        *(
            b"",
            b"\xff",
            b"NaN",
            b"[Infinity]",
            b"-Infinity",
            b"1e400",
            b'{"a": -1e999}',
            b"[" * 1_000_000,
            b"{]",
            b"1 2",
        ),
        *("", "NaN", "[" * 1_000_000, '{"a":' * 200_000, "9" * 5_000),
    ],
)
def test_text_that_is_no_json_is_a_value_error_whatever_is_wrong_with_it(text: bytes | str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        plain_json(text)


@given(json_values)
def test_what_json_can_hold_is_read_as_json_reads_it(value: object) -> None:
    assert plain_json(json.dumps(value)) == value
    assert plain_json(json.dumps(value).encode()) == value
