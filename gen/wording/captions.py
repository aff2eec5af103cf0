"""Captions: sentences about a class such as a captioner writes, after the Unmet-Promise paper and its code.

In: a class, its meaning, a `CaptionSpec`, a seed; a language model, or none. Out: `Wording`s with distinct texts.
On disk: nothing.

Every caption begins as a `Query`. As in the paper's code, 44 % ask for the concept alone, 11 % for the concept in a
spatial relation, 45 % for the concept before one of the class's backgrounds; a texture has a mode of its own, and so
has a background alone (`place`). A language model sees three examples of the same mode, then the query. Without one,
words of the lexicon make the query a sentence. Queries are drawn one after the other, so a larger count begins with the
same ones.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from random import Random
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gen.llm.answer_text import clean_line
from gen.llm.ask import Ask, Llm, ask_for_keeps
from gen.names.display_name import display_name, is_named, plain_words
from gen.names.kind import kind_of
from gen.names.noun_phrase import noun_phrase
from gen.wording.caption_examples import Example, Mode, caption_pools
from gen.wording.flagged_words import flagged_words, group_of
from gen.wording.lexicon import PLACES, Lexicon
from gen.wording.parts import Wording
from shards.disk.safe_text import quoted
from shards.labels.classes import Class

MAX_CAPTION_CHARS = 400
MIN_CAPTION_WORDS = 2
MAX_BACKGROUND_CHARS = 120
TALK = "words of a language model"  # a group of gen/wording/flagged_words.yaml
BACKGROUNDS_PER_ASK = 25
BACKGROUND_ROUNDS = 3
OFFLINE_TRIES = 1_000  # repeats in a row after which the words count as used up
TASK = (
    "You write captions of photographs. A line names what the photograph shows, sometimes with its place or with how "
    "it stands to another object. Write one sentence that describes such a photograph: concrete, plain, with the name "
    "in it, no writing in the picture, no names of people."
)
TEXTURE_TASK = (
    "You write captions of close photographs of textures. A line names the texture. Write one sentence about an "
    "object or a surface that has it: concrete, plain, with the name of the texture in it."
)
PLACE_TASK = (
    "You write captions of photographs of places. A line names the place. Write one sentence that describes it without "
    "any single thing standing out: concrete, plain."
)
BACKGROUND_TASK = (
    "You know where things are found. Name places in which a photograph of the given subject could be taken. Each is "
    "a short phrase with its preposition, such as: in a reed bed at the edge of a lake. All differ; none names the "
    "subject."
)
# Beginnings of captions that are written without a language model; "" = none.
FRAMES = ("", "", "a picture of ", "a photo of ", "an image of ", "a close-up of ", "a snapshot of ")
LINE_ENDS = re.compile("[\r\n\u2028\u2029]+")
QUOTES = "\"'`“”‘’"
PLACE_WORDS = {
    *("above", "across", "against", "along", "amid", "among", "around", "at", "before", "behind", "below", "beneath"),
    *("beside", "between", "by", "from", "in", "inside", "near", "next", "on", "outside", "over", "past", "through"),
    *("under", "with", "within"),
}


class CaptionSpec(BaseModel):
    """The `captions` part of a recipe. The defaults are those of the paper's code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    concept: float = Field(0.44, ge=0, le=1, description="share of captions of the concept alone")
    relation: float = Field(0.11, ge=0, le=1, description="share with a spatial relation")
    background: float = Field(0.45, ge=0, le=1, description="share with one of the class's backgrounds")
    place: float = Field(0.0, ge=0, le=1, description="share of such a background alone, without the class")
    shots: int = Field(3, ge=0, le=10, description="worked examples shown before each question")
    backgrounds: int = Field(
        100, ge=0, le=500, description="backgrounds a class asked of the language model; 0 = those of the lexicon"
    )
    noun: str = Field(
        "",
        max_length=60,
        description="set behind every name that lacks it before asking: car, aircraft; the label stays",
        examples=["aircraft"],
    )
    textures: bool | None = Field(
        None,
        description="whether classes are textures; null = those 47 named as in DTD that have no WordNet id",
        examples=[False],
    )
    name_tries: int = Field(2, ge=0, le=10, description="how often a caption without the class name is asked for again")
    rounds: int = Field(6, ge=1, le=50, description="how often failed and repeated captions are made up for")

    @model_validator(mode="after")
    def _shares_are_a_whole(self) -> "CaptionSpec":
        total = self.concept + self.relation + self.background + self.place
        if abs(total - 1) > 1e-9:
            raise ValueError(
                f"captions: found shares that add up to {total:g}, expected concept + relation + background + place = 1"
            )
        return self


