"""Ranks of one program over Ray: what they are told, how they end."""

import sys
from pathlib import Path

import pytest

from cluster.ray_ranks import RanksSpec, environments, run_ranks
from cluster.signals import StopFlag

PROGRAM = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(75))
print(*(os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")), flush=True)
open(sys.argv[1] + os.environ["RANK"], "w").close()
if sys.argv[2] == "wait":
    time.sleep(60)
sys.exit(3 if os.environ["RANK"] == "1" else 0)
"""


def test_ranks_of_one_machine_are_neighbours_and_meet_at_the_first() -> None:
    told = environments([("a", "10.0.0.1", 7), ("a", "10.0.0.1", 8), ("b", "10.0.0.2", 9)])
    assert [one["RANK"] for one in told] == ["0", "1", "2"]
    assert [one["LOCAL_RANK"] for one in told] == ["0", "1", "0"]
    assert [one["LOCAL_WORLD_SIZE"] for one in told] == ["2", "2", "1"]
    assert {(one["MASTER_ADDR"], one["MASTER_PORT"], one["WORLD_SIZE"]) for one in told} == {("10.0.0.1", "7", "3")}
    assert {one["MASTER_ADDR"] for one in environments([("a", "10.0.0.1", 7)] * 2)} == {"127.0.0.1"}


class StopWhenBothRan:
    """A stop flag that is raised when both ranks have begun."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    @property
    def requested(self) -> bool:
        return all(Path(f"{self.mark}{rank}").exists() for rank in (0, 1))

    def arm(self) -> None:
        """There are no signals to take back."""


def test_every_rank_runs_is_told_its_place_and_is_stopped_with_the_others(tmp_path: Path) -> None:
    """One cluster for both: a program that ends by itself, and one that is asked to stop."""
    import ray

    from cluster.ray_session import ray_session
    from cluster.work import FanOutSpec

    with ray_session(FanOutSpec(workers=2, gpus_per_worker=0), 1):
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / "one-"), "end"]
        assert run_ranks(command, RanksSpec(ranks=2), tmp_path / "logs", StopFlag()) == [0, 3]
        assert (tmp_path / "logs" / "rank-001.txt").read_text().split() == ["1", "2", "1", "127.0.0.1"]
        waiting = [sys.executable, "-c", PROGRAM, str(tmp_path / "two-"), "wait"]
        stop = StopWhenBothRan(str(tmp_path / "two-"))
        assert run_ranks(waiting, RanksSpec(ranks=2), tmp_path / "more", stop) == [75, 75]
        with pytest.raises(RuntimeError, match="found no room for 3 ranks of 1 cores"):
            run_ranks(command, RanksSpec(ranks=3, start_deadline_s=3), tmp_path / "none", StopFlag())
        assert ray.is_initialized()
