"""The commit protocol under every fault we could think of: done once, or not done; never half, never twice."""

import contextlib
import errno
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shards.disk.file_calls import OS_DISK
from shards.disk.home import home
from shards.disk.layout import record_name, table_name, tar_name
from shards.disk.record import RecordError, read_record
from shards.disk.store import FolderStore, open_store
from shards.set.commit import CommitError, begin, recover, settle
from shards.set.manifest import scan_records
from shards.set.repair import repair
from shards.set.verify import verify
from shards.set.writer import ShardWriter
from tests.support.faulty_disk import ACTIONS, FaultyDisk, Killed
from tests.support.shard_rows import FINGERPRINT, fill, leftovers, published, write_shard

SEED = int(os.environ.get("SIXFOLD_TEST_SEED", "20261121"))


def folder(path: Path, disk: object = OS_DISK) -> FolderStore:
    (path / "_meta/tmp").mkdir(parents=True, exist_ok=True)
    (path / "_meta/claims").mkdir(exist_ok=True)
    return FolderStore(path, disk=disk)  # type: ignore[arg-type]


def redo(path: Path, shard: int = 0, attempt: str = "again", salt: str = "", same_run: bool = False) -> None:
    """What the next try does: the next run recovers first; then the unit is made if it is not done."""
    store = folder(path)
    if not same_run:
        recover(store)
    if settle(store, shard) is None:
        write_shard(store, shard, attempt, salt=salt)


def assert_done_once(path: Path, reference: dict[str, str]) -> None:
    assert published(path) == reference
    assert verify(folder(path)).damages == ()
    recover(folder(path))
    assert leftovers(path) == []


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("reference")
    write_shard(folder(path), 0)
    return published(path)


def run_with_fault(path: Path, at: int, action: str) -> tuple[FaultyDisk, BaseException | None]:
    disk = FaultyDisk(at, action)
    try:
        write_shard(folder(path, disk), 0)
    except (CommitError, Killed) as error:
        return disk, error
    return disk, None


@pytest.mark.parametrize("action", ACTIONS)
def test_a2_a3_a4_a6_a20_any_call_of_the_commit_path_may_fail_and_the_unit_is_done_once(
    tmp_path: Path, reference: dict[str, str], action: str
) -> None:
    """SQLite's way: fail the n-th call for n = 0, 1, 2, ... until a run passes untouched."""
    for at in range(200):
        path = tmp_path / str(at)
        path.mkdir()
        disk, error = run_with_fault(path, at, action)
        if not disk.fired:
            assert error is None
            break
        call = disk.calls[at]
        if isinstance(error, CommitError):
            assert "shard 0" in str(error)
            assert str(path) in str(error)
            assert "\n" not in str(error)
            if call == "fsync":
                assert "fsync" not in disk.calls[at + 1 :], "an fsync that failed is never repeated"
        # what readers see at once: nothing, debris without a record, or the whole shard
        kinds = {damage.kind for damage in verify(folder(path)).damages}
        assert kinds <= {"unpublished"}, f"{action} at call {at} ({call}): {kinds}"
        if error is None:
            assert settle(folder(path), 0) is not None
        redo(path, same_run=at % 2 == 1)
        assert_done_once(path, reference)
    else:
        raise AssertionError("no run passed untouched")
    assert at > 15, f"only {at} calls went through the seam"


def test_a2_a_helper_may_die_at_any_call_while_it_finishes_for_a_dead_winner(
    tmp_path: Path, reference: dict[str, str]
) -> None:
    claimed_at = claim_call(tmp_path / "calls")
    for action in ("kill before", "kill after", "EIO"):
        for at in range(100):
            path = tmp_path / f"{action} {at}"
            path.mkdir()
            run_with_fault(path, claimed_at, "kill after")
            disk = FaultyDisk(at, action)
            with contextlib.suppress(OSError, Killed):
                recover(folder(path, disk))
            kinds = {damage.kind for damage in verify(folder(path)).damages}
            assert kinds <= {"unpublished"}
            redo(path, salt="another device")
            assert_done_once(path, reference)
            if not disk.fired:
                break
        assert at > 5


def claim_call(path: Path) -> int:
    """The number of the call that links the claim: the first link of an undisturbed commit."""
    path.mkdir()
    disk, _ = run_with_fault(path, -1, "none")
    return disk.calls.index("link")


