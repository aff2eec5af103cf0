"""The live weights of a training: the model in its engine, and the moving average.

In: a Task, a recipe, the ranks. Out: `Weights`. On disk: nothing; `train.session.run_state` puts them into a
checkpoint.
"""

import contextlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from cluster.ranks.group import Ranks
from train.model.bn_statistics import broadcast_buffers, combine, groups_together
from train.model.ema import Ema
from train.model.engine import Engine, make_engine
from train.recipe import TrainRecipe
from train.task.task import Task


@dataclass(frozen=True, eq=False)
class Weights:
    """The model and its average. Each rank's running statistics differ until they are combined."""

    engine: Engine
    ema: Ema | None
    bn_groups: int | None  # see train.model.bn_statistics.groups_together

    @property
    def model(self) -> nn.Module:
        """The bare model, without the wrapper of DDP or DeepSpeed."""
        return self.engine.model

    @property
    def which(self) -> Literal["ema", "last"]:
        """Which weights are measured, chosen and exported: the average, if there is one."""
        return "last" if self.ema is None else "ema"

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Inside the block the model holds the average, if there is one; afterwards its own weights, bit for bit."""
        return contextlib.nullcontext() if self.ema is None else self.ema.swapped(self.model)

    def combine(self) -> None:
        """Give every rank the running statistics of all ranks together. All ranks call it."""
        combine(self.model)
        if self.ema is not None:
            combine(self.model, self.ema.tensors)


def make_weights(task: Task, recipe: TrainRecipe, device: torch.device, ranks: Ranks) -> Weights:
    """The weights before the first step, equal on all ranks. All ranks call it."""
    model = task.build(device)
    groups, count = recipe.schedule.groups, recipe.engine.accumulate
    rank_batch = groups // (ranks.world * count) * sum(recipe.quotas)
    engine = make_engine(recipe.engine, recipe.optim, model, device, rank_batch)
    broadcast_buffers(model)
    ema = None if recipe.optim.ema_decay is None else Ema(model, recipe.optim.ema_decay)
    return Weights(engine, ema, groups_together(model, groups, ranks.world, count))
