"""Environment variables: the cluster to join, and what a worker sets before it imports numerical libraries.

In: an environment. Out: an address, or the same environment with more variables set; those of the user stay.
On disk: nothing.
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
    """Let torch allocate GPU memory in segments that grow, so that pieces left by a failed large call can be reused."""
    if not any(environ.get(name) for name in ALLOCATOR_VARIABLES):
        environ[ALLOCATOR_VARIABLES[0]] = "expandable_segments:True"


def set_compile_processes(environ: MutableMapping[str, str], cores: int) -> None:
    """Let Inductor start one compile process for each of this worker's ``cores``, not for each core of the node."""
    environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(max(1, min(cores, MAX_COMPILE_PROCESSES))))
