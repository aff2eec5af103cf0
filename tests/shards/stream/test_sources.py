"""Image folders and data sets of Hugging Face as sources: read in place, with the same ids, pictures and failures."""

import os
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from shards.disk.jpeg import encode_jpeg
from shards.labels.folders import Entry
from shards.stream.augment import AugmentSpec
from shards.stream.fetch import Fetcher, FetchError
from shards.stream.index import load_index, own_classes_of
from shards.stream.read_all import read_all
from shards.stream.spec import DomainSpec, EvalSpec, StreamSpec
from shards.stream.stream import Stream
from shards.views.export import Choice
from shards.views.image_folder import export_image_folder, import_image_folder
from tests.support.small_data_set import picture, write_data_set, write_foreign

CLASSES = ("ant", "crane", "zebra")
RANDOM = AugmentSpec(scale=(0.3, 1.0), flip=0.5)


def write_pictures(folder: Path, classes: tuple[str, ...] = CLASSES, each: int = 5, start: int = 0) -> Path:
    """JPEGs, and one PNG in each class."""
    for number, name in enumerate(classes):
        (folder / name / "deep").mkdir(parents=True)
        for index in range(each):
            pixels = picture(number, start + index)
            if index:
                (folder / name / "deep" / f"{index}.jpg").write_bytes(encode_jpeg(pixels))
            else:
                Image.fromarray(pixels).save(folder / name / "0.png")
    return folder


def write_dataset(labels: list[int], start: int = 0, names: tuple[str, ...] = CLASSES) -> datasets.Dataset:
    features = datasets.Features({"label": datasets.ClassLabel(names=list(names)), "image": datasets.Image()})
    cells = [{"bytes": encode_jpeg(picture(label, start + row)), "path": None} for row, label in enumerate(labels)]
    return datasets.Dataset.from_dict({"label": labels, "image": cells}, features=features)


def steps(
    *sources: Path, num: int = 6, seed: int = 3, state: Any = None, **changes: Any
) -> tuple[list[tuple[bytes, ...]], Any]:
    names = ("real", "synthetic")
    domains = [DomainSpec(name=name, source=str(source), quota=2) for name, source in zip(names, sources, strict=False)]
    spec = StreamSpec(domains=tuple(domains), size_px=16, threads=1, window_shards=2, augment=RANDOM, **changes)
    with Stream(spec, groups=2, seed=seed, epoch_steps=4, state=state) as stream:
        found = []
        for _ in range(num):
            batch = next(stream)
            assert not batch.replaced
            found.append((batch.images.tobytes(), batch.labels.tobytes(), batch.uids.tobytes()))
        return found, stream.state()


def shown(source: Path, subset: str | None = None, classes: Any = None) -> list[tuple[int, bytes]]:
    """Label and pixels of every picture, as an evaluation sees them."""
    spec = EvalSpec(source=str(source), size_px=32, crop_pct=1.0, threads=0)
    index = load_index(str(source), subset, class_list=lambda source: classes)
    return [
        (int(label), image.tobytes())
        for batch in read_all(spec, index, 4)
        for image, label, valid in zip(batch.images, batch.labels, batch.valid, strict=True)
        if valid
    ]


# image folders


