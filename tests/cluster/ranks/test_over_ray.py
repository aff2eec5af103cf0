"""Ranks of one program over Ray: what they are told, what they say, how they end and which of them is the cause."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import ray

from cluster.fan_out.ray_session import ClusterError, ray_session
from cluster.fan_out.work import FanOutSpec
from cluster.process.exit import EXIT_FOLLOWED
from cluster.process.stop_flag import StopFlag
from cluster.ranks import over_ray as ray_ranks
from cluster.ranks.host import free_port
from cluster.ranks.over_ray import RankEnd, RanksEnd, RanksSpec, environments, run_ranks
from shards.disk.home import home

PROGRAM = """
import os, signal, sys, time
rank, what, mark = int(os.environ["RANK"]), sys.argv[1], sys.argv[2]
def save(number, frame):
    open(f"{mark}{rank}-saved", "w").close()
    print("saved")
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
print(*(os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")), file=sys.stderr)
print("cores", os.environ["OMP_NUM_THREADS"], "in", os.getcwd(), file=sys.stderr, flush=True)
print("steps of others", [name for name in os.environ if name.startswith("SLURM_")], file=sys.stderr)
open(mark + str(rank), "w").close()
if what == "end":
    print(f"rank {rank} is done")
if what == "wait":
    time.sleep(600)
if what == "fail" and rank == 1:
    while not os.path.exists(mark + "0-ends"):
        time.sleep(0.05)
    while os.path.exists("/proc/" + open(mark + "0-ends").read()):
        time.sleep(0.05)
    time.sleep(1.0)  # until its supervisor has said so
    sys.exit("Traceback ...\\nValueError: found no shards,\\x1b[31m expected some")
if what == "fail":
    print("rank 1: found no shards, expected some")
    with open(mark + "ends", "w") as file:
        file.write(str(os.getpid()))
    os.rename(mark + "ends", mark + "0-ends")
    sys.exit(4)
if what == "mistake" and rank == 1:
    print("found 3, expected 4")
    sys.exit(2)
if what == "mistake":
    time.sleep(600)
if what == "die" and rank == 0:
    os.kill(os.getpid(), signal.SIGKILL)
if what == "lose" and rank == 1:
    import psutil
    while not os.path.exists(mark + "0"):
        time.sleep(0.05)
    time.sleep(2)  # until the driver knows that all have started
    psutil.Process().parent().parent().kill()  # the actor
if what in ("die", "lose"):
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One for all, started within a step of SLURM, as clusters are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_PROCID", "0")
        patch.setenv("SLURM_NTASKS", "8")
        with ray_session(FanOutSpec(workers=2, gpus_per_worker=0), 1, StopFlag()):
            yield


class Ran:
    """A run of the program by two ranks in a folder."""

    def __init__(self, folder: Path, what: str, stop: StopFlag | None = None) -> None:
        self.lines: list[str] = []
        arguments = ["-c", PROGRAM, what, str(folder / "began-")]
        self.end = run_ranks(
            arguments, RanksSpec(ranks=2), folder, folder / "logs", stop or StopFlag(), self.lines.append
        )
        self.codes = {end.rank: end.code for end in self.end.ends}

    def cause(self) -> str:
        assert self.end.cause is not None
        return self.end.cause.sentence()


# what ranks are told


def test_ranks_of_one_machine_are_neighbours_and_meet_at_the_first() -> None:
    told = environments([("a", "10.0.0.1", 7), ("a", "10.0.0.1", 8), ("b", "10.0.0.2", 9)])
    assert [one["RANK"] for one in told] == ["0", "1", "2"]
    assert [one["LOCAL_RANK"] for one in told] == ["0", "1", "0"]
    assert [one["LOCAL_WORLD_SIZE"] for one in told] == ["2", "2", "1"]
    assert {(one["MASTER_ADDR"], one["MASTER_PORT"], one["WORLD_SIZE"]) for one in told} == {("10.0.0.1", "7", "3")}
    assert {one["MASTER_ADDR"] for one in environments([("a", "10.0.0.1", 7)] * 2)} == {"127.0.0.1"}


def test_a_free_port_is_none_that_the_system_gives_out_by_itself() -> None:
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert all(not first <= free_port() <= last for _ in range(20))


def test_every_rank_starts_in_the_callers_folder_and_rank_0_is_heard(cluster: None, tmp_path: Path) -> None:
    ran = Ran(tmp_path, "end")
    assert (ran.codes, ran.end.exit_code, ran.end.cause) == ({0: 0, 1: 0}, 0, None)
    assert ran.end.said == "rank 0 is done"
    assert ran.lines == [
        f"2 ranks on 1 machine; each writes to {tmp_path / 'logs'}",
        "0 2 0 127.0.0.1",
        f"cores 1 in {tmp_path}",
        "steps of others []",
    ]
    assert (tmp_path / "logs" / "rank-001.txt").read_text().splitlines() == [
        "1 2 1 127.0.0.1",
        *ran.lines[2:],
        "rank 1 is done",
    ]


# how they end


class StopWhenBothRan(StopFlag):
    """Raised when both ranks have begun."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark
        super().__init__()

    @property
    def requested(self) -> bool:  # type: ignore[override]
        return all(Path(f"{self.mark}{rank}").exists() for rank in (0, 1))

    @requested.setter
    def requested(self, value: bool) -> None:
        """Nobody else raises it."""


def test_c1_a_stop_request_reaches_every_rank(cluster: None, tmp_path: Path) -> None:
    ran = Ran(tmp_path, "wait", StopWhenBothRan(tmp_path / "began-"))
    assert (ran.codes, ran.end.exit_code, ran.end.said) == ({0: 75, 1: 75}, 75, "saved")


def test_c1_a_stop_request_before_there_is_room_starts_nothing(cluster: None, tmp_path: Path) -> None:
    stop = StopFlag()
    stop.request("SIGTERM")
    ran = Ran(tmp_path, "wait", stop)
    assert (ran.end.ends, ran.end.exit_code) == ((), 75)
    assert not list(tmp_path.glob("began-*"))


def test_d5_the_cause_is_the_rank_that_failed_and_not_the_one_that_followed_it_before(
    cluster: None, tmp_path: Path
) -> None:
    ran = Ran(tmp_path, "fail")
    assert [end.rank for end in ran.end.ends] == [0, 1]
    assert (ran.codes, ran.end.exit_code) == ({0: EXIT_FOLLOWED, 1: 1}, 1)
    assert ran.cause() == "rank 1: ValueError: found no shards, expected some"


def test_d5_a_rank_that_hangs_when_another_one_has_failed_is_killed(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_ranks, "FOLLOW_S", 1.0)
    ran = Ran(tmp_path, "mistake")
    assert (ran.codes, ran.end.exit_code) == ({0: -signal.SIGKILL, 1: 2}, 2)
    assert ran.cause() == "rank 1: found 3, expected 4"


def test_d5_a_killed_rank_and_a_lost_one_are_named(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_ranks, "FOLLOW_S", 1.0)
    for name in ("die", "lose"):
        (tmp_path / name).mkdir()
    ran = Ran(tmp_path / "die", "die")
    assert ran.cause() == "rank 0: was ended by SIGKILL (out of memory, or killed by hand)"
    assert ran.end.exit_code == 1
    ran = Ran(tmp_path / "lose", "lose")
    assert ran.cause().startswith("rank 1: its machine or actor is lost (")
    assert ran.end.exit_code == 1
    assert soon((tmp_path / "lose" / "began-1-saved").exists), "the rank itself was told to end"


def test_a_folder_that_a_machine_does_not_see_is_named(cluster: None, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"rank 0: cannot start \(.*nowhere.*\); every machine must see the folder"):
        run_ranks(["-c", ""], RanksSpec(ranks=1), tmp_path / "nowhere", tmp_path, StopFlag(), print)


def test_too_many_ranks_for_the_cluster_are_refused_in_time(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = int(ray.cluster_resources()["CPU"])
    asked = f"{cores + 1} ranks of 1 core and 0 GPUs"
    has = f"the cluster has {cores} cores and 0 GPUs on 1 machine, {cores} and 0 free"
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(ray_ranks, "START_S", 4.0)
        with pytest.raises(ClusterError, match=f"found no room for {asked} within 4 s, {has}; ask for fewer, or add"):
            run_ranks(["-c", ""], RanksSpec(ranks=cores + 1), tmp_path, tmp_path, StopFlag(), said.append)
    assert said == [f"found no room yet for {asked}, {has}; waiting for it, at most 4 s"]
    assert Ran(tmp_path, "end").end.exit_code == 0, "nothing of it is left"


def test_c1_a_program_that_ends_as_its_supervisor_is_told_has_ended_as_it_says(tmp_path: Path) -> None:
    """The supervisor is stopped while both happen, so that it learns of both at once."""
    program = "import sys; sys.stdout.write('ready'); sys.stdout.close(); sys.stdin.read(); sys.exit(7)"
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "cluster.process.supervisor", sys.executable, "-c", program],
        cwd=home(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert supervisor.stdin is not None
        assert supervisor.stdout is not None
        assert supervisor.stdout.read(5) == b"ready"
        [child] = psutil.Process(supervisor.pid).children()
        supervisor.send_signal(signal.SIGSTOP)
        supervisor.stdin.close()
        assert soon(lambda: child.status() == psutil.STATUS_ZOMBIE)
        supervisor.send_signal(signal.SIGTERM)
        supervisor.send_signal(signal.SIGCONT)
        assert supervisor.wait(timeout=60) == 7
    finally:
        supervisor.kill()
        supervisor.wait(timeout=60)


def soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize(
    ("ends", "code", "cause"),
    [
        ([RankEnd(1, 0, "")], 0, None),
        ([RankEnd(0, 75, "saved"), RankEnd(1, 75, "")], 75, None),
        ([RankEnd(0, 4, "rank 1: bad"), RankEnd(1, 2, "bad")], 2, "rank 1: bad"),
        ([RankEnd(0, 4, "rank 1: bad"), RankEnd(1, -11, "")], 1, "rank 1: was ended by SIGSEGV (it printed nothing)"),
        ([RankEnd(0, 4, "rank 2: bad"), RankEnd(1, 4, "rank 2: bad")], 1, "rank 2: bad"),
        ([RankEnd(1, None, "node gone"), RankEnd(0, 4, "rank 1: lost")], 1, "rank 1: its machine or actor is lost"),
        ([RankEnd(0, 75, ""), RankEnd(1, -9, "", killed=True)], 1, "rank 1: did not end in time, and was killed"),
        ([RankEnd(0, 1, "")], 1, "rank 0: ended with 1 and printed nothing"),
    ],
)
def test_the_code_of_all_is_that_of_the_cause(ends: list[RankEnd], code: int, cause: str | None) -> None:
    found = RanksEnd(tuple(ends))
    assert found.exit_code == code
    if cause is None:
        assert found.cause is None
    else:
        assert found.cause is not None
        assert found.cause.sentence().startswith(cause)


NODES = """
import os, sys
from pathlib import Path
os.environ["RAY_AUTH_MODE"] = "disabled"
import ray
from ray.cluster_utils import Cluster
from cluster.ranks.over_ray import RanksSpec, run_ranks
from cluster.fan_out.ray_session import runtime_env
from cluster.process.stop_flag import StopFlag
folder = Path(sys.argv[1])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20})
for _ in range(2):
    cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=80 * 2**20)
