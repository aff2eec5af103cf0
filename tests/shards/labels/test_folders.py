"""Class folders mean the same through every door: class list, import, real images, the check before a training."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from gen.prompts.real_images import read_real
from shards.disk.jpeg import encode_jpeg
from shards.disk.store import open_store
from shards.labels.classes import Class, ClassSpec, load_classes
from shards.labels.folders import match_folders, own_classes
from shards.set.manifest import iter_tables, scan_records
from shards.set.writer import ShardWriter
from shards.stream.index import load_index
from shards.views.image_folder import import_image_folder
from tests.support.small_data_set import FINGERPRINT, picture, sample
from train.evaluate.data_check import Opened, check_names

Ids = Mapping[str, tuple[int, str]]  # folder -> id and name

# what the folders say by themselves
OWN: dict[str, Ids] = {
    "numbers": {"1": (1, "1"), "2": (2, "2"), "10": (10, "10")},
    "numbers from 0": {"0": (0, "0"), "1": (1, "1"), "11": (11, "11")},
    "numbers with leading zeros": {"000": (0, "000"), "002": (2, "002"), "010": (10, "010")},
    "as an export writes them": {"0000_zero": (0, "zero"), "0007_great_shark": (7, "great shark"), "0012_c": (12, "c")},
    "exported, beyond four digits": {"9999_ant": (9999, "ant"), "10000_bee": (10000, "bee")},
    "names": {"Ant": (0, "Ant"), "crane": (1, "crane"), "zebra": (2, "zebra")},
    "names that end in numbers": {"c1": (0, "c1"), "c10": (1, "c10"), "c2": (2, "c2")},
    "names that begin with numbers": {"001.Ant": (0, "001.Ant"), "002.Bee": (1, "002.Bee"), "7up": (2, "7up")},
    "exported and other names": {"0007_seven": (0, "0007_seven"), "eight": (1, "eight")},
    "WordNet ids, not all of ImageNet-1k": {"n00005787": (0, "benthos"), "n01440764": (1, "tench")},
    "WordNet ids that nobody knows": {"n00000001": (0, "n00000001"), "n01443537": (1, "goldfish")},
}
LIST = [
    Class(0, "tench", "n01440764", 1),
    Class(1, "goldfish", "n01443537", 1),
    Class(3, "crane", "n02012849", 1),
    Class(4, "crane", "n03126707", 1),
    Class(11, "T-shirt", None, 1),
]
# what they say beside a list
LISTED: dict[str, Ids] = {
    "WordNet ids": {"n01443537": (1, "goldfish"), "n03126707": (4, "crane")},
    "as an export writes them": {"0003_crane": (3, "crane"), "0011_t_shirt": (11, "T-shirt")},
    "names": {"GoldFish": (1, "goldfish"), "t_shirt": (11, "T-shirt")},
    "numbers": {"0": (0, "tench"), "04": (4, "crane"), "11": (11, "T-shirt")},
    "all four": {
        "n01440764": (0, "tench"),
        "0004_crane": (4, "crane"),
        "t shirt": (11, "T-shirt"),
        "1": (1, "goldfish"),
    },
}


def make_folders(root: Path, names: Sequence[str]) -> Path:
    for index, name in enumerate(names):
        (root / name).mkdir(parents=True)
        (root / name / "a.jpg").write_bytes(encode_jpeg(picture(index, index), source_type=None))
    return root


def make_set(root: Path, classes: Sequence[Class]) -> Opened:
    """A picture of each class, as a generator that was given this list writes it."""
    store = open_store(str(root))
    with ShardWriter(store, 0, "try", FINGERPRINT) as writer:
        for index, one in enumerate(classes):
            row = sample(0, index, one.id, class_name=one.name)
            writer.add(row, encode_jpeg(picture(one.id, index)))
        writer.commit(1.0, 2.0, {"device": "cpu"}, slots=len(classes))
    return Opened("data.domains.synthetic", str(root), load_index(str(root)))


def imported(folder: Path, out: Path, classes: Sequence[Class] | None) -> tuple[set[tuple[int, str]], Opened]:
    import_image_folder(folder, str(out), classes=classes)
    store = open_store(str(out))
    found: set[tuple[int, str]] = set()
    for table in iter_tables(store, scan_records(store), ["class_id", "class_name"]):
        found |= {(row["class_id"], row["class_name"]) for row in table.to_pylist()}
    return found, Opened("data.domains.real", str(out), load_index(str(out)))


def looked_at(folder: Path, classes: Sequence[Class]) -> dict[str, int]:
    """Folder -> the class that its real image was given to."""
    return {image.name.partition("/")[0]: image.class_id for image in read_real(str(folder), classes, 5, 0)}


@pytest.mark.parametrize("case", OWN)
def test_folders_without_a_list_mean_the_same_through_every_door(tmp_path: Path, case: str) -> None:
    wanted = OWN[case]
    folder = make_folders(tmp_path / "photos", list(wanted))
    classes = load_classes(ClassSpec(source=str(folder)))
    assert {(one.id, one.name) for one in classes} == set(wanted.values())
    rows, real = imported(folder, tmp_path / "real", None)
    assert rows == set(wanted.values())
    assert looked_at(folder, classes) == {name: class_id for name, (class_id, _) in wanted.items()}
    assert check_names([real, make_set(tmp_path / "synthetic", classes)]) == []


@pytest.mark.parametrize("case", LISTED)
def test_folders_beside_a_list_have_its_ids_through_every_door(tmp_path: Path, case: str) -> None:
    wanted = LISTED[case]
    folder = make_folders(tmp_path / "photos", list(wanted))
    rows, real = imported(folder, tmp_path / "real", LIST)
    assert rows == set(wanted.values())
    assert looked_at(folder, LIST) == {name: class_id for name, (class_id, _) in wanted.items()}
    assert check_names([make_set(tmp_path / "synthetic", LIST), real]) == []


def test_a_part_of_a_class_folder_has_the_ids_of_the_whole(tmp_path: Path) -> None:
    """A test set with two of the classes that a training folder names, both by text."""
    classes = load_classes(ClassSpec(source=str(make_folders(tmp_path / "train", ["Ant", "crane", "zebra"]))))
    part = make_folders(tmp_path / "test", ["crane", "zebra"])
    rows, real = imported(part, tmp_path / "real", classes)
    assert rows == {(1, "crane"), (2, "zebra")}
    assert looked_at(part, classes) == {"crane": 1, "zebra": 2}
    alone, wrong = imported(part, tmp_path / "alone", None)
    assert alone == {(0, "crane"), (1, "zebra")}
    with pytest.raises(ValueError, match="found class 0 under the name 'crane', and 'Ant' in"):
        check_names([make_set(tmp_path / "synthetic", classes), wrong])
    assert check_names([make_set(tmp_path / "again", classes), real]) == []


def test_a_part_of_imagenet_is_a_list_of_its_own_and_no_data_set_without_a_list(tmp_path: Path) -> None:
    folder = make_folders(tmp_path / "photos", ["n01443537", "n03126707"])
    own = load_classes(ClassSpec(source=str(folder)))
    assert [(one.id, one.name) for one in own] == [(0, "goldfish"), (1, "construction crane")]
    with pytest.raises(ValueError, match="found 2 of ImageNet-1k's 1000 classes"):
        imported(folder, tmp_path / "none", None)
    assert not (tmp_path / "none").exists()
    assert imported(folder, tmp_path / "own", own)[0] == {(0, "goldfish"), (1, "construction crane")}
    imagenet = load_classes(ClassSpec(source="imagenet-1k", per_class=1))
    assert {class_id for class_id, _ in imported(folder, tmp_path / "whole", imagenet)[0]} == {1, 517}
    assert looked_at(folder, own) == {"n01443537": 0, "n03126707": 1}
    assert looked_at(folder, imagenet) == {"n01443537": 1, "n03126707": 517}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["1", "01"], "found the class folders '01' and '1', both with the id 1"),
        (["0007_seven", "0007_acht"], "found the class folders '0007_acht' and '0007_seven', both with the id 7"),
        (["1", "2", "10", "cat"], "found the class folder '1', a number, beside 'cat', expected numbers only or names"),
        (["3", "0007_seven"], "found the class folder '3', a number, beside '0007_seven'"),
    ],
)
def test_folders_whose_ids_cannot_be_told_are_refused_at_both_doors(tmp_path: Path, names, words) -> None:
    folder = make_folders(tmp_path / "photos", names)
    for door in (lambda: load_classes(ClassSpec(source=str(folder))), lambda: imported(folder, tmp_path / "out", None)):
        with pytest.raises(ValueError, match="photos: found") as caught:
            door()
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_numbers_are_never_taken_in_text_order_for_a_list_of_other_ids(tmp_path: Path) -> None:
    """Folders 1..10 beside a list with the ids 0..9: nine of them mean a class, and none means its neighbour."""
    folder = make_folders(tmp_path / "photos", [str(number) for number in range(1, 11)])
    classes = [Class(number, f"word{number}", None, 1) for number in range(10)]
    assert looked_at(folder, classes) == {str(number): number for number in range(1, 10)}
    with pytest.raises(ValueError, match="found the class folder '10', expected the WordNet id, name or number"):
        imported(folder, tmp_path / "out", classes)


def test_a_data_set_whose_numbers_were_counted_in_text_order_is_found_before_a_training(tmp_path: Path) -> None:
    folder = make_folders(tmp_path / "photos", ["1", "2", "10"])
    _, real = imported(folder, tmp_path / "real", None)
    old = [Class(number, name, None, 1) for number, name in enumerate(("1", "10", "2"))]
    with pytest.raises(ValueError, match=r"found the class '1' under the id 0, and under 1 in data\.domains\.real"):
        check_names([real, make_set(tmp_path / "synthetic", old)])


def test_an_order_of_listing_does_not_matter() -> None:
    for names in (["b", "a", "C"], ["10", "9"], ["n01443537", "n00000001"]):
        assert own_classes(names, "x") == own_classes(names[::-1], "x")
        assert list(own_classes(names, "x")) == names
    assert match_folders(["n01443537", "0"], LIST, "x") == match_folders(["0", "n01443537"], LIST, "x")


@pytest.mark.parametrize("name", ["4000000001", "2147483648", "4000000001_crane"])
def test_a_number_that_is_no_class_id_is_refused_where_folders_are_read(tmp_path: Path, name: str) -> None:
    """Folders of ISBNs: a table's column holds no such number, and a training would end with an overflow."""
    other = "0001_zebra" if "_" in name else "1"
    for folder in (name, other):
        (tmp_path / "set" / folder).mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"found the class folder '{name}', whose number is no class id"):
        own_classes([other, name], "set")
    with pytest.raises(ValueError, match="whose number is no class id"):
        load_classes(ClassSpec(source=str(tmp_path / "set"), per_class=1))
    with pytest.raises(ValueError, match="whose number is no class id"):
        import_image_folder(tmp_path / "set", str(tmp_path / "out"))
    assert not (tmp_path / "out/_meta/run.json").exists()
    assert own_classes([other, name.replace("4000000001", "2147483647").replace("2147483648", "2147483647")], "set")