def test_a_training_on_an_image_folder_sees_what_one_on_its_import_sees_bit_for_bit(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures")
    for name in CLASSES:  # a picture that is encoded again has other bytes
        (folder / name / "0.png").unlink()
    import_image_folder(folder, str(tmp_path / "shards"))
    assert steps(folder)[0] == steps(tmp_path / "shards")[0]


def test_an_exported_folder_is_read_in_place_with_the_ids_and_the_order_that_its_import_has(tmp_path: Path) -> None:
    exported, shards = tmp_path / "exported", tmp_path / "shards"
    export_image_folder(write_data_set(tmp_path / "ours"), exported, Choice())
    table = pq.read_table(exported / "metadata.parquet").to_pylist()
    plain = pa.table({name: [row[name] for row in table] for name in ("file_name", "key", "uid", "class_id")})
    some = [{**row, "key": None, "uid": None} if number % 3 else row for number, row in enumerate(plain.to_pylist())]
    for number, told in enumerate((plain, pa.Table.from_pylist(some, plain.schema))):
        pq.write_table(told, exported / "metadata.parquet")
        import_image_folder(exported, f"{shards}{number}")
        here, there = load_index(str(exported)), load_index(f"{shards}{number}")
        assert here.uid.tolist() == there.uid.tolist()
        assert here.label.tolist() == there.label.tolist()
        assert steps(exported)[0] == steps(Path(f"{shards}{number}"))[0]


def test_two_pictures_of_one_id_in_the_metadata_are_refused_in_place_too(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures")
    pq.write_table(
        pa.table({"file_name": ["ant/0.png", "crane/0.png"], "uid": ["ab" * 16] * 2}), folder / "metadata.parquet"
    )
    with pytest.raises(ValueError, match=r"metadata\.parquet: found the uid 'abab.*' for .*, expected each once"):
        load_index(str(folder))


def test_every_picture_is_read_once_with_the_id_of_its_folder(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures")
    (folder / "ant" / "notes.txt").write_text("no picture")
    index = load_index(str(folder))
    assert (len(index), int(index.left_out.sum())) == (15, 0)
    assert index.class_names == dict(enumerate(CLASSES))
    found = shown(folder)
    assert sorted(label for label, _ in found) == [0] * 5 + [1] * 5 + [2] * 5
    png = np.asarray(Image.open(folder / "crane" / "0.png")).tobytes()
    assert (1, png) in found


def test_a_stopped_stream_over_a_folder_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    folder, ours = write_pictures(tmp_path / "pictures"), write_data_set(tmp_path / "ours").root
    whole, _ = steps(folder, ours, num=9)
    first, state = steps(folder, ours, num=4)
    rest, _ = steps(folder, ours, num=5, state=state)
    assert first + rest == whole


def test_what_is_no_readable_file_is_left_out_and_counted(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures")
    (folder / "ant" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (folder / "ant" / "empty.png").touch()
    (folder / "crane" / "other.tiff").write_bytes(b"II*\0")
    os.mkfifo(folder / "crane" / "pipe.jpg")
    (folder / "zebra" / "._0.jpg").write_bytes(b"of macOS")
    (folder / "__MACOSX").mkdir()
    index = load_index(str(folder))
    assert (len(index), int(index.left_out.sum())) == (15, 4)


def test_a_picture_that_cannot_be_decoded_is_replaced_and_named_in_training_and_stops_a_test(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures")
    (folder / "ant" / "deep" / "1.jpg").write_bytes(b"\xff\xd8 and no picture")
    spec = StreamSpec(
        domains=(DomainSpec(name="real", source=str(folder), quota=3),), size_px=16, threads=0, bad_rate=0.5
    )
    with Stream(spec, groups=5, seed=0, epoch_steps=4) as stream:
        batch = next(stream)
        assert [bad.tar for bad in batch.replaced] == ["ant/deep/1.jpg"]
        assert batch.images.any(axis=(1, 2, 3)).all()
    with pytest.raises(ValueError, match=r"ant/deep/1\.jpg, id [0-9a-f]{16}: found no picture"):
        shown(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(b"other"), "changed"),
        (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "failed"),
    ],
)
def test_a_picture_that_changed_since_the_index_is_told(tmp_path: Path, change: Any, reason: str) -> None:
    folder = write_pictures(tmp_path / "pictures")
    index = load_index(str(folder))
    change(folder / index.files[3])
    from shards.disk.store import open_for_reading

    with Fetcher(index, open_for_reading(str(folder))) as fetcher, pytest.raises(FetchError) as caught:
        fetcher.read(3)
    assert caught.value.reason == reason


def test_folders_of_a_part_of_the_classes_have_the_ids_of_the_list(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "part", ("zebra", "crane"))
    whole = [Entry(4, "crane"), Entry(7, "zebra"), Entry(9, "ant")]
    assert sorted({label for label, _ in shown(folder, classes=whole)}) == [4, 7]
    with pytest.raises(ValueError, match="found the class folder 'zebra', expected the WordNet id, name or number"):
        load_index(str(folder), class_list=lambda source: whole[:1])


def test_other_sources_follow_the_classes_of_the_first_domain_or_of_a_list(tmp_path: Path) -> None:
    train = write_pictures(tmp_path / "train")
    part = write_pictures(tmp_path / "part", ("zebra",))
    spec = StreamSpec(domains=(DomainSpec(name="real", source=str(train), quota=1),), size_px=8)
    assert spec.class_list(str(train)) is None
    assert set(load_index(str(part), class_list=spec.class_list).label.tolist()) == {2}
    (tmp_path / "list.csv").write_text("id,name\n5,ant\n6,zebra\n7,crane\n")
    listed = spec.model_copy(update={"classes": str(tmp_path / "list.csv")})
    assert set(load_index(str(train), class_list=listed.class_list).label.tolist()) == {5, 6, 7}
    tars = tmp_path / "tars"
    write_foreign(tars, [0, 1])
    foreign = StreamSpec(domains=(DomainSpec(name="real", source=str(tars), quota=1),), size_px=8)
    assert foreign.class_list(str(part)) is None


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: [shutil.rmtree(folder / name) for name in CLASSES], "found no shards"),
        (lambda folder: (folder / "dog").symlink_to("nowhere"), "which leads nowhere, expected a class folder"),
        (lambda folder: (folder / "7").mkdir(), "a number, beside"),
    ],
)
def test_a_folder_whose_classes_cannot_be_told_is_refused(tmp_path: Path, spoil: Any, words: str) -> None:
    folder = write_pictures(tmp_path / "pictures")
    spoil(folder)
    with pytest.raises(ValueError, match=words):
        load_index(str(folder))


def test_an_image_folder_has_no_subsets(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found an image folder, expected no subset"):
        load_index(str(write_pictures(tmp_path / "pictures")), "2x")


# Hugging Face


def test_a_saved_dataset_is_read_in_place_as_datasets_reads_it(tmp_path: Path) -> None:
    labels = [0, 2, 1, 1, 0, 2, 2]
    write_dataset(labels).save_to_disk(tmp_path / "saved", num_shards=2)
    index = load_index(str(tmp_path / "saved"))
    assert (len(index), index.class_names) == (7, dict(enumerate(CLASSES)))
    theirs = datasets.load_from_disk(str(tmp_path / "saved"))
    expected = [(row["label"], np.asarray(row["image"]).tobytes()) for row in theirs]
    assert shown(tmp_path / "saved") == expected


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("pad_thai", "apple_pie"), ["pad thai", "apple pie"]),
        (("001.Least_Auklet", "002.Grebe"), ["Least Auklet", "Grebe"]),
        (("n02085620-Chihuahua", "n02085782-Japanese_spaniel"), ["Chihuahua", "Japanese spaniel"]),
        (("n01443537", "n01440764"), ["goldfish", "tench"]),
        (("7", "3"), ["7", "3"]),
    ],
)
def test_labels_are_called_as_class_folders_of_their_names_are_and_keep_their_numbers(
    tmp_path: Path, names: tuple[str, ...], said: list[str]
) -> None:
    write_dataset([0, 1, 1], names=names).save_to_disk(tmp_path / "saved")
    index = load_index(str(tmp_path / "saved"))
    assert index.class_names == dict(enumerate(said))
    assert index.label.tolist() == [0, 1, 1]
    assert [one.name for one in own_classes_of(str(tmp_path / "saved")) or ()] == said
    if names[0] == "pad_thai":
        write_pictures(tmp_path / "folders", names)
        assert set((load_index(str(tmp_path / "folders")).class_names or {}).values()) == set(said)
        listed = load_index(
            str(tmp_path / "saved"), class_list=lambda source: [Entry(4, "Apple-Pie"), Entry(9, said[0])]
        )
        assert (listed.class_names, listed.label.tolist()) == ({4: "Apple-Pie", 9: "pad thai"}, [9, 4, 4])


