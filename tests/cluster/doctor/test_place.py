"""The place of an output: space, what its store promises, its clock; whatever is tried there is removed."""

import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from cluster.doctor import place as room
from cluster.doctor.check import Check
from cluster.doctor.place import place
from shards.disk.store import FolderStore, ObjectStore
from tests.support.s3_server import s3_environment, s3_server


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture(params=["folder", "memory", "s3"])
def out(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "folder":
        return str(tmp_path / "new" / "out")
    if request.param == "memory":
        return f"memory://{tmp_path.name}/set"
    for name, value in s3_environment(request.getfixturevalue("s3")).items():
        monkeypatch.setenv(name, value)
    fsspec.config.conf.clear()
    bucket = f"bucket-{zlib.crc32(request.node.name.encode())}"
    fsspec.filesystem("s3").mkdir(bucket)
    return f"s3://{bucket}/set"


def checks(out: str, clock_ahead_s: float = 0.0, within_s: float = 60.0) -> dict[str, Check]:
    return {check.name: check for check in place(out, within_s, lambda: time.time() + clock_ahead_s)}


def left(out: str) -> list[str]:
    """All files at and above the place."""
    if "://" not in out:
        return [str(path) for path in Path(out).parents[1].rglob("*")]
    files = fsspec.url_to_fs(out)[0]
    files.invalidate_cache()
    return [str(name) for name in files.find(out.rpartition("/")[0])]


def test_a_good_place_has_every_promise_and_nothing_is_left_there(out: str) -> None:
    found = checks(out)
    assert {check.verdict for check in found.values()} == {"ok"}, found
    assert "exclusive create" in found["store"].found
    assert ("disk" in found, "inodes" in found) == ("://" not in out, "://" not in out)
    assert left(out) == []


@pytest.mark.parametrize(("ahead_s", "said"), [(3600.0, "60.0 min behind"), (-7300.0, "2.0 hours ahead of")])
def test_a_clock_that_differs_from_the_stores_is_noted(out: str, ahead_s: float, said: str) -> None:
    found = checks(out, ahead_s)["clock"]
    assert (found.verdict, said in found.found) == ("note", True), found
    assert "NTP" in found.advice


def test_a_minute_between_the_clocks_is_borne(out: str) -> None:
    assert checks(out, 50.0)["clock"].verdict == "ok"


@pytest.mark.parametrize(
    ("out", "said", "advice"),
    [
        ("ftp://host/set", "no exclusive create", "s3://"),
        ("nowhere://host/set", "nowhere://", "--out"),
    ],
)
def test_an_address_that_no_run_would_write_to_is_bad_for_the_same_reason(out: str, said: str, advice: str) -> None:
    [found] = checks(out).values()
    assert (found.verdict, said in found.found) == ("bad", True), found
    assert advice in found.advice


@pytest.mark.parametrize(
    ("method", "answer", "said"),
    [
        ("read_bytes", b"old", "read after write, read after replace"),
        ("list", [], "list after write"),
        ("exists", True, "removal"),
    ],
)
def test_a_store_that_breaks_a_promise_is_bad_and_it_is_named(
    method: str, answer: object, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FolderStore, method, lambda *arguments: answer)
    found = checks(str(tmp_path))["store"]
    assert (found.verdict, found.found) == ("bad", f"fails: {said}")


def test_a_folder_that_cannot_be_written_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(prefix: str, dir: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    found = checks(str(tmp_path))["store"]
    assert (found.verdict, found.found) == ("bad", f"{tmp_path}: cannot be written (Permission denied)")


def test_a_store_that_hangs_is_a_line_at_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(room, "open_store", lambda url: released.wait(30))
    began = time.monotonic()
    found = checks(str(tmp_path), within_s=0.3)["store"]
    assert time.monotonic() - began < 5
    assert (found.verdict, found.found) == ("bad", "no answer within 0 s")
    released.set()


def test_an_error_of_a_client_library_is_one_line_without_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: ObjectStore, name: str) -> list[str]:
        raise RuntimeError("denied\nfor https://me:secretsecret@host/x?token=abc")

    monkeypatch.setattr(ObjectStore, "list", fail)
    found = checks(f"memory://{tmp_path.name}/set")["store"]
    assert (found.verdict, found.found) == ("bad", "denied for https://host/x")
    assert left(f"memory://{tmp_path.name}/set") == []


def test_a_disk_with_room_for_few_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Told:
        f_files, f_favail, f_bavail, f_blocks, f_bfree, f_frsize = 100, 12, 10**9, 10**9, 10**9, 4096

    monkeypatch.setattr("os.statvfs", lambda path: Told)
    found = checks(str(tmp_path))["inodes"]
    assert (found.verdict, found.found) == ("bad", "12 files more fit")


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "afile").write_text("")
    for out in (tmp_path / "afile", tmp_path / "afile" / "x" / "y"):
        check = checks(str(out))["disk"]
        assert (check.verdict, check.advice) == ("bad", "give another folder as --out")
        assert f"{tmp_path / 'afile'} is a file" in check.found
