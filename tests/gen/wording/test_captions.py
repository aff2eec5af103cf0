"""Captions: what is asked of a captioner, what becomes of its answers, and captions without any model."""

import json
import unicodedata
from collections import Counter
from collections.abc import Callable
from itertools import count as numbers
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gen.llm.ask import open_llm
from gen.llm.spec import LlmSpec
from gen.names.display_name import display_name, label_name, plain_words, says
from gen.names.kind import kind_of
from gen.wording.caption_examples import caption_pools
from gen.wording.captions import (
    MAX_CAPTION_CHARS,
    CaptionSpec,
    caption_ask,
    clean_caption,
    draw_captions,
    plan_captions,
    texture,
)
from gen.wording.lexicon import load_lexicon
from gen.wording.parts import Wording
from shards.labels.classes import Class
from tests.support.hostile_text import PAYLOADS
from tests.support.scripted_server import Reply, ScriptedServer

GENERAL = load_lexicon("general")
SANDBOX = load_lexicon("sandbox")
SPEC = CaptionSpec()
FEW = CaptionSpec(backgrounds=0)  # those of the lexicon
CRANE = Class(134, "crane", None, 20)
BIRD = "crane, the bird"
PLACES = ("in a marsh", "by a lake", "on a lawn")

names = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=40).map(
    lambda text: unicodedata.normalize("NFC", text).strip() or "x"
)


def offline(one: Class, meaning: str | None, count: int, seed: int = 0, spec: CaptionSpec = SPEC) -> list[Wording]:
    return draw_captions(one, meaning, count, seed, GENERAL, None, spec)


# the plan


def chi_square(spec: CaptionSpec, seed: int) -> float:
    """How far 20,000 queries are from 44 % concept, 11 % relation, 45 % background."""
    queries = islice(plan_captions(CRANE, None, seed, PLACES, GENERAL.relations, spec), 20_000)
    modes = Counter[str](query.mode for query in queries)
    assert set(modes) == {"concept", "relation", "background"}
    expected = {"concept": 8_800.0, "relation": 2_200.0, "background": 9_000.0}
    return sum((modes[mode] - share) ** 2 / share for mode, share in expected.items())


def test_the_mode_mix_is_44_11_45_by_a_chi_square_test_over_20_000_queries() -> None:
    assert chi_square(SPEC, seed=7) < 13.8  # p = 0.001 at 2 degrees of freedom


def test_the_test_of_the_mode_mix_would_notice_two_points_of_difference() -> None:
    assert chi_square(CaptionSpec(concept=0.46, relation=0.11, background=0.43), seed=7) > 13.8


def test_backgrounds_and_relations_are_drawn_evenly_enough() -> None:
    queries = list(islice(plan_captions(CRANE, None, 1, PLACES, GENERAL.relations, SPEC), 20_000))
    for words, used in ((PLACES, "background"), (GENERAL.relations, "relation")):
        counts = Counter(getattr(query, used) for query in queries if query.mode == used)
        assert set(counts) == set(words)
        share = counts.total() / len(words)
        assert sum((count - share) ** 2 / share for count in counts.values()) < 30  # p < 0.001 at 9 degrees of freedom


def test_a_mode_whose_words_are_missing_asks_for_the_concept_alone() -> None:
    modes = {query.mode for query in islice(plan_captions(CRANE, None, 1, (), (), SPEC), 200)}
    assert modes == {"concept"}


def test_shares_that_are_no_whole_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"found shares that add up to 0\.9, expected"):
        CaptionSpec(concept=0.34)


# what a class is called


def test_the_noun_of_its_kind_is_behind_the_name_that_is_asked_and_not_in_the_label() -> None:
    for name, noun, shown in (
        ("Audi TT Hatchback 2011", "car", "Audi TT Hatchback 2011 car"),
        ("707-320", "aircraft", "707-320 aircraft"),
        ("Smart Car", "car", "Smart Car"),
        ("scarf", "car", "scarf car"),
        ("crane", "", "crane"),
    ):
        one = Class(0, name, None, 1)
        query = next(plan_captions(one, None, 0, (), (), CaptionSpec(noun=noun)))
        assert query.concept == display_name(name, noun) == shown
        assert label_name(shown, noun) == (name if shown != name else shown)
        caption = offline(one, None, 1, spec=CaptionSpec(noun=noun))[0].words["caption"]
        assert shown in caption
        assert says(caption, name)