@dataclass(frozen=True)
class Query:
    """What one caption must say."""

    mode: Mode
    concept: str  # as shown: the meaning or the name, with the noun of its kind
    background: str | None
    relation: str | None
    seed: int


def plan_captions(
    one: Class,
    meaning: str | None,
    seed: int,
    backgrounds: Sequence[str],
    relations: Sequence[str],
    spec: CaptionSpec,
) -> Iterator[Query]:
    """Endless queries, each drawn on its own. A mode for which there are no words asks for the concept alone."""
    rng = _rng(seed, one.id, "plan")
    concept = _concept(one, meaning, spec)
    is_texture = texture(one, spec)
    while True:
        drawn, pick, own_seed = rng.random(), rng.random(), int(rng.random() * 2**31)
        if is_texture:
            yield Query("texture", concept, None, None, own_seed)
        elif drawn < spec.background and backgrounds:
            yield Query("background", concept, _pick(backgrounds, pick), None, own_seed)
        elif spec.background <= drawn < spec.background + spec.relation and relations:
            yield Query("relation", concept, None, _pick(relations, pick), own_seed)
        elif 0 <= drawn - spec.background - spec.relation < spec.place and backgrounds:
            yield Query("place", "", _pick(backgrounds, pick), None, own_seed)
        else:
            yield Query("concept", concept, None, None, own_seed)


def texture(one: Class, spec: CaptionSpec) -> bool:
    """Whether a class is the name of a texture."""
    if spec.textures is None:
        return one.wordnet_id is None and one.name.casefold() in caption_pools().texture_names
    return spec.textures


def draw_captions(
    one: Class,
    meaning: str | None,
    count: int,
    seed: int,
    lexicon: Lexicon,
    llm: Llm | None,
    spec: CaptionSpec,
    dropped: Counter[str] | None = None,
) -> list[Wording]:
    """`count` captions with distinct texts; `dropped` counts the model's unusable answers, by reason.

    The meaning stands before the caption unless the caption says it, because an encoder cuts off the end. Raises
    ValueError, with the reasons, if there are fewer than `count`.
    """
    dropped = Counter() if dropped is None else dropped
    if llm is None:
        return _write_offline(one, meaning, count, seed, lexicon, spec)
    return _ask_for(one, meaning, count, seed, lexicon, llm, spec, dropped)


def _wording(meaning: str | None, caption: str, others: Mapping[str, str]) -> Wording:
    form = "{caption}" if meaning is None or meaning in caption else "{name}: {caption}"
    return Wording(form, {"caption": caption, **others})


def _too_few(one: Class, found: int, count: int, dropped: Mapping[str, int], advice: str) -> ValueError:
    reasons = ", ".join(f"{times} {reason}" for reason, times in sorted(dropped.items())) or "none dropped"
    return ValueError(
        f"captions of class {one.id} ({quoted(one.name, 60)}): found {found} distinct ones ({reasons}), expected "
        f"{count}; {advice}"
    )


# with a language model


def _ask_for(
    one: Class,
    meaning: str | None,
    count: int,
    seed: int,
    lexicon: Lexicon,
    llm: Llm,
    spec: CaptionSpec,
    dropped: Counter[str],
) -> list[Wording]:
    backgrounds: Sequence[str] = ()
    if (spec.background or spec.place) and not texture(one, spec):
        backgrounds = _ask_backgrounds(one, meaning, seed, llm, spec, dropped)
        backgrounds = backgrounds or lexicon.words("background", kind_of(one, meaning))
    queries = plan_captions(one, meaning, seed, backgrounds, lexicon.relations, spec)
    found: dict[str, Wording] = {}  # by the words of the text
    before = Counter(dropped)
    for _ in range(spec.rounds):
        if len(found) == count:
            break
        batch = list(islice(queries, count - len(found)))
        for query, caption in zip(batch, _captions(one, meaning, batch, llm, spec, dropped), strict=True):
            if caption is None:
                continue
            parts = {"background": query.background, "relation": query.relation}
            said = None if query.mode == "place" else meaning  # a place alone says no name
            wording = _wording(said, caption, {part: word for part, word in parts.items() if word is not None})
            words = plain_words(wording.text(meaning or one.name))
            if words in found:
                dropped["repeat"] += 1
            else:
                found[words] = wording
    if len(found) < count:
        advice = "raise captions.rounds, or lower prompts.per_class"
        if not found:
            advice = "use another llm.model, or none with llm.provider=offline"
        raise _too_few(one, len(found), count, dropped - before, advice)
    return list(found.values())