ray.init(address=cluster.address, log_to_driver=False, runtime_env=runtime_env(1))
program = '''
import os, torch
from cluster.ranks.group import Ranks
from cluster.ranks.place import find_place
place = find_place(os.environ)
with Ranks(place) as ranks:
    ranks.open(torch.device("cpu"), 60)
    total = ranks.add_up(torch.tensor([1 + ranks.rank])).tolist()
    print(place.one_machine, "GPU", os.environ["CUDA_VISIBLE_DEVICES"], total, place.host)
'''
ended = run_ranks(["-c", program], RanksSpec(ranks=2), folder, folder, StopFlag(), print)
print(sorted((end.rank, end.code) for end in ended.ends))
print(ended.said, ray.util.get_node_ip_address())
"""


@pytest.mark.torture
@pytest.mark.timeout(300)
def test_ranks_of_two_nodes_meet_at_the_address_of_rank_0_and_have_a_gpu_each(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", NODES, str(tmp_path)],
        cwd=home(), capture_output=True, text=True, timeout=200, check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    first, *_, codes, last = result.stdout.splitlines()
    assert first.startswith("2 ranks on 2 machines")
    assert codes == "[(0, 0), (1, 0)]"
    said, address = last.rsplit(" ", 1)
    assert said == f"False GPU 0 [3] {address}"


@pytest.mark.torture
def test_more_ranks_than_this_machine_has_gpus_are_refused_at_once(tmp_path: Path) -> None:
    program = (
        "import sys, ray; from pathlib import Path; from cluster.ranks.over_ray import *; here = Path(sys.argv[1]);"
        "start = ray.init; ray.init = lambda **told: start(**{**told, 'num_gpus': 2});"  # simulated: two GPUs
        "run_ranks(['-c', ''], RanksSpec(ranks=99), here, here, StopFlag(), print)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=home(), capture_output=True, text=True, timeout=100, check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
    )  # fmt: skip
    assert "found 2 GPUs on this machine for 99 ranks, expected one each; ask for" in result.stderr.splitlines()[-1]
