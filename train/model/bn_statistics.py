"""Running statistics of batch normalisation: combined over ranks, and compared between domains.

In: a model with BN layers, converted by train.model.aux_bn or not, on every rank of a process group. Out: the same
tensors, changed in place, equal on all ranks; a table of distances. On disk: nothing.

DDP copies one rank's buffers and DeepSpeed none, so each rank's running statistics are those of its own samples. Call
`combine` before evaluation, before the EMA is exported and before saving; training goes on from its result.

Shapes: C channels.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from train.model.aux_bn import aux_layers


def broadcast_buffers(model: nn.Module, process_group: dist.ProcessGroup | None = None) -> None:
    """Give every rank the buffers of rank 0; call it once, before the first step."""
    if not _several_ranks(process_group):
        return
    for buffer in model.buffers():
        dist.broadcast(buffer, group_src=0, group=process_group)


def combine(
    model: nn.Module, state: Mapping[str, Tensor] | None = None, process_group: dist.ProcessGroup | None = None
) -> None:
    """Replace each rank's running statistics, main and auxiliary, by those of all ranks' samples together.

    `state`: tensors under the model's names, such as an EMA's, to change instead of the model's own. Ranks saw equally
    many samples, so the mean is E[x] and the variance E[x^2] - E[x]^2 over ranks; it is computed in fp64 as the mean of
    var + (mean - E[x])^2, which is the same without cancellation. With statistics per group the variance is the mean
    over groups, so that the number of groups does not matter. A second call changes nothing. Raises ValueError on every
    rank if ranks have counted different numbers of batches.
    """
    if not _several_ranks(process_group):
        return
    tensors = model.state_dict() if state is None else state
    layers = list(_running(model))
    if not layers:
        return
    _check_counts([tensors[f"{name}num_batches_tracked"] for name, _ in layers], process_group)
    means = [tensors[f"{name}running_mean"] for name, _ in layers]
    variances = [tensors[f"{name}running_var"] for name, _ in layers]
    own_mean = torch.cat([mean.double() for mean in means])
    between = torch.cat(
        [
            torch.full_like(mean, 0.0 if per_group else 1.0).double()
            for mean, (_, per_group) in zip(means, layers, strict=True)
        ]
    )
    mean = _average(own_mean, process_group)
    own_var = torch.cat([var.double() for var in variances])
    var = _average(own_var + between * (own_mean - mean).square(), process_group)
    sizes = [tensor.numel() for tensor in means]
    for kept, new in zip(means + variances, mean.split(sizes) + var.split(sizes), strict=True):
        kept.copy_(new)


def groups_together(model: nn.Module, groups: int, ranks: int, accumulate: int) -> int | None:
    """How many of the `groups` of a step share batch statistics: those of a rank's micro-batch, of all ranks'
    micro-batches, or one. None for a model whose training takes no batch statistics."""
    if not any(isinstance(layer, _BatchNorm) and layer.training for layer in model.modules()):
        return None
    layers = aux_layers(model).values()
    if any(layer.per_group for layer in layers):
        return 1
    return groups // (accumulate if any(layer.sync for layer in layers) else accumulate * ranks)


class MeanOfRuns:
    """The running statistics of a step of several micro-batches: each begins with those before the step, and the mean
    of what they come to stays. So the step counts once, and weighs as one over all groups together would."""

    def __init__(self, model: nn.Module) -> None:
        """To be made before the first micro-batch."""
        layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
        pairs = [(layer.running_mean, layer.running_var) for layer in layers]
        self._live = [tensor for pair in pairs for tensor in pair if tensor is not None]
        self._counts = [layer.num_batches_tracked for layer in layers if layer.num_batches_tracked is not None]
        self._before = [[one.clone() for one in sort] for sort in (self._live, self._counts)]
        self._mean: list[Tensor] = []
        self._num = 0

    @torch.no_grad()
    def next(self) -> None:
        """After a micro-batch that is not the last: take what it came to, and begin anew."""
        self._add()
        for live, before in zip((self._live, self._counts), self._before, strict=True):
            if live:
                torch._foreach_copy_(live, before)

    @torch.no_grad()
    def finish(self) -> None:
        """After the last one: the model has the mean."""
        self._add()
        if self._live:
            torch._foreach_copy_(self._live, self._mean)

    def _add(self) -> None:
        self._num += 1
        if self._num == 1:
            self._mean = [one.clone() for one in self._live]
        elif self._live:
            torch._foreach_lerp_(self._mean, self._live, 1 / self._num)


@dataclass(frozen=True)
class Distance:
    """How far the statistics of an auxiliary domain are from the main ones, in one layer; means over channels."""

    layer: str
    domain: int  # 1 is the first auxiliary one
    symmetric_kl: float  # nats, between the two normal distributions, mean of both directions
    standardised_difference: float  # |difference of means| / root of the mean variance
    log_variance_ratio: float  # |log(auxiliary variance / main variance)|


def distances(model: nn.Module) -> list[Distance]:
    """The distances in all layers with running statistics, in the model's order, of each auxiliary domain.

    The input of a layer has passed the domain's own affine maps in earlier layers, so a late layer shows what remains
    of the shift.
    """
    rows = []
    for name, layer in aux_layers(model).items():
        main, *others = layer.branches()
        if main.running_mean is None or main.running_var is None:
            continue
        mean_C, var_C = main.running_mean.double(), main.running_var.double() + layer.eps
        for domain, other in enumerate(others, start=1):
            assert other.running_mean is not None
            assert other.running_var is not None
            other_C = other.running_var.double() + layer.eps
            square_C = (other.running_mean.double() - mean_C).square()
            kl_C = ((var_C + square_C) / other_C + (other_C + square_C) / var_C - 2) / 4
            rows.append(
                Distance(
                    name,
                    domain,
                    float(kl_C.mean()),
                    float((square_C / ((var_C + other_C) / 2)).sqrt().mean()),
                    float((other_C / var_C).log().abs().mean()),
                )
            )
    return rows


def _running(model: nn.Module) -> Iterator[tuple[str, bool]]:
    """For each layer with running statistics: the prefix of its names, and whether its statistics are per group."""
    per_group: set[nn.Module] = set()
    for layer in aux_layers(model).values():
        if layer.per_group:
            per_group |= set(layer.branches())
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            yield (f"{name}." if name else ""), module in per_group


def _several_ranks(process_group: dist.ProcessGroup | None) -> bool:
    return dist.is_initialized() and dist.get_world_size(process_group) > 1


def _average(tensor: Tensor, process_group: dist.ProcessGroup | None) -> Tensor:
    total = tensor.clone()
    dist.all_reduce(total, group=process_group)
    return total / dist.get_world_size(process_group)


def _check_counts(counts: list[Tensor], process_group: dist.ProcessGroup | None) -> None:
    """Raise ValueError, the same on every rank, unless all ranks have counted the same number of batches."""
    own = torch.stack([count.reshape(()) for count in counts])
    least, most = own.clone(), own.clone()
    dist.all_reduce(least, dist.ReduceOp.MIN, group=process_group)
    dist.all_reduce(most, dist.ReduceOp.MAX, group=process_group)
    if not torch.equal(least, most):
        layer = int(torch.nonzero(least != most)[0])
        raise ValueError(
            f"BN statistics: found between {int(least[layer])} and {int(most[layer])} batches counted on different "
            "ranks, expected the same number; give every rank equally many steps, and resume all from one checkpoint"
        )
