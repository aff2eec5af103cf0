"""A name as it stands in a sentence: the article, and where there is none."""

import pytest

from gen.names.gloss import needed_gloss
from gen.names.noun_phrase import is_mass, is_plural, noun_phrase
from shards.labels.classes import ClassSpec, load_classes
from tests.support.hostile_text import PAYLOADS

# Read aloud, name by name; ids of ImageNet-1k. All that is in neither has "a".
WITH_AN = {
    *(5, 9, 14, 15, 20, 29, 30, 42, 44, 50, 54, 62, 63, 67, 87, 102, 122, 126, 137, 143, 146, 160, 167, 170, 171, 173),
    *(175, 180, 184, 191, 193, 201, 212, 213, 217, 221, 227, 229, 240, 241, 249, 252, 270, 275, 279, 285, 295, 310),
    *(332, 345, 350, 352, 354, 360, 363, 365, 384, 385, 386, 390, 398, 399, 400, 401, 402, 403, 404, 405, 406, 407),
    *(408, 409, 410, 411, 413, 480, 520, 545, 546, 547, 548, 549, 550, 604, 605, 628, 682, 683, 684, 685, 686, 688),
    *(689, 691, 767, 844, 879, 881, 908, 941, 944, 950, 988, 992, 995),
}
WITHOUT = {
    *(
        381,
        447,
        490,
        502,
        551,
        585,
        608,
        631,
        638,
        697,
        702,
        711,
        836,
        837,
        838,
        842,
        885,
        911,
        924,
        925,
        928,
        935,
        937,
    ),
    *(958, 959, 960, 961, 966, 967, 969, 984, 987, 999),
}


def test_every_imagenet_name_has_the_article_that_a_reader_gives_it() -> None:
    for one in load_classes(ClassSpec(source="imagenet-1k", per_class=1)):
        name = needed_gloss(one, {"missile", "sunglasses"}) or one.name
        article = "" if one.id in WITHOUT else "an " if one.id in WITH_AN else "a "
        assert noun_phrase(name) == f"{article}{name}"


@pytest.mark.parametrize(
    "phrase",
    [
        *["an hour hand", "a unicycle", "an uninvited guest", "a ukulele", "an umbrella", "a European robin", "a user"],
        *["an SUV", "an MD-80", "a BMW M3", "an AM General Hummer SUV", "an F-16A/B", "a DH-82", "a MINI Cooper"],
        *["a FIAT 500", "a Ram C/V cargo van", "an 8-track tape", "an 11-spotted ladybird", "a 737-800", "an L-1011"],
        *["an X-ray", "a T-shirt", "an iPod", "a one-piece suit", "an Il-76", "an S-Class", "an ATR-42", "a CRJ-200"],
        *["a pair of jeans", "a kite (bird of prey)", "a crane, the bird", "a hen of the woods", "a lens", "a bus"],
        *["a compass", "a hibiscus", "an iris", "an albatross", "a walrus", "a rhinoceros", "a Great Pyrenees"],
    ],
)
def test_the_article_follows_the_sound_of_a_single_thing(phrase: str) -> None:
    assert noun_phrase(phrase.partition(" ")[2]) == phrase


@pytest.mark.parametrize(
    "name", ["binoculars", "french fries", "mashed potatoes", "irises", "mussels", "onion rings, fried", "teeth"]
)
def test_several_things_have_no_article(name: str) -> None:
    assert is_plural(name)
    assert noun_phrase(name) == name


@pytest.mark.parametrize("name", ["red wine", "wool", "garlic bread", "fish and chips", "miso soup", "foie gras"])
def test_what_cannot_be_counted_has_no_article(name: str) -> None:
    assert is_mass(name)
    assert noun_phrase(name) == name


@pytest.mark.parametrize("name", ["a crane", "the moon", "two dice", "one", "Geoffroy's spider monkey", ""])
def test_what_has_a_determiner_stays_as_it_is(name: str) -> None:
    assert noun_phrase(name) == name


@pytest.mark.parametrize("name", [*PAYLOADS, "“", "'", "(", "x" * 10_000])
def test_any_name_stays_whole(name: str) -> None:
    assert noun_phrase(name) in (name, f"a {name}", f"an {name}")
