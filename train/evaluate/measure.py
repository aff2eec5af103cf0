"""One pass of a model over a labelled set, by all ranks together.

In: a model with its statistics combined, an `OpenSet`. Out: `Counts` over all ranks, equal on each. On disk: nothing
but what the stream caches.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from cluster.ranks.group import Ranks
from shards.stream.read_all import read_all
from shards.stream.spec import EvalSpec
from train.evaluate.evaluate import Counts, OpenSet, count_batches, evaluating
from train.model.engine import EngineSpec, autocast
from train.model.input import to_input
from train.recipe import TrainRecipe


def measure(model: nn.Module, one: OpenSet, recipe: TrainRecipe, device: torch.device, ranks: Ranks) -> Counts:
    """Every sample once, by the index that was opened. The model is in evaluation mode meanwhile. Raises ValueError for
    a set that is not the same for all ranks, or of which a sample cannot be read."""
    digests = sorted(set(ranks.texts(one.digest)))
    if len(digests) > 1:
        raise ValueError(
            f"{one.name}: found a set with the digest {digests[0][:16]} on one rank and {digests[1][:16]} on another, "
            "expected one set; measure on data that all ranks see and nobody writes to"
        )
    chosen = EvalSpec(
        source=one.spec.source,
        size_px=recipe.data.size_px,
        crop_pct=recipe.evaluate.crop_pct,
        threads=recipe.data.threads,
        deadline_s=recipe.data.deadline_s,
        cache=recipe.data.cache,
    )
    with evaluating(model), torch.inference_mode():
        batches = read_all(chosen, one.opened.index, recipe.evaluate.batch, ranks.rank, ranks.world)
        found = count_batches(batches, lambda images: scores(model, images, recipe.engine, device), one.key)
    return found.from_array(ranks.add_up(torch.from_numpy(found.as_array())).numpy())


def scores(
    model: nn.Module, images: npt.NDArray[np.uint8], engine: EngineSpec, device: torch.device
) -> npt.NDArray[np.floating[Any]]:
    """Logits N C of pictures N H W C."""
    with autocast(engine, device):
        logits = model(to_input(images, device, channels_last=engine.channels_last))
    return logits.float().cpu().numpy()
