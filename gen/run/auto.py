"""`auto` in a recipe's sampler: `dtype`, `compile`, `batch` and the size get values before a run has an identity.

In: the sampler's settings, how the work is spread, and the settings that the run began with, if it has made something.
Out: the same settings without any `auto`; they go into the output's `_meta/recipe.yaml` and fingerprint. On disk: only
what `gen.sampler.batch_curve` stores for the next run.

    1. A run that has made a shard, or works beside others, keeps the values that it began with.
    2. The size is the model's own.
    3. If no worker can have a GPU, dtype and compile are those of a CPU.
    4. One worker of the run's own kind decides the rest. A driver without a GPU may start a run on a cluster that has
       some, and only a worker knows whether its GPU computes in bf16, how fast a batch is, and whether it can do what
       `quantise` asks for.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from cluster.fan_out.events import Event
from cluster.fan_out.fan_out import fan_out, stays_here
from cluster.fan_out.work import Beat, FanOutSpec
from cluster.process.exit import Draining
from cluster.process.stop_flag import StopFlag
from cluster.waiting import waiting
from gen.model.folder import open_model
from gen.sampler.batch_curve import CROWDED, TIME_OVER, find_batch
from gen.sampler.device import for_device, has_gpu_files
from gen.sampler.shortcuts import check_quantise
from gen.sampler.spec import SamplerSpec, model_places, with_size
from shards.disk.home import home
from shards.disk.machine_cache import cache_folder
from shards.disk.record import JSON

AUTO_FIELDS = ("dtype", "compile", "batch")
ATTEMPTS = 2  # at the one question


def fill_auto(
    spec: SamplerSpec,
    cluster: FanOutSpec,
    begun: Mapping[str, Any] | None,
    say: Callable[[str], None],
    stop: StopFlag,
) -> SamplerSpec:
    """`spec` with a value for every `auto` and for its size.

    `begun`: the settings that the run began with, None if it is new or has made nothing yet.
    Raises ValueError in one line if a worker cannot answer or cannot do what is asked, Draining on a stop.
    """
    if begun is not None:
        spec = _with(spec, begun)
    if spec.size_px is None:
        spec = with_size(spec, open_model(spec.model, spec.revision, spec.variant, home()))
    if not may_have_gpu(spec, cluster, stays_here(cluster, os.environ)):
        spec = spec.decided(on_gpu=False)
        if begun is None and spec.quantise is not None:  # before an output that no call could continue
            check_quantise(spec.quantise, spec.dtype, None)
    if auto_fields(spec) or (begun is None and spec.quantise is not None):
        spec = _with(spec, _ask_worker(spec, cluster, say, stop))
    return spec


def auto_fields(spec: SamplerSpec) -> list[str]:
    """The names of what is still `auto`."""
    return [name for name in AUTO_FIELDS if getattr(spec, name) == "auto"]


def _with(spec: SamplerSpec, values: Mapping[str, Any]) -> SamplerSpec:
    """`spec` with these values where it says `auto`."""
    chosen = {name: values[name] for name in auto_fields(spec) if name in values}
    if spec.size_px is None and "size_px" in values:
        chosen["size_px"] = values["size_px"]
    return SamplerSpec.model_validate(spec.model_dump() | chosen)


def may_have_gpu(spec: SamplerSpec, cluster: FanOutSpec, here: bool) -> bool:
    """Whether a worker, on this machine if ``here``, could have a GPU, for all that is known without asking one."""
    if spec.device != "auto":
        return spec.device == "cuda"
    if not cluster.in_process and cluster.gpus_per_worker != "auto":
        return cluster.gpus_per_worker > 0
    return not here or has_gpu_files()


# the worker's answer


def make_device_worker(spec: Mapping[str, object], gpu_share: float) -> "DeviceWorker":
    """A worker of `fan_out` from plain data. ``gpu_share``: of a GPU for one worker, 0..1."""
    return DeviceWorker(SamplerSpec.model_validate(spec), gpu_share)


@dataclass(frozen=True)
class DeviceWorker:
    """Says what its device makes of the settings; it runs where the run's own workers will."""

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


def _ask_worker(
    spec: SamplerSpec, cluster: FanOutSpec, say: Callable[[str], None], stop: StopFlag
) -> Mapping[str, JSON]:
    found: dict[str, JSON] = {}
    causes: list[str] = []

    def on_event(event: Event) -> None:
        if event.kind == "unit_done":
            found.update(event.data)
        elif event.kind in ("worker_refused", "unit_failed"):
            causes.append(event.message)

    fields = auto_fields(spec)
    alone = cluster.model_copy(
        update={
            "workers": 1,
            "straggler_factor": 0.0,
            "attempts": ATTEMPTS,
            # a curve loads and compiles inside its unit, and neither can beat
            "stall_deadline_s": max(cluster.stall_deadline_s, cluster.start_deadline_s),
        }
    )
    if "batch" in fields:
        say("sampler.batch: measuring how fast batches of 1, 2, 4, ... are (once for these settings and this device)")
    share = 1.0 if cluster.in_process or cluster.gpus_per_worker == "auto" else min(1.0, cluster.gpus_per_worker)
    worker = partial(make_device_worker, spec.model_dump(mode="json") | model_places(spec), share)
    measured = "how fast its batches are" if "batch" in fields else "what its device can do"
    with waiting(f"asking a worker {measured}"):
        summary = fan_out([0], worker, alone, on_event, stop, spec.threads)
    if summary.drained:
        raise Draining("stopped on request while a worker was asked what its device can do")
    if not found:
        cause = summary.error or (causes[-1] if causes else "no worker answered")
        if not fields:
            raise ValueError(f"sampler.quantise: no worker can do it ({cause})")
        names = ", ".join(f"sampler.{name}" for name in fields)
        raise ValueError(f"{names}: auto could not be decided ({cause}); correct that, or give a value for each")
    for note in found["notes"]:  # type: ignore[union-attr]
        say(str(note))
    if "batch" in fields:
        say(_batch_line(found))
    return found


def _batch_line(found: Mapping[str, JSON]) -> str:
    line = f"sampler.batch: {found['batch']} (images/s by batch: {json.dumps(found['rates'])}, {found['ended']})"
    if found["ended"] == CROWDED:
        line += (
            "; other processes hold a part of the GPU's memory, so this one is for this run only and was not kept; to "
            "have another, end them or set sampler.batch to a number, in a new output"
        )
    if found["ended"] == TIME_OVER:
        line += (
            "; larger batches still gained when the time for measuring ended, so this one is for this run only and was "
            "not kept; to have another, set sampler.batch to a number in a new output"
        )
    return line
