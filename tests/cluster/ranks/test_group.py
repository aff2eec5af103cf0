"""Ranks that meet, agree and end each other."""

import signal
import time

import pytest

from cluster.ranks.group import Ranks
from cluster.ranks.host import free_port
from cluster.ranks.place import RankPlace
from tests.support import warm
from tests.support.rank_environment import rank_environment

CHILD = """
import os, sys, time, torch
from cluster.ranks.group import Ranks
from cluster.ranks.place import find_place
deadline_s, who, when, end = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]

def perhaps_end(now):
    if ranks.rank == who and now == when:
        time.sleep(0.5)
        if end == "die":
            os._exit(9)
        if end == "fail":
            raise ValueError("no space left")
        time.sleep(3600)

with Ranks(find_place(os.environ), meet_s=deadline_s) as ranks:
    print("met", flush=True)
    perhaps_end("early")
    ranks.open(torch.device("cpu"), deadline_s)
    print(ranks.agree(ranks.rank == 1, False), flush=True)
    perhaps_end("late")
    ranks.wait_for_all()
"""
OPEN = "met\n(True, False)\n"


class Children:
    """Processes that are ranks of each other; `who` of them comes to an end, `when` it has met the others or opened
    the group with them."""

    def __init__(self, who: int, when: str, end: str, world: int = 2, deadline_s: float = 300) -> None:
        port = free_port()
        self.ranks = [
            warm.start(
                ["-c", CHILD, str(deadline_s), str(who), when, end], environment=rank_environment(rank, world, port)
            )
            for rank in range(world)
        ]

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, *error: object) -> None:
        for child in self.ranks:
            child.kill()
            child.communicate(timeout=60)

    def wait_for(self, rank: int, text: str) -> None:
        """Until it has said so."""
        deadline = time.monotonic() + 280
        while text not in self.ranks[rank].out():
            is_over = time.monotonic() > deadline or self.ranks[rank].poll() is not None
            assert not is_over or text in self.ranks[rank].out(), self.ranks[rank].said()
            time.sleep(0.02)

    def last_words(self, rank: int) -> str:
        """The last line of its traceback; torch's own warnings may come after it."""
        said = self.ranks[rank].communicate(timeout=300)[1]
        lines = [line for line in said.splitlines() if "Error: " in line or "RankFailed: " in line]
        return lines[-1] if lines else said


def test_d5_a_rank_that_dies_without_a_word_ends_the_other_in_time() -> None:
    with Children(who=1, when="late", end="die") as children:
        children.wait_for(0, OPEN)
        assert "RankFailed: rank 0: another rank ended without a word" in children.last_words(0)
        assert children.ranks[0].returncode == 1
        assert children.ranks[1].wait(timeout=60) == 9


@pytest.mark.parametrize(("who", "slow", "world"), [(0, 1, 2), (1, 2, 3)])
def test_d5_the_cause_waits_for_a_rank_that_is_slow_to_hear_it(who: int, slow: int, world: int) -> None:
    """The store ends with rank 0, which neither its own failure nor another's may take away too early."""
    with Children(who, "late", "fail", world) as children:
        children.wait_for(slow, OPEN)
        children.ranks[slow].send_signal(signal.SIGSTOP)
        time.sleep(3)
        children.ranks[slow].send_signal(signal.SIGCONT)
        assert children.last_words(slow).endswith(f"RankFailed: rank {who}: no space left")
        assert children.last_words(who).endswith("ValueError: no space left")


@pytest.mark.parametrize("who", [0, 1])
def test_d5_a_rank_that_fails_before_the_group_is_open_ends_the_other_with_its_cause(who: int) -> None:
    with Children(who, "early", "fail") as children:
        for rank in (1 - who, who):
            children.wait_for(rank, "met\n")
        met = time.monotonic()
        assert children.last_words(1 - who).endswith(f"RankFailed: rank {who}: no space left")
        assert time.monotonic() - met < 150, "long before the deadline"


def test_d5_a_rank_that_does_not_come_is_named() -> None:
    with Children(1, "early", "never", deadline_s=5) as children:
        assert "found 1 of 2 ranks after 5 s, expected all; see what rank 1 said" in children.last_words(0)


@pytest.mark.torture
@pytest.mark.parametrize("stopped", [0, 1])
def test_d5_a_stopped_rank_is_noticed_at_the_deadline(stopped: int) -> None:
    with Children(stopped, "late", "never", deadline_s=8) as children:
        children.wait_for(stopped, OPEN)
        children.ranks[stopped].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        assert "did not come in time" in children.last_words(1 - stopped)
        assert 6 < time.monotonic() - began < 40


def test_nobody_there_is_one_line() -> None:
    port = free_port()
    place = RankPlace("torchrun", 1, 2, 1, "127.0.0.1", port, one_machine=True)
    with pytest.raises(ValueError, match=rf"rank 1: found nobody at 127\.0\.0\.1:{port}"), Ranks(place, meet_s=1):
        pass