@given(names, st.sampled_from(["car", "aircraft", "sports car"]))
def test_taking_the_noun_away_gives_the_name_that_it_was_put_behind(name: str, noun: str) -> None:
    shown = display_name(name, noun)
    assert label_name(shown, noun) == name or shown == name


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("A Great-White  SHARK turns", "great white shark", True),
        ("three sharks", "shark", True),
        ("a heap of cherries", "cherry", True),
        ("two foxes", "fox", True),
        ("sharkskin", "shark", False),
        ("white great shark", "great white shark", False),
        ("a ram in a field", "ram (adult male sheep)", True),
        ("a maned wolf", "red wolf or maned wolf", True),
        ("a wolf", "red wolf or maned wolf", False),
        ("STRASSE im Regen", "straße", True),
        ("made of *** and gold", "***", True),
        ("made of gold", "***", False),
        ("anything", "", True),
    ],
)
def test_a_text_says_a_name_if_its_words_stand_in_it(text: str, name: str, said: bool) -> None:
    assert says(text, name) is said


# without a language model


@given(names, st.none() | names, st.integers(1, 60), st.integers(-(2**40), 2**40))
@settings(max_examples=60, deadline=None)
def test_captions_are_distinct_reproducible_and_a_larger_count_begins_with_the_same(
    name: str, meaning: str | None, count: int, seed: int
) -> None:
    one = Class(3, name, None, 20)
    found = offline(one, meaning, count, seed)
    texts = [wording.text(meaning or name) for wording in found]
    assert len(texts) == len(set(texts)) == count
    assert offline(one, meaning, count, seed) == found
    assert offline(one, meaning, count + 7, seed)[:count] == found


def test_a_meaning_stands_in_place_of_the_name_and_every_text_can_be_put_together_again() -> None:
    for meaning in (None, BIRD):
        for wording in offline(CRANE, meaning, 200):
            text = wording.text(meaning or CRANE.name)
            assert text == wording.words["caption"]
            assert text.count(meaning or CRANE.name) == text.count("crane") == 1
            assert ",," not in text
            assert not text.endswith(",")


def test_the_parts_of_a_caption_are_told_beside_it() -> None:
    found = offline(CRANE, BIRD, 400)
    backgrounds = set(GENERAL.words("background", kind_of(CRANE, BIRD)))
    used = Counter(part for wording in found for part in wording.words)
    assert used["background"] > 130
    assert used["relation"] > 20
    for wording in found:
        assert wording.words.get("background", next(iter(backgrounds))) in backgrounds
        for part, word in wording.words.items():
            assert word in wording.words["caption"], part


def test_every_class_of_dtd_yields_captions_of_its_texture() -> None:
    textures = sorted(caption_pools().texture_names)
    assert len(textures) == 47
    for class_id, name in enumerate(textures):
        one = Class(class_id, name, None, 40)
        assert texture(one, SPEC)
        assert {query.mode for query in islice(plan_captions(one, None, 0, PLACES, ("on",), SPEC), 50)} == {"texture"}
        found = offline(one, None, 300)
        assert len(found) == 300
        assert all(says(wording.words["caption"], name) for wording in found)


def test_a_thing_that_is_called_as_a_texture_is_none_and_a_recipe_can_say_so() -> None:
    assert not texture(Class(0, "braided", "n02012849", 1), SPEC)
    assert not texture(Class(0, "braided", None, 1), CaptionSpec(textures=False))
    assert texture(Class(0, "rusty", None, 1), CaptionSpec(textures=True))


def test_in_the_sandbox_every_caption_is_made_of_the_words_of_its_pool() -> None:
    from sandbox.captions import FRAMES, LIGHT_PHRASES, PHOTO_FRAMES

    known = " ".join(
        [*FRAMES, *PHOTO_FRAMES, *LIGHT_PHRASES.values(), "on ink paper", *SANDBOX.words("background", "other")]
    )
    words = set(plain_words(" ".join([known, *SANDBOX.words("foreground", "other"), "two"])).split())
    found = draw_captions(Class(2, "two", None, 20), None, 600, 0, SANDBOX, None, SPEC)
    assert set(plain_words(" ".join(wording.words["caption"] for wording in found)).split()) <= words


