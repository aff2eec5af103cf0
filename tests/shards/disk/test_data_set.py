"""What a place holds is told by one test, which writes nothing."""

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from typer.testing import CliRunner

import sixfold
from gen.prompts.real_images import read_real
from shards.disk.data_set import is_data_set, no_data_set, open_data_set, open_to_write
from shards.disk.store import open_for_reading, open_store
from shards.labels.classes import Class, ClassSpec, load_classes
from shards.stream.index import load_index
from shards.views.image_folder import find_pictures
from tests.support.small_data_set import write_data_set, write_foreign


def ours(folder: Path) -> bool:
    return is_data_set(open_for_reading(str(folder)))


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: name -> bytes; None for a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def test_a_record_a_claim_or_the_word_of_a_run_makes_a_data_set_and_empty_folders_do_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert not ours(tmp_path / "empty")
    for name, data in (("claims/00000.json", b""), ("claims/00000.g0.json", b""), ("run.json", b"torn")):
        store = open_store(str(tmp_path / name.replace("/", "-")))
        assert not ours(store.root), "opening a place proves nothing"
        store.replace(f"_meta/{name}", data)
        assert ours(store.root)
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


def write_tars_of_others(folder: Path) -> None:
    write_foreign(folder, [0, 1], "00000.tar")


def write_as_img2dataset(folder: Path) -> None:
    write_foreign(folder, [0, 1], "00000.tar")
    (folder / "00000.parquet").write_bytes(b"PAR1")
    (folder / "00000_stats.json").write_text('{"count": 2, "successes": 2, "status_dict": {"success": 2}}')


def copy_our_tars_alone(folder: Path) -> None:
    write_data_set(folder.parent / "source")
    folder.mkdir()
    for tar in (folder.parent / "source").glob("*.tar"):
        shutil.copy(tar, folder)


def write_what_a_refused_command_of_an_earlier_version_left(folder: Path) -> None:
    write_foreign(folder, [0, 1], "00000.tar")
    for name in ("claims", "tmp", "leases"):
        (folder / "_meta" / name).mkdir(parents=True)


def write_as_a_training(folder: Path) -> None:
    folder.mkdir()
    for name in ("recipe.yaml", "run.lock", "log.jsonl"):
        (folder / name).write_bytes(b"")


def write_as_a_sweep(folder: Path) -> None:
    folder.mkdir()
    for name in ("sweep.yaml", "sweep.lock", "results.jsonl"):
        (folder / name).write_bytes(b"")


def write_pictures(folder: Path) -> None:
    (folder / "cat").mkdir(parents=True)
    (folder / "cat" / "a.jpg").write_bytes(b"")


def write_nothing(folder: Path) -> None:
    folder.mkdir()


def write_an_empty_meta(folder: Path) -> None:
    (folder / "_meta" / "claims").mkdir(parents=True)


NOT_MADE = "not made by sixfold"
KINDS: dict[Callable[[Path], None], str] = {
    write_tars_of_others: NOT_MADE,
    write_as_img2dataset: NOT_MADE,
    copy_our_tars_alone: NOT_MADE,
    write_what_a_refused_command_of_an_earlier_version_left: NOT_MADE,
    write_as_a_training: "found the folder of a training, expected",
    write_as_a_sweep: "found the folder of a sweep, expected",
    write_pictures: "found a folder of pictures, expected",
    write_nothing: "found no shards, expected a data set",
    write_an_empty_meta: "found no shards, expected a data set",
}
READING = (
    ["verify", "F"],
    ["verify", "F", "--regenerate", "1"],
    ["repair", "F"],
    ["repair", "F", "--dry-run"],
    ["status", "F"],
    ["show", "F"],
    ["export", "F", "--to", "timm", "--out", "F-timm"],
)
WRITING = (
    ["generate", "recipes/sandbox.yaml", "--scale", "0.05x", "--in-process", "--out", "F"],
    ["export", "sandbox/real-train", "--to", "shards", "--out", "F"],
    ["prompts", "recipes/sandbox.yaml", "--out", "F"],
    ["train", "recipes/sandbox-train.yaml", "--out", "F"],
    ["sweep", "recipes/sweeps/scale.yaml", "--out", "F"],
)


@pytest.mark.parametrize("write", KINDS)
def test_no_verb_changes_a_place_that_is_not_ours_and_each_says_what_it_is(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    folder = tmp_path / "place"
    write(folder)
    before = tree(tmp_path)
    own = {"write_as_a_training": "train", "write_as_a_sweep": "sweep"}.get(write.__name__)
    is_free = "no shards" in KINDS[write]
    for line in (*READING, *(() if is_free else WRITING)):
        if line[0] == own:
            continue
        done = CliRunner().invoke(
            sixfold.command_line(), [part.replace("F", str(folder)) if part[0] == "F" else part for part in line]
        )
        assert isinstance(done.exception, ValueError), (line, done.output, done.exception)
        assert KINDS[write] in str(done.exception), line
        assert len(str(done.exception).splitlines()) == 1
        assert tree(tmp_path) == before, line


def test_a_training_a_sweep_and_prompts_do_not_write_among_the_shards_of_a_data_set(tmp_path: Path) -> None:
    write_data_set(tmp_path / "place", num_shards=1)
    before = tree(tmp_path)
    for line in WRITING[2:]:
        done = CliRunner().invoke(
            sixfold.command_line(),
            [part.replace("F", str(tmp_path / "place")) if part[0] == "F" else part for part in line],
        )
        assert "found a data set of shards, expected a new or empty folder" in str(done.exception), line
        assert tree(tmp_path) == before, line


def test_looking_at_a_data_set_leaves_nothing_in_it(tmp_path: Path) -> None:
    """Also where the look is a rehearsal of what would write, and where it finds damage."""
    write_data_set(tmp_path / "place")
    (tmp_path / "place" / "00001.tar").write_bytes(b"torn")
    before = tree(tmp_path)
    for line in (["verify", "F"], ["repair", "F", "--dry-run"], ["status", "F"]):
        CliRunner().invoke(
            sixfold.command_line(),
            [part.replace("F", str(tmp_path / "place")) if part[0] == "F" else part for part in line],
        )
        assert tree(tmp_path) == before, line


def test_a_place_in_a_bucket_is_told_by_the_same_test() -> None:
    url, files = f"memory://{uuid.uuid4().hex}", fsspec.filesystem("memory")
    open_to_write(url)  # nothing is there
    files.pipe_file(f"{url}/00000.tar", b"theirs")
    for look in (open_data_set, open_to_write):
        with pytest.raises(ValueError, match="not made by sixfold"):
            look(url)
    assert [name.rpartition("/")[2] for name in files.find(url)] == ["00000.tar"]
    files.pipe_file(f"{url}/_meta/run.json", b"torn")
    assert is_data_set(open_data_set(url))


def test_tars_of_others_are_trained_on_as_they_are(tmp_path: Path) -> None:
    write_what_a_refused_command_of_an_earlier_version_left(tmp_path / "foreign")
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
    assert "found no shards, expected a data set" in str(no_data_set(open_for_reading(str(tmp_path))))
    (tmp_path / "zebra" / "a.jpg").write_bytes(b"")
    assert "found a folder of pictures" in str(no_data_set(open_for_reading(str(tmp_path))))
