"""Meanings: which sense of a name is chosen, by whom, how surely, and what is done when there is nothing to choose."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gen.llm.ask import open_llm
from gen.llm.spec import LlmSpec
from gen.model.clip import Clip, ClipSpec
from gen.names.wordnet import senses_of
from gen.prompts.candidates import MAX_PHRASE_CHARS, MAX_PHRASE_WORDS, clean_candidates, offers_of
from gen.prompts.meanings import (
    TABLE_COLUMNS,
    Meaning,
    MeaningSpec,
    bare_names,
    choose_meanings,
    dump_meanings,
    given_meanings,
    meaning_table,
    refuse_strangers,
    resolve_given,
    write_meanings,
)
from gen.prompts.real_images import read_real
from gen.wording.lexicon import Lexicon, load_lexicon
from sandbox.captions import DIE_MEANINGS, NUMERAL_MEANINGS, TILE_MEANINGS
from sandbox.world import CLASS_NAMES
from shards.labels.classes import Class, ClassSpec, load_classes
from tests.gen.names.test_wordnet import write_wordnet
from tests.support.dice import write_dice
from tests.support.hostile_text import PAYLOADS
from tests.support.meanings_file import meanings_in
from tests.support.scripted_server import Reply, ScriptedServer, answering
from tests.support.small_data_set import write_data_set

CLIP = ClipSpec(model="sandbox/models/clip")
NUMERALS = {name: NUMERAL_MEANINGS[0].format(name=name, digit=digit) for digit, name in enumerate(CLASS_NAMES)}
PIPS = {
    name: (DIE_MEANINGS if 1 <= digit <= 6 else TILE_MEANINGS)[0].format(name=name)
    for digit, name in enumerate(CLASS_NAMES)
}
IMAGENET = load_classes(ClassSpec(source="imagenet-1k", per_class=1))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def ten() -> list[Class]:
    return load_classes(ClassSpec(source="sandbox"))


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return load_lexicon("sandbox")


@pytest.fixture(scope="module")
def dice(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The wrong real images: 20 photographs of dice and tiles of each class."""
    return str(write_dice(tmp_path_factory.mktemp("dice"), 20))


def by_clip(real: str = "sandbox/real-train", **changes: object) -> MeaningSpec:
    return MeaningSpec.model_validate({"choose": "clip", "real": real, "clip": CLIP, "wordnet": None, **changes})


def with_senses(lexicon: Lexicon, senses: Mapping[str, Sequence[str]]) -> Lexicon:
    return lexicon.model_copy(update={"senses": {name: tuple(phrases) for name, phrases in senses.items()}})


def refused(build: Any) -> str:
    with pytest.raises(ValueError) as caught:
        build()
    return str(caught.value)


# the choice


def test_real_images_find_the_right_sense_of_ten_out_of_ten(ten: list[Class], lexicon: Lexicon) -> None:
    meanings = choose_meanings(ten, by_clip(), lexicon, None, 0)
    assert {one.class_name: one.phrase for one in meanings} == NUMERALS
    for one in meanings:
        assert one.source == "clip"
        assert one.candidate_source == "lexicon"
        assert one.num_images == 20
        assert len(one.candidates) >= 4  # both senses and two decoys at least
        assert one.margin is not None
        assert one.margin > 0.01


def test_images_of_dice_find_the_other_sense_of_ten_out_of_ten(ten: list[Class], lexicon: Lexicon, dice: str) -> None:
    meanings = choose_meanings(ten, by_clip(dice), lexicon, None, 0)
    assert {one.class_name: one.phrase for one in meanings} == PIPS


def test_with_fewer_images_fewer_senses_are_right_and_most_still_are(ten: list[Class], lexicon: Lexicon) -> None:
    right = {}
    for count in (1, 5, 20):
        found = [
            one.phrase == NUMERALS[one.class_name]
            for seed in range(3)
            for one in choose_meanings(ten, by_clip(max_images=count), lexicon, None, seed)
        ]
        right[count] = np.mean(found)
    assert right[20] == 1
    assert 0.6 < right[1] < 1
    assert right[1] <= right[5]


