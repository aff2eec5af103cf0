"""The life of a run around its matter: its history, and what that says of a SLURM job whose time limit is too short."""

import contextlib
import functools
import json
import signal
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.console import warn
from cluster.fan_out.claims import CLAIMS, Claims
from cluster.fan_out.work import FanOutSpec
from cluster.process.exit import Draining
from cluster.process.identity import ProcessId
from cluster.process.lease import Lease, LeaseHeld, last_holder
from cluster.process.lives import Life, lives_of, stuck
from cluster.process.stop_flag import StopFlag
from cluster.process.writers import SHARED, take_alone, writers_of
from gen.make.work import held, set_torn_aside, work_off
from shards.disk.layout import record_name
from shards.disk.record import JSON
from shards.disk.store import FolderStore, open_store
from tests.support import warm, workers

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


def test_b7_a_run_that_shares_is_seen_by_others_in_all_its_parts(tmp_path: Path) -> None:
    """While it opens the output, in the worker, and at its end; the ids of its attempts begin with its life."""
    store, seen = FolderStore(tmp_path), []

    def look(unit: int = -1, attempt: str = "", beat: object = None) -> Mapping[str, JSON]:
        seen.append([one.life for one in writers_of(store)])
        with pytest.raises(LeaseHeld) if unit >= 0 else contextlib.nullcontext():
            if unit >= 0:
                take_alone(store, "another", warn)
        attempts.append(attempt)
        if unit >= 0:
            store.write_exclusive(record_name(unit), b"{}")
        return {}

    attempts: list[str] = []
    stop, spec = StopFlag(), FanOutSpec(in_process=True, shared=True)
    with held(store, stop, "generate", shared=True) as hold:
        look()
        summary = work_off([0, 1], 2, lambda: look, spec, store, stop, hold, 1, "wait", shared=True)
        look()
    assert (summary.done, summary.exit_code) == (2, 0)
    life = hold.life.life.life
    assert seen == [[life]] * 4
    assert all(one.startswith(f"{life}-") for one in attempts if one)
    assert writers_of(store) == []
    assert store.folders(f"{SHARED}/") == [CLAIMS]
    assert store.list(f"{CLAIMS}/") == []


def test_a_run_waits_for_another_that_opens_the_output_as_long_as_its_heart_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Choosing meanings, or searching the pool, may take hours; the other tasks of an array have nothing to do."""
    monkeypatch.setattr("gen.make.work.LOOK_S", 0.02)
    monkeypatch.setattr("gen.make.work.FROZEN_S", 1.0)
    store, began = FolderStore(tmp_path), time.monotonic()
    first = Lease.take(store, "opens", warn, lock_folder=tmp_path)

    def beat_for_a_while() -> None:
        while time.monotonic() < began + 3:
            first.beat()
            time.sleep(0.05)
        first.release()

    opening = threading.Thread(target=beat_for_a_while)
    opening.start()
    with held(store, StopFlag(), "generate", shared=True):
        assert time.monotonic() > began + 3
    opening.join()


def test_a_run_that_opens_the_output_and_is_frozen_is_waited_for_so_long_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gen.make.work.LOOK_S", 0.02)
    monkeypatch.setattr("gen.make.work.FROZEN_S", 0.3)
    store = FolderStore(tmp_path)
    first = Lease.take(store, "opens", warn, lock_folder=tmp_path)
    frozen = pytest.raises(LeaseHeld, match=r"life opens.*; its heart has not beaten for 0 s$")
    with frozen, held(store, StopFlag(), "generate", shared=True):
        pass
    first.release()


def test_a_stop_while_another_run_opens_the_output_means_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gen.make.work.LOOK_S", 0.02)
    store, stop = FolderStore(tmp_path), StopFlag()
    first = Lease.take(store, "opens", warn, lock_folder=tmp_path)
    threading.Timer(0.3, stop.request, ["SIGUSR1"]).start()
    stopped = pytest.raises(Draining, match=r"stopped on request while another run opened .*: SIGUSR1")
    with stopped, held(store, stop, "generate", shared=True):
        pass
    first.release()


def test_a15_what_runs_on_other_machines_write_is_not_taken_for_what_the_dead_have_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some mounts have locks that only one machine sees: here each lock is free."""
    monkeypatch.setattr("fcntl.flock", lambda fd, operation: None)
    store = open_store(str(tmp_path))
    folder = tmp_path / "_meta/tmp"
    for name in ("00001.s81-0-abc-1-1.tar", "00001.s81-0-abc-1-1.json", "00002.s80-0-dead-1.tar", "run.json.0123.part"):
        (folder / name).write_bytes(b"half")
    claims = Claims(store, "s81-0-abc", "s81", 3, lambda unit: False)
    with claims.joined(warn):
        holder = last_holder(store, f"{SHARED}/s81-0-abc")
        assert holder is not None
        away = replace(holder, process=ProcessId("another boot/pid:[1]", 4242, 99))
        store.replace(f"{SHARED}/s81-0-abc/lease.json", away.to_json())
        set_torn_aside(store, warn)
        assert sorted(path.name for path in folder.iterdir()) == [
            *("00001.s81-0-abc-1-1.json", "00001.s81-0-abc-1-1.tar", "run.json.0123.part"),
        ]
        store.replace(f"{SHARED}/s81-0-abc/lease.json", holder.to_json())
    set_torn_aside(store, warn)
    assert list(folder.iterdir()) == [], "nobody is there any more"


def test_runs_share_no_output_whose_store_keeps_writers_not_apart(tmp_path: Path) -> None:
    store = FolderStore(tmp_path, single_writer=True)
    refused = pytest.raises(ValueError, match=r"found --single-writer and cluster\.shared, expected one of them")
    with refused, held(store, StopFlag(), "generate", shared=True):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_log_of_a_run_on_an_object_store_is_in_the_cache_folder_and_the_run_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store, said = open_store(f"memory://{uuid.uuid4().hex}"), list[str]()
    make = functools.partial(workers.writer, tmp_path, 0.0, 1)
    spec = FanOutSpec(in_process=True)
    with StopFlag() as stop, held(store, stop, "generate") as hold:
        work_off([0], 1, make, spec, store, stop, hold, 1, "wait", say=said.append)
    [log] = (tmp_path / "cache" / "sixfold" / "logs").glob("*.jsonl")
    assert said == [f"the log of this run is {log}"]
    assert [json.loads(line)["kind"] for line in log.read_text().splitlines()][-1] == "run_ended"
    assert list(here.iterdir()) == []
