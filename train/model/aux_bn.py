"""Auxiliary batch normalisation: each domain of a mixed batch has its own statistics, and perhaps its own affine map.

In: a model with batch normalisation, and the quotas of a group, the main domain first: (16, 16) is 16 real samples,
then 16 synthetic ones. Out: the same model, its BN layers replaced in place. On disk: nothing; in a state dict the main
layer keeps its plain names, and domain d > 0 is under `<layer>.aux_bn.<d - 1>.`.

In training a batch is a whole number of groups, and a sample's place in its group says its domain. The main layer sees
only the first domain, auxiliary layer d - 1 only domain d. In evaluation everything goes through the main layer, so the
tensors without `.aux_bn.` in their names are a complete plain model; `on_branch` shows what another layer would say.

Every domain has its own scale and shift too, as in AdvProp (Xie et al. 2020) and timm's split BN. With `shared_affine`
all use those of the main layer, and an auxiliary layer holds statistics alone.

Statistics are taken over a rank's slice (all its groups together), over one group (`per_group`: then a sample's output
does not depend on the number of groups), or over all ranks (`convert_sync`).

Shapes: N samples of a rank's batch, C channels, R ranks.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

Affine = tuple[Tensor | None, Tensor | None]  # scale and shift, (C,) each


class AuxBatchNorm(_BatchNorm):
    """A BN layer of a converted model: that of the main domain, which holds one more layer for each other domain."""

    def __init__(
        self, plain: _BatchNorm, where: str, quotas: tuple[int, ...], per_group: bool, shared_affine: bool
    ) -> None:
        """Uses the tensors of `plain` themselves, and copies of them for every other domain."""
        super().__init__(plain.num_features, plain.eps, plain.momentum, affine=False, track_running_stats=False)
        self.where = where
        self.quotas = quotas
        self.per_group = per_group
        self.shared_affine = shared_affine
        self.shown = 0  # the domain whose statistics are used in evaluation
        self.sync = False
        self.process_group: dist.ProcessGroup | None = None  # for sync; None: all ranks
        self.affine, self.track_running_stats = plain.affine, plain.track_running_stats
        self.weight, self.bias = plain.weight, plain.bias
        self.running_mean, self.running_var = plain.running_mean, plain.running_var
        self.num_batches_tracked = plain.num_batches_tracked
        self.drop = getattr(plain, "drop", nn.Identity())  # timm's BatchNormAct2d ends with these two
        self.act = getattr(plain, "act", nn.Identity())
        self.aux_bn = nn.ModuleList(_copy(plain, shared_affine) for _ in quotas[1:])
        self.training = plain.training

    def forward(self, x: Tensor) -> Tensor:
        """x normalised, of any shape (N, C, ...). In training raises ValueError if N is no whole number of groups, or
        if a slice is too small."""
        if self.training:
            y = self._by_domain(x)
        else:
            layer = self.branches()[self.shown]
            mean, var, affine = layer.running_mean, layer.running_var, self._affine_of(layer)
            y = F.batch_norm(x, mean, var, *affine, mean is None, 0.0, self.eps)
        return self.act(self.drop(y))

    def _by_domain(self, x: Tensor) -> Tensor:
        num_domains = len(self.quotas)
        num_groups, rest = divmod(x.shape[0], sum(self.quotas))
        if rest:
            raise ValueError(
                f"{self.where}: found a batch of {x.shape[0]}, expected a whole number of groups of "
                f"{' + '.join(map(str, self.quotas))}; give every rank whole groups"
            )
        values = x[0, 0].numel() * (1 if self.per_group else num_groups) * min(self.quotas) if x.shape[0] else 0
        if values < 2:
            raise ValueError(
                f"{self.where}: found a slice with {values} values per channel, expected at least 2 to have a "
                "variance; raise the smallest quota"
            )
        if num_domains == 1 and not self.per_group:
            return self._normalise_slice(x, self)
        pieces = x.split(list(self.quotas) * num_groups)
        out: list[Tensor] = [x] * len(pieces)
        for domain, layer in enumerate(self.branches()):
            mine = pieces[domain::num_domains]
            if self.per_group:
                out[domain::num_domains] = _normalise_each(mine, layer, self._affine_of(layer))
            else:
                whole = mine[0] if num_groups == 1 else torch.cat(mine)  # cat keeps channels_last, reshape does not
                out[domain::num_domains] = self._normalise_slice(whole, layer).split(self.quotas[domain])
        return torch.cat(out)

    def _normalise_slice(self, x: Tensor, layer: _BatchNorm) -> Tensor:
        affine = self._affine_of(layer)
        if self.sync:
            return _normalise_over_ranks(x, layer, affine, self.process_group)
        return _normalise(x, layer, affine)

    def _affine_of(self, layer: _BatchNorm) -> Affine:
        owner = self if self.shared_affine else layer
        return owner.weight, owner.bias

    def branches(self) -> list[_BatchNorm]:
        """The layer of each domain; the first is this module itself."""
        return [self, *self.aux_bn]

    def extra_repr(self) -> str:
        """What `print(model)` shows of this layer."""
        own = f"per_group={self.per_group}, shared_affine={self.shared_affine}, sync={self.sync}"
        return f"{super().extra_repr()}, quotas={self.quotas}, {own}"

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.dim() >= 2


def convert(model: nn.Module, quotas: Sequence[int], per_group: bool = False, shared_affine: bool = False) -> nn.Module:
    """Replace each BN layer of the model by an AuxBatchNorm, in place; a second call changes nothing.

    Training flags, requires_grad, dtype, device, momentum, eps, activation and dropout stay. InstanceNorm and frozen BN
    (`Survey.frozen`) are not replaced. Create the optimiser and the EMA afterwards. Raises ValueError for a model
    without BN, for one converted with other quotas, and for an unknown kind of layer with running statistics.
    """
    split = tuple(quotas)
    if not split or min(split) < 1:
        raise ValueError(f"aux BN: found the quotas {list(split)}, expected at least one sample of each domain")
    found = survey(model)
    if found.unknown:
        raise ValueError(f"aux BN: found {found.unknown[0]}, expected BatchNorm1d, 2d, 3d or BatchNormAct2d")
    if not found.plain and not found.aux:
        raise ValueError("aux BN: found no layer of batch normalisation, expected at least one; set model.aux: none")
    for name, layer in aux_layers(model).items():
        there = (layer.quotas, layer.per_group, layer.shared_affine)
        if there != (split, per_group, shared_affine):
            raise ValueError(
                f"aux BN: found {name} already split as {list(layer.quotas)}, per_group={layer.per_group}, "
                f"shared_affine={layer.shared_affine}, expected {list(split)}, per_group={per_group}, "
                f"shared_affine={shared_affine}; build the model anew"
            )
    made: dict[nn.Module, AuxBatchNorm] = {}  # a layer used in two places stays one layer
    for name, module in _walk(model):
        if isinstance(module, _BatchNorm) and type(module) in _plain_types():
            made[module] = AuxBatchNorm(module, name or "model", split, per_group, shared_affine)
    for _, parent in list(_walk(model)):
        for name, child in parent._modules.items():
            if child in made:
                setattr(parent, name, made[child])
    return made.get(model, model)


def convert_sync(model: nn.Module, process_group: dist.ProcessGroup | None = None) -> nn.Module:
    """Let a converted model take every domain's statistics over all ranks, in place.

    Every rank must have the same number of groups. Raises ValueError if a layer was not converted or is `per_group`.
    torch's own converter would replace the split by one shared layer.
    """
    found = survey(model)
    layers = aux_layers(model)
    if found.plain or not layers:
        what = f"{found.plain[0]} not converted" if found.plain else "no converted layer"
        raise ValueError(f"aux BN over ranks: found {what}, expected every BN layer to be; call convert first")
    for name, layer in layers.items():
        if layer.per_group:
            raise ValueError(f"aux BN over ranks: found {name} with statistics per group; choose one of the two")
    for layer in layers.values():
        layer.sync, layer.process_group = True, process_group
    return model


@dataclass(frozen=True)
class Survey:
    """The names of the layers with running statistics: converted, to be converted, left as they are, unknown."""

    aux: tuple[str, ...]
    plain: tuple[str, ...]
    frozen: tuple[str, ...]  # FrozenBatchNorm of timm and torchvision: constants, the same for every domain
    unknown: tuple[str, ...]  # name and type


def survey(model: nn.Module) -> Survey:
    """Sort all layers with running statistics, except InstanceNorm."""
    aux, plain, frozen, unknown = [], [], [], []
    for name, module in _walk(model):
        shown = name or "model"
        if isinstance(module, AuxBatchNorm):
            aux.append(shown)
        elif type(module) in _plain_types():
            plain.append(shown)
        elif type(module).__name__.startswith("FrozenBatchNorm"):
            frozen.append(shown)
        elif isinstance(module, _BatchNorm) or (
            "running_var" in module._buffers and not isinstance(module, _InstanceNorm)
        ):
            unknown.append(f"{shown} of type {type(module).__name__}")
    return Survey(tuple(aux), tuple(plain), tuple(frozen), tuple(unknown))


def aux_layers(model: nn.Module) -> dict[str, AuxBatchNorm]:
    """The converted layers by name, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AuxBatchNorm)}