def test_what_is_stored_are_the_cosines_themselves(ten: list[Class], lexicon: Lexicon) -> None:
    three = ten[2:5]
    meanings = choose_meanings(three, by_clip(), lexicon, None, 0)
    clip = Clip.load(CLIP)
    for one, meaning in zip(three, meanings, strict=True):
        pixels = [image.pixels for image in read_real("sandbox/real-train", [one], 50, 0) if image.pixels is not None]
        mean = clip.embed_images(pixels).astype(np.float64).mean(axis=0)
        texts = clip.embed_texts(lexicon.senses[one.name]).astype(np.float64)
        expected = texts @ mean / (np.linalg.norm(texts, axis=1) * np.linalg.norm(mean))
        assert [phrase for phrase, _ in meaning.candidates] == list(lexicon.senses[one.name])
        np.testing.assert_allclose([cosine or 0 for _, cosine in meaning.candidates], expected, atol=2e-6)
        best, second = np.sort(expected)[::-1][:2]
        assert meaning.similarity == pytest.approx(best, abs=2e-6)
        assert meaning.margin == pytest.approx(best - second, abs=2e-6)
        assert (meaning.phrase, meaning.runner_up) == tuple(
            lexicon.senses[one.name][index] for index in np.argsort(-expected)[:2]
        )


def test_of_two_candidates_that_clip_reads_alike_the_earlier_wins_with_margin_zero(
    ten: list[Class], lexicon: Lexicon
) -> None:
    long = f"three, the {'qz' * 40}"  # fills the encoder; what follows is not seen
    for senses in ([f"{long} one", f"{long} two"], [f"{long} two", f"{long} one"]):
        meaning = choose_meanings(ten[3:4], by_clip(), with_senses(lexicon, {"three": senses}), None, 0)[0]
        assert (meaning.phrase, meaning.runner_up, meaning.margin) == (senses[0], senses[1], 0.0)


def test_neither_batch_nor_other_classes_change_a_choice(ten: list[Class], lexicon: Lexicon) -> None:
    whole = choose_meanings(ten, by_clip(), lexicon, None, 0)
    some = choose_meanings(ten[4:6], by_clip(clip=CLIP.model_copy(update={"batch": 7})), lexicon, None, 0)
    for one, other in zip(whole[4:6], some, strict=True):
        assert (one.phrase, one.runner_up) == (other.phrase, other.runner_up)
        assert one.similarity == pytest.approx(other.similarity, abs=2e-6)
    assert dump_meanings(choose_meanings(ten[::-1], by_clip(), lexicon, None, 0)) == dump_meanings(whole)


def test_progress_counts_the_images_that_were_looked_at(ten: list[Class], lexicon: Lexicon) -> None:
    heard: list[tuple[int, int]] = []
    choose_meanings(ten, by_clip(max_images=8), lexicon, None, 0, lambda done, total: heard.append((done, total)))
    assert heard == [(64, 80), (80, 80)]


# when there is nothing to choose


def test_none_gives_no_meaning_whatever_else_is_written(ten: list[Class], lexicon: Lexicon) -> None:
    spec = by_clip(choose="none", given={"one": "one, the numeral"}, real="nothing/there")
    meanings = choose_meanings(ten, spec, lexicon, None, 0)
    assert {(one.phrase, one.source) for one in meanings} == {(None, "none")}
    assert [one.class_id for one in meanings] == list(range(10))


def test_one_candidate_is_taken_and_says_so(ten: list[Class], lexicon: Lexicon) -> None:
    one = choose_meanings(ten[:1], by_clip(), with_senses(lexicon, {"zero": ["zero, the numeral"]}), None, 0)[0]
    assert (one.phrase, one.source, one.similarity, one.margin) == ("zero, the numeral", "only_candidate", None, None)


