"""An import that was killed is known by what is missing of it, to every verb, and goes on as a run does."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import sixfold
from cluster.console import warn
from cluster.process.lease import Lease
from shards.disk.jpeg import encode_jpeg
from shards.disk.layout import RUN
from shards.disk.store import FolderStore, open_for_reading, open_store
from shards.set.status import SUMMARY, asked_units, read_summary, refuse_unfinished, status_of
from shards.set.verify import verify
from shards.views.image_folder import import_image_folder
from shards.views.push import data_set_files
from tests.support.killed import leave_claims_alone
from tests.support.small_data_set import picture

APP = sixfold.command_line()


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """20 pictures of two classes: five shards of four."""
    for number, name in enumerate(("ant", "bee")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(10):
            jpeg = encode_jpeg(picture(number, index), source_type=None)
            (tmp_path / "photos" / name / f"{index}.jpg").write_bytes(jpeg)
    return tmp_path / "photos"


@pytest.fixture
def killed(photos: Path, tmp_path: Path) -> FolderStore:
    """An import that was killed after its second shard."""

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        import_image_folder(photos, str(tmp_path / "set"), samples_per_shard=4, licence="MIT", progress=stop)
    store = open_store(str(tmp_path / "set"))
    assert isinstance(store, FolderStore)
    return store


def test_an_import_that_was_killed_is_not_whole_for_any_verb(killed: FolderStore, photos: Path) -> None:
    found = verify(killed, expected=asked_units(killed))
    assert [(one.shard, one.kind) for one in found.damages] == [(shard, "missing") for shard in (2, 3, 4)]
    state = status_of(killed, None)
    assert not state.is_whole
    assert "asked for 5 shards, 3 of them missing: 00002, 00003, 00004; it never came to its end" in state.text
    for use in (lambda: refuse_unfinished(killed.url, "data.domains.real"), lambda: data_set_files(killed, "photos")):
        with pytest.raises(ValueError, match="found 2 of the 5 shards that the last call was asked for, first missing"):
            use()

    done = import_image_folder(photos, killed.url, samples_per_shard=4, licence="MIT")
    assert (done.num_already_there, done.num_shards, done.num_samples) == (2, 5, 20)
    assert not verify(killed, expected=asked_units(killed)).damages
    state = status_of(killed, None)
    assert state.is_whole
    assert "asked for 5 shards, 0 of them missing\n" in state.text
    refuse_unfinished(killed.url, "data.domains.real")


def test_an_import_removes_the_temporaries_of_a_killed_one_and_makes_its_torn_shards_again(
    killed: FolderStore, photos: Path
) -> None:
    left = killed.root / "_meta/tmp/00002.import-1.tar"
    left.write_bytes(b"half of a tar")
    whole = (killed.root / "00001.tar").read_bytes()
    (killed.root / "00001.tar").write_bytes(whole[:1000])
    done = import_image_folder(photos, killed.url, samples_per_shard=4, licence="MIT")
    assert (done.num_already_there, done.num_samples) == (1, 20)
    assert not left.exists()
    assert (killed.root / "00001.tar").read_bytes() == whole
    assert not verify(killed, expected=asked_units(killed)).damages


def test_an_import_with_other_settings_changes_nothing_of_a_torn_one(killed: FolderStore, photos: Path) -> None:
    (killed.root / "00001.tar").write_bytes(b"")
    with pytest.raises(ValueError, match="was begun with other pictures or settings; use another output folder"):
        import_image_folder(photos, killed.url, samples_per_shard=5, licence="MIT")
    assert (killed.root / "00001.tar").exists()


def test_an_import_with_other_settings_does_not_begin_beside_shards_that_a_killed_one_has_claimed(
    killed: FolderStore, photos: Path
) -> None:
    leave_claims_alone(killed.root)
    (killed.root / RUN).unlink()
    with pytest.raises(ValueError, match="was begun with other pictures or settings; use another output folder"):
        import_image_folder(photos, killed.url, samples_per_shard=5, licence="MIT")
    assert import_image_folder(photos, killed.url, samples_per_shard=4, licence="MIT").num_already_there == 2


@pytest.mark.parametrize(("broken", "code"), [(False, 0), (True, 3)])
def test_the_summary_of_an_import_has_the_exit_code_of_its_command(
    photos: Path, tmp_path: Path, broken: bool, code: int
) -> None:
    if broken:
        (photos / "ant" / "0.jpg").write_bytes(b"no picture")
    line = ["export", str(photos), "--to", "shards", "--out", str(tmp_path / "set")]
    assert CliRunner().invoke(APP, line).exit_code == code
    store = open_for_reading(str(tmp_path / "set"))
    assert json.loads(store.read_bytes(SUMMARY))["exit_code"] == code
    last = read_summary(store)
    assert last is not None
    assert (last.units, last.has_ended) == (range(1), True)


def test_an_import_holds_its_output_alone(photos: Path, tmp_path: Path) -> None:
    line = ["export", str(photos), "--to", "shards", "--out", str(tmp_path / "set")]
    store = open_store(str(tmp_path / "set"))
    with Lease.take(store, "life", warn, lock_folder=tmp_path / "set"):
        said = CliRunner().invoke(APP, line)
    assert said.exit_code != 0
    assert "writing here" in f"{said.output}{said.exception}"
    assert CliRunner().invoke(APP, line).exit_code == 0
