"""The display: true counts, a rate over the last minute, plain lines where there is no terminal."""

import io

import pytest
from rich.console import Console

from cluster.fan_out.events import Event
from cluster.fan_out.progress import Progress, duration
from cluster.waiting import waiting


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def make(num_units: int = 4, num_images: int = 400, terminal: bool = False) -> tuple[Progress, Clock, io.StringIO]:
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=200, height=25)
    return Progress(num_units, num_images, console, clock), clock, out


def feed(progress: Progress, clock: Clock, at_s: float, kind: str, **fields: object) -> None:
    clock.now = at_s
    progress(Event(kind=kind, at_s=at_s, **fields))  # type: ignore[arg-type]


def test_counts_follow_attempts_and_a_failed_attempt_gives_its_images_back():
    progress, clock, _ = make()
    feed(progress, clock, 0, "worker_ready", worker=0)
    feed(progress, clock, 0, "unit_started", worker=0, unit=1)
    feed(progress, clock, 5, "unit_progress", worker=0, unit=1, done=60, rejected=2)
    assert progress.images == 60
    feed(progress, clock, 6, "unit_failed", worker=0, unit=1, done=60, rejected=2)
    assert progress.images == 0
    feed(progress, clock, 7, "unit_started", worker=0, unit=1)
    feed(progress, clock, 17, "unit_done", worker=0, unit=1, done=100, rejected=3)
    assert progress.images == 100
    assert "100/400 images" in progress.line()
    assert "units 1/4" in progress.line()
    assert "3 rejected" in progress.line()
    assert "attempts failed: 1" in progress.line()


def test_the_rate_is_that_of_the_last_minute_and_gives_the_time_left():
    progress, clock, _ = make(num_images=10_000)
    feed(progress, clock, 0, "worker_ready", worker=0)
    feed(progress, clock, 0, "unit_started", worker=0, unit=0)
    for second in range(1, 301):  # two images per second, then ten
        done = 2 * second if second <= 200 else 400 + 10 * (second - 200)
        feed(progress, clock, second, "unit_progress", worker=0, unit=0, done=done)
    assert 9.5 < progress.images_per_s() < 10.5
    assert "14m20s left" in progress.line()


def test_what_it_takes_to_start_counts_neither_for_the_rate_nor_for_the_time_left():
    progress, clock, _ = make(num_images=1_000)
    feed(progress, clock, 0, "run_started")
    feed(progress, clock, 40, "worker_ready", worker=0)
    feed(progress, clock, 40, "unit_started", worker=0, unit=0)
    feed(progress, clock, 50, "unit_progress", worker=0, unit=0, done=100)
    assert progress.images_per_s() == pytest.approx(10)
    assert "1m30s left" in progress.line()


def test_before_the_first_worker_is_ready_the_line_says_what_is_waited_for():
    progress, clock, _ = make()
    feed(progress, clock, 3, "worker_started", worker=0)
    with waiting("loading the model on 2 workers"):
        assert progress.line() == "0/400 images · loading the model on 2 workers"
    feed(progress, clock, 40, "worker_ready", worker=0)
    assert progress.line().startswith("0/400 images · 1 worker")


def test_a_slow_batch_moves_before_any_of_its_images_is_done():
    progress, clock, _ = make(num_images=1_000)
    feed(progress, clock, 0, "worker_ready", worker=0)
    feed(progress, clock, 0, "unit_started", worker=0, unit=0)
    assert "under way" not in progress.line()
    feed(progress, clock, 100, "unit_progress", worker=0, unit=0, under_way=4.0)  # a quarter of 16
    assert progress.line().startswith("0/1000 images · 4 under way · 2.4/min · 6h55m left")
    feed(progress, clock, 400, "unit_progress", worker=0, unit=0, done=16)
    assert progress.line().startswith("16/1000 images · 2.4/min")
    feed(progress, clock, 401, "unit_failed", worker=0, unit=0)
    assert progress.line().startswith("0/1000 images · 1 worker")


def test_without_a_terminal_a_plain_line_appears_every_ten_seconds():
    progress, clock, out = make()
    with progress:
        for second in range(35):
            feed(progress, clock, second, "unit_progress", worker=0, unit=0, done=second)
    lines = out.getvalue().splitlines()
    assert len(lines) == 4, "at 10, 20 and 30 seconds, and at the end"
    assert all("\x1b" not in line for line in lines)


def test_troubles_get_a_line_of_their_own_that_controls_nothing():
    progress, clock, out = make()
    feed(progress, clock, 1, "worker_lost", worker=0, message="killed\x1b[2J\nfor memory [bold]x[/bold]")
    feed(progress, clock, 2, "unit_quarantined", unit=7, message="m" * 5000)
    lines = out.getvalue().splitlines()
    assert lines[0] == "worker_lost: killed⟨U+001B⟩[2J for memory [bold]x[/bold]"
    assert lines[1].startswith("unit_quarantined: unit 7: mmm")
    assert len(lines[1]) <= 300


def test_on_a_terminal_a_bar_is_drawn():
    progress, clock, out = make(terminal=True)
    with progress:
        feed(progress, clock, 1, "unit_done", worker=0, unit=0, done=100)
    assert "100/400 images" in out.getvalue()


def test_durations_read_well():
    assert [duration(s) for s in (0, 59.6, 192, 18_180, 187_200)] == ["0s", "1m00s", "3m12s", "5h03m", "2d04h"]