def test_without_a_candidate_the_name_stands_alone(ten: list[Class], lexicon: Lexicon) -> None:
    one = choose_meanings(ten[:1], by_clip(), with_senses(lexicon, {}), None, 0)[0]
    assert (one.phrase, one.source, one.candidates) == (None, "no_candidates", ())


def test_without_real_images_several_candidates_are_no_choice(ten: list[Class], lexicon: Lexicon) -> None:
    spec = MeaningSpec(choose="clip", wordnet=None)
    one = choose_meanings(ten[:1], spec, lexicon, None, 0)[0]
    assert (one.phrase, one.source, one.num_images) == (None, "no_real_images", 0)
    assert [phrase for phrase, _ in one.candidates] == list(lexicon.senses["zero"])


def test_a_class_without_images_beside_others_that_have_some_says_so(
    ten: list[Class], lexicon: Lexicon, tmp_path: Path
) -> None:
    (tmp_path / "0001_one").symlink_to(Path("sandbox/real-train/0001_one").resolve())
    (tmp_path / "0002_two").mkdir()
    (tmp_path / "0002_two" / "x.jpg").write_bytes(b"no picture")
    found = {one.class_id: one for one in choose_meanings(ten[:3], by_clip(str(tmp_path)), lexicon, None, 0)}
    assert [found[class_id].source for class_id in range(3)] == ["no_real_images", "clip", "no_real_images"]
    assert found[2].dropped == (("image_failed_to_decode", 1),)


SENSES = {name: (f"{name}, the bird", f"{name}, the machine") for name in ("crane", "one", "two")}


def test_a_class_gets_no_pictures_of_another_of_its_name_whose_sense_was_given(
    lexicon: Lexicon, tmp_path: Path
) -> None:
    """The set has real pictures of class 3 alone; by hand, by the limit of the list, or open, class 9 has none."""
    store = write_data_set(tmp_path / "set", change=lambda shard, index, row: {**row, "domain": "real", "seed": None})
    twins, two_senses = [Class(3, "crane", None, 1), Class(9, "crane", None, 1)], with_senses(lexicon, SENSES)
    by_hand = by_clip(str(store.root), given={3: "crane, by hand"})
    given_one, other = choose_meanings(twins, by_hand, two_senses, None, 0)
    assert (given_one.source, other.source, other.phrase) == ("given", "no_real_images", None)
    [alone] = choose_meanings(twins[1:], by_clip(str(store.root)), two_senses, None, 0, among=twins)
    assert (alone.source, alone.num_images) == ("no_real_images", 0)
    first, second = choose_meanings(twins, by_clip(str(store.root)), two_senses, None, 0)
    assert (first.source, second.source) == ("clip", "no_real_images")


def test_folders_that_are_matched_in_order_still_are_with_one_sense_given(lexicon: Lexicon, tmp_path: Path) -> None:
    for name, digit in (("a", "0001_one"), ("b", "0002_two")):
        (tmp_path / name).symlink_to(Path("sandbox/real-train", digit).resolve())
    classes, two_senses = [Class(0, "one", None, 1), Class(1, "two", None, 1)], with_senses(lexicon, SENSES)
    both = choose_meanings(classes, by_clip(str(tmp_path)), two_senses, None, 0)
    assert [one.source for one in both] == ["clip", "clip"]
    spec = by_clip(str(tmp_path), given={"one": "one, by hand"})
    assert choose_meanings(classes, spec, two_senses, None, 0)[1] == both[1]


def test_contested_classes_without_a_folder_have_no_real_images_beside_a_given_one_that_has(
    lexicon: Lexicon, tmp_path: Path
) -> None:
    (tmp_path / "one").symlink_to(Path("sandbox/real-train/0001_one").resolve())
    classes, two_senses = [Class(0, "one", None, 1), Class(1, "two", None, 1)], with_senses(lexicon, SENSES)
    spec = by_clip(str(tmp_path), given={"one": "one, by hand"})
    assert [one.source for one in choose_meanings(classes, spec, two_senses, None, 0)] == ["given", "no_real_images"]


