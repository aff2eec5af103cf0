"""All that `sixfold doctor` looks at, in order.

In: the environment, the place of an output. Out: `Check`s. On disk: what `cluster.doctor.place` tries there.
"""

from collections.abc import Iterator, Mapping

from cluster.doctor.check import Check, check
from cluster.doctor.machine import machine
from cluster.doctor.place import place
from cluster.doctor.ray_cluster import ray_cluster
from cluster.doctor.slurm import slurm
from cluster.doctor.switches import unsafe_switches
from cluster.doctor.versions import versions


def examine(environ: Mapping[str, str], out: str) -> Iterator[Check]:
    """Versions, machine, output, Ray, SLURM, safety switches. `out`: a folder or an address."""
    yield from versions()
    yield from machine(environ)
    yield from place(out)
    yield from ray_cluster(environ)
    yield from slurm(environ)
    unsafe = unsafe_switches(environ)
    said = ", ".join(unsafe) or "none is off"
    yield check("safety switches", not unsafe, said, "unset them; every run clears them")
