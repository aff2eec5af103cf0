"""Meanings: which sense of a class name is meant, told by the class's real images.

In: classes, a `MeaningSpec`, a lexicon, a language model or None, the run seed. Out: one `Meaning` a class: a phrase
such as "crane, the bird" that stands for the name in every prompt, or None. On disk: meanings.jsonl, one line of
canonical JSON a class, ids ascending; the same bytes for the same input.

Of several candidates (`gen.prompts.candidates`), the bare name among them, the one wins whose CLIP vector has the
highest cosine with the mean of the unit vectors of the class's real images; the earlier one wins a tie, and its margin
is 0. Where the bare name wins, there is no phrase. What is no such choice has a name:

    given             written by hand, in the class list, the recipe or a file of overrides; beats everything
    by_id             no picture, and the name means several things: the phrase for the sense of the WordNet id
    clear_name        no picture, and the name says enough: no phrase
    only_candidate    nothing to choose from
    no_real_images    several candidates, and no picture that could tell them apart: no phrase, since a wrong sense
                      costs more than an open one
    no_candidates     nobody knows a sense: no phrase
    none              not asked for: no phrase
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from cluster.recipes.load import canonical_json, load_recipe
from gen.llm.ask import Llm
from gen.model.clip import Clip, ClipSpec
from gen.prompts.candidates import CandidateSource, Offer, offers_of
from gen.prompts.real_images import Image, read_real
from gen.wording.lexicon import Lexicon
from gen.wording.parts import check_text
from shards.disk.address import BESIDE, file_path
from shards.disk.replace import replace_file
from shards.disk.safe_text import quoted
from shards.labels.classes import Class

MAX_CANDIDATES = 64
MAX_STRANGERS = 8  # names in a message
NUM_DECIMALS = 6  # of a similarity: float32 rounds the seventh differently from one batch size to another

Source = Literal["given", "clip", "by_id", "clear_name", "only_candidate", "no_real_images", "no_candidates", "none"]
TABLE_COLUMNS = ("id", "name", "meaning", "source", "similarity", "margin", "runner-up", "images")


class MeaningSpec(BaseModel):
    """How the sense of each class name is chosen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    choose: Literal["none", "given", "clip"] = Field(
        "none",
        description="none: bare names; given: those given by hand; clip: by the real images, given ones first; "
        "the meanings in the class list count with all three",
    )
    given: Mapping[str | int, str] = Field(
        default={}, description="class name or id -> phrase", examples=[{"crane": "crane, the bird"}]
    )
    overrides: Annotated[str | None, BESIDE] = Field(
        None, description="a YAML file of the same form; beats `given`", examples=["meanings.yaml"]
    )
    candidates: int = Field(8, ge=1, le=MAX_CANDIDATES, description="senses of a name, at most")
    real: Annotated[str | None, BESIDE] = Field(
        None, description="the real images: an ImageFolder or a data set; null = there are none"
    )
    subset: str | None = Field(None, description="a subset of that data set", examples=["shots-20"])
    wordnet: str | None = Field(
        "/usr/share/wordnet", description="folder of index.noun and data.noun, used if it is there; null = not used"
    )
    max_images: int = Field(50, ge=1, le=10_000, description="real images looked at, of each class")
    clip: ClipSpec | None = Field(None, description="the model that compares phrases with images")

    @model_validator(mode="after")
    def _choice_is_made(self) -> "MeaningSpec":
        if "choose" not in self.model_fields_set and (self.given or self.overrides or self.real or self.clip):
            raise ValueError("found fields of a choice and no choice; set choose: given or choose: clip (none ignores)")
        return self

    @model_validator(mode="after")
    def _images_have_a_judge(self) -> "MeaningSpec":
        if (self.real is None) != (self.clip is None):
            here, missing = ("clip", "real") if self.real is None else ("real", "clip")
            raise ValueError(f"found {here} without {missing}, expected both or neither; add {missing}")
        return self

    @model_validator(mode="after")
    def _subset_is_of_something(self) -> "MeaningSpec":
        if self.subset is not None and self.real is None:
            raise ValueError("found subset without real, expected the data set it belongs to; add real")
        return self


class _Overrides(RootModel[Mapping[str | int, str]]):
    model_config = ConfigDict(frozen=True)