def test_a_name_that_a_given_class_shares_is_shared(lexicon: Lexicon) -> None:
    missiles = [one for one in IMAGENET if one.name == "missile"]
    spec = MeaningSpec(choose="clip", wordnet=None)
    both = choose_meanings(missiles, spec, load_lexicon("general"), None, 0)
    for place, one in enumerate(missiles):
        other = spec.model_copy(update={"given": {missiles[1 - place].id: "missile, by hand"}})
        assert choose_meanings(missiles, other, load_lexicon("general"), None, 0)[place] == both[place]
        assert choose_meanings([one], spec, load_lexicon("general"), None, 0, among=missiles) == [both[place]]


# where candidates come from


def test_without_pictures_a_wordnet_id_says_the_sense_where_the_name_does_not(lexicon: Lexicon) -> None:
    spec = MeaningSpec(choose="clip", wordnet=None)
    meanings = choose_meanings(IMAGENET, spec, load_lexicon("general"), None, 0)
    sources = Counter(one.source for one in meanings)
    assert set(sources) == {"by_id", "clear_name"}
    assert 100 <= sources["by_id"] <= 150
    assert all((one.phrase is None) == (one.source == "clear_name") for one in meanings)
    assert len({one.phrase or one.class_name for one in meanings}) == 1000  # also where two classes share a name
    assert [one.class_id for one in meanings] == [one.id for one in IMAGENET]
    assert (meanings[657].class_name, meanings[744].class_name) == ("missile", "missile")
    assert (meanings[968].phrase, meanings[851].phrase) == (None, None)  # WordNet's definitions mislead there


def test_an_id_has_the_bare_name_its_own_sense_and_the_others_of_the_name_as_candidates() -> None:
    crane = Class(0, "crane", "n02012849", 1)
    offer = offers_of([crane], 8, None, load_lexicon("general"), None, 0)[0]
    bare, own, *others = offer.compared
    assert bare == "crane"
    assert "wading bird" in own
    assert "heavy objects" in " ".join(others)


def test_pictures_decide_for_a_class_with_an_id_too_and_the_bare_name_may_win(tmp_path: Path) -> None:
    """What the sandbox's CLIP makes of birds means nothing; that it is asked, and obeyed, does."""
    (tmp_path / "n02012849").symlink_to(Path("sandbox/real-train/0001_one").resolve())
    crane = Class(5, "crane", "n02012849", 1)
    [found] = choose_meanings([crane], by_clip(str(tmp_path)), load_lexicon("general"), None, 0)
    told = dict(found.candidates)
    assert found.source == "clip"
    assert found.num_images == 20
    assert next(iter(told)) == "crane"
    assert len(told) >= 3
    assert told[found.phrase or "crane"] == found.similarity == max(value or 0 for value in told.values())
    bare = with_senses(load_lexicon("general"), {})
    [named] = choose_meanings([Class(5, "one", "n02012849", 1)], by_clip(str(tmp_path)), bare, None, 0)
    assert (named.phrase, named.source) == (None, "clip")  # the pictures are of ones


def test_wordnets_files_give_all_senses_of_a_name_and_the_one_sense_of_an_id(tmp_path: Path, lexicon: Lexicon) -> None:
    wordnet = write_wordnet(tmp_path, [(("crane",), "a wading bird"), (("crane",), "a lifting machine")])
    machine = senses_of("crane", wordnet)[1].wordnet_id
    classes = [Class(0, "crane", None, 1), Class(1, "crane", machine, 1)]
    spec = MeaningSpec(choose="clip", wordnet=str(tmp_path))
    found = choose_meanings(classes, spec, load_lexicon("general"), None, 0)
    told = [phrase for phrase, _ in found[0].candidates]
    assert {"crane, a wading bird", "crane, a lifting machine"} <= set(told)
    assert {one.candidate_source for one in found} == {"wordnet"}
    assert (found[0].phrase, found[0].source) == (None, "no_real_images")
    assert found[1].candidates[0][0] == "crane, a lifting machine"


