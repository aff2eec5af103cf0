"""Places: whether a prompt puts a class where its kind is at home; no ship on a showroom floor.

In: a kind of class, and what a prompt says beside the name. Out: the place where the kind is a stranger, or None. On
disk: places.yaml beside this file, which shares no list with the lexicon, so that it can judge the lexicon, too.
"""

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path

import yaml

from gen.names.display_name import plain_words
from shards.labels.classes import KINDS, Kind


def foreign_place(kind: Kind, said: str) -> str | None:
    """The place that `said` names and where no class of this kind is at home; None if there is none.

    `said` is a background such as "in a dark pine wood", or a whole text without the name. Of several places one that
    fits is enough: "on a table in a garden". The kinds "other" and "texture" are at home everywhere.
    """
    found = places_in(said)
    if kind in ("other", "texture") or not found or any(kind in _homes()[place] for place in found):
        return None
    return found[0]


@lru_cache(maxsize=65_536)
def places_in(said: str) -> tuple[str, ...]:
    """The places that a text names, each once, in the order of the text; the longest words of a stretch count."""
    matches = _pattern().findall(f" {plain_words(said)} ")
    return tuple(dict.fromkeys(place for words in matches for place in _places_of_words()[words]))


@cache
def _homes() -> Mapping[str, frozenset[str]]:
    return {place: frozenset(facts["kinds"]) for place, facts in _table().items()}


@cache
def _places_of_words() -> Mapping[str, tuple[str, ...]]:
    """Words -> the places that they may tell; the same words may tell several."""
    found: dict[str, tuple[str, ...]] = {}
    for place, facts in _table().items():
        for words in map(plain_words, facts["words"]):
            found[words] = tuple(dict.fromkeys((*found.get(words, ()), place)))
    return found


@cache
def _pattern() -> re.Pattern[str]:
    longest_first = sorted(_places_of_words(), key=lambda words: (-len(words), words))
    return re.compile(rf"(?<= )({'|'.join(map(re.escape, longest_first))})(?= )")


@cache
def _table() -> Mapping[str, Mapping[str, list[str]]]:
    table: Mapping[str, Mapping[str, list[str]]] = yaml.safe_load(
        (Path(__file__).parent / "places.yaml").read_text("utf-8")
    )
    for place, facts in table.items():
        if unknown := set(facts["kinds"]) - set(KINDS):
            raise ValueError(f"places.yaml: found the kinds {', '.join(sorted(unknown))} of {place}, expected KINDS")
    return table