def test_a_split_of_several_is_named_as_the_subset(tmp_path: Path) -> None:
    both = datasets.DatasetDict({"train": write_dataset([0, 1, 2]), "test": write_dataset([2, 2], start=9)})
    both.save_to_disk(tmp_path / "saved")
    assert [label for label, _ in shown(tmp_path / "saved", "test")] == [2, 2]
    with pytest.raises(ValueError, match=r"found several among the splits \(train, test\), expected one; name it"):
        load_index(str(tmp_path / "saved"))
    with pytest.raises(ValueError, match="found no 'validation' among the splits"):
        load_index(str(tmp_path / "saved"), "validation")


@pytest.mark.parametrize("place", ["", "data"])
def test_parquet_is_unpacked_once_into_the_cache_and_read_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "set" / place
    folder.mkdir(parents=True)
    labels = [1, 0, 2, 2]
    write_dataset(labels).to_parquet(folder / "train-00000-of-00002.parquet")
    write_dataset([2], start=7).to_parquet(folder / "train-00001-of-00002.parquet")
    write_dataset([0], start=8).to_parquet(folder / "test-00000-of-00001.parquet")
    found = shown(tmp_path / "set", "train")
    assert [label for label, _ in found] == [*labels, 2]
    write_dataset(labels).save_to_disk(tmp_path / "saved")
    assert found[:4] == shown(tmp_path / "saved")
    copies = sorted((tmp_path / "cache" / "sixfold" / "arrow").glob("*.arrow"))
    assert len(copies) == 2
    before = [path.stat().st_mtime_ns for path in copies]
    moved = Path(shutil.copytree(tmp_path / "set", tmp_path / "moved"))
    assert load_index(str(moved), "train").digest == load_index(str(tmp_path / "set"), "train").digest
    assert [path.stat().st_mtime_ns for path in copies] == before


def test_of_parquet_files_that_say_how_many_they_are_none_may_be_missing(tmp_path: Path) -> None:
    write_dataset([1, 0]).to_parquet(tmp_path / "train-00000-of-00002-0a1b.parquet")
    write_dataset([1, 2]).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    assert [label for label, _ in shown(tmp_path, "test")] == [1, 2]
    with pytest.raises(ValueError, match=r"found 1 of 2 files that train-00000-of-00002-0a1b.parquet is one of"):
        load_index(str(tmp_path), "train")
    write_dataset([2], start=7).to_parquet(tmp_path / "train-00001-of-00002-c2d3.parquet")
    assert [label for label, _ in shown(tmp_path, "train")] == [1, 0, 2]


