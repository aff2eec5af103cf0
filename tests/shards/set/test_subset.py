"""A subset is all of its samples or an error: no reader leaves out those of a shard that is gone."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from typer.testing import CliRunner

import shards
import sixfold
from shards.disk.checked_json import to_checked
from shards.disk.store import FolderStore, Store
from shards.set.drawn import write_per_class
from shards.set.edited import write_edited
from shards.set.long_tail import write_long_tail
from shards.set.manifest import read_subset, read_table, scan_records, subset_names, write_subset
from shards.set.repair import repair
from shards.set.status import SUMMARY
from shards.set.subset import named_subset
from shards.set.verify import verify
from shards.stream.index import load_index
from shards.views.export import Choice, export_dali, export_hugging_face, export_open_clip, export_timm
from shards.views.gallery import write_gallery
from shards.views.image_folder import export_image_folder
from tests.support.small_data_set import write_data_set

APP = sixfold.command_line()
READERS: dict[str, Callable[[Store, str | None, Path], object]] = {
    "timm": lambda store, name, to: export_timm(store, to, Choice(named_subset(store, name))),
    "open_clip": lambda store, name, to: export_open_clip(store, to, Choice(named_subset(store, name))),
    "dali": lambda store, name, to: export_dali(store, to, Choice(named_subset(store, name))),
    "huggingface": lambda store, name, to: export_hugging_face(store, to, Choice(named_subset(store, name))),
    "image_folder": lambda store, name, to: export_image_folder(store, to, Choice(named_subset(store, name))),
    "open": lambda store, name, to: list(shards.open(store.url, name)),
    "table": lambda store, name, to: shards.open(store.url, name).table(["key"]),
    "per_class": lambda store, name, to: write_per_class(store, "new", 2, 0, name),
    "long_tail": lambda store, name, to: write_long_tail(store, "new", 2.0, 0, name),
    "edited": lambda store, name, to: write_edited(store, "new", {"side": ("feasible",)}, name),
    "training": lambda store, name, to: load_index(store.url, name),
}
WHOLE_SETS = [name for name in READERS if name != "training"]


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """Edits in two shards, and the subset `some` with 15 of their samples, 3 of each class."""

    def edited(shard: int, index: int, row: dict[str, object]) -> dict[str, object]:
        return {**row, "domain": "edited", "edit": json.dumps({"side": "feasible"})}

    made = write_data_set(tmp_path / "set", change=edited)
    write_per_class(made, "some", 3, 0)
    return made


@pytest.fixture
def torn(store: FolderStore) -> FolderStore:
    """Its second shard had one wrong byte, and is in the quarantine."""
    path = store.root / "00001.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    assert repair(store, verify(store)).keys() == {1}
    return store


@pytest.mark.parametrize("reader", READERS)
def test_a_subset_of_which_a_shard_is_gone_is_refused(torn: FolderStore, tmp_path: Path, reader: str) -> None:
    with pytest.raises(
        ValueError, match=r"subset.* names shard 00001, which has no record; run the command that makes"
    ):
        READERS[reader](torn, "some", tmp_path / "to")
    assert subset_names(torn) == ["some"]
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("reader", [name for name in READERS if name != "training"])
def test_a_subset_that_names_a_sample_that_is_not_there_is_refused(
    store: FolderStore, tmp_path: Path, reader: str
) -> None:
    rows = read_table(store, scan_records(store), ["uid", "key", "shard"]).slice(0, 9).to_pylist()
    write_subset(store, "others", pa.Table.from_pylist([*rows[:8], {**rows[8], "uid": "f" * 32}]), {"score": 1})
    with pytest.raises(ValueError, match="shard 00000: found 8 of the 9 samples that the subset names, expected all"):
        READERS[reader](store, "others", tmp_path / "to")


@pytest.mark.parametrize("reader", WHOLE_SETS)
def test_a_part_of_a_set_is_opened_exported_and_drawn_from_only_under_a_name(
    store: FolderStore, tmp_path: Path, reader: str
) -> None:
    store.replace(SUMMARY, to_checked({"scale": "6x", "asked": {"images": 50, "units": 5}, "exit_code": None}))
    with pytest.raises(ValueError, match=r"found 2 of the 5 shards that the last call was asked for, first missing"):
        READERS[reader](store, None, tmp_path / "to")
    assert not (tmp_path / "to").exists()
    READERS[reader](store, "some", tmp_path / "to")


def test_the_gallery_of_a_subset_names_the_shard_that_is_gone(torn: FolderStore, tmp_path: Path) -> None:
    page = write_gallery(torn, tmp_path / "gallery", subset=named_subset(torn, "some"), subset_name="some")
    assert "the subset names shard 00001, which has no record" in page.read_text()


def test_the_command_to_show_a_subset_says_it_on_its_page(torn: FolderStore) -> None:
    said = CliRunner().invoke(APP, ["show", str(torn.root), "--subset", "some"])
    assert said.exit_code == 0, said.output
    assert "names shard 00001, which has no record" in (torn.root / "_meta/gallery/index.html").read_text()


def test_drawing_from_a_subset_looks_at_each_of_its_samples_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million shards of ten: what is compared with a shard's rows is that shard's part of the subset."""
    store = write_data_set(tmp_path / "set", num_shards=6, num_slots=5, num_rejected=0)
    write_per_class(store, "some", 4, 0)
    looked_at: list[int] = []
    is_in = pc.is_in

    def counted(values: pa.ChunkedArray, value_set: pa.Array) -> pa.ChunkedArray:
        looked_at.append(len(value_set))
        return is_in(values, value_set=value_set)

    monkeypatch.setattr(pc, "is_in", counted)
    write_per_class(store, "two", 2, 0, "some")
    assert sum(looked_at) == len(read_subset(store, "some")[0]) == 20