@dataclass(frozen=True)
class Meaning:
    """What was chosen for one class, and how surely."""

    class_id: int
    class_name: str
    phrase: str | None
    source: Source
    similarity: float | None  # cosine of the chosen phrase; None unless images were compared
    margin: float | None  # by how much the runner-up is behind
    runner_up: str | None
    candidates: tuple[tuple[str, float | None], ...]  # in the order in which they came, each with its cosine
    candidate_source: CandidateSource | None
    num_images: int  # looked at
    dropped: tuple[tuple[str, int], ...]  # what was not used: candidate_<reason>, image_<reason>


def choose_meanings(
    classes: Sequence[Class],
    spec: MeaningSpec,
    lexicon: Lexicon,
    llm: Llm | None,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    among: Sequence[Class] | None = None,
) -> list[Meaning]:
    """One meaning a class, ids ascending. `on_progress` hears how many of at most how many images were looked at.

    `among`: all classes of the list, if `classes` are a part of it. Whose pictures are whose, and which names are
    shared, is a matter of the whole list.

    Raises ValueError (one line): a hand-written phrase that fits no class, real images or a CLIP that cannot be read.
    """
    ordered = sorted(classes, key=lambda one: one.id)
    whole = ordered if among is None else among
    by_hand = given_meanings(whole, spec) if spec.choose != "none" else _listed(ordered)
    open_ones = [one for one in ordered if one.id not in by_hand] if spec.choose == "clip" else []
    offers = offers_of(open_ones, spec.candidates, spec.wordnet, lexicon, llm, seed, whole)
    contested = [one.id for one in open_ones if len(offers[one.id].compared) > 1]
    cosines, images = _compare(contested, whole, offers, spec, seed, on_progress)
    meanings = []
    for one in ordered:
        if one.id in by_hand:
            meanings.append(_without_choice(one, by_hand[one.id], "given"))
        elif one.id not in offers:
            meanings.append(_without_choice(one, None, "none"))
        else:
            meanings.append(_meaning(one, offers[one.id], cosines.get(one.id), images.get(one.id, Counter())))
    return meanings


def bare_names(spec: MeaningSpec, classes: Sequence[Class], asks_model: bool) -> str | None:
    """Why names will stand in prompts without a sense, and what to do, in a line; None if the recipe chooses senses.

    Known before anything is made. `asks_model`: whether a language model gives the candidates. Names of WordNet ids
    have one sense without it. A `choose: none` that was written is a choice.
    """
    open_ones = [one for one in classes if not one.meaning]
    if not open_ones:
        return None
    example = quoted(f"a photo of {open_ones[0].name}", 60)
    if spec.choose == "none" and "choose" not in spec.model_fields_set:
        return (
            f"prompts say the bare name ({example}), whichever thing is meant, because nothing is set in "
            "meanings.choose; set meanings.choose=clip with meanings.real and meanings.clip, or write the senses by "
            "hand (meanings.choose=given)"
        )
    if spec.choose == "clip" and spec.real is None:
        by_hand = given_meanings(classes, spec)
        if not all(one.id in by_hand or (one.wordnet_id and not asks_model) for one in classes):
            return (
                f"a name of several senses stays bare ({example}), because meanings.choose=clip has no real images to "
                "compare with; set meanings.real and meanings.clip, or write the senses by hand (meanings.given)"
            )
    return None


def _without_choice(one: Class, chosen: str | None, source: Source) -> Meaning:
    return Meaning(one.id, one.name, chosen, source, None, None, None, (), None, 0, ())


def _meaning(one: Class, offer: Offer, cosines: NDArray[np.float64] | None, images: Counter[str]) -> Meaning:
    """The choice itself; `cosines` are those of the offer's phrases, None without images."""
    num_images = images["success"]
    dropped = offer.dropped + Counter(
        {f"image_{reason}": count for reason, count in images.items() if reason != "success"}
    )
    counted = tuple(sorted(dropped.items()))
    if cosines is None:
        source, chosen = _without_images(offer)
        pairs: tuple[tuple[str, float | None], ...] = tuple((text, None) for text in offer.phrases)
        return Meaning(one.id, one.name, chosen, source, None, None, None, pairs, offer.source, num_images, counted)
    texts = offer.compared
    rounded = [round(float(cosine), NUM_DECIMALS) for cosine in cosines]
    best, second = sorted(range(len(rounded)), key=lambda index: -rounded[index])[:2]  # stable: the earlier wins a tie
    return Meaning(
        one.id,
        one.name,
        texts[best] if texts[best] != one.name else None,
        "clip",
        rounded[best],
        round(rounded[best] - rounded[second], NUM_DECIMALS),
        texts[second],
        tuple(zip(texts, rounded, strict=True)),
        offer.source,
        num_images,
        counted,
    )


