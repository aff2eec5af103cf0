"""The lexicon: enough words, that fit what they stand beside, in files that anybody can write."""

import re
from pathlib import Path

import pytest

from gen.wording.lexicon import DRAWN_PARTS, PLACES, SHIPPED, SKY_PARTS, Lexicon, load_lexicon
from gen.wording.parts import Wording
from gen.wording.places import foreign_place
from sandbox.captions import DIE_MEANINGS, GROUND_PHRASES, LIGHT_PHRASES, NUMERAL_MEANINGS, STYLE_PHRASES, TILE_MEANINGS
from sandbox.world import CLASS_NAMES, FEASIBLE_GROUNDS, INKS, PAPERS
from shards.labels.classes import KINDS, Kind

GENERAL = load_lexicon("general")
SANDBOX = load_lexicon("sandbox")

SMALL = """\
forms:
  - photo: "a photo of {name}, {background}"
    styled: "{style} of {name}, {background}"
parts:
  background:
    - words: [on a table, in a park]
relations: ["on"]
styles: [a woodcut, a fresco]
"""


def plain(phrase: str) -> str:
    return " ".join(re.findall("[a-z]+", phrase.lower()))


def all_words(lexicon: Lexicon, part: str) -> set[str]:
    return {plain(word) for kind in KINDS for word in lexicon.words(part, kind)}


