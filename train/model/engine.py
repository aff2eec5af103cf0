"""Engines: forward pass and update of the weights with one process, with DDP or with DeepSpeed; the same numbers.

In: a model without a wrapper, `EngineSpec` and `OptimSpec`, the open process group. Out: an `Engine` of four functions.
On disk: nothing. The state of the optimiser is given as whole tensors under the parameters' names,
`<what>/<parameter>`, so a checkpoint can be continued with another engine, ZeRO stage or number of ranks.

A step is `accumulate` micro-batches, forward and backward one after the other, and one move of the weights along the
mean of their gradients. Ranks exchange gradients once a step (ZeRO 2: once a micro-batch, for it keeps a part only).

A step whose gradient is not finite changes no weight. Gradients of DDP and DeepSpeed are means over the ranks, so all
ranks have the same norm. DeepSpeed gets gradients in fp32 under bf16 too: it would save little traffic at these model
sizes, and so it equals DDP.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shards.disk.safe_text import quoted
from train.model.optim import COUNTED, KEPT, OptimSpec, make_optimizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Kind = Literal["single", "ddp", "deepspeed"]
Forward = Callable[..., Any]  # what the model takes -> what it gives, in the engine's precision
Losses = Sequence[Callable[[], "Tensor"]]  # of each micro-batch; calling one makes its forward pass


class EngineSpec(BaseModel):
    """How steps are computed; the result is the same within rounding, but for dtype, and accumulate as it says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = Field("single", description="single: one process; ddp or deepspeed: any number")
    zero: Literal[0, 1, 2] = Field(0, description="DeepSpeed's stage: 1 splits the optimiser's state, 2 gradients too")
    dtype: Literal["fp32", "bf16"] = Field("fp32", description="bf16: torch autocast; weights and statistics stay fp32")
    accumulate: int = Field(
        1,
        ge=1,
        le=4096,
        description="micro-batches that a rank's groups of a step are cut into, one after the other: k take about 1/k "
        "of the memory for activations, and the step stays what it is; bn: rank and world then mean a micro-batch's: "
        "other statistics, as if on k times as many ranks",
    )
    compile: bool = Field(False, description="torch.compile")
    channels_last: bool = Field(False, description="memory layout of pictures; faster for convolutions on GPUs")
    threads: int = Field(1, ge=1, le=256, description="of torch on the CPU, for each rank; changes rounding")
    deadline_s: float = Field(600.0, gt=0, description="longest wait of a rank for the others")

    @model_validator(mode="after")
    def _zero_is_deepspeeds(self) -> EngineSpec:
        if self.zero and self.kind != "deepspeed":
            raise ValueError(f"engine.zero: found {self.zero} with kind {self.kind}, expected 0; set kind: deepspeed")
        return self


@dataclass(frozen=True, eq=False)
class Engine:
    """What the loop needs of an engine. `model` is the bare one: its names are those of every file."""

    model: nn.Module
    forward: Forward
    # losses of `accumulate` micro-batches, learning rate; False: the gradient was not finite, nothing changed
    step: Callable[[Losses, float], bool]
    optimizer_state: Callable[[], dict[str, Tensor]]  # on the CPU; called by all ranks
    load_optimizer: Callable[[Mapping[str, Tensor]], None]


def make_engine(spec: EngineSpec, optim: OptimSpec, model: nn.Module, device: torch.device, rank_batch: int) -> Engine:
    """The model is on the device already; all ranks of the group call it. `rank_batch`: pictures of a micro-batch.
    Raises ValueError for what does not go together."""
    if spec.compile:
        model.compile()
    return ENGINES[spec.kind](spec, optim, model, device, rank_batch)


