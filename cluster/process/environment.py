"""What the environment says of the cluster, and what a worker's must say before anything numerical is imported.

In: an environment. Out: an address, or the same environment with what is not set yet. Nothing is written.
"""

from collections.abc import Mapping, MutableMapping

# Both are names of one setting: https://docs.pytorch.org/docs/stable/notes/cuda.html
ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
MAX_COMPILE_PROCESSES = 32  # Inductor's own limit


def named_cluster(environ: Mapping[str, str]) -> str:
    """The address of the cluster to join, by Ray's own variable; "" where a run starts one on this machine."""
    address = environ.get("RAY_ADDRESS", "")
    return "" if address == "local" else address


def set_allocator(environ: MutableMapping[str, str]) -> None:
    """GPU memory in segments that grow: what a failed large call left in pieces serves the next one."""
    if not any(environ.get(name) for name in ALLOCATOR_VARIABLES):
        environ[ALLOCATOR_VARIABLES[0]] = "expandable_segments:True"


def set_compile_processes(environ: MutableMapping[str, str], cores: int) -> None:
    """As many as the worker's share of its node has ``cores``; Inductor would start one for every core of the node."""
    environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(max(1, min(cores, MAX_COMPILE_PROCESSES))))