def check_aux(model: nn.Module, num_layers: int) -> None:
    """Raise ValueError unless the model still has `num_layers` split layers and no other BN.

    torch's and timm's `convert_sync_batchnorm` remove the split without an error, so a training calls this after all
    wrapping.
    """
    found = survey(model)
    others = found.plain + found.unknown
    if len(found.aux) != num_layers or others:
        beside = f" and beside them {others[0]}" if others else ""
        raise ValueError(
            f"aux BN: found {len(found.aux)} split layers{beside}, expected {num_layers} and nothing else; something "
            "replaced them after conversion: use train.model.aux_bn.convert_sync, not convert_sync_batchnorm"
        )


@contextlib.contextmanager
def on_branch(model: nn.Module, domain: int) -> Iterator[None]:
    """Inside the block an evaluation uses the statistics (and the affine map) of a domain; 0 is the main one."""
    layers = list(aux_layers(model).values())
    for layer in layers:
        layer.shown = domain
    try:
        yield
    finally:
        for layer in layers:
            layer.shown = 0


def aux_keys(model: nn.Module) -> frozenset[str]:
    """The names of the auxiliary layers' tensors in the model's state dict."""
    return frozenset(
        f"{name}.aux_bn.{key}" if name else f"aux_bn.{key}"
        for name, layer in aux_layers(model).items()
        for key in layer.aux_bn.state_dict()
    )


