"""What a recipe leaves to the machine, decided once, before a run has an identity.

In: a recipe and the output it is for. Out: the same recipe without any ``auto`` in its sampler. Nothing is written here
but what `gen.sampler.batch_curve` keeps; the decided recipe goes into the output's `_meta/recipe.yaml` and fingerprint.

A run that has begun keeps what was decided then, whatever a machine would say today. Otherwise one worker of the run's
own kind answers (`gen.sampler.probe`): a driver without a GPU may start a run on a cluster that has some, and only a
worker knows whether its GPU computes in bf16, or can do what `quantise` wants. Where no worker can have a GPU, nobody
is asked but for a batch.
"""

import json
import os
from functools import partial
from typing import Any

from cluster.fan_out.events import Event
from cluster.fan_out.fan_out import fan_out, stays_here
from cluster.fan_out.work import FanOutSpec
from cluster.process.exit import Draining
from cluster.process.stop_flag import StopFlag
from gen.output import RUN, Store
from gen.prompts.write import Say
from gen.recipe import Recipe
from gen.sampler.batch_curve import CROWDED, TIME_OVER
from gen.sampler.device import has_gpu_files
from gen.sampler.probe import make_probe_worker
from gen.sampler.shortcuts import check_quantise
from gen.sampler.spec import SamplerSpec
from shards.disk.record import JSON

AUTO_FIELDS = ("dtype", "compile", "batch")
ATTEMPTS = 2  # at the one question


def decide_open_fields(recipe: Recipe, store: Store, say: Say, stop: StopFlag) -> Recipe:
    """Raises ValueError in one line if a worker cannot answer or cannot do what is asked, Draining on a stop."""
    spec = recipe.sampler
    is_new = not store.exists(RUN)
    if not is_new:
        spec = as_begun(spec, store)
    if not may_have_gpu(spec, recipe.cluster, stays_here(recipe.cluster, os.environ)):
        spec = spec.decided(on_gpu=False)
        if is_new and spec.quantise is not None:  # before an output that no call could continue
            check_quantise(spec.quantise, spec.dtype, None)
    if open_fields(spec) or (is_new and spec.quantise is not None):
        spec = _ask_worker(spec, recipe.cluster, say, stop)
    return recipe.model_copy(update={"sampler": spec})


def open_fields(spec: SamplerSpec) -> list[str]:
    """The names of what is still ``auto``."""
    return [name for name in AUTO_FIELDS if getattr(spec, name) == "auto"]


def as_begun(spec: SamplerSpec, store: Store) -> SamplerSpec:
    """The spec with the values that the run in ``store`` began with, where the recipe says ``auto``."""
    begun: dict[str, Any] = json.loads(store.read_bytes(RUN))["identity"]["sampler"]
    kept = {name: begun[name] for name in open_fields(spec) if name in begun}
    return SamplerSpec.model_validate(spec.model_dump() | kept)


def may_have_gpu(spec: SamplerSpec, cluster: FanOutSpec, here: bool) -> bool:
    """Whether a worker, on this machine if ``here``, could have a GPU, for all that is known without asking one."""
    if spec.device != "auto":
        return spec.device == "cuda"
    if not cluster.in_process and cluster.gpus_per_worker != "auto":
        return cluster.gpus_per_worker > 0
    return not here or has_gpu_files()


def _ask_worker(spec: SamplerSpec, cluster: FanOutSpec, say: Say, stop: StopFlag) -> SamplerSpec:
    found: dict[str, JSON] = {}
    causes: list[str] = []

    def on_event(event: Event) -> None:
        if event.kind == "unit_done":
            found.update(event.data)
        elif event.kind in ("worker_refused", "unit_failed"):
            causes.append(event.message)

    fields = open_fields(spec)
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
    worker = partial(make_probe_worker, spec.model_dump(mode="json"), share)
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
    return SamplerSpec.model_validate(spec.model_dump() | {name: found[name] for name in fields})


def _batch_line(found: dict[str, JSON]) -> str:
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
