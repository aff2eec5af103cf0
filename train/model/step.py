"""One step of a training: forward, loss, backward, the weights and their average.

In: what all steps have in common (`Descent`), then what makes the loss, and a learning rate. Out: `Stepped`. On disk:
nothing.

Knows neither the stream nor what decodes pictures, so that a step can be timed where these are not installed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from train.model.ema import Ema
from train.model.engine import Engine, Forward
from train.model.optim import Loss


@dataclass(frozen=True)
class Stepped:
    """What came of a step."""

    numbers: Tensor  # (1 + parts,) on the device: the loss and its parts
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

    def step(self, loss_of: Callable[[Forward], Loss], rate: float) -> Stepped:
        """`loss_of` makes the loss of this rank's batch; the forward pass it is given is the engine's."""
        model = self.engine.model
        if self.kept is not None:
            self.kept.take(model)
        loss = loss_of(self.engine.forward)
        moved = self.engine.step(loss.total, rate)
        if not moved and self.kept is not None:
            self.kept.put_back(model)
        if moved and self.ema is not None:
            self.ema.update(model)
        # left on the device: a step waits for one number only, the norm of its gradient
        return Stepped(torch.stack([loss.total.detach(), *loss.parts.values()]), tuple(loss.parts), moved)


def _of_sort(model: nn.Module, is_float: bool) -> list[Tensor]:
    return [buffer for buffer in model.buffers() if buffer.is_floating_point() == is_float]