def test_a4_a_write_that_was_cut_short_unnoticed_is_found_before_anything_is_published(tmp_path: Path) -> None:
    disk, _ = run_with_fault(tmp_path, -1, "none")
    writes = [at for at, call in enumerate(disk.calls) if call == "write"]
    for at in writes:
        path = tmp_path / str(at)
        path.mkdir()
        _, error = run_with_fault(path, at, "half, not said")
        assert isinstance(error, CommitError)
        assert "cut short" in str(error)
        assert published(path) == {}


def test_a5_a_file_size_limit_at_any_offset_fails_the_attempt_and_the_next_one_completes(tmp_path: Path) -> None:
    """RLIMIT_FSIZE with SIGXFSZ ignored: write(2) answers EFBIG, as a full disk answers ENOSPC."""
    path = tmp_path / "whole"
    path.mkdir()
    size = write_shard(folder(path), 0).tar.bytes
    whole = published(path)
    rng = random.Random(SEED)
    print("seed", SEED)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for n in range(100):
            path = tmp_path / str(n)
            path.mkdir()
            resource.setrlimit(resource.RLIMIT_FSIZE, (rng.randrange(size), hard))
            try:
                with pytest.raises(CommitError, match="too large"):
                    write_shard(folder(path), 0)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert published(path) == {}
            assert leftovers(path) == [], "the temporaries are gone, so the space is free again"
            redo(path)
            assert_done_once(path, whole)
    finally:
        signal.signal(signal.SIGXFSZ, handler)


def test_a5_a_full_disk_fails_the_attempt_and_the_next_one_completes(tmp_path: Path) -> None:
    """A real file system of 1 MiB that is really full (needs root to mount)."""
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)]
    made = subprocess.run(command, capture_output=True, timeout=20)
    if made.returncode != 0:
        pytest.skip("mounting a tmpfs needs root")
    try:
        store = folder(mount)
        ballast = mount / "ballast"
        fd = os.open(ballast, os.O_CREAT | os.O_WRONLY)
        with contextlib.suppress(OSError):
            while os.write(fd, bytes(4096)):
                pass
        os.close(fd)
        with pytest.raises(CommitError, match="No space left"):
            write_shard(store, 0)
        assert leftovers(mount) == []
        ballast.unlink()
        redo(mount)
        assert verify(store).damages == ()
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True, timeout=20)


@pytest.mark.parametrize("size", [0, 1, 511, 10_239])
@pytest.mark.parametrize("name", [tar_name(0), table_name(0)])
def test_a7_a_published_file_that_lost_its_data_is_put_aside_and_made_again(
    tmp_path: Path, reference: dict[str, str], name: str, size: int
) -> None:
    """Power loss: the names survived, the data did not."""
    write_shard(folder(tmp_path), 0)
    os.truncate(tmp_path / name, min(size, (tmp_path / name).stat().st_size - 1))
    assert {damage.kind for damage in verify(folder(tmp_path)).damages} & {"size"}
    with pytest.raises(ValueError, match=f"{name}: found"):
        scan_records(folder(tmp_path))
    assert recover(folder(tmp_path)).set_aside == (0,)
    redo(tmp_path)
    assert published(tmp_path) == reference


def test_a10_a_record_without_its_tar_is_put_aside_and_made_again(tmp_path: Path, reference: dict[str, str]) -> None:
    write_shard(folder(tmp_path), 0)
    (tmp_path / tar_name(0)).unlink()
    assert [damage.kind for damage in verify(folder(tmp_path)).damages] == ["file"]
    redo(tmp_path)
    assert published(tmp_path) == reference


def test_a10_a_tar_without_its_record_is_not_done_and_is_replaced(tmp_path: Path, reference: dict[str, str]) -> None:
    write_shard(folder(tmp_path), 0, salt="another device")
    (tmp_path / record_name(0)).unlink()
    assert [damage.kind for damage in verify(folder(tmp_path)).damages] == ["unpublished"]
    assert scan_records(folder(tmp_path)) == {}
    redo(tmp_path)
    assert_done_once(tmp_path, reference)


def test_a12_the_record_of_shard_7_under_the_name_of_shard_8_is_refused(tmp_path: Path) -> None:
    store = folder(tmp_path)
    write_shard(store, 7)
    for name, copy in ((tar_name(7), tar_name(8)), (table_name(7), table_name(8)), (record_name(7), record_name(8))):
        (tmp_path / copy).write_bytes((tmp_path / name).read_bytes())
    with pytest.raises(RecordError, match="record of shard 7, expected 8"):
        read_record(store, 8)
    with pytest.raises(RecordError, match="repair"):
        scan_records(store)
    assert 8 in verify(store).damaged_shards()
    assert recover(store).set_aside == (8,)
    assert list(scan_records(store)) == [7]


