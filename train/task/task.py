"""The Task protocol: what is trained. A Session (`train.session.session`) does everything else.

A Task is a frozen object, made from a recipe and equal on every rank. It says what the model is, which loss a step
reduces, how the model is measured, and what is exported. It knows nothing of steps, epochs, checkpoints, stop signals
or logs. The Session passes it the ranks, the device of this rank and the batches of the stream.

`train/task/classify.py` is the first Task; `tests/support/brightness.py` is one of less than 100 lines.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cluster.ranks.group import Ranks
from shards.stream.stream import Batch
from train.evaluate.counts import Counts
from train.evaluate.data_check import Opened
from train.evaluate.results import Role, by_branch
from train.model.engine import Forward
from train.model.optim import Loss


@dataclass(frozen=True, eq=False)
class Measured:
    """The result of a model on one set. It covers all ranks and is equal on each."""

    set: str  # its name in the recipe
    role: Role
    digest: str  # of the set's index
    counts: Counts  # for the result line
    branches: Mapping[str, Counts]  # of other ways to answer: `train.evaluate.results.by_branch`
    score: float  # 0..1, higher is better: on the validation set it chooses the checkpoint, and a sweep's settings
    numbers: Mapping[str, float]  # for the log
    said: str | None = None  # for people, where the score alone says too little
    pictures: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)  # name -> HWC, on rank 0, for the log

    @property
    def text(self) -> str:
        """The score for people: "90.12 % (88.30 % with the batch normalisation of synthetic)"."""
        if self.said is not None:
            return self.said
        others = [f"{100 * one.top1:.2f} % {by_branch(name)}" for name, one in self.branches.items()]
        return f"{100 * self.score:.2f} %" + (f" ({', '.join(others)})" if others else "")


class Task(Protocol):
    """What a Session asks of a Task. All ranks call each function together, unless it says otherwise."""

    @property
    def metric(self) -> str:
        """The name of what `Measured.counts` has at top 1, for people."""
        ...

    def check_data(self, domains: Sequence[Opened], ranks: Ranks) -> list[str]:
        """Check the data before the first step. Returns lines that say what could not be compared.

        `domains` are the data to train on; the Task opens the sets to measure on. It must not wait for other ranks
        here: one of them may build an index for an hour. Raises ValueError for data that must not be used.
        """
        ...

    def build(self, device: torch.device) -> nn.Module:
        """The model with its initial weights, on the device. The weights depend on the recipe alone."""
        ...

    def loss(self, forward: Forward, batch: Batch, device: torch.device, ranks: Ranks) -> Loss:
        """The loss of this rank's batch, or of one of its `engine.accumulate` equal parts, whose mean a step descends.

        `forward` calls the model through the engine's wrapper, which averages the gradients over the ranks: make the
        forward pass with it. A loss over the samples of all ranks gathers what it needs through `torch.distributed`;
        `ranks` says whether there are others. torch's generator gets a seed at the beginning of a step that depends on
        (recipe's seed, step, rank), so a training that goes on draws the same numbers. Raises ValueError for a batch
        that does not fit the model.
        """
        ...

    def measure(self, model: nn.Module, name: str, role: Role, device: torch.device, ranks: Ranks) -> Measured:
        """Measure on one set of `recipe.evaluate`. `model` came from `build` (and holds the average of its weights, if
        the recipe asks for one) or from `finished`."""
        ...

    def keep(self, model: nn.Module) -> dict[str, Tensor]:
        """The tensors to keep when this model is chosen: copies on the CPU, for checkpoints, tests and the export."""
        ...

    def finished(self, kept: Mapping[str, Tensor], device: torch.device) -> nn.Module:
        """A model that answers as the one that a reader of the export gets, in evaluation mode."""
        ...

    def check_export(self, model: nn.Module, device: torch.device) -> None:
        """Raises ValueError unless the tensors of the export are all that the model's output depends on.

        Called before the first step, so that a training of days does not end without a result, and at the end.
        """
        ...

    def export(self, folder: Path, kept: Mapping[str, Tensor], facts: Mapping[str, Any], last: nn.Module) -> None:
        """Write the files of the result. Only rank 0 calls it.

        `facts` say which step and weights these are; `last` is the model of the last step, not its average. Write last
        the file that `is_exported` looks for.
        """
        ...

    def is_exported(self, folder: Path) -> bool:
        """Whether `export` has written all files there."""
        ...