def _captions(
    one: Class, meaning: str | None, queries: Sequence[Query], llm: Llm, spec: CaptionSpec, dropped: Counter[str]
) -> list[str | None]:
    """A caption for each query, or None if no answer was usable.

    One that says neither the name of the class nor its meaning is asked for again, with another seed; the last is used.
    """
    captions: list[str | None] = [None] * len(queries)

    def lacks_name(at: int) -> bool:
        said = captions[at] if queries[at].mode != "place" else None
        return said is not None and not is_named(said, plain_words(said), one.name, meaning)

    open_ones = list(range(len(queries)))
    for attempt in range(spec.name_tries + 1):
        if not open_ones:
            break
        asks = [caption_ask(replace(queries[at], seed=(queries[at].seed + attempt) % 2**31), spec) for at in open_ones]
        nameless = []
        for at, answer in zip(open_ones, ask_for_keeps(llm, asks), strict=True):
            if answer.reason is not None:
                dropped[answer.reason] += 1
                continue
            caption, reason = clean_caption(answer.value)
            if caption is None:
                dropped[reason] += 1
                continue
            captions[at] = caption
            if lacks_name(at):
                nameless.append(at)
        if attempt < spec.name_tries:
            dropped["class name missing, asked again"] += len(nameless)
        open_ones = nameless
    dropped["class name missing, kept"] += sum(map(lacks_name, range(len(queries))))
    return captions


def caption_ask(query: Query, spec: CaptionSpec) -> Ask:
    """The question for a language model: the task, `spec.shots` examples of the query's mode, the query."""
    pool = caption_pools().examples(query.mode)
    rng = Random(query.seed)
    order = sorted(range(len(pool)), key=[rng.random() for _ in pool].__getitem__)
    lines = [f"{_line(pool[at])} => {json.dumps({'caption': pool[at].caption})}" for at in order[: spec.shots]]
    lines.append(f"{_line(query)} =>")
    return Ask(
        purpose="caption",
        system={"texture": TEXTURE_TASK, "place": PLACE_TASK}.get(query.mode, TASK)
        + ' Answer with JSON: {"caption": "..."}, the caption of the last line.',
        user="\n".join(lines),
        schema={
            "type": "object",
            "properties": {"caption": {"type": "string", "minLength": 1, "maxLength": MAX_CAPTION_CHARS}},
            "required": ["caption"],
            "additionalProperties": False,
        },
        seed=query.seed,
    )


def _line(asked: Query | Example) -> str:
    if asked.background is not None:
        return f"{asked.concept}, background: {asked.background}" if asked.concept else f"place: {asked.background}"
    if asked.relation is not None:
        return f"{asked.concept}, relation: {asked.relation}"
    return asked.concept


