"""What kind of thing a class is, by WordNet where the class has an id, else by its meaning and its name."""

from collections import Counter
from functools import cache

import pytest

from gen.names.kind import kind_of
from shards.labels.classes import KINDS, Class, ClassSpec, load_classes

# Chosen before the rules were written; ids of ImageNet-1k.
IMAGENET_KINDS = {
    "animal": [0, 7, 37, 71, 145, 151, 292, 323, 328, 388],
    "vehicle": [404, 407, 472, 510, 565, 575, 671, 802, 812, 833, 866, 880],
    "food": [924, 928, 931, 937, 951, 959, 963, 967],
    "plant": [985, 986, 988, 992, 998],
    "building": [425, 437, 483, 497, 580, 839, 915, 978, 980],
    "instrument": [401, 541, 579, 593, 641, 889],
    "other": [398, 448, 475, 526, 823, 879, 908, 916, 958, 981],
}


@cache
def imagenet() -> list[Class]:
    return load_classes(ClassSpec(source="imagenet-1k", per_class=1))


def named(name: str) -> Class:
    return Class(0, name, None, 1)


@pytest.mark.parametrize(
    ("class_id", "kind"), [(class_id, kind) for kind, ids in IMAGENET_KINDS.items() for class_id in ids]
)
def test_the_kind_of_an_imagenet_class(class_id: int, kind: str) -> None:
    assert kind_of(imagenet()[class_id]) == kind


def test_every_imagenet_animal_is_one_and_nothing_else_is() -> None:
    """Classes 0..397 are the animals; that is the order of the list."""
    assert [one.id for one in imagenet() if kind_of(one) == "animal"] == list(range(398))


def test_imagenet_spreads_over_all_kinds() -> None:
    spread = Counter(kind_of(one) for one in imagenet())
    assert set(spread) == set(KINDS)
    assert min(spread.values()) >= 15


def test_an_id_goes_before_name_and_meaning() -> None:
    crane = Class(517, "crane", "n03126707", 1)
    assert kind_of(crane, "crane, the bird") == "building"


def test_the_kind_in_the_class_list_goes_before_all() -> None:
    assert kind_of(Class(517, "crane", "n03126707", 1, kind="vehicle"), "crane, the bird") == "vehicle"


@pytest.mark.parametrize(
    ("name", "meaning", "kind"),
    [
        ("crane", "crane, the large wading bird of marshes", "animal"),
        ("crane", "crane, the truck that lifts heavy loads", "vehicle"),
        ("jaguar", "a jaguar, a sports car", "vehicle"),
        ("bass", "bass, a guitar with four strings", "instrument"),
        ("orange", "orange, the tree", "plant"),
        ("Lyra", "the constellation called Lyra", "other"),
    ],
)
def test_without_an_id_the_meaning_tells_the_kind(name: str, meaning: str, kind: str) -> None:
    assert kind_of(named(name), meaning) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[("dog", "animal"), ("Siamese", "animal"), ("aquarium fish", "animal"), ("foxes", "animal")],
        *[("BMW M3 Coupe", "vehicle"), ("pickup truck", "vehicle"), ("hot-air balloons", "vehicle")],
        *[("pizza", "food"), ("tomatoes", "food"), ("Granny Smith", "food")],
        *[("oak tree", "plant"), ("sword lily", "plant"), ("rose", "plant")],
        *[("Golden Gate Bridge", "building"), ("skyscraper", "building"), ("sea", "building")],
        *[("violin", "instrument"), ("cup", "other"), ("lamp", "other"), ("woman", "other")],
    ],
)
def test_without_id_and_meaning_the_name_tells_the_kind(name: str, kind: str) -> None:
    assert kind_of(named(name)) == kind


@pytest.mark.parametrize("name", ["seven", "737-800", "banded", "蘭", "¿?", "<script>", "n99999999"])
def test_a_name_that_nobody_knows_is_other(name: str) -> None:
    assert kind_of(named(name)) == "other"
    assert kind_of(named(name), name) == "other"
    assert kind_of(Class(0, name, "n99999999", 1)) == "other"
