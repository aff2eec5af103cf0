"""Attributes: what an edit may put into an image, each with its words, its side and where it came from; pure.

In: words that were read or answered. Out: an `Attribute`, and its phrase for a prompt. On disk: nothing.

An attribute is feasible for a class if a camera could meet the class with it, and infeasible if it could not.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from shards.disk.safe_text import quoted

AttributeKind = Literal["background", "colour", "texture"]
ATTRIBUTE_KINDS: tuple[AttributeKind, ...] = get_args(AttributeKind)
PhraseForm = Literal["plain", "compel"]
Rgb = tuple[int, int, int]

MAX_NAME_CHARS = 60
MAX_TEXT_CHARS = 160
# A name stands in the questions that its edit is judged by, so it must not answer them.
ANSWERS = frozenset(
    (
        *("yes", "no", "not", "true", "false", "feasible", "infeasible", "plausible", "implausible", "possible"),
        *("impossible", "real", "unreal", "realistic", "unrealistic", "natural", "unnatural", "expected", "unexpected"),
    )
)
# Compel gives weights by brackets, +, - and quotes, and joins texts by dots.
_PHRASE = re.compile(r"\w(?:(?:[ '’&]|, )?\w|(?<=\w)-(?=\w))*")
_SMALL_WORDS = frozenset(("a", "an", "the", "of", "in", "on", "at", "with"))


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """One background, colour or texture."""

    kind: AttributeKind
    feasible: bool
    name: str  # "fawn", "snowy field": distinct within its class, kind and side
    text: str  # what it looks like, a few words for a prompt
    weight: float  # of the name in a prompt
    rgb: Rgb | None = None  # 0..255; of a colour, and of a background or texture that is even
    source: str  # lexicon:NAME, or llm


def phrase(attribute: Attribute, form: PhraseForm) -> str:
    """The attribute as it stands in a prompt: `name: text`, or `(name)1.2: text` for what reads Compel's weights."""
    if form == "compel":
        return f"({attribute.name}){attribute.weight:g}: {attribute.text}"
    return f"{attribute.name}: {attribute.text}"


@lru_cache(maxsize=65_536)
def name_key(name: str) -> str:
    """A key that is equal for names that differ only in case, hyphens, punctuation and small words."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", name).casefold())
    return " ".join(word for word in words if word not in _SMALL_WORDS) or " ".join(words)


def check_name(name: str) -> str:
    """The name, unchanged. Raises ValueError if it is no plain phrase, too long, or answers a question about itself."""
    _check_phrase(name, MAX_NAME_CHARS)
    if told := ANSWERS.intersection(re.findall(r"\w+", name.casefold())):
        raise ValueError(f"found {quoted(min(told), 20)} in {quoted(name, 60)}, expected a name that judges nothing")
    return name


def check_description(text: str) -> str:
    """The description, unchanged. Raises ValueError if it is no plain phrase or too long."""
    return _check_phrase(text, MAX_TEXT_CHARS)


def _check_phrase(text: str, max_chars: int) -> str:
    if len(text) > max_chars:
        raise ValueError(f"found {len(text)} characters in {quoted(text, 40)}, expected at most {max_chars}")
    if not _PHRASE.fullmatch(text):
        raise ValueError(
            f"found {quoted(text, 60)}, expected words with single blanks, commas, apostrophes and hyphens between them"
        )
    return text
