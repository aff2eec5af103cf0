"""What of a SLURM job a run would leave idle, said at its start.

In: the environment, and how many GPUs of a machine the run uses. Out: a line for each thing that stays idle.
On disk: nothing.
"""

from collections.abc import Mapping

from cluster.process.environment import named_cluster
from shards.disk.amounts import counted

ALL_NODES = "start Ray on every node and set RAY_ADDRESS"
ALL_GPUS = "set cluster.workers=auto"


def idle_parts(
    environ: Mapping[str, str], gpus_used: int | None, all_nodes: str = ALL_NODES, all_gpus: str = ALL_GPUS
) -> list[str]:
    """A line each about nodes and about GPUs that a run on this machine alone would not use.

    ``gpus_used``: of this machine, at most; None: all. ``all_nodes``, ``all_gpus``: how a run would use them. Nothing
    is said where the run joins a cluster: nobody here knows which nodes that has.
    """
    if "SLURM_JOB_ID" not in environ or named_cluster(environ):
        return []
    lines = []
    nodes, gpus = _number(environ, "SLURM_JOB_NUM_NODES"), _number(environ, "SLURM_GPUS_ON_NODE")
    if nodes > 1:
        rest = "the other stays idle" if nodes == 2 else f"the other {nodes - 1} stay idle"
        lines.append(f"this job has {nodes} nodes and this run uses one, {rest}; {all_nodes}, or ask for --nodes=1")
    if gpus_used is not None and gpus > max(1, gpus_used):
        how = all_gpus if gpus_used else "set cluster.gpus_per_worker"
        lines.append(
            f"this job has {counted(gpus, 'GPU')} on this node and this run uses {gpus_used}; {how}, or ask for fewer"
        )
    return lines


def _number(environ: Mapping[str, str], name: str) -> int:
    """What the variable says; 0 if it is missing or no number."""
    text = environ.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else 0
