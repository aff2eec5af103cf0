"""The judge: looks at edited images and answers questions about them.

In: a `JudgeSpec`; images and questions. Out: a `Verdict` for each image. On disk: for each machine a cache of answers
(gen.llm.cache), from which a second run takes the same ones.

Three kinds. `vlm`: a vision-language model, behind a server or in this process, gets the image and the text of one
question a call, and answers yes or no; neither the expected answer nor another question is in the call. `clip`: the
nearer of the two texts of a question. `none`: every image is accepted. An answer depends on its image and question
alone: every question is a call of its own, and CLIP embeds images and texts one by one, because in a batch the last
bits depend on the others.

A judge that cannot be reached is no verdict: `JudgeLost` ends the attempt.
"""

import io
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cluster.process.exit import NotAgain
from cluster.process.stop_flag import StopFlag
from cluster.recipes.load import fingerprint
from gen.edit.judge.question import Question
from gen.edit.judge.spec import JudgeSpec
from gen.edit.judge.verdict import Answered, Verdict, YesNo, verdict_of
from gen.llm.ask import Answer, Ask, Llm, model_identity, open_llm
from gen.llm.call import LlmError
from gen.llm.choice import choice_schema
from gen.llm.spec import LlmSpec
from gen.model.clip import Clip, check_image, clip_digest
from shards.disk.address import file_path
from shards.disk.layout import SUCCESS
from shards.disk.safe_text import quoted

Judged = tuple[NDArray[np.uint8], Sequence[Question]]  # an image H W 3 and the questions about it

TASK = "You see one picture. Answer the question about this picture with yes or no, by what the picture shows."
SCHEMA = choice_schema("answer", ("yes", "no"))
KEPT_TEXTS = 4096  # vectors of texts that a CLIP judge keeps


class JudgeLost(NotAgain):
    """The judge cannot be reached, so there is no verdict; the message is one line that says what to do.

    No `ValueError`, which the refill loop would take for the fault of one image; and not tried again in this run, since
    its own tries are spent.
    """