def ask_of(reply: Any, tmp_path: Path, spec: MeaningSpec, classes: list[Class], lexicon: Lexicon) -> tuple[Any, Any]:
    with ScriptedServer(reply) as server:
        llm_spec = LlmSpec(
            provider="openai",
            model="m",
            base_url=server.base_url,
            cache=str(tmp_path / "llm.sqlite"),
            tries=2,
            backoff_s=0,
        )
        with open_llm(llm_spec) as llm:
            return choose_meanings(classes, spec, lexicon, llm, 0), server


def test_the_language_models_candidates_come_first_and_a_second_run_makes_no_call(
    ten: list[Class], lexicon: Lexicon, tmp_path: Path
) -> None:
    def reply(request: dict[str, Any]) -> Reply:
        asked = request["messages"][-1]["content"]
        name = next(name for name in CLASS_NAMES if json.dumps(name) in asked)
        return Reply(json.dumps({"meanings": ["the face of a die", f"1. {name}, the handwritten numeral", name]}))

    first, server = ask_of(reply, tmp_path, by_clip(), ten[:4], lexicon)
    assert server.num_calls == 4
    assert [one.phrase for one in first] == [NUMERALS[name] for name in CLASS_NAMES[:4]]
    assert {one.candidate_source for one in first} == {"llm"}
    assert [one.runner_up for one in first] == [f"{name}, the face of a die" for name in CLASS_NAMES[:4]]
    assert all(one.dropped == (("candidate_says_nothing", 1),) for one in first)
    with ScriptedServer(reply) as second:
        spec = LlmSpec(provider="openai", model="m", base_url=second.base_url, cache=str(tmp_path / "llm.sqlite"))
        with open_llm(spec) as llm:
            assert llm is not None
            again = choose_meanings(ten[:4], by_clip(), lexicon, llm, 0)
            assert llm.use.cached + second.num_calls == 4
    assert dump_meanings(again) == dump_meanings(first)


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply("I cannot help with that."), "one: refused, 'I cannot help with that.'"),
        (Reply('{"meanings": "one"}'), "one: wrong_schema"),
        (Reply('{"meanings": []}'), "one: wrong_schema"),
        (Reply("[1, 2"), "one: not_json"),
        (Reply('{"meanings": ["one", "One."]}'), "one: no more than the name"),
        (Reply(status=503, body=b"starting"), "one: http_503, 'starting'"),
        (Reply(body=b'{"error": {"message": "rate limit"}}'), "one: http_200, 'rate limit'"),
        (Reply(hangs_up=True), "one: cut_off"),
    ],
)
def test_where_the_language_model_names_no_sense_nothing_else_stands_in(
    reply: Reply, told: str, ten: list[Class], lexicon: Lexicon, tmp_path: Path
) -> None:
    """The lexicon and WordNet know senses of "one"; they were not asked for."""
    with pytest.raises(ValueError, match="found no sense from the language model for 1 of 1 names") as caught:
        ask_of(lambda request: reply, tmp_path, by_clip(), ten[1:2], lexicon)
    said = str(caught.value)
    assert told.replace("one:", "'one':") in said
    assert "run the same command again" in said
    assert "\n" not in said


def test_a_name_without_an_answer_ends_the_choice_unless_it_was_written_by_hand(
    ten: list[Class], lexicon: Lexicon, tmp_path: Path
) -> None:
    def reply(request: dict[str, Any]) -> Reply:
        name = next(name for name in CLASS_NAMES if json.dumps(name) in request["messages"][-1]["content"])
        return Reply("no" if name == "two" else json.dumps({"meanings": [NUMERALS[name], PIPS[name]]}))

    with pytest.raises(ValueError, match=r"for 1 of 4 names \('two': not_json, 'no'\).*meanings\.given"):
        ask_of(reply, tmp_path, by_clip(), ten[:4], lexicon)
    found, _ = ask_of(reply, tmp_path, by_clip(given={"two": "two, by hand"}), ten[:4], lexicon)
    assert [one.source for one in found] == ["clip", "clip", "given", "clip"]