def autocast(spec: EngineSpec, device: torch.device) -> AbstractContextManager[Any]:
    """For forward passes outside of the engine as inside."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=spec.dtype == "bf16")


def _single(spec: EngineSpec, optim: OptimSpec, model: nn.Module, device: torch.device, rank_batch: int) -> Engine:
    return _plain(spec, optim, model, model, device, nullcontext)


def _ddp(spec: EngineSpec, optim: OptimSpec, model: nn.Module, device: torch.device, rank_batch: int) -> Engine:
    from torch.nn.parallel import DistributedDataParallel

    # each rank's running statistics are its own until train.model.bn_statistics combines them
    wrapped = DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
    )
    return _plain(spec, optim, model, wrapped, device, wrapped.no_sync)


def _plain(
    spec: EngineSpec,
    optim: OptimSpec,
    model: nn.Module,
    called: nn.Module,
    device: torch.device,
    apart: Callable[[], AbstractContextManager[Any]],
) -> Engine:
    """`apart`: inside, forward and backward passes leave gradients on their rank."""
    optimizer = make_optimizer(optim, model)

    def forward(*inputs: Any) -> Any:
        with autocast(spec, device):
            return called(*inputs)

    def step(losses: Losses, rate: float) -> bool:
        optimizer.zero_grad(set_to_none=True)
        for number, loss in enumerate(losses, start=1):
            with nullcontext() if number == len(losses) else apart():
                (loss() / len(losses)).backward()
        if not _clip(model, optim.clip_grad):
            return False
        _set_rate(optimizer, rate)
        optimizer.step()
        return True

    return Engine(
        model,
        forward,
        step,
        lambda: _state_of(optimizer, model),
        lambda tensors: _load_state(optimizer, model, optim, tensors),
    )


def _deepspeed(spec: EngineSpec, optim: OptimSpec, model: nn.Module, device: torch.device, rank_batch: int) -> Engine:
    deepspeed = _import_deepspeed(device)
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": rank_batch,
        "gradient_accumulation_steps": spec.accumulate,  # the number that it divides each loss by
        "gradient_clipping": optim.clip_grad or 0.0 if spec.zero else 0.0,  # stage 0 is clipped here, as DDP is
        "zero_optimization": {"stage": spec.zero},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
    }
    if spec.dtype == "bf16":
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    optimizer = make_optimizer(optim, model)
    with _local_rank(device), _numbers_sent(model):
        wrapped, _, _, _ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=config, dist_init_required=False
        )

    def step(losses: Losses, rate: float) -> bool:
        for number, loss in enumerate(losses, start=1):
            # said each time: its own count would be off after a step that is given up below
            wrapped.set_gradient_accumulation_boundary(number == len(losses))
            wrapped.backward(loss())
        if not spec.zero and not _clip(model, optim.clip_grad):
            wrapped.zero_grad()
            return False
        _set_rate(optimizer, rate)
        wrapped.step()
        return not (spec.zero and wrapped.optimizer.overflow)

    if spec.zero:
        return Engine(
            model,
            wrapped,
            step,
            lambda: _zero_state(wrapped.optimizer, model),
            lambda tensors: _load_zero_state(wrapped.optimizer, model, optim, tensors),
        )
    return Engine(
        model,
        wrapped,
        step,
        lambda: _state_of(optimizer, model),
        lambda tensors: _load_state(optimizer, model, optim, tensors),
    )


MakeEngine = Callable[[EngineSpec, OptimSpec, Any, Any, int], Engine]
ENGINES: dict[Kind, MakeEngine] = {
    "single": _single,
    "ddp": _ddp,
    "deepspeed": _deepspeed,
}


def _import_deepspeed(device: torch.device) -> Any:
    """Without the lines it prints, and without the reduction over shared memory that it would compile on a CPU."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    for name in ("DeepSpeed", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import deepspeed
    except ImportError as error:
        raise ValueError(
            f"engine.kind: found deepspeed, which does not load here ({error}), expected it installed; set up the "
            "environment from the lock, or set engine.kind: ddp"
        ) from None
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextmanager
def _local_rank(device: torch.device) -> Iterator[None]:
    """DeepSpeed asks the environment which device this is."""
    kept = os.environ.get("LOCAL_RANK")
    os.environ["LOCAL_RANK"] = str(device.index or 0) if kept is None else kept
    try:
        yield
    finally:
        if kept is None:
            del os.environ["LOCAL_RANK"]


@contextmanager
def _numbers_sent(model: nn.Module) -> Iterator[None]:
    """DeepSpeed sends the first rank's parameters as bytes, and one without dimensions, such as the logit_scale of a
    CLIP, has no such view: it is sent here, and marked as one that DeepSpeed does not send."""
    import torch.distributed as dist

    numbers: list[Any] = [parameter for parameter in model.parameters() if not parameter.dim()]
    for number in numbers:
        dist.broadcast(number.data, 0)
        number.ds_optim_param = True
    try:
        yield
    finally:
        for number in numbers:
            del number.ds_optim_param


def _clip(model: nn.Module, largest: float | None) -> bool:
    """Scale the gradient down to the largest norm; whether it is finite."""
    from torch.nn.utils import clip_grads_with_norm_, get_total_norm

    norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    if not bool(norm.isfinite()):
        return False
    if largest is not None:
        clip_grads_with_norm_(list(model.parameters()), largest, norm)
    return True


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


# the optimiser's state as tensors


def _names(model: nn.Module) -> dict[Any, str]:
    return {parameter: name for name, parameter in model.named_parameters()}