def test_a14_a_stale_attempt_that_wakes_up_changes_nothing(tmp_path: Path) -> None:
    run_children("zombies", tmp_path, 5)


@pytest.mark.torture
def test_a14_fifty_stale_attempts_change_nothing(tmp_path: Path) -> None:
    run_children("zombies", tmp_path, 50)


def test_a1_killed_at_random_moments_every_unit_is_done_once_with_the_same_bytes(tmp_path: Path) -> None:
    run_children("kills", tmp_path, 60)


@pytest.mark.torture
def test_a1_a_thousand_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    run_children("kills", tmp_path, 1000)


def test_a13_of_two_attempts_at_once_exactly_one_wins_and_both_know_it(tmp_path: Path) -> None:
    run_children("races", tmp_path, 100)


@pytest.mark.torture
def test_a13_a_thousand_races_have_a_thousand_winners(tmp_path: Path) -> None:
    run_children("races", tmp_path, 1000)


def test_a27_a_thousand_units_need_no_more_descriptors_than_one(tmp_path: Path) -> None:
    run_children("descriptors", tmp_path, 150)


def run_children(mode: str, path: Path, times: int) -> None:
    print("seed", SEED)
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.shard_children", mode, str(path), str(times), str(SEED)],
        cwd=home(),
        capture_output=True,
        text=True,
        timeout=1800,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr


def test_a27_out_of_descriptors_is_a_clean_failure(tmp_path: Path, reference: dict[str, str]) -> None:
    store = folder(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 8, hard))
    try:
        while True:
            try:
                held.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        with pytest.raises(CommitError, match="Too many open files"):
            write_shard(store, 0)
        os.close(held.pop())
        # one descriptor is enough to begin and not enough to commit
        with pytest.raises(CommitError, match="Too many open files"):
            write_shard(store, 0, "second")
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert published(tmp_path) == {}
    redo(tmp_path)
    assert_done_once(tmp_path, reference)


def test_a15_the_temporaries_of_a_live_attempt_are_never_collected_those_of_a_dead_one_always(tmp_path: Path) -> None:
    store = folder(tmp_path)
    with ShardWriter(store, 0, "alive", FINGERPRINT) as writer:
        fill(writer, 0)
        (tmp_path / "_meta/tmp/00001.dead.tar").write_bytes(b"half")
        (tmp_path / "_meta/tmp/00001.dead.parquet").write_bytes(b"half")
        (tmp_path / "_meta/tmp/00002.tarless.json").write_bytes(b"half")
        recovered = recover(store)
        assert recovered.alive == ("_meta/tmp/00000.alive.tar",)
        assert sorted(name.rpartition("/")[2] for name in recovered.collected) == [
            "00001.dead.parquet",
            "00001.dead.tar",
            "00002.tarless.json",
        ]
        writer.commit(0.0, 1.0, {})
    assert leftovers(tmp_path) == []
    assert verify(store).damages == ()


def test_a15_where_locks_do_not_work_only_a_day_old_temporary_is_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    store = folder(tmp_path)
    temp = tmp_path / "_meta/tmp/00001.unknown.tar"
    temp.write_bytes(b"half")
    (tmp_path / "_meta/tmp/probe.0123.part").write_bytes(b"")
    now_s = temp.stat().st_mtime
    assert recover(store, now_s + 3600).collected == ()
    assert sorted(recover(store, now_s + 25 * 3600).collected) == [
        "_meta/tmp/00001.unknown.tar",
        "_meta/tmp/probe.0123.part",
    ]


def test_a15_an_attempt_whose_temporaries_were_taken_away_fails_cleanly(tmp_path: Path) -> None:
    """What would happen if a collector were wrong: lost work, never a wrong shard."""
    store = folder(tmp_path)
    with ShardWriter(store, 0, "robbed", FINGERPRINT) as writer:
        fill(writer, 0)
        (tmp_path / "_meta/tmp/00000.robbed.tar").unlink()
        with pytest.raises(CommitError, match="void"):
            writer.commit(0.0, 1.0, {})
    assert published(tmp_path) == {}


def test_a16_a_record_of_another_run_is_never_counted_as_done(tmp_path: Path) -> None:
    store = folder(tmp_path)
    write_shard(store, 0)
    write_shard(store, 1, fingerprint="cd" * 32)
    with pytest.raises(ValueError, match=r"1 of 2 shards were made by another recipe \(fingerprint cdcdcd"):
        scan_records(store, FINGERPRINT)
    with pytest.raises(ValueError, match="shard 1 was made by another recipe"):
        write_shard(store, 1, "again")
    with pytest.raises(ValueError, match=r"found shards of 2 runs .*, and nothing says which one is right"):
        scan_records(store)


