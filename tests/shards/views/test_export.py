"""What the exports promise: other tools' files, nothing changed at the source, no image without a licence."""

import hashlib
import json
import os
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

import sixfold
from shards.disk.jpeg import decode_jpeg, encode_jpeg, read_source_type
from shards.disk.layout import SAMPLE_SCHEMA
from shards.disk.object_store import ObjectStore
from shards.disk.store import FolderStore, Store, open_for_reading, open_store
from shards.labels.classes import Class, ClassSpec, load_classes
from shards.labels.folders import class_folder, class_folders_in, own_classes
from shards.labels.metadata import names_beside
from shards.set.manifest import read_member, read_table, scan_records
from shards.set.subset import subset_of
from shards.set.verify import verify
from shards.views.export import Choice, Exported, export_dali, export_hugging_face, export_open_clip, export_timm
from shards.views.image_folder import export_image_folder, find_pictures, import_image_folder
from shards.views.licence import may_be_passed_on
from shards.views.push import data_set_files
from tests.support.hostile_text import PAYLOADS
from tests.support.small_data_set import picture, write_data_set
from tests.support.traced import peak_bytes

EXPORTS: dict[str, Callable[[Store, Path, Choice], Exported]] = {
    "timm": export_timm,
    "open_clip": export_open_clip,
    "dali": export_dali,
    "hugging_face": export_hugging_face,
    "image_folder": export_image_folder,
}
COLUMNS = ["uid", "key", "shard", "status"]


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return write_data_set(tmp_path / "set")


def kept(store: Store) -> dict[str, dict[str, object]]:
    rows = read_table(store, sorted(scan_records(store))).to_pylist()
    return {row["key"]: row for row in rows if row["status"] == "success"}


def half_of(store: Store) -> Choice:
    """All of shard 1, three samples of shard 0."""
    rows = read_table(store, [0, 1], COLUMNS).to_pylist()
    return Choice(subset_of(read_table(store, [0, 1], COLUMNS).take([i for i, r in enumerate(rows) if wanted(r)])))


def wanted(row: dict[str, object]) -> bool:
    return row["status"] == "success" and (row["shard"] == 1 or row["key"] in ("000000001", "000000004", "000000005"))


