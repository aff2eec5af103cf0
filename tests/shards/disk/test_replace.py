"""A file or folder that is replaced is the old one or the new one, never a part."""

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from shards.disk.replace import replace_file, whole_file, whole_folder


def test_a_file_takes_its_name_with_all_its_bytes_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.json"
    calls: list[str] = []
    synced, replaced = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), synced(fd)))
    monkeypatch.setattr(os, "replace", lambda one, other: (calls.append("replace"), replaced(one, other)))
    replace_file(path, b"one")
    replace_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["a.json"]
    assert calls == ["fsync", "replace", "fsync"] * 2


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    replace_file(path, b"old")

    def half(file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyError

    with pytest.raises(KeyError), whole_file(path) as file:
        half(file)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    replace_file(path, b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_folder_with_files_of_others_is_never_replaced(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "pages", "MARK") as folder:
        (folder / "index.html").write_text("one")
    with whole_folder(tmp_path / "pages", "MARK") as folder:
        (folder / "index.html").write_text("two")
    assert (tmp_path / "pages" / "index.html").read_text() == "two"
    (tmp_path / "pages" / "MARK").unlink()
    with pytest.raises(ValueError, match="other files in it"), whole_folder(tmp_path / "pages", "MARK"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["pages"]
