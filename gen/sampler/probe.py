"""One worker's answers to what a recipe leaves to the machine: ``dtype``, ``compile`` and ``batch``.

In: a sampler spec. Out: the three values, as seen by a worker of the run's own kind, which may be on another machine
than the driver. On disk: what `gen.sampler.batch_curve` keeps.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.fan_out.work import Beat
from gen.sampler.batch_curve import find_batch
from gen.sampler.device import for_device
from gen.sampler.machine_cache import cache_folder
from gen.sampler.spec import SamplerSpec
from shards.disk.record import JSON


def make_probe_worker(spec: Mapping[str, object], gpu_share: float) -> "ProbeWorker":
    """A worker of `fan_out` from plain data. ``gpu_share``: of a GPU for one worker, 0..1."""
    return ProbeWorker(SamplerSpec.model_validate(spec), gpu_share)


@dataclass(frozen=True)
class ProbeWorker:
    spec: SamplerSpec
    gpu_share: float

    def __call__(self, unit: int, attempt: str, beat: Beat) -> dict[str, JSON]:
        """``dtype``, ``compile`` and ``batch``; with a measured batch also its curve, and ``notes`` for people."""
        spec, _ = for_device(self.spec)
        answer: dict[str, JSON] = {"dtype": spec.dtype, "compile": spec.compile, "batch": spec.batch, "notes": []}
        if spec.batch != "auto":
            return answer
        notes: list[str] = []
        folder = cache_folder(os.environ, "batch", notes.append)
        return {**answer, **find_batch(spec, folder, self.gpu_share, lambda: beat(0, 0)), "notes": notes}