def test_an_unpacking_that_was_killed_leaves_nothing_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    write_dataset([1, 0, 2]).to_parquet(tmp_path / "set" / "train.parquet")
    whole = pq.ParquetFile.iter_batches

    def killed(self: pq.ParquetFile, *args: Any, **more: Any) -> Any:
        yield next(whole(self, *args, **more))
        raise KeyboardInterrupt

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", killed)
    with pytest.raises(KeyboardInterrupt):
        load_index(str(tmp_path / "set"))
    assert not list((tmp_path / "cache").rglob("*.arrow"))
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", whole)
    assert len(load_index(str(tmp_path / "set"))) == 3


def test_class_labels_follow_a_list_by_name(tmp_path: Path) -> None:
    write_dataset([0, 2, 1]).save_to_disk(tmp_path / "saved")
    known = [Entry(3, "zebra"), Entry(5, "Ant"), Entry(8, "crane")]
    assert load_index(str(tmp_path / "saved"), class_list=lambda source: known).label.tolist() == [5, 3, 8]
    with pytest.raises(ValueError, match="found the class folder 'zebra', expected"):
        load_index(str(tmp_path / "saved"), class_list=lambda source: known[1:])


def test_a_stopped_stream_over_a_saved_dataset_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    write_dataset([0, 2, 1, 1, 0, 2, 2, 0]).save_to_disk(tmp_path / "saved", num_shards=3)
    whole, _ = steps(tmp_path / "saved", num=9)
    first, state = steps(tmp_path / "saved", num=5)
    assert first + steps(tmp_path / "saved", num=4, state=state)[0] == whole


def test_rows_without_a_picture_are_left_out_and_counted(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    cells = [{"bytes": encode_jpeg(picture(0, 1)), "path": None}, None, {"bytes": b"", "path": None}]
    made = datasets.Dataset.from_dict({"image": cells, "label": [0, 1, 1]}, features=features)
    made.save_to_disk(tmp_path / "saved")
    index = load_index(str(tmp_path / "saved"))
    assert (len(index), int(index.left_out.sum())) == (1, 2)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"text": ["a"], "label": [0]}, "expected one of pictures"),
        ({"image": [{"bytes": b"x", "path": None}]}, "one of class labels"),
        ({"image": [{"bytes": b"x", "path": None}], "label": ["cat"]}, "one of class labels"),
        ({"image": [{"bytes": b"x", "path": None}], "label": [-1]}, "found the label -1"),
        ({"image": [{"bytes": b"x", "path": None}], "label": [None]}, "a row without a label|one of class labels"),
    ],
)
def test_columns_that_are_no_pictures_with_labels_are_named(tmp_path: Path, columns: Any, words: str) -> None:
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=words) as caught:
        load_index(str(tmp_path / "saved"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [0, 40, 300])
def test_a_file_that_was_cut_short_is_refused_in_one_line(tmp_path: Path, cut: int) -> None:
    write_dataset([0, 2, 1]).save_to_disk(tmp_path / "saved")
    [file] = (tmp_path / "saved").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ValueError, match="found a file that cannot be read") as caught:
        load_index(str(tmp_path / "saved"))
    assert "\n" not in str(caught.value)


def test_packed_arrow_data_are_refused(tmp_path: Path) -> None:
    write_dataset([0, 2, 1]).save_to_disk(tmp_path / "saved")
    [file] = (tmp_path / "saved").glob("*.arrow")
    with pa.ipc.open_stream(file.read_bytes()) as reader:
        table = reader.read_all()
    with pa.ipc.new_stream(file, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as out:
        out.write_table(table)
    with pytest.raises(ValueError, match="found Arrow data that are packed"):
        load_index(str(tmp_path / "saved"))


def test_a_state_that_names_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    write_dataset([0, 2, 1]).save_to_disk(tmp_path / "saved")
    state = tmp_path / "saved" / "state.json"
    state.write_text(state.read_text().replace("data-00000", "../data-00000"))
    with pytest.raises(ValueError, match="file name: found"):
        load_index(str(tmp_path / "saved"))


def test_a_folder_that_was_exported_is_an_image_folder_with_the_names_of_its_table(tmp_path: Path) -> None:
    ours = write_data_set(
        tmp_path / "ours", change=lambda shard, index, row: {**row, "class_name": "鶴" * (row["class_id"] + 1)}
    )  # type: ignore[operator]
    export_image_folder(ours, tmp_path / "exported", Choice())
    index = load_index(str(tmp_path / "exported"))
    assert len(index) == 20
    assert index.class_names == {number: "鶴" * (number + 1) for number in range(5)}