def _state_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    names = _names(model)
    tensors = {
        f"{key}/{names[parameter]}": _tensor(value)
        for group in optimizer.param_groups
        for parameter in group["params"]
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    return tensors | _counts(optimizer)


def _counts(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"group/{number}/step": _tensor(group["step"])
        for number, group in enumerate(optimizer.param_groups)
        if "step" in group
    }


def _tensor(value: Any) -> Tensor:
    import torch

    return value.detach().cpu().clone() if isinstance(value, torch.Tensor) else torch.tensor(value)


def _load_state(
    optimizer: torch.optim.Optimizer, model: nn.Module, optim: OptimSpec, tensors: Mapping[str, Tensor]
) -> None:
    import torch

    if not tensors:
        return  # nothing had moved yet
    names = _names(model)
    _check_whole(optimizer, model, optim, tensors)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                # AdamW counts on the CPU, whatever the device of its parameters is; the rest has a parameter's layout,
                # on which LAMB's norms depend in their last bits
                key: value.clone() if key == "step" else torch.empty_like(parameter, dtype=value.dtype).copy_(value)
                for key in KEPT[optim.optimizer]
                for value in [tensors[f"{key}/{names[parameter]}"]]
            }
    _load_counts(optimizer, optim, tensors)


def _load_counts(optimizer: torch.optim.Optimizer, optim: OptimSpec, tensors: Mapping[str, Tensor]) -> None:
    for number, group in enumerate(optimizer.param_groups):
        for key in COUNTED[optim.optimizer]:
            group[key] = tensors[f"group/{number}/{key}"].clone()


def _check_whole(
    optimizer: torch.optim.Optimizer, model: nn.Module, optim: OptimSpec, tensors: Mapping[str, Tensor]
) -> None:
    """Raises ValueError unless there is exactly what this optimiser keeps of this model."""
    shapes = {
        f"{key}/{name}": [] if key == "step" else list(parameter.shape)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        for key in KEPT[optim.optimizer]
    }
    shapes |= {
        f"group/{number}/{key}": [] for number in range(len(optimizer.param_groups)) for key in COUNTED[optim.optimizer]
    }
    for name in sorted(shapes.keys() | tensors.keys()):
        found = str(list(tensors[name].shape)) if name in tensors else "nothing"
        expected = str(shapes[name]) if name in shapes else "nothing"
        if found != expected:
            raise ValueError(
                f"state of the optimiser: found {found} for {quoted(name, 100)}, expected {expected}; resume with the "
                "model and the optimiser that the checkpoint was made with"
            )


def _fragments(zero: Any, model: nn.Module) -> Iterator[tuple[int, str, Any, Any]]:
    """(group, name, parameter, where its part on this rank lies or None) of ZeRO 1 and 2."""
    names = _names(model)
    for number, parameters in enumerate(zero.bit16_groups):
        for parameter in parameters:
            yield number, names[parameter], parameter, parameter._hp_mapping


def _zero_state(zero: Any, model: nn.Module) -> dict[str, Tensor]:
    """Each rank keeps the state of a stretch of all parameters laid end to end; put together on every rank."""
    import torch
    import torch.distributed as dist

    base = zero.optimizer
    tensors: dict[str, Tensor] = {}
    for number, name, parameter, mapping in _fragments(zero, model):
        flat = zero.single_partition_of_fp32_groups[number]
        for key, value in base.state.get(flat, {}).items():
            if key == "step":
                tensors[f"{key}/{name}"] = _tensor(value)
                continue
            whole = torch.zeros(parameter.numel(), device=value.device)
            if mapping is not None:
                here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
                whole.narrow(0, here.start, here.numel).copy_(value.narrow(0, there.start, there.numel))
            dist.all_reduce(whole)  # zeros elsewhere: exact
            tensors[f"{key}/{name}"] = whole.view(parameter.shape).cpu()
    return tensors | _counts(base)


def _load_zero_state(zero: Any, model: nn.Module, optim: OptimSpec, tensors: Mapping[str, Tensor]) -> None:
    """Also takes over the weights, which ZeRO keeps once more as this rank's stretch."""
    import torch

    base = zero.optimizer
    if tensors:
        _check_whole(base, model, optim, tensors)
    for number, name, _, mapping in _fragments(zero, model):
        flat = zero.single_partition_of_fp32_groups[number]
        if mapping is not None:
            mapping.update_hp()
        if not tensors:
            continue
        for key in KEPT[optim.optimizer]:
            value = tensors[f"{key}/{name}"]
            if key == "step":
                base.state[flat][key] = value.clone()
                continue
            kept = base.state[flat].setdefault(key, torch.zeros_like(flat))
            if mapping is not None:
                here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
                kept.narrow(0, there.start, there.numel).copy_(value.flatten().narrow(0, here.start, here.numel))
    if tensors:
        _load_counts(base, optim, tensors)