def _without_images(offer: Offer) -> tuple[Source, str | None]:
    """What is said of a class of which there is no picture, and why."""
    if offer.has_id:
        return ("by_id", offer.needed) if offer.needed is not None else ("clear_name", None)
    if len(offer.phrases) > 1:
        return "no_real_images", None
    if not offer.phrases:
        return "no_candidates", None
    return ("only_candidate", offer.phrases[0]) if offer.source in ("lexicon", "llm") else ("clear_name", None)


# by hand


def given_meanings(classes: Sequence[Class], spec: MeaningSpec) -> dict[int, str]:
    """Class id -> phrase, from the class list, stronger from the recipe, strongest from the file of overrides."""
    chosen = _listed(classes) | resolve_given(classes, spec.given, "meanings.given")
    if spec.overrides is not None:
        path = file_path(spec.overrides)
        chosen |= resolve_given(classes, _read_overrides(path), str(path))
    return chosen


def _read_overrides(path: Path) -> Mapping[str | int, str]:
    if not path.is_file():
        raise ValueError(f"meanings.overrides: found no file {path}, expected lines `name or id: phrase`; write it")
    return load_recipe(path, _Overrides).root


def refuse_strangers(classes: Sequence[Class], spec: MeaningSpec) -> None:
    """Raises ValueError for keys of `meanings.given` that name no class of the list, all of them and the nearest names,
    and for one of a file of overrides that looks like a misspelt name of a class that has no phrase there.

    `classes`: all of the list. A file of overrides may serve many lists, so its other keys are left out.
    """
    names, ids = {one.name for one in classes}, {one.id for one in classes}
    strangers = [
        key
        for key in spec.given
        if key not in names and not (re.fullmatch("[0-9]{1,10}", str(key), re.ASCII) and int(key) in ids)
    ]
    if strangers:
        shown = []
        for key in strangers[:MAX_STRANGERS]:
            near = get_close_matches(str(key), names, n=1)
            shown.append(quoted(key, 60) + (f" (did you mean {near[0]!r}?)" if near else ""))
        more = f" and {len(strangers) - MAX_STRANGERS} more" if len(strangers) > MAX_STRANGERS else ""
        raise ValueError(
            f"meanings.given: found {', '.join(shown)}{more}, expected names or ids of classes in the list; correct or "
            "remove them (phrases for several lists go into a file, meanings.overrides)"
        )
    if spec.overrides is not None:
        _refuse_misspelt(classes, file_path(spec.overrides))


def _refuse_misspelt(classes: Sequence[Class], path: Path) -> None:
    given = _read_overrides(path)
    chosen = resolve_given(classes, given, str(path))
    names, without = {one.name for one in classes}, [one.name for one in classes if one.id not in chosen]
    for key in given:
        if isinstance(key, str) and key not in names and not re.fullmatch("[0-9]{1,10}", key):
            near = get_close_matches(key, without, n=1, cutoff=0.75)
            if near:
                raise ValueError(f"{path}: found {quoted(key, 60)}, expected a class name; did you mean {near[0]!r}?")


def _listed(classes: Sequence[Class]) -> dict[int, str]:
    """Class id -> phrase, of the classes whose list says it."""
    return {one.id: one.meaning for one in classes if one.meaning}


def resolve_given(classes: Sequence[Class], given: Mapping[str | int, str], where: str) -> dict[int, str]:
    """Class id -> phrase. Integers are ids; texts are names, or ids if no class has that name.

    Phrases of others are left out: `classes` may be a part of the list, and one table may serve many
    (`refuse_strangers`). Raises ValueError for a name that two classes share, and for a class with two phrases.
    """
    by_name: dict[str, list[int]] = {}
    for one in classes:
        by_name.setdefault(one.name, []).append(one.id)
    ids = {one.id for one in classes}
    chosen: dict[int, str] = {}
    for key, text in given.items():
        check_text(text, f"{where}.{quoted(key, 60)}")
        named = by_name.get(key, []) if isinstance(key, str) else []
        if len(named) > 1:
            raise ValueError(f"{where}: found {key!r}, which names the classes {named}, expected an id; use one")
        class_id = named[0] if named else int(key) if re.fullmatch("[0-9]{1,10}", str(key)) else None
        if class_id is not None and class_id in ids:
            if class_id in chosen:
                raise ValueError(f"{where}: found two meanings for class {class_id}, expected one; remove {key!r}")
            chosen[class_id] = text
    return chosen


