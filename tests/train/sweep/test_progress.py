"""What is said of a sweep at work: n of N, the time left, accuracy so far."""

from typing import Any

import pytest

from cluster.fan_out.events import Event
from tests.support.sweep_recipe import SmallRecipe
from tests.support.training_results import result
from train.sweep.plan import SweepSpec, plan_runs
from train.sweep.progress import SweepProgress

SPEC = SweepSpec.model_validate(
    {
        "name": "scale",
        "base": "base.yaml",
        "seeds": 2,
        "baseline": "0x",
        "points": {"0x": {"x": 0}, "6x": {"x": 6, "changes": {"lr": 4}}},
        "minutes_each": 2.0,
    }
)
RUNS = plan_runs(SPEC, SmallRecipe())


class Watch:
    """A progress, its clock and what it said."""

    def __init__(self) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self.progress = SweepProgress(SPEC, RUNS, self.said.append, lambda: self.now)

    def feed(self, at_s: float, kind: Any, unit: int, **fields: Any) -> str:
        self.now = at_s
        self.progress(Event(kind=kind, at_s=at_s, unit=unit, **fields))
        return self.said[-1]


def top1(real: float, sketch: float) -> dict[str, Any]:
    return {"data": {"top1": {"real-test": real, "sketch": sketch}}}


def test_every_run_says_how_far_the_sweep_is_and_how_accurate_its_points_are_so_far() -> None:
    watch = Watch()
    assert watch.progress.line() == "sweep scale: looking at what is done"
    watch.progress.begin({number: [] for number in range(4)})
    assert watch.progress.line() == "sweep scale: 0 of 4 runs, about 8.0 min left", "as its author expects"
    assert watch.feed(10, "unit_started", 0).endswith("10 s  0x, seed 0 began")
    assert watch.feed(40, "unit_done", 0, **top1(0.6, 0.3)) == (
        "     40 s  0x, seed 0 done: 60.00 % on real-test, 30.00 % on sketch; 1 of 4 runs, about 90 s left; "
        "so far on real-test: 0x 60.00 % (1)"
    )
    watch.feed(40, "unit_started", 1)
    watch.now = 50
    assert watch.progress.line() == "sweep scale: 1 of 4 runs, about 80 s left, 1 in training"
    watch.feed(70, "unit_done", 1, **top1(0.62, 0.3))
    watch.feed(70, "unit_started", 2)
    last = watch.feed(100, "unit_done", 2, **top1(0.7, 0.4))
    assert last.endswith("; so far on real-test: 0x 61.00 % (2), 6x 70.00 % (1)")


def test_runs_at_the_same_time_share_the_time_that_is_left() -> None:
    watch = Watch()
    watch.progress.begin({number: [] for number in range(4)})
    watch.feed(0, "unit_started", 0)
    watch.feed(0, "unit_started", 1)
    watch.feed(60, "unit_done", 0, **top1(0.6, 0.3))
    assert watch.feed(60, "unit_done", 1, **top1(0.6, 0.3)).count("2 of 4 runs, about 60 s left") == 1


def test_what_an_earlier_call_has_trained_counts_and_takes_no_time() -> None:
    watch = Watch()
    done = [result(650, 1000, 10, set=name, role="test") for name in ("real-test", "sketch")]
    watch.progress.begin({0: done, 1: done, 2: [], 3: []})
    assert watch.progress.line() == "sweep scale: 2 of 4 runs, about 4.0 min left"
    watch.feed(0, "unit_started", 2)
    assert "so far on real-test: 0x 65.00 % (2), 6x 70.00 % (1)" in watch.feed(9, "unit_done", 2, **top1(0.7, 0.4))


def test_a_run_that_fails_is_named_with_its_cause_and_one_that_is_given_up_is_no_longer_waited_for() -> None:
    watch = Watch()
    watch.progress.begin({2: [], 3: []})
    watch.feed(0, "unit_started", 2)
    assert watch.feed(5, "unit_failed", 2, message="no data") == "      5 s  6x, seed 0 (lr=4) failed: no data"
    watch.feed(5, "unit_quarantined", 2, message="no data")
    assert watch.progress.line() == "sweep scale: 0 of 2 runs, about 2.0 min left"


@pytest.mark.parametrize("kind", ["worker_started", "run_ended", "draining"])
def test_what_is_not_about_a_run_is_not_said(kind: Any) -> None:
    watch = Watch()
    watch.progress(Event(kind=kind, at_s=1.0))
    assert watch.said == []