def test_a_lexicon_with_too_few_words_ends_in_one_line() -> None:
    with pytest.raises(
        ValueError, match=r"captions of class 2 \('two'\): found \d+ distinct ones .*, expected 9999"
    ) as error:
        draw_captions(Class(2, "two", None, 20), None, 9_999, 0, SANDBOX, None, SPEC)
    assert "\n" not in str(error.value)


# with a language model


def ask(
    script: Callable[[dict[str, Any]], Reply],
    folder: Path,
    one: Class,
    meaning: str | None,
    count: int,
    spec: CaptionSpec,
    dropped: Counter[str] | None = None,
) -> tuple[list[Wording], list[dict[str, Any]]]:
    """Captions from a server that answers by `script`, and the requests that it got."""
    with (
        ScriptedServer(script) as server,
        open_llm(
            LlmSpec(
                provider="openai", model="m", base_url=server.base_url, cache=str(folder / "llm.sqlite"), backoff_s=0
            )
        ) as llm,
    ):
        return draw_captions(one, meaning, count, 5, GENERAL, llm, spec, dropped), server.requests


def user_text(request: dict[str, Any]) -> str:
    text = request["messages"][-1]["content"]
    assert isinstance(text, str)
    return text


def numbered(sentence: str) -> Callable[[dict[str, Any]], Reply]:
    """A caption that differs by the question, whatever the order in which questions arrive."""
    return lambda request: Reply(json.dumps({"caption": f"{sentence} {request['seed']}"}))


def test_a_question_shows_three_examples_of_its_mode_and_ends_with_the_concept(tmp_path: Path) -> None:
    found, requests = ask(numbered("A crane stands, number"), tmp_path, CRANE, BIRD, 40, FEW)
    assert len(found) == 40
    assert all(wording.text(BIRD) == f"{BIRD}: {wording.words['caption']}" for wording in found)
    openings = set()
    for request in requests:
        *shots, last = user_text(request).split("\n")
        assert len(shots) == 3
        assert last.startswith(BIRD)
        assert last.endswith(" =>")
        for word in (", background: ", ", relation: "):
            assert all((word in shot) == (word in last) for shot in shots)
        openings.add(tuple(shots))
    assert len(openings) > 20


def test_a_caption_that_says_the_meaning_is_not_told_it_again(tmp_path: Path) -> None:
    def script(request: dict[str, Any]) -> Reply:
        said = BIRD if request["seed"] % 2 else "A crane"
        return Reply(json.dumps({"caption": f"{said} stands in a marsh, number {request['seed']}"}))

    found, _ = ask(script, tmp_path, CRANE, BIRD, 40, FEW)
    assert {wording.form for wording in found} == {"{caption}", "{name}: {caption}"}
    assert all(wording.text(BIRD).count(BIRD) == 1 for wording in found)
    assert all(wording.text(BIRD).startswith(BIRD) for wording in found)


def test_two_captions_that_come_to_one_text_are_one(tmp_path: Path) -> None:
    said = iter([f"{BIRD}: A crane by a lake", "A crane by a lake", "A crane on a lawn"])

    def script(request: dict[str, Any]) -> Reply:
        return Reply(json.dumps({"caption": next(said)}))

    dropped: Counter[str] = Counter()
    found, _ = ask(script, tmp_path, CRANE, BIRD, 2, FEW, dropped)
    assert len({wording.text(BIRD) for wording in found}) == 2
    assert dropped["repeat"] == 1


def test_the_words_of_a_question_stand_beside_its_caption(tmp_path: Path) -> None:
    found, requests = ask(numbered("A crane stands, number"), tmp_path, CRANE, None, 40, FEW)
    asked = Counter(user_text(request).rpartition("\n")[2] for request in requests)
    told = Counter(
        f"crane, background: {wording.words['background']} =>"
        if "background" in wording.words
        else f"crane, relation: {wording.words['relation']} =>"
        if "relation" in wording.words
        else "crane =>"
        for wording in found
    )
    assert asked == told