def written(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


# what ships


@pytest.mark.parametrize(("part", "least"), [("background", 120), ("light", 40), ("viewpoint", 30), ("foreground", 60)])
def test_the_general_lexicon_has_enough_distinct_words(part: str, least: int) -> None:
    assert len(all_words(GENERAL, part)) >= least


def test_there_are_sixty_styles_and_ten_relations() -> None:
    assert len({plain(style) for style in GENERAL.styles}) == 60
    assert set(GENERAL.relations) == {
        *("in", "on", "next to", "behind", "in front of", "over", "under", "above", "below", "besides")
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_words_for_the_four_parts_of_a_context(kind: str) -> None:
    for part, least in (("foreground", 8), ("background", 10), ("light", 10), ("viewpoint", 10)):
        assert len(GENERAL.words(part, kind)) >= least


@pytest.mark.parametrize("kind", KINDS)
def test_no_background_of_a_kind_is_a_place_where_it_is_a_stranger(kind: Kind) -> None:
    """The places know nothing of the lexicon's groups."""
    assert [word for word in GENERAL.words("background", kind) if foreign_place(kind, word)] == []


def test_prompts_of_the_general_lexicon_have_at_most_25_words() -> None:
    """With the longest words of each slot, the longest style, and a name of five words behind its article."""
    for kind in KINDS:
        for form in GENERAL.forms:
            for place in PLACES:
                choices = GENERAL.choices(form, kind, place)
                if all(choices.values()):
                    words = [max(words, key=lambda word: len(word.split())) for words in choices.values()]
                    style = max(GENERAL.styles, key=lambda style: len(style.split()))
                    said = Wording(form.styled, dict(zip(choices, words, strict=True), style=style)).text("a b c d e")
                    assert len(said.split()) <= 25, said


@pytest.mark.parametrize("name", SHIPPED)
def test_no_shipped_word_can_break_the_string_it_stands_in(name: str) -> None:
    lexicon = load_lexicon(name)
    words = [word for kind in KINDS for part in DRAWN_PARTS for word in lexicon.words(part, kind)]
    for word in [*words, *lexicon.styles]:
        assert not set(word) & set(',{};"')
        assert len(word.split()) <= 9


def test_a_word_that_stands_in_two_groups_is_given_once(tmp_path: Path) -> None:
    text = SMALL.replace("park]", "park]\n    - {kinds: [food], words: [on a table, at a fair]}")
    assert load_lexicon(written(tmp_path, text)).words("background", "food") == ("on a table", "in a park", "at a fair")


# what goes with what


@pytest.mark.parametrize("kind", KINDS)
def test_weather_and_time_never_stand_beside_an_indoor_background_or_a_light_of_the_sun(kind: str) -> None:
    neutral = set(GENERAL.words("light", kind, ["any"]))
    for form in GENERAL.forms:
        if set(SKY_PARTS) & set(form.parts):
            assert not all(GENERAL.choices(form, kind, "indoor").values())
            assert all(set(GENERAL.choices(form, kind, place).get("light", ())) <= neutral for place in PLACES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_light_or_viewpoint_of_indoors_never_stands_beside_an_outdoor_background(kind: str) -> None:
    for form in GENERAL.forms:
        for place, other in (("outdoor", "indoor"), ("indoor", "outdoor")):
            for part, words in GENERAL.choices(form, kind, place).items():  # type: ignore[arg-type]
                assert not set(words) & set(GENERAL.words(part, kind, [other]))


# the sandbox


def test_the_sandbox_says_exactly_what_its_caption_pool_says() -> None:
    assert SANDBOX.words("foreground", "other") == tuple(f"{ink} ink" for ink in INKS)
    pages = {GROUND_PHRASES[ground].format(paper=paper) for ground in FEASIBLE_GROUNDS for paper in PAPERS}
    assert {f"{paper} paper" for paper in PAPERS} < set(SANDBOX.words("background", "other")) < pages
    assert SANDBOX.words("light", "other") == tuple(LIGHT_PHRASES.values())
    assert SANDBOX.styles == tuple(phrase for style, phrase in STYLE_PHRASES.items() if style != "photo")
    assert [form.photo.endswith(f", {STYLE_PHRASES['photo']}") for form in SANDBOX.forms] == [True]


@pytest.mark.parametrize("class_id", range(10))
def test_a_sandbox_name_may_mean_the_numeral_the_pips_and_two_other_things(class_id: int) -> None:
    name = CLASS_NAMES[class_id]
    senses = SANDBOX.senses[name]
    pips = DIE_MEANINGS[0] if 1 <= class_id <= 6 else TILE_MEANINGS[0]
    true_ones = {NUMERAL_MEANINGS[0].format(name=name), pips.format(name=name)}
    assert true_ones < set(senses)
    assert len(senses) >= 4
    assert all(sense.startswith(f"{name}, ") for sense in senses)


# files of one's own


def test_a_file_of_ones_own_is_read_as_the_shipped_ones_are(tmp_path: Path) -> None:
    lexicon = load_lexicon(written(tmp_path, SMALL))
    assert lexicon.words("background", "plant") == ("on a table", "in a park")
    assert lexicon.senses == {}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("styles:", "style:", "unknown key `style`; did you mean `styles`?"),
        ("styles: [a woodcut, a fresco]", "", "`styles` is missing"),
        ("a fresco", "a woodcut", "stands twice"),
        ("a fresco", '""', "expected a phrase of 1 to 120 characters"),
        ("a fresco", '"a\\nfresco"', "expected one line"),
        ("a fresco", "7", "expected text"),
        ("  background:", "  caption:", "expected one of: foreground, background"),
        ("of {name}, {background}", "of {name}", "expected"),
        ("a photo of {name}, {background}", "a photo of {name}, {background}, {style}", "expected"),
        ("a photo of {name}, {background}", "a photo of {name}, {background}, {", "stray brace"),
        ("{style} of", "a picture of", "expected the slots of photo and {style}"),
        ("- words: [on", "- kinds: [food]\n      words: [on", "found no form whose slots all have words for the kind"),
        ("- words: [on", "- kinds: [fish]\n      words: [on", "'animal'"),
        ("- words: [on", "- place: inside\n      words: [on", "'indoor'"),
        ("relations:", "  weather:\n    - words: [in rain]\nrelations:", "expected place: outdoor"),
        ("[on a table, in a park]", "[]", "at least 1 item"),
        ("forms:", "forms: !!python/object:os.system", "not a plain YAML recipe"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_a_line_for_each_mistake(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    """A form with an unknown slot is two: it is unknown, and no kind has words for it."""
    assert old in SMALL
    with pytest.raises(ValueError) as error:
        load_lexicon(written(tmp_path, SMALL.replace(old, new)))
    lines = str(error.value).splitlines()
    assert sum(said in line for line in lines) == 1
    assert all("mine.yaml" in line for line in lines)
    assert len(lines) <= 2


def test_an_unknown_name_is_refused_with_the_shipped_ones() -> None:
    with pytest.raises(ValueError, match=r"found no such lexicon, expected general, sandbox or a file"):
        load_lexicon("sandbok")
