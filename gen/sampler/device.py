"""The device on which a process makes images, and the number type and compilation that follow from it.

In: a sampler spec. Out: the same spec, without ``auto`` in the fields that the device decides. On disk: nothing. torch
is imported only if there may be a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gen.model.folder import ModelError
from gen.sampler.shortcuts import check_quantise
from gen.sampler.spec import SamplerSpec

if TYPE_CHECKING:
    import torch

SHORT_SHARE = 0.5


def has_gpu_files() -> bool:
    """Whether this machine may have a GPU, without importing torch, which takes seconds."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def for_device(spec: SamplerSpec) -> tuple[SamplerSpec, bool]:
    """The spec with ``dtype`` and ``compile`` for the device that this process would use, and whether that is a GPU.

    Raises ModelError if the device that is asked for is not there, or cannot do what is asked of it.
    """
    on_gpu, has_bf16, capability = False, False, None
    if spec.device == "cuda" or (spec.device == "auto" and has_gpu_files()):
        import torch

        on_gpu = torch.cuda.is_available()
        if spec.device == "cuda" and not on_gpu:
            raise ModelError("device cuda: torch sees no GPU here; set sampler.device=auto or check the driver")
        if on_gpu:
            has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
            capability = torch.cuda.get_device_capability()
    decided = spec.decided(on_gpu, has_bf16)
    if decided.quantise is not None:
        check_quantise(decided.quantise, decided.dtype, capability)
    return decided, on_gpu


def cpu_name() -> str:
    """``"AMD EPYC 7B13, AVX2"``: what decides how this machine's CPU rounds; "" if the system does not say it."""
    import torch

    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    return f"{names[0].strip()}, {torch.backends.cpu.get_cpu_capability()}" if names else ""


def device_name(kind: str) -> str:
    """For records: ``"cpu, AMD EPYC 7B13, AVX2"``, ``"cuda, NVIDIA H200"``; "cpu" alone if nobody knows which. `kind`:
    as torch says it."""
    import torch

    return ", ".join(filter(None, [kind, cpu_name() if kind == "cpu" else torch.cuda.get_device_name()]))


def is_memory_short(device: torch.device) -> bool:
    """Whether less than half of a GPU's memory is free, its model loaded; a CPU has nowhere to move things to."""
    if device.type == "cpu":
        return False
    import torch

    free, total = torch.cuda.mem_get_info(device)
    return free < SHORT_SHARE * total
