"""What of a SLURM job stays idle is said, and nothing where nobody can tell."""

import pytest

from cluster.fan_out.work import FanOutSpec
from cluster.process.slurm import idle_parts

JOB = {"SLURM_JOB_ID": "7"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        JOB,
        {"SLURM_JOB_NUM_NODES": "2"},  # no job: somebody's leftovers
        {**JOB, "SLURM_JOB_NUM_NODES": "1", "SLURM_GPUS_ON_NODE": "1"},
        {**JOB, "SLURM_JOB_NUM_NODES": "many", "SLURM_GPUS_ON_NODE": "²"},
        {**JOB, "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8", "RAY_ADDRESS": "head:6379"},
    ],
)
def test_nothing_is_said_of_a_job_that_is_used(environ: dict[str, str]) -> None:
    assert idle_parts(environ, 1) == []


def test_nodes_that_stay_idle_are_named_with_what_to_do() -> None:
    (line,) = idle_parts({**JOB, "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8"}, None)
    assert line == (
        "this job has 2 nodes and this run uses one, the other stays idle; start Ray on every node and set "
        "RAY_ADDRESS, or ask for --nodes=1"
    )
    (line,) = idle_parts({**JOB, "SLURM_JOB_NUM_NODES": "4"}, None, all_nodes="start it with srun")
    assert "the other 3 stay idle; start it with srun, or" in line


def test_gpus_that_stay_idle_are_named_with_what_to_do() -> None:
    (line,) = idle_parts({**JOB, "SLURM_GPUS_ON_NODE": "8"}, 2)
    assert line == ("this job has 8 GPUs on this node and this run uses 2; set cluster.workers=auto, or ask for fewer")


@pytest.mark.parametrize(
    ("fields", "used"),
    [
        ({}, None),
        ({"gpus_per_worker": 0.5}, None),
        ({"gpus_per_worker": 0}, 0),
        ({"workers": 3}, 3),
        ({"workers": 3, "gpus_per_worker": 0.5}, 2),
        ({"workers": 3, "in_process": True}, 1),
    ],
)
def test_workers_say_how_many_gpus_they_use(fields: dict[str, object], used: int | None) -> None:
    assert FanOutSpec.model_validate(fields).gpus_used == used
