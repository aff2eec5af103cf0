"""Tasks: the lists of the data sets that are often compared, in their order, with their words."""

import re
from pathlib import Path

import pytest
import yaml

from gen.names.kind import kind_of
from gen.prompts.meanings import MeaningSpec, choose_meanings
from gen.wording.lexicon import load_lexicon
from gen.wording.parts import Wording
from shards.labels import task
from shards.labels.classes import ClassSpec, load_classes
from shards.labels.folders import match_folders
from shards.labels.imagenet import imagenet_names
from shards.labels.sources import SHIPPED
from shards.labels.task import TASKS, read_task, usual_queries

# name -> classes, prompts that compare images, the first, one in the middle and the last label
PUBLISHED = {
    "dtd": (47, 8, {0: "banded", 11: "fibrous", 46: "zigzagged"}),
    "flowers102": (102, 1, {0: "pink primrose", 76: "passion flower", 101: "blackberry lily"}),
    "stanford-cars": (
        196,
        8,
        {0: "AM General Hummer SUV 2000", 98: "FIAT 500 Abarth 2012", 195: "smart fortwo Convertible 2012"},
    ),
    "fgvc-aircraft": (100, 2, {0: "707-320", 72: "F-16A/B", 99: "Yak-42"}),
    "pets": (37, 1, {0: "Abyssinian", 23: "Persian", 36: "Yorkshire Terrier"}),
    "food-101": (101, 1, {0: "apple pie", 50: "grilled salmon", 100: "waffles"}),
    "cub": (200, 1, {0: "Black footed Albatross", 140: "Artic Tern", 199: "Common Yellowthroat"}),
}


def classes_of(name: str):
    return load_classes(ClassSpec(source=name, per_class=1))


def said(name: str) -> dict[str, str]:
    """Class name -> what a prompt calls it."""
    classes = classes_of(name)
    chosen = choose_meanings(classes, MeaningSpec(), load_lexicon("general"), None, 0)
    form = Wording("{subject}", {})
    return {one.name: form.text(found.phrase or one.name) for one, found in zip(classes, chosen, strict=True)}


def test_all_tasks_ship_and_have_their_published_number_of_classes() -> None:
    assert set(TASKS) == set(PUBLISHED) == set(SHIPPED) - {"sandbox", "imagenet-1k"}
    assert len(classes_of("imagenet-1k")) == 1000
    for name, (count, num_templates, labels) in PUBLISHED.items():
        classes = classes_of(name)
        assert [one.id for one in classes] == list(range(count))
        assert len({one.name for one in classes}) == count
        assert {class_id: classes[class_id].name for class_id in labels} == labels
        templates = read_task(name).templates
        assert len(templates) == len(set(templates)) == num_templates
        assert all("{name}" in text or "{subject}" in text for text in templates)


@pytest.mark.parametrize("name", TASKS)
def test_every_class_has_a_kind(name: str) -> None:
    assert all(kind_of(one) != "other" for one in classes_of(name))


def test_prompts_say_the_names_in_english_and_the_labels_stay_as_published() -> None:
    assert said("dtd")["polka-dotted"] == "a polka-dotted texture"
    assert said("stanford-cars")["Audi A5 Coupe 2012"] == "a 2012 Audi A5 Coupe"
    assert said("fgvc-aircraft")["MD-80"] == "a McDonnell Douglas MD-80 aircraft"
    assert said("fgvc-aircraft")["ATR-42"] == "an ATR-42 aircraft"
    assert said("pets")["Abyssinian"] == "an Abyssinian, a cat"
    assert said("food-101")["french fries"] == "french fries"
    assert said("food-101")["omelette"] == "an omelette"
    assert said("cub")["Artic Tern"] == "an Arctic Tern"
    assert said("cub")["Geococcyx"] == "a Greater Roadrunner"


@pytest.mark.parametrize(
    ("name", "folders"),
    [
        ("fgvc-aircraft", {"F-16A_B": 72, "F_A-18": 73, "707-320": 0, "BAE 146-200": 37}),
        ("stanford-cars", {"Ram C_V Cargo Van Minivan 2012": 173, "AM General Hummer SUV 2000": 0}),
        ("food-101", {"apple_pie": 0, "waffles": 100}),
        ("cub", {"001.Black_footed_Albatross": 0, "141.Artic_Tern": 140}),
        ("flowers102", {"colt's foot": 11}),
        ("pets", {"english_cocker_spaniel": 12}),
    ],
)
def test_folders_as_they_are_published_are_their_classes(name: str, folders: dict[str, int]) -> None:
    found = match_folders(list(folders), classes_of(name), name)
    assert {folder: one.id for folder, one in found.items()} == folders


def test_captions_are_searched_for_by_name_unless_the_task_or_the_class_has_a_query() -> None:
    assert read_task("fgvc-aircraft").query_of("MD-80") is None
    assert read_task("flowers102").query_of("azalea") is None
    assert read_task("flowers102").query_of("colt's foot") == (("colt's foot",), ("coltsfoot",))
    assert read_task("flowers102").query_of("lotus") == (("lotus", "flower"),)
    assert read_task("dtd").query_of("banded") == (
        ("banded texture",),
        ("banded pattern",),
        ("banded thing",),
        ("banded object",),
    )
    assert read_task("stanford-cars").query_of("BMW M3 Coupe 2012") == (("BMW", "M3", "Coupe", "2012"),)
    assert usual_queries("flowers102", ["azalea", "lotus"]) == {"lotus": (("lotus", "flower"),)}
    assert usual_queries("my-classes.txt", ["lotus"]) == {}


def test_each_query_of_imagenet_is_one_of_a_class_whose_name_no_caption_says() -> None:
    names = set(imagenet_names().values())
    found = usual_queries("imagenet-1k", names)
    path = Path(task.__file__).parent / "tasks" / "imagenet-1k-queries.yaml"
    assert found.keys() == yaml.safe_load(path.read_text(encoding="utf-8")).keys()
    written = {name for name in names if re.search(r"[(/]| or ", name)}
    assert written == found.keys()


def test_a_task_is_a_class_list_of_a_recipe_also_beside_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dtd").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(classes_of("dtd")) == 47
