"""What kind of thing a class is, so that its context fits: no shark in a pine wood, no ship on a showroom floor.

In: a class, and its meaning if one was chosen. Out: one of KINDS. On disk, beside this file: kinds.yaml, which says
which senses of WordNet are of which kind, and hyponyms.txt, which sense stands below which. Names are looked up in the
table of ImageNet-21k's names in the installed timm; timm is not imported.

A sense is of the kind of the nearest sense above it that kinds.yaml names: a tiger shark is a shark, a shark is a fish,
and fish are aquatic. A class without an id is looked up by its meaning, then by its name.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TypedDict

import yaml

from shards.labels.classes import KINDS, Class, Kind
from shards.labels.imagenet import wordnet_lemmas
from shards.labels.text_file import read_lines


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


# Common names whose first sense in the order of ids is a rare one, or that are not in the table.
_PLAIN_NAMES: Mapping[str, Kind] = {
    **dict.fromkeys(_words("bowl can cup dish plate tray lamp glass"), "household"),
    **dict.fromkeys(_words("table chair bed"), "furniture"),
    **dict.fromkeys(_words("man woman boy girl baby child people"), "person"),
    **dict.fromkeys(_words("fern flower lily rose tree"), "plant"),
    **dict.fromkeys(_words("field forest hill lake river sea"), "landscape"),
    **dict.fromkeys(_words("road street"), "street"),
    **dict.fromkeys(_words("car truck suv sedan hatchback wagon"), "vehicle"),
    **dict.fromkeys(_words("aircraft airplane jet"), "aircraft"),
    **dict.fromkeys(_words("cat kitten puppy"), "pet"),
    **dict.fromkeys(_words("crab duck"), "waterside"),
    **dict.fromkeys(_words("lobster"), "aquatic"),
}
# A definition's first noun stands before any of these.
_AFTER_HEAD = re.compile(
    r"[;:,(]|\b(that|which|who|whose|where|when|with|without|of|for|in|on|at|to|by|from|as|and|or|having|consisting|"
    r"containing|made|used|usually|drawn|driven|pulled|propelled|powered|moved|equipped|housing|carrying|called)\b"
)


def kind_of(one: Class, meaning: str | None = None) -> Kind:
    """The kind of a class, "other" where nobody knows it."""
    return known_kind(one, meaning) or "other"


def known_kind(one: Class, meaning: str | None = None) -> Kind | None:
    """The kind of a class: as its list says, else by its WordNet id, else by its meaning, else by its name; None if no
    table knows any of them."""
    if (kind := kind_of_list(one)) is not None:
        return kind
    found = (_kind_of_name(phrase) for phrase in _phrases(one.name, meaning))
    return next((kind for kind in found if kind is not None), None)


def kind_of_list(one: Class) -> Kind | None:
    """The kind of a class that no meaning changes: as its list says, else by its WordNet id; None without either."""
    if one.kind is not None or one.wordnet_id is None:
        return one.kind
    return kind_of_id(one.wordnet_id)


@cache
def kind_meanings() -> Mapping[Kind, str]:
    """Kind -> what it means, in a line, in the order of KINDS."""
    table = _kinds_file()
    return {kind: table[kind]["means"] for kind in KINDS}


@cache
def kind_of_id(wordnet_id: str) -> Kind | None:
    """The kind of a WordNet id, "other" if none is set above it; None for an id that is in no table here."""
    if wordnet_id not in _hypernyms():
        return None
    nearest, seen = [wordnet_id], set()
    while nearest:
        for sense in nearest:
            if sense in _kinds_by_sense():
                return _kinds_by_sense()[sense]
        seen |= set(nearest)
        nearest = [above for sense in nearest for above in _hypernyms()[sense] if above not in seen]
    return "other"


def hypernyms_of(wordnet_id: str) -> tuple[str, ...]:
    """The senses directly above a sense; () for one that is in no table here."""
    return _hypernyms().get(wordnet_id, ())


class _KindFacts(TypedDict):
    means: str
    senses: dict[str, str]  # WordNet id -> a word for it


def _kinds_file() -> dict[Kind, _KindFacts]:
    found: dict[Kind, _KindFacts] = yaml.safe_load((Path(__file__).parent / "kinds.yaml").read_text("utf-8"))
    if list(found) != list(KINDS):
        raise ValueError(f"kinds.yaml: found the kinds {', '.join(found)}, expected {', '.join(KINDS)} in this order")
    return found


@cache
def _kinds_by_sense() -> Mapping[str, Kind]:
    table = _kinds_file()
    return {sense: kind for kind in KINDS for sense in table[kind]["senses"]}


@cache
def _hypernyms() -> Mapping[str, tuple[str, ...]]:
    """Sense -> the senses directly above it."""
    above: dict[str, tuple[str, ...]] = {}
    for line in read_lines(Path(__file__).parent / "hyponyms.txt"):
        if line.startswith("#"):
            continue
        top, _, below = line.partition(": ")
        above.setdefault(f"n{top}", ())
        for sense in below.split():
            above[f"n{sense}"] = (*above.get(f"n{sense}", ()), f"n{top}")
    return above


def _phrases(name: str, meaning: str | None) -> Iterator[str]:
    """Phrases to look a class up by, the best first: "crane, the bird" gives bird, then crane."""
    if meaning:
        rest = re.sub(re.escape(name), " ", meaning, flags=re.IGNORECASE)
        rest = re.sub(r"^(\W|\b(the|a|an)\b)*", "", rest)
        yield " ".join(_words(_AFTER_HEAD.split(rest, maxsplit=1)[0]))
    yield name


def _kind_of_name(phrase: str) -> Kind | None:
    """The kind by the whole phrase, else by its last words, the more the better, else by their singular; None if none
    is known."""
    words = _words(phrase)
    for start in range(len(words)):
        lemma = " ".join(words[start:])
        for form in (lemma, lemma.removesuffix("s"), lemma.removesuffix("es")):
            kind = _PLAIN_NAMES.get(form) or _kinds_by_lemma().get(form)
            if kind is not None:
                return kind
    return None


@cache
def _kinds_by_lemma() -> Mapping[str, Kind]:
    """Lemma -> kind. Of several senses the first one by its id that is not "other": a mouse is an animal."""
    kinds: dict[str, Kind] = {}
    for wordnet_id, lemmas in sorted(wordnet_lemmas().items()):
        kind = kind_of_id(wordnet_id) or "other"
        for lemma in lemmas.split(","):
            key = " ".join(_words(lemma))
            if kinds.get(key, "other") == "other":
                kinds[key] = kind
    return kinds
