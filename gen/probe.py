"""One worker's answers to what a recipe leaves to the machine: ``dtype``, ``compile`` and ``batch``.

In: a sampler spec. Out: the three values, as seen by a worker of the run's own kind, which may be on another machine
than the driver. On disk: what `gen.batch_curve` keeps.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.work import JSON, Beat
from gen.batch_curve import find_batch
from gen.model.folder import ModelError
from gen.model.machine_cache import cache_folder
from gen.sampler_spec import SamplerSpec


def has_gpu_files() -> bool:
    """Whether this machine may have a GPU, without importing torch, which takes seconds."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def decide(spec: SamplerSpec) -> SamplerSpec:
    """The spec with the ``dtype`` and ``compile`` for the device that this process would use. Raises ModelError."""
    if spec.device == "cpu" or (spec.device == "auto" and not has_gpu_files()):
        return spec.decided(on_gpu=False)
    import torch

    on_gpu = torch.cuda.is_available()
    if spec.device == "cuda" and not on_gpu:
        raise ModelError("device cuda: torch sees no GPU here; set sampler.device=auto or check the driver")
    return spec.decided(on_gpu, has_bf16=on_gpu and torch.cuda.is_bf16_supported(including_emulation=False))


def make_probe_worker(spec: Mapping[str, object], gpu_share: float) -> "ProbeWorker":
    """A worker of `fan_out` from plain data. ``gpu_share``: of a GPU for one worker, 0..1."""
    return ProbeWorker(SamplerSpec.model_validate(spec), gpu_share)


@dataclass(frozen=True)
class ProbeWorker:
    spec: SamplerSpec
    gpu_share: float

    def __call__(self, unit: int, attempt: str, beat: Beat) -> dict[str, JSON]:
        """``dtype``, ``compile`` and ``batch``; with a measured batch also its curve, and ``notes`` for people."""
        spec = decide(self.spec)
        answer: dict[str, JSON] = {"dtype": spec.dtype, "compile": spec.compile, "batch": spec.batch, "notes": []}
        if spec.batch != "auto":
            return answer
        notes: list[str] = []
        folder = cache_folder(os.environ, "batch", notes.append)
        return {**answer, **find_batch(spec, folder, self.gpu_share, lambda: beat(0, 0)), "notes": notes}
