"""The parts of a prompt: a form with slots, and the words that fill them; pure.

In: a form such as "a photo of {subject} {foreground} {background}" and a word for each slot. Out: the text. On disk:
each part is a column of prompts.parquet, so a text can be put together again from its row.

Two slots say what is shown: {name} is the name as it is, {subject} the name with its article ("an oboe", "sunglasses").
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from gen.names.noun_phrase import noun_phrase
from gen.wording.templates import fill
from shards.disk.safe_text import quoted

MAX_TEXT_BYTES = 8192

NAME_SLOTS = ("name", "subject")  # the name as it is; the name with its article
# Everything that a prompt may say besides the name, in this order.
PARTS = (
    "foreground",  # what the subject does, or stands with
    "background",
    "light",
    "viewpoint",
    "distance",
    "weather",
    "time",
    "relation",  # of the subject to another thing: next to, above …; captions only
    "caption",  # a whole sentence
    "style",
)


_SUBJECT = re.compile(r"\{subject\}(?= )")


@cache
def _closed(form: str) -> str:
    return _SUBJECT.sub("{subject},", form)


@dataclass(frozen=True)
class Wording:
    """A form and the words of its slots; `words` may hold parts that the form has no slot for."""

    form: str
    words: Mapping[str, str]

    def text(self, name: str) -> str:
        """The text of the prompt. `name` is the meaning of the class, or its name if it has no meaning.

        What explains a name stands between commas: "a crane, the bird, resting".
        """
        if "{subject}" not in self.form:
            return fill(self.form, {"name": name, **self.words})
        form = _closed(self.form) if "," in name else self.form
        return fill(form, {"name": name, "subject": noun_phrase(name), **self.words})


def check_text(text: str, where: str, may_be_empty: bool = False) -> str:
    """The text, unchanged. Raises ValueError if it is empty, no Unicode, has a NUL, or has more than 8 KiB in UTF-8.

    `where` begins the message; `may_be_empty` allows a text of blanks.
    """
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
