"""Locks of files: one holder, bounded waits, and nothing that is held is removed."""

import errno
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shards.disk import lock
from shards.disk.lock import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    folder_locked,
    is_held,
    is_named,
    lock_within,
    locked,
    open_to_lock,
    remove_if_free,
    try_lock,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"held or not")
    return path


def test_a_lock_has_one_holder_until_the_descriptor_is_closed(file: Path) -> None:
    one, other = open_to_lock(file), open_to_lock(file)
    assert try_lock(one)
    assert not try_lock(other)
    os.close(one)
    assert try_lock(other)
    os.close(other)


def test_a_lock_that_is_held_is_waited_for_until_the_moment_given(file: Path) -> None:
    one, other = open_to_lock(file), open_to_lock(file)
    assert lock_within(one, time.monotonic() - 1), "one that is free is taken even then"
    began = time.monotonic()
    assert not lock_within(other, began + 0.3)
    assert time.monotonic() >= began + 0.3
    os.close(one)
    assert lock_within(other, time.monotonic() + 60)
    os.close(other)


def test_a_file_goes_only_if_nobody_holds_it(file: Path) -> None:
    fd = open_to_lock(file)
    assert try_lock(fd)
    assert not remove_if_free(file)
    assert is_named(fd, file)
    os.close(fd)
    assert remove_if_free(file)
    assert not file.exists()
    assert not remove_if_free(file), "it was not there"


def test_a_file_that_took_the_name_at_the_last_moment_stays(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the opening and the lock another process puts its own file there."""
    opened = os.open

    def open_late(path: Path, flags: int) -> int:
        fd = opened(path, flags)
        file.unlink()
        file.write_bytes(b"another")
        return fd

    monkeypatch.setattr("shards.disk.lock.os.open", open_late)
    assert not remove_if_free(file)
    assert file.read_bytes() == b"another"


def test_a_file_that_lost_its_name_or_gave_it_up_is_not_named(file: Path) -> None:
    fd = open_to_lock(file)
    file.rename(file.with_name("other"))
    assert not is_named(fd, file)
    assert is_named(fd, file.with_name("other"))
    file.write_bytes(b"another")
    assert not is_named(fd, file)
    os.close(fd)


def test_a_lock_is_asked_for_ever_more_rarely_and_says_so_before_every_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated waits: a minute of them within a moment."""
    now, waits, beats = [0.0], list[float](), list[float]()

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("shards.disk.lock.time.monotonic", lambda: now[0])
    monkeypatch.setattr("shards.disk.lock.time.sleep", sleep)
    lock, line = tmp_path / "lock", "held it for 60 s"
    with locked(lock, 0), pytest.raises(TimeoutError, match=line), locked(lock, 60, lambda: beats.append(now[0])):
        pass
    assert (waits[0], max(waits), waits[:-1]) == (FIRST_PAUSE_S, LONGEST_PAUSE_S, sorted(waits[:-1]))
    assert sum(waits) == pytest.approx(60)
    assert len(beats) == len(waits) < 40


def test_what_a_wait_raises_ends_it_and_frees_nothing_of_others(tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with locked(tmp_path / "lock", 0):
        with pytest.raises(KeyboardInterrupt), locked(tmp_path / "lock", 60, stop):
            pass
        with pytest.raises(TimeoutError), locked(tmp_path / "lock", 0):
            pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_the_block_is_told_and_a_folder_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Simulated: Lustre without flock, NFS without a lock daemon."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    with locked(tmp_path / "any.lock") as has_locks:
        assert has_locks
    monkeypatch.setattr("fcntl.flock", flock)
    with locked(tmp_path / "any.lock") as has_locks, locked(tmp_path / "any.lock"):
        assert not has_locks
    with pytest.raises(OSError, match="No locks available"), folder_locked(tmp_path, "lock", "training", "wait"):
        pass


def test_a_folder_has_one_worker_at_a_time(tmp_path: Path) -> None:
    asked = (tmp_path / "run", "lock", "training", "wait for it")
    line = r"run: found another training at work .*; wait for it"
    with folder_locked(*asked), pytest.raises(ValueError, match=line), folder_locked(*asked):
        pass
    with folder_locked(*asked):
        pass


def test_a_lock_whose_file_its_holder_removed_is_taken_at_the_file_that_has_the_name(file: Path) -> None:
    """Else two could hold the lock of one name: one at the removed file, one at the new one."""
    waits = threading.Event()

    def take() -> bool:
        with locked(file, within_s=60.0, longest_pause_s=0.01, on_wait=waits.set):
            return is_held(file)

    with ThreadPoolExecutor(1) as pool:
        with locked(file):
            taken = pool.submit(take)
            assert waits.wait(60)
            file.unlink()
        assert taken.result(60)


def test_whether_a_lock_is_held_can_be_asked_without_making_a_file(file: Path, tmp_path: Path) -> None:
    assert not is_held(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert not is_held(file)
    with locked(file):
        assert is_held(file)
    assert not is_held(file)


def test_a_lock_whose_file_always_loses_its_name_is_given_up(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a mount that does not tell which file a name leads to."""
    monkeypatch.setattr(lock, "is_named", lambda fd, path: False)
    monkeypatch.setattr(lock, "REMOVED_S", 0.3)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="found it removed each time that its lock was taken"), locked(file):
        pass
    assert time.monotonic() - began < 5
