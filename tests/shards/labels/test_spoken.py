"""Lists and folders as the field writes them: prompts say names that people say, and ids stay where they were."""

from pathlib import Path

import pytest

from shards.disk.jpeg import encode_jpeg
from shards.disk.store import open_for_reading
from shards.labels.classes import ClassSpec, load_classes
from shards.labels.folders import match_folders
from shards.labels.spoken import spoken_names
from shards.set.manifest import read_table, scan_records
from shards.views.export import Choice
from shards.views.image_folder import export_image_folder, import_image_folder
from tests.support.small_data_set import picture, write_data_set

LISTS: dict[str, tuple[str, list[tuple[int, str, str | None]]]] = {
    "Food-101": ("apple_pie\nbaby_back_ribs\nsushi\n", [(0, "apple pie", None), (1, "baby back ribs", None)]),
    "CUB's folders": (
        "001.Black_footed_Albatross\n002.Laysan_Albatross\n",
        [(0, "Black footed Albatross", None), (1, "Laysan Albatross", None)],
    ),
    "CUB's classes.txt": (
        "1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n",
        [(0, "Black footed Albatross", None), (1, "Laysan Albatross", None)],
    ),
    "Stanford Dogs": ("n02085620-Chihuahua\nn02085782-Japanese_spaniel\n", [(1, "Japanese spaniel", "n02085782")]),
    "LOC_synset_mapping.txt": (
        "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\nn01484850 great white shark, shark\n",
        [(0, "tench", "n01440764"), (2, "great white shark", "n01484850")],
    ),
    "WordNet ids": ("n01440764\nn01443537\n", [(0, "tench", "n01440764"), (1, "goldfish", "n01443537")]),
    "remarks": ("# my classes\n#\ncrane\n# of a zoo\n#1 dad\n", [(0, "crane", None), (1, "#1 dad", None)]),
}
AS_THEY_ARE = [
    ["great auk", "snake_case"],  # the list has blanks where it means blanks
    ["T-shirt", "7up"],
    ["a_b", "a__b"],  # would be one name
    ["001.Ant", "Bee"],
    ["0007_seven", "eight"],
    ["_", "zebra_crossing"],
    ["_a", "zebra_crossing"],
    ["a_", "zebra_crossing"],
    ["{0.__class__}", "zebra_crossing"],
    ["../a_b", "zebra_crossing"],
    ["n02085620-Chihuahua", "zebra"],
]


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_a_known_form_gives_names_to_say_and_ids_in_its_order(name: str, tmp_path: Path) -> None:
    text, wanted = LISTS[name]
    (tmp_path / "list.txt").write_text(text)
    classes = load_classes(ClassSpec(source=str(tmp_path / "list.txt"), per_class=1))
    found = [(one.id, one.name, one.wordnet_id) for one in classes]
    assert [one for one in found if one in wanted] == wanted
    assert [class_id for class_id, _, _ in found] == list(range(len(found)))


@pytest.mark.parametrize("names", AS_THEY_ARE, ids=lambda names: names[0])
def test_names_without_such_a_form_stay_as_they_are(names: list[str]) -> None:
    assert spoken_names(names) == names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class_name\ncrane\n", r"line 1: found 'class_name', which looks like a heading"),
        ("\n# x\nid,name\n0,crane\n", r"line 3: found 'id,name', which looks like a heading"),
        ("1,crane\n2,zebra\n", r"line 1: found '1,crane', a number before each name.*heading id,name"),
        ("0: crane\n1: zebra\n", r"line 1: found '0: crane', a number before each name"),
    ],
)
def test_a_line_that_is_no_name_is_refused_by_its_number_instead_of_shifting_the_ids(
    text: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=words):
        load_classes(ClassSpec(source=str(tmp_path / "list.txt"), per_class=1))


def photos(root: Path, *names: str) -> Path:
    for index, name in enumerate(names):
        (root / name).mkdir(parents=True)
        (root / name / "a.jpg").write_bytes(encode_jpeg(picture(index, index), source_type=None))
    return root


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["apple_pie", "pad_thai"], ["apple pie", "pad thai"]),
        (["001.Black_footed_Albatross", "002.Ovenbird"], ["Black footed Albatross", "Ovenbird"]),
        (["n02085620-Chihuahua", "n02085782-Japanese_spaniel"], ["Chihuahua", "Japanese spaniel"]),
    ],
)
def test_folders_of_a_known_form_have_these_names_through_every_door(
    folders: list[str], names: list[str], tmp_path: Path
) -> None:
    folder = photos(tmp_path / "photos", *folders)
    classes = load_classes(ClassSpec(source=str(folder)))
    assert [(one.id, one.name) for one in classes] == list(enumerate(names))
    assert {name: one.id for name, one in match_folders(folders, classes, "here").items()} == {
        name: number for number, name in enumerate(folders)
    }
    import_image_folder(folder, str(tmp_path / "real"))
    store = open_for_reading(str(tmp_path / "real"))
    rows = read_table(store, scan_records(store)).to_pylist()
    assert sorted((row["class_id"], row["class_name"]) for row in rows) == list(enumerate(names))


@pytest.mark.parametrize("splits", [("train", "val"), ("Train", "test", "val"), ("train",)])
def test_a_folder_of_splits_is_no_folder_of_classes(splits: tuple[str, ...], tmp_path: Path) -> None:
    for split in splits:
        photos(tmp_path / "photos" / split, "cat", "dog")
    for use in (
        lambda: load_classes(ClassSpec(source=str(tmp_path / "photos"))),
        lambda: import_image_folder(tmp_path / "photos", str(tmp_path / "set")),
    ):
        with pytest.raises(ValueError, match=rf"which hold class folders themselves.*give one of these.*{splits[0]}"):
            use()
    assert not (tmp_path / "set").exists()
    assert len(load_classes(ClassSpec(source=str(photos(tmp_path / "vehicles", "train", "car"))))) == 2


def test_an_exported_folder_is_a_class_list_with_the_whole_names(tmp_path: Path) -> None:
    names = ["北京", "Zürich", "κρane / crane", "東京", "zero"]

    def foreign(shard: int, index: int, row: dict[str, object]) -> dict[str, object]:
        return {**row, "class_name": names[int(str(row["class_id"]))]}

    store = write_data_set(tmp_path / "set", change=foreign)
    export_image_folder(store, tmp_path / "folder", Choice())
    assert [(one.id, one.name) for one in load_classes(ClassSpec(source=str(tmp_path / "folder")))] == list(
        enumerate(names)
    )
    (tmp_path / "folder" / "metadata.parquet").unlink()
    for use in (
        lambda: load_classes(ClassSpec(source=str(tmp_path / "folder"))),
        lambda: import_image_folder(tmp_path / "folder", str(tmp_path / "back")),
    ):
        with pytest.raises(ValueError, match=r"0000_class and 0003_class, whose names have no plain letters.*metadata"):
            use()
