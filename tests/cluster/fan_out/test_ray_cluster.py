"""A real Ray cluster that loses workers, nodes, drivers and its head: no unit is lost, none is made twice."""

import contextlib
import functools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.process.identity import session_members
from shards.disk.home import home
from tests.support import workers
from tests.support.ray_nodes import Nodes

DRIVER = """
import functools, json, sys
from pathlib import Path
from cluster.fan_out.fan_out import FanOutSpec, fan_out
from cluster.process.stop_flag import StopFlag
from tests.support import workers
folder, seconds = Path(sys.argv[1]), float(sys.argv[3])
todo = [unit for unit in range(int(sys.argv[2])) if not (folder / f"{unit}.txt").exists()]
spec = FanOutSpec(gpus_per_worker=0, straggler_factor=0, stall_deadline_s=60, attempts=30, give_up_after=1000)
with StopFlag() as stop:
    summary = fan_out(todo, functools.partial(workers.writer, folder, seconds), spec, lambda event: None, stop)
print(json.dumps(summary.as_json()))
sys.exit(summary.exit_code)
"""


def done(folder: Path) -> int:
    return sum(1 for _ in folder.glob("*.txt"))


class Drivers:
    """One driver at a time; another begins where one has ended."""

    def __init__(self, nodes: Nodes, folder: Path, num_units: int, seconds: float) -> None:
        self._words = [sys.executable, "-c", DRIVER, str(folder), str(num_units), str(seconds)]
        self._environ, self._log = {**os.environ, **nodes.environment}, folder.parent / "drivers.log"
        self.started = 0
        self.child: subprocess.Popen[bytes] | None = None

    def keep(self) -> int | None:
        """Start the next one if the last has ended; its exit code, if that is 0."""
        if self.child is not None and (code := self.child.poll()) is not None:
            if code == 0:
                return 0
            self.child = None
        if self.child is None:
            self.started += 1
            with self._log.open("ab") as log:
                self.child = subprocess.Popen(self._words, cwd=home(), env=self._environ, stdout=log, stderr=log)
        return None

    def kill(self) -> None:
        assert self.child is not None
        self.child.kill()
        self.child.wait(30)


def kill_a_worker(folder: Path, rng: random.Random) -> bool:
    """SIGKILL for a process that has begun a unit lately."""
    marks = sorted((folder / "log").glob("*"), key=lambda path: path.stat().st_mtime)[-4:]
    rng.shuffle(marks)
    for mark in marks:
        with contextlib.suppress(OSError):
            pid = int(mark.suffix[1:])
            if b"ray::" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
                return True
    return False


def survive(tmp_path: Path, num_units: int, kills: int, losses: int, drivers: int, heads: int, within_s: float) -> None:
    rng = random.Random(workers.printed_seed())
    folder = tmp_path / "out"
    folder.mkdir()
    events = ["worker"] * kills + ["node"] * losses + ["driver"] * drivers + ["head"] * heads
    rng.shuffle(events)
    deadline = time.monotonic() + within_s
    with Nodes() as nodes:
        runs = Drivers(nodes, folder, num_units, 0.1)
        happened = 0
        while runs.keep() != 0:
            assert time.monotonic() < deadline, f"{done(folder)} of {num_units} units after {happened} faults"
            # faults are spread over the units, so that the last ones are faults, too
            if happened < len(events) and done(folder) * len(events) >= happened * num_units * 0.85:
                match events[happened]:
                    case "worker":
                        happened += kill_a_worker(folder, rng)
                        continue
                    case "node":
                        nodes.kill(0)
                        nodes.add()
                    case "driver":
                        runs.kill()
                    case "head":
                        nodes.kill_head()
                        while nodes.others:
                            nodes.kill(0)
                        nodes.start_head()
                        nodes.add()
                        nodes.add()
                happened += 1
            time.sleep(0.05)
        assert happened == len(events)
        assert runs.started > drivers
    names = {path.name for path in folder.glob("*.txt")}
    assert names == {f"{unit}.txt" for unit in range(num_units)}
    assert all((folder / f"{unit}.txt").read_bytes() == workers.contents(unit) for unit in range(num_units))
    assert functools.reduce(max, (len(workers.attempts_of(folder, unit)) for unit in range(0, num_units, 50))) <= 30


