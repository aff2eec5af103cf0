"""The fan-out over real Ray: worker processes that die, stop, loop, crawl and leave children behind.

One cluster of our own serves the whole module; every test gets fresh workers on it.
"""

import ast
import functools
import json
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import psutil
import pytest
import ray

from cluster.fan_out.events import Event
from cluster.fan_out.fan_out import FanOutSpec, Summary, fan_out
from cluster.fan_out.metrics import RunMetrics
from cluster.fan_out.ray_driver import death_cause
from cluster.fan_out.ray_session import Session, private_folder, ray_session
from cluster.fan_out.work import MakeWorker
from cluster.process.private_folder import temporary_root
from cluster.process.stop_flag import StopFlag
from shards.disk.home import home
from tests.support import workers
from tests.support.ray_head import scraped

SPEC = FanOutSpec(
    workers=2, gpus_per_worker=0, start_deadline_s=300, stall_deadline_s=300, straggler_factor=0, attempts=2
)  # fmt: skip


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """Of a driver whose environment names a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "0")
        with ray_session(SPEC, 1, StopFlag()) as ours:
            yield ours


def run(
    units: Iterable[int],
    make_worker: MakeWorker,
    on_event: Callable[[Event], None] = lambda event: None,
    stop: StopFlag | None = None,
    **changes: object,
) -> tuple[Summary, list[Event]]:
    events: list[Event] = []

    def record(event: Event) -> None:
        events.append(event)
        on_event(event)

    spec = SPEC.model_copy(update=changes)
    return fan_out(units, make_worker, spec, record, stop or StopFlag()), events


def assert_all_published(folder: Path, units: range) -> None:
    assert {path.name for path in folder.glob("*.txt")} == {f"{unit}.txt" for unit in units}
    for unit in units:
        assert (folder / f"{unit}.txt").read_bytes() == workers.contents(unit)


def pids_of(folder: Path, unit: int | str = "*") -> set[int]:
    return {int(path.name.rsplit(".", 1)[1]) for path in (folder / "log").glob(f"{unit}.*")}


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_ray_of_our_own_tells_prometheus_what_a_run_did_though_it_has_no_dashboard(session, tmp_path):
    figures = RunMetrics(str(tmp_path), 2, SPEC)
    summary, _ = run(range(2), functools.partial(workers.writer, tmp_path), figures)
    assert summary.done == 2
    [node] = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

    def images() -> float:
        series = (scraped(address) or {}).get("ray_sixfold_images_total", [])
        return sum(value for labels, value in series if f'run="{tmp_path}"' in labels)

    assert wait_until(lambda: images() == 20, 60), "two units of ten images"


def test_units_are_made_by_several_processes_with_the_environment_of_a_share_of_the_node(session, tmp_path):
    summary, events = run(range(12), functools.partial(workers.in_company, tmp_path))
    assert_all_published(tmp_path, range(12))
    assert (summary.done, summary.images, summary.exit_code) == (12, 120, 0)
    assert len(pids_of(tmp_path)) == 2
    assert os.getpid() not in pids_of(tmp_path)
    cores = int(ray.cluster_resources()["CPU"])
    for event in events:
        if event.kind == "unit_done":
            assert event.data["environ"] == {
                "OMP_NUM_THREADS": "1",
                "PYTORCH_ALLOC_CONF": "expandable_segments:True",
                "TORCHINDUCTOR_COMPILE_THREADS": str(cores // 2),
                "CUDA_VISIBLE_DEVICES": "",  # its share has no GPU
            }
    assert wait_until(lambda: not any(running(pid) for pid in pids_of(tmp_path)), 60), "no worker outlives its run"


def test_our_own_cluster_asks_for_a_token_that_only_we_can_read(session):
    token = private_folder() / "token"
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700


@pytest.mark.torture
def test_i8_a_client_with_a_wrong_token_is_refused(session):
    attempt = subprocess.run(
        [sys.executable, "-c", "import ray, sys; ray.init(address=sys.argv[1])", ray.get_runtime_context().gcs_address],
        env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_AUTH_TOKEN_PATH": ""},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert attempt.returncode != 0
    assert "Authentication" in attempt.stderr


def kill_at_random(folder: Path, num_kills: int, rng: random.Random, over: threading.Event) -> int:
    """SIGKILL random workers that have begun a unit; returns how many."""
    killed: set[int] = set()
    while len(killed) < num_kills and not over.wait(rng.uniform(0.05, 0.6)):
        alive = [pid for pid in sorted(pids_of(folder) - killed) if running(pid)]
        if alive:
            victim = rng.choice(alive)
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)
    return len(killed)


def survive_kills(folder: Path, num_units: int, num_kills: int, seed: int) -> None:
    over = threading.Event()
    count: list[int] = []
    killer = threading.Thread(
        target=lambda: count.append(kill_at_random(folder, num_kills, random.Random(seed), over))
    )  # fmt: skip
    killer.start()
    try:
        # a retry is handed out first, so on a slow machine the killer meets one unit many times
        summary, events = run(range(num_units), functools.partial(workers.writer, folder, 0.2), attempts=50)
    finally:
        over.set()
        killer.join(timeout=60)
    assert summary.exit_code == 0
    assert summary.done == num_units
    assert count[0] >= num_kills
    assert_all_published(folder, range(num_units))
    done = [event.unit for event in events if event.kind == "unit_done"]
    assert sorted(done) == list(range(num_units))
    # lost work: at most the unit at hand per killed worker
    started = sum(event.kind == "unit_started" for event in events)
    assert started <= num_units + count[0]


def test_b1_random_sigkills_lose_nothing_and_double_nothing(session, tmp_path):
    survive_kills(tmp_path, 30, 5, workers.printed_seed())


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_b1_200_sigkills_lose_nothing_and_double_nothing(session, tmp_path):
    survive_kills(tmp_path, 2000, 200, workers.printed_seed())


def test_b7_stopped_and_looping_workers_are_replaced_in_time(session, tmp_path):
    """Unit 1 stops its process, unit 2 loops."""
    kinds = {1: "stops once", 2: "loops once"}
    summary, events = run(range(1, 10), functools.partial(workers.misbehaving, tmp_path, kinds), stall_deadline_s=15.0)
    assert summary.exit_code == 0
    assert_all_published(tmp_path, range(1, 10))
    killed = [event for event in events if event.kind == "worker_killed"]
    assert len(killed) == 2
    assert all("no progress" in event.message for event in killed)
    for unit in (1, 2):
        begun = next(event.at_s for event in events if event.kind == "unit_started" and event.unit == unit)
        failed = next(event.at_s for event in events if event.kind == "unit_failed" and event.unit == unit)
        assert failed - begun < 15.0 + 60.0
        assert len(workers.attempts_of(tmp_path, unit)) == 2
    stuck = pids_of(tmp_path, 1) | pids_of(tmp_path, 2)
    assert wait_until(lambda: not any(running(pid) for pid in stuck), 60), "the stuck processes are gone, not just left"


def test_b15_b18_a_slow_constructor_is_no_hang_and_a_crawling_worker_is_outrun_and_not_killed(session, tmp_path):
    """One of two workers is built for longer than the stall deadline; unit 8 beats, for ten minutes."""
    make = functools.partial(workers.slow_constructor_once, tmp_path, 17.0, {8: "crawls once"}, 0.5)
    summary, events = run(range(14), make, stall_deadline_s=15.0, straggler_factor=10.0)
    assert summary.exit_code == 0
    assert_all_published(tmp_path, range(14))
    kinds = [event.kind for event in events]
    assert "worker_killed" not in kinds
    assert 8 in [event.unit for event in events if event.kind == "unit_rerun"]
    assert summary.seconds < 400, "the crawl alone would take 600 s"


def test_b8_b23_a_unit_that_kills_its_process_is_quarantined_and_named(session, tmp_path):
    summary, _ = run(range(6), functools.partial(workers.misbehaving, tmp_path, {2: "dies"}), workers=1)
    assert [(bad.unit, bad.failures) for bad in summary.quarantined] == [(2, 2)]
    assert "died" in summary.quarantined[0].cause
    assert summary.exit_code == 3
    assert {int(path.stem) for path in tmp_path.glob("*.txt")} == {0, 1, 3, 4, 5}


def test_b14_a_constructor_that_fails_everywhere_ends_the_run_soon_with_the_cause(session):
    started = time.monotonic()
    summary, _ = run(range(3), functools.partial(workers.failing_constructor, "no weights in /models/x"), workers=1)
    assert "no weights in /models/x" in str(summary.error)
    assert summary.exit_code == 1
    assert time.monotonic() - started < 200


def test_b16_a_child_of_a_killed_worker_dies_too(session, tmp_path):
    summary, _ = run(range(2), functools.partial(workers.with_children, tmp_path), workers=1)
    assert summary.exit_code == 0
    child = int((tmp_path / "child.pid").read_text())
    assert wait_until(lambda: not running(child), 60)


MANY = """
import functools, json, sys
from pathlib import Path
import psutil
from cluster.fan_out.fan_out import FanOutSpec, fan_out
from cluster.process.stop_flag import StopFlag
from tests.support import workers
from tests.support.ray_head import scraped
told, results, in_flight, most = {}, {}, set(), 0

