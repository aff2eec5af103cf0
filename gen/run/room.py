"""Whether the models of a run fit into memory, said before they are loaded.

In: a recipe, and what its workers hold beside its model. Out: a sentence, or a refusal. On disk, read only: configs of
the models and headers of their weights.
"""

import os
from collections.abc import Callable
from dataclasses import replace

from cluster.fan_out.fan_out import stays_here
from cluster.process.machine import usable_cores
from gen.model.folder import ModelFolder, open_model
from gen.run.auto import may_have_gpu
from gen.run.recipe import Recipe
from gen.sampler.memory import BYTES, NOTHING, Beside, Need, Room, advice_on, need_of, refuse_too_large, room_here
from shards.disk.amounts import size_text
from shards.disk.home import home


def need_and_room(recipe: Recipe, folder: ModelFolder, beside: Beside) -> tuple[Need, Room | None]:
    """What a worker needs and can have; None where the workers are elsewhere, or nobody can tell."""
    here = stays_here(recipe.cluster, os.environ)
    on_gpu = may_have_gpu(recipe.sampler, recipe.cluster, here)
    need = need_of(recipe.sampler, folder, on_gpu)
    num_bytes = beside.numbers * BYTES[need.dtype]
    if on_gpu and beside.most_bytes is not None:
        num_bytes = max(0, min(need.weights + num_bytes, beside.most_bytes) - need.weights)
    need = replace(need, beside=num_bytes)
    if not here:
        return need, None
    asked, workers = recipe.cluster.workers, 1
    if not recipe.cluster.in_process:
        workers = asked if asked != "auto" else max(1, usable_cores() // recipe.cluster.cpus_per_worker)
    share = recipe.cluster.gpus_per_worker
    return need, room_here(on_gpu, workers, 1.0 if share == "auto" or recipe.cluster.in_process else share)


def describe_room(recipe: Recipe, folder: ModelFolder, beside: Beside = NOTHING) -> str:
    """What a worker needs, beside what there is here."""
    need, room = need_and_room(recipe, folder, beside)
    if room is None:
        return need.sentence()
    advice = advice_on(need, room)
    there = f"{room.where}: {size_text(room.bytes)}"
    return f"{need.sentence()}; {there}" + (f"; it may not fit: {advice}" if advice else "")


def check_room(recipe: Recipe, say: Callable[[str], None], beside: Beside = NOTHING) -> None:
    """Tells what may not fit. Raises ModelError for weights that cannot fit."""
    folder = open_model(recipe.sampler.model, recipe.sampler.revision, recipe.sampler.variant, home())
    need, room = need_and_room(recipe, folder, beside)
    if room is None:
        return
    refuse_too_large(need, room, recipe.sampler.model)
    if advice := advice_on(need, room):
        say(f"memory: {need.sentence()}; found {size_text(room.bytes)} for {room.where}; it may not fit: {advice}")
