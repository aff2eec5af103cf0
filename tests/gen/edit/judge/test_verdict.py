"""What follows from answers, and what a recipe may ask of a judge."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gen.edit.judge.question import Question, rather_than
from gen.edit.judge.spec import JudgeSpec
from gen.edit.judge.verdict import Answered, verdict_of

VLM = {"provider": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1"}
CLIP = {"model": "sandbox/models/clip"}


def four(expected: tuple[bool, ...] = (True, True, True, True)) -> list[Question]:
    texts = ("Is the ink red?", "Is anything red?", "May ink be red?", "Does red ink exist?")
    kinds = ("visible", "visible", "plausible", "plausible")
    return [Question(text, kind, wish) for text, kind, wish in zip(texts, kinds, expected, strict=True)]  # type: ignore[arg-type]


def said(answers: str, expected: tuple[bool, ...] = (True, True, True, True)) -> list[Answered]:
    """``"yn.y"``: yes, no, nothing of use, yes."""
    words: dict[str, Any] = {"y": "yes", "n": "no", ".": None}
    return [
        Answered(question, words[letter], None if letter != "." else "not_json")
        for question, letter in zip(four(expected), answers, strict=True)
    ]


@pytest.mark.parametrize(
    ("answers", "expected", "status", "score"),
    [
        ("yyyy", (True, True, True, True), "success", 1.0),
        ("yynn", (True, True, True, True), "success", 0.5),
        ("ynnn", (True, True, True, True), "rejected", 0.25),
        ("yynn", (True, True, False, False), "success", 1.0),  # infeasible, and seen to be so
        ("nnyy", (True, True, False, False), "rejected", 0.0),
        ("nnny", (True, True, False, False), "rejected", 0.25),
    ],
)
def test_two_of_four_expected_answers_are_enough_and_one_is_not(
    answers: str, expected: tuple[bool, ...], status: str, score: float
) -> None:
    verdict = verdict_of(said(answers, expected), 0.5)
    assert (verdict.status, verdict.score, verdict.accepted) == (status, score, status == "success")
    assert (verdict.error is None) == verdict.accepted


def test_one_question_without_an_answer_is_no_verdict_whatever_the_others_are() -> None:
    for answers in ("yyy.", ".yyy", "nnn.", "...."):
        verdict = verdict_of(said(answers), 0.5)
        assert (verdict.status, verdict.score, verdict.accepted) == ("judge_failed", None, False)
        assert verdict.error == "the judge gave no usable answer (not_json)"


def test_without_a_question_nothing_is_accepted() -> None:
    with pytest.raises(ValueError, match="found no question about an image"):
        verdict_of([], 0.5)


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 100).map(lambda percent: percent / 100),
)
def test_an_image_is_accepted_if_and_only_if_the_share_of_expected_answers_reaches_the_threshold(
    pairs: list[tuple[bool, bool]], threshold: float
) -> None:
    answers = [
        Answered(Question(f"{number}?", "visible", expected), "yes" if answer else "no")
        for number, (answer, expected) in enumerate(pairs)
    ]
    right = sum(answer == expected for answer, expected in pairs)
    verdict = verdict_of(answers, threshold)
    assert verdict.accepted == (100 * right >= round(100 * threshold) * len(pairs))
    assert verdict.status == ("success" if verdict.accepted else "rejected")
    better = [Answered(one.question, "yes" if one.question.expected else "no") for one in answers]
    assert verdict_of(better, threshold).score == 1.0


def test_the_text_for_the_row_has_the_score_and_every_answer() -> None:
    assert json.loads(verdict_of(said("ynn.", (True, False, True, True)), 0.5).json_text()) == {
        "score": None,
        "asked": 4,
        "answers": [
            {"question": "Is the ink red?", "answer": "yes", "expected": "yes"},
            {"question": "Is anything red?", "answer": "no", "expected": "no"},
            {"question": "May ink be red?", "answer": "no", "expected": "yes"},
            {"question": "Does red ink exist?", "answer": None, "expected": "yes", "reason": "not_json"},
        ],
    }
    assert json.loads(verdict_of(said("ynnn"), 0.5).json_text())["score"] == 0.25


def test_of_many_answers_the_row_has_a_few_and_first_those_that_were_not_expected() -> None:
    asked = [Question(f"Is it number {number}?", "visible", True) for number in range(300)]
    verdict = verdict_of([Answered(one, "no" if one is asked[250] else "yes") for one in asked], 0.5)
    told = json.loads(verdict.json_text())
    assert (told["asked"], len(told["answers"])) == (300, 8)
    assert [one["question"] for one in told["answers"][:2]] == ["Is it number 250?", "Is it number 0?"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"text": " "}, "found 1 characters, expected a text of at most 500 that asks something"),
        ({"text": "x" * 501}, "found 501 characters, expected a text of at most 500"),
        ({"yes": "red ink"}, "found 'red ink' and '' as texts for yes and no, expected two that differ"),
        ({"yes": "red ink", "no": "red ink"}, "expected two that differ"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Question(**({"text": "Is it?", "asks": "visible", "expected": True} | fields))


def test_with_all_of_its_questions_one_text_has_to_be_the_nearest() -> None:
    questions = rather_than("red ink", ["blue ink", "green ink"])
    assert [(one.yes, one.no, one.expected, one.asks) for one in questions] == [
        ("red ink", "blue ink", True, "visible"),
        ("red ink", "green ink", True, "visible"),
    ]
    assert verdict_of([Answered(one, "yes") for one in questions], 1.0).accepted
    assert not verdict_of([Answered(questions[0], "yes"), Answered(questions[1], "no")], 1.0).accepted


def test_captions_of_any_length_are_compared_whole_and_told_by_their_ends() -> None:
    """A prompt has no limit of characters: what the CLIP reads of it is its own affair."""
    prompt = "a photo of two, " * 200
    [question] = rather_than(f"{prompt}on pink paper", [f"{prompt}on grass"])
    assert (question.yes, question.no) == (f"{prompt}on pink paper", f"{prompt}on grass")
    assert len(question.text) < 500
    assert 'two, on pink paper" rather than "a photo of two, ' in question.text
    assert question.text.endswith('two, on grass"?')


# the recipe's part


def test_each_kind_asks_what_it_can_answer() -> None:
    assert JudgeSpec().asked == ()
    assert JudgeSpec(kind="clip", clip=CLIP).asked == ("visible",)
    assert JudgeSpec(kind="vlm", llm=VLM).asked == ("visible", "plausible")
    assert JudgeSpec(kind="vlm", llm=VLM, asks=["plausible"]).asked == ("plausible",)


def test_a_model_answers_without_luck_unless_the_recipe_wants_it() -> None:
    without, own, hosted = (
        JudgeSpec(kind="vlm", llm=VLM | more) for more in ({}, {"temperature": 0.5}, {"temperature": None})
    )
    assert [one.llm.temperature for one in (without, own, hosted) if one.llm] == [0, 0.5, None]
    assert JudgeSpec.model_validate(without.model_dump(mode="json")) == without


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"kind": "clip", "clip": CLIP, "asks": ["visible", "plausible"]},
            "found plausible for kind clip, expected vis",
        ),
        ({"kind": "none", "asks": ["visible"]}, "found visible for kind none, expected null"),
        ({"kind": "vlm"}, "judge.llm: found none for kind vlm, expected one"),
        ({"kind": "clip"}, "judge.clip: found none for kind clip, expected one"),
        ({"kind": "clip", "clip": CLIP, "llm": VLM}, "judge.llm: found one for kind clip, expected none"),
        ({"kind": "vlm", "llm": {}}, "judge.llm: found provider offline, expected openai or transformers"),
        ({"kind": "clip", "clip": CLIP, "threshold": 0}, "greater than 0"),
        ({"kind": "clip", "clip": CLIP, "budget": 0}, "greater than or equal to 1"),
        ({"kind": "clip", "clip": CLIP, "asks": []}, "at least 1"),
        ({"kind": "clip", "clip": CLIP, "rounds": 3}, "Extra inputs"),
    ],
)
def test_a_judge_that_could_not_judge_is_refused_before_the_run(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        JudgeSpec(**fields)


def test_every_field_says_what_it_is() -> None:
    for name, field in JudgeSpec.model_fields.items():
        assert field.description, name
