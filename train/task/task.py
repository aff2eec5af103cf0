"""The protocol `Task`: what a training trains. The Session (`train.session.session`) does everything else.

A Task is a frozen object made of a recipe, equal on every rank. It builds the model, computes the loss of a batch,
measures the model, and exports the result. It knows nothing of steps, epochs, checkpoints, stop signals or logs. The
Session gives it what it needs: the ranks that have met, the device of this rank, the batches of the stream.

`train.task.classify` is the first Task. A small one is in `tests/support/brightness.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cluster.ranks.group import Ranks
from shards.stream.stream import Batch
from train.evaluate.data_check import Opened
from train.evaluate.evaluate import Counts
from train.evaluate.results import Role
from train.model.engine import Forward
from train.model.optim import Loss


@dataclass(frozen=True, eq=False)
class Measured:
    """What a model did on one set, over all ranks and equal on each."""

    set: str  # its name in the recipe
    role: Role
    digest: str  # of the set's index
    counts: Counts  # for the result line
    score: float  # 0..1, higher is better: on the validation set it chooses the checkpoint
    numbers: Mapping[str, float]  # for the log


class Task(Protocol):
    """See above. Every rank calls every function, at the same time, unless it says otherwise."""

    @property
    def metric(self) -> str:
        """What `Measured.score` is called, for people."""
        ...

    def check_data(self, domains: Sequence[Opened], ranks: Ranks) -> list[str]:
        """Look at the data before the first step; lines that say what could not be compared.

        `domains` are trained on; the sets to measure on are the Task's to open. No call may wait for other ranks here:
        one of them may build an index for an hour. Raises ValueError for data that must not be trained or measured on.
        """
        ...

    def build(self, device: torch.device) -> nn.Module:
        """The model with its initial weights, on the device. The recipe's seed alone decides them."""
        ...

    def loss(self, forward: Forward, batch: Batch, device: torch.device, ranks: Ranks) -> Loss:
        """What to descend of one batch.

        `forward` is the model in the engine's wrapper. It must make the forward pass: it is what brings the gradients
        of the ranks together, as their mean. A loss over the samples of all ranks gathers what it needs through
        `torch.distributed`; `ranks` says whether there are others. torch's generator stands at a seed of (the recipe's
        seed, step, rank), so what is drawn from it is drawn again after a kill. Raises ValueError for a batch that
        does not fit the model.
        """
        ...

    def measure(self, model: nn.Module, name: str, role: Role, device: torch.device, ranks: Ranks) -> Measured:
        """One set of `recipe.evaluate`. `model`: of `build`, with the weights that count, or of `finished`."""
        ...

    def keep(self, model: nn.Module) -> dict[str, Tensor]:
        """What is left of the model when it is chosen: copies on the CPU. Goes into checkpoints and into the export."""
        ...

    def finished(self, kept: Mapping[str, Tensor], device: torch.device) -> nn.Module:
        """The model that a reader of the export has, in evaluation mode."""
        ...

    def check_export(self, model: nn.Module, device: torch.device) -> None:
        """Before the first step and before the last word: is what `keep` keeps of this model all there is to it?

        Raises ValueError if not. `model` is that of `build`, in no wrapper, with the weights that count.
        """
        ...

    def export(self, folder: Path, kept: Mapping[str, Tensor], facts: Mapping[str, Any], last: nn.Module) -> None:
        """Write the result's files; rank 0 calls it alone. `last` is the model of the last step, without
        its average.

        `facts` say which step and weights these are. The file that `is_exported` asks for comes last.
        """
        ...

    def is_exported(self, folder: Path) -> bool:
        """Whether `export` has ended there."""
        ...
