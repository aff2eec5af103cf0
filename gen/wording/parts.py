"""Parts: the words that make up a prompt, and the form they are put into; pure.

In: a form such as "{name}, {foreground}, {background}" and a word for each slot. Out: the text. On disk: each part is a
column of prompts.parquet, so that every text can be put together again from its row.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from gen.wording.templates import fill
from shards.disk.safe_text import quoted

MAX_TEXT_BYTES = 8192

# Everything a prompt may say beside the name, in the order in which it is said.
PARTS = (
    "foreground",  # what the subject does, or stands with
    "background",
    "light",
    "viewpoint",
    "distance",
    "weather",
    "time",
    "relation",  # how subject and background stand to each other; captions only
    "caption",  # a whole sentence by a captioner
    "style",
)


@dataclass(frozen=True)
class Wording:
    """A form and the words of its slots; words of other parts may stand beside them."""

    form: str
    words: Mapping[str, str]

    def text(self, name: str) -> str:
        """The prompt. `name` is the class's meaning if it has one, else its name."""
        return fill(self.form, {"name": name, **self.words})


def check_text(text: str, where: str, may_be_empty: bool = False) -> str:
    """The law of all texts: something to read, UTF-8, no NUL, at most 8 KiB. Other characters are kept exactly."""
    if not may_be_empty and not text.strip():
        raise ValueError(f"{where}: found an empty text, expected some words")
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise ValueError(f"{where}: found a lone surrogate in {quoted(text, 60)}, expected Unicode text") from None
    if "\0" in text:
        raise ValueError(f"{where}: found a NUL character in {quoted(text, 60)}, expected text without it")
    if size > MAX_TEXT_BYTES:
        raise ValueError(f"{where}: found a text of {size} bytes, expected at most {MAX_TEXT_BYTES}; shorten it")
    return text
