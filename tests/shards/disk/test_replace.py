"""A file or folder that is replaced is the old one or the new one, never a part."""

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
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


def test_two_writers_of_one_number_keep_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of two containers that share a folder often have the same number."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    path = tmp_path / "a.json"
    with whole_file(path) as one:
        one.write(b"one " * 3)
        with whole_file(path) as other:
            other.write(b"other")
        assert path.read_bytes() == b"other"
    assert path.read_bytes() == b"one " * 3
    with whole_folder(tmp_path / "pages", "MARK") as folder:
        (folder / "one.html").write_text("one")
        with whole_folder(tmp_path / "pages", "MARK") as second:
            (second / "other.html").write_text("other")
    assert sorted(os.listdir(tmp_path / "pages")) == ["MARK", "one.html"]
    assert sorted(os.listdir(tmp_path)) == ["a.json", "pages"]


def test_a_folder_that_cannot_take_its_name_leaves_the_old_one_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def refuse_new(path: Path, target: Path) -> Path:
        if path.name.endswith(".new"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    with whole_folder(tmp_path / "pages", "MARK") as folder:
        (folder / "index.html").write_text("old")
    monkeypatch.setattr(Path, "rename", refuse_new)
    with pytest.raises(OSError, match="Input/output"), whole_folder(tmp_path / "pages", "MARK") as folder:
        (folder / "index.html").write_text("new")
    assert (tmp_path / "pages" / "index.html").read_text() == "old"
    assert os.listdir(tmp_path) == ["pages"]


def test_files_that_somebody_puts_there_while_a_folder_is_built_stay(tmp_path: Path) -> None:
    def build(target: Path, mark: str | None) -> None:
        with whole_folder(target, mark) as folder:
            (folder / "index.html").write_text("new")
            target.mkdir()
            (target / "mine.txt").write_text("mine")

    for mark in (None, "MARK"):
        target = tmp_path / f"pages-{mark}"
        with pytest.raises(ValueError, match="other files in it"):
            build(target, mark)
        assert (target / "mine.txt").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["pages-MARK", "pages-None"]


def test_of_writers_that_race_for_a_folder_none_fails_and_one_of_them_is_there_whole(tmp_path: Path) -> None:
    def write(number: int) -> None:
        for _ in range(25):
            with whole_folder(tmp_path / "pages", "MARK") as folder:
                for name in range(20):
                    (folder / f"{name}.html").write_text(str(number))

    with ThreadPoolExecutor(8) as writers:
        for done in [writers.submit(write, number) for number in range(8)]:
            done.result(timeout=120)
    pages = [path.read_text() for path in sorted((tmp_path / "pages").glob("*.html"))]
    assert len(pages) == 20
    assert len(set(pages)) == 1
    assert os.listdir(tmp_path) == ["pages"]


def test_what_killed_writers_left_goes_after_a_day_and_a_folder_that_was_put_aside_gets_its_name_back(
    tmp_path: Path,
) -> None:
    token, other = "sixfold-0123456789abcdef", "sixfold-fedcba9876543210"
    for name in (f".pages.{token}.new", f".pages.{token}.old", f".lost.{token}.old", f".pages.{other}.new"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "index.html").write_text(name)
    for name in (
        f".a.json.{token}.tmp",
        f".b.json.{token}.tmp",
        f".b.json.{other}.tmp",
        ".mine.old",
        ".a.0123456789abcdef.tmp",
    ):
        (tmp_path / name).write_text("half")
    (tmp_path / "pages").mkdir()
    long_ago = time.time() - 100_000
    young = (f".pages.{other}.new", f".b.json.{other}.tmp")
    is_young = (tmp_path / "pages", tmp_path / young[0] / "deep" / "index.html", tmp_path / young[1])
    for path in sorted(tmp_path.rglob("*"), reverse=True):
        if path not in is_young:
            os.utime(path, (long_ago, long_ago))
    replace_file(tmp_path / "c.json", b"new")
    left = {"c.json", "lost", "pages", ".mine.old", ".a.0123456789abcdef.tmp", *young}
    assert set(os.listdir(tmp_path)) == left
    assert (tmp_path / "lost" / "deep" / "index.html").read_text() == f".lost.{token}.old"
    assert (tmp_path / young[0] / "deep" / "index.html").exists(), "its folder is old, what is in it is not"
