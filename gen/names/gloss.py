"""Glosses: what a class is, in a few words behind its name, and whether its name needs them.

In: a class with a WordNet id, and the names that its list has twice. Out: a phrase such as "crane, a wading bird", or
None where the bare name is enough. On disk: glosses.yaml beside this file, which corrects WordNet by hand, and the
names and definitions of ImageNet-21k's ids in the installed timm, which is not imported.

A name needs its gloss if glosses.yaml says so, if two classes of the list share it, or, for ids beyond ImageNet-1k
(whose names were all looked at), if ImageNet-21k has it for things of different kinds.
"""

from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path

import yaml

from gen.names.kind import kind_of_id
from gen.names.wordnet import definition_of_id, phrase
from shards.labels.classes import Class
from shards.labels.imagenet import imagenet_names, wordnet_lemmas

_SAME_PICTURES = frozenset(("food", "plant", "fungus", "other"))  # a lemon, its tree and its taste are no two things


def own_gloss(one: Class) -> str | None:
    """The phrase for the sense of the class's WordNet id; None if no table here tells one."""
    if one.wordnet_id is None:
        return None
    if (by_hand := _said().get(one.wordnet_id) or _corrected().get(one.wordnet_id)) is not None:
        return by_hand
    definition = definition_of_id(one.wordnet_id)
    told = phrase(one.name, definition) if definition is not None else one.name
    return told if told != one.name else None


def needed_gloss(one: Class, shared: Collection[str]) -> str | None:
    """What prompts say of a class with a WordNet id instead of its bare name; None if the name says enough.

    `shared`: the names that several classes of the list have, in lower case.
    """
    if one.wordnet_id is None:
        return None
    if one.wordnet_id in _said():
        return _said()[one.wordnet_id]
    if one.name.casefold() in shared or (one.wordnet_id not in imagenet_names() and _means_several(one)):
        return own_gloss(one)
    return None


def other_glosses(one: Class) -> list[str]:
    """Phrases for the other senses that ImageNet-21k has of the class's name, in the order of their ids."""
    others = [sense for sense in _ids_of(one.name) if sense != one.wordnet_id]
    phrases = (phrase(one.name, definition_of_id(sense) or "") for sense in others)
    return [told for told in phrases if told != one.name]


def _means_several(one: Class) -> bool:
    kinds = {kind_of_id(sense) for sense in [*_ids_of(one.name), *([one.wordnet_id] if one.wordnet_id else [])]}
    return len(kinds - _SAME_PICTURES) + bool(kinds & _SAME_PICTURES - {"other"}) > 1


def _ids_of(name: str) -> tuple[str, ...]:
    return _ids_by_name().get(" ".join(name.casefold().split()), ())


@cache
def _ids_by_name() -> Mapping[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for wordnet_id, lemmas in sorted(wordnet_lemmas().items()):
        for lemma in lemmas.split(","):
            name = " ".join(lemma.casefold().split())
            found[name] = (*found.get(name, ()), wordnet_id)
    return found


@cache
def _tables() -> Mapping[str, Mapping[str, str]]:
    found: Mapping[str, Mapping[str, str]] = yaml.safe_load((Path(__file__).parent / "glosses.yaml").read_text("utf-8"))
    return found


def _said() -> Mapping[str, str]:
    return _tables()["said"]


def _corrected() -> Mapping[str, str]:
    return _tables()["corrected"]
