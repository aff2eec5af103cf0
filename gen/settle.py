"""What a recipe leaves to the machine, decided once, before a run has an identity.

In: a recipe and the output it is for. Out: the same recipe without any ``auto`` in its sampler. Nothing is written here
but what `gen.batch_curve` keeps; the settled recipe goes into the output's `_meta/recipe.yaml` and fingerprint.

A run that has begun keeps what was decided then, whatever a machine would say today. `dtype` and `compile` follow from
whether workers have a GPU; `batch` is measured by one worker of the run's own kind, so that a driver without a GPU may
start a run on a cluster that has some.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from cluster.events import Event
from cluster.fan_out import fan_out
from cluster.signals import StopFlag
from cluster.work import JSON, Draining, FanOutSpec
from gen.batch_curve import make_curve_worker
from gen.diversify import Say
from gen.output import RUN, Store
from gen.recipe import Recipe
from gen.sampler import SamplerSpec

AUTO_FIELDS = ("dtype", "compile", "batch")
ATTEMPTS = 2  # at the one measurement


def settle(recipe: Recipe, store: Store, say: Say, stop: StopFlag) -> Recipe:
    """Raises ValueError or RuntimeError in one line if the batch cannot be measured, Draining on a stop."""
    spec = recipe.sampler
    if all(getattr(spec, name) != "auto" for name in AUTO_FIELDS):
        return recipe
    spec = as_begun(spec, store).decided(runs_on_gpu(spec, recipe.cluster))
    if spec.batch == "auto":
        spec = spec.model_copy(update={"batch": _measured_batch(spec, recipe.cluster, say, stop)})
    return recipe.model_copy(update={"sampler": spec})


def as_begun(spec: SamplerSpec, store: Store) -> SamplerSpec:
    """The spec with the values that the run in ``store`` began with, where the recipe says ``auto``."""
    try:
        begun: dict[str, Any] = json.loads(store.read_bytes(RUN))["identity"]["sampler"]
    except FileNotFoundError:
        return spec
    kept = {name: begun[name] for name in AUTO_FIELDS if getattr(spec, name) == "auto" and name in begun}
    return SamplerSpec.model_validate(spec.model_dump() | kept)


def runs_on_gpu(spec: SamplerSpec, cluster: FanOutSpec) -> bool:
    """Whether workers will have a GPU: the recipe says so, or else this machine has one."""
    if spec.device != "auto":
        return spec.device == "cuda"
    if not cluster.in_process and cluster.gpus_per_worker != "auto":
        return cluster.gpus_per_worker > 0
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists():
        return False  # and torch, seconds to import, is not asked
    import torch

    return torch.cuda.is_available()


def _measured_batch(spec: SamplerSpec, cluster: FanOutSpec, say: Say, stop: StopFlag) -> int:
    found: dict[str, JSON] = {}
    causes: list[str] = []

    def on_event(event: Event) -> None:
        if event.kind == "unit_done":
            found.update(event.data)
        elif event.kind in ("worker_refused", "unit_failed"):
            causes.append(event.message)

    alone = cluster.model_copy(update={"workers": 1, "straggler_factor": 0.0, "attempts": ATTEMPTS})
    say("sampler.batch: measuring how fast batches of 1, 2, 4, ... are (once for these settings and this device)")
    summary = fan_out(
        [0], partial(make_curve_worker, spec.model_dump(mode="json")), alone, on_event, stop, spec.threads
    )
    if summary.drained:
        raise Draining("stopped on request while the batch was measured")
    batch = found.get("batch")
    if not isinstance(batch, int):
        cause = summary.error or (causes[-1] if causes else "no worker answered")
        raise RuntimeError(f"sampler.batch: auto could not be measured ({cause}); set sampler.batch to a number")
    say(f"sampler.batch: {batch} (images/s by batch: {json.dumps(found['rates'])}, {found['ended']})")
    return batch
