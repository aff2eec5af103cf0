"""The record: it alone means done, so nothing that is not exactly a record may pass for one."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.disk.record import FileStamp, Record, RecordError, parse_record, read_record
from shards.disk.store import open_store

STAMP = FileStamp(bytes=10_240, sha256="0" * 64)


def make_record(**changes: object) -> Record:
    fields = {
        "shard": 7,
        "attempt": "j1-0-3",
        "fingerprint": "ab" * 32,
        "tar": STAMP,
        "parquet": STAMP,
        "count": 5,
        "successes": 3,
        "slots": 4,
        "status_dict": {"success": 3, "blank": 2},
        "start_time": 100.0,
        "end_time": 130.5,
        "extra": {"device": "cpu", "versions": {"torch": "2.13.0"}, "text": "ü \u2028 \x00"},
        **changes,
    }
    return Record(**fields)  # type: ignore[arg-type]


def test_a_record_comes_back_as_it_was_written() -> None:
    record = make_record()
    assert parse_record(record.to_bytes(), 7, "here") == record
    assert record.short == 1
    assert record.duration == 30.5


def test_img2dataset_finds_its_keys_in_a_record() -> None:
    body = json.loads(make_record(status_dict={"success": 3, "failed_to_download": 2}).to_bytes())
    assert (body["count"], body["successes"], body["failed_to_download"], body["failed_to_resize"]) == (5, 3, 2, 0)
    assert body["duration"] == body["end_time"] - body["start_time"]
    assert body["status_dict"] == {"failed_to_download": 2, "success": 3}
    assert body["files"]["tar"] == {"bytes": 10_240, "sha256": "0" * 64}
    assert body["short"] == 1


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(max_examples=300, deadline=None)
def test_a9_a_record_with_any_bit_flipped_is_refused_or_means_the_same(at: int, bit: int) -> None:
    record = make_record()
    data = bytearray(record.to_bytes())
    data[at % len(data)] ^= 1 << bit
    with contextlib.suppress(RecordError):
        assert parse_record(bytes(data), 7, "here") == record  # a blank became a tab


@given(end=st.integers(0, 2000))
@settings(max_examples=200, deadline=None)
def test_a11_a_record_cut_anywhere_is_refused(end: int) -> None:
    data = make_record().to_bytes()
    cut = data[: end % (len(data) - 2)]
    with pytest.raises(RecordError) as caught:
        parse_record(cut, 7, "00007_stats.json")
    assert caught.value.kind == "damaged"


def altered(change: Callable[[dict[str, object]], object]) -> bytes:
    body = json.loads(make_record().to_bytes())
    change(body)
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "an empty file"),
        (bytes(4096), "an empty file"),
        (b"{", "no whole JSON"),
        (b"[]", "a JSON list"),
        (b"\xff\xfe", "no whole JSON"),
        (b'{"a": NaN}', "no whole JSON"),
        (b"[" * 100_000, "no whole JSON"),
        (b" " * (1 << 21), "at most"),
        (altered(lambda body: body.update(schema=0)), "found schema '0'"),
        (altered(lambda body: body.pop("schema")), "found schema 'none'"),
        (altered(lambda body: body.update(count=6)), "its own checksum"),
        (altered(lambda body: body.pop("checksum")), "its own checksum"),
        (altered(lambda body: body.update(added_later=1)), "its own checksum"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a11_what_is_no_record_of_this_schema_is_refused_in_one_line(data: bytes, message: str) -> None:
    with pytest.raises(RecordError, match=message) as caught:
        parse_record(data, 7, "out/00007_stats.json")
    assert str(caught.value).startswith("out/00007_stats.json: ")
    assert "\n" not in str(caught.value)


def test_a11_fields_that_a_later_version_adds_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    record = make_record()
    to_body = Record.to_body
    monkeypatch.setattr(Record, "to_body", lambda self: {**to_body(self), "added_later": [1, 2]})
    data = record.to_bytes()
    monkeypatch.undo()
    assert b"added_later" in data
    assert parse_record(data, 7, "here") == record


@pytest.mark.parametrize(
    "changes",
    [{"shard": -1}, {"count": 6}, {"successes": 2}, {"attempt": "../x"}, {"tar": FileStamp(bytes=-1, sha256="0" * 64)}],
    ids=str,
)
def test_a11_a_record_that_contradicts_itself_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(RecordError):
        parse_record(make_record(**changes).to_bytes(), 7, "here")


def test_a12_a_record_of_another_shard_is_refused() -> None:
    with pytest.raises(RecordError, match="record of shard 7, expected 8") as caught:
        parse_record(make_record().to_bytes(), 8, "here")
    assert caught.value.kind == "misplaced"


def test_what_json_cannot_carry_is_refused_when_a_record_is_written() -> None:
    for extra in ({"x": float("nan")}, {"x": float("inf")}, {"x": object()}):
        with pytest.raises((ValueError, TypeError)):
            make_record(extra=extra).to_bytes()


def test_a_shard_without_a_record_is_not_done(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert read_record(store, 0) is None
    store.write_exclusive("00000.tar", b"data")
    assert read_record(store, 0) is None
