"""Where a rank stands, read from the environment; ranks that meet, agree and end each other."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from cluster.ranks.group import PORTS, RankPlace, Ranks, find_place, gpu_number, host_names
from cluster.ranks.over_ray import free_port
from shards.disk.home import home
from shards.stream.mix import MixSpec, apply_mix, plan_mix
from train.model.input import MEAN, STD, DeviceMix, to_input
from train.model.optim import OptimSpec, learning_rate, loss_of

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "n1", "MASTER_PORT": "29500"}
SLURM = {
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_ID": "1234",
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[003-004]",
}
ALONE = RankPlace("plain", 0, 1, 0, "127.0.0.1", 0, one_machine=True)

# the environment


def test_a_plain_process_is_alone() -> None:
    assert find_place({}) == ALONE
    assert find_place({"MASTER_PORT": "1", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) == ALONE


def test_torchrun_says_everything() -> None:
    place = find_place({**TORCHRUN, "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_USE_AGENT_STORE": "True"})
    assert place == RankPlace("torchrun", 3, 8, 1, "n1", 29500, one_machine=False, store_is_there=True)


def test_a_life_that_torchrun_starts_again_does_not_see_what_ended_the_one_before() -> None:
    assert find_place(TORCHRUN).restart == 0
    assert find_place({**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "2"}).restart == 2


def test_ranks_of_one_machine_meet_on_its_loopback_device_whatever_it_is_called() -> None:
    alone = {**TORCHRUN, "RANK": "1", "LOCAL_WORLD_SIZE": "8"}
    assert find_place(alone).meeting_host == "127.0.0.1"
    assert find_place({**alone, "TORCHELASTIC_USE_AGENT_STORE": "True"}).meeting_host == "n1"
    assert find_place({**alone, "LOCAL_WORLD_SIZE": "4"}).meeting_host == "n1"


def test_srun_is_led_by_its_first_machine() -> None:
    place = find_place(SLURM)
    assert (place.launcher, place.rank, place.world, place.local_rank, place.host) == ("srun", 5, 8, 1, "gpu003")
    assert place.port in PORTS
    assert find_place({**SLURM, "SLURM_PROCID": "0"}).port == place.port
    assert find_place({**SLURM, "SLURM_STEP_ID": "1"}).port != place.port
    assert find_place({**SLURM, "MASTER_PORT": "4000"}).port == 4000


def test_one_machine_meets_on_the_loopback_device() -> None:
    place = find_place({**SLURM, "SLURM_STEP_NODELIST": "gpu7"})
    assert (place.host, place.one_machine) == ("127.0.0.1", True)


def test_torchrun_inside_srun_is_torchrun() -> None:
    assert find_place({**TORCHRUN, **SLURM, "TORCHELASTIC_RUN_ID": "x"}).rank == 3


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        *(
            ({key: value for key, value in TORCHRUN.items() if key != name}, name)
            for name in TORCHRUN
            if name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        ),
        ({**TORCHRUN, "RANK": "8"}, "found rank 8 of 8"),
        ({**TORCHRUN, "RANK": "-1"}, "RANK='-1'"),
        ({**TORCHRUN, "WORLD_SIZE": "eight"}, "WORLD_SIZE='eight'"),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "1"}, "1 on its machine"),
        ({**TORCHRUN, **SLURM}, "rank 3 of 8 by RANK and WORLD_SIZE, but 5 of 8"),
        ({key: value for key, value in SLURM.items() if key != "SLURM_LOCALID"}, "SLURM_LOCALID"),
        ({key: value for key, value in SLURM.items() if key != "SLURM_STEP_NODELIST"}, "SLURM_NODELIST"),
        ({**SLURM, "SLURM_STEP_NODELIST": "n[1-"}, "SLURM_NODELIST"),
    ],
)
def test_a_partial_or_contradicting_environment_is_one_line(environment: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=r"environment|SLURM_NODELIST") as caught:
        find_place(environment)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("node", ["node"]),
        ("node[001-003,7]", ["node001", "node002", "node003", "node7"]),
        ("a1,b[2-3]c,d", ["a1", "b2c", "b3c", "d"]),
        ("rack[1-2]n[08-10]", [f"rack{r}n{n}" for r in "12" for n in ("08", "09", "10")]),
        ("a.b-c_d[5]", ["a.b-c_d5"]),
    ],
)
def test_machines_are_read_from_slurms_short_form(text: str, names: list[str]) -> None:
    assert host_names(text) == names


@pytest.mark.parametrize(
    "text", ["", ",", "a,,b", "a[1-3", "a1-3]", "a[]", "a[3-1]", "a[x]", "a[1-999999999]", "a b", "a;rm", "[[1]]", "é"]
)
def test_other_text_is_no_list_of_machines(text: str) -> None:
    with pytest.raises(ValueError, match="SLURM_NODELIST"):
        host_names(text)


@given(st.lists(st.integers(0, 9999), min_size=1, max_size=8), st.integers(1, 6))
def test_every_number_comes_back_with_its_zeros(numbers: list[int], width: int) -> None:
    shown = [f"{number:0{width}d}" for number in numbers]
    assert host_names(f"n[{','.join(shown)}]") == [f"n{number}" for number in shown]


def test_a_rank_takes_the_gpu_of_its_number_or_the_only_one_it_is_shown() -> None:
    place = find_place({**TORCHRUN, "LOCAL_WORLD_SIZE": "4"})
    assert gpu_number(place, 4, None) == 1
    assert gpu_number(place, 1, "5") == 0
    with pytest.raises(ValueError, match="found 1 GPUs for local rank 1"):
        gpu_number(place, 1, None)


# ranks as processes

CHILD = """
import os, sys, time, torch
from cluster.ranks.group import Ranks, find_place
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


