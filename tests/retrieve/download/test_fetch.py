"""A call of img2dataset from its start to its end, also where the program is missing, fails or does not end.

Programs of a few lines stand for img2dataset where it fails in ways that the real one does not show on demand.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from retrieve.download import fetch as fetching
from retrieve.download.fetch import Slice, fetch
from retrieve.download.gate import Gate
from retrieve.download.program import VERSION, command_of, environment_of, find_program
from retrieve.download.spec import DownloadSpec
from tests.support.img2dataset import started_by

URLS = ["http://example.org/1.jpg", "http://example.org/2.jpg"]


def program_of(folder: Path, script: str, version: str = VERSION) -> DownloadSpec:
    """A recipe's part with a shell script as its program, set up as an environment of Python is."""
    (folder / "bin").mkdir(parents=True)
    (folder / "lib" / "python3.11" / "site-packages" / f"img2dataset-{version}.dist-info").mkdir(parents=True)
    program = folder / "bin" / "img2dataset"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return DownloadSpec(program=program, timeout_s=1)


@pytest.fixture
def opened() -> Iterator[Gate]:
    with Gate(timeout_s=1, most_bytes=1000, threads=2) as one:
        yield one


def run(spec: DownloadSpec, opened: Gate, folder: Path, alive: object = lambda share: None) -> Slice:
    return fetch(URLS, spec, find_program(spec), opened, alive, folder / "logs")


def test_a_program_that_fails_is_named_with_its_last_words_and_its_log(opened, tmp_path):
    spec = program_of(tmp_path / "tool", "echo first; echo 'no module named cv2' >&2; exit 3")
    with pytest.raises(RuntimeError, match=r"ended with code 3 \(no module named cv2\); its output is in ") as caught:
        run(spec, opened, tmp_path)
    log = Path(str(caught.value).rpartition(" ")[2])
    assert log.parent == tmp_path / "logs"
    assert log.read_text() == "first\nno module named cv2\n"


def test_a_program_that_writes_too_little_is_not_taken_for_one_that_found_nothing(opened, tmp_path):
    with pytest.raises(RuntimeError, match="wrote 0 of 2 rows, as on a full disk"):
        run(program_of(tmp_path / "tool", "mkdir out"), opened, tmp_path)


def test_a_program_that_does_not_end_is_killed_with_all_it_started(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "deadline_s", lambda spec, num_urls: 0.6)
    spec = program_of(tmp_path / "tool", "echo begun; sleep 600 & sleep 600")
    with pytest.raises(RuntimeError, match=r"did not end within 1 s \(begun\)"):
        run(spec, opened, tmp_path)
    assert started_by(os.getpid()) == []


def test_a_program_that_asks_for_nothing_any_more_is_killed_before_its_deadline(opened, tmp_path, monkeypatch):
    """So is img2dataset whose worker the system has killed: it waits for that worker for ever."""
    monkeypatch.setattr(fetching, "START_S", 0.5)
    spec = program_of(tmp_path / "tool", "echo begun; sleep 600").model_copy(update={"timeout_s": 0.1})
    assert fetching.deadline_s(spec, 10_000) > 60
    with pytest.raises(RuntimeError, match=r"did nothing for 1 s \(begun\)"):
        run(spec, opened, tmp_path)
    assert started_by(os.getpid()) == []


def test_a_call_that_is_given_up_leaves_neither_process_nor_folder(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching.tempfile, "gettempdir", lambda: str(tmp_path))

    class Stop(Exception):
        pass

    def alive(share: float) -> None:
        assert len(list(tmp_path.glob("sixfold-download-*"))) == 1
        raise Stop

    began = time.monotonic()
    with pytest.raises(Stop):
        run(program_of(tmp_path / "tool", "sleep 600"), opened, tmp_path, alive)
    assert time.monotonic() - began < 20
    assert started_by(os.getpid()) == []
    assert list(tmp_path.glob("sixfold-download-*")) == []


def test_the_folder_of_a_killed_process_is_removed_by_the_next_and_that_of_a_living_one_stays(
    opened, tmp_path, monkeypatch
):
    monkeypatch.setattr(fetching.tempfile, "gettempdir", lambda: str(tmp_path))
    with fetching._scratch() as mine:
        pid, ticks = mine.name.split("-")[3:5]
        dead = mine.with_name(mine.name.replace(f"-{pid}-{ticks}-", f"-{pid}-{int(ticks) - 1}-"))
        elsewhere = mine.with_name("sixfold-download-0123456789ab-1-1-xyz")  # of another machine or container
        dead.mkdir()
        elsewhere.mkdir()
        with fetching._scratch() as other:
            assert sorted(tmp_path.glob("sixfold-download-*")) == sorted([mine, other, elsewhere])


@pytest.mark.parametrize(
    ("version", "said"), [("1.45.0", "found img2dataset 1.45.0, expected 1.47.0"), (None, "found no img2dataset")]
)
def test_a_program_that_is_missing_or_another_version_is_named_with_what_to_do(tmp_path, version, said):
    spec = DownloadSpec(program=tmp_path / "bin" / "img2dataset")
    if version is not None:
        spec = program_of(tmp_path, "exit 0", version)
    with pytest.raises(ValueError, match=said):
        find_program(spec)


def test_g12_the_program_knows_no_variable_of_the_user_but_certificates(tmp_path):
    known = {
        "HTTP_PROXY": "http://trap",
        "no_proxy": "*",
        "AWS_SECRET_ACCESS_KEY": "x",
        "SSL_CERT_FILE": "/certificates",
    }
    environment = environment_of("http://gate", tmp_path, known)
    assert {name for name, value in environment.items() if value == "http://gate"} == {
        *("http_proxy", "https_proxy", "ftp_proxy")
    }
    assert environment["SSL_CERT_FILE"] == "/certificates"
    assert not known.keys() - {"SSL_CERT_FILE"} & environment.keys()
    assert environment["HOME"] == str(tmp_path)


def test_the_password_of_the_gate_is_no_word_of_the_command(opened, tmp_path):
    """Any user of the machine can read the words of a command."""
    words = command_of(tmp_path / "img2dataset", DownloadSpec(), 10)
    assert not [word for word in words if opened._password in word or str(opened.port) in word]
