"""Text of unknown origin, made safe to look at; pure.

Comes in: any string (a prompt, a class name, an error, an address). Goes out: text whose every character can be seen.
Control characters, bidi overrides, zero-width and tag characters, private and unassigned ones and lone surrogates are
written as ``⟨U+202E⟩``, because they can reorder or hide what a person reads. Escaping for HTML is done by whoever
writes HTML.

    visible      the text, hidden characters shown
    one_line     the same with single blanks and at most so many characters: errors, output of programs
    quoted       a value as it was found, between quotes, bounded: 'crane'
    clip         the beginning, and how long the text is
    markdown     text that Markdown renders as itself
    redact       the text without secrets and without user and query of addresses
"""

import re
import unicodedata
from collections.abc import Iterable

LONGEST_LINE = 1500
# Joiners shape emoji and many scripts; without them ordinary words come out wrong.
_HARMLESS_FORMAT = frozenset("\u200c\u200d\u00ad")
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#!|~&$:])")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s'\"<>]+")


def is_hidden(character: str) -> bool:
    """Whether one cannot see the character, or what it does to its neighbours."""
    return unicodedata.category(character) in _HIDDEN_CATEGORIES and character not in _HARMLESS_FORMAT


def visible(text: str) -> str:
    """``"a\\u202eb"`` -> ``"a⟨U+202E⟩b"``; printable text comes back as it is."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(f"⟨U+{ord(c):04X}⟩" if is_hidden(c) else c for c in text)


def one_line(text: str, limit: int = LONGEST_LINE) -> str:
    """At most ``limit`` characters of the text on one line: no colours of a terminal, single blanks, all visible."""
    return visible(" ".join(_ANSI.sub("", text[: 10 * limit]).split()))[:limit]


def quoted(value: object, limit: int) -> str:
    """``'crane'``: a value as it was found, at most ``limit`` characters of it, on one line."""
    if not isinstance(value, str):
        return visible(repr(value))[:limit]
    return f"'{visible(value[:limit])[:limit]}{'…' if len(value) > limit else ''}'"


def clip(text: str, limit: int) -> str:
    """The first ``limit`` characters; if some are left off, the full length stands behind them."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


def markdown(text: str) -> str:
    """Text that Markdown shows as it is: visible, with every special character escaped, without HTML."""
    return _MARKDOWN.sub(r"\\\1", visible(text))


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text with user info, query and fragment taken out of every address in it, and with no secret in it."""
    for secret in secrets:
        text = text.replace(secret, "[secret]")
    return _ADDRESS.sub(lambda match: _redact_address(match.group()), text)


def _redact_address(address: str) -> str:
    scheme, _, rest = address.partition("://")
    rest = re.split("[?#]", rest)[0]
    user, _, place = rest.rpartition("@")
    # a password may hold a slash; an '@' in a path without ':' before it is just a path
    if ":" not in user and "/" in user:
        return f"{scheme}://{rest}"
    return f"{scheme}://{place}"
