"""Starts of Ray that could fail without a word: odd paths, other launchers, processes that end before they begin.

Each program has a Ray of its own.
"""

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from cluster.process.identity import this_process
from cluster.process.private_folder import remove_dead_folders
from shards.disk.home import home
from tests.support import warm

DRIVER = """
import functools, json, sys, time
from pathlib import Path
from cluster.fan_out.fan_out import FanOutSpec, fan_out
from cluster.process.stop_flag import StopFlag
from tests.support import workers
spec = FanOutSpec(workers=1, gpus_per_worker=0)
begun = time.monotonic()

def tell(event):
    print(event.kind, event.message, flush=True)

with StopFlag() as stop:
    make = functools.partial(workers.writer, Path(sys.argv[1]), float(sys.argv[2]))
    summary = fan_out(range(2), make, spec, tell, stop)
print(json.dumps({"done": summary.done, "error": summary.error, "seconds": time.monotonic() - begun}))
sys.exit(summary.exit_code)
"""
WITHOUT_RAY = {"RAY_ADDRESS": ""}


def start(folder: Path, unit_s: float, environment: Mapping[str, str] | None = None) -> warm.Child:
    return warm.start(["-c", DRIVER, str(folder), str(unit_s)], environment={**WITHOUT_RAY, **(environment or {})})


def test_on_a_ray_of_our_own_missing_room_is_no_wait_for_machines(tmp_path: Path) -> None:
    program = DRIVER.replace("workers=1, gpus_per_worker=0", "gpus_per_worker=0, cpus_per_worker=1000")
    run = warm.start(["-c", program, str(tmp_path), "0"], environment=WITHOUT_RAY)
    assert run.wait(timeout=120) == 1
    assert (
        "this machine has no room for a worker of 1,000 cores and 0 GPUs; lower cluster.cpus_per_worker or "
        "cluster.gpus_per_worker, or set RAY_ADDRESS to a cluster"
    ) in run.said()


def told(out: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(out.splitlines()[-1])
    return found


def test_workers_start_from_an_environment_with_an_odd_path_also_under_uv_run(tmp_path: Path) -> None:
    """The path of Python has blanks, quotes and an umlaut, that of temporary files too; a process called `uv` starts it
    all. Its environment finds the packages of this one, and runs a second copy of nothing."""
    odd = tmp_path / "a b'ü \"x"
    venv.create(odd / "env", symlinks=True)
    python = odd / "env" / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(odd / "env")}))
    (packages / "all.pth").write_text(f"{sysconfig.get_path('purelib')}\n{home()}\n")
    (odd / "tmp").mkdir()
    (odd / "run").write_text(  # what the process called `uv` runs, as `uv run python -c …`
        "import os, subprocess, sys\nsys.exit(subprocess.run(sys.argv[1:]).returncode)\n"
    )
    result = subprocess.run(
        ["uv", "run", str(python), "-c", DRIVER, str(tmp_path), "0.1"],
        executable=sys.executable, cwd=odd, capture_output=True, text=True, timeout=200, check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        | {"TMPDIR": str(odd / "tmp")},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert told(result.stdout)["done"] == 2


@pytest.fixture
def broken(tmp_path: Path) -> dict[str, str]:
    """An environment in which Ray starts, and no worker of it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if any('default_worker.py' in word for word in sys.orig_argv):\n"
        "    os.write(2, b'libfoo.so.3: cannot open shared object file\\n')\n"
        "    os._exit(1)\n"
    )
    return {"PYTHONPATH": str(tmp_path)}


SAID = re.compile(
    r"its process \(pid \d+\) ended before it had begun \(libfoo\.so\.3: cannot open shared object file\)"
)


def test_a_start_that_cannot_succeed_ends_within_a_minute_with_the_process_and_its_last_words(
    tmp_path: Path, broken: dict[str, str]
) -> None:
    child = start(tmp_path, 0.1, broken)
    assert child.wait(timeout=150) == 1, child.said()
    end = told(child.out())
    assert SAID.search(str(end["error"]))
    assert "run the same command again" in str(end["error"])
    assert isinstance(end["seconds"], float)
    assert end["seconds"] < 60


RANKS = """
import sys
from pathlib import Path
from cluster.process.stop_flag import StopFlag
from cluster.ranks.over_ray import RanksSpec, run_ranks
here = Path(sys.argv[1])
run_ranks(["-c", ""], RanksSpec(ranks=2), here, here, StopFlag(), print)
"""


def test_ranks_whose_start_cannot_succeed_end_within_a_minute_with_the_process_and_its_last_words(
    tmp_path: Path, broken: dict[str, str]
) -> None:
    begun = time.monotonic()
    child = warm.start(["-c", RANKS, str(tmp_path)], environment={**WITHOUT_RAY, **broken})
    assert child.wait(timeout=150) == 1, child.said()
    assert time.monotonic() - begun < 60
    last = child.err().splitlines()[-1]
    assert "ClusterError: cannot start the ranks: " in last
    assert SAID.search(last)


def test_a_run_ends_at_once_when_the_raylet_of_its_own_cluster_has_ended(tmp_path: Path) -> None:
    child = start(tmp_path, 600.0)
    deadline = time.monotonic() + 150
    while "unit_started" not in child.out():
        assert time.monotonic() < deadline, child.said()
        time.sleep(0.1)
    [raylet] = [one for one in psutil.Process(child.pid).children(recursive=True) if one.name() == "raylet"]
    raylet.kill()
    assert child.wait(timeout=60) == 1
    assert str(told(child.out())["error"]).startswith(f"Ray's raylet on this machine (pid {raylet.pid}) has ended")


@pytest.fixture
def nobody() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"127.0.0.1:{listening.getsockname()[1]}"


def test_the_address_of_a_head_that_is_gone_is_named_in_time(tmp_path: Path, nobody: str) -> None:
    begun = time.monotonic()
    child = start(tmp_path, 0.1, {"RAY_ADDRESS": nobody})
    assert child.wait(timeout=100) == 1
    assert time.monotonic() - begun < 60
    last = child.err().splitlines()[-1]
    assert f"RAY_ADDRESS={nobody}: cannot join (nobody answers: " in last
    assert "or unset RAY_ADDRESS to run on this machine" in last
    assert "rpc_client" not in child.err()


def test_c1_a_signal_while_the_head_does_not_answer_ends_the_command_with_75(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as silent:  # it takes connections and says nothing
        command = ["-m", "sixfold", "generate", "recipes/sandbox.yaml", "--scale", "1x", "--out", str(tmp_path / "out")]
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        child = warm.start(command, environment={**WITHOUT_RAY, "RAY_ADDRESS": address})
        silent.settimeout(100)
        connection, _ = silent.accept()
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=30) == 75
        connection.close()
    assert "stopped on request (SIGTERM); run the same command again to continue" in child.err()


@pytest.mark.timeout(60)
def test_what_other_users_put_into_the_temporary_folder_holds_up_no_start(tmp_path: Path) -> None:
    """The names of our folders are known; whoever may write there may make such ones."""
    for number, put in enumerate(
        (os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.write_text("[" * 100_000), Path.mkdir)
    ):
        folder = tmp_path / f"sixfold-{number}"
        folder.mkdir()
        put(folder / "owner.json")
    dead = tmp_path / "sixfold-dead"
    dead.mkdir()
    owner = dataclasses.replace(this_process(), pid=2**22 + 1)
    (dead / "owner.json").write_text(json.dumps(dataclasses.asdict(owner)))
    remove_dead_folders(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"sixfold-{number}" for number in range(4)]
