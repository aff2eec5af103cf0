"""How a call of a training ended: exit code and sentence. In and on disk: nothing."""

from dataclasses import dataclass
from pathlib import Path

from cluster.process.exit import EXIT_AGAIN, EXIT_COMPLETE
from shards.disk.amounts import counted
from train.evaluate.results import Result, by_branch


@dataclass(frozen=True)
class TrainOutcome:
    """How far the training is, and what this call did."""

    folder: Path
    step: int  # steps done, over all lives
    steps: int  # asked for
    images_per_s: float  # over all lives and ranks; 0 if none was trained on
    wait_share: float
    metric: str  # what the results' top-1 is called
    results: tuple[Result, ...]  # the run's, on its test sets; if it was finished and has none, on the validation set
    stopped: str  # why it ended early; empty if it did not
    replaced: int = 0  # samples that could not be read, over all lives and ranks
    was_finished: bool = False  # by an earlier call; this one did nothing
    stage: str = ""  # the earlier stage that it stopped in: "synthetic (1 of 2)"
    earlier: tuple[str, ...] = ()  # names of the stages before the last, which are done
    use: str = ""  # what is done with the result, for people

    @property
    def exit_code(self) -> int:
        """The code that `sixfold train` ends with."""
        return EXIT_AGAIN if self.stopped else EXIT_COMPLETE

    def sentence(self) -> str:
        """The outcome for people, in one line."""
        if self.stopped:
            where = f"stage {self.stage}, " if self.stage else self._stages()
            return (
                f"{self.folder}: {where}stopped at step {self.step} of {self.steps} ({self.stopped}) and saved; the "
                f"same command goes on{self._bad()}"
            )
        tests = self._tests()
        begun = f"{self.folder}: {self._stages()}{self.steps} steps, "
        if self.was_finished:
            return (
                f"{begun}finished before; nothing was left to do; {self.metric}: {tests}; "
                "to train longer, give more schedule.steps and another folder (--out); "
                f"{self.use}"
            )
        return (
            f"{begun}{self.images_per_s:,.0f} images/s, {self.wait_share:.0%} waiting for data; {self.metric}: {tests}"
            f"{self._bad()}"
        )

    def _stages(self) -> str:
        """`"after the stage synthetic: "`."""
        word = "stages" if len(self.earlier) > 1 else "stage"
        return f"after the {word} {', '.join(self.earlier)}: " if self.earlier else ""

    def _tests(self) -> str:
        """A set after the other: "real-test 90.12 % (91.30 % with the batch normalisation of synthetic)"."""
        others: dict[str, list[str]] = {}
        for one in self.results:
            if one.branch is not None:
                others.setdefault(one.set, []).append(f"{100 * one.top1:.2f} % {by_branch(one.branch)}")
        texts = []
        for one in self.results:
            if one.branch is None:
                beside = f" ({', '.join(others[one.set])})" if one.set in others else ""
                texts.append(f"{one.set} {100 * one.top1:.2f} %{beside}")
        return "; ".join(texts) or "no test set"

    def _bad(self) -> str:
        if not self.replaced:
            return ""
        return f"; {counted(self.replaced, 'sample')} could not be read and were replaced, see replaced-*.jsonl"