def test_hostile_answers_end_as_one_clean_line_or_are_dropped(lexicon: Lexicon, tmp_path: Path) -> None:
    spec = MeaningSpec(choose="clip", candidates=64, wordnet=None)
    answer = {"meanings": [*PAYLOADS[:60], "y" * 1_199, "crane, the bird"]}
    one = ask_of(answering(answer), tmp_path, spec, [Class(0, "crane", None, 1)], lexicon)[0][0]
    assert one.candidate_source == "llm"
    assert ("crane, the bird", None) in one.candidates
    assert ("candidate_too_long", 1) in one.dropped
    for phrase, _ in one.candidates:
        assert "crane" in phrase.casefold()
        assert phrase.isprintable()
    path = tmp_path / "meanings.jsonl"
    write_meanings([one], path)
    assert meanings_in(path) == [one]


# cleaning


def test_candidates_hold_the_name_on_one_line_and_differ() -> None:
    texts = [
        "the bird",
        "Crane, the bird.",
        "- crane:\n the  machine",
        "CRANE the machine",
        "crane",
        " ",
        "2) a crane fly",
    ]
    kept, dropped = clean_candidates("crane", texts, 8)
    assert kept == ("crane, the bird", "crane: the machine", "a crane fly")
    assert dropped == {"candidate_duplicate": 2, "candidate_says_nothing": 2}
    assert clean_candidates("crane", texts, 2)[1]["candidate_surplus"] == 1
    assert clean_candidates("crane", ["craned necks"], 8)[0] == ("crane, craned necks",)
    assert clean_candidates("C++", ["the language", "C++"], 8) == (
        ("C++, the language",),
        {"candidate_says_nothing": 1},
    )
    assert clean_candidates("++", ["++, the sign"], 8)[0] == ("++, the sign",)


@given(st.text(min_size=1, max_size=30).filter(str.strip), st.lists(st.text(max_size=2_000), max_size=12))
@settings(max_examples=150, deadline=None)
def test_every_text_is_kept_or_counted(name: str, texts: list[str]) -> None:
    name = " ".join(name.split())
    if not name.isprintable():
        return
    kept, dropped = clean_candidates(name, texts, 5)
    assert len(kept) + dropped.total() == len(texts)
    assert len(set(kept)) == len(kept) <= 5
    for phrase in kept:
        assert "\n" not in phrase
        assert len(phrase) <= MAX_PHRASE_CHARS + len(name) + 2
        assert len(phrase.split()) <= MAX_PHRASE_WORDS + len(name.split())
    assert clean_candidates(name, texts, 5) == (kept, dropped)


# by hand


def test_a_phrase_by_hand_beats_the_choice_and_the_file_beats_the_recipe(
    ten: list[Class], lexicon: Lexicon, tmp_path: Path
) -> None:
    (tmp_path / "by-hand.yaml").write_text("3: three, the trio\nnine: nine, the muses\n")
    given = {"three": "three, the graces", "four": "four, the seasons {name}"}
    spec = by_clip(given=given, overrides=str(tmp_path / "by-hand.yaml"))
    meanings = {one.class_name: one for one in choose_meanings(ten, spec, lexicon, None, 0)}
    assert meanings["three"].phrase == "three, the trio"
    assert meanings["nine"].phrase == "nine, the muses"
    assert meanings["four"].phrase == "four, the seasons {name}"
    assert {name for name, one in meanings.items() if one.source == "given"} == {"three", "four", "nine"}
    assert meanings["one"].source == "clip"
    alone = choose_meanings(ten, MeaningSpec(choose="given", given=given), lexicon, None, 0)
    assert Counter(one.source for one in alone) == {"given": 2, "none": 8}


