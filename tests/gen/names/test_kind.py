"""What kind of thing a class is, by WordNet where the class has an id, else by its meaning and its name."""

from collections import Counter
from functools import cache

import pytest

from gen.names.kind import hypernyms_of, kind_meanings, kind_of, known_kind
from shards.labels.classes import KINDS, Class, ClassSpec, load_classes

# Judged by what ImageNet's pictures show, not by what the table says; ids of ImageNet-1k.
IMAGENET_KINDS = {
    "animal": [7, 9, 40, 84, 101, 105, 269, 291, 340, 388],
    "pet": [151, 207, 254, 268, 281, 285, 333, 338],
    "flying": [11, 17, 22, 94, 309, 319, 323],
    "crawling": [70, 76, 79, 113, 301, 310, 314],
    "waterside": [30, 33, 49, 97, 120, 134, 145, 150, 344],
    "aquatic": [0, 1, 2, 3, 4, 6, 107, 109, 122, 147, 148, 149, 327, 393, 397, 973],
    "person": [981, 982, 983],
    "plant": [985, 986, 988],
    "fungus": [947, 992, 997],
    "food": [924, 928, 931, 937, 951, 963],
    "drink": [966, 967, 969],
    "vehicle": [407, 444, 468, 555, 654, 779, 817, 847, 866],
    "train": [466, 820, 829],
    "watercraft": [403, 472, 510, 576, 628, 780, 833, 913, 914],
    "aircraft": [404, 405, 417, 812, 895],
    "building": [425, 483, 497, 538, 698, 832, 915],
    "waterfront": [437, 460, 525, 536, 718, 839],
    "shop": [415, 454, 498, 582, 762],
    "street": [703, 704, 707, 919, 920],
    "yard": [448, 562, 621, 716, 835, 843, 912],
    "interior": [406, 687, 819, 884],
    "landscape": [970, 972, 974, 976, 978, 979, 980],
    "furniture": [453, 532, 564, 760, 765, 831, 897],
    "household": [470, 504, 604, 719, 849, 883, 907, 968],
    "device": [487, 508, 620, 759, 823],
    "instrument": [401, 541, 579, 593, 641, 889],
    "clothing": [399, 515, 608, 638, 679, 770, 836, 837],
    "tool": [413, 587, 695, 764, 784],
    "sport": [429, 543, 722, 805, 852],
    "snow": [450, 537, 795, 802],
    "other": [69, 971, 506],
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


def test_every_imagenet_animal_is_one_and_nothing_else_but_a_coral_reef_is() -> None:
    """Classes 0..397 are the animals; that is the order of the list. One of them is a fossil."""
    animals = {"animal", "pet", "flying", "crawling", "waterside", "aquatic"}
    found = {one.id for one in imagenet() if kind_of(one) in animals}
    assert found == {*range(398), 973} - {69}


def test_no_imagenet_animal_that_lives_under_water_lives_on_land() -> None:
    """The fish of the list, its whales and the small animals of the sea."""
    under_water = {*range(7), 107, 108, 109, 115, 116, 117, 122, 123, 147, 148, 149, 327, 328, 329, *range(389, 398)}
    assert {kind_of(imagenet()[class_id]) for class_id in under_water} == {"aquatic"}


def test_imagenet_spreads_over_all_kinds_but_textures() -> None:
    spread = Counter(kind_of(one) for one in imagenet())
    assert set(spread) == set(KINDS) - {"texture"}
    assert spread["other"] < 20


def test_every_kind_says_what_it_means() -> None:
    assert list(kind_meanings()) == list(KINDS)
    assert all(len(told) >= 10 and "\n" not in told for told in kind_meanings().values())


def test_a_sense_stands_below_those_that_wordnet_puts_above_it() -> None:
    """The tiger shark is a requiem shark, and so on up to the fish."""
    path = ["n01491361"]
    while hypernyms_of(path[-1]):
        path.append(hypernyms_of(path[-1])[0])
    assert "n01482330" in path  # shark
    assert "n02512053" in path  # fish
    assert path[-1] == "n00001740"  # entity


def test_an_id_goes_before_name_and_meaning() -> None:
    crane = Class(517, "crane", "n03126707", 1)
    assert kind_of(crane, "crane, the bird") == "building"


def test_the_kind_in_the_class_list_goes_before_all() -> None:
    assert kind_of(Class(517, "crane", "n03126707", 1, kind="vehicle"), "crane, the bird") == "vehicle"


@pytest.mark.parametrize(
    ("name", "meaning", "kind"),
    [
        ("crane", "crane, the large wading bird of marshes", "waterside"),
        ("crane", "crane, the truck that lifts heavy loads", "vehicle"),
        ("jaguar", "a jaguar, a sports car", "vehicle"),
        ("bass", "bass, a guitar with four strings", "instrument"),
        ("orange", "orange, the tree", "plant"),
        ("Lyra", "the constellation called Lyra", "other"),
        ("bass", "bass, the fish", "aquatic"),
    ],
)
def test_without_an_id_the_meaning_tells_the_kind(name: str, meaning: str, kind: str) -> None:
    assert kind_of(named(name), meaning) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[
            ("dog", "pet"),
            ("Siamese", "pet"),
            ("aquarium fish", "aquatic"),
            ("foxes", "animal"),
            ("frogs", "waterside"),
        ],
        *[("BMW M3 Coupe", "vehicle"), ("pickup truck", "vehicle"), ("hot-air balloons", "aircraft")],
        *[("pizza", "food"), ("tomatoes", "food"), ("Granny Smith", "food"), ("espresso", "drink")],
        *[("oak tree", "plant"), ("sword lily", "plant"), ("rose", "plant"), ("Golden Gate Bridge", "waterfront")],
        *[("skyscraper", "building"), ("sea", "landscape"), ("container ship", "watercraft"), ("airplane", "aircraft")],
        *[("violin", "instrument"), ("cup", "household"), ("lamp", "household"), ("woman", "person")],
    ],
)
def test_without_id_and_meaning_the_name_tells_the_kind(name: str, kind: str) -> None:
    assert kind_of(named(name)) == kind


@pytest.mark.parametrize("name", ["seven", "737-800", "banded", "蘭", "¿?", "<script>", "n99999999"])
def test_a_name_that_nobody_knows_is_other(name: str) -> None:
    assert known_kind(named(name)) is None
    assert kind_of(named(name)) == "other"
    assert kind_of(named(name), name) == "other"
    assert kind_of(Class(0, name, "n99999999", 1)) == "other"
