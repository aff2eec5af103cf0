"""The worker of a sweep: one run at a time, each in a process of its own.

In: a `SweepJob` (plain data) and the number of a run. Out: that run's top-1 on its tests, and its score on validation
if it has one. On disk: what the run's
process writes into its folder, its output in `logs/<run>-<attempt>.txt`, and in `logs/<run>.process.json` which process
trains it.

A process of its own separates a run from the others (threads, compiled code, GPU memory, a crash in C code). It is no
rank of the job in which the sweep runs, whatever the worker's environment says. A killed worker may leave its run
training: the next attempt ends that process, by its identity, before it starts its own. The process of a living worker
is left alone, because it belongs to another sweep. If a worker ends, its run saves (`cluster.process.supervisor`).
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from cluster.fan_out.work import Beat
from cluster.process.exit import EXIT_AGAIN, EXIT_MISTAKE, NotAgain
from cluster.process.failure import last_line
from cluster.process.identity import ProcessId, alive, kill_here, session_members, start_ticks, this_place, this_process
from cluster.process.supervisor import start_supervised
from cluster.ranks.place import without_ranks
from shards.disk.checked_json import plain_json
from shards.disk.record import JSON
from shards.disk.regular import read_regular
from train.evaluate.results import RESULTS, read_results, selected, validation_score

LOOK_S = 0.5  # between two looks at the process
STOP_S = 60.0  # for a run to save and end when it is asked to
WORKER_GONE_S = 10.0  # a worker that was killed takes a moment to end
AT_ONCE_S = 60.0  # a mistake that a run finds so early it finds again
MAX_CAUSE = 300


class RunJob(BaseModel):
    """One run of a sweep: its name, the digest of its recipe, its test sets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    digest: str
    tests: tuple[str, ...]
    tuned: bool = Field(False, description="whether the run must have a result on validation, too")


class SweepJob(BaseModel):
    """All a worker needs to train any run of a sweep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str = Field(description="absolute; the sweep's")
    home: str = Field(description="checkout whose code runs")
    start_in: str = Field(description="absolute; what relative paths in recipes count from")
    program: tuple[str, ...] = Field(description="trains a run, given recipe file and folder; empty: train.program")
    deadline_s: float
    runs: tuple[RunJob, ...]


def make_sweep_worker(job: Mapping[str, object]) -> "SweepWorker":
    """A worker from plain data (`SweepJob.model_dump(mode="json")`)."""
    return SweepWorker(SweepJob.model_validate(job))


class SweepWorker:
    """Trains runs of one sweep; used by one thread at a time."""

    def __init__(self, job: SweepJob) -> None:
        self.job = job
        self.folder = Path(job.folder)

    def __call__(self, unit: int, attempt: str, beat: Beat) -> dict[str, JSON]:
        run = self.job.runs[unit]
        found = self._found(run)
        if found is None:
            self._train(run, attempt, beat)
            found = self._found(run)
        if found is None:
            missing = "its tests or of validation" if run.tuned else "its tests"
            raise RuntimeError(f"run {run.name}: its process ended well, but a result of {missing} is missing")
        return {"run": run.name, **found}

    def _found(self, run: RunJob) -> dict[str, JSON] | None:
        """Top-1 by test set, and the score on validation, if the run is done."""
        lines = [line for line in read_results(self.folder / run.name / RESULTS).results if line.recipe == run.digest]
        top1: dict[str, JSON] = {line.set: line.top1 for line in selected(lines)}
        score = validation_score(lines)
        if not top1.keys() >= set(run.tests) or (run.tuned and score is None):
            return None
        return {"top1": top1, "validation": score}

    def _train(self, run: RunJob, attempt: str, beat: Beat) -> None:
        logs = self.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        note = logs / f"{run.name}.process.json"
        _end_earlier(note)
        log = logs / f"{run.name}-{attempt}.txt"
        # -P: modules come from `home` alone, never from the folder that the run starts in
        program = self.job.program or (sys.executable, "-P", "-m", "train.program")
        command = [*program, str(self.folder / "recipes" / f"{run.name}.yaml"), str(self.folder / run.name)]
        home, start_in, environment = Path(self.job.home), Path(self.job.start_in), without_ranks(os.environ)
        with log.open("wb") as output:
            child = start_supervised(command, home, start_in, environment, output, subprocess.STDOUT)
        identity = ProcessId(this_place(), child.pid, start_ticks(child.pid) or 0)
        try:
            worker = dataclasses.asdict(this_process())
            note.write_text(json.dumps({**dataclasses.asdict(identity), "worker": worker}), encoding="utf-8")
            began = time.monotonic()
            code = self._watch(run, child, beat)
        except BaseException:
            _stop(child, identity)
            raise
        finally:
            note.unlink(missing_ok=True)
        if code != 0:
            with log.open("rb") as output:
                said = last_line(output)[:MAX_CAUSE] or "it printed nothing"
            kind = NotAgain if code == EXIT_MISTAKE and time.monotonic() - began < AT_ONCE_S else RuntimeError
            raise kind(f"run {run.name}: {_cause(code)}: {said} (see {log})")

    def _watch(self, run: RunJob, child: "subprocess.Popen[bytes]", beat: Beat) -> int:
        """The exit code. Raises Draining when the run is no longer wanted, TimeoutError when it takes too long."""
        began = time.monotonic()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(timeout=LOOK_S)
            beat(0, 0)
            if time.monotonic() - began > self.job.deadline_s:
                raise TimeoutError(
                    f"run {run.name}: still training after {self.job.deadline_s / 60:.0f} minutes; raise deadline_min"
                )


def _stop(child: "subprocess.Popen[bytes]", identity: ProcessId) -> None:
    """Ask the run to save and end; after a while end it."""
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        kill_here(identity)
        child.wait(timeout=STOP_S)


def _end_earlier(note: Path) -> None:
    """Let the run of an attempt that was given up save and end. One on another machine cannot be seen from here.

    Raises RuntimeError if it trains and its worker is there, in another process: then nobody has given it up.
    """
    try:
        row = plain_json(read_regular(note, 1 << 16))
        earlier, worker = _identity(row), _identity(row["worker"])
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        note.unlink(missing_ok=True)  # torn: its worker died while it wrote, just after the start
        return
    deadline = time.monotonic() + WORKER_GONE_S
    while worker != this_process() and alive(worker) and alive(earlier):
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"{note}: found the run in training by process {earlier.pid}, whose worker {worker.pid} is at work, "
                "expected none; wait for the other sweep, or take another folder"
            )
        time.sleep(0.05)
    if alive(earlier):  # a run whose supervisor is gone has been asked to stop; a second SIGTERM would prevent its save
        with contextlib.suppress(ProcessLookupError):
            os.kill(earlier.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while (left := session_members(earlier)) and time.monotonic() < deadline + STOP_S:
        if time.monotonic() > deadline:
            for process in left:
                kill_here(process)
        time.sleep(0.05)


def _identity(row: Mapping[str, object]) -> ProcessId:
    return ProcessId(str(row["place"]), int(str(row["pid"])), int(str(row["started"])))


def _cause(code: int) -> str:
    if code == EXIT_AGAIN:
        return "its process was asked to stop by somebody else"
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with {code}"
