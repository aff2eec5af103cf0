"""The fan-out in this process: the same promises as on a cluster, without one."""

import functools
import os
import random
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from cluster.fan_out.attempt import attempt_id, life_id
from cluster.fan_out.events import Event
from cluster.fan_out.fan_out import Beat, FanOutSpec, Summary, Worker, fan_out
from cluster.process.stop_flag import StopFlag
from shards.disk.home import home
from shards.disk.record import ATTEMPT_PATTERN, JSON
from tests.support import workers

HERE = FanOutSpec(in_process=True, attempts=2)


def run(units: range, make_worker: functools.partial[Worker], spec: FanOutSpec = HERE) -> tuple[Summary, list[Event]]:
    events: list[Event] = []
    return fan_out(units, make_worker, spec, events.append, StopFlag()), events


def assert_all_published(folder: Path, units: range) -> None:
    assert {path.name for path in folder.glob("*.txt")} == {f"{unit}.txt" for unit in units}
    for unit in units:
        assert (folder / f"{unit}.txt").read_bytes() == workers.contents(unit)
    assert not list(folder.glob("*.tmp"))


def test_every_unit_is_made_once_and_counted(tmp_path):
    summary, events = run(range(20), functools.partial(workers.writer, tmp_path))
    assert_all_published(tmp_path, range(20))
    assert (summary.done, summary.images, summary.exit_code) == (20, 200, 0)
    assert events[-1].kind == "run_ended"
    assert events[-1].data["units"] == {"done": 20, "quarantined": 0}
    assert all(ATTEMPT_PATTERN.fullmatch(event.attempt) for event in events if event.attempt)


def test_b8_b23_a_bad_unit_is_named_and_the_exit_code_says_incomplete(tmp_path):
    summary, _ = run(range(6), functools.partial(workers.misbehaving, tmp_path, {3: "raises"}))
    assert [(bad.unit, bad.failures) for bad in summary.quarantined] == [(3, 2)]
    assert "ValueError: image 7 of unit 3: found NaN (workers.py:" in summary.quarantined[0].cause
    assert summary.exit_code == 3
    assert summary.as_json()["units"] == {"done": 5, "quarantined": 1}


def test_b9_bad_images_are_rows_of_the_result_and_the_unit_goes_through(tmp_path):
    summary, events = run(range(3), functools.partial(workers.partly_failing, tmp_path))
    assert (summary.done, summary.images, summary.rejected) == (3, 297, 3)
    results = [event.data for event in events if event.kind == "unit_done"]
    assert results[2] == {"failures": [{"image": 2, "status": "image 2 is black"}]}


def test_b14_a_constructor_that_fails_ends_the_run_with_the_cause():
    summary, _ = run(range(3), functools.partial(workers.failing_constructor, "no weights in /models/x"))
    assert "FileNotFoundError: no weights in /models/x" in str(summary.error)
    assert summary.exit_code == 1


@pytest.mark.parametrize(
    ("how", "workers_built"), [("broken once", 2), ("loses its device once", 2), ("fills its device once", 1)]
)
def test_a_broken_worker_is_built_anew(tmp_path, how, workers_built):
    import torch  # noqa: F401  whoever has a device to lose has loaded it

    summary, events = run(range(4), functools.partial(workers.misbehaving, tmp_path, {1: how}, 0.0))
    assert summary.done == 4
    assert [event.kind for event in events].count("worker_ready") == workers_built


def counting(unit: int, attempt: str, beat: Beat) -> Mapping[str, JSON]:
    beat(1, 0)
    return {"unit": unit}


FRAMES = 2  # of an allocation's stack: code of cluster/, or what it calls


def bytes_held_by_the_fan_out() -> int:
    """Allocated by cluster/ and still there; not what other threads of the tests do meanwhile."""
    ours = tracemalloc.Filter(True, f"{home()}/cluster/*", all_frames=True)
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([ours]).traces)


