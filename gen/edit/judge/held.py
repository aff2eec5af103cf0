"""A judge as a worker holds it: whoever gives a unit up does not wait for the answers about it.

In: a `JudgeSpec`. Out: a `Judge` (gen.edit.judge.judge) that can be stopped, and asked again for the next unit. On
disk: what that judge has.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
from numpy.typing import NDArray

from cluster.process.stop_flag import StopFlag
from gen.edit.judge.judge import Judge, Judged, open_judge
from gen.edit.judge.question import Question
from gen.edit.judge.spec import JudgeSpec
from gen.edit.judge.verdict import Verdict


class HeldJudge:
    """A `Judge`. Owns what it has opened; `close` ends it, and the next question opens it again."""

    def __init__(self, spec: JudgeSpec) -> None:
        """Opens it. Raises LlmError or ModelError as `open_judge` does."""
        self.spec = spec
        self._held = ExitStack()
        self._stop = StopFlag()
        self._judge: Judge | None = self._opened()

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for an answer from outside, within its own deadline."""
        judge = self._judge
        return judge is not None and judge.is_waiting

    def answers(self, image_HWC: NDArray[np.uint8], questions: Sequence[Question]) -> Verdict:
        """As `Judge`."""
        return self.verdicts([(image_HWC, questions)])[0]

    def verdicts(self, judged: Sequence[Judged]) -> list[Verdict]:
        """As `Judge`. Raises Draining inside `stopped`."""
        if self._judge is None:
            self._judge = self._opened()
        return self._judge.verdicts(judged)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Inside, in another thread than the one that asks, no answer from outside is waited for or asked for. That
        thread must be done at the end."""
        if self.spec.llm is None:
            yield
            return
        self._stop.request("nobody wants these edits any more")
        try:
            yield
        finally:
            self.close()

    def close(self) -> None:
        """End its threads, and close its cache."""
        self._held.close()
        self._judge = None

    def _opened(self) -> Judge:
        self._stop = StopFlag()
        return self._held.enter_context(open_judge(self.spec, self._stop))
