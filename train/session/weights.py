"""The weights of a training in memory: the model's, their moving average, and each rank's own running statistics.

In: a Task, a recipe, the ranks. Out: `Weights`. On disk: nothing; `train.session.run_state` takes them into a
checkpoint.
"""

import contextlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from cluster.ranks.group import Ranks
from train.model.bn_statistics import broadcast_buffers, combine
from train.model.ema import Ema
from train.model.engine import Engine, make_engine
from train.recipe import TrainRecipe
from train.task.task import Task


@dataclass(frozen=True, eq=False)
class Weights:
    """Live objects. Each rank has running statistics of its own until they are combined."""

    engine: Engine
    ema: Ema | None

    @property
    def model(self) -> nn.Module:
        """In no wrapper."""
        return self.engine.model

    @property
    def which(self) -> Literal["ema", "last"]:
        """The weights that count: those that are measured, chosen and exported."""
        return "last" if self.ema is None else "ema"

    def counting(self) -> contextlib.AbstractContextManager[None]:
        """Within it the model holds the weights that count; afterwards it is as before, bit for bit."""
        return contextlib.nullcontext() if self.ema is None else self.ema.swapped(self.model)

    def combine(self) -> None:
        """Make the running statistics of all ranks one. All ranks call it."""
        combine(self.model)
        if self.ema is not None:
            combine(self.model, self.ema.tensors)


def make_weights(task: Task, recipe: TrainRecipe, device: torch.device, ranks: Ranks) -> Weights:
    """As they are before the first step, equal on all ranks, which all call it."""
    model = task.build(device)
    rank_batch = recipe.schedule.groups // ranks.world * sum(recipe.quotas)
    engine = make_engine(recipe.engine, recipe.optim, model, device, rank_batch)
    broadcast_buffers(model)
    return Weights(engine, None if recipe.optim.ema_decay is None else Ema(model, recipe.optim.ema_decay))
