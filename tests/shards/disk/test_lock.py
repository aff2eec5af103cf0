"""Locks of files: one holder, bounded waits, and nothing that is held is removed."""

import os
import time
from pathlib import Path

import pytest

from shards.disk.lock import is_named, lock_within, open_to_lock, remove_if_free, try_lock


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
