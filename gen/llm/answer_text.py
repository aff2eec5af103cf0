"""Answer text: one line of what a language model said, fit to stand in a prompt; pure.

In: a text, the punctuation that may go from its ends, a length. Out: the line, or None and the reason. On disk:
nothing.
"""

import unicodedata

from shards.disk.safe_text import is_hidden


def clean_line(text: str, ends: str, max_chars: int) -> tuple[str | None, str]:
    """The text in NFC with single blanks, without `ends`; or None and "empty", "hidden characters" or "too long"."""
    line = unicodedata.normalize("NFC", text)
    for blank in "\t\r\n":
        line = line.replace(blank, " ")
    if not any(char.isalnum() for char in line):
        return None, "empty"
    if any(map(is_hidden, line)):
        return None, "hidden characters"
    line = " ".join(line.split()).strip(f"{ends} ")
    return (line, "") if len(line) <= max_chars else (None, "too long")
