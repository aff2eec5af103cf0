"""Flagged words: words in a prompt that trip a safety checker or spoil a training image; pure.

In: texts. Out: the flagged words in them. On disk: flagged_words.yaml, groups of words, each with the reason.
"""

from functools import cache
from pathlib import Path

import yaml


@cache
def flag_groups() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Group -> (why its words are flagged, the words), in the order of flagged_words.yaml."""
    data = yaml.safe_load((Path(__file__).parent / "flagged_words.yaml").read_text(encoding="utf-8"))
    return {group: (entry["why"], tuple(entry["words"])) for group, entry in data.items()}


def group_of(word: str) -> str:
    """The group of a flagged word, such as "violence"."""
    return next(group for group, (_, words) in flag_groups().items() if word in words)


def flagged_words(words: str) -> list[str]:
    """The flagged words of a text, in the order of their beginnings; `words` is the text's `plain_words`."""
    tokens = words.split()
    by_first = _by_first_word()
    if by_first.keys().isdisjoint(tokens):
        return []
    padded = f" {words} "
    starts = dict.fromkeys(token for token in tokens if token in by_first)
    return [word for first in starts for word in by_first[first] if f" {word} " in padded]


@cache
def _by_first_word() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for _, words in flag_groups().values():
        for word in words:
            first = word.partition(" ")[0]
            found[first] = (*found.get(first, ()), word)
    return found