def test_keys_are_names_or_ids_and_twins_need_ids() -> None:
    missiles = [one for one in IMAGENET if one.name == "missile"]
    assert resolve_given(missiles, {657: "a rocket", "744": "a dart"}, "x") == {657: "a rocket", 744: "a dart"}
    with pytest.raises(ValueError, match=r"names the classes \[657, 744\]"):
        resolve_given(missiles, {"missile": "a rocket"}, "x")
    with pytest.raises(ValueError, match="two meanings for class 657"):
        resolve_given(missiles, {657: "a", "657": "b"}, "x")
    numbered = [Class(0, "1", None, 1), Class(1, "0", None, 1)]
    assert resolve_given(numbered, {"1": "the name", 1: "the id"}, "x") == {0: "the name", 1: "the id"}


def test_a_misspelt_name_in_a_file_is_refused_and_another_lists_class_is_not(ten: list[Class], tmp_path: Path) -> None:
    file = tmp_path / "by-hand.yaml"
    spec = MeaningSpec(choose="given", overrides=str(file))
    file.write_text("sevn: a digit\n")
    with pytest.raises(ValueError, match="did you mean 'seven'"):
        refuse_strangers(ten, spec)
    file.write_text("sevn: a digit\nseven: another\n")
    refuse_strangers(ten, spec)
    others: dict[str | int, str] = {"giraffe": "the animal", 4711: "x", "\u0663": "y"}
    file.write_text("".join(f"{key}: {text}\n" for key, text in others.items()))
    refuse_strangers(ten, spec)
    assert resolve_given(ten, others, "x") == {}


@pytest.mark.parametrize("text", ["", "  ", "a\0b", "\ud800", "x" * 8193])
def test_a_text_that_cannot_stand_in_a_prompt_is_refused(text: str, ten: list[Class]) -> None:
    message = refused(lambda: resolve_given(ten, {"one": text}, "meanings.given"))
    assert message.startswith("meanings.given.'one': found")
    assert message.isprintable()


def test_hostile_phrases_by_hand_are_kept_exactly(ten: list[Class], tmp_path: Path) -> None:
    for payload in PAYLOADS:
        if "\0" not in payload and payload.strip():
            assert resolve_given(ten, {5: payload}, "x") == {5: payload}


def test_a_file_of_overrides_that_is_no_such_thing_is_refused(
    ten: list[Class], lexicon: Lexicon, tmp_path: Path
) -> None:
    path = tmp_path / "by-hand.yaml"
    spec = MeaningSpec(choose="given", overrides=str(path))
    assert "found no file" in refused(lambda: choose_meanings(ten, spec, lexicon, None, 0))
    for text in ("- a\n", "one: [a]\n", "one: a\none: b\n", "one: !!python/name:os.system\n", "{"):
        path.write_text(text)
        message = refused(lambda: choose_meanings(ten, spec, lexicon, None, 0))
        assert "by-hand.yaml" in message
        assert "\n" not in message


# the recipe


def test_fields_that_do_not_fit_are_refused_when_the_recipe_is_read() -> None:
    for fields, found in (
        ({"given": {"one": "x"}}, "no choice"),
        ({"choose": "clip", "real": "x"}, "real without clip"),
        ({"choose": "clip", "clip": {"model": "x"}}, "clip without real"),
        ({"choose": "clip", "subset": "x"}, "subset without real"),
        ({"choose": "clips"}, "choose"),
        ({"chose": "clip"}, "chose"),
        ({"choose": "clip", "candidates": 0}, "candidates"),
    ):
        with pytest.raises(ValidationError, match=found):
            MeaningSpec.model_validate(fields)
    assert MeaningSpec() == MeaningSpec(choose="none")
    spec = by_clip(given={"one": "x", 3: "y"})
    again = MeaningSpec.model_validate(spec.model_dump(mode="json"))
    ten = load_classes(ClassSpec(source="sandbox"))
    assert given_meanings(ten, again) == given_meanings(ten, spec) == {1: "x", 3: "y"}


# the file and the table