def watch(event):
    global most
    if event.kind == "unit_started":
        in_flight.add(event.unit)
    if event.kind == "unit_done":
        in_flight.discard(event.unit)
        results[event.unit] = event.data
        if len(results) in (200, 800):
            told[f"bytes at {len(results)}"] = psutil.Process().memory_info().rss
    most = max(most, len(in_flight))

spec = FanOutSpec(workers=1, gpus_per_worker=0, start_deadline_s=300, stall_deadline_s=300, straggler_factor=0)
summary = fan_out(range(800), functools.partial(workers.partly_failing, Path(sys.argv[1])), spec, watch, StopFlag())
told |= {"done": summary.done, "images": summary.images, "rejected": summary.rejected}
print(json.dumps(told | {"most in flight": most, "result of 2": dict(results[2])}))
"""


def test_b9_b12_b20_many_units_with_bad_images_leave_the_drivers_memory_flat(session, tmp_path):
    """Bad images are rows of small results; one unit is in flight per worker; nothing grows with the units done."""
    address = ray.get_runtime_context().gcs_address
    child = subprocess.run(
        [sys.executable, "-c", MANY, str(tmp_path)],
        cwd=home(), capture_output=True, text=True, timeout=400, check=False,
        env={**os.environ, "RAY_ADDRESS": address},
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    told = json.loads(child.stdout.splitlines()[-1])
    assert (told["done"], told["images"], told["rejected"]) == (800, 80_000 - 100, 100)
    assert told["most in flight"] <= 1
    assert told["bytes at 800"] - told["bytes at 200"] < 12 * 2**20
    assert told["result of 2"] == {"failures": [{"image": 2, "status": "image 2 is black"}]}


def test_inside_a_submitted_job_workers_run_our_code_whatever_folder_the_job_has(session, tmp_path):
    """A driver with the variables that `ray job submit --working-dir .` sets; the job's folder is no longer there."""
    asked = {"working_dir": f"gcs://_ray_pkg_{'0' * 16}.zip", "env_vars": {"OMP_NUM_THREADS": "7"}}
    child = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path), "2"],
        cwd=home(), capture_output=True, text=True, timeout=200, check=False,
        env={
            **os.environ,
            "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
            "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": asked, "metadata": {}}),
        },
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    assert_all_published(tmp_path, range(2))


