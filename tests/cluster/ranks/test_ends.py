"""A rank whose work is done ends with its code, whatever its libraries do when an interpreter is taken apart."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shards.disk.home import home

# Something in the interpreter that aborts when it is taken apart, as gloo's threads do now and then.
FRAGILE = """
import os, sys
class Fragile:
    def __del__(self, abort=os.abort):
        abort()
sys.fragile = Fragile()
"""


def test_a_rank_that_has_ended_is_not_taken_apart(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(FRAGILE)
    paths = {"PYTHONPATH": f"{tmp_path}:{home()}"}

    def code_of(*words: str) -> int:
        ended = subprocess.run(
            [sys.executable, "-P", *words], env=paths, cwd=tmp_path, capture_output=True, timeout=200, check=False
        )
        return ended.returncode

    assert code_of("-c", "pass") == -signal.SIGABRT
    assert code_of("-m", "train.program", "no-recipe.yaml", "out") == 2


# Two ranks a turn, forked before any thread begins: to import torch 400 times would take an hour.
PROGRAM = """
import os, sys
import torch, torch._dynamo, torch.distributed.rpc
from torch.nn.parallel import DistributedDataParallel
from cluster.process.exit import leave
from cluster.ranks.group import Ranks
from cluster.ranks.host import free_port
from cluster.ranks.place import RankPlace

def train(rank, port):
    torch.set_num_threads(1)
    with Ranks(RankPlace("torchrun", rank, 2, rank, "127.0.0.1", port, one_machine=True)) as ranks:
        ranks.open(torch.device("cpu"), 60)
        net = DistributedDataParallel(torch.nn.Linear(64, 64))
        for _ in range(3):
            net(torch.randn(8, 64)).sum().backward()
        ranks.wait_for_all()

def begin(rank, port):
    pid = os.fork()
    if pid == 0:
        train(rank, port)
        leave(0)
    return pid

for _ in range(int(sys.argv[1])):
    port = free_port()
    for pid in [begin(rank, port) for rank in range(2)]:
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.mark.parametrize("turns", [3, pytest.param(200, marks=pytest.mark.torture)])
def test_d5_ranks_that_have_done_their_work_end_with_0(turns: int) -> None:
    result = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, str(turns)],
        env={**os.environ, "PYTHONPATH": str(home())}, capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert result.stdout.split() == ["0"] * (2 * turns), result.stderr[-2000:]
