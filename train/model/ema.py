"""The exponential moving average (EMA) of a model: every parameter and buffer, by name.

In: a model after conversion by train.model.aux_bn, and a call after each step. Out: averaged tensors under the model's
names, auxiliary BN included. On disk: nothing of its own; a checkpoint stores `tensors` and `num_updates`.

Running statistics are averaged too, on each rank its own, so call train.model.bn_statistics.combine with `tensors`
before they are used. Whole numbers (counted batches) are copied.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """The averaged tensors, in fp32 at least and on the model's device."""

    def __init__(self, model: nn.Module, decay: float, warm_up: bool = True) -> None:
        """Start from the model as it is now. With `warm_up` the decay of update n is at most (1 + n) / (10 + n)."""
        if not 0 <= decay < 1:
            raise ValueError(f"EMA: found the decay {decay}, expected at least 0 and below 1")
        self.decay = decay
        self.warm_up = warm_up
        self.num_updates = 0
        self.tensors: dict[str, Tensor] = {name: _wide(live).clone() for name, live in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Average in the model as it is now. Raises ValueError if its names have changed since the start."""
        live = model.state_dict()
        _check_names(self.tensors, live)
        n = self.num_updates
        decay = min(self.decay, (1 + n) / (10 + n)) if self.warm_up else self.decay
        averaged = [name for name, tensor in self.tensors.items() if tensor.is_floating_point()]
        torch._foreach_lerp_(
            [self.tensors[name] for name in averaged], [_wide(live[name]) for name in averaged], 1 - decay
        )
        for name, tensor in self.tensors.items():
            if not tensor.is_floating_point():
                tensor.copy_(live[name])
        self.num_updates = n + 1

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], num_updates: int) -> None:
        """Go on from a checkpoint's tensors. Raises ValueError unless names, shapes and types are the model's."""
        _check_names(self.tensors, tensors)
        for name, tensor in self.tensors.items():
            if tensor.shape != tensors[name].shape or tensor.dtype != tensors[name].dtype:
                raise ValueError(
                    f"EMA: found {name} as {tensors[name].dtype} {list(tensors[name].shape)}, expected {tensor.dtype} "
                    f"{list(tensor.shape)}; resume with the model the checkpoint was made with"
                )
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])
        self.num_updates = num_updates

    @contextmanager
    def swapped(self, model: nn.Module) -> Iterator[None]:
        """Put the averaged tensors into the model; afterwards its own are back, bit for bit."""
        live = model.state_dict()
        _check_names(self.tensors, live)
        kept = {name: tensor.clone() for name, tensor in live.items()}
        try:
            _copy_into(live, self.tensors)
            yield
        finally:
            _copy_into(live, kept)


def _wide(tensor: Tensor) -> Tensor:
    """The tensor in fp32 if its type is smaller: with decay 0.9999 bf16 would round every update away."""
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor


@torch.no_grad()
def _copy_into(live: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> None:
    for name, tensor in live.items():
        tensor.copy_(new[name])


def _check_names(known: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    for name in sorted(known.keys() ^ given.keys()):
        expected = "it" if name in known else "no such tensor"
        raise ValueError(
            f"EMA: found {'no' if name in known else 'the'} tensor {name}, expected {expected}; create the EMA after "
            "the model is converted, from the model that no wrapper holds"
        )
