"""Parts: the words that make up a prompt, and the form they are put into; pure.

In: a form such as "{name}, {foreground}, {background}" and a word for each slot. Out: the text. On disk: each part is a
column of prompts.parquet, so that every text can be put together again from its row.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from gen.templates import fill

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
