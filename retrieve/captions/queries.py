"""Queries: what a caption must say to belong to a class.

In: classes and a `CaptionSpec`. Out: clauses, folded and ready to be searched. On disk: nothing.

    class name          phrase                          word, substring
    goldfish            the token                       the text
    pink primrose       both tokens, in any order       the text
    707-320             the tokens 707 and 320, in      the text
                        this order and side by side

A text of an override is one such unit whatever it is made of: its tokens in order, or itself. Of a meaning, "crane, a
large bird", the words without those of grammar are searched: crane, large, bird, in any order.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

from retrieve.captions.fold import folded_texts, tokens_of
from retrieve.captions.spec import CaptionSpec, Semantics
from shards.disk.safe_text import quoted
from shards.labels.classes import Class
from shards.labels.task import Query

GRAMMAR = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "or",
        "and",
        "in",
        "on",
        "with",
        "for",
        "to",
        "at",
        "by",
        "from",
        "as",
        "is",
        "that",
        "this",
    ]
)


@dataclass(frozen=True)
class Clause:
    """One way for a caption to belong to a class: all `needles` stand in it. Needles are folded; those of phrases are
    tokens with one space between."""

    class_id: int
    needles: tuple[str, ...]


def clauses_of(
    classes: Sequence[Class],
    spec: CaptionSpec,
    usual: Mapping[str, Query] = MappingProxyType({}),
    meanings: Mapping[int, str] = MappingProxyType({}),
) -> list[Clause]:
    """What the recipe says of a class counts first, then its meaning if these are asked for, then `usual`, by name.

    Raises ValueError for a class or an override that has nothing to search for, and for an override of no class."""
    names = {one.name for one in classes}
    for name in spec.queries:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            hint = f"did you mean {quoted(near[0], 60)}?" if near else "name a class of the recipe"
            raise ValueError(f"captions.queries: found {quoted(name, 60)}, expected the name of a class; {hint}")
    asked = [
        (one, (texts,) if isinstance(texts, str) else texts)
        for one in classes
        for texts in spec.queries.get(one.name) or _own(one, spec, usual, meanings)
    ]
    distinct = sorted({text for _, texts in asked for text in texts})  # all at once: one call costs milliseconds
    if spec.match == "phrase":
        spelt = [" ".join(words) for words in tokens_of(distinct)]
    else:
        spelt = [text.strip() for text in folded_texts(distinct)]
    needles = dict(zip(distinct, spelt, strict=True))
    clauses: dict[Clause, None] = {}
    for one, texts in asked:
        known = {text: needles[text] for text in texts}
        empty = [text for text, needle in known.items() if not needle]
        if empty and (one.name in spec.queries or len(empty) == len(known)):
            raise ValueError(
                f"class {one.id} ({quoted(one.name, 60)}): found nothing to search for in {quoted(empty[0], 60)}, "
                "expected a letter or a digit; say what its captions hold with captions.queries"
            )
        clauses[Clause(one.id, tuple(dict.fromkeys(needle for needle in known.values() if needle)))] = None
    return list(clauses)


def _own(one: Class, spec: CaptionSpec, usual: Mapping[str, Query], meanings: Mapping[int, str]) -> Query:
    if spec.text == "meaning" and one.id in meanings:
        words = tuple(word for word in re.findall(r"[^\s,;()]+", meanings[one.id]) if word.lower() not in GRAMMAR)
        return (words or (one.name,),)
    return usual.get(one.name) or (_units(one.name, spec.match),)


def _units(name: str, match: Semantics) -> tuple[str, ...]:
    """The texts of a class name that must all stand in a caption. A word without letters, as in R & B, is none."""
    if match != "phrase" or "-" in name or "/" in name:
        return (name,)
    return tuple(name.split())
