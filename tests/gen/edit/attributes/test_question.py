"""Questions about an edit: two of each kind, and no text gives its answer away."""

import re
from dataclasses import replace

import pytest

from gen.edit.attributes.attribute import ANSWERS, ATTRIBUTE_KINDS, Attribute, AttributeKind
from gen.edit.attributes.lexicon import load_attributes
from gen.edit.attributes.question import Question, questions_of
from shards.labels.classes import KINDS, MAX_NAME_CHARS
from tests.support.hostile_text import PAYLOADS


def attribute(kind: AttributeKind, feasible: bool = True) -> Attribute:
    return Attribute(
        kind=kind,
        feasible=feasible,
        name="snowy field",
        text="a description that says yes, feasible",
        weight=1.2,
        source="llm",
    )


@pytest.mark.parametrize("kind", ATTRIBUTE_KINDS)
@pytest.mark.parametrize("feasible", [True, False])
def test_two_questions_ask_whether_it_is_visible_and_two_whether_it_is_plausible(
    kind: AttributeKind, feasible: bool
) -> None:
    questions = questions_of(attribute(kind, feasible), "dog")
    assert [one.asks for one in questions] == ["visible", "visible", "plausible", "plausible"]
    assert [one.expected for one in questions] == [True, True, feasible, feasible]
    assert len({one.text for one in questions}) == 4
    assert all('"snowy field"' in one.text and one.text.endswith("?") for one in questions)
    assert any("a dog" in one.text for one in questions if one.asks == "visible")
    assert all("a dog" in one.text for one in questions if one.asks == "plausible")


@pytest.mark.parametrize("kind", ATTRIBUTE_KINDS)
def test_the_texts_are_the_same_whatever_is_expected_and_leave_out_the_description(kind: AttributeKind) -> None:
    one, other = (questions_of(attribute(kind, side), "dog") for side in (True, False))
    assert [question.text for question in one] == [question.text for question in other]
    told = replace(attribute(kind), text="another description")
    assert questions_of(told, "dog") == one


def test_no_question_about_a_shipped_attribute_has_a_word_that_answers_it() -> None:
    for name in ("general", "sandbox"):
        lexicon = load_attributes(name)
        for kind in ATTRIBUTE_KINDS:
            for entry in {one for of in KINDS for side in (True, False) for one in lexicon.entries(kind, side, of, "")}:
                asked = replace(attribute(kind), name=entry.name)
                said = " ".join(question.text for question in questions_of(asked, "dog")).casefold()
                assert not ANSWERS & set(re.findall(r"\w+", said))


def test_a_meaning_stands_between_commas() -> None:
    questions = questions_of(attribute("background"), "crane, the bird")
    assert questions[2].text == 'Is "snowy field" a place where one can meet a crane, the bird?'
    assert questions[3].text.startswith("Could a camera have taken a photograph of a crane, the bird, with")


@pytest.mark.parametrize("name", [*PAYLOADS[:40], "{attribute}", "{subject}", "x" * MAX_NAME_CHARS])
def test_any_class_name_stays_what_it_is(name: str) -> None:
    assert all(isinstance(one, Question) for one in questions_of(attribute("texture"), name))
    assert name in questions_of(attribute("texture"), name)[2].text