def test_backgrounds_of_a_class_are_asked_of_the_model_first(tmp_path: Path) -> None:
    counter = numbers()

    def script(request: dict[str, Any]) -> Reply:
        if user_text(request).startswith("Subject: "):
            start = 25 * next(counter)
            return Reply(json.dumps({"backgrounds": [f"in marsh {start + at}" for at in range(25)]}))
        return numbered("A crane stands, number")(request)

    spec = CaptionSpec(concept=0, relation=0, background=1, backgrounds=30)
    found, requests = ask(script, tmp_path, CRANE, BIRD, 30, spec)
    assert sum(user_text(request).startswith("Subject: ") for request in requests) == 2
    used = {wording.words["background"] for wording in found}
    assert len(used) > 10
    assert used <= {f"in marsh {at}" for at in range(50)}


def test_without_an_answer_about_backgrounds_those_of_the_lexicon_are_used(tmp_path: Path) -> None:
    def script(request: dict[str, Any]) -> Reply:
        if user_text(request).startswith("Subject: "):
            return Reply("no idea")
        return numbered("A crane stands, number")(request)

    dropped: Counter[str] = Counter()
    spec = CaptionSpec(concept=0, relation=0, background=1, backgrounds=10)
    found, _ = ask(script, tmp_path, CRANE, BIRD, 10, spec, dropped)
    assert {wording.words["background"] for wording in found} <= set(GENERAL.words("background", kind_of(CRANE, BIRD)))
    assert sum(times for reason, times in dropped.items() if reason.startswith("backgrounds: ")) == 3


def test_a_caption_without_the_name_is_asked_for_again_and_kept_after_the_last_try(tmp_path: Path) -> None:
    dropped: Counter[str] = Counter()
    spec = CaptionSpec(backgrounds=0, name_tries=2)
    found, requests = ask(numbered("A large grey bird, number"), tmp_path, CRANE, None, 8, spec, dropped)
    assert len(found) == 8
    assert len(requests) == 8 * 3
    assert dropped == {"class name missing, asked again": 16, "class name missing, kept": 8}


def test_a_caption_that_says_the_meaning_it_was_asked_for_is_named(tmp_path: Path) -> None:
    """A car is called by its name in the list, and asked for, and described, as people say it."""
    car, said = Class(0, "Audi TT RS Coupe 2012", None, 20), "2012 Audi TT RS Coupe"
    dropped: Counter[str] = Counter()
    found, requests = ask(numbered(f"A {said.upper()} at house"), tmp_path, car, said, 8, FEW, dropped)
    assert len(requests) == len(found) == 8
    assert dropped.total() == 0
    (tmp_path / "other").mkdir()
    ask(numbered("A red car at house"), tmp_path / "other", car, said, 8, FEW, dropped)
    assert dropped["class name missing, kept"] == 8


def test_repeated_captions_are_made_up_for_and_counted(tmp_path: Path) -> None:
    dropped: Counter[str] = Counter()

    def script(request: dict[str, Any]) -> Reply:
        return Reply(json.dumps({"caption": f"A crane, number {request['seed'] % 3}."}))

    with pytest.raises(
        ValueError, match=r"captions of class 134 \('crane'\): found 3 distinct ones .*repeat.*, expected 10"
    ):
        ask(script, tmp_path, CRANE, None, 10, FEW, dropped)
    assert dropped["repeat"] == 10 - 3 + 7 * (FEW.rounds - 1)


def test_a_language_model_is_asked_for_textures_and_answers_become_captions(tmp_path: Path) -> None:
    for class_id, name in enumerate(["banded", "polka-dotted", "zigzagged"]):
        (tmp_path / name).mkdir()
        one = Class(class_id, name, None, 40)
        found, requests = ask(numbered(f"A {name} rug, number"), tmp_path / name, one, None, 5, SPEC)
        assert len(found) == len(requests) == 5  # no question about backgrounds
        for request in requests:
            assert user_text(request).endswith(f"\n{name} =>")
            assert "texture" in request["messages"][0]["content"]


def test_a_second_run_asks_nothing_and_gives_the_same(tmp_path: Path) -> None:
    with ScriptedServer(numbered("A crane stands, number")) as server:
        spec = LlmSpec(provider="openai", model="m", base_url=server.base_url, cache=str(tmp_path / "llm.sqlite"))
        runs = []
        for _ in range(2):
            with open_llm(spec) as llm:
                runs.append(draw_captions(CRANE, BIRD, 30, 5, GENERAL, llm, FEW))
            calls = server.num_calls
        assert runs[0] == runs[1]
        assert calls == 30


