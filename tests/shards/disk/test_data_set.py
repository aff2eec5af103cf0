"""What a place holds is told by one test, which writes nothing."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import sixfold
from gen.prompts.real_images import read_real
from shards.disk.data_set import is_data_set, no_shards
from shards.disk.store import open_for_reading, open_store
from shards.labels.classes import Class, ClassSpec, load_classes
from shards.stream.index import load_index
from shards.views.image_folder import find_pictures
from tests.support.small_data_set import write_data_set, write_foreign


def ours(folder: Path) -> bool:
    return is_data_set(open_for_reading(str(folder)))


def test_a_record_or_the_place_where_one_is_announced_makes_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert not ours(tmp_path / "empty")
    open_store(str(tmp_path / "begun"))
    assert ours(tmp_path / "begun")
    write_data_set(tmp_path / "whole")
    assert ours(tmp_path / "whole")
    for data, is_ours in ((b"", True), (b"{torn", True), (b'{"schema": 99}', True), (b'{"count": 5}', False)):
        (tmp_path / "empty" / "00000_stats.json").write_bytes(data)
        assert ours(tmp_path / "empty") == is_ours
    write_foreign(tmp_path / "foreign", [0, 1], "00000.tar")
    assert not ours(tmp_path / "foreign")


def test_every_door_asks_the_same_test(tmp_path: Path) -> None:
    """Beside img2dataset's statistics lie pictures by class; beside a record of ours they are not looked at."""
    write_data_set(tmp_path / "ours", num_shards=1)
    for folder in ("ours", "other"):
        (tmp_path / folder / "cat").mkdir(parents=True)
        (tmp_path / folder / "cat" / "a.jpg").write_bytes((Path("sandbox/real-train/0000_zero/00.jpg")).read_bytes())
    (tmp_path / "other" / "00000_stats.json").write_text('{"count": 5}')
    cat = [Class(0, "cat", None, 1)]
    assert [one.name for one in load_classes(ClassSpec(source=str(tmp_path / "other")))] == ["cat"]
    assert [image.name for image in read_real(str(tmp_path / "other"), cat, 1, 0)] == ["cat/a.jpg"]
    assert [source.name for source in find_pictures(tmp_path / "other")[0]] == ["cat/a.jpg"]
    assert "cat" not in [one.name for one in load_classes(ClassSpec(source=str(tmp_path / "ours")))]
    with pytest.raises(ValueError, match="found no real sample of the 1 classes"):
        list(read_real(str(tmp_path / "ours"), cat, 1, 0))
    with pytest.raises(ValueError, match="found a data set of shards, expected a folder of pictures"):
        find_pictures(tmp_path / "ours")


@pytest.mark.parametrize("verb", ["verify", "repair"])
def test_tars_that_others_wrote_are_not_called_damaged_and_nothing_is_left_among_them(tmp_path: Path, verb) -> None:
    write_foreign(tmp_path / "foreign", [0, 1], "00000.tar")
    done = CliRunner().invoke(sixfold.command_line(), [verb, str(tmp_path / "foreign")])
    assert isinstance(done.exception, ValueError)
    assert "found no shards, expected a data set" in str(done.exception)
    assert os.listdir(tmp_path / "foreign") == ["00000.tar"]
    assert len(load_index(str(tmp_path / "foreign"))) == 2


def test_a_sub_folder_that_cannot_be_read_hides_no_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: lost+found, which only root may list."""
    for name in ("lost+found", "zebra"):
        (tmp_path / name).mkdir()
    listed = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path.name == "lost+found":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return iter(sorted(listed(path)))

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert "found no shards, expected a data set" in str(no_shards(open_for_reading(str(tmp_path))))
    (tmp_path / "zebra" / "a.jpg").write_bytes(b"")
    assert "found a folder of pictures" in str(no_shards(open_for_reading(str(tmp_path))))
