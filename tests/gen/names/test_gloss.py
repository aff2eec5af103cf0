"""Glosses: said only where a name needs one, and never WordNet's where it describes another thing than the pictures."""

import pytest

from gen.names.gloss import needed_gloss, other_glosses, own_gloss
from shards.labels.classes import Class, ClassSpec, load_classes

IMAGENET = load_classes(ClassSpec(source="imagenet-1k", per_class=1))
SHARED = {"missile", "sunglasses"}


def test_most_names_need_none() -> None:
    needed = [one.id for one in IMAGENET if needed_gloss(one, SHARED)]
    assert 100 <= len(needed) <= 150
    for class_id in (0, 2, 207, 407, 497, 637, 817, 849, 963):  # tench, shark, retriever, church, pizza ...
        assert class_id not in needed


@pytest.mark.parametrize(
    ("class_id", "wrong"),
    [
        (968, "punch"),
        (836, "lens"),
        (638, "dancers"),
        (987, "dried"),
        (831, "convertible"),
        (851, "system"),
        (393, "live associated"),
    ],
)
def test_what_wordnet_says_wrongly_of_the_pictures_is_never_offered(class_id: int, wrong: str) -> None:
    assert wrong not in (own_gloss(IMAGENET[class_id]) or "")
    assert own_gloss(IMAGENET[class_id]) is not None
    assert needed_gloss(IMAGENET[class_id], ()) is None


def test_a_name_that_is_no_english_is_said_in_another_way() -> None:
    said = [needed_gloss(one, SHARED) or one.name for one in IMAGENET]
    assert [name for name in said if set("/()") & set(name) or " or " in name] == []


def test_two_classes_that_share_a_name_are_told_apart() -> None:
    said = [needed_gloss(one, SHARED) or one.name for one in IMAGENET]
    assert len(set(said)) == 1000


def test_beyond_imagenet_1k_a_name_needs_its_gloss_if_it_is_of_several_kinds() -> None:
    bird, machine = Class(0, "crane", "n02012849", 1), Class(1, "crane", "n03126707", 1)
    lion = Class(2, "lioness", "n02129530", 1)
    assert needed_gloss(Class(3, "bass", "n02801525", 1), ()) is not None  # a basin, and a fish
    assert needed_gloss(lion, ()) is None
    assert needed_gloss(lion, {"lioness"}) == own_gloss(lion)
    assert own_gloss(bird) != own_gloss(machine)
    assert any("bird" in told for told in other_glosses(machine))


def test_a_class_without_an_id_has_no_gloss() -> None:
    assert own_gloss(Class(0, "crane", None, 1)) is None
    assert needed_gloss(Class(0, "crane", None, 1), {"crane"}) is None
    assert own_gloss(Class(0, "crane", "n99999999", 1)) is None
