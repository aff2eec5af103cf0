"""A data set in a notebook: samples, table and grid are what its tars hold, and damage has a name."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import shards
from shards.disk.store import open_store
from shards.set.manifest import read_table, scan_records, write_subset
from shards.views.samples import DataSet
from tests.support.small_data_set import CLASS_NAMES, write_data_set


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    """20 samples in two shards, which have rejected draws beside them."""
    write_data_set(tmp_path / "set")
    return shards.open(str(tmp_path / "set"))


def test_samples_come_in_the_order_of_the_tars_with_their_rows(data: DataSet, tmp_path: Path) -> None:
    found = list(data)
    assert len(found) == len(data) == 20
    names = []
    for tar in sorted((tmp_path / "set").glob("*.tar")):
        with tarfile.open(tar) as file:
            for member in file:
                if member.name.endswith(".jpg"):
                    names.append(member.name.removesuffix(".jpg"))
                    inside = file.extractfile(member)
                    assert inside is not None
                    pixels = np.asarray(Image.open(io.BytesIO(inside.read())).convert("RGB")).astype(int)
                    mine = np.asarray(found[len(names) - 1].image).astype(int)
                    assert np.abs(pixels - mine).max() <= 3, "two JPEG decoders"
    assert [sample.key for sample in found] == names
    assert found[7].class_name == CLASS_NAMES[found[7].label] == found[7].row["class_name"]
    assert found[7].caption == f"a photo of {found[7].class_name}, number 7"


def test_a_data_set_is_a_sequence(data: DataSet) -> None:
    keys = [sample.key for sample in data]
    assert [data[at].key for at in range(20)] == keys
    assert data[-1].key == keys[-1]
    assert [sample.key for sample in data[8:13:2]] == keys[8:13:2]
    with pytest.raises(IndexError):
        data[20]


def test_a_subset_has_its_samples_alone(data: DataSet, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "set"))
    table = read_table(store, scan_records(store), ["uid", "key", "shard", "status"])
    write_subset(store, "few", table.take([0, 3, 13]).select(["uid", "key", "shard"]), {"rule": "three of them"})
    few = shards.open(str(tmp_path / "set"), "few")
    assert [sample.key for sample in few] == [data[0].key, data[3].key, data[11].key]
    assert few.table(["key"])["key"].to_pylist() == [sample.key for sample in few]
    with pytest.raises(ValueError, match="found no such subset, expected one of: few"):
        shards.open(str(tmp_path / "set"), "many")


def test_the_table_has_a_row_for_each_sample_and_none_for_rejected_draws(data: DataSet) -> None:
    assert data.table(["key"])["key"].to_pylist() == [sample.key for sample in data]
    assert set(data.table()["status"].to_pylist()) == {"success"}
    assert data.classes == dict(enumerate(CLASS_NAMES))
    with pytest.raises(ValueError, match="found the column 'styl', expected some of key, uid"):
        data.table(["styl"])


def test_the_table_has_what_was_edited_where_something_was(data: DataSet, tmp_path: Path) -> None:
    def edited(shard: int, index: int, row: dict[str, object]) -> dict[str, object]:
        return {**row, "domain": "edited", "edit": f"{shard}/{index}"} if shard else row

    assert "edit" not in data.table().column_names
    assert data.table(["key", "edit"])["edit"].null_count == len(data)
    store = write_data_set(tmp_path / "edits", change=edited)
    table = read_table(store, scan_records(store), ["uid", "key", "shard", "status"])
    write_subset(store, "few", table.take([0, 13]).select(["uid", "key", "shard"]), {"rule": "two of them"})
    for subset, told in ((None, [None] * 10 + [f"1/{index}" for index in range(10)]), ("few", [None, "1/1"])):
        for columns in (None, ["edit"]):
            assert shards.open(str(tmp_path / "edits"), subset).table(columns)["edit"].to_pylist() == told


def test_a_grid_shows_each_class_as_often_and_is_the_same_for_a_seed(data: DataSet) -> None:
    grid = data.grid(5, 2, side_px=32)
    assert grid.size == (160, 64)
    assert grid.tobytes() == data.grid(5, 2, side_px=32).tobytes() != data.grid(5, 2, side_px=32, seed=1).tobytes()
    tiles = [grid.crop((32 * at, 0, 32 * at + 32, 32)).tobytes() for at in range(5)]
    labels = [next(sample.label for sample in data if sample.image.tobytes() == tile) for tile in tiles]
    assert labels == [0, 0, 1, 1, 2], "class by class, two of each of five"
    with pytest.raises(ValueError, match="found 65 x 1 pictures of 128 px, expected 1 to 64"):
        data.grid(65, 1)


def test_what_is_no_data_set_is_said_and_damage_is_named(data: DataSet, tmp_path: Path) -> None:
    (tmp_path / "photos" / "dog").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "dog" / "a.jpg")
    with pytest.raises(ValueError, match="found a folder of pictures, expected a data set of shards"):
        shards.open(str(tmp_path / "photos"))
    tar = tmp_path / "set" / "00000.tar"
    content = bytearray(tar.read_bytes())
    at = data[0].row["jpg_offset"] + data[0].row["jpg_size"] // 2
    content[at] ^= 1
    tar.write_bytes(content)
    with pytest.raises(ValueError, match="do not have the hash of the table; run `sixfold verify`"):
        shards.open(str(tmp_path / "set"))[0]


def test_importing_the_package_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    program = "import sys, shards; print(sorted({'torch', 'pyarrow', 'numpy', 'PIL'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=True)
    assert said.stdout.strip() == "[]"


def test_what_is_no_text_is_told_in_a_line_and_a_path_is_taken(tmp_path: Path) -> None:
    write_data_set(tmp_path / "set")
    assert len(shards.open(tmp_path / "set")) == 20
    with pytest.raises(ValueError, match=r'^subset: found 2, expected a name in quotes, such as "2x"$'):
        shards.open(tmp_path / "set", subset=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^url: found 7, expected the folder or URL of a data set"):
        shards.open(7)  # type: ignore[arg-type]
