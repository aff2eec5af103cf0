"""A language model's text as one line that may stand in a prompt; pure.

In: a text, the punctuation to strip from its ends, the longest length. Out: the line, or None and the reason.
On disk: nothing.
"""

import unicodedata

from shards.disk.safe_text import is_hidden


def clean_line(text: str, ends: str, max_chars: int) -> tuple[str | None, str]:
    """The line and ""; or None and the reason: "empty", "hidden characters" or "too long".

    The line is in NFC, has single blanks between words, no character of `ends` at its ends, and at most `max_chars`.
    """
    line = unicodedata.normalize("NFC", text)
    for blank in "\t\r\n":
        line = line.replace(blank, " ")
    if not any(char.isalnum() for char in line):
        return None, "empty"
    if any(map(is_hidden, line)):
        return None, "hidden characters"
    line = " ".join(line.split()).strip(f"{ends} ")
    return (line, "") if len(line) <= max_chars else (None, "too long")
