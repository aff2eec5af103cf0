"""An attribute's words: plain phrases, which stand in prompts with and without weights."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen.edit.attributes.attribute import ANSWERS, Attribute, check_description, check_name, name_key, phrase
from tests.support.hostile_text import PAYLOADS

SNOW = Attribute(
    kind="background", feasible=True, name="snowy field", text="even white ground", weight=1.2, source="lexicon:general"
)


def test_a_phrase_says_name_and_description_with_or_without_a_weight() -> None:
    assert phrase(SNOW, "plain") == "snowy field: even white ground"
    assert phrase(SNOW, "compel") == "(snowy field)1.2: even white ground"


@pytest.mark.parametrize("name", ["fawn", "water's edge", "wind-blown snow", "old, worn wood", "café", "3 pebbles"])
def test_plain_words_are_names(name: str) -> None:
    assert check_name(name) == check_description(name) == name


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "snow ",
            " snow",
            "two  blanks",
            "(snow)1.5",
            "snow+",
            "snow -",
            "-snow",
            "snow- field",
            'a "b"',
            "x\ny",
        ),
        *("a.and()", "a|b", "a: b", "{name}", "a,b", "a, ", "\u202esnow"),
        *[one for one in PAYLOADS if set("();\n<") & set(one)][:40],
    ],
)
def test_what_could_change_a_weight_or_hide_is_no_name(text: str) -> None:
    with pytest.raises(ValueError, match="found"):
        check_name(text)


@pytest.mark.parametrize("word", sorted(ANSWERS))
def test_a_name_that_answers_a_question_about_itself_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="expected a name that judges nothing"):
        check_name(f"{word.capitalize()} snow")
    assert check_description(f"{word} snow")


def test_names_and_descriptions_have_a_longest_length() -> None:
    assert check_name("a" * 60)
    assert check_description("a" * 160)
    with pytest.raises(ValueError, match="found 61 characters"):
        check_name("a" * 61)
    with pytest.raises(ValueError, match="found 161 characters"):
        check_description("a" * 161)


def test_names_that_differ_in_case_hyphens_and_small_words_are_one() -> None:
    assert name_key("The Water's Edge") == name_key("water's-edge")
    assert name_key("a sea of books") == name_key("sea of the books")
    assert name_key("red paper") != name_key("paper red")


@given(st.text("abc -'", min_size=1, max_size=20))
def test_a_name_that_passes_has_a_key_and_no_sign_of_a_weight(text: str) -> None:
    try:
        check_name(text)
    except ValueError:
        return
    assert name_key(text)
    assert not set(text) & set('()[]{}+"|.:')
    assert not text.endswith("-")