def test_captions_do_not_depend_on_the_order_in_which_answers_arrive(tmp_path: Path) -> None:
    def slow(request: dict[str, Any]) -> Reply:
        return Reply(json.dumps({"caption": f"A crane, number {request['seed']}."}), delay_s=request["seed"] % 7 / 100)

    def fast(request: dict[str, Any]) -> Reply:
        return Reply(json.dumps({"caption": f"A crane, number {request['seed']}."}))

    (tmp_path / "slow").mkdir()
    (tmp_path / "fast").mkdir()
    assert (
        ask(slow, tmp_path / "slow", CRANE, BIRD, 30, FEW)[0] == ask(fast, tmp_path / "fast", CRANE, BIRD, 30, FEW)[0]
    )


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("crane", "too short"),
        ("", "empty"),
        ("\n \n", "empty"),
        ("a crane\u202e hidden", "hidden characters"),
        ("a crane\x00 with a NUL", "hidden characters"),
        ("a crane \ud800 alone", "hidden characters"),
        ("a crane \u0378 of no letter", "hidden characters"),
        ("a crane " + "x" * 500, "too long"),
        ("the crane and " * 20, "repetition"),
        ("I'm sorry, I cannot describe a crane.", "talk about the task"),
        ("As an AI, I have never seen a crane.", "talk about the task"),
    ],
)
def test_j2_an_answer_that_is_no_caption_has_a_named_reason(answer: str, reason: str) -> None:
    assert clean_caption({"caption": answer}) == (None, reason)


def test_of_several_lines_the_first_counts_and_quotes_around_it_go() -> None:
    assert clean_caption({"caption": '\n"A crane\tby  a lake."\nAnother one.'}) == ("A crane by a lake.", "")


@pytest.mark.parametrize("payload", PAYLOADS)
def test_j1_a_hostile_answer_or_name_ends_as_one_line_of_text_or_is_refused(payload: str) -> None:
    caption, reason = clean_caption({"caption": f"a crane {payload}"})
    assert (caption is None) == bool(reason)
    line = " ".join(payload.split())[:200]
    if caption is not None:
        assert len(caption) <= MAX_CAPTION_CHARS
        assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in caption)
    if plain_words(line) and line.isprintable():
        wording = offline(Class(0, line, None, 1), line, 3)[2]
        assert line in wording.text(line) == wording.words["caption"]


# places without the class


def test_there_are_as_many_examples_of_each_mode_as_in_the_papers_code() -> None:
    pools = caption_pools()
    modes = ("concept", "background", "relation", "place", "texture")
    assert [len(pools.examples(mode)) for mode in modes] == [52, 50, 20, 33, 21]
    for mode in modes:
        assert len({example.caption for example in pools.examples(mode)}) == len(pools.examples(mode))


def test_a_share_of_captions_may_be_of_a_place_alone() -> None:
    spec = CaptionSpec(concept=0.35, place=0.09)
    queries = list(islice(plan_captions(CRANE, BIRD, 0, ["in a marsh", "on a lake"], ["next to"], spec), 4_000))
    share = sum(query.mode == "place" for query in queries) / len(queries)
    assert 0.07 < share < 0.11
    assert all(not query.concept and query.background for query in queries if query.mode == "place")
    asked = caption_ask(next(query for query in queries if query.mode == "place"), spec)
    assert "crane" not in asked.user
    assert asked.user.count("place: ") == 4  # three examples and the question


def test_places_alone_are_asked_of_the_model_where_no_other_caption_needs_one(tmp_path: Path) -> None:
    spec = CaptionSpec(concept=0.5, relation=0, background=0, place=0.5, backgrounds=0)
    found, requests = ask(numbered("A crane stands, number"), tmp_path, CRANE, BIRD, 40, spec)
    asked = [user_text(request).rpartition("\n")[2] for request in requests]
    assert 10 < sum(line.startswith("place: ") for line in asked) < 30
    assert 10 < sum("background" in wording.words for wording in found) < 30


def test_a_place_alone_says_no_name_and_is_off_unless_asked_for() -> None:
    found = draw_captions(CRANE, BIRD, 60, 0, GENERAL, None, CaptionSpec(concept=0, relation=0, background=0, place=1))
    assert not any("crane" in wording.text(BIRD) for wording in found)
    assert all("{name}" not in wording.form for wording in found)
    assert CaptionSpec().place == 0
