"""Styles: each used equally often, in a class and over the run, and mixed with contexts in their share."""

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen.wording.contexts import draw_contexts
from gen.wording.lexicon import load_lexicon
from gen.wording.parts import Wording
from gen.wording.styles import add_styles, mix
from shards.labels.classes import Class

GENERAL = load_lexicon("general")
SANDBOX = load_lexicon("sandbox")


def spread(used: Mapping[str, int], among: int) -> int:
    """Between what is used most and what is used least."""
    return max(used.values()) - (min(used.values()) if len(used) == among else 0)


def contexts_of(one: Class, count: int, seed: int = 0) -> list[Wording]:
    return draw_contexts(one, None, count, seed, GENERAL, None)


@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0, 1)), min_size=1, max_size=6),
    st.integers(0, 2**62),
)
@settings(max_examples=40, deadline=None)
def test_styles_are_even_in_every_prefix_of_a_class_and_over_the_run_after_every_class(
    classes: list[tuple[int, float]], seed: int
) -> None:
    first = 0
    over_the_run: Counter[str] = Counter()
    for class_id, (num_contexts, share) in enumerate(classes):
        one = Class(class_id, "dog", None, 1)
        count = int(share * num_contexts * 60)
        wordings = add_styles(one, None, contexts_of(one, num_contexts), count, first, seed, GENERAL)
        assert len({wording.text("dog") for wording in wordings}) == count
        used: Counter[str] = Counter()
        contexts: Counter[str] = Counter()
        for wording in wordings:
            used[wording.words["style"]] += 1
            contexts[str(sorted((part, word) for part, word in wording.words.items() if part != "style"))] += 1
            assert spread(used, 60) <= 1
            assert spread(contexts, num_contexts) <= 1
        first += count
        over_the_run += used
        if over_the_run:
            assert spread(over_the_run, 60) <= 1


def test_a_styled_prompt_says_its_context_and_its_style() -> None:
    one = Class(3, "crane", "n02012849", 1)
    meaning = "crane, the bird"
    contexts = draw_contexts(one, meaning, 30, 0, GENERAL, None)
    forms = {form.photo: form.styled for form in GENERAL.forms}
    sources = [dict(context.words) for context in contexts]
    for wording in add_styles(one, meaning, contexts, 100, 0, 0, GENERAL):
        words = dict(wording.words)
        text = wording.text(meaning)
        assert all(word in text for word in [*words.values(), meaning])
        assert "a photo" not in text
        style = words.pop("style")
        assert style in GENERAL.styles
        assert forms[contexts[sources.index(words)].form] == wording.form


def test_the_sandbox_says_its_styles_in_the_place_of_a_plain_photo() -> None:
    seven = Class(7, "seven", None, 1)
    contexts = draw_contexts(seven, None, 5, 0, SANDBOX, None)
    for wording in add_styles(seven, None, contexts, 55, 0, 0, SANDBOX):
        assert wording.text("seven").endswith(wording.words["style"])
        assert "a plain photo" not in wording.text("seven")


def test_equal_input_gives_equal_styles_and_another_class_or_seed_gives_others() -> None:
    one, other = Class(1, "dog", None, 1), Class(2, "dog", None, 1)
    contexts = contexts_of(one, 30)
    first = add_styles(one, None, contexts, 90, 7, 0, GENERAL)
    assert add_styles(one, None, contexts, 90, 7, 0, GENERAL) == first
    assert add_styles(one, None, contexts, 90, 7, 1, GENERAL) != first
    assert add_styles(other, None, contexts, 90, 7, 0, GENERAL) != first


def test_every_pair_can_be_had_but_not_one_more() -> None:
    one = Class(1, "dog", None, 1)
    contexts = contexts_of(one, 4)
    assert len({wording.text("dog") for wording in add_styles(one, None, contexts, 240, 0, 0, GENERAL)}) == 240
    assert add_styles(one, None, contexts, 0, 0, 0, GENERAL) == []
    with pytest.raises(ValueError, match=r"class 1 \('dog'\): found 4 contexts and 60 styles, expected at least 241"):
        add_styles(one, None, contexts, 241, 0, 0, GENERAL)


def test_styles_that_make_the_same_text_are_refused() -> None:
    one = Class(1, "dog", None, 1)
    lexicon = SANDBOX.model_copy(update={"styles": ("b", "a, b")})
    form = lexicon.forms[0].photo
    words = {"foreground": "ink", "background": "paper"}
    contexts = [Wording(form, {**words, "light": "x"}), Wording(form, {**words, "light": "x, a"})]
    with pytest.raises(ValueError, match="twice, expected distinct texts; change words or styles"):
        add_styles(one, None, contexts, 4, 0, 0, lexicon)


@given(st.integers(0, 300), st.integers(0, 300))
def test_every_prefix_of_a_mix_has_its_share_of_both_kinds_within_one(num_contexts: int, num_styled: int) -> None:
    contexts = [Wording("{name}, {caption}", {"caption": f"c{number}"}) for number in range(num_contexts)]
    styled = [Wording("{name}, {caption}", {"caption": f"s{number}"}) for number in range(num_styled)]
    mixed = mix(contexts, styled)
    assert [wording for kind, wording in mixed if kind == "cd"] == contexts
    assert [wording for kind, wording in mixed if kind == "sd"] == styled
    seen = 0
    for place, (kind, _) in enumerate(mixed, 1):
        seen += kind == "sd"
        assert abs(seen - place * num_styled / len(mixed)) < 1
