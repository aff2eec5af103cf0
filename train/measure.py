"""One pass of a model over a labelled set, by all ranks together.

In: a model with its statistics combined, a `SetSpec`. Out: `Measured`, equal on all ranks. On disk: nothing but what
the stream caches.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from shards.index import load_index
from shards.stream import EvalSpec, read_all
from train.engine import EngineSpec, autocast
from train.evaluate import Counts, SetSpec, answer_key, count_batches, evaluating, read_label_map
from train.launch import Ranks
from train.mixing import to_input
from train.recipe import TrainRecipe


@dataclass(frozen=True, eq=False)
class Measured:
    """What was counted over all ranks, and of which pictures."""

    counts: Counts
    digest: str  # of the set's index


def measure(model: nn.Module, spec: SetSpec, recipe: TrainRecipe, device: torch.device, ranks: Ranks) -> Measured:
    """Every sample once. The model is in evaluation mode meanwhile. Raises ValueError for a set that cannot be
    scored."""
    index = load_index(spec.source, spec.subset, recipe.data.cache.folder)
    label_map = read_label_map(spec.labels) if spec.labels is not None else None
    key = answer_key(spec, (int(label) for label in np.unique(index.label)), recipe.model.num_classes, label_map)
    chosen = EvalSpec(
        source=spec.source,
        subset=spec.subset,
        size_px=recipe.data.size_px,
        crop_pct=recipe.crop_pct,
        threads=recipe.data.threads,
        deadline_s=recipe.data.deadline_s,
        cache=recipe.data.cache,
    )
    with evaluating(model), torch.inference_mode():
        batches = read_all(chosen, recipe.evaluate.batch, ranks.rank, ranks.world)
        found = count_batches(batches, lambda images: scores(model, images, recipe.engine, device), key)
    total = found.from_array(ranks.add_up(torch.from_numpy(found.as_array())).numpy())
    return Measured(total, index.digest)


def scores(
    model: nn.Module, images: npt.NDArray[np.uint8], engine: EngineSpec, device: torch.device
) -> npt.NDArray[np.floating[Any]]:
    """Logits N C of pictures N H W C."""
    with autocast(engine, device):
        logits = model(to_input(images, device, channels_last=engine.channels_last))
    return logits.float().cpu().numpy()