def test_c1_a_signal_ends_the_run_within_drain_s_and_says_run_me_again(session, tmp_path):
    asked = 0.0

    def ask(event: Event) -> None:
        nonlocal asked
        if event.kind == "unit_started" and not stop.requested:
            asked = time.monotonic()
            os.kill(os.getpid(), signal.SIGTERM)

    with StopFlag() as stop:
        make = functools.partial(workers.writer, tmp_path, 600.0, beats=6000)
        summary, events = run(range(50), make, ask, stop, workers=1, drain_s=10.0)
    assert stop.reason == "SIGTERM"
    assert time.monotonic() - asked < 30, "drain_s and what a busy machine adds"
    assert summary.exit_code == 75
    assert summary.done == 0
    assert "unit_dropped" in [event.kind for event in events], "workers stop at a beat, and clean up"


DRIVER = """
import functools, os, sys
from pathlib import Path
from cluster.fan_out.fan_out import FanOutSpec, fan_out
from cluster.process.stop_flag import StopFlag
from tests.support import workers
from tests.support.ray_head import scraped
folder = Path(sys.argv[1])
units = [unit for unit in range(int(sys.argv[2])) if not (folder / f"{unit}.txt").exists()]
spec = FanOutSpec(workers=2, gpus_per_worker=0)
with StopFlag() as stop:
    summary = fan_out(units, functools.partial(workers.writer, folder, 0.2), spec, lambda event: None, stop)
sys.exit(summary.exit_code)
"""


