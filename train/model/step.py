"""One step of a training: forward, loss, backward, the weights and their average.

In: what all steps have in common (`Descent`), then what makes the loss of each micro-batch, and a learning rate. Out:
`Stepped`. On disk: nothing.

Micro-batches of equal size, one after the other, are one step: gradients, losses and running statistics are their
means. If a picture's output depends on no other micro-batch (no batch normalisation, or one per group), that is the
step of one batch of them all, within rounding. If not (per rank), it is the step of as many ranks.

Knows neither the stream nor what decodes pictures, so that a step can be timed where these are not installed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from train.model.bn_statistics import MeanOfRuns
from train.model.ema import Ema
from train.model.engine import Engine, Forward
from train.model.optim import Loss


@dataclass(frozen=True)
class Stepped:
    """What came of a step."""

    numbers: Tensor  # (1 + parts,) on the device: the loss and its parts, means over the micro-batches
    names: tuple[str, ...]  # of the parts
    moved: bool  # False: loss or gradient was not finite, and the weights and their average stayed as they were

    @property
    def loss(self) -> float:
        """Waits until the device has done the step; `numbers.tolist()` gives all of them for one such wait."""
        return float(self.numbers[0])


class KeptBuffers:
    """The running statistics as they were before a step, copied in few calls: a ResNet-50 has 318 with aux BN."""

    def __init__(self, model: nn.Module) -> None:
        self._copies = [[buffer.clone() for buffer in _of_sort(model, is_float)] for is_float in (True, False)]

    def take(self, model: nn.Module) -> None:
        """Copy the model's buffers as they are now."""
        for copies, is_float in zip(self._copies, (True, False), strict=True):
            if copies:
                torch._foreach_copy_(copies, _of_sort(model, is_float))

    @torch.no_grad()
    def put_back(self, model: nn.Module) -> None:
        """Give the model the buffers of the last `take`."""
        for copies, is_float in zip(self._copies, (True, False), strict=True):
            if copies:
                torch._foreach_copy_(_of_sort(model, is_float), copies)


@dataclass(frozen=True, eq=False)
class Descent:
    """What all steps of a training have in common."""

    engine: Engine
    ema: Ema | None
    kept: KeptBuffers | None  # None: a step that does not move leaves the running statistics it has made

    def step(self, losses_of: Sequence[Callable[[Forward], Loss]], rate: float) -> Stepped:
        """Each of `losses_of` makes the loss of one micro-batch of this rank, as many as the engine's `accumulate`; the
        forward pass it is given is the engine's."""
        model = self.engine.model
        if self.kept is not None:
            self.kept.take(model)
        statistics = MeanOfRuns(model) if len(losses_of) > 1 else None
        numbers: list[Tensor] = []
        names: tuple[str, ...] = ()

        def total(loss_of: Callable[[Forward], Loss]) -> Tensor:
            nonlocal names
            if statistics is not None and numbers:
                statistics.next()
            loss = loss_of(self.engine.forward)
            numbers.append(torch.stack([loss.total.detach(), *loss.parts.values()]))
            names = tuple(loss.parts)
            return loss.total

        moved = self.engine.step([partial(total, loss_of) for loss_of in losses_of], rate)
        if statistics is not None:
            statistics.finish()
        if not moved and self.kept is not None:
            self.kept.put_back(model)
        if moved and self.ema is not None:
            self.ema.update(model)
        # left on the device: a step waits for one number only, the norm of its gradient
        return Stepped(torch.stack(numbers).mean(0), names, moved)


def _of_sort(model: nn.Module, is_float: bool) -> list[Tensor]:
    return [buffer for buffer in model.buffers() if buffer.is_floating_point() == is_float]