# the comparison


def _compare(
    contested: Sequence[int],
    classes: Sequence[Class],
    offers: Mapping[int, Offer],
    spec: MeaningSpec,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> tuple[dict[int, NDArray[np.float64]], dict[int, Counter[str]]]:
    """Class id -> cosines of its candidates, for contested classes with images; class id -> number of images by status.

    `contested`: ids among all `classes` of the list, ascending.
    """
    if not contested or spec.real is None or spec.clip is None:
        return {}, {}
    clip = Clip.load(spec.clip)
    sums: dict[int, NDArray[np.float64]] = {}
    statuses: dict[int, Counter[str]] = {}
    waiting: list[tuple[int, Image]] = []

    def look() -> None:
        vectors = clip.embed_images([pixels for _, pixels in waiting])
        for (class_id, _), vector in zip(waiting, vectors, strict=True):
            sums[class_id] = sums.get(class_id, 0.0) + vector.astype(np.float64)
        waiting.clear()
        on_progress(sum(counter["success"] for counter in statuses.values()), len(contested) * spec.max_images)

    for image in read_real(spec.real, classes, spec.max_images, seed, spec.subset, contested):
        statuses.setdefault(image.class_id, Counter())[image.reason or "success"] += 1
        if image.pixels is not None:
            waiting.append((image.class_id, image.pixels))
        if len(waiting) == spec.clip.batch:
            look()
    if waiting:
        look()
    seen = [class_id for class_id in contested if class_id in sums]
    if not seen:
        return {}, statuses
    # The phrase alone: in the sandbox it finds 10 of 10 senses from 20 images (9 after "a photo of"), 94 % from 5 (93),
    # 82 % from 1 (88); for the other sense, with dice, 10, 97 and 88 % (10, 96, 84).
    texts = clip.embed_texts([text for class_id in seen for text in offers[class_id].compared])
    cosines = {}
    at = 0
    for class_id in seen:
        rows = texts[at : at + len(offers[class_id].compared)].astype(np.float64)
        at += len(rows)
        cosines[class_id] = rows @ (sums[class_id] / np.linalg.norm(sums[class_id]))
    return cosines, statuses


# the file, and the table for people


def dump_meanings(meanings: Sequence[Meaning]) -> bytes:
    """The bytes of meanings.jsonl."""
    ordered = sorted(meanings, key=lambda meaning: meaning.class_id)
    return b"".join(canonical_json(_plain(meaning)) + b"\n" for meaning in ordered)


def _plain(meaning: Meaning) -> dict[str, object]:
    plain = asdict(meaning)
    plain["candidates"] = [list(pair) for pair in meaning.candidates]
    plain["dropped"] = [list(pair) for pair in meaning.dropped]
    return plain


def write_meanings(meanings: Sequence[Meaning], path: Path) -> None:
    """Write meanings.jsonl, all of it or nothing."""
    replace_file(path, dump_meanings(meanings))


def meaning_table(meanings: Sequence[Meaning]) -> list[tuple[str, ...]]:
    """Rows under TABLE_COLUMNS, the least certain first: no phrase, one candidate, then the smallest margin; then what
    was given by hand and what was not asked for."""
    order: dict[Source, int] = {
        "no_candidates": 0,
        "no_real_images": 0,
        "only_candidate": 1,
        "by_id": 1,
        "clip": 2,
        "given": 3,
        "clear_name": 3,
        "none": 4,
    }
    ranked = sorted(meanings, key=lambda meaning: (order[meaning.source], meaning.margin or 0.0, meaning.class_id))
    return [
        (
            str(meaning.class_id),
            meaning.class_name,
            meaning.phrase or "",
            meaning.source,
            "" if meaning.similarity is None else f"{meaning.similarity:.4f}",
            "" if meaning.margin is None else f"{meaning.margin:.4f}",
            meaning.runner_up or "",
            str(meaning.num_images),
        )
        for meaning in ranked
    ]
