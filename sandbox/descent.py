"""What the trainings of all parts of the sandbox share: the learning rate's course, a step, and the loss that is shown.

In: a loss a step. Out: the model has moved; the smoothed loss is told every 50 steps. On disk: nothing.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

REPORT_STEPS = 50
SMOOTH = 0.98  # share of the loss that is shown that each step keeps


def one_cycle(step: int, num_steps: int, warmup: int = 100) -> float:
    """The factor on the peak learning rate: a linear warm-up, then a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))


class Descent:
    """Steps of an optimizer, in float32: on a CPU without instructions for it bfloat16 takes 25 times as long.

    Its own state is the number of steps and the smoothed loss; all else is the optimizer's.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        rate: Callable[[int], float],
        report: Callable[[int, float], None],
        clip: float | None = 1.0,
    ) -> None:
        """`rate(step)` is the learning rate, `report(steps done, smoothed loss)` is called every 50 steps, `clip` the
        largest norm of all gradients; None: any."""
        self.optimizer, self.rate, self.report, self.clip = optimizer, rate, report, clip
        self.done = 0
        self.smooth = 0.0

    def step(self, loss: Tensor) -> None:
        """Move all parameters by the gradient of `loss`."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.done)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], self.clip)
        self.optimizer.step()
        value = loss.item()
        self.smooth = SMOOTH * self.smooth + (1 - SMOOTH) * value if self.done else value
        self.done += 1
        if self.done % REPORT_STEPS == 0:
            self.report(self.done, self.smooth)