def meaning(class_id: int, **changes: Any) -> Meaning:
    plain = Meaning(class_id, f"c{class_id}", "p", "clip", 0.5, 0.1, "q", (("p", 0.5), ("q", 0.4)), "llm", 3, ())
    return replace(plain, **changes)


def test_the_file_reads_back_what_was_written_and_the_same_input_gives_the_same_bytes(
    ten: list[Class], lexicon: Lexicon, tmp_path: Path
) -> None:
    path = tmp_path / "meanings.jsonl"
    spec = by_clip(given={"one": "one \u202e\u2028 <b>"})
    for _ in range(2):
        meanings = choose_meanings(ten, spec, lexicon, None, 0)
        write_meanings(meanings, path)
        assert meanings_in(path) == meanings
        assert path.read_bytes() == dump_meanings(meanings)
    assert path.read_bytes().count(b"\n") == 10
    assert path.read_bytes().isascii()
    assert [file.name for file in tmp_path.iterdir()] == ["meanings.jsonl"]


def test_another_process_gives_the_same_bytes(ten: list[Class], lexicon: Lexicon) -> None:
    program = (
        "import sys, torch\ntorch.set_num_threads(1)\n"
        "from shards.labels.classes import ClassSpec, load_classes\nfrom gen.wording.lexicon import load_lexicon\n"
        "from gen.prompts.meanings import MeaningSpec, choose_meanings, dump_meanings\n"
        "spec = MeaningSpec.model_validate_json(sys.argv[1])\n"
        "classes = load_classes(ClassSpec(source='sandbox'))\n"
        "sys.stdout.buffer.write(dump_meanings(choose_meanings(classes, spec, load_lexicon('sandbox'), None, 0)))\n"
    )
    spec = by_clip()
    done = subprocess.run(
        [sys.executable, "-c", program, spec.model_dump_json()], capture_output=True, timeout=120, check=True
    )
    assert done.stdout == dump_meanings(choose_meanings(ten, spec, lexicon, None, 0))


def test_the_table_shows_the_least_certain_first() -> None:
    meanings = [
        meaning(0, margin=0.3),
        meaning(1, source="given", similarity=None, margin=None, runner_up=None),
        meaning(2, margin=0.01),
        meaning(3, source="only_candidate", similarity=None, margin=None, runner_up=None),
        meaning(4, source="no_real_images", phrase=None, similarity=None, margin=None, runner_up=None),
        meaning(5, source="none", phrase=None, similarity=None, margin=None, runner_up=None),
        meaning(6, margin=0.01),
        meaning(7, source="no_candidates", phrase=None, similarity=None, margin=None, runner_up=None),
    ]
    rows = meaning_table(meanings)
    assert [row[0] for row in rows] == ["4", "7", "3", "2", "6", "0", "1", "5"]
    assert all(len(row) == len(TABLE_COLUMNS) for row in rows)
    assert rows[3] == ("2", "c2", "p", "clip", "0.5000", "0.0100", "q", "3")


@pytest.mark.parametrize("choose", ["none", "given"])
def test_a_meaning_in_the_class_list_counts_and_the_recipe_beats_it(choose: str, lexicon: Lexicon) -> None:
    listed = [Class(0, "crane", None, 1, "crane, the bird"), Class(1, "seal", None, 1, "seal, the animal")]
    assert [one.phrase for one in choose_meanings(listed, MeaningSpec(choose=choose), lexicon, None, 0)] == [
        "crane, the bird",
        "seal, the animal",
    ]
    spec = MeaningSpec(choose="given", given={1: "seal, the stamp"})
    assert [one.phrase for one in choose_meanings(listed, spec, lexicon, None, 0)][1] == "seal, the stamp"
    assert bare_names(MeaningSpec(), listed, False) is None
    told = bare_names(MeaningSpec(), [*listed, Class(2, "jaguar", None, 1)], False)
    assert told is not None
    assert "a photo of jaguar" in told, "a name that has a sense is no example"