class Children:
    """Processes that are ranks of each other; `who` of them comes to an end, `when` it has met the others or opened
    the group with them."""

    def __init__(self, who: int, when: str, end: str, world: int = 2, deadline_s: float = 300) -> None:
        port = free_port()
        self.ranks = [
            subprocess.Popen(
                [sys.executable, "-c", CHILD, str(deadline_s), str(who), when, end],
                cwd=home(),
                env={
                    **os.environ,
                    **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)},
                    **{"LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
                    **{"PYTHONPATH": str(home()), "OMP_NUM_THREADS": "1"},
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, *error: object) -> None:
        for child in self.ranks:
            child.kill()
            child.communicate(timeout=60)

    def wait_for_line(self, rank: int) -> str:
        stdout = self.ranks[rank].stdout
        assert stdout is not None
        return stdout.readline().strip()

    def last_words(self, rank: int) -> str:
        """The last line of its traceback; torch's own warnings may come after it."""
        said = self.ranks[rank].communicate(timeout=300)[1]
        lines = [line for line in said.splitlines() if "Error: " in line or "RankFailed: " in line]
        return lines[-1] if lines else said


def test_d5_a_rank_that_dies_without_a_word_ends_the_other_in_time() -> None:
    with Children(who=1, when="late", end="die") as children:
        assert [children.wait_for_line(0) for _ in range(2)] == ["met", "(True, False)"]
        assert "RankFailed: rank 0: another rank ended without a word" in children.last_words(0)
        assert children.ranks[0].returncode == 1
        assert children.ranks[1].wait(timeout=60) == 9


@pytest.mark.parametrize(("who", "slow", "world"), [(0, 1, 2), (1, 2, 3)])
def test_d5_the_cause_waits_for_a_rank_that_is_slow_to_hear_it(who: int, slow: int, world: int) -> None:
    """The store ends with rank 0, which neither its own failure nor another's may take away too early."""
    with Children(who, "late", "fail", world) as children:
        for _ in range(2):
            children.wait_for_line(slow)
        children.ranks[slow].send_signal(signal.SIGSTOP)
        time.sleep(3)
        children.ranks[slow].send_signal(signal.SIGCONT)
        assert children.last_words(slow).endswith(f"RankFailed: rank {who}: no space left")
        assert children.last_words(who).endswith("ValueError: no space left")


@pytest.mark.parametrize("who", [0, 1])
def test_d5_a_rank_that_fails_before_the_group_is_open_ends_the_other_with_its_cause(who: int) -> None:
    with Children(who, "early", "fail") as children:
        assert [children.wait_for_line(rank) for rank in (1 - who, who)] == ["met", "met"]
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
        for _ in range(2):
            children.wait_for_line(stopped)
        children.ranks[stopped].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        assert "did not come in time" in children.last_words(1 - stopped)
        assert 6 < time.monotonic() - began < 40


def test_nobody_there_is_one_line() -> None:
    port = free_port()
    place = RankPlace("torchrun", 1, 2, 1, "127.0.0.1", port, one_machine=True)
    with pytest.raises(ValueError, match=rf"rank 1: found nobody at 127\.0\.0\.1:{port}"), Ranks(place, meet_s=1):
        pass


# loss, rate, input


def test_the_rate_rises_linearly_and_falls_as_a_cosine() -> None:
    spec = OptimSpec(lr=2.0, warmup_steps=3)
    rates = [learning_rate(spec, step, 13) for step in range(13)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[8] == pytest.approx(1.0)
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert 0 < rates[-1] < 0.06


def test_the_loss_is_real_plus_lambda_times_the_others_whatever_the_quotas() -> None:
    torch.manual_seed(1)
    logits, labels = torch.randn(14, 5, dtype=torch.float64), torch.randint(5, (14,))
    each = F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=0.2)
    real = torch.cat([each[0:2], each[7:9]])  # two groups of 2 + 4 + 1
    others = torch.cat([each[2:7], each[9:14]])
    loss = loss_of(OptimSpec(lr=1, lam=0.5, label_smoothing=0.2), logits, labels, None, (2, 4, 1))
    torch.testing.assert_close(loss.total, real.mean() + 0.5 * others.mean())
    torch.testing.assert_close(loss.parts[0], real.mean())
    torch.testing.assert_close(loss.parts[2], torch.stack([each[6], each[13]]).mean())
    pooled = loss_of(OptimSpec(lr=1, loss="pooled", label_smoothing=0.2), logits, labels, None, (2, 4, 1))
    torch.testing.assert_close(pooled.total, each.mean())


def test_a_batch_on_the_device_is_what_the_plan_says() -> None:
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (12, 16, 16, 3), np.uint8)
    spec = MixSpec(mixup_alpha=1.0, cutmix_alpha=1.0, per="sample")
    plan = plan_mix(spec, (3, 3), 16, 1, 2, 0, 2)
    mix = DeviceMix.of(plan, torch.device("cpu"))
    found = to_input(images, torch.device("cpu"), mix)
    wanted = (apply_mix(images, plan) / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), wanted, atol=2e-5)
    assert found.is_contiguous()
    assert to_input(images, torch.device("cpu"), mix, True).is_contiguous(memory_format=torch.channels_last)


def test_the_loss_of_a_mixed_sample_is_shared_between_two_labels() -> None:
    plan = plan_mix(MixSpec(mixup_alpha=1.0), (2, 2), 8, 1, 0, 0, 1)
    mix = DeviceMix.of(plan, torch.device("cpu"))
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    soft = torch.zeros(4, 3)
    for row in range(4):
        soft[row, labels[row]] += mix.share_N[row]
        soft[row, labels[mix.partner_N[row]]] += 1 - mix.share_N[row]
    each = -(soft * logits.log_softmax(1)).sum(1)
    loss = loss_of(OptimSpec(lr=1), logits, labels, mix, (2, 2))
    torch.testing.assert_close(loss.total, each[:2].mean() + each[2:].mean())
