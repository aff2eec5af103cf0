"""How a class is called in a question for a caption, and whether a text says its name; pure.

In: a class name, and a noun for what it is ("car", "aircraft"). Out: the name with the noun behind it ("Audi TT Coupe
2012 car"), the name without it; whether a text says a name. On disk: nothing.
"""

import re
from functools import lru_cache

_WORD = re.compile(r"\w+")
_BRACKETS = re.compile(r"\([^()]*\)")


def display_name(name: str, noun: str) -> str:
    """`name` with `noun` behind it; `name` alone if `noun` is empty or the name already has the word."""
    if not noun or f" {plain_words(noun)} " in f" {plain_words(name)} ":
        return name
    return f"{name} {noun}"


def label_name(shown: str, noun: str) -> str:
    """The name that `display_name` was given: `shown` without `noun` at its end. A name that is only the noun stays."""
    bare = shown.removesuffix(f" {noun}") if noun else shown
    return bare if bare.strip() else shown


def plain_words(text: str) -> str:
    """The words of a text in lower case, with one blank between them: "Great-White  shark!" is "great white shark"."""
    return " ".join(_WORD.findall(text.casefold()))


def says(text: str, name: str) -> bool:
    """Whether the words of `name` stand in `text` side by side; the last one may be in the plural."""
    return says_words(text, plain_words(text), name)


def says_words(text: str, words: str, name: str) -> bool:
    """As `says`, for a text whose `plain_words` are known. A name without any word is searched as it is."""
    forms = _forms(name)
    if not forms:
        return name.casefold() in text.casefold()
    padded = f" {words} "
    return any(form in padded for form in forms)


def is_named(text: str, words: str, name: str, meaning: str | None) -> bool:
    """Whether a text says the name of a class, or the meaning that stands for it ("hot-air balloon"). `words`: its
    `plain_words`."""
    if says_words(text, words, name):
        return True
    return meaning is not None and (meaning in text or f" {plain_words(meaning)} " in f" {words} ")


@lru_cache(maxsize=4096)
def _forms(name: str) -> tuple[str, ...]:
    """The ways to say a name: its words, each side of an "or", with and without what is in brackets."""
    bare = _BRACKETS.sub(" ", name)
    found: dict[str, None] = {}
    for wording in (name, bare, *bare.split(" or ")):
        words = plain_words(wording)
        if words:
            plurals = [f"{words}s", f"{words}es", *([f"{words[:-1]}ies"] if words.endswith("y") else [])]
            found |= dict.fromkeys(f" {form} " for form in [words, *plurals])
    return tuple(found)