def start_driver(folder: Path, num_units: int, address: str | None) -> "subprocess.Popen[bytes]":
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    if address:
        env["RAY_ADDRESS"] = address
    return subprocess.Popen([sys.executable, "-c", DRIVER, str(folder), str(num_units)], cwd=home(), env=env)


def test_b3_a_killed_driver_leaves_no_worker_and_the_same_units_go_on(session, tmp_path):
    """A second driver joins the cluster through RAY_ADDRESS and the token, and is killed at work."""
    child = start_driver(tmp_path, 24, ray.get_runtime_context().gcs_address)
    assert wait_until(lambda: len(list(tmp_path.glob("*.txt"))) >= 4, 240)
    child.kill()
    child.wait(timeout=60)
    assert wait_until(lambda: not any(running(pid) for pid in pids_of(tmp_path)), 60)
    left = [unit for unit in range(24) if not (tmp_path / f"{unit}.txt").exists()]
    assert left
    summary, _ = run(left, functools.partial(workers.writer, tmp_path, 0.1))
    assert summary.exit_code == 0
    assert_all_published(tmp_path, range(24))


def processes_of(driver: int) -> list[psutil.Process]:
    """Everything whose command line or working folder lies in a private folder of this driver."""
    folders = []
    for owner in temporary_root().glob("sixfold-*/owner.json"):
        if json.loads(owner.read_text())["pid"] == driver:
            folders.append(str(owner.parent))
    assert folders
    found = []
    for process in psutil.process_iter():
        try:
            text = " ".join(process.cmdline()) + process.cwd()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if any(folder in text for folder in folders):
            found.append(process)
    return found


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_b3_ten_killed_drivers_with_clusters_of_their_own_leave_no_process(tmp_path):
    rng = random.Random(workers.printed_seed())
    for life in range(10):
        child = start_driver(tmp_path, 200, None)
        goal = 10 * (life + 1)
        assert wait_until(lambda goal=goal: len(list(tmp_path.glob("*.txt"))) >= goal, 120)  # type: ignore[misc]
        time.sleep(rng.uniform(0, 0.5))
        child.kill()
        child.wait(timeout=10)
        assert wait_until(lambda pid=child.pid: not processes_of(pid), 20)  # type: ignore[misc]
    child = start_driver(tmp_path, 200, None)
    assert child.wait(timeout=200) == 0
    assert_all_published(tmp_path, range(200))


NODES = """
import functools, json, os, random, sys, threading, time
from pathlib import Path
os.environ["RAY_AUTH_MODE"] = "disabled"
import ray
from ray.cluster_utils import Cluster
from cluster.fan_out.fan_out import FanOutSpec, fan_out
from cluster.fan_out.ray_session import runtime_env
from cluster.process.stop_flag import StopFlag
from tests.support import workers
from tests.support.ray_head import scraped
folder, num_units, losses = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
spec = FanOutSpec(gpus_per_worker=0, straggler_factor=0, stall_deadline_s=60, attempts=2)
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20})
nodes = [cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20) for _ in range(2)]
ray.init(address=cluster.address, log_to_driver=False, runtime_env=runtime_env(1))
seen = threading.Event()

def lose_nodes():
    for loss in range(losses):
        seen.wait(60)
        seen.clear()
        time.sleep(0.5)
        cluster.remove_node(nodes.pop(0), allow_graceful=False)
        nodes.append(cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20))

thread = threading.Thread(target=lose_nodes, daemon=True)
thread.start()
on_event = lambda event: seen.set() if event.kind == "worker_ready" else None
with StopFlag() as stop:
    summary = fan_out(range(num_units), functools.partial(workers.writer, folder, 2.0), spec, on_event, stop)
print(json.dumps(summary.as_json()))
"""