def test_b12_b20_memory_stays_flat_over_10_000_units_which_are_never_a_list():
    ahead = 0
    seen = 0

    def units() -> Iterator[int]:
        nonlocal ahead
        for unit in range(10_000):
            ahead = max(ahead, unit - seen)
            yield unit

    def count(event: Event) -> None:
        nonlocal seen
        seen += event.kind == "unit_done"
        if event.kind == "unit_done" and seen in (2_000, 9_999):
            marks.append(bytes_held_by_the_fan_out())

    marks: list[int] = []
    tracemalloc.start(FRAMES)
    started = time.monotonic()
    summary = fan_out(units(), lambda: counting, HERE, count, StopFlag())
    tracemalloc.stop()
    assert summary.done == 10_000
    assert ahead <= 3
    assert marks[1] - marks[0] < 50_000, f"grew by {marks[1] - marks[0]} bytes over 8,000 units"
    assert time.monotonic() - started < 120


def test_c1_a_stop_request_finishes_or_drops_the_unit_at_hand_and_exits_75(tmp_path):
    stop = StopFlag()
    spec = HERE.model_copy(update={"drain_s": 0.1})

    def on_event(event: Event) -> None:
        if event.kind == "unit_progress" and event.unit == 2:
            stop.request("SIGUSR1")

    started = time.monotonic()
    summary = fan_out(range(100), functools.partial(workers.writer, tmp_path, 0.5), spec, on_event, stop)
    assert time.monotonic() - started < 30, "of 50"
    assert summary.drained
    assert summary.exit_code == 75
    assert_all_published(tmp_path, range(summary.done))


def test_c6_200_lives_that_are_all_cut_short_still_make_a_unit_each(tmp_path):
    """Preempted 200 times in a row: no life counts as a failure, each makes progress."""
    todo = range(200)
    for life in range(200):
        left = [unit for unit in todo if not (tmp_path / f"{unit}.txt").exists()]
        stop = StopFlag()

        def preempt(event: Event, stop: StopFlag = stop) -> None:
            if event.kind == "unit_started":
                stop.request("SIGTERM")

        summary = fan_out(left, functools.partial(workers.writer, tmp_path), HERE, preempt, stop)
        assert summary.exit_code == (0 if life == 199 else 75)
        assert summary.done == 1
    assert_all_published(tmp_path, todo)


def test_c3_a_requeued_slurm_job_has_other_attempt_ids():
    noise = bytes(range(5))
    first = life_id({"SLURM_JOB_ID": "8123456"}, 1.8e9, noise)
    second = life_id({"SLURM_JOB_ID": "8123456", "SLURM_RESTART_COUNT": "1"}, 1.8e9, noise)
    assert first.startswith("s8123456-0-")
    assert second.startswith("s8123456-1-")
    assert life_id({}, 1.8e9, noise) != life_id({}, 1.8e9, bytes(5)), "two starts within one second"
    for seconds in (-1.0, -2e9, 0.0):
        assert attempt_id(life_id({}, seconds, noise), 1), "a clock may be set before 1970"
    for life in (first, second, life_id({"SLURM_JOB_ID": "../x"}, 1e12, b"\xff" * 5)):
        assert ATTEMPT_PATTERN.fullmatch(attempt_id(life, 10**9))


@pytest.mark.parametrize(
    ("fields", "word"),
    [({"workers": 0}, "workers"), ({"straggler_factor": 1.1}, "straggler"), ({"wrokers": 2}, "wrokers")],
)
def test_a_spec_that_makes_no_sense_is_refused(fields, word):
    with pytest.raises(ValidationError, match=word):
        FanOutSpec.model_validate(fields)


DRIVER = """
import functools, sys
from pathlib import Path
from cluster.fan_out.fan_out import FanOutSpec, fan_out
from cluster.process.stop_flag import StopFlag
from tests.support import workers
folder = Path(sys.argv[1])
units = [unit for unit in range(4000) if not (folder / f"{unit}.txt").exists()]
with StopFlag() as stop:
    print("ready", flush=True)
    make = functools.partial(workers.writer, folder, 0.02)
    summary = fan_out(units, make, FanOutSpec(in_process=True), lambda event: None, stop)
sys.exit(summary.exit_code)
"""


def start_driver(folder: Path) -> "subprocess.Popen[str]":
    child = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder)], cwd=home(), stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def assert_no_half_state(folder: Path) -> None:
    for path in folder.glob("*.txt"):
        assert path.read_bytes() == workers.contents(int(path.stem)), path


