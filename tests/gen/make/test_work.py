"""The life of a run around its matter: its history, and what that says of a SLURM job whose time limit is too short."""

import signal
import time
from pathlib import Path

import pytest

from cluster.process.lives import Life, lives_of, stuck
from cluster.process.stop_flag import StopFlag
from gen.make.work import held
from shards.disk.store import FolderStore
from tests.support import warm

# units are what the files say that the fan-out's workers write; a life finds those that are there
DRIVER = """
import functools, sys
from pathlib import Path
from cluster.fan_out.work import FanOutSpec
from cluster.process.stop_flag import StopFlag
from gen.make.work import held, work_off
from shards.disk.store import open_store
from tests.support import workers
store, folder = open_store(sys.argv[1]), Path(sys.argv[2])
spec = FanOutSpec(in_process=True, drain_s=1.0)
with StopFlag() as stop, held(store, stop, "generate") as hold:
    there = len(list(folder.glob("*.txt")))
    hold.life.there(there, "unit")
    make = functools.partial(workers.writer, folder, float(sys.argv[3]), 200)
    work = work_off(list(range(there, 50)), 10, make, spec, store, stop, hold, 1, "wait")
    hold.life.there(len(list(folder.glob("*.txt"))), "unit")
    hold.ended(work.exit_code, work.error or "")
sys.exit(work.exit_code)
"""


def one_life(folder: Path, unit_s: float, restarts: int, number: signal.Signals, least_units: int = 0) -> list[Life]:
    """A start of job 81 that is stopped as soon as it is at work, and has made a unit if it can."""
    out = folder / "out"
    out.mkdir(exist_ok=True)
    slurm = {"SLURM_JOB_ID": "81", "SLURM_RESTART_COUNT": str(restarts)}
    store = FolderStore(out)
    child = warm.start(["-c", DRIVER, str(out), str(folder), str(unit_s)], environment=slurm)
    deadline = time.monotonic() + 120
    while len(found := lives_of(store)) <= restarts or found[-1].start_s is None or _units(folder) < least_units:
        assert time.monotonic() < deadline, child.said()
        assert child.poll() is None, child.said()
        time.sleep(0.02)
    child.send_signal(number)
    assert child.wait(60) == (75 if number == signal.SIGUSR1 else -number), child.said()
    return lives_of(store)


def _units(folder: Path) -> int:
    return len(list(folder.glob("*.txt")))


def test_c7_a_job_whose_time_limit_is_shorter_than_a_unit_is_found_stuck_after_three_starts(tmp_path: Path) -> None:
    for restarts in range(3):
        lives = one_life(tmp_path, 60.0, restarts, signal.SIGUSR1)
        assert stuck(lives, "81") == (restarts == 2)
    ends = [life.end for life in lives if life.end is not None]
    assert [end.reason for end in ends] == ["stopped on request: SIGUSR1"] * 3


def test_c7_a_job_that_is_killed_without_warning_is_found_stuck_by_the_start_after_three(tmp_path: Path) -> None:
    for restarts in range(4):
        lives = one_life(tmp_path, 60.0, restarts, signal.SIGKILL)
        assert [life.end for life in lives] == [None] * (restarts + 1)
        assert stuck(lives, "81") == (restarts == 3), "what a killed one left, the next one says"


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGKILL])
def test_c6_a_job_that_makes_a_unit_in_each_start_is_never_stuck(tmp_path: Path, number: signal.Signals) -> None:
    for restarts in range(5):
        lives = one_life(tmp_path, 0.2, restarts, number, least_units=_units(tmp_path) + 1)
        assert not stuck(lives, "81")
    assert [life.before is not None and life.before.number >= place for place, life in enumerate(lives)] == [True] * 5


def test_runs_share_no_output_whose_store_keeps_writers_not_apart(tmp_path: Path) -> None:
    store = FolderStore(tmp_path, single_writer=True)
    refused = pytest.raises(ValueError, match=r"found --single-writer and cluster\.shared, expected one of them")
    with refused, held(store, StopFlag(), "generate", shared=True):
        pass
    assert list(tmp_path.iterdir()) == []
