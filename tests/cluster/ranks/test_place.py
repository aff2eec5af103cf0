"""Where a rank stands, read from the environment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.ranks.place import PORTS, RankPlace, find_place, gpu_number, host_names

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
