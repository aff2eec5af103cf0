"""A folder, S3, memory: one behaviour, and places that cannot keep it are refused with a line."""

import errno
import io
import os
import re
import shlex
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from shards.disk.layout import checked_name, record_name, tar_name
from shards.disk.object_store import ObjectStore
from shards.disk.record import read_record
from shards.disk.store import (
    FolderStore,
    local_root,
    open_for_reading,
    open_store,
)
from shards.set import object_commit
from shards.set.commit import recover, settle
from shards.set.manifest import read_member, read_table, scan_records
from shards.set.object_commit import ObjectAttempt
from shards.set.repair import repair
from shards.set.verify import verify
from shards.set.writer import ShardWriter
from tests.support.faulty_disk import FaultyDisk
from tests.support.s3_server import s3_environment, s3_server
from tests.support.shard_rows import FINGERPRINT, fill, write_shard


@pytest.fixture(scope="module")
def s3_address() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def s3_url(s3_address: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    for name, value in s3_environment(s3_address).items():
        monkeypatch.setenv(name, value)
    fsspec.config.conf.clear()
    bucket = f"bucket-{zlib.crc32(request.node.name.encode())}"
    fsspec.filesystem("s3").mkdir(bucket)
    return f"s3://{bucket}/data"


@pytest.fixture(params=["folder", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "out")
    if request.param == "memory":
        return f"memory://{tmp_path.name}"
    address: str = request.getfixturevalue("s3_url")
    return address


def test_a_store_reads_what_was_written_and_creates_exclusively(url: str) -> None:
    store = open_store(url)
    assert store.write_exclusive("a/b.json", b"one")
    assert not store.write_exclusive("a/b.json", b"two")
    assert store.read_bytes("a/b.json") == b"one"
    assert store.read_range("a/b.json", 1, 2) == b"ne"
    assert store.read_range("a/b.json", 2, 10) == b"e"
    assert store.size("a/b.json") == 3
    assert store.exists("a/b.json")
    assert not store.exists("a/c.json")
    with pytest.raises(FileNotFoundError):
        store.read_bytes("a/c.json")
    before = store.stamps("a/")
    store.replace("a/b.json", b"three")
    assert store.read_bytes("a/b.json") == b"three"
    assert store.stamps("a/")["a/b.json"][0] == 5
    assert store.stamps("a/") != before
    store.write_exclusive("a/a.json", b"")
    assert store.list("a/") == ["a/a.json", "a/b.json"]
    assert store.list() == []
    assert store.list("nowhere/") == []
    store.move("a/b.json", "c/d.json")
    assert store.list("a/") == ["a/a.json"]
    assert store.read_bytes("c/d.json") == b"three"
    with pytest.raises(FileNotFoundError):
        store.move("a/b.json", "c/e.json")
    store.delete("c/d.json")
    store.delete("c/d.json")
    assert not store.exists("c/d.json")


def test_shards_are_written_read_verified_and_repaired_alike_everywhere(url: str) -> None:
    store = open_store(url)
    for shard in range(2):
        record = write_shard(store, shard)
        assert record.attempt == "first"
        assert write_shard(store, shard, "second", salt="other bytes") == record, "the winner's record comes back"
    records = scan_records(store, FINGERPRINT)
    assert sorted(records) == [0, 1]
    rows = read_table(store, records).to_pylist()
    assert len(rows) == 10
    assert read_member(store, rows[0], "txt").decode() == rows[0]["caption"]
    assert verify(store).damages == ()
    data = bytearray(store.read_bytes(tar_name(1)))
    data[2000] ^= 1
    store.replace(tar_name(1), bytes(data))
    assert verify(store).damaged_shards() == [1]
    assert list(repair(store, verify(store))) == [1]
    assert sorted(scan_records(store)) == [0]
    assert settle(store, 1) is None
    write_shard(store, 1, "third")
    assert verify(store).damages == ()
    assert recover(store).finished == ()
    assert sorted(scan_records(open_for_reading(url))) == [0, 1]


def test_shards_under_an_s3_address_with_empty_parts_are_found_again(s3_url: str) -> None:
    write_shard(open_store(s3_url.replace("/data", "//data/")), 0)
    for spelling in (s3_url, f"{s3_url}//", s3_url.replace("/data", "///data")):
        store = open_for_reading(spelling)
        assert store.url == s3_url
        assert sorted(scan_records(store)) == [0]
        assert verify(store).damages == ()


def test_a19_k1_a_bucket_that_cannot_be_written_is_refused_in_one_line(s3_url: str) -> None:
    with pytest.raises(ValueError, match=r"^s3://no-such-bucket/x: cannot be written \(.*bucket.*\)") as caught:
        open_store("s3://no-such-bucket/x")
    assert "\n" not in str(caught.value)


def test_a_bucket_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systems = pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    systems.S3FileSystem.clear_instance_cache()
    with pytest.raises(ValueError, match=r"^s3://bucket/x: cannot be read \(.*\); check the address and the") as caught:
        open_for_reading("s3://bucket/x")
    assert "\n" not in str(caught.value)


# --- object stores that misbehave -------------------------------------------------------------------------------------


class FakeObjects(MemoryFileSystem):
    """An object store in memory whose put can fail in the ways real ones do; `script` holds the next outcomes."""

    protocol = "fake"
    cachable = False

    def __init__(self, conditional: bool = True, stale_listing: bool = False) -> None:
        super().__init__()
        self.store: dict[str, Any] = {}
        self.pseudo_dirs = [""]
        self.conditional, self.stale_listing = conditional, stale_listing
        self.script: list[str] = []
        self.puts: list[str] = []

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self.puts.append(path)
        outcome = self.script.pop(0) if self.script else "ok"
        if outcome == "time-out before":
            raise TimeoutError("read time-out")
        if outcome == "conflict":
            raise OSError(errno.EBUSY, "ConditionalRequestConflict (409)")
        super().pipe_file(path, value, mode=mode if self.conditional else "overwrite")
        if outcome == "time-out after":
            raise TimeoutError("read time-out at s3://user:SECRET@host/x?X-Amz-Signature=SECRET")

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        return [] if self.stale_listing else super().ls(path, detail=detail, **kwargs)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def objects(fs: FakeObjects, single_writer: bool = False) -> ObjectStore:
    return ObjectStore(fs, "/data", "fake://data", single_writer)


@pytest.mark.parametrize("outcome", ["time-out before", "time-out after", "conflict"])
def test_a21_at_any_put_a_time_out_or_conflict_is_settled_by_what_is_stored(outcome: str) -> None:
    """412 = done by another, 409 = try again, time-out = look and compare; for every put of a commit in turn."""
    reference = FakeObjects()
    write_shard(objects(reference), 0)
    for at in range(len(reference.puts)):
        fs = FakeObjects()
        fs.script = ["ok"] * at + [outcome]
        record = write_shard(objects(fs), 0)
        assert record == read_record(objects(fs), 0)
        assert verify(objects(fs)).damages == ()
        assert {path: file.getvalue() for path, file in fs.store.items()} == {
            path: file.getvalue() for path, file in reference.store.items()
        }, "no claim is left and the bytes are the same"


def test_a21_a_put_that_never_gets_through_is_an_error_without_secrets() -> None:
    fs = FakeObjects()
    store = objects(fs)
    fs.script = ["time-out before"] * 50
    with pytest.raises(OSError, match=r"fake://data/.*: could not be written in 4 tries \(read time-out\)"):
        write_shard(store, 0)
    assert settle(store, 0) is None
    fs.script = []
    write_shard(store, 0, "again")
    assert verify(store).damages == ()


def test_a21_an_attempt_that_died_at_any_put_is_taken_over_by_one_with_other_bytes() -> None:
    """No lock tells the dead from the slow here, so the next attempt waits (not in tests), then takes over."""

    class Died(BaseException):
        pass

    class DyingObjects(FakeObjects):
        lives = 10**6

        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
            if len(self.puts) >= self.lives:
                raise Died
            super().pipe_file(path, value, mode, **kwargs)

    for lives in range(4):
        for salt in ("", "another device"):
            fs = DyingObjects()
            fs.lives = lives
            with pytest.raises(Died):
                write_shard(objects(fs), 0, "dies")
            fs.lives = 10**6
            assert verify(objects(fs)).damages == () or {d.kind for d in verify(objects(fs)).damages} == {"unpublished"}
            store = objects(fs)
            finished = recover(store).finished
            assert finished == ((0,) if lives == 3 else ()), "whole data under a claim is published at the next start"
            if settle(store, 0) is None:
                attempt = PatientAttempt(store)
                assert attempt.record.shard == 0
            assert verify(store).damages == (), (lives, salt)
            recover(store)
            assert store.list("_meta/claims/") == []


def test_a21_a_tar_larger_than_a_file_of_unknown_size_may_be_is_finished_and_taken_over_like_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A gibibyte, lowered here: what an object should be says how much of it is read."""
    reference = FakeObjects()
    tar = write_shard(objects(reference), 0).tar.bytes
    monkeypatch.setattr(ObjectStore.read_bytes, "__defaults__", (tar - 1,))
    with pytest.raises(OSError, match="found more than"):
        objects(reference).read_bytes("00000.tar")
    test_a21_an_attempt_that_died_at_any_put_is_taken_over_by_one_with_other_bytes()
    store = objects(reference)
    assert store.write_exclusive("00000.tar", store.read_bytes("00000.tar", tar)), "the answer was lost: it is there"
    assert not store.write_exclusive("00000.tar", b"other")
    assert not store.write_exclusive("00000.tar", b"x" * tar)


class PatientAttempt:
    """A full attempt whose patience is a moment instead of a minute."""

    def __init__(self, store: ObjectStore, salt: str = "other", attempt: str = "next") -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ObjectAttempt.__init__, "__defaults__", (0.01,))
            self.record = write_shard(store, 0, attempt, salt=salt)


def test_a21_a_late_attempt_cannot_overwrite_the_one_that_took_over() -> None:
    """The first claims, puts its tar and sleeps; a second takes over and publishes; the first wakes up."""
    fs = FakeObjects()
    store = objects(fs)

    class SleepyStore(ObjectStore):
        def write_exclusive(self, name: str, data: bytes) -> bool:
            done = super().write_exclusive(name, data)
            if name == tar_name(0):
                winner.append(PatientAttempt(store).record)
            return done

    winner: list[Any] = []
    record = write_shard(SleepyStore(fs, "/data", "fake://data", False), 0, "sleepy")
    assert record == winner[0] == read_record(store, 0)
    assert record.attempt == "next"
    assert verify(store).damages == ()
    recover(store)
    assert store.list("_meta/claims/") == []


@pytest.mark.parametrize("ours", ["third", "new"])
def test_a21_of_several_dead_claims_the_newest_alone_is_waited_for(ours: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that waited for each would be taken for one that hangs. `ours`: with the bytes of an old claim, too."""
    store = objects(FakeObjects())
    for generation, salt in enumerate(("third", "second", "first")):
        dead = write_shard(objects(FakeObjects()), 0, f"dead-{generation}", salt=salt)
        store.write_exclusive(f"_meta/claims/00000.g{generation}.json", dead.to_bytes())
    waited: list[float] = []
    monkeypatch.setattr(
        "shards.set.object_commit.time", SimpleNamespace(sleep=waited.append, monotonic=lambda: sum(waited))
    )
    assert write_shard(store, 0, "next", salt=ours).attempt == "next"
    assert object_commit.PATIENCE_S <= sum(waited) < object_commit.PATIENCE_S + 2
    assert verify(store).damages == ()
    assert store.list("_meta/claims/") == []


def test_a22_a_store_without_conditional_put_is_refused_or_single_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = FakeObjects(conditional=False)
    monkeypatch.setattr("fsspec.url_to_fs", lambda url, **options: (fs, "/data"))
    with pytest.raises(ValueError, match="two exclusive writes of one name both succeeded"):
        open_store("s3://bucket/data")
    store = open_store("s3://bucket/data", single_writer=True)
    write_shard(store, 0)
    assert write_shard(store, 0, "again", salt="other").attempt == "first"
    assert verify(store).damages == ()


def test_a22_a_system_whose_exclusive_create_is_not_known_is_refused_or_single_writer() -> None:
    with pytest.raises(ValueError, match="ftp:// has no exclusive create that was tested"):
        open_store("ftp://host/x")


def test_a22_a_stale_listing_never_decides() -> None:
    """The listing does not show the shard that is there: the unit is made again, and the put tells the truth."""
    fs = FakeObjects()
    first = write_shard(objects(fs), 0)
    fs.stale_listing = True
    store = objects(fs)
    assert scan_records(store) == {}
    assert settle(store, 0) == first
    assert write_shard(store, 0, "again", salt="other") == first


def test_two_attempts_with_the_same_bytes_help_each_other() -> None:
    fs = FakeObjects()
    store = objects(fs)
    with ShardWriter(store, 0, "first", FINGERPRINT) as writer:
        fill(writer, 0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(object_commit, "_put_record", lambda store, record: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                writer.commit(100.0, 101.5, {})
    record = write_shard(store, 0, "second")
    assert record.attempt == "first", "the claim named it, the bytes are the same, the second published for it"
    assert verify(store).damages == ()


# --- folders that cannot be used --------------------------------------------------------------------------------------


def test_a19_a_place_that_is_no_usable_folder_is_refused_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    cases = {
        str(file): "found a file, expected a folder",
        str(file / "below"): "cannot be written",
        str(dangling): "a link that leads nowhere",
        "/proc/sixfold": "cannot be written",
        str(tmp_path / ("x" * 300)): "cannot be written",
    }
    for url, message in cases.items():
        with pytest.raises(ValueError, match=message) as caught:
            open_store(url)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="found no folder"):
        open_for_reading(str(tmp_path / "nowhere"))


def test_a19_a_read_only_folder_is_refused_at_the_start(tmp_path: Path) -> None:
    for at in range(30):
        disk = FaultyDisk(at, "EROFS")
        refusal = refused(str(tmp_path), disk)
        if not disk.fired:
            break
        assert "cannot be written (Read-only file system)" in refusal
    assert at > 3
    assert refusal == ""


def refused(url: str, disk: FaultyDisk) -> str:
    try:
        open_store(url, disk=disk)
    except ValueError as error:
        return str(error)
    return ""


def test_a19_meta_on_another_device_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: a mount at `_meta`. A link is refused as a link, wherever it leads."""
    real = Path.stat

    def stat(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        found = real(path, follow_symlinks=follow_symlinks)
        is_mount = "_meta" in path.parts
        return os.stat_result((*found[:2], found.st_dev + 1, *found[3:])) if is_mount else found

    with monkeypatch.context() as mounted:
        mounted.setattr(Path, "stat", stat)
        with pytest.raises(ValueError, match="another device"):
            open_store(str(tmp_path))
    shutil.rmtree(tmp_path / "_meta")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "_meta").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="found a link, expected a folder of the data set"):
        open_store(str(tmp_path))
    assert not list((tmp_path / "elsewhere").iterdir())


class NoLinks(FaultyDisk):
    """A mount that has no hard links (some FUSE and SMB file systems)."""

    def __init__(self) -> None:
        super().__init__(-1, "none")

    def link(self, source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")


def test_a20_without_hard_links_a_folder_is_refused_or_single_writer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no hard links"):
        open_store(str(tmp_path), disk=NoLinks())
    store = open_store(str(tmp_path), single_writer=True, disk=NoLinks())
    first = write_shard(store, 0)
    assert write_shard(store, 0, "again", salt="other") == first
    (tmp_path / record_name(0)).unlink()
    assert write_shard(store, 0, "anew", salt="other").attempt == "anew", "debris is replaced"
    assert verify(store).damages == ()
    assert isinstance(store, FolderStore)
    assert recover(store).collected == ()


def test_a20_a_link_that_reports_failure_but_was_made_counts_as_made(tmp_path: Path) -> None:
    disk = FaultyDisk(-1, "none")
    store = FolderStore(tmp_path, disk=disk)
    (tmp_path / "_meta/tmp").mkdir(parents=True)
    disk.at, disk.action = len(disk.calls) + 3, "lost answer"  # create, write, fsync, link
    assert store.write_exclusive("a.json", b"x")
    assert disk.calls[3] == "link"
    assert store.read_bytes("a.json") == b"x"


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "pipe:rm -rf x",
        "-",
        "",
        "out/{000000..999999999}",
        "s3://b/{0..9}.tar",
        "simplecache::s3://b/x",
        "out/*.tar",
        "a\0b",
    ],
)
def test_h6_pipes_patterns_and_chains_are_no_data_set(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOPEN_REWRITE", "s3://=pipe:touch canary ")
    for opened in (open_store, open_for_reading):
        with pytest.raises(ValueError, match="expected one folder or one address"):
            opened(url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["{}", "file://{}", "local://{}"])
def test_a_folder_is_one_place_however_it_is_addressed(tmp_path: Path, address: str) -> None:
    url = address.format(tmp_path / "out")
    assert local_root(url) == tmp_path / "out"
    for store in (open_store(url), open_for_reading(url)):
        assert isinstance(store, FolderStore)
        assert store.root == tmp_path / "out"


def test_what_lies_in_an_object_store_is_no_folder() -> None:
    assert local_root("s3://bucket/out") is None
    assert local_root("memory://out") is None
    with pytest.raises(ValueError, match="unknown system 'nothing'"):
        local_root("nothing://out")


def test_an_unknown_system_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown system 'gopher'"):
        open_store("gopher://x/y")


@pytest.mark.parametrize(
    ("url", "install"), [("s3://bucket/one", "sixfold[s3]"), ("gs://bucket/one", "uv pip install gcsfs")]
)
def test_a_missing_client_of_a_store_is_named_with_what_installs_it(
    url: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*args: object, **settings: object) -> None:
        raise ImportError("Please install its client to access this")

    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    with pytest.raises(ValueError, match=re.escape(install)):
        open_for_reading(url)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../b", "", ".", "..", "a//b", "a\\b", "a b", "ä", "x" * 201, "a/", "a\n"]
)
def test_h2_a_name_never_leaves_the_folder(name: str, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "out"))
    for call in (checked_name, store.read_bytes, store.exists, store.delete, lambda n: store.write_exclusive(n, b"")):
        with pytest.raises(ValueError, match="file name"):
            call(name)


def test_k1_an_address_that_fails_to_open_is_named_without_its_secrets() -> None:
    for url in (
        "gopher://key:CANARY@host/x?sig=CANARY",
        "ftp://key:CANARY@host/x",
        "s3://key:CANARY@bucket/{x}?s=CANARY",
    ):
        with pytest.raises(ValueError) as caught:
            open_store(url)
        assert "CANARY" not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None, "--debug shows no secret either"


def test_nothing_is_printed_when_a_store_is_used(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_shard(open_store(str(tmp_path)), 0)
    assert capfd.readouterr() == ("", "")
    assert io.StringIO().getvalue() == ""


def test_a_missing_real_set_of_the_sandbox_is_told_what_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Python that runs sixfold has the program, also after an installation; `python` may be another."""
    missing = tmp_path / "a b" / "real" / "real-test"
    with pytest.raises(ValueError) as caught:
        open_for_reading(str(missing))
    program = str(caught.value).rpartition("make them with `")[2].removesuffix("`")
    words = shlex.split(program)
    assert words[1:] == ["-m", "sandbox.build", "--data", str(missing.parent)]
    assert Path(shutil.which(words[0]) or "none").samefile(sys.executable)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    monkeypatch.setattr(sys, "executable", str(Path(sys.executable).parent / "python"))
    with pytest.raises(ValueError, match=r"make them with `python -m sandbox\.build --data "):
        open_for_reading(str(missing))
    with pytest.raises(ValueError, match="make one with `sixfold generate`"):
        open_for_reading(str(tmp_path / "out"))
