"""All that a training needs to go on: from the live objects to the parts of a checkpoint and back.

In: the live `Weights`, `RunState`. Out: named parts for `train.session.checkpoint`, and the live objects
filled from them. On disk, in a checkpoint's folder:

    model.safetensors       the model, auxiliary layers included; running statistics combined over the ranks
    ema.safetensors         the moving average, likewise, if there is one
    ranks.safetensors       each rank's own running statistics before they were combined: [rank, all numbers end to end]
    optimizer.safetensors   see train.model.engine
    chosen.safetensors      what the Task keeps of the weights with the best validation so far, if there are some
    state.json              `RunState`

With as many ranks as before, training goes on exactly; with another number, from the combined statistics. There is no
state of a random generator: dropout is keyed by (seed, step, rank) anew in every step.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load as from_safetensors
from torch import Tensor, nn

from cluster.ranks.group import Ranks
from cluster.recipes.load import canonical_json
from shards.disk.checked_json import plain_json
from shards.disk.safe_text import clip, quoted
from train.model.bn_statistics import combine
from train.model.pretrained import as_safetensors
from train.session.weights import Weights

VERSION = 3


class RunState(BaseModel):
    """Where a training stands."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    step: int = Field(ge=0, description="steps done, skipped ones included")
    closed: int = Field(ge=0, description="step of the last epoch whose evaluation was done")
    moved: int = Field(ge=0, description="steps that moved the weights")
    skipped_in_row: int = Field(ge=0)
    ema_updates: int | None
    stream: dict[str, Any]
    history: tuple[tuple[int, float], ...] = Field(description="step and score on the validation set")
    chosen: int | None = Field(description="step of the weights in chosen.safetensors")
    seconds: float = Field(ge=0, description="of training, over all lives")
    wait_s: float = Field(ge=0, description="of them waiting for data, on rank 0")
    replaced: tuple[dict[str, int], ...] = Field(description="of each rank: samples that could not be read, by reason")
    recipe: dict[str, Any] = Field(description="train.recipe.deciding")
    bn_groups: int | None = Field(None, description="as in a result; null = likewise")

    def decided(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """`recipe`, for a comparison with what is `asked`. One of a version before says nothing of the engine: it is
        taken as that of the folder's recipe, with which `asked` was compared."""
        return {"engine": asked["engine"], **self.recipe}

    def normalised_otherwise(self, bn_groups: int | None) -> list[str]:
        """A line if from here on so many groups share batch statistics, and other ones did before."""
        if self.bn_groups is None or self.bn_groups == bn_groups:
            return []
        return [
            f"from step {self.step} on {bn_groups} groups share batch statistics, before it {self.bn_groups}: "
            "engine.accumulate or the number of ranks is another"
        ]


def part_names(has_ema: bool) -> tuple[str, ...]:
    """What every checkpoint must hold."""
    ema = ("ema.safetensors",) if has_ema else ()
    return ("model.safetensors", "optimizer.safetensors", "ranks.safetensors", "state.json", *ema)


def pack(
    weights: Weights, chosen: Mapping[str, Tensor] | None, state: RunState, ranks: Ranks
) -> Iterator[tuple[str, bytes]]:
    """The parts, made one by one; nothing live is changed. All ranks call it, only rank 0 gets any. What the ranks have
    to say to each other is said before it returns: a disk that fails on rank 0 keeps nobody waiting.

    Raises ValueError for weights that are not finite: they are no state to go on from.
    """
    live, ema = weights.model, weights.ema
    model = _combined(live, None)
    averaged = None if ema is None else _combined(live, ema.tensors)
    own = {"model": ranks.rows(_flat(live, live.state_dict()))}
    if ema is not None:
        own["ema"] = ranks.rows(_flat(live, ema.tensors))
    optimizer = weights.engine.optimizer_state()
    if ranks.rank != 0:
        return iter(())
    for name, tensor in [*model.items(), *(averaged or {}).items()]:
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(
                f"step {state.step}: found {name} with a value that is not finite, expected numbers; nothing was "
                f"saved, the last checkpoint stays: lower optim.lr or set optim.clip_grad"
            )
    tensors = {
        "model.safetensors": model,
        "ema.safetensors": averaged,
        "ranks.safetensors": own,
        "optimizer.safetensors": optimizer,
        "chosen.safetensors": None if chosen is None else dict(chosen),
    }
    return itertools.chain(
        ((name, as_safetensors(part)) for name, part in tensors.items() if part is not None),
        [("state.json", canonical_json(state.model_dump(mode="json")))],
    )


def read_state(parts: Mapping[str, bytes]) -> RunState:
    """Raises ValueError for a state of another version, and for a field that is missing or unknown."""
    _check_version(parts["state.json"])
    try:
        state = RunState.model_validate_json(parts["state.json"])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(
            f"checkpoint: found state.json with a bad field `{where}` ({first['msg']}), expected a whole one; remove "
            f"this checkpoint to go on from an older one"
        ) from None
    return state


def _check_version(data: bytes) -> None:
    """Before the fields: another version has others."""
    try:
        state = plain_json(data)
    except ValueError:
        return
    found = state.get("version") if isinstance(state, dict) else None
    if isinstance(found, int) and found != VERSION:
        raise ValueError(
            f"checkpoint: found state.json of version {found}, expected {VERSION}; start anew in another folder, or "
            "finish with the version of the program that wrote it"
        )


def unpack(parts: Mapping[str, bytes], state: RunState, weights: Weights, ranks: Ranks) -> dict[str, Tensor] | None:
    """Fill model, average and optimiser; the chosen weights. Raises ValueError for a tensor that is missing or does not
    fit."""
    model, ema = weights.model, weights.ema
    tensors = _tensors(parts, "model.safetensors")
    _check(tensors, model.state_dict(), "model.safetensors")
    with torch.no_grad():
        for name, live in model.state_dict().items():
            live.copy_(tensors[name])
    own = _tensors(parts, "ranks.safetensors")
    if ema is not None:
        if state.ema_updates is None:
            raise ValueError("checkpoint: found no ema_updates in state.json, expected a number; start a new run")
        ema.load(_tensors(parts, "ema.safetensors"), state.ema_updates)
    for word, target in {"model": model.state_dict(), **({"ema": ema.tensors} if ema is not None else {})}.items():
        if word not in own:
            raise ValueError(f"checkpoint: found no {word} in ranks.safetensors, expected it; take an earlier one")
        if len(own[word]) == ranks.world:
            _unflatten(model, target, own[word][ranks.rank])
    optimizer = _tensors(parts, "optimizer.safetensors")
    if not optimizer and state.moved:
        raise ValueError(
            f"checkpoint: found no state of the optimiser after {state.moved} steps, expected one; take an earlier one"
        )
    weights.engine.load_optimizer(optimizer)
    if state.chosen is None:
        return None
    if "chosen.safetensors" not in parts:
        raise ValueError("checkpoint: found no chosen.safetensors, expected it; take an earlier one")
    return _tensors(parts, "chosen.safetensors")


def _combined(model: nn.Module, tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Copies on the CPU with the running statistics of all ranks."""
    live = model.state_dict() if tensors is None else tensors
    copies = {name: tensor.detach().clone() for name, tensor in live.items()}
    combine(model, copies)
    return {name: tensor.contiguous().cpu() for name, tensor in copies.items()}


def _running(model: nn.Module) -> list[str]:
    """Names of the running statistics, in the model's order."""
    return [name for name, buffer in model.named_buffers() if buffer.is_floating_point()]


def _flat(model: nn.Module, tensors: Mapping[str, Tensor]) -> Tensor:
    """All running statistics end to end, on the CPU in fp32."""
    kept = set(tensors)
    parts = [tensors[name].detach().float().flatten().cpu() for name in _running(model) if name in kept]
    return torch.cat(parts) if parts else torch.zeros(0)


def _unflatten(model: nn.Module, tensors: Mapping[str, Tensor], flat: Tensor) -> None:
    names = [name for name in _running(model) if name in tensors]
    sizes = [tensors[name].numel() for name in names]
    if flat.numel() != sum(sizes):
        raise ValueError(
            f"checkpoint: found {flat.numel()} running statistics of a rank, expected {sum(sizes)}; resume with the "
            f"model that the checkpoint was made with"
        )
    with torch.no_grad():
        for name, part in zip(names, flat.split(sizes), strict=True):
            tensors[name].copy_(part.view(tensors[name].shape))


def _tensors(parts: Mapping[str, bytes], name: str) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = from_safetensors(parts[name])
    except Exception as error:  # safetensors raises a type of its own
        raise ValueError(f"checkpoint: found {name} unreadable ({error}), expected safetensors") from None
    return tensors


def _check(given: Mapping[str, Tensor], live: Mapping[str, Tensor], where: str) -> None:
    for name in sorted(given.keys() | live.keys()):
        found = f"{given[name].dtype} {clip(str(list(given[name].shape)), 80)}" if name in given else "nothing"
        expected = f"{live[name].dtype} {clip(str(list(live[name].shape)), 80)}" if name in live else "nothing"
        if found != expected:
            raise ValueError(
                f"checkpoint: found {found} for {quoted(name, 100)} in {where}, expected {expected}; resume with the "
                f"model that the checkpoint was made with"
            )