@pytest.mark.torture
@pytest.mark.timeout(1000)
def test_b1_b2_b3_b4_twenty_dead_workers_a_node_a_driver_and_a_head_cost_no_unit(
    tmp_path: Path,
) -> None:
    survive(tmp_path, num_units=200, kills=20, losses=1, drivers=1, heads=1, within_s=900)


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_b1_b2_b3_b4_two_hundred_dead_workers_ten_nodes_five_drivers_and_two_heads_cost_no_unit(tmp_path: Path) -> None:
    survive(tmp_path, num_units=2000, kills=200, losses=10, drivers=5, heads=2, within_s=3500)


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_b6_a_frozen_node_costs_no_unit_and_what_wakes_up_there_changes_none(tmp_path: Path) -> None:
    """SIGSTOP for all processes of a node, as a partition of the network would look."""
    folder = tmp_path / "out"
    folder.mkdir()
    with Nodes() as nodes:
        runs = Drivers(nodes, folder, 100, 1.0)
        deadline = time.monotonic() + 500
        frozen: list[int] = []
        while runs.keep() != 0:
            assert time.monotonic() < deadline, f"{done(folder)} of 100 units"
            if not frozen and done(folder) >= 10:
                frozen = [process.pid for process in session_members(nodes.others[0])]
                for pid in frozen:
                    os.kill(pid, signal.SIGSTOP)
            time.sleep(0.1)
        before = {path.name: path.read_bytes() for path in folder.glob("*.txt")}
        for pid in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        time.sleep(5)
        assert {path.name: path.read_bytes() for path in folder.glob("*.txt")} == before
    assert before == {f"{unit}.txt": workers.contents(unit) for unit in range(100)}


EARLY = """
import functools, sys, threading
from pathlib import Path
from cluster.fan_out.fan_out import FanOutSpec, fan_out
from cluster.process.stop_flag import StopFlag
from tests.support import workers

def tell(event):
    print(event.kind, flush=True)

with StopFlag() as stop:
    print("begun", flush=True)
    make = functools.partial(workers.writer, Path(sys.argv[1]), 0.5)
    sys.exit(fan_out(range(6), make, FanOutSpec(straggler_factor=0), tell, stop).exit_code)
"""


@pytest.mark.timeout(300)
def test_a_run_that_begins_before_the_machines_with_gpus_are_there_gives_each_worker_one(tmp_path: Path) -> None:
    with Nodes(num=0) as nodes:
        run = subprocess.Popen(
            [sys.executable, "-c", EARLY, str(tmp_path)],
            cwd=home(), env={**os.environ, **nodes.environment}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert run.stdout is not None
            assert run.stdout.readline() == "begun\n"
            time.sleep(10)  # until it has joined the head, which has no cores
            nodes.add(num_cpus=2, num_gpus=1)
            said = run.communicate(timeout=200)[0].split()
        finally:
            run.kill()
            run.wait()
    assert run.returncode == 0
    assert said.count("unit_done") == 6
    assert said.count("worker_ready") == 1, "two have room on the cores"


LATE = """
import os
os.environ["RAY_testing_asio_delay_us"] = ",".join(
    f"{method}=10000:100000"
    for method in ("CoreWorkerService.grpc_server.PushTask", "NodeManagerService.grpc_server.RequestWorkerLease")
)
"""


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_b21_messages_of_ray_that_are_late_change_no_result(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    result = subprocess.run(
        [sys.executable, "-c", LATE + DRIVER, str(folder), "40", "0.1"],
        cwd=home(), env=environ, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert {path.name for path in folder.glob("*.txt")} == {f"{unit}.txt" for unit in range(40)}


LARGE = """
import functools, json, sys
from cluster.fan_out.fan_out import FanOutSpec, fan_out
from cluster.process.stop_flag import StopFlag
from tests.support import workers
spec = FanOutSpec(workers=2, gpus_per_worker=0, straggler_factor=0)
with StopFlag() as stop:
    summary = fan_out(range(250), functools.partial(workers.talker, 1_000_000), spec, lambda event: None, stop)
print(json.dumps(summary.as_json()))
sys.exit(summary.exit_code)
"""


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_b11_results_that_are_larger_together_than_the_object_store_pass_through_it(tmp_path: Path) -> None:
    """250 MB through a store of 80 MB: one result is in flight a worker."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    result = subprocess.run(
        [sys.executable, "-c", LARGE], cwd=home(), env=environ, capture_output=True, text=True, timeout=500
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert '"done": 250' in result.stdout
