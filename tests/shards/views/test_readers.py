"""The readers of the ecosystem and our own manifest agree on every key, label, text and pixel of one data set.

Each reader opens the folder as its documentation says, with nothing of ours in between. The data set has what trips
readers up: a second shard with another number of samples, rejected draws, captions with every kind of character.
"""

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shards.disk.jpeg import decode_jpeg, encode_jpeg
from shards.disk.layout import SAMPLE_SCHEMA
from shards.disk.store import FolderStore, open_for_reading, open_store
from shards.set.manifest import read_member, read_table
from shards.set.writer import ShardWriter
from shards.views.dataset_card import write_folder_card
from shards.views.export import Choice, export_hugging_face, export_timm
from shards.views.gallery import write_gallery
from tests.support.small_data_set import FINGERPRINT, picture, sample, write_data_set

SIZES = (12, 7, 1)
CAPTIONS = (
    *("plain", "two\nlines", "tab\tand trailing blank ", "Zürich 北京 العربية 🐈"),
    *("quotes ' \" \\ and <b>", "\u202ebidi", "0"),
)


@dataclass(frozen=True)
class Seen:
    """One sample as a reader delivers it."""

    label: int
    text: str
    pixels: bytes


@dataclass(frozen=True)
class DataSet:
    store: FolderStore
    tars: tuple[str, ...]
    samples: dict[str, Seen]  # by key, after our own manifest
    facts: dict[str, dict[str, object]]


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    root = tmp_path_factory.mktemp("readers") / "set"
    store = open_store(str(root))
    assert isinstance(store, FolderStore)
    for shard, size in enumerate(SIZES):
        with ShardWriter(store, shard, "try", FINGERPRINT) as writer:
            for index in range(size):
                caption = CAPTIONS[(shard + index) % len(CAPTIONS)]
                row = sample(shard, index, (shard + 3 * index) % 5, caption=caption, seed=2**62 + index)
                subsampling = "420" if index % 2 else "444"
                writer.add(row, encode_jpeg(picture(index, shard), subsampling=subsampling))
            writer.add({**sample(shard, size, 0), "status": "blank"}, None)
            writer.commit(1.0, 2.0, {})
    rows = [row for row in read_table(store, range(len(SIZES))).to_pylist() if row["status"] == "success"]
    samples = {
        row["key"]: Seen(row["class_id"], row["caption"], decode_jpeg(read_member(store, row)).tobytes())
        for row in rows
    }
    return DataSet(
        store, tuple(str(path) for path in sorted(root.glob("*.tar"))), samples, {row["key"]: row for row in rows}
    )


def pixels_of(image: object) -> bytes:
    """The bytes of a PIL image, or of an encoded one."""
    if isinstance(image, bytes):
        image = Image.open(io.BytesIO(image))
    assert isinstance(image, Image.Image)
    return np.asarray(image.convert("RGB")).tobytes()


def test_webdataset_reads_what_the_manifest_says(data_set: DataSet) -> None:
    import webdataset

    found = {}
    for one in webdataset.WebDataset(list(data_set.tars), shardshuffle=False).decode("pil"):
        assert one["json"]["uid"] == data_set.facts[one["__key__"]]["uid"]
        assert one["json"]["seed"] == data_set.facts[one["__key__"]]["seed"]
        found[one["__key__"]] = Seen(one["cls"], one["txt"], pixels_of(one["jpg"]))
    assert found == data_set.samples