def _ask_backgrounds(
    one: Class, meaning: str | None, seed: int, llm: Llm, spec: CaptionSpec, dropped: Counter[str]
) -> list[str]:
    """Up to `spec.backgrounds` distinct places of the class; there may be fewer after the last round."""
    rng = _rng(seed, one.id, "backgrounds")
    concept = _concept(one, meaning, spec)
    found: dict[str, str] = {}
    for _ in range(BACKGROUND_ROUNDS):
        missing = spec.backgrounds - len(found)
        if missing <= 0:
            break
        asks = [
            Ask(
                purpose="caption backgrounds",
                system=BACKGROUND_TASK + ' Answer with JSON: {"backgrounds": ["...", "..."]}.',
                user=f"Subject: {concept}\nNumber of places: {BACKGROUNDS_PER_ASK}",
                schema={
                    "type": "object",
                    "properties": {
                        "backgrounds": {
                            "type": "array",
                            "items": {"type": "string", "minLength": 1, "maxLength": MAX_BACKGROUND_CHARS},
                            "minItems": 1,
                            "maxItems": 4 * BACKGROUNDS_PER_ASK,
                        }
                    },
                    "required": ["backgrounds"],
                    "additionalProperties": False,
                },
                seed=int(rng.random() * 2**31),
            )
            for _ in range(-(-missing // BACKGROUNDS_PER_ASK))
        ]
        for answer in ask_for_keeps(llm, asks):
            if answer.reason is not None:
                dropped[f"backgrounds: {answer.reason}"] += 1
                continue
            for text in _texts_of(answer.value, "backgrounds"):
                phrase, reason = _clean(text, MAX_BACKGROUND_CHARS)
                if phrase is None:
                    dropped[f"background: {reason}"] += 1
                else:
                    found.setdefault(plain_words(phrase), phrase)
    return list(found.values())[: spec.backgrounds]


def _texts_of(value: Any, key: str) -> list[str]:
    return [text for text in value[key] if isinstance(text, str)]


def clean_caption(value: Any) -> tuple[str | None, str]:
    """The caption of an answer as one line and "", or None and the reason. Of several lines the first is taken."""
    caption, reason = _clean(value["caption"], MAX_CAPTION_CHARS)
    if caption is None:
        return None, reason
    words = plain_words(caption).split()
    if len(words) < MIN_CAPTION_WORDS:
        return None, "too short"
    if len(words) > 12 and len(set(words)) < 0.3 * len(words):
        return None, "repetition"
    if any(group_of(word) == TALK for word in flagged_words(" ".join(words))):
        return None, "talk about the task"
    return caption, ""


def _clean(text: str, limit: int) -> tuple[str | None, str]:
    """The first line that is not blank, as `one_line` gives it."""
    lines = [line for line in LINE_ENDS.split(text) if line.strip()]
    return clean_line(lines[0] if lines else "", QUOTES, limit)


# without one


def _write_offline(
    one: Class, meaning: str | None, count: int, seed: int, lexicon: Lexicon, spec: CaptionSpec
) -> list[Wording]:
    kind = kind_of(one, meaning)
    place_of = {word: place for place in PLACES for word in lexicon.words("background", kind, (place,))}
    words_at = {
        place: (lexicon.words("foreground", kind, {place, "any"}), lexicon.words("light", kind, {place, "any"}))
        for place in PLACES
    }
    # backgrounds that are things, such as sheets of paper, become the things of spatial relations
    things = [word for word in place_of if not _is_place(word)] or caption_pools().things
    found: dict[str, Wording] = {}
    queries = plan_captions(one, meaning, seed, list(place_of), lexicon.relations, spec)
    tries = OFFLINE_TRIES
    has_articles = any("{subject}" in form.photo for form in lexicon.forms)
    for query in queries:
        if len(found) == count or not tries:
            break
        if has_articles and query.mode != "texture":
            query = replace(query, concept=noun_phrase(query.concept))
        foregrounds, lights = words_at[place_of[query.background] if query.background else "any"]
        caption, others = _sentence(query, foregrounds, lights, things, Random(query.seed))
        if caption in found:
            tries -= 1
        else:
            found[caption] = Wording("{caption}", {"caption": caption, **others})
            tries = OFFLINE_TRIES
    if len(found) < count:
        raise _too_few(
            one, len(found), count, {}, "the lexicon's words are used up; add words, or lower prompts.per_class"
        )
    return list(found.values())


def _sentence(
    query: Query, foregrounds: Sequence[str], lights: Sequence[str], things: Sequence[str], rng: Random
) -> tuple[str, dict[str, str]]:
    """A caption, and the words of its parts."""
    frame, draw, lit, pick_foreground, pick_light, pick_thing = (rng.random() for _ in range(6))
    parts: dict[str, str] = {}
    # a comma after a meaning such as "crane, the bird"
    concept = query.concept or "an empty scene"
    text = _pick(FRAMES, frame) + concept + ("," if "," in concept else "")
    if query.mode == "texture":
        text = f"{_pick(FRAMES, frame)}{_pick(caption_pools().surfaces, pick_thing)}, {query.concept}"
    elif query.mode == "relation":
        parts["relation"] = query.relation or ""
        text += f" {query.relation} {_pick(things, pick_thing)}"
    elif foregrounds and query.mode != "place" and (query.mode == "concept" or draw < 0.7):
        parts["foreground"] = _pick(foregrounds, pick_foreground)
        text = f"{text.removesuffix(',')}, {parts['foreground']}"
    if query.background is not None:
        parts["background"] = query.background
        text += f" {query.background}" if _is_place(query.background) else f" on {query.background}"
    if lights and lit < 0.6:
        parts["light"] = _pick(lights, pick_light)
        text = f"{text.removesuffix(',')}, {parts['light']}"
    return text.removesuffix(","), parts


def _is_place(phrase: str) -> bool:
    return phrase.partition(" ")[0].casefold() in PLACE_WORDS


def _pick(words: Sequence[str], where: float) -> str:
    return words[int(where * len(words))]


def _concept(one: Class, meaning: str | None, spec: CaptionSpec) -> str:
    """What a caption is about: the meaning, or the name with the recipe's noun if there is no meaning."""
    return " ".join((display_name(one.name, spec.noun) if meaning is None else meaning).split())


def _rng(seed: int, class_id: int, purpose: str) -> Random:
    """A random generator. Call only `random()`: Python promises never to change that sequence."""
    digest = hashlib.blake2b(
        f"{seed} {class_id} {purpose}".encode(), digest_size=16, person=b"sixfold caption"
    ).digest()
    return Random(int.from_bytes(digest, "big"))
