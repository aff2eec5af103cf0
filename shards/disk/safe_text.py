"""Text of unknown origin, made safe to look at; pure.

Comes in: any string (a prompt, a class name, an error). Goes out: one line whose every character can be seen.
Control characters, bidi overrides, zero-width and tag characters and lone surrogates are written as ``⟨U+202E⟩``,
because they can reorder or hide what a person reads. Escaping for HTML is done by whoever writes HTML.
"""

import re
import unicodedata

# Joiners shape emoji and many scripts; without them ordinary words come out wrong.
_HARMLESS_FORMAT = frozenset("\u200c\u200d\u00ad")
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#!|~&$:])")


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN_CATEGORIES and character not in _HARMLESS_FORMAT


def visible(text: str) -> str:
    """``"a\\u202eb"`` -> ``"a⟨U+202E⟩b"``; printable text comes back as it is."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(f"⟨U+{ord(c):04X}⟩" if _is_hidden(c) else c for c in text)


def clip(text: str, limit: int) -> str:
    """The first ``limit`` characters, with the full length named when some are left off."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


def markdown(text: str) -> str:
    """Text that Markdown renders as itself: visible, every character with a meaning escaped, no HTML."""
    return _MARKDOWN.sub(r"\\\1", visible(text))