DRAINED = """
import functools, json, os, sys, threading
from pathlib import Path
os.environ["RAY_AUTH_MODE"] = "disabled"
import ray
from ray.cluster_utils import Cluster
from cluster.fan_out.fan_out import FanOutSpec, fan_out
from cluster.fan_out.ray_session import runtime_env
from cluster.process.stop_flag import StopFlag
from cluster.submit.drain import drain
from tests.support import workers
folder = Path(sys.argv[1])
spec = FanOutSpec(gpus_per_worker=0, straggler_factor=0, stall_deadline_s=60, attempts=2)
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20})
first, other = (cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20) for _ in range(2))
ray.init(address=cluster.address, log_to_driver=False, runtime_env=runtime_env(1))
both, said, events = threading.Event(), [], []

def take_back():
    both.wait(120)
    said.append(drain("a test takes it back", 60.0, first.node_id))

def on_event(event):
    events.append((event.kind, event.node, event.worker, event.message))
    if {worker for kind, _, worker, _ in events if kind == "unit_done"} == {0, 1}:
        both.set()

thread = threading.Thread(target=take_back, daemon=True)
thread.start()
with StopFlag() as stop:
    summary = fan_out(range(24), functools.partial(workers.writer, folder, 2.0), spec, on_event, stop)
thread.join(90)
print(json.dumps({"first": first.node_id, "said": said, "events": events, "summary": summary.as_json()}))
"""


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_a_node_that_is_taken_back_with_notice_ends_empty_and_costs_nothing_that_was_begun(tmp_path):
    """`sixfold drain` on a machine of a real cluster of three nodes."""
    result = subprocess.run(
        [sys.executable, "-c", DRAINED, str(tmp_path)],
        cwd=home(), capture_output=True, text=True, timeout=500, check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    told = json.loads(next(line for line in result.stdout.splitlines() if line.startswith("{")))  # Ray prints too
    assert told["said"] == ["1 of 1 nodes drained"]
    assert told["summary"]["units"] == {"done": 24, "quarantined": 0}
    assert told["summary"]["retried"] == told["summary"]["workers"]["lost"] == 0
    kinds = [kind for kind, *_ in told["events"]]
    notice = kinds.index("warning")
    assert told["events"][notice][1] == told["first"]
    there = {worker for kind, node, worker, _ in told["events"] if kind == "worker_started" and node == told["first"]}
    assert len(there) == 1
    begun = [worker for kind, _, worker, _ in told["events"][notice:] if kind == "unit_started"]
    assert begun
    assert not there & set(begun)
    assert_all_published(tmp_path, range(24))


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_b2_b19_nodes_lost_without_warning_cost_no_unit_and_new_ones_are_used(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", NODES, str(tmp_path), "60", "4"],
        cwd=home(), capture_output=True, text=True, timeout=600, check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["exit_code"] == 0, summary
    assert summary["units"] == {"done": 60, "quarantined": 0}
    assert summary["workers"]["lost"] >= 4
    assert_all_published(tmp_path, range(60))


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_signals_to_a_driver_with_its_own_cluster_end_within_10_s_in_75_and_leave_nothing(tmp_path):
    rng = random.Random(workers.printed_seed())
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        child = start_driver(tmp_path, 10_000, None)
        before = len(list(tmp_path.glob("*.txt")))
        assert wait_until(lambda before=before: len(list(tmp_path.glob("*.txt"))) > before, 120)  # type: ignore[misc]
        time.sleep(rng.uniform(0, 0.5))
        child.send_signal(number)
        sent = time.monotonic()
        assert child.wait(timeout=20) == 75
        assert time.monotonic() - sent < 10
        assert not list(tmp_path.glob("*.tmp"))


def test_b13_no_wait_for_ray_lacks_a_deadline():
    """In the whole package, every ray.get and ray.wait names its timeout."""
    for file in (home() / "cluster").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and (node.func.value.id, node.func.attr) in {("ray", "get"), ("ray", "wait")}
            ):
                assert "timeout" in {keyword.arg for keyword in node.keywords}, f"{file.name}:{node.lineno}"


@pytest.mark.torture
def test_make_worker_that_workers_cannot_import_is_refused_with_the_cause(session, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def make():\n    return None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here  # type: ignore[import-not-found]

    summary, _ = run(range(3), only_here.make)
    assert "only_here" in str(summary.error)
    assert summary.exit_code == 1


def test_b10_a_death_is_told_in_one_line_that_says_what_to_do():
    memory = ray.exceptions.OutOfMemoryError(
        "Task was killed due to the node running low on memory.\nMemory on the node"
    )
    assert "smaller batches" in death_cause(memory, None)
    crash = RuntimeError("Worker unexpectedly exits with a connection error code 2. End of file. (1) the OOM killer …")
    assert death_cause(crash, None).startswith("its process died without an error")
    assert "\n" not in death_cause(RuntimeError("a\nb"), None)
