"""The event log: one line per event, no secrets, bounded, and never in the way of the work."""

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.fan_out.events import MAX_LINE, Event, EventLog, secrets_of

SECRET = "canary-5up3r-s3cret"
HOSTILE = [
    "two\nlines",
    "carriage\rreturn",
    "\x1b[31mred\x1b[0m",
    "nul\0byte",
    "%s %d %(name)s",
    "{0.__class__}",
    "${jndi:ldap://x}",
    "\u202etxt.exe",
    "lone \ud800 surrogate",
    '"},{"kind":"forged"}',
]


def lines_of(path: Path) -> list[dict[str, object]]:
    text = path.read_bytes()
    assert text.endswith(b"\n")
    return [json.loads(line) for line in text[:-1].split(b"\n")]


def log_to(path: Path, environ: dict[str, str] | None = None) -> EventLog:
    return EventLog(path, environ=environ or {}, wall=lambda: 1.8e9)


@pytest.mark.parametrize("text", HOSTILE)
def test_k2_whatever_is_in_a_message_its_record_stays_one_printable_line(tmp_path, text):
    with log_to(tmp_path / "log.jsonl") as log:
        log(Event(kind="warning", at_s=1.0, message=text, data={"prompt": text, text: 1}))
    (row,) = lines_of(tmp_path / "log.jsonl")
    assert row["kind"] == "warning"
    raw = (tmp_path / "log.jsonl").read_bytes()[:-1]
    assert all(32 <= byte < 127 for byte in raw), "control characters and everything beyond ASCII are escaped"
    expected = text.encode("utf-8", "backslashreplace").decode()
    if "://" not in text:
        assert row["message"] == expected


@settings(deadline=None)  # a loaded machine is no failure
@given(
    text=st.text(), value=st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5)
)
def test_k2_any_text_and_any_data_give_one_line_that_reads_back(tmp_path_factory, text, value):
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    with log_to(path) as log:
        log(Event(kind="unit_done", at_s=0.0, message=text, data={"value": value}))
    assert len(lines_of(path)) == 1


def test_k1_secrets_of_the_environment_and_of_urls_are_never_written(tmp_path):
    environ = {
        "HF_TOKEN": SECRET,
        "AWS_SECRET_ACCESS_KEY": SECRET + "/with+more",
        "DB_PASSWORD": "hunter2hunter2",
        "WANDB_API_KEY": "abcdefgh12345678",
        "TOKENIZERS_PARALLELISM": "true",
        "HOME": "/root",
    }
    texts = [
        f"401 for Bearer {SECRET}",
        f"{SECRET}/with+more and hunter2hunter2",
        "https://user:pass-word@host/x.tar failed",
        "GET https://bucket.s3.amazonaws.com/x.tar?X-Amz-Signature=deadbeefsig&X-Amz-Credential=me",
        "s3://key:abcdefgh12345678@bucket/x",
    ]
    with log_to(tmp_path / "log.jsonl", environ) as log:
        for text in texts:
            log(Event(kind="unit_failed", at_s=0.0, message=text, data={"nested": [{"error": text}]}))
    written = (tmp_path / "log.jsonl").read_text()
    for canary in (SECRET, "with+more", "hunter2", "abcdefgh12345678", "pass-word", "deadbeefsig"):
        assert canary not in written
    assert "host/x.tar failed" in written, "what is left can still be understood"
    assert "true" not in secrets_of(environ), "short values of innocent variables are kept"


def test_k4_repeated_errors_are_folded_and_lines_are_bounded(tmp_path):
    with log_to(tmp_path / "log.jsonl") as log:
        for image in range(100_000):
            log(Event(kind="unit_failed", at_s=0.0, unit=image, message=f"image {image}: found NaN"))
        log(Event(kind="unit_failed", at_s=0.0, message="x" * 10**6))
        log(Event(kind="unit_done", at_s=0.0, data={"names": ["y" * 1000] * 1000}))
    rows = lines_of(tmp_path / "log.jsonl")
    assert len(rows) < 40
    assert max(map(len, (tmp_path / "log.jsonl").read_bytes().split(b"\n"))) <= MAX_LINE
    assert "folded" in str(rows[-1]["message"])
    assert log.folded > 99_900


def test_different_errors_and_every_quarantined_unit_are_kept(tmp_path):
    with log_to(tmp_path / "log.jsonl") as log:
        for unit in range(50):
            log(Event(kind="unit_quarantined", at_s=0.0, unit=unit, message=f"unit {unit} failed 3 times"))
    assert len(lines_of(tmp_path / "log.jsonl")) == 50


def test_c3_a_log_is_appended_to_never_truncated(tmp_path):
    for life in range(3):
        with log_to(tmp_path / "log.jsonl") as log:
            log(Event(kind="run_started", at_s=0.0, message=f"life {life}"))
    assert [row["message"] for row in lines_of(tmp_path / "log.jsonl")] == ["life 0", "life 1", "life 2"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_k3_a_full_log_disk_stops_nothing_and_the_loss_is_told_when_there_is_room(tmp_path):
    path = tmp_path / "log.jsonl"
    path.symlink_to("/dev/full")
    with log_to(path) as log:
        for number in range(20):
            log(Event(kind="unit_done", at_s=float(number), unit=number))
        assert log.lost == 20
        path.unlink()
        log(Event(kind="unit_done", at_s=20.0, unit=20))
    rows = lines_of(path)
    assert "20 events were lost" in str(rows[0]["message"])
    assert rows[1]["unit"] == 20


def test_k3_a_log_that_cannot_be_opened_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with log_to(tmp_path / "file" / "log.jsonl") as log:
        log(Event(kind="warning", at_s=0.0, message="x"))
    assert log.lost == 1
    with pytest.raises(OSError) as caught:
        os.stat(tmp_path / "file" / "log.jsonl")
    assert caught.value.errno == errno.ENOTDIR


def test_progress_events_are_for_displays_only(tmp_path):
    with log_to(tmp_path / "log.jsonl") as log:
        log(Event(kind="unit_progress", at_s=0.0, done=3))
    assert not (tmp_path / "log.jsonl").exists()
