"""Classifiers by name: timm's, and a small ResNet for experiments on a laptop.

In: `ModelSpec` (from the recipe), the quotas of a group, the image size and a seed; weights from a local safetensors
file if the recipe names one. Out: a model in training mode, its BN layers converted as the recipe says, and how it
wants its pictures. Nothing is written and nothing downloaded.

Initial weights depend on the spec and the seed alone; the process's random state is left as it was.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shards.disk.address import BESIDE, LocalPath
from shards.disk.safe_text import quoted
from train.model.normalisation import IMAGENET, Normalisation

if TYPE_CHECKING:
    from torch import nn

SANDBOX = "sandbox_resnet"
NAME_PATTERN = re.compile(r"[a-z0-9_]+")  # no hub address, no tag of weights: those come from a file
WEIGHTS = "model.safetensors"

Mean = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(gt=0, le=1)]


class ModelSpec(BaseModel):
    """The classifier and how it treats the domains of a batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description=f"of timm (resnet50, convnext_tiny, vit_base_patch16_224) or {SANDBOX}")
    num_classes: int = Field(ge=2, description="outputs; as many as the data has classes")
    pretrained: Annotated[LocalPath | None, BESIDE] = Field(
        default=None,
        description=f"safetensors file, or folder with {WEIGHTS}; null = train from nothing",
        examples=["weights/resnet50"],
    )
    drop_path: float = Field(default=0.0, ge=0, lt=1, description="chance to skip a residual branch, at the last block")
    aux: Literal["bn", "none"] = Field(
        default="bn", description="bn: each domain has its own batch normalisation; none: one for all, any model"
    )
    bn: Literal["rank", "group", "world"] = Field(
        default="rank", description="whose samples batch statistics are taken over: a rank's, one group's, all ranks'"
    )
    mean: tuple[Mean, Mean, Mean] | None = Field(
        default=None,
        description="of the pictures' channels in 0..1; null = as timm says of the model, else ImageNet's",
        examples=[[0.5, 0.5, 0.5]],
    )
    std: tuple[Deviation, Deviation, Deviation] | None = Field(
        default=None, description="likewise", examples=[[0.5, 0.5, 0.5]]
    )

    @property
    def is_converted(self) -> bool:
        """Whether layers of batch normalisation are replaced by those of `train.model.aux_bn`."""
        return self.aux == "bn" or self.bn != "rank"


def build(spec: ModelSpec, quotas: Sequence[int], seed: int, size_px: int) -> nn.Module:
    """The model with its initial weights; `quotas` are the samples of each domain in a group, the main one first.

    With `aux: none` and statistics of groups or of all ranks the layers are converted too, with one domain.
    """
    import torch

    from train.model.aux_bn import convert, convert_sync

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _create(spec, size_px)
    if spec.pretrained is not None:
        _load(model, spec.pretrained)
    if spec.is_converted:
        model = convert(model, quotas if spec.aux == "bn" else (sum(quotas),), per_group=spec.bn == "group")
    return convert_sync(model) if spec.bn == "world" else model


def normalisation_of(spec: ModelSpec) -> Normalisation:
    """What the recipe says; else what timm says of the model; else ImageNet's."""
    own = IMAGENET
    if None in (spec.mean, spec.std) and spec.name != SANDBOX and NAME_PATTERN.fullmatch(spec.name):
        import timm

        config = timm.models.get_pretrained_cfg(spec.name)
        if config is not None:
            (r, g, b), (sr, sg, sb) = config.mean, config.std
            own = Normalisation((r, g, b), (sr, sg, sb))
    mean = own.mean if spec.mean is None else spec.mean
    return Normalisation(mean, own.std if spec.std is None else spec.std)


def _create(spec: ModelSpec, size_px: int) -> nn.Module:
    if spec.name == SANDBOX:
        from train.model.sandbox_resnet import sandbox_resnet

        return sandbox_resnet(spec.num_classes, spec.drop_path)
    import timm

    if not NAME_PATTERN.fullmatch(spec.name) or not timm.is_model(spec.name):
        known = [SANDBOX, *timm.list_models()]
        near = get_close_matches(spec.name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "see timm.list_models()"
        raise ValueError(f"model.name: found {quoted(spec.name, 80)}, expected {SANDBOX} or a model of timm; {hint}")
    settings: dict[str, Any] = {"num_classes": spec.num_classes}
    if spec.drop_path:
        settings["drop_path_rate"] = spec.drop_path
    config = timm.models.get_pretrained_cfg(spec.name)
    if config is not None and config.fixed_input_size and config.input_size[-1] != size_px:
        settings["img_size"] = size_px
    try:
        return timm.create_model(spec.name, pretrained=False, **settings)
    except TypeError as error:  # a builder without this setting
        raise ValueError(
            f"model: found {spec.name} with {', '.join(sorted(settings))}, expected settings it has ({error}); "
            "set model.drop_path: 0 or choose another model"
        ) from None


def _load(model: nn.Module, path: Path) -> None:
    """Fill the plain model from a safetensors file; a classifier of another size keeps its initial weights."""
    import torch
    from safetensors.torch import load_file

    file = path / WEIGHTS if path.is_dir() else path
    if file.suffix != ".safetensors" or not file.is_file():
        raise ValueError(f"model.pretrained: found {path}, expected a .safetensors file or a folder with {WEIGHTS}")
    try:
        given = load_file(file)
    except Exception as error:  # safetensors raises its own type and several of the system's
        raise ValueError(f"model.pretrained: found {file} unreadable ({error}), expected safetensors") from None
    wanted = model.state_dict()
    heads = tuple(f"{name}." for name in _classifiers(model))
    for name in sorted(wanted.keys() | given.keys()):
        fits = name in wanted and name in given and wanted[name].shape == given[name].shape
        if fits:
            continue
        if name.startswith(heads):
            given.pop(name, None)
        elif name.endswith("num_batches_tracked") and name in wanted:
            pass  # files written before torch counted batches
        else:
            there = list(given[name].shape) if name in given else "nothing"
            here = list(wanted[name].shape) if name in wanted else "nothing"
            raise ValueError(
                f"model.pretrained: found {there} for {quoted(name, 80)} in {file.name}, expected {here}; choose "
                "weights of this architecture and image size"
            )
    with torch.no_grad():
        for name, tensor in given.items():
            wanted[name].copy_(tensor)


def _classifiers(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules that make the logits."""
    config = getattr(model, "pretrained_cfg", None)
    named = config["classifier"] if config else "fc"
    return (named,) if isinstance(named, str) else tuple(named)
