"""Measures a model on a labelled set, with all ranks.

In: a model with its statistics combined, an `OpenSet`, a function from pictures to scores. Out: `Counts` over all
ranks, equal on each, one for each way to score. On disk: only what the stream caches.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from cluster.ranks.group import Ranks
from shards.stream.read_all import read_all
from shards.stream.spec import StreamSpec
from train.evaluate.counts import Counts, Floats, Pixels, count_batches
from train.evaluate.evaluate import EvaluateSpec, OpenSet, evaluating
from train.model.engine import EngineSpec, autocast
from train.model.input import to_input
from train.model.normalisation import Normalisation


def measure(
    model: nn.Module,
    one: OpenSet,
    spec: EvaluateSpec,
    data: StreamSpec,
    scores: Callable[[Pixels], Sequence[Floats]],
    ranks: Ranks,
    num_ways: int = 1,
) -> list[Counts]:
    """Every sample once, by the index that was opened; pictures have the size that `data` says.

    `scores` asks `model`, which is in evaluation mode meanwhile, in `num_ways` ways: of each a number for each picture
    and output. Raises ValueError for a set that is not the same for all ranks, or of which a sample cannot be read.
    """
    digests = sorted(set(ranks.texts(one.digest)))
    if len(digests) > 1:
        raise ValueError(
            f"{one.name}: found a set with the digest {digests[0][:16]} on one rank and {digests[1][:16]} on another, "
            "expected one set; measure on data that all ranks see and nobody writes to"
        )
    chosen = data.shown(one.spec.source, spec.crop_pct)
    with evaluating(model), torch.inference_mode():
        batches = read_all(chosen, one.opened.index, spec.batch, ranks.rank, ranks.world)
        found = count_batches(batches, scores, one.key, one.n, ranks.rank, ranks.world, num_ways)
    return [one.from_array(ranks.add_up(torch.from_numpy(one.as_array())).numpy()) for one in found]


def logits_of(
    model: nn.Module, images: npt.NDArray[np.uint8], engine: EngineSpec, normal: Normalisation, device: torch.device
) -> npt.NDArray[np.floating[Any]]:
    """N C of pictures N H W C."""
    with autocast(engine, device):
        logits = model(to_input(images, device, normal, channels_last=engine.channels_last))
    return logits.float().cpu().numpy()