class Judge(Protocol):
    """An open judge. Used by one thread at a time; any thread may look whether it waits."""

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for an answer from outside, within its own deadline."""

    def answers(self, image_HWC: NDArray[np.uint8], questions: Sequence[Question]) -> Verdict:
        """The verdict on one image, uint8 RGB. Raises as `verdicts` does."""

    def verdicts(self, judged: Sequence[Judged]) -> list[Verdict]:
        """The verdicts on many images, in their order; each is the one that its image gets alone.

        Only questions of the spec's `asks` are asked. Raises JudgeLost if the judge cannot be reached, Draining after a
        stop, ValueError for what is no RGB image and for an image without a question.
        """


@contextmanager
def open_judge(spec: JudgeSpec, stop: StopFlag | None = None) -> Iterator[Judge]:
    """The judge of a recipe. Raises LlmError or ModelError in one line if its model or cache cannot be opened."""
    if spec.kind == "none":
        yield NoJudge()
    elif spec.clip is not None:
        yield ClipJudge(spec, Clip.load(spec.clip))
    else:
        assert spec.llm is not None, "the spec checks it"
        with open_llm(of_this_machine(spec.llm), stop, sees=True) as llm:
            assert llm is not None, "the spec refuses provider offline"
            yield VlmJudge(spec, llm)


def of_this_machine(spec: LlmSpec) -> LlmSpec:
    """The spec with a cache of this machine's own, `llm.HOST.sqlite` for `llm.sqlite`.

    A judge works where images are made, on several machines at once, and no two of them may write one SQLite file.
    """
    path, host = file_path(spec.cache), re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:64]
    return spec.model_copy(update={"cache": str(path.with_name(f"{path.stem}.{host}{path.suffix}"))})


def judge_digest(spec: JudgeSpec) -> str:
    """Hex sha256 of what decides a verdict besides image and questions: model, task, which questions, threshold.

    The budget is left out: more tries change no verdict. Raises ModelError if a model folder is missing or unsafe.
    """
    model: object = None
    if spec.clip is not None:
        model = clip_digest(spec.clip)
    elif spec.llm is not None:
        model = dict(model_identity(spec.llm, sees=True))
    decides = {"kind": spec.kind, "model": model, "task": TASK, "schema": SCHEMA, "asks": sorted(spec.asked)}
    return fingerprint({**decides, "threshold": spec.threshold})


def draws_of(spec: JudgeSpec) -> int | None:
    """What a Maker's `num_draws` says of every sample: the budget, or None without a judge.

    Draw k of a sample is its k-th try, so the loop counts tries by output. After the last one the sample is short, with
    the status of that try.
    """
    return None if spec.kind == "none" else spec.budget


class NoJudge:
    """A `Judge` that asks nothing and accepts everything."""

    is_waiting = False

    def answers(self, image_HWC: NDArray[np.uint8], questions: Sequence[Question]) -> Verdict:
        """Success, without a score."""
        return Verdict(SUCCESS, None, (), None)

    def verdicts(self, judged: Sequence[Judged]) -> list[Verdict]:
        """Success for each."""
        return [self.answers(image_HWC, questions) for image_HWC, questions in judged]


class VlmJudge:
    """A `Judge` that asks a vision-language model."""

    def __init__(self, spec: JudgeSpec, llm: Llm, clock: Callable[[], float] = time.monotonic) -> None:
        self.spec, self.llm = spec, llm
        self._clock, self._waits_until = clock, 0.0

    @property
    def is_waiting(self) -> bool:
        """Until `longest_s` after the questions were asked."""
        return self._clock() < self._waits_until

    def answers(self, image_HWC: NDArray[np.uint8], questions: Sequence[Question]) -> Verdict:
        """One call for each question."""
        return self.verdicts([(image_HWC, questions)])[0]

    def verdicts(self, judged: Sequence[Judged]) -> list[Verdict]:
        """The calls of all images at once."""
        asked = [_asked(self.spec, one) for one in judged]
        pngs = [png(image_HWC) for image_HWC, _ in judged]
        asks = [
            Ask("judge", TASK, question.text, SCHEMA, 0, (data,))
            for data, questions in zip(pngs, asked, strict=True)
            for question in questions
        ]
        assert self.spec.llm is not None, "the spec checks it"
        self._waits_until = self._clock() + longest_s(self.spec.llm, len(asks))
        try:
            found = iter(self.llm.ask(asks))
        except LlmError as error:
            raise JudgeLost(f"judge: {error}") from None
        finally:
            self._waits_until = 0.0
        return [
            verdict_of([_answered(question, next(found)) for question in questions], self.spec.threshold)
            for questions in asked
        ]


def longest_s(spec: LlmSpec, num_asks: int) -> float:
    """Seconds within which a model has answered or lost so many questions: each try has its deadline, and so has each
    wait between two."""
    at_once = spec.max_in_flight if spec.provider == "openai" else 1
    return -(-num_asks // at_once) * (spec.tries * spec.timeout_s + (spec.tries - 1) * spec.max_wait_s)


class ClipJudge:
    """A `Judge` that compares an image with the two texts of each question."""

    is_waiting = False

    def __init__(self, spec: JudgeSpec, clip: Clip) -> None:
        self.spec, self.clip = spec, clip
        self._text_D = lru_cache(KEPT_TEXTS)(lambda text: clip.embed_texts([text])[0])

    def answers(self, image_HWC: NDArray[np.uint8], questions: Sequence[Question]) -> Verdict:
        """Yes where the image is nearer to the question's text for yes. Raises ValueError for one without texts."""
        asked = _asked(self.spec, (image_HWC, questions))
        image_D = self.clip.embed_images([image_HWC])[0]
        return verdict_of([Answered(one, self._answer(image_D, one)) for one in asked], self.spec.threshold)

    def verdicts(self, judged: Sequence[Judged]) -> list[Verdict]:
        """One image after the other."""
        return [self.answers(image_HWC, questions) for image_HWC, questions in judged]

    def _answer(self, image_D: NDArray[np.float32], question: Question) -> YesNo:
        if not question.yes:
            raise ValueError(
                f"judge, question {quoted(question.text, 60)}: found no texts for yes and no, which a CLIP compares; "
                "add both, or use judge.kind=vlm"
            )
        return "yes" if image_D @ self._text_D(question.yes) > image_D @ self._text_D(question.no) else "no"


def png(image_HWC: NDArray[np.uint8]) -> bytes:
    """The bytes of a PNG with exactly these pixels. Raises ValueError for what is no RGB image."""
    from PIL import Image

    check_image(image_HWC)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image_HWC)).save(file, "PNG")
    return file.getvalue()


def _asked(spec: JudgeSpec, judged: Judged) -> list[Question]:
    """The questions about one image that the spec wants asked. Raises ValueError if there is none."""
    image_HWC, questions = judged
    check_image(image_HWC)
    found = [question for question in questions if question.asks in spec.asked]
    if not found:
        raise ValueError(
            f"judge: found no question of the kinds {', '.join(spec.asked)} about an image, expected one or more; set "
            "judge.asks or judge.kind"
        )
    return found


def _answered(question: Question, answer: Answer) -> Answered:
    """The model's answer. Raises JudgeLost if there is none because calls failed on their way."""
    if answer.lost:
        raise JudgeLost(
            f"judge: found no way to an answer ({answer.reason}{', ' if answer.told else ''}{answer.told}), expected "
            "yes or no; check the server and run the same command again: answers so far are in its cache"
        )
    if not isinstance(answer.value, dict):
        return Answered(question, None, answer.reason)
    return Answered(question, "yes" if answer.value["answer"] == "yes" else "no")