def tar_members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_leaves_the_data_set_as_it_was(store: FolderStore, tmp_path: Path, name: str) -> None:
    scan_records(store)
    before = tree(store.root)
    assert EXPORTS[name](store, tmp_path / "out", Choice()).num_samples == 20
    EXPORTS[name](store, store.root / "_meta" / "export" / name, half_of(store))
    assert {path: found for path, found in tree(store.root).items() if not path.startswith("_meta/export/")} == before


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_never_writes_into_a_folder_that_holds_other_files(
    store: FolderStore, tmp_path: Path, name: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="choose another"):
        EXPORTS[name](store, tmp_path / "out", Choice())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_of_nothing_is_an_error_and_leaves_no_folder(store: FolderStore, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no chosen sample"):
        EXPORTS[name](store, tmp_path / "out", Choice(subset={}))
    assert not (tmp_path / "out").exists()


def test_every_json_at_the_top_of_a_data_set_is_a_record_as_img2datasets_resume_wants_it(
    store: FolderStore, tmp_path: Path
) -> None:
    for name, export in EXPORTS.items():
        export(store, store.root / "_meta" / "export" / name, Choice())
    shards = [int(path.name.split("_")[0]) for path in store.root.glob("*.json")]
    assert sorted(shards) == [0, 1]


@pytest.mark.parametrize("name", EXPORTS)
@pytest.mark.parametrize("place", [".", "timm", "_meta", "_meta/gallery"])
def test_an_export_into_the_data_set_itself_is_refused(
    store: FolderStore, tmp_path: Path, name: str, place: str
) -> None:
    scan_records(store)
    before = tree(store.root)
    with pytest.raises(ValueError, match="found the data set itself or a folder in it"):
        EXPORTS[name](store, store.root / place, Choice())
    assert tree(store.root) == before


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_of_a_folder_without_shards_says_what_makes_some(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"found no shards, expected a data set; .* `sixfold generate`"):
        EXPORTS[name](open_store(str(tmp_path / "set")), tmp_path / "out", Choice())
    assert not (tmp_path / "out").exists()


def test_links_into_the_data_set_survive_moving_it(store: FolderStore, tmp_path: Path) -> None:
    export_timm(store, store.root / "_meta" / "export" / "timm", Choice())
    store.root.rename(tmp_path / "moved")
    tar = tmp_path / "moved" / "_meta" / "export" / "timm" / "00001.tar"
    assert tar.is_symlink()
    assert tar.read_bytes() == (tmp_path / "moved" / "00001.tar").read_bytes()


def test_timm_finds_its_split_with_every_count(store: FolderStore, tmp_path: Path) -> None:
    export_timm(store, tmp_path / "out", Choice(), split="generated")
    info = json.loads((tmp_path / "out" / "_info.json").read_text())["splits"]["generated"]
    assert info == {
        "name": "generated",
        "num_samples": 20,
        "filenames": ["00000.tar", "00001.tar"],
        "shard_lengths": [10, 10],
    }


def test_open_clip_finds_the_size_of_every_tar(store: FolderStore, tmp_path: Path) -> None:
    from open_clip_train.data import get_dataset_size

    export_open_clip(store, tmp_path / "out", half_of(store))
    assert get_dataset_size(f"{tmp_path / 'out'}/{{00000..00001}}.tar") == (13, 2)
    assert json.loads((tmp_path / "out" / "sizes.json").read_text()) == {"00000.tar": 3, "00001.tar": 10}


@pytest.mark.parametrize("whole", [True, False])
def test_dalis_index_names_the_place_of_every_member(store: FolderStore, tmp_path: Path, whole: bool) -> None:
    export_dali(store, tmp_path / "out", Choice() if whole else half_of(store))
    for tar in sorted((tmp_path / "out").glob("*.tar")):
        lines = tar.with_suffix(".idx").read_text().splitlines()
        found = []
        for line in lines[1:]:
            words = line.split(" ")
            found += [tuple(words[at : at + 4]) for at in range(0, len(words), 4)]
        with tarfile.open(tar) as archive:
            expected = [
                (member.name.split(".")[1], str(member.offset_data), str(member.size), member.name)
                for member in archive
            ]
        assert found == expected
        assert lines[0] == f"v1.2 {len(expected) // 4}"


def test_a_tar_with_some_samples_chosen_holds_exactly_these_byte_for_byte(store: FolderStore, tmp_path: Path) -> None:
    export_timm(store, tmp_path / "out", half_of(store))
    cut, whole = tmp_path / "out" / "00000.tar", tar_members(store.root / "00000.tar")
    assert not cut.is_symlink()
    chosen = {name: data for name, data in whole.items() if name[:9] in ("000000001", "000000004", "000000005")}
    assert tar_members(cut) == chosen
    assert cut.stat().st_size % 10_240 == 0
    assert (tmp_path / "out" / "00001.tar").is_symlink()


def test_tars_of_an_export_are_numbered_without_gaps(store: FolderStore, tmp_path: Path) -> None:
    rows = read_table(store, [1], COLUMNS)
    export_timm(store, tmp_path / "out", Choice(subset_of(rows.filter(pc.equal(rows["status"], "success")))))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00000.tar", "_info.json"]
    assert (tmp_path / "out" / "00000.tar").read_bytes() == (store.root / "00001.tar").read_bytes()


def test_a_damaged_tar_is_not_cut_in_silence(store: FolderStore, tmp_path: Path) -> None:
    tar = store.root / "00000.tar"
    tar.write_bytes(tar.read_bytes()[2_048:] + bytes(2_048))
    with pytest.raises(ValueError, match="run sixfold verify"):
        export_timm(store, tmp_path / "out", half_of(store))
    with pytest.raises(ValueError, match="run sixfold verify"):
        export_image_folder(store, tmp_path / "out", Choice())
    assert not (tmp_path / "out").exists()


def test_a_data_set_in_an_object_store_is_exported_as_copies(tmp_path: Path) -> None:
    local = write_data_set(tmp_path / "set")
    remote = open_store("memory://export-copies")
    for name in local.list():
        remote.write_exclusive(name, local.read_bytes(name))
    export_timm(remote, tmp_path / "out", Choice())
    assert (tmp_path / "out" / "00001.tar").read_bytes() == (local.root / "00001.tar").read_bytes()
    assert not (tmp_path / "out" / "00001.tar").is_symlink()


@pytest.mark.parametrize("of", [Choice, lambda: half_of(open_for_reading("memory://export-short"))])
@pytest.mark.parametrize("spoil", [lambda data: data[: len(data) // 2], lambda data: bytes(len(data))])
def test_what_an_object_store_gives_is_compared_with_its_hash_and_asked_for_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[bytes], bytes],
    of: Callable[[], Choice],
) -> None:
    local = write_data_set(tmp_path / "set")
    remote = open_store("memory://export-short")
    for name in local.list():
        remote.write_exclusive(name, local.read_bytes(name))
    choice = of()
    export_timm(remote, tmp_path / "right", choice)
    whole, to_spoil = ObjectStore.read_range, ["first", "second"]

    def read_range(self: ObjectStore, name: str, start: int, size: int) -> bytes:
        data = whole(self, name, start, size)
        return spoil(data) if name.endswith(".tar") and to_spoil and to_spoil.pop() else data

    monkeypatch.setattr(ObjectStore, "read_range", read_range)
    monkeypatch.setattr("shards.views.export.PAUSES_S", (0.0,) * 4)
    export_timm(remote, tmp_path / "out", choice)
    for tar in (tmp_path / "right").glob("*.tar"):
        assert (tmp_path / "out" / tar.name).read_bytes() == tar.read_bytes()
    assert not to_spoil
    to_spoil += ["again"] * 9
    with pytest.raises(ValueError, match=r"tar: found other bytes .*than .* says; run sixfold verify"):
        export_timm(remote, tmp_path / "never", choice)
    assert not (tmp_path / "never").exists()


def test_memory_of_an_export_does_not_grow_with_the_data_set(tmp_path: Path) -> None:
    peaks = []
    for num_shards in (3, 12):
        store = write_data_set(tmp_path / f"set{num_shards}", num_shards=num_shards, num_slots=60)
        export_image_folder(store, tmp_path / f"warm{num_shards}", Choice())
        out = tmp_path / f"out{num_shards}"
        peaks.append(
            peak_bytes(lambda turn, store=store, out=out: export_image_folder(store, out / str(turn), Choice()))
        )
    assert peaks[1] < 1.5 * peaks[0], peaks


# the dataset card


def card_of(store: Store, folder: Path, choice: Choice) -> tuple[dict[str, object], str]:
    export_hugging_face(store, folder, choice)
    _, header, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(header), body


def test_the_card_says_what_the_images_are_and_what_made_them(store: FolderStore, tmp_path: Path) -> None:
    header, body = card_of(store, tmp_path / "digits", Choice())
    assert header["license"] == "apache-2.0"
    assert header["pretty_name"] == "digits"
    assert header["size_categories"] == ["n<1K"]
    assert "synthetic" in header["tags"]  # type: ignore[operator]
    assert header["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "*.tar"}]}]
    for expected in (
        "Every image in this data set is synthetic",
        "20 images of 5 classes",
        "4 more draws were rejected",
    ):
        assert expected in body
    for expected in ("sandbox/generator @ 0123456789abcdef | 20", "apache-2.0 | 20", "Measure on real images only"):
        assert expected in body


def half_edited(shard: int, index: int, row: dict[str, object]) -> dict[str, object]:
    """As a set whose first samples were only perturbed."""
    told = json.dumps({"attribute": f"moss {index}", "kind": "background", "side": "feasible"})
    return {**row, "domain": "edited", "url": f"source-{index}#sha256={'0' * 64}", "edit": told if index > 4 else None}


def test_the_card_of_an_edited_set_has_its_edits_among_the_features_and_says_what_they_are(tmp_path: Path) -> None:
    header, body = card_of(write_data_set(tmp_path / "set", change=half_edited), tmp_path / "card", Choice())
    _, _, facts, *_ = header["dataset_info"]["features"]  # type: ignore[index]
    assert {"name": "edit", "dtype": "string"} in facts["struct"]
    assert "20 real pictures that a generative model has changed" in body
    assert "mask (COCO run lengths)" in body
    plain, other = card_of(write_data_set(tmp_path / "plain"), tmp_path / "other", Choice())
    assert "edit" not in str(plain["dataset_info"])
    assert "COCO" not in other


def test_an_image_folder_keeps_what_was_edited_and_comes_back_with_it(tmp_path: Path) -> None:
    store = write_data_set(tmp_path / "set", change=half_edited)
    export_image_folder(store, tmp_path / "folder", Choice())
    edits = [row["edit"] for row in kept(store).values()]
    assert pq.read_table(tmp_path / "folder" / "metadata.parquet")["edit"].to_pylist() == edits
    import_image_folder(tmp_path / "folder", str(tmp_path / "back"), samples_per_shard=10)
    for name in ("00000.tar", "00001.tar"):
        assert (tmp_path / "back" / name).read_bytes() == (store.root / name).read_bytes()
    assert [row["edit"] for row in kept(open_for_reading(str(tmp_path / "back"))).values()] == edits
    assert verify(open_for_reading(str(tmp_path / "back"))).damages == ()


def test_j3_j8_hostile_names_stay_text_in_the_card(tmp_path: Path) -> None:
    def change(shard: int, index: int, row: dict[str, object]) -> dict[str, object]:
        text = PAYLOADS[(shard * 12 + index) % len(PAYLOADS)]
        return {
            **row,
            "class_id": shard * 12 + index,
            "class_name": text,
            "model": text,
            "sampler": text,
            "licence": text,
        }

    store = write_data_set(tmp_path / "set", num_shards=9, num_slots=12, num_rejected=0, change=change)
    header, body = card_of(store, tmp_path / "--- x: y", Choice(unknown_licence="keep"))
    assert set(header) == {
        *("pretty_name", "license", "license_name", "task_categories", "size_categories", "tags", "dataset_info"),
        "configs",
    }
    assert header["license"] == "other"
    assert header["pretty_name"] == "--- x: y"
    plain = body.replace("\\\\", "").replace("\\<", "").replace("\\`", "").replace("\\[", "")
    assert "<" not in plain
    assert plain.count("`") == body.count("\n```") * 3 + 12  # the code block and the four member names, fingerprint
    rows = [line for line in body.splitlines() if line.startswith("| ")]
    assert {line.replace("\\\\", "").replace("\\|", "").count("|") for line in rows} == {3}


def test_a_card_with_several_licences_does_not_claim_one(tmp_path: Path) -> None:
    def change(shard: int, index: int, row: dict[str, object]) -> dict[str, object]:
        return {**row, "licence": "my-own-1.0" if index else "MIT"}

    header, body = card_of(write_data_set(tmp_path / "set", change=change), tmp_path / "out", Choice())
    assert (header["license"], header["license_name"]) == ("other", "see-card")
    assert "my-own-1.0 | 18" in body


# licences


def some_unlicensed(shard: int, index: int, row: dict[str, object]) -> dict[str, object]:
    if index == 0:
        return {**row, "licence": None}
    return {**row, "licence": "unknown"} if index == 1 else row


@pytest.mark.parametrize("name", EXPORTS)
def test_k8_samples_without_a_licence_stop_the_export(tmp_path: Path, name: str) -> None:
    store = write_data_set(tmp_path / "set", change=some_unlicensed)
    with pytest.raises(ValueError, match="found 4 of 20 samples without a licence"):
        EXPORTS[name](store, tmp_path / "out", Choice())
    assert not (tmp_path / "out").exists()


def test_k8_a_set_without_any_licence_is_told_where_licences_come_from(tmp_path: Path) -> None:
    store = write_data_set(tmp_path / "set", change=lambda shard, index, row: {**row, "licence": "unknown"})
    for choice in ("refuse", "leave_out"):
        with pytest.raises(ValueError, match=r"the recipe field sampler\.licence names") as told:
            EXPORTS["timm"](store, tmp_path / "out", Choice(unknown_licence=choice))
        assert "--unlicensed keep" in str(told.value)
    assert "so all 20 would be left out, expected at least one" in str(told.value)
    with pytest.raises(ValueError, match=r"without a licence .* sampler\.licence"):
        data_set_files(store, "numbers")


@pytest.mark.parametrize("name", EXPORTS)
def test_k8_samples_without_a_licence_can_be_left_out(tmp_path: Path, name: str) -> None:
    store = write_data_set(tmp_path / "set", change=some_unlicensed)
    done = EXPORTS[name](store, tmp_path / "out", Choice(unknown_licence="leave_out"))
    assert (done.num_samples, done.num_left_out) == (16, 4)
    if name == "image_folder":
        assert len(list(done.folder.glob("*/*.jpg"))) == 16
    else:
        assert sum(len(tar_members(tar)) for tar in done.folder.glob("*.tar")) == 16 * 4
    if name == "hugging_face":
        assert "4 images without a licence were left out" in (done.folder / "README.md").read_text()


def test_k8_a_card_of_unlicensed_images_says_that_they_must_not_be_passed_on(tmp_path: Path) -> None:
    store = write_data_set(tmp_path / "set", change=some_unlicensed)
    header, body = card_of(store, tmp_path / "out", Choice(unknown_licence="keep"))
    assert header["license"] == "other"
    assert "4 images carry no licence that lets them be passed on" in body


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        *((name, True) for name in ("MIT", "CC-BY-4.0", "cc by nc 4.0", "openrail++", "Copyrighted free use")),
        *((name, False) for name in (None, "", "?", " Unknown ", "N/A", "null", "not specified", "Not_Specified")),
        *(
            (name, False)
            for name in ("Proprietary", "All rights reserved.", "all_rights_reserved", "ALL-RIGHTS-RESERVED")
        ),
        *((name, False) for name in ("copyrighted", "no redistribution", "No-Redistribution", "\u00a9")),
    ],
)
def test_k8_a_licence_must_be_named_and_open(licence: str | None, expected: bool) -> None:
    assert may_be_passed_on(licence) is expected


# image folders


def test_an_image_folder_comes_back_with_the_same_bytes_and_captions(store: FolderStore, tmp_path: Path) -> None:
    export_image_folder(store, tmp_path / "folder", Choice())
    before = tree(tmp_path / "folder")
    done = import_image_folder(tmp_path / "folder", str(tmp_path / "back"), samples_per_shard=7)
    back = open_for_reading(str(tmp_path / "back"))
    assert (done.num_shards, done.num_samples, done.num_failed) == (3, 20, 0)
    old, new = list(kept(store).values()), list(kept(back).values())
    same = [name for name in SAMPLE_SCHEMA.names if name != "key"]
    for one, other in zip(old, new, strict=True):
        assert read_member(store, one) == read_member(back, other)
        assert {name: one[name] for name in same} == {name: other[name] for name in same}
    assert tree(tmp_path / "folder") == before


def test_an_image_folder_that_came_back_whole_makes_the_same_tars(store: FolderStore, tmp_path: Path) -> None:
    export_image_folder(store, tmp_path / "folder", Choice())
    import_image_folder(tmp_path / "folder", str(tmp_path / "back"), samples_per_shard=10)
    for name in ("00000.tar", "00001.tar"):
        assert (tmp_path / "back" / name).read_bytes() == (store.root / name).read_bytes()


def test_a_subset_goes_out_as_an_image_folder(store: FolderStore, tmp_path: Path) -> None:
    export_image_folder(store, tmp_path / "folder", half_of(store))
    names = {path.stem for path in (tmp_path / "folder").glob("*/*.jpg")}
    assert names == {key for key, row in kept(store).items() if wanted(row)}


def test_torchvision_reads_the_class_ids_from_the_folder_names(store: FolderStore, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    export_image_folder(store, tmp_path / "folder", Choice())
    rows = kept(store)
    for path, label in ImageFolder(str(tmp_path / "folder")).samples:
        assert rows[Path(path).stem]["class_id"] == label


def test_a_foreign_folder_becomes_real_samples_and_no_file_is_lost_in_silence(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    cat, dog = folder / "cat", folder / "dog" / "puppies"
    cat.mkdir(parents=True)
    dog.mkdir(parents=True)
    plain = encode_jpeg(picture(0, 1), source_type=None)
    (cat / "plain.jpg").write_bytes(plain)
    (cat / "note.txt").write_text("not a picture")
    (cat / "torn.jpg").write_bytes(plain[: len(plain) // 2])
    (cat / "text.jpg").write_text("<svg onload=alert(1)>")
    (cat / "polyglot.jpg").write_bytes(plain + b"PK\x03\x04 a zip behind the picture")
    Image.fromarray(picture(1, 2)).save(dog / "lossless.png")
    Image.fromarray(picture(1, 3)).convert("CMYK").save(dog / "press.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(1, 4)[:20]).save(dog / "turned.JPEG", exif=exif, quality=95)
    (folder / "README").write_text("mine")

    done = import_image_folder(folder, str(tmp_path / "set"), licence="CC-BY-4.0")
    store = open_for_reading(str(tmp_path / "set"))
    rows = read_table(store, [0]).to_pylist()
    assert (done.num_samples, done.num_failed, done.ignored) == (5, 2, ("README", "cat/note.txt"))
    assert {row["status"] for row in rows} == {"success", "failed_to_decode"}
    assert {row["error_message"].split(":")[0] for row in rows if row["error_message"]} == {
        "cat/torn.jpg",
        "cat/text.jpg",
    }
    good = [row for row in rows if row["status"] == "success"]
    assert {(row["domain"], row["licence"]) for row in good} == {("real", "CC-BY-4.0")}
    assert sorted((row["class_id"], row["class_name"], row["caption"]) for row in good) == [
        *([(0, "cat", "cat")] * 2),
        *([(1, "dog", "dog")] * 3),
    ]
    images = [read_member(store, row) for row in good]
    assert plain in images
    assert all(b"PK\x03\x04" not in data for data in images)  # H11: pixels only
    assert sorted((row["width"], row["height"]) for row in good) == [(20, 32), *([(32, 32)] * 4)]
    pixels = [decode_jpeg(data).astype(int) for data in images]
    assert [np.abs(image - picture(1, 2)).mean() < 4 for image in pixels if image.shape == (32, 32, 3)].count(True) == 1


def test_links_that_lead_nowhere_or_to_a_folder_are_rows_and_are_not_counted_as_pictures(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.jpg").write_bytes(encode_jpeg(picture(0, 1), source_type=None))
    elsewhere.mkdir()
    (elsewhere / "b.jpg").write_bytes(encode_jpeg(picture(0, 2), source_type=None))
    (folder / "cat" / "good.jpg").symlink_to(elsewhere / "b.jpg")
    (folder / "cat" / "gone.jpg").symlink_to(elsewhere / "never.jpg")
    (folder / "cat" / "loop.png").symlink_to(folder / "cat" / "loop.png")
    (folder / "dog" / "more").symlink_to(elsewhere)
    (folder / "list.txt").symlink_to("nowhere")
    assert [one.count for one in load_classes(ClassSpec(source=str(folder)))] == [2, 1]

    done = import_image_folder(folder, str(tmp_path / "set"))
    assert (done.num_samples, done.num_failed, done.ignored) == (3, 3, ("list.txt",))
    rows = read_table(open_for_reading(str(tmp_path / "set")), [0]).to_pylist()
    assert {row["error_message"] for row in rows if row["status"] != "success"} == {
        "cat/gone.jpg: found a link that leads nowhere, expected a file",
        "cat/loop.png: found a link that leads nowhere, expected a file",
        "dog/more: found a link to a folder, which is not followed, expected a file",
    }
    said = CliRunner().invoke(
        sixfold.command_line(), ["export", str(folder), "--to", "shards", "--out", str(tmp_path / "again")]
    )
    assert said.exit_code == 3
    assert "3 not readable" in said.stdout


def test_a_class_folder_that_is_a_link_to_nowhere_is_refused_because_ids_would_shift(tmp_path: Path) -> None:
    for name in ("ant", "cat"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "a.jpg").write_bytes(encode_jpeg(picture(0, 1), source_type=None))
    (tmp_path / "photos" / "fly").symlink_to(tmp_path / "photos" / "ant")  # a link to a folder of pictures is one
    assert class_folders_in(tmp_path / "photos") == ["ant", "cat", "fly"]
    (tmp_path / "photos" / "bee").symlink_to(tmp_path / "away")
    for use in (
        lambda: import_image_folder(tmp_path / "photos", str(tmp_path / "set")),
        lambda: load_classes(ClassSpec(source=str(tmp_path / "photos"))),
    ):
        with pytest.raises(ValueError, match="found the link 'bee', which leads nowhere, expected a class folder"):
            use()
    assert not (tmp_path / "set").exists()


def test_k7_a_generated_picture_is_not_taken_for_a_real_one_whatever_folder_it_lies_in(tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "cat"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(encode_jpeg(picture(0, 1), source_type="trainedAlgorithmicMedia"))
    (folder / "b.jpg").write_bytes(encode_jpeg(picture(0, 2), source_type=None))
    import_image_folder(tmp_path / "photos", str(tmp_path / "set"))
    store = open_for_reading(str(tmp_path / "set"))
    domains = {row["domain"]: read_source_type(read_member(store, row)) for row in kept(store).values()}
    assert domains == {"synthetic": "trainedAlgorithmicMedia", "real": None}


def test_an_import_that_was_stopped_goes_on_and_another_folder_is_refused(store: FolderStore, tmp_path: Path) -> None:
    export_image_folder(store, tmp_path / "folder", Choice())
    back = str(tmp_path / "back")

    def stop(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_image_folder(tmp_path / "folder", back, samples_per_shard=7, progress=stop)
    done = import_image_folder(tmp_path / "folder", back, samples_per_shard=7)
    assert (done.num_already_there, done.num_shards, done.num_samples) == (1, 3, 20)
    next((tmp_path / "folder").glob("*/*.jpg")).unlink()
    with pytest.raises(ValueError, match="was begun with other pictures or settings"):
        import_image_folder(tmp_path / "folder", back, samples_per_shard=7)


@pytest.mark.parametrize("num_done", [0, 1, 3])
def test_an_import_does_not_go_on_after_its_metadata_was_changed(tmp_path: Path, num_done: int) -> None:
    """Also with the same pictures: rows of both would stand in one set."""
    photos = folders(tmp_path / "photos", "ant", "cat", "dog")
    names = [f"{name}/a.jpg" for name in ("ant", "cat", "dog")]

    def begin(caption: str, licence: str) -> None:
        table = pa.table({"file_name": names, "caption": [caption] * 3, "licence": [licence] * 3})
        pq.write_table(table, photos / "metadata.parquet")
        import_image_folder(photos, str(tmp_path / "set"), samples_per_shard=1, progress=stop)

    def stop(done: int, total: int) -> None:
        if done == num_done:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        begin("old", "unknown")
    words = "begun with other pictures or settings" if not num_done else "another recipe|other pictures or settings"
    for changed in (("new", "unknown"), ("old", "MIT")):
        with pytest.raises(ValueError, match=words):
            begin(*changed)
    with pytest.raises(RuntimeError):
        begin("old", "unknown")
    assert len(scan_records(open_for_reading(str(tmp_path / "set")))) == num_done


def test_the_fingerprint_of_a_folder_without_metadata_is_that_of_earlier_versions(tmp_path: Path) -> None:
    for name in ("ant", "cat"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "a.jpg").write_bytes(b"no picture")
    import_image_folder(tmp_path / "photos", str(tmp_path / "set"))
    [record] = scan_records(open_for_reading(str(tmp_path / "set"))).values()
    assert record.fingerprint == "96d7e331f74b5cf67fec3f0af02cd13579dd6dc9892fdb22c0cd889b8bffab0b"


def folders(root: Path, *names: str) -> Path:
    """A folder of pictures with one picture for each of these classes."""
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "a.jpg").write_bytes(encode_jpeg(picture(0, 1), source_type=None))
    return root


def ids_of(folder: Path, classes: list[Class] | None = None) -> dict[str, tuple[int, str]]:
    """Sub-folder -> id and name of its pictures."""
    sources, _ = find_pictures(folder, classes)
    return {source.name.partition("/")[0]: (source.class_id, source.class_name) for source in sources}


SIX = [
    Class(0, "tench", "n01440764", 1),
    Class(1, "goldfish", "n01443537", 1),
    Class(2, "great white shark", "n01484850", 1),
    Class(3, "crane", "n02012849", 1),
    Class(4, "crane", "n03126707", 1),
    Class(11, "t-shirt", None, 1),
]


def test_a_part_of_the_classes_has_the_ids_of_the_whole_table(tmp_path: Path) -> None:
    part = folders(tmp_path / "a", "n01443537", "n03126707")
    assert ids_of(part, SIX) == {"n01443537": (1, "goldfish"), "n03126707": (4, "crane")}
    by_name = folders(tmp_path / "b", "Great_White-Shark", "T shirt", "0003_crane", "0")
    assert ids_of(by_name, SIX) == {
        "Great_White-Shark": (2, "great white shark"),
        "T shirt": (11, "t-shirt"),
        "0003_crane": (3, "crane"),
        "0": (0, "tench"),
    }


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("n01443537", "n09999999"), "found the class folder 'n09999999', expected the WordNet id, name or number of"),
        (("tench", "crane"), "'crane', which names the classes 3, 4, expected one; name it by WordNet id, or 0003_cr"),
        (("tench", "n01440764"), "found the class folders 'n01440764' and 'tench' for class 0"),
        (("tench", "12"), "found the class folder '12'"),
    ],
)
def test_a_folder_that_names_no_class_of_the_table_or_two_is_refused(tmp_path: Path, names, words) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        import_image_folder(folders(tmp_path / "photos", *names), str(tmp_path / "out"), classes=SIX)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_part_of_imagenet_is_refused_without_a_table_and_the_whole_gets_its_names(tmp_path: Path) -> None:
    part = folders(tmp_path / "part", "n01443537", "n03126707")
    with pytest.raises(ValueError, match=r"found 2 of ImageNet-1k's 1000 classes, expected all: .*--classes imagenet"):
        import_image_folder(part, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    imagenet = load_classes(ClassSpec(source="imagenet-1k", per_class=1))
    whole = folders(tmp_path / "whole", *(str(one.wordnet_id) for one in imagenet))
    assert ids_of(whole) == {one.wordnet_id: (one.id, one.name) for one in imagenet}


def test_wordnet_ids_that_are_no_part_of_imagenet_keep_their_sorted_order(tmp_path: Path) -> None:
    folder = folders(tmp_path / "photos", "n01440764", "n00000001")
    assert ids_of(folder) == {"n00000001": (0, "n00000001"), "n01440764": (1, "tench")}


def test_folders_that_are_numbers_are_their_ids_and_not_their_places_in_the_sorted_order(tmp_path: Path) -> None:
    assert ids_of(folders(tmp_path / "v2", "0", "2", "10")) == {"0": (0, "0"), "2": (2, "2"), "10": (10, "10")}


def test_the_table_names_the_class_even_if_the_folders_metadata_names_another(
    store: FolderStore, tmp_path: Path
) -> None:
    export_image_folder(store, tmp_path / "folder", Choice())
    table = [Class(number, word, None, 1) for number, word in enumerate(("ZERO", "one", "two", "crane", "crane"))]
    assert ids_of(tmp_path / "folder")["0000_zero"] == (0, "zero")
    assert ids_of(tmp_path / "folder", table)["0000_zero"] == (0, "ZERO")


def test_pictures_of_all_classes_are_mixed_so_that_a_shard_is_not_one_class(tmp_path: Path) -> None:
    for class_id in range(4):
        folder = tmp_path / "photos" / f"class{class_id}"
        folder.mkdir(parents=True)
        for index in range(25):
            (folder / f"{index}.jpg").write_bytes(b"never opened here")
    sources, _ = find_pictures(tmp_path / "photos")
    assert {source.class_id for source in sources[:25]} == {0, 1, 2, 3}
    assert [source.name for source in sources] == [source.name for source in find_pictures(tmp_path / "photos")[0]]


def test_a_folder_without_pictures_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found no folder"):
        find_pictures(tmp_path / "nowhere")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"found no picture in 1 sub-folders, .*; put the pictures of each class into"):
        find_pictures(tmp_path / "empty")


@pytest.mark.parametrize(
    ("twice", "found"),
    [
        ("uid", "found the uid 'abab.*' for 'crane/[ab].png' and 'crane/[ab].png', expected each once"),
        ("file_name", "found 1 file name a second time, expected each once"),
    ],
)
def test_a_metadata_file_that_names_one_thing_twice_is_refused_before_a_set_is_made(
    tmp_path: Path, twice: str, found: str
) -> None:
    rows = {"file_name": ["crane/a.png", "crane/b.png"], "uid": ["ab" * 16, "cd" * 16]}
    (tmp_path / "photos" / "crane").mkdir(parents=True)
    for name in rows["file_name"]:
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name)
    pq.write_table(pa.table({**rows, twice: rows[twice][:1] * 2}), tmp_path / "photos" / "metadata.parquet")
    with pytest.raises(ValueError, match=found):
        import_image_folder(tmp_path / "photos", str(tmp_path / "set"))
    assert not (tmp_path / "set").exists()


def test_files_with_names_of_other_bytes_and_what_is_no_file_are_rows_that_say_why(tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "crane"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    raw = os.fsencode(folder)
    shutil.copy(folder / "a.png", raw + b"/b\xff.png")
    with open(raw + b"/c\xfe.png", "wb") as file:
        file.write(b"no picture")
    os.mkfifo(folder / "d.png")
    (folder / "e.png").touch()
    os.truncate(folder / "e.png", 20 * 10**9)
    (folder / "f.png").symlink_to("/dev/zero")
    done = import_image_folder(tmp_path / "photos", str(tmp_path / "set"))
    assert (done.num_samples, done.num_failed) == (2, 4)
    store = open_for_reading(str(tmp_path / "set"))
    told = sorted(row["error_message"] for row in read_table(store, [0]).to_pylist() if row["error_message"])
    assert told == [
        "crane/c⟨U+DCFE⟩.png: found no picture of the kinds JPEG, PNG, WEBP, BMP, GIF, PPM",
        "crane/d.png: found a pipe, a device or a socket, expected a file",
        "crane/e.png: found 20,000,000,000 bytes, expected at most 268,435,456",
        "crane/f.png: found a pipe, a device or a socket, expected a file",
    ]
    assert not verify(store).damages


def test_a_class_folder_with_a_name_of_other_bytes_is_refused_on_every_way_in(tmp_path: Path) -> None:
    os.makedirs(os.fsencode(tmp_path) + b"/photos/\xfe\xff")
    with open(os.fsencode(tmp_path) + b"/photos/\xfe\xff/a.png", "wb") as file:
        file.write(b"any")
    for read in (
        lambda: import_image_folder(tmp_path / "photos", str(tmp_path / "set")),
        lambda: load_classes(ClassSpec(source=str(tmp_path / "photos"))),
    ):
        with pytest.raises(ValueError, match=r"found the class folder '⟨U.DCFE⟩⟨U.DCFF⟩', whose name is no UTF-8"):
            read()


def test_an_import_that_is_refused_leaves_nothing_behind(store: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match="found no picture"):
        import_image_folder(tmp_path / "photos", str(tmp_path / "out"))
    with pytest.raises(ValueError, match="found a data set of shards, expected a folder of pictures"):
        import_image_folder(store.root, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_folder_of_pictures_is_not_imported_into_itself(tmp_path: Path) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "a.jpg").write_bytes(encode_jpeg(picture(0, 1), source_type=None))
    before = tree(tmp_path)
    for out in ("{}", "{}/shards", "file://{}/shards", "local://{}/shards"):
        with pytest.raises(ValueError, match="expected one outside; choose another"):
            import_image_folder(tmp_path / "photos", out.format(tmp_path / "photos"))
    assert tree(tmp_path) == before


def test_a_metadata_file_that_is_no_table_is_refused_in_one_line(store: FolderStore, tmp_path: Path) -> None:
    export_image_folder(store, tmp_path / "folder", Choice())
    (tmp_path / "folder" / "metadata.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError, match=r"metadata\.parquet: found a table that cannot be used") as error:
        find_pictures(tmp_path / "folder")
    assert "\n" not in str(error.value)


def test_a_metadata_file_may_tell_of_some_pictures_alone_and_leave_cells_empty(tmp_path: Path) -> None:
    photos = folders(tmp_path / "photos", "ant", "cat", "dog")
    empty = {name: [None, None] for name in SAMPLE_SCHEMA.names}
    told = {**empty, "file_name": ["ant/a.jpg", "cat/a.jpg"], "caption": ["an ant at work", None]}
    pq.write_table(pa.table(told), photos / "metadata.parquet")
    assert import_image_folder(photos, str(tmp_path / "set")).num_samples == 3
    rows = kept(open_for_reading(str(tmp_path / "set"))).values()
    assert sorted((row["class_id"], row["class_name"], row["caption"], row["domain"]) for row in rows) == [
        (0, "ant", "an ant at work", "real"),
        (1, "cat", "cat", "real"),
        (2, "dog", "dog", "real"),
    ]
    assert not verify(open_for_reading(str(tmp_path / "set"))).damages
    named = pa.table({**told, "class_id": [4, None], "class_name": ["wood ant", None]})
    pq.write_table(named, photos / "metadata.parquet")
    assert names_beside(photos) == {4: "wood ant"}


@pytest.mark.parametrize(
    "columns",
    [{"file_name": [None, "cat/a.jpg"]}, {"file_name": ["cat/a.jpg"], "class_id": ["no number"]}, {"caption": ["a"]}],
)
def test_a_metadata_file_that_cannot_be_used_is_named_whatever_is_wrong_with_it(
    tmp_path: Path, columns: dict[str, list[object]]
) -> None:
    photos = folders(tmp_path / "photos", "cat")
    pq.write_table(pa.table(columns), photos / "metadata.parquet")
    with pytest.raises(ValueError, match=r"photos/metadata\.parquet: found a table that cannot be used \(") as caught:
        import_image_folder(photos, str(tmp_path / "set"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("side", [9_000, 10_000, 20_000])
def test_a_picture_that_claims_to_be_huge_is_refused_from_its_header_h7(tmp_path: Path, side: int) -> None:
    folder = tmp_path / "photos" / "cat"
    folder.mkdir(parents=True)
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\1IDAT")
    (folder / "fine.jpg").write_bytes(encode_jpeg(picture(0, 1), source_type=None))
    assert import_image_folder(tmp_path / "photos", str(tmp_path / "set")).num_failed == 1
    store = open_for_reading(str(tmp_path / "set"))
    assert "pixels" in "".join(row["error_message"] or "" for row in read_table(store, [0]).to_pylist())


def test_exported_folders_of_ids_with_five_digits_sort_by_id(tmp_path: Path) -> None:
    """As torchvision numbers them; with four digits 10000 would stand before 3."""
    ids = (3, 9_999, 10_000)
    store = write_data_set(
        tmp_path / "set",
        num_shards=1,
        num_slots=6,
        num_rejected=0,
        change=lambda shard, index, row: {**row, "class_id": ids[index % 3], "class_name": "crane"},
    )
    export_image_folder(store, tmp_path / "folder", Choice())
    folders = class_folders_in(tmp_path / "folder")
    assert [int(name.partition("_")[0]) for name in folders] == list(ids)
    assert [one.id for one in own_classes(folders, "here").values()] == list(ids)


@given(class_id=st.integers(0, 10**9 - 1), name=st.one_of(st.sampled_from(PAYLOADS), st.text()))
def test_j1_a_class_folder_is_one_plain_name_that_gives_the_id_back(class_id: int, name: str) -> None:
    folder = class_folder(class_id, name)
    number, _, slug = folder.partition("_")
    assert int(number) == class_id
    assert slug.isascii()
    assert slug.replace("_", "").isalnum()
    assert len(folder) <= 51
    assert Path(folder).name == folder


def test_the_metadata_of_a_folder_is_one_that_hugging_face_accepts(store: FolderStore, tmp_path: Path) -> None:
    import datasets

    export_image_folder(store, tmp_path / "folder", Choice())
    found = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "folder"), split="train", cache_dir=str(tmp_path / "cache")
    )
    rows = kept(store)
    assert {row["uid"]: (row["caption"], row["class_id"]) for row in found} == {
        row["uid"]: (row["caption"], row["class_id"]) for row in rows.values()
    }


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