def test_a25_a_shard_may_be_partly_filled_but_is_never_empty_unless_asked(tmp_path: Path) -> None:
    store = folder(tmp_path)
    with ShardWriter(store, 0, "short", FINGERPRINT) as writer:
        fill(writer, 0, num_samples=1, num_rejected=3)
        record = writer.commit(0.0, 1.0, {}, slots=4)
    assert (record.successes, record.short, record.count) == (1, 3, 4)
    with ShardWriter(store, 1, "none", FINGERPRINT) as writer:
        fill(writer, 1, num_samples=0, num_rejected=2)
        with pytest.raises(ValueError, match=r"no sample succeeded \(blank 2\); nothing was published"):
            writer.commit(0.0, 1.0, {}, slots=2)
    assert read_record(store, 1) is None
    with ShardWriter(store, 1, "asked", FINGERPRINT) as writer:
        fill(writer, 1, num_samples=0, num_rejected=2)
        record = writer.commit(0.0, 1.0, {}, slots=2, allow_empty=True)
    assert (record.successes, record.short, record.count) == (0, 2, 2)
    assert verify(store).damages == ()
    assert leftovers(tmp_path) == []


def test_a25_no_unit_at_all_is_a_valid_empty_result(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "new"))
    assert scan_records(store) == {}
    assert verify(store).damages == ()
    assert recover(store).finished == ()


def test_two_tries_never_share_an_attempt_id(tmp_path: Path) -> None:
    store = folder(tmp_path)
    one = begin(store, 0, "same")
    with pytest.raises(ValueError, match="id of its own"):
        begin(store, 0, "same")
    one.abandon()
    for bad in ("", "UPPER", "a/b", "a" * 41, "a.b", "a\n"):
        with pytest.raises(ValueError, match="attempt id"):
            begin(store, 0, bad)


def test_a_void_claim_is_put_aside_and_the_unit_is_made_again(tmp_path: Path, reference: dict[str, str]) -> None:
    """A claim whose temporaries are gone, altered, or which is no record at all blocks nobody."""
    claimed_at = claim_call(tmp_path / "calls")
    for damage in ("gone", "altered", "torn claim", "empty claim"):
        path = tmp_path / damage
        path.mkdir()
        run_with_fault(path, claimed_at, "kill after")
        temp, claim = path / "_meta/tmp/00000.first.tar", path / "_meta/claims/00000.json"
        if damage == "gone":
            temp.unlink()
        elif damage == "altered":
            temp.write_bytes(temp.read_bytes()[:-1] + b"x")
        else:
            data = claim.read_bytes()
            claim.unlink()
            claim.write_bytes(data[:100] if damage == "torn claim" else b"")
        assert recover(folder(path)).void == (0,)
        assert settle(folder(path), 0) is None
        redo(path)
        assert published(path) == reference
        assert [name.rpartition("/")[2] for name in leftovers(path)] == ["00000.json", "reason.json"]


def test_repair_leaves_a_shard_that_was_published_since_it_was_looked_at(tmp_path: Path) -> None:
    store = folder(tmp_path)
    write_shard(store, 0, "one")
    record = (tmp_path / "00000_stats.json").rename(tmp_path / "held back")
    report = verify(store)
    assert {damage.kind for damage in report.damages} == {"unpublished"}
    record.rename(tmp_path / "00000_stats.json")
    assert repair(store, report) == {}
    assert verify(store).damages == ()


def test_repair_moves_exactly_the_damaged_shards_and_generate_makes_exactly_these_again(tmp_path: Path) -> None:
    store = folder(tmp_path)
    for shard in range(5):
        write_shard(store, shard)
    before = published(tmp_path)
    for shard in (1, 3):
        data = bytearray((tmp_path / tar_name(shard)).read_bytes())
        data[1500] ^= 4
        (tmp_path / tar_name(shard)).write_bytes(data)
    report = verify(store)
    assert report.damaged_shards() == [1, 3]
    moved = repair(store, report)
    assert sorted(moved) == [1, 3]
    assert len(moved[1]) == 3
    assert sorted(scan_records(store)) == [0, 2, 4]
    todo = [shard for shard in range(5) if settle(store, shard) is None]
    assert todo == [1, 3]
    for shard in todo:
        write_shard(store, shard, "again")
    assert published(tmp_path) == before
    assert verify(store).damages == ()
    assert repair(store, verify(store)) == {}