def test_webdataset_reads_a_brace_range_with_its_shell_and_pickle_switches_off(
    data_set: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    import webdataset

    monkeypatch.setenv("WDS_SECURE", "1")
    braces = f"{data_set.store.root}/{{00000..00002}}.tar"
    keys = [one["__key__"] for one in webdataset.WebDataset(braces, shardshuffle=False)]
    assert keys == sorted(data_set.samples)


@pytest.mark.parametrize("streaming", [False, True])
def test_hugging_face_datasets_reads_what_the_manifest_says(
    data_set: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    loaded = datasets.load_dataset(
        "webdataset",
        data_files={"train": list(data_set.tars)},
        split="train",
        cache_dir=str(tmp_path / "cache"),
        streaming=streaming,
    )
    found = {one["__key__"]: Seen(one["cls"], one["txt"], pixels_of(one["jpg"])) for one in loaded}
    assert found == data_set.samples


def test_hugging_face_datasets_finds_the_tars_through_the_header_of_the_card(
    data_set: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    export_hugging_face(data_set.store, tmp_path / "card", Choice())
    loaded = datasets.load_dataset(str(tmp_path / "card"), split="train", cache_dir=str(tmp_path / "cache"))
    assert {one["__key__"] for one in loaded} == set(data_set.samples)


@pytest.mark.parametrize("streaming", [False, True])
def test_hugging_face_datasets_reads_every_fact_also_one_that_the_first_samples_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    """As contexts and styles are made: the first half of the samples has no style, the second no context."""
    import datasets

    def half(shard: int, index: int, row: dict[str, object]) -> dict[str, object]:
        return {**row, "context" if index < 6 else "style": f"word {index}"}

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    store = write_data_set(tmp_path / "set", num_slots=12, change=half)
    export_hugging_face(store, tmp_path / "card", Choice())
    loaded = datasets.load_dataset(
        str(tmp_path / "card"), split="train", cache_dir=str(tmp_path / "cache"), streaming=streaming
    )
    label = loaded.features["cls"]
    assert label.names == ["zero", "one", "two", "crane (3)", "crane (4)"]
    rows = [row for row in read_table(store, [0, 1]).to_pylist() if row["status"] == "success"]
    found = {one["__key__"]: one for one in loaded}
    assert sorted(found) == [row["key"] for row in rows]
    for row in rows:
        one = found[row["key"]]
        assert (one["cls"], one["txt"]) == (row["class_id"], row["caption"])
        assert one["json"] == {name: pytest.approx(row[name]) for name in [*SAMPLE_SCHEMA.names, "sha256"]}


@pytest.mark.parametrize("streaming", [False, True])
def test_hugging_face_datasets_reads_what_was_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    """Also where the first samples have nothing to say of it."""
    import datasets

    def half(shard: int, index: int, row: dict[str, object]) -> dict[str, object]:
        return {**row, "domain": "edited", "edit": f'{{"attribute": "moss {index}"}}' if index > 5 else None}

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    store = write_data_set(tmp_path / "set", num_slots=12, change=half)
    export_hugging_face(store, tmp_path / "card", Choice())
    loaded = datasets.load_dataset(
        str(tmp_path / "card"), split="train", cache_dir=str(tmp_path / "cache"), streaming=streaming
    )
    rows = [row for row in read_table(store, [0, 1]).to_pylist() if row["status"] == "success"]
    assert {one["__key__"]: one["json"]["edit"] for one in loaded} == {row["key"]: row["edit"] for row in rows}


def test_hugging_face_datasets_reads_the_folder_itself_and_never_the_pictures_of_a_page(
    data_set: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is told to guess: then it finds no picture outside of the tars."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    root = tmp_path / "set"
    shutil.copytree(data_set.store.root, root)
    index = write_gallery(open_for_reading(str(root)), root / "_meta" / "gallery")
    assert list(index.parent.rglob("*.jpg"))
    write_folder_card(open_store(str(root)), "a_b <i>")
    loaded = datasets.load_dataset(str(root), split="train", cache_dir=str(tmp_path / "cache"))
    found = {one["__key__"]: Seen(one["cls"], one["txt"], pixels_of(one["jpg"])) for one in loaded}
    assert found == data_set.samples
    with pytest.raises(ValueError, match=r"no data|corresponds to no"):
        datasets.load_dataset("imagefolder", data_dir=str(root), split="train", cache_dir=str(tmp_path / "cache"))


def test_a_card_that_its_owner_wrote_is_left_as_it_is(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    (tmp_path / "README.md").write_text("mine")
    write_folder_card(store, "theirs")
    assert (tmp_path / "README.md").read_text() == "mine"


def test_timm_reads_what_the_manifest_says(data_set: DataSet, tmp_path: Path) -> None:
    import timm.data

    export_timm(data_set.store, tmp_path / "timm", Choice())
    options: dict[str, Any] = {"root": str(tmp_path / "timm"), "split": "train", "is_training": False}
    reader = timm.data.create_dataset("wds/any", **options)
    assert len(reader) == len(data_set.samples)
    keys = [Path(name).stem for name in timm.data.create_dataset("wds/any", **options).filenames()]
    found = {key: (target, pixels_of(image)) for key, (image, target) in zip(keys, reader, strict=True)}
    assert found == {key: (seen.label, seen.pixels) for key, seen in data_set.samples.items()}


def test_timm_trains_on_every_sample_of_an_epoch(data_set: DataSet, tmp_path: Path) -> None:
    import timm.data

    export_timm(data_set.store, tmp_path / "timm", Choice())
    options: dict[str, Any] = {"root": str(tmp_path / "timm"), "split": "train", "is_training": True, "batch_size": 4}
    assert len(list(timm.data.create_dataset("wds/any", **options))) == len(data_set.samples)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    from cluster.fan_out.fan_out import FanOutSpec
    from cluster.fan_out.ray_session import ray_session
    from cluster.process.stop_flag import StopFlag

    with ray_session(FanOutSpec(workers=1, gpus_per_worker=0), 1, StopFlag()):
        yield


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning:ray")
def test_ray_data_reads_what_the_manifest_says(data_set: DataSet) -> None:
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    found = {}
    # one block: every further one is another worker process that imports Ray Data, which is most of this test's time
    for one in ray.data.read_webdataset(list(data_set.tars), override_num_blocks=1).take_all():
        assert one["json"]["uid"] == data_set.facts[one["__key__"]]["uid"]
        found[one["__key__"]] = Seen(int(one["cls"]), one["txt"], np.asarray(one["jpg"]).tobytes())
    assert found == data_set.samples


def test_python_and_the_system_tar_list_the_same_members(data_set: DataSet) -> None:
    for tar in data_set.tars:
        command = ["tar", "--list", "--file", tar]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        with tarfile.open(tar) as archive:
            assert archive.getnames() == listed.stdout.split("\n")[:-1]


def test_the_records_are_img2datasets_and_sum_up_as_its_logger_does(data_set: DataSet) -> None:
    """Its resume parses every top-level JSON as ``int(name.split("_")[0])``, its logger adds these keys."""
    totals = {"count": 0, "successes": 0, "failed_to_download": 0, "failed_to_resize": 0}
    shards = []
    for path in sorted(data_set.store.root.glob("*.json")):
        shards.append(int(os.path.basename(path).split("_")[0]))
        stats = json.loads(path.read_text())
        for name in totals:
            totals[name] += stats[name]
        assert stats["duration"] == stats["end_time"] - stats["start_time"]
        assert sum(stats["status_dict"].values()) == stats["count"]
    assert shards == [0, 1, 2]
    assert totals == {"count": 23, "successes": 20, "failed_to_download": 0, "failed_to_resize": 0}


def test_the_tables_have_img2datasets_columns(data_set: DataSet) -> None:
    table = read_table(data_set.store, range(len(SIZES)))
    names = ("key", "status", "error_message", "url", "caption", "width", "height", "original_width", "original_height")
    assert {*names, "exif", "sha256"} <= set(table.column_names)
    assert all(len(key) == 9 for key in table["key"].to_pylist())
