"""What a person sees of a sweep while it works: n of N runs, the time left, accuracy so far.

In: the runs of a plan, what is done of them, events as they happen. Out: a line for every run that begins, ends or
fails; one line on how far the sweep is, for whoever asks. On disk: nothing.

In a sweep that tunes, a run is told by its score on validation, and accuracy on tests only of runs that are results.

The time left follows from the runs that this call has ended; before the first one, from what the sweep's author
expects of a run.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from cluster.fan_out.events import Event
from shards.disk.amounts import counted, time_text
from train.evaluate.results import Result, selected, validation_score
from train.sweep.choice import chosen, needed, num_needed, scores_of
from train.sweep.plan import Run, SweepSpec

FAILURES = {"unit_failed": "failed", "unit_quarantined": "given up"}
MOST_POINTS = 8  # in one line: the baseline and the run's own, where there are more


class SweepProgress:
    """Give `begin` and the object itself to `run_sweep`; `clock` counts seconds."""

    def __init__(
        self,
        spec: SweepSpec,
        runs: Sequence[Run],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec, self._runs, self._say, self._clock = spec, runs, say, clock
        self._asked: int | None = None  # runs; None: it is still being looked at what is done
        self._found: dict[int, Mapping[str, float]] = {}  # run: top-1 by test set
        self._scores: dict[int, float | None] = {}  # run: on validation
        self._results: list[int] = []  # the runs that are results of their points and seeds
        self._training: dict[int, float] = {}  # run: when it began
        self._took_s: list[float] = []  # of runs that this call ended
        self._done = self._given_up = self._most_at_once = 0

    def begin(self, there: Mapping[int, Sequence[Result]]) -> None:
        """The runs of the points that are asked for, each with its result lines if it is done."""
        numbers = list(there)
        runs = [self._runs[number] for number in numbers]
        self._asked = num_needed(runs)
        scores = scores_of({place: there[number] for place, number in enumerate(numbers)})
        self._done = sum(place in scores for place in needed(runs, scores))
        for number, lines in there.items():
            if lines:
                self._found[number] = {line.set: line.top1 for line in selected(lines)}
                self._scores[number] = validation_score(lines)
        self._results = chosen(self._runs, self._scores)

    def _keep(self, number: int, top1: Mapping[str, float], score: float | None) -> list[int]:
        """The runs that are results now, and were none before."""
        self._found[number], self._scores[number] = top1, score
        before, self._results = self._results, chosen(self._runs, self._scores)
        return [one for one in self._results if one not in before]

    def __call__(self, event: Event) -> None:
        """Say what happened to a run."""
        number = event.unit
        if number is None:
            return
        title = self._runs[number].title
        if event.kind == "unit_started":
            self._training[number] = self._clock()
            self._most_at_once = max(self._most_at_once, len(self._training))
            self._tell(event, f"{title} began")
        elif event.kind == "unit_done":
            self._took_s.append(self._clock() - self._training.pop(number, self._clock()))
            self._done += 1
            found = event.data.get("top1")
            top1 = {str(name): float(str(value)) for name, value in found.items()} if isinstance(found, Mapping) else {}
            score = event.data.get("validation")
            new = self._keep(number, top1, None if score is None else float(str(score)))
            own = _on_tests(top1) if number in new else _on_validation(self._scores[number])
            so_far = self._so_far(number, top1) if new else ""
            self._tell(event, f"{title} done: {own}; {self._counts()}{so_far}")
            for result in new:
                self._tell_choice(event, result)
        elif event.kind in FAILURES:
            self._training.pop(number, None)
            self._given_up += event.kind == "unit_quarantined"
            self._tell(event, f"{title} {FAILURES[event.kind]}: {event.message}")

    def _tell_choice(self, event: Event, number: int) -> None:
        tuned = self._runs[number].place.tuned
        if tuned is not None and tuned.seeds is not None and self._runs[number].seed < tuned.seeds:
            of = f"the best of {counted(tuned.num_settings, 'setting')} on validation{tuned.over_seeds}"
            self._tell(event, f"{self._runs[number].title} chosen, {of}: {_on_tests(self._found[number])}")

    def _tell(self, event: Event, text: str) -> None:
        self._say(f"{event.at_s:7.0f} s  {text}")

    def _counts(self) -> str:
        left_s = self._left_s()
        left = f", about {time_text(left_s)} left" if left_s else ""
        return f"{self._done} of {counted(self._asked or 0, 'run')}{left}"

    def _so_far(self, number: int, top1: Mapping[str, float]) -> str:
        """Mean accuracy of the points so far, on the first test set."""
        if not top1:
            return ""
        test = next(iter(top1))
        points: dict[str, list[float]] = defaultdict(list)
        for one in self._results:
            if test in self._found[one]:
                points[self._runs[one].place.point.label].append(self._found[one][test])
        place = self._runs[number].place.point
        shown = [label for label in self._spec.points if label in points]
        if len(shown) > MOST_POINTS:
            shown = [label for label in shown if label in (place.baseline, place.label)]
        means = (f"{label} {100 * statistics.mean(points[label]):.2f} % ({len(points[label])})" for label in shown)
        return f"; so far on {test}: {', '.join(means)}"

    def _left_s(self) -> float:
        """Seconds, as the runs of this call took them or else as the author expects; what is in training counts."""
        now = self._clock()
        each = statistics.mean(self._took_s) if self._took_s else 60 * self._spec.minutes_each
        left = (self._asked or 0) - self._done - self._given_up
        work_s = each * left - sum(min(each, now - began) for began in list(self._training.values()))
        return max(0.0, work_s) / max(1, self._most_at_once)

    def line(self) -> str:
        """``"sweep scale: 3 of 35 runs, about 34 min left, 2 in training"``."""
        if self._asked is None:
            return f"sweep {self._spec.name}: looking at what is done"
        training = f", {len(self._training)} in training" if self._training else ""
        return f"sweep {self._spec.name}: {self._counts()}{training}"


def _on_tests(top1: Mapping[str, float]) -> str:
    return ", ".join(f"{100 * value:.2f} % on {name}" for name, value in top1.items())


def _on_validation(score: float | None) -> str:
    return "no score on validation" if score is None else f"{100 * score:.2f} % on validation"
