"""A yes/no question about an edited image, with the answer that an image as asked for has.

In: texts. Out: a frozen `Question`. On disk: nothing. What is expected is for the verdict alone
(gen.edit.judge.verdict): no model is ever told.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from shards.disk.safe_text import quoted

Asks = Literal["visible", "plausible"]  # is it in the picture; may it be so in the real world
MAX_QUESTION_CHARS = 500
SHOWN_CHARS = 100  # of the beginning and of the end of a caption, in a question's text


@dataclass(frozen=True)
class Question:
    """One question. Raises ValueError for an empty or very long `text`, and for equal texts of both answers."""

    text: str  # what a vision-language model is asked, such as "Is the ink red?"
    asks: Asks
    expected: bool  # the answer of an image as asked for: True = yes
    yes: str = ""  # for CLIP: what a picture shows if the answer is yes, such as "red ink"
    no: str = ""  # for CLIP: what it shows if the answer is no, such as "blue ink"

    def __post_init__(self) -> None:
        if not self.text.strip() or len(self.text) > MAX_QUESTION_CHARS:
            raise ValueError(
                f"question {quoted(self.text, 60)}: found {len(self.text)} characters, expected a text of at most "
                f"{MAX_QUESTION_CHARS} that asks something"
            )
        if bool(self.yes) != bool(self.no) or (self.yes and self.yes == self.no):
            raise ValueError(
                f"question {quoted(self.text, 60)}: found {quoted(self.yes, 60)} and {quoted(self.no, 60)} as texts "
                "for yes and no, expected two that differ, or none"
            )


def rather_than(shown: str, others: Sequence[str]) -> tuple[Question, ...]:
    """For CLIP: whether a picture shows `shown` rather than each of the others, one question for each, expected yes.

    With threshold 1 a picture is accepted if `shown` is the nearest of all texts. Whole captions that differ in one
    word serve best ("two, the handwritten numeral, red ink on pink paper"): so the sandbox's CLIP accepts 96 % of
    pictures with the asked ink and 0.5 % of others, with the asked paper 91 % and 0.5 %. One question against a text
    without colour ("two, the handwritten numeral") accepts 76 % and 6 %; one against the colour of the source accepts
    half of the pictures that have a third colour.
    """
    return tuple(
        Question(
            f'Does the picture show "{_short(shown)}" rather than "{_short(other)}"?', "visible", True, shown, other
        )
        for other in others
    )


def _short(caption: str) -> str:
    """For people: of a long one the beginning and the end."""
    if len(caption) <= 2 * SHOWN_CHARS:
        return caption
    return f"{caption[:SHOWN_CHARS]} … {caption[-SHOWN_CHARS:]}"
