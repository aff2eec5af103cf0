"""What the environment says of the cluster, what a worker finds in it, and that what was set by hand stays."""

import pytest

from cluster.process.environment import named_cluster, set_allocator, set_compile_processes


@pytest.mark.parametrize(
    ("environ", "address"),
    [({}, ""), ({"RAY_ADDRESS": ""}, ""), ({"RAY_ADDRESS": "local"}, ""), ({"RAY_ADDRESS": "a:1"}, "a:1")],
)
def test_a_cluster_elsewhere_is_one_that_was_named(environ: dict[str, str], address: str) -> None:
    assert named_cluster(environ) == address


def test_gpu_memory_grows_in_segments() -> None:
    environ: dict[str, str] = {}
    set_allocator(environ)
    assert environ == {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_an_allocator_that_was_set_by_hand_stays_under_either_name(name: str) -> None:
    environ = {name: "max_split_size_mb:128"}
    set_allocator(environ)
    assert environ == {name: "max_split_size_mb:128"}


@pytest.mark.parametrize(("cores", "processes"), [(0, "1"), (1, "1"), (8, "8"), (96, "32")])
def test_kernels_are_compiled_by_as_many_processes_as_a_worker_has_cores(cores: int, processes: str) -> None:
    environ: dict[str, str] = {}
    set_compile_processes(environ, cores)
    assert environ == {"TORCHINDUCTOR_COMPILE_THREADS": processes}
    set_compile_processes(environ, 3)
    assert environ == {"TORCHINDUCTOR_COMPILE_THREADS": processes}