def export_plain(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the plain model's tensors, under its names: they load strictly, and evaluate to the same output."""
    return plain_tensors(copies(model))


def copies(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all tensors of the model's state, those of auxiliary layers included."""
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }


def plain_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a state that are not of an auxiliary layer."""
    return {name: tensor for name, tensor in state.items() if "aux_bn" not in name.split(".")}


def _walk(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module once, with the first of its names, except those inside an AuxBatchNorm."""
    inside = {module for layer in aux_layers(model).values() for module in layer.modules() if module is not layer}
    return ((name, module) for name, module in model.named_modules() if module not in inside)


@cache
def _plain_types() -> frozenset[type]:
    from timm.layers import BatchNormAct2d

    return frozenset({nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNormAct2d})


def _copy(plain: _BatchNorm, shared_affine: bool) -> nn.BatchNorm2d:
    """A layer with copies of the tensors; only its tensors are used, so BatchNorm2d serves for every shape."""
    layer = nn.BatchNorm2d(plain.num_features, plain.eps, plain.momentum, affine=False, track_running_stats=False)
    layer.affine, layer.track_running_stats = plain.affine and not shared_affine, plain.track_running_stats
    for name, parameter in plain._parameters.items():
        if parameter is not None and not shared_affine:
            setattr(layer, name, nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad))
    for name, buffer in plain._buffers.items():
        if buffer is not None:
            layer.register_buffer(name, buffer.clone())
    return layer.train(plain.training)


