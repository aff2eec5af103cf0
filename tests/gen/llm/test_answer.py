"""From what a model said to JSON that fits: a law for good texts, a reason for every other."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cluster.recipes.load import canonical_json
from gen.llm.answer import REASONS, read_answer
from gen.llm.call import BadAnswer, Said

ANY = {"type": ["object", "array"]}
NAMES = {
    "type": "object",
    "properties": {"names": {"type": "array", "items": {"type": "string"}}},
    "required": ["names"],
}

texts = st.text(st.characters(codec="utf-8"), max_size=20)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))
containers = st.lists(values, max_size=4) | st.dictionaries(texts, values, max_size=4)
prose = st.text(st.characters(codec="utf-8", exclude_characters="[]{}"), max_size=40)


@given(
    containers, prose, prose, st.sampled_from(["{}", "```json\n{}\n```", "```\n{}```", "<think>[1] {{ no</think>{}"])
)
@settings(max_examples=200, deadline=None)
def test_a_value_is_found_alone_in_a_fence_in_prose_and_after_open_thoughts(
    value: Any, before: str, after: str, form: str
) -> None:
    written = json.dumps(value, ensure_ascii=False)
    text = before.replace("</think>", "") + form.replace("{}", "\0").replace("\0", written) + after
    if "</think>" not in after and "</think>" not in written:
        assert json.loads(read_answer(Said(text), ANY)) == value


@given(st.text(max_size=200) | st.text('[]{}",:0123456789eE.-\\u nultrefasNI', max_size=200), st.booleans())
@settings(max_examples=300, deadline=None)
def test_every_other_text_has_a_reason(text: str, is_cut: bool) -> None:
    reason = None
    try:
        written = read_answer(Said(text, is_cut=is_cut), NAMES)
    except BadAnswer as error:
        reason = error.reason
    assert reason in REASONS if reason else isinstance(json.loads(written)["names"], list)


@given(containers)
@example(["</think>"])
@example({"0": [["</think>"]], "": []})
@settings(max_examples=100, deadline=None)
def test_one_value_is_written_in_one_way(value: Any) -> None:
    written = read_answer(Said(json.dumps(value, indent=2)), ANY)
    assert written == canonical_json(value).decode() == read_answer(Said(written), ANY)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('Here [as asked] it is: {"names": ["a"]}', ["a"]),
        ('{"names": 1} or rather {"names": ["b"]}', ["b"]),
        ('{"names": ["a"]} {"names": ["b"]}', ["a"]),
        ('{"names": ["{not} [json]"]}', ["{not} [json]"]),
        ('{"names": ["a", "b",],}', ["a", "b"]),
        ('So: [\n1,\n] or {"names": ["a,]", ",}" , ] , }', ["a,]", ",}"]),
        ('[a, ] " {"names": ["a,]",]}', ["a,]"]),
    ],
)
def test_the_first_value_that_fits_counts(text: str, found: list[str]) -> None:
    assert json.loads(read_answer(Said(text), NAMES)) == {"names": found}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"names": ["a"], "n": NaN}', "not_json"),
        ('{"names": ["a"], "n": 1e999}', "not_json"),
        ('{"names": ["a"], "names": ["b"]}', "not_json"),
        ('{"names": ["\\udfff"]}', "not_text"),
        ('{"names": ' + "[" * 900 + "]" * 900 + "}", "wrong_schema"),
        ("[" * 100_000, "not_json"),
        ("[" * 100_000 + "]" * 100_000, "not_json"),
        ("9" * 10_000, "not_json"),
        ("Sorry, no.", "refused"),
        ("I can’t do that.", "refused"),
        ("As an AI I have no names.", "refused"),
        ("Sorry names: {}", "wrong_schema"),
        ("I cannoli", "not_json"),
        ('{"names": ["a",, "b"]}', "not_json"),
        ('{"names": [,]}', "not_json"),
        ('{"names": ["a"' + "," * 1_000 + "]}", "not_json"),
        (" \n", "empty"),
        ("<think>hm</think>", "empty"),
    ],
)
def test_each_fault_has_its_name(text: str, reason: str) -> None:
    with pytest.raises(BadAnswer) as caught:
        read_answer(Said(text), NAMES)
    assert caught.value.reason == reason


@pytest.mark.parametrize("text", ['{"names": ["a"], "n": NaN}', '{"a": ["a"], "b": ["a"', '{"x": ["a"], "x": 1}'])
def test_a_part_of_a_broken_value_is_never_taken_for_the_answer(text: str) -> None:
    with pytest.raises(BadAnswer, match="not_json"):
        read_answer(Said(text), {"type": "array", "items": {"type": "string"}})


def test_of_an_answer_that_was_cut_off_no_inner_part_is_taken() -> None:
    inner = {"type": "array", "items": {"type": "string"}}
    with pytest.raises(BadAnswer, match="truncated"):
        read_answer(Said('{"names": ["a", "b"], "more": ["c', is_cut=True), inner)
    assert read_answer(Said('["a", "b"] and so on and so', is_cut=True), inner) == '["a","b"]'
