"""What follows from the answers about one image: accepted, rejected, or no verdict; pure.

In: questions and their answers. Out: a `Verdict`, with its score and the text for the image's row. On disk: nothing.

A verdict knows nothing of earlier tries at the same output, so no number of tries can make it milder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.recipes.load import canonical_json
from gen.edit.judge.question import Question
from shards.disk.layout import SUCCESS

MOST_TOLD = 8  # answers in a row
REJECTED = "rejected"  # too few questions were answered as expected
JUDGE_FAILED = "judge_failed"  # a question has no usable answer

YesNo = Literal["yes", "no"]


@dataclass(frozen=True)
class Answered:
    """A question and what the judge said to it; None: nothing of use, for this reason."""

    question: Question
    answer: YesNo | None
    reason: str | None = None

    @property
    def is_expected(self) -> bool:
        """Whether it is the answer of an image as asked for."""
        return self.answer is not None and (self.answer == "yes") == self.question.expected


@dataclass(frozen=True)
class Verdict:
    """The judge's word on one image."""

    status: str  # success, rejected or judge_failed
    score: float | None  # share of questions answered as expected; None: nothing was asked, or there is no verdict
    answers: tuple[Answered, ...]  # in the order of the questions
    error: str | None  # of the row, if the status is no success

    @property
    def accepted(self) -> bool:
        """Whether the image is kept."""
        return self.status == SUCCESS

    def json_text(self) -> str:
        """For the image's row: `{"answers": [{"answer": "yes", "expected": "yes", "question": ...}], "asked": 4,
        "score": 0.5}`. Of more than `MOST_TOLD` answers those that were not expected come first, and the rest is left
        out."""
        answers = self.answers
        if len(answers) > MOST_TOLD:  # a CLIP is asked about each other attribute, and a row has room for 64 KB
            answers = tuple(sorted(answers, key=lambda one: one.is_expected))[:MOST_TOLD]
        told = [
            {
                "question": one.question.text,
                "answer": one.answer,
                "expected": "yes" if one.question.expected else "no",
                **({} if one.reason is None else {"reason": one.reason}),
            }
            for one in answers
        ]
        return canonical_json({"answers": told, "asked": len(self.answers), "score": self.score}).decode("ascii")


def verdict_of(answers: Sequence[Answered], threshold: float) -> Verdict:
    """Accepted if the share of expected answers is `threshold` or more; no verdict if one question has no answer.

    Raises ValueError without a question: what was not asked is not accepted.
    """
    if not answers:
        raise ValueError("judge: found no question about an image, expected one or more; set judge.asks or judge.kind")
    lost = next((one for one in answers if one.answer is None), None)
    if lost is not None:
        reason = lost.reason or "no answer"
        return Verdict(JUDGE_FAILED, None, tuple(answers), f"the judge gave no usable answer ({reason})")
    right = sum(one.is_expected for one in answers)
    score = right / len(answers)
    if score >= threshold:
        return Verdict(SUCCESS, score, tuple(answers), None)
    error = f"{right} of {len(answers)} questions answered as expected, fewer than {threshold:g} of them"
    return Verdict(REJECTED, score, tuple(answers), error)