def test_a28_signals_at_random_moments_end_in_75_and_leave_no_half_file(tmp_path):
    """Four of them here; fifty in the long form."""
    end_by_signals(tmp_path, workers.printed_seed(), 4)


@pytest.mark.torture
def test_50_of_50_signals_end_cleanly(tmp_path):
    end_by_signals(tmp_path, workers.printed_seed(), 50)


def end_by_signals(folder: Path, seed: int, times: int) -> None:
    rng = random.Random(seed)
    for _ in range(times):
        child = start_driver(folder)
        time.sleep(rng.uniform(0.0, 0.4))
        number = rng.choice([signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
        child.send_signal(number)
        assert child.wait(timeout=60) == 75, number
        assert_no_half_state(folder)
        assert not list(folder.glob("*.tmp"))


def test_c2_sigkill_after_sigterm_loses_nothing_that_was_published(tmp_path):
    child = start_driver(tmp_path)
    wait_for_more(tmp_path, 0)
    child.send_signal(signal.SIGTERM)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait(timeout=60) in (-signal.SIGKILL, 75), "75: it was quicker than the second signal"
    assert_no_half_state(tmp_path)
    before = len(list(tmp_path.glob("*.txt")))
    child = start_driver(tmp_path)
    wait_for_more(tmp_path, before)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=60) == 75
    assert_no_half_state(tmp_path)


def wait_for_more(folder: Path, before: int) -> None:
    end = time.monotonic() + 60
    while len(list(folder.glob("*.txt"))) <= before:
        assert time.monotonic() < end, f"{before} units and no more after 60 s"
        time.sleep(0.01)


STUBBORN = """
import sys, time
from cluster.process.stop_flag import StopFlag
with StopFlag() as stop:
    print("ready", flush=True)
    while not stop.requested:
        time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(600)
"""


def test_a28_a_second_signal_forces_the_exit():
    child = subprocess.Popen(
        [sys.executable, "-c", STUBBORN], cwd=home(), stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGTERM)
    assert child.stdout.readline() == "asked\n"
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(timeout=0.5)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=60) == 128 + signal.SIGTERM


def test_the_flag_puts_the_old_handlers_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with StopFlag() as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.requested
        assert stop.reason == "SIGUSR1"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before


HANGS = """
import functools, sys
from pathlib import Path
from cluster.fan_out.fan_out import FanOutSpec, fan_out
from cluster.process.stop_flag import StopFlag
from tests.support import workers
spec = FanOutSpec(in_process=True, stall_deadline_s=float(sys.argv[3]), start_deadline_s=float(sys.argv[4]))
make = {
    "hangs": functools.partial(workers.misbehaving, Path(sys.argv[1]), {1: "hangs"}),
    "loads": functools.partial(workers.slow_constructor_once, Path(sys.argv[1]), 300.0, {}, 0.0),
    "is slow": functools.partial(workers.writer, Path(sys.argv[1]), 4.0, 8),
}[sys.argv[2]]
sys.exit(fan_out(range(2), make, spec, lambda event: None, StopFlag(), when_slow="wait").exit_code)
"""


@pytest.mark.parametrize(
    ("kind", "stall_s", "start_s", "code", "line"),
    [
        ("hangs", 2, 300, 1, r"no progress for 2 s \(stall_deadline_s\); .* slow, wait, in workers\.py:"),
        ("loads", 300, 2, 1, r"the model was not loaded within 2 s \(start_deadline_s\), in workers\.py:"),
        ("is slow", 3, 300, 0, ""),
    ],
)
def test_b4_a_worker_that_hangs_in_this_process_ends_with_it_and_says_where(
    tmp_path: Path, kind: str, stall_s: float, start_s: float, code: int, line: str
) -> None:
    """No deadline interrupts a call in the same thread; other runs that share the output wait for it until it ends."""
    words = [sys.executable, "-c", HANGS, str(tmp_path), kind, str(stall_s), str(start_s)]
    said = subprocess.run(words, cwd=home(), capture_output=True, text=True, timeout=250)
    assert said.returncode == code, said.stderr
    told = [one for one in said.stderr.splitlines() if one.startswith("sixfold: ")]
    assert len(told) == (1 if line else 0)
    assert not line or re.match("sixfold: " + line, told[0]), told
