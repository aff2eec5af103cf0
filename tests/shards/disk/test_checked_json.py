"""A JSON file that carries a hash of itself is whole or refused."""

import contextlib
import json

import pytest

from shards.disk.checked_json import CHECKSUM, parse_checked, to_checked

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
