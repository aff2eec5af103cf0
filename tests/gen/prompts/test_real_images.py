"""Real images: which picture belongs to which class, which are taken, and what becomes of those that cannot be used."""

import io
import itertools
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from gen.prompts.real_images import RealImage, decode_picture, folders_of, read_real
from sandbox.real_folder import FOLDER, write_real_folder
from sandbox.sets import set_images, write_set
from shards.disk.checked_json import to_checked
from shards.disk.store import open_store
from shards.labels.classes import Class, ClassSpec, load_classes
from shards.set.drawn import write_per_class
from shards.set.status import SUMMARY
from shards.views.export import Choice
from shards.views.image_folder import export_image_folder
from tests.support.hostile_text import PAYLOADS
from tests.support.small_data_set import CLASS_NAMES, write_data_set
from tests.support.traced import peak_bytes

CRANES = (Class(3, "crane", "n02012849", 1), Class(4, "crane", "n03126707", 1))
SMALL = [Class(index, name, None, 1) for index, name in enumerate(CLASS_NAMES)]


def png(colour: tuple[int, int, int], size: tuple[int, int] = (8, 6)) -> bytes:
    return saved(Picture.new("RGB", size, colour), "PNG")


def saved(picture: Picture.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def write_folder(root: Path, names: list[str], each: int = 3) -> str:
    """A folder of one-coloured pictures; red tells the folder, green the number."""
    for index, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(each):
            (root / name / f"{number}.png").write_bytes(png((index, number, 0)))
    return str(root)


def colours(images: list[RealImage]) -> dict[int, list[tuple[int, int]]]:
    """Class id -> (red, green) of its pictures, in order."""
    found: dict[int, list[tuple[int, int]]] = {}
    for image in images:
        if image.pixels is not None:
            found.setdefault(image.class_id, []).append((int(image.pixels[0, 0, 0]), int(image.pixels[0, 0, 1])))
    return found


def refused(source: str, classes: list[Class], subset: str | None = None) -> str:
    with pytest.raises(ValueError) as caught:
        list(read_real(source, classes, 5, 0, subset))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# the sandbox's folder


def test_the_shipped_folder_is_the_first_twenty_shots_of_real_train() -> None:
    images, labels = set_images("real-train")
    files = sorted(FOLDER.rglob("*.jpg"), key=lambda path: (path.name, path.parent.name))
    assert len(files) == 200
    assert sum(path.stat().st_size for path in files) < 700_000
    for path, image, label in zip(files, images, labels, strict=False):
        assert int(path.parent.name[:4]) == label
        apart = np.abs(np.asarray(Picture.open(path)).astype(int) - image.astype(int))
        assert apart.mean() < 3  # what JPEG at quality 95 leaves; another picture is over 20 away


def test_the_folder_is_written_whole_and_never_over_another(tmp_path: Path) -> None:
    write_real_folder(tmp_path / "again")
    names = [{path.relative_to(root).as_posix() for path in root.rglob("*")} for root in (FOLDER, tmp_path / "again")]
    assert names[0] == names[1]
    with pytest.raises(ValueError, match="found a folder with other files"):
        write_real_folder(tmp_path / "again")


def test_the_shipped_folder_belongs_to_the_sandboxs_classes_also_to_the_first_three_alone() -> None:
    classes = load_classes(ClassSpec(source="sandbox"))
    everything = list(read_real("sandbox/real-train", classes, 50, 0))
    assert Counter(image.class_id for image in everything) == dict.fromkeys(range(10), 20)
    assert all(image.pixels is not None and image.pixels.shape == (64, 64, 3) for image in everything)
    three = list(read_real("sandbox/real-train", classes[:3], 50, 0))
    assert [image.name for image in three] == [image.name for image in everything[:60]]


# which folder is which class


def test_folders_are_found_by_wordnet_id_export_name_and_class_name() -> None:
    zebra = Class(0, "zebra", "n02391049", 1)
    assert folders_of(["n02391049", "n00000000"], [zebra], "x") == {0: "n02391049"}
    assert folders_of(["zebra", "yak"], [zebra], "x") == {0: "zebra"}
    assert folders_of(["0000_zebra", "yak"], [zebra], "x") == {0: "0000_zebra"}
    with pytest.raises(ValueError, match=r"folders '0000_zebra' and 'n02391049' for class 0 \(zebra\), expected one"):
        folders_of(["0000_zebra", "n02391049"], [zebra], "x")


def test_folders_that_name_no_class_are_taken_in_order_if_there_is_one_for_each_class() -> None:
    classes = [Class(0, "Black footed Albatross", None, 1), Class(1, "Laysan Albatross", None, 1)]
    folders = ["002.Laysan", "001.Black"]
    assert folders_of(folders, classes, "x") == {0: "001.Black", 1: "002.Laysan"}
    for others in (["001.Black"], [*folders, "003.Sooty"]):
        with pytest.raises(ValueError, match="expected the names of the classes"):
            folders_of(others, classes, "x")
    with pytest.raises(ValueError, match="expected the names of the classes"):
        folders_of(folders, classes[1:], "x")


def test_two_classes_of_one_name_are_told_apart_by_id_only(tmp_path: Path) -> None:
    assert folders_of(["n03126707", "n02012849"], CRANES, "x") == {3: "n02012849", 4: "n03126707"}
    assert folders_of(["0003_crane", "0004_crane"], CRANES, "x") == {3: "0003_crane", 4: "0004_crane"}
    with pytest.raises(ValueError, match=r"names the classes 3, 4, .*0003_crane, 0004_crane"):
        folders_of(["crane"], CRANES, "x")


def test_a_class_without_a_folder_and_a_folder_without_a_class_are_left_out(tmp_path: Path) -> None:
    source = write_folder(tmp_path, ["one", "ten"])
    assert set(colours(list(read_real(source, SMALL[:3], 5, 0)))) == {1}


def test_a_folder_name_in_decomposed_letters_is_the_same_name(tmp_path: Path) -> None:
    source = write_folder(tmp_path, ["cafe\u0301", "x"])
    assert set(colours(list(read_real(source, [Class(7, "caf\u00e9", None, 1)], 5, 0)))) == {7}


def test_hostile_class_names_are_never_paths(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "in", ["0999_class"])
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x.png").write_bytes(png((9, 9, 9)))
    classes = [Class(index, name, None, 1) for index, name in enumerate([*PAYLOADS, "../secret", str(tmp_path)])]
    message = refused(source, classes)
    assert message.isprintable()
    assert len(message) < 500


# which images


def test_fewer_images_are_the_first_of_more_and_another_seed_takes_others(tmp_path: Path) -> None:
    source = write_folder(tmp_path, ["zero", "one"], each=12)
    few, many = (colours(list(read_real(source, SMALL[:2], count, 3))) for count in (5, 12))
    assert {class_id: found[:5] for class_id, found in many.items()} == few
    assert sorted(many[1]) == [(1, number) for number in range(12)]
    assert colours(list(read_real(source, SMALL[:2], 5, 4))) != few
    assert colours(list(read_real(source, SMALL[:2], 5, 3))) == few


def test_the_images_of_a_class_do_not_depend_on_the_other_classes(tmp_path: Path) -> None:
    source = write_folder(tmp_path, ["zero", "one", "two"], each=9)
    together = colours(list(read_real(source, SMALL[:3], 4, 0)))
    assert colours(list(read_real(source, SMALL[1:2], 4, 0))) == {1: together[1]}


def test_pictures_in_folders_below_the_class_folder_count_and_other_files_do_not(tmp_path: Path) -> None:
    source = write_folder(tmp_path, ["zero"], each=1)
    (tmp_path / "zero" / "more").mkdir()
    (tmp_path / "zero" / "more" / "7.PNG").write_bytes(png((0, 7, 0)))
    (tmp_path / "zero" / "notes.txt").write_text("none")
    (tmp_path / ".hidden").mkdir()
    images = list(read_real(source, SMALL[:1], 5, 0))
    assert sorted(image.name for image in images) == ["zero/0.png", "zero/more/7.PNG"]


# pictures that cannot be used


def bad_files() -> dict[str, tuple[bytes, str]]:
    jpeg = saved(Picture.new("RGB", (64, 64), (1, 2, 3)), "JPEG")
    plain = png((0, 0, 0))
    claim = b"IHDR" + (60_000).to_bytes(4, "big") + (60_000).to_bytes(4, "big") + plain[24:29]
    bomb = plain[:12] + claim + zlib.crc32(claim).to_bytes(4, "big") + plain[33:]
    return {
        "empty.jpg": (b"", "failed_to_decode"),
        "text.png": (b"no picture", "failed_to_decode"),
        "half.jpg": (jpeg[: len(jpeg) // 2], "failed_to_decode"),
        "strip.png": (png((0, 0, 0), (1, 900)), "too_narrow"),
        "bomb.png": (bomb, "too_large"),
        "scan.tif": (saved(Picture.new("RGB", (4, 4)), "TIFF"), "unsupported_format"),
        "tif.png": (saved(Picture.new("RGB", (4, 4)), "TIFF"), "failed_to_decode"),
    }


def test_a_picture_that_cannot_be_used_is_a_reason_and_another_takes_its_place(tmp_path: Path) -> None:
    source = write_folder(tmp_path, ["zero"], each=4)
    for name, (data, _) in bad_files().items():
        (tmp_path / "zero" / name).write_bytes(data)
    images = list(read_real(source, SMALL[:1], 4, 0))
    assert len(colours(images)[0]) == 4
    assert all((image.pixels is None) != (image.reason is None) for image in images)
    everything = list(read_real(source, SMALL[:1], 50, 0))
    reasons = {image.name.removeprefix("zero/"): image.reason for image in everything if image.reason}
    assert reasons == {name: reason for name, (_, reason) in bad_files().items()}


def test_only_if_no_picture_is_left_it_is_an_error(tmp_path: Path) -> None:
    source = write_folder(tmp_path, ["zero", "one"], each=0)
    for name, (data, _) in bad_files().items():
        (tmp_path / "zero" / name).write_bytes(data)
    message = refused(source, SMALL[:2])
    assert "4 failed_to_decode, 1 too_large, 1 too_narrow, 1 unsupported_format" in message


def test_a_claim_of_gigapixels_costs_no_memory() -> None:
    data, reason = bad_files()["bomb.png"]
    assert decode_picture(data) == reason
    assert peak_bytes(lambda turn: decode_picture(data)) < 1_000_000


@pytest.mark.parametrize("seed", range(3))
def test_damaged_bytes_are_pixels_or_a_reason_and_never_an_exception(seed: int) -> None:
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    noise = Picture.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    for kind, _ in itertools.product(("JPEG", "PNG", "WEBP"), range(120)):
        data = bytearray(saved(noise, kind))
        for at in rng.integers(0, len(data), int(rng.integers(1, 12))):
            data[at] = int(rng.integers(256))
        found = decode_picture(
            bytes(data[: int(rng.integers(1, len(data) + 1))]) if rng.random() < 0.3 else bytes(data)
        )
        assert isinstance(found, str) or (found.dtype == np.uint8 and found.shape[2] == 3)


def test_every_kind_of_picture_becomes_upright_rgb() -> None:
    for mode in ("L", "RGBA", "P", "1", "CMYK", "LA"):
        kind = "JPEG" if mode == "CMYK" else "PNG"
        pixels = decode_picture(saved(Picture.new("RGB", (9, 5), (250, 250, 250)).convert(mode), kind))
        assert isinstance(pixels, np.ndarray)
        assert pixels.shape == (5, 9, 3)
    exif = Picture.Exif()
    exif[0x0112] = 6  # lies on its side
    turned = decode_picture(saved(Picture.new("RGB", (9, 5)), "JPEG", exif=exif))
    assert isinstance(turned, np.ndarray)
    assert turned.shape == (9, 5, 3)


# data sets of ours


def test_a_data_set_and_its_export_give_the_same_pictures(tmp_path: Path) -> None:
    write_set("real-val", tmp_path / "set")
    export_image_folder(open_store(str(tmp_path / "set")), tmp_path / "folder", Choice())
    classes = load_classes(ClassSpec(source="sandbox"))
    found = []
    for source in ("set", "folder"):
        images = list(read_real(str(tmp_path / source), classes, 1_000, 0))
        assert Counter(image.class_id for image in images) == dict.fromkeys(range(10), 48)
        found.append({Path(image.name).stem: image.pixels.tobytes() for image in images if image.pixels is not None})
    assert found[0] == found[1]


def test_a_subset_of_a_data_set_is_all_that_is_read(tmp_path: Path) -> None:
    write_set("real-train", tmp_path / "set")
    classes = load_classes(ClassSpec(source="sandbox"))
    images = list(read_real(str(tmp_path / "set"), classes, 50, 0, "shots-4"))
    assert Counter(image.class_id for image in images) == dict.fromkeys(range(10), 4)
    assert "expected one of" in refused(str(tmp_path / "set"), classes, "shots-3")
    assert "has no subsets" in refused("sandbox/real-train", classes, "shots-4")


def test_real_pictures_of_a_subset_or_a_set_that_is_not_all_there_are_refused(tmp_path: Path) -> None:
    store = write_data_set(tmp_path / "set", change=lambda shard, index, row: {**row, "domain": "real", "seed": None})
    write_per_class(store, "some", 3, 0)
    store.replace(SUMMARY, to_checked({"asked": {"images": 30, "units": 3}, "exit_code": None}))
    assert "found 2 of the 3 shards that the last call was asked for" in refused(store.url, SMALL)
    assert len(list(read_real(store.url, SMALL, 5, 0, "some"))) == 15
    store.path("00001_stats.json").unlink()
    assert "names shard 00001, which has no record" in refused(store.url, SMALL, "some")


def real(shard: int, index: int, row: dict[str, object]) -> dict[str, object]:
    return {**row, "domain": "real", "seed": None} if index % 2 else row


def test_samples_belong_by_id_and_name_and_only_real_ones_count(tmp_path: Path) -> None:
    store = write_data_set(tmp_path / "set", change=real)
    images = list(read_real(str(store.root), SMALL, 100, 0))
    assert {image.class_id for image in images} == {0, 1, 2, 3, 4}
    assert all(int(image.name[-4:]) % 2 for image in images)
    moved = [Class(10, "two", None, 1), Class(11, "crane", None, 1), Class(0, "nine", None, 1)]
    by_name = list(read_real(str(store.root), moved, 100, 0))  # ids differ: a name that is the only one of its kind
    assert {image.class_id for image in by_name} == {10, 11}
    twins = [Class(3, "crane", None, 1), Class(9, "crane", None, 1)]
    assert {image.class_id for image in read_real(str(store.root), twins, 100, 0)} == {3}


def test_a_data_set_without_real_samples_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    store = write_data_set(tmp_path / "set")
    assert "synthetic" in refused(str(store.root), SMALL)


def test_a_damaged_sample_is_a_reason(tmp_path: Path) -> None:
    store = write_data_set(tmp_path / "set", change=real)
    tar = store.root / "00000.tar"
    data = bytearray(tar.read_bytes())
    for at in range(2000, len(data) - 2000, 1500):
        data[at] ^= 255
    tar.write_bytes(data)
    images = list(read_real(str(store.root), SMALL, 100, 0))
    reasons = Counter(image.reason for image in images)
    assert reasons["damaged"] > 0
    assert reasons[None] > 0


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "check the path" in refused(str(tmp_path / "nothing"), SMALL)
    assert "expected the names of the classes" in refused(str(tmp_path), SMALL)
