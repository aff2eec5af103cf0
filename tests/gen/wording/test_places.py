"""Places: where a kind of class is a stranger, by words that the lexicon does not share."""

import pytest

from gen.wording.places import foreign_place, places_in
from shards.labels.classes import Kind


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("aquatic", "in a dark pine wood"),
        ("aquatic", "on a tiled hallway floor"),
        ("watercraft", "on a showroom floor"),
        ("watercraft", "in an underground garage"),
        ("landscape", "in the middle of a large city"),
        ("animal", "in a bright living room"),
        ("furniture", "in a misty marsh"),
        ("food", "on a wide airfield"),
        ("train", "on a garden table"),
    ],
)
def test_a_class_in_a_place_of_another_kind_is_found(kind: Kind, said: str) -> None:
    assert foreign_place(kind, said) is not None


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("aquatic", "close to the sandy sea floor"),
        ("watercraft", "in a busy harbour"),
        ("vehicle", "on a showroom floor"),
        ("food", "on a table in a garden"),
        ("pet", "in a bright living room"),
        ("plant", "beside a mountain path"),
        ("aquatic", "against a plain grey backdrop"),
        ("other", "in a dark pine wood"),
        ("landscape", ""),
    ],
)
def test_a_class_at_home_or_nowhere_is_no_stranger(kind: Kind, said: str) -> None:
    assert foreign_place(kind, said) is None


def test_the_longest_words_tell_the_place() -> None:
    assert places_in("on a beach towel") == ("table",)
    assert "at the water" in places_in("on a sandy beach")
    assert places_in("on a beachhead") == ()
    assert places_in("On A SANDY, BEACH!") == places_in("on a sandy beach")