def _advance(layer: _BatchNorm) -> float:
    """Count a step, and return the weight of its statistics in the running ones."""
    if not layer.track_running_stats or layer.num_batches_tracked is None:
        return 0.0
    layer.num_batches_tracked.add_(1)
    return 1.0 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum


def _normalise(x: Tensor, layer: _BatchNorm, affine: Affine) -> Tensor:
    """x normalised by its own statistics, which also enter the running ones."""
    weight = _advance(layer)
    tracked = layer.track_running_stats
    mean, var = (layer.running_mean, layer.running_var) if tracked else (None, None)
    return F.batch_norm(x, mean, var, *affine, True, weight, layer.eps)


def _normalise_each(groups: Sequence[Tensor], layer: _BatchNorm, affine: Affine) -> list[Tensor]:
    """Each group normalised by its own statistics; the means over the groups enter the running ones."""
    share = _advance(layer)
    dtype = groups[0].dtype if layer.running_mean is None else layer.running_mean.dtype
    shape = (len(groups), layer.num_features)
    means = torch.zeros(shape, dtype=dtype, device=groups[0].device)
    variances = torch.ones_like(means)
    out = [
        F.batch_norm(x, mean, var, *affine, True, 1.0, layer.eps)  # 1.0: the running ones are x's own
        for x, mean, var in zip(groups, means.unbind(), variances.unbind(), strict=True)
    ]
    _track(layer, means.mean(0), variances.mean(0), share)
    return out


def _normalise_over_ranks(
    x: Tensor, layer: _BatchNorm, affine: Affine, process_group: dist.ProcessGroup | None
) -> Tensor:
    """x normalised by the statistics of all ranks' x, which have equal sizes; in fp32 or wider.

    Works on every device; torch's SyncBatchNorm refuses tensors on the CPU.
    """
    if not dist.is_initialized() or dist.get_world_size(process_group) == 1:
        return _normalise(x, layer, affine)
    wide = x if x.dtype == torch.float64 else x.float()
    axes = [0, *range(2, x.dim())]
    var_C, mean_C = torch.var_mean(wide, axes, correction=0)
    rows_R2C = _Gather.apply(torch.stack([mean_C, var_C]), process_group)
    mean_C = rows_R2C[:, 0].mean(0)
    var_C = (rows_R2C[:, 1] + (rows_R2C[:, 0] - mean_C).square()).mean(0)
    num_values = rows_R2C.shape[0] * x.numel() // x.shape[1]
    _track(layer, mean_C.detach(), var_C.detach() * (num_values / (num_values - 1)), _advance(layer))
    scale_C = torch.rsqrt(var_C + layer.eps)
    weight_C, bias_C = affine
    if weight_C is not None:
        scale_C = scale_C * weight_C
    shape = [1, -1] + [1] * (x.dim() - 2)
    y = (wide - mean_C.view(shape)) * scale_C.view(shape)
    if bias_C is not None:
        y = y + bias_C.view(shape)
    return y.to(x.dtype)


def _track(layer: _BatchNorm, mean: Tensor, var: Tensor, share: float) -> None:
    if layer.track_running_stats and layer.running_mean is not None and layer.running_var is not None:
        layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), share)
        layer.running_var.lerp_(var.to(layer.running_var.dtype), share)


class _Gather(torch.autograd.Function):
    """A tensor of each rank, stacked; the gradient of a rank's row is the sum of all ranks' gradients for it."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, process_group: dist.ProcessGroup | None) -> Tensor:
        ctx.process_group = process_group
        rows = [torch.empty_like(local) for _ in range(dist.get_world_size(process_group))]
        dist.all_gather(rows, local.contiguous(), group=process_group)
        return torch.stack(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0].contiguous().clone()
        dist.all_reduce(grad, group=ctx.process_group)
        return grad[dist.get_rank(ctx.process_group)], None
