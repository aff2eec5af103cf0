"""Answer text: one line of what a language model said, fit to stand in a prompt; pure.

In: a text, the punctuation that may go from its ends, a length. Out: the line, or None and the reason. On disk:
nothing.
"""

import unicodedata

# Control, format and private characters, lone surrogates, unassigned code points, separators of lines.
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
JOINERS = frozenset("\u200c\u200d\u00ad")  # they shape words and emoji


def one_line(text: str, ends: str, max_chars: int) -> tuple[str | None, str]:
    """The text in NFC with single blanks, without `ends`; or None and "empty", "hidden characters" or "too long"."""
    line = unicodedata.normalize("NFC", text)
    for blank in "\t\r\n":
        line = line.replace(blank, " ")
    if not any(char.isalnum() for char in line):
        return None, "empty"
    if any(unicodedata.category(char) in HIDDEN and char not in JOINERS for char in line):
        return None, "hidden characters"
    line = " ".join(line.split()).strip(f"{ends} ")
    return (line, "") if len(line) <= max_chars else (None, "too long")
