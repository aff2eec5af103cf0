"""Classifiers by name: timm's, and three small ones for experiments on a laptop.

In: `ModelSpec` (from the recipe), the quotas of a group, the image size and a seed; trained weights if the recipe names
some (`train.model.pretrained`). Out: a model in training mode, its BN layers converted as the recipe says, and how it
wants its pictures. Nothing is written and nothing downloaded.

Initial weights depend on the spec and the seed alone; the process's random state is left as it was.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shards.disk.address import BESIDE
from shards.disk.safe_text import quoted
from train.model.freeze import FREEZE, freeze
from train.model.head import HEAD, Head, map_rows, mapped_outputs, names_in
from train.model.normalisation import IMAGENET, Normalisation
from train.model.pretrained import WEIGHTS, Pretrained, find_pretrained, read_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

SANDBOX = {"sandbox_resnet": "fc", "sandbox_resnet_wide": "fc", "sandbox_vit": "head"}  # name -> its classifier
OURS = ", ".join(SANDBOX)
NAME_PATTERN = re.compile(r"[a-z0-9_]+")  # no hub address, no tag of weights: those come from a file
PRETRAINED = "model.pretrained"

Aux = Literal["bn", "stats", "none"]
Bn = Literal["rank", "group", "world"]
Mean = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(gt=0, le=1)]


class ModelSpec(BaseModel):
    """The classifier and how it treats the domains of a batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description=f"of timm (resnet50, convnext_tiny, vit_base_patch16_224) or ours: {OURS}")
    num_classes: int = Field(ge=2, description="outputs; as many as the data has classes")
    pretrained: Annotated[str | None, BESIDE] = Field(
        default=None,
        description=f"weights to start from: a safetensors file, a folder with {WEIGHTS}, or, beside "
        "pretrained_revision, a hub id; null = train from nothing",
        examples=["weights/resnet50", "timm/resnet50.a1_in1k"],
    )
    pretrained_revision: str | None = Field(
        default=None,
        description="commit of 40 hex digits; then pretrained is a hub id, which is downloaded already",
        examples=["0123456789abcdef0123456789abcdef01234567"],
    )
    pretrained_sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="of the weights' file; filled in when a training begins",
        examples=["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
    )
    head: Head = Field(default="by_size", description=HEAD)
    freeze: tuple[str, ...] = Field(default=(), description=FREEZE, examples=[["conv1.*", "bn1.*", "stages.0.*"]])
    drop_path: float = Field(default=0.0, ge=0, lt=1, description="chance to skip a residual branch, at the last block")
    aux: Aux = Field(
        default="bn",
        description="bn: each domain has its own batch normalisation; stats: its own statistics, one scale and shift "
        "for all; none: one batch normalisation for all, any model",
    )
    bn: Bn = Field(
        default="rank", description="whose samples batch statistics are taken over: a rank's, one group's, all ranks'"
    )
    mean: tuple[Mean, Mean, Mean] | None = Field(
        default=None,
        description="of the pictures' channels in 0..1; null = as stands beside the weights, else as timm says of the "
        "model, else ImageNet's",
        examples=[[0.5, 0.5, 0.5]],
    )
    std: tuple[Deviation, Deviation, Deviation] | None = Field(
        default=None, description="likewise", examples=[[0.5, 0.5, 0.5]]
    )

    @model_validator(mode="after")
    def _weights_are_named(self) -> ModelSpec:
        if self.pretrained is None and (self.pretrained_revision or self.pretrained_sha256):
            raise ValueError(f"{PRETRAINED}: found none beside its revision or sha256, expected weights; name them")
        return self

    @property
    def is_converted(self) -> bool:
        """Whether layers of batch normalisation are replaced by those of `train.model.aux_bn`."""
        return self.aux != "none" or self.bn != "rank"


def build(
    spec: ModelSpec, quotas: Sequence[int], seed: int, size_px: int, names: Mapping[int, str] | None = None
) -> nn.Module:
    """The model with its initial weights; `quotas` are the samples of each domain in a group, the main one first.
    `names`: what the data call the class of each output, for `head: map`.

    With `aux: none` and statistics of groups or of all ranks the layers are converted too, with one domain. Trained
    weights fill the plain model before it is converted, so each domain's statistics start from theirs.
    """
    import torch

    from train.model.aux_bn import convert, convert_sync

    refuse_head_of_nothing(spec)
    found = weights_of(spec)
    first_px = size_px if found is None or found.about is None else found.about.size_px
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create(spec, first_px)
    if found is not None:
        given = read_weights(found, PRETRAINED, spec.pretrained_sha256)
        if spec.head == "map":
            map_rows(_classifiers(model), model, given, mapped_outputs(names or {}, names_in(found), found.shown))
        load_plain(model, found, given, head=spec.head)
        _resize(model, spec.name, first_px, size_px)
    if spec.is_converted:
        split = quotas if spec.aux != "none" else (sum(quotas),)
        model = convert(model, split, per_group=spec.bn == "group", shared_affine=spec.aux == "stats")
    if spec.bn == "world":
        convert_sync(model)
    if spec.freeze:
        freeze(model, spec.freeze)
    return model


def weights_of(spec: ModelSpec) -> Pretrained | None:
    """Where the weights lie that the model starts from; None without any. Raises ValueError if they are not there, or
    are of another architecture."""
    if spec.pretrained is None:
        return None
    found = find_pretrained(PRETRAINED, spec.pretrained, spec.pretrained_revision)
    if found.about is not None and found.about.architecture != spec.name:
        raise ValueError(
            f"{PRETRAINED}: found weights of {found.about.architecture} in {found.shown}, expected those of "
            f"model.name, {quoted(spec.name, 80)}; set model.name={found.about.architecture} or choose other weights"
        )
    return found


def pinned(spec: ModelSpec) -> ModelSpec:
    """The same, with what trained weights decide written down: their sha256, and how pictures are normalised for them.

    Then the weights may move, and cannot change unseen. Raises ValueError if they are not there.
    """
    if spec.pretrained is None or None not in (spec.pretrained_sha256, spec.mean, spec.std):
        return spec
    found = weights_of(spec)
    assert found is not None
    normal = normalisation_of(spec)
    sha256 = spec.pretrained_sha256 or found.sha256
    return spec.model_copy(update={"pretrained_sha256": sha256, "mean": normal.mean, "std": normal.std})


def refuse_head_of_nothing(spec: ModelSpec) -> None:
    """Raises ValueError for a rule that takes over the classifier of weights where there are none."""
    if spec.pretrained is None and spec.head in ("keep", "map"):
        raise ValueError(
            f"model.head: found {spec.head} for a model that starts from nothing, expected trained weights; set "
            f"{PRETRAINED}, or model.head=by_size"
        )


def what_it_starts_from(spec: ModelSpec, names: Mapping[int, str] | None = None) -> list[str]:
    """A line about the weights, and about a classifier that is not used as it is; `names` as for `build`."""
    refuse_head_of_nothing(spec)
    found = weights_of(spec)
    if found is None:
        return []
    line = f"{PRETRAINED}: starts from {found.shown}, sha256 {(spec.pretrained_sha256 or found.sha256)[:16]}"
    outputs = outputs_of_weights(found, spec.name)
    if spec.head == "map":
        taken = len(mapped_outputs(names or {}, names_in(found), found.shown))
        line += f"; {taken} of {spec.num_classes} outputs are taken from its classifier by name, the others are new"
    elif outputs is not None and (spec.head == "new" or (spec.head == "by_size" and outputs != spec.num_classes)):
        line += f"; its classifier of {outputs} outputs is left out, a new one of {spec.num_classes} is trained"
    return [line]


def outputs_of_weights(found: Pretrained, name: str) -> int | None:
    """How many outputs the classifier in the file has; None for weights without one."""
    from safetensors import safe_open

    heads = [f"{one}.weight" for one in _classifier_names(name)]
    with safe_open(found.file, framework="numpy") as file:
        outputs = {file.get_slice(one).get_shape()[0] for one in heads if one in file.keys()}  # noqa: SIM118
    return max(outputs, default=None)


def shares_statistics(spec: ModelSpec, size_px: int) -> bool:
    """Whether pictures of several groups are normalised together, so that ranks or micro-batches change the numbers.
    Builds the model without memory where the spec does not say; raises ValueError as `create` does."""
    if spec.bn == "group" or spec.is_converted:  # what is converted has batch normalisation
        return spec.bn != "group"
    import torch

    from train.model.aux_bn import survey

    with torch.device("meta"):
        found = survey(create(spec, size_px))
    return bool(found.plain or found.unknown)


def normalisation_of(spec: ModelSpec) -> Normalisation:
    """What the recipe says; else what stands beside the weights; else what timm says of the model; else ImageNet's."""
    own = IMAGENET
    if None in (spec.mean, spec.std):
        found = weights_of(spec)
        if found is not None and found.about is not None:
            own = found.about.normal
        elif (config := _timms_config(spec.name)) is not None:
            (r, g, b), (sr, sg, sb) = config.mean, config.std
            own = Normalisation((r, g, b), (sr, sg, sb))
    mean = own.mean if spec.mean is None else spec.mean
    return Normalisation(mean, own.std if spec.std is None else spec.std)


def create(spec: ModelSpec, size_px: int) -> nn.Module:
    """The plain model for pictures of `size_px`, with random weights. Raises ValueError for a name that is not known,
    and for settings that the model does not have."""
    if spec.name in SANDBOX:
        return _ours(spec, size_px)
    import timm

    check_model_name(spec)
    settings: dict[str, Any] = {"num_classes": spec.num_classes}
    if spec.drop_path:
        settings["drop_path_rate"] = spec.drop_path
    config = _timms_config(spec.name)
    if config is not None and config.fixed_input_size and config.input_size[-1] != size_px:
        settings["img_size"] = size_px
    try:
        return timm.create_model(spec.name, pretrained=False, **settings)
    except TypeError as error:  # a builder without this setting
        raise ValueError(
            f"model: found {spec.name} with {', '.join(sorted(settings))}, expected settings it has ({error}); "
            "set model.drop_path: 0 or choose another model"
        ) from None


def _ours(spec: ModelSpec, size_px: int) -> nn.Module:
    from train.model.sandbox_resnet import WIDE, WIDTHS, sandbox_resnet
    from train.model.sandbox_vit import sandbox_vit

    if spec.name == "sandbox_vit":
        return sandbox_vit(spec.num_classes, size_px, spec.drop_path)
    return sandbox_resnet(spec.num_classes, spec.drop_path, WIDE if spec.name == "sandbox_resnet_wide" else WIDTHS)


def check_model_name(spec: ModelSpec) -> None:
    """Raises ValueError for a model that nobody knows; imports timm for another than the sandbox's."""
    if spec.name in SANDBOX:
        return
    import timm

    if not NAME_PATTERN.fullmatch(spec.name) or not timm.is_model(spec.name):
        known = [*SANDBOX, *timm.list_models()]
        near = get_close_matches(spec.name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "see timm.list_models()"
        raise ValueError(f"model.name: found {quoted(spec.name, 80)}, expected {OURS} or a model of timm; {hint}")


def load_plain(
    model: nn.Module, found: Pretrained, given: dict[str, Tensor], what: str = PRETRAINED, head: Head = "by_size"
) -> None:
    """Fill the plain model; `head` as in a recipe: a classifier that is not taken keeps its initial weights.

    Raises ValueError for a tensor that is missing, too many or of another shape, and for weights that were pooled in
    another way.
    """
    import torch

    pooling = None if found.about is None else found.about.global_pool
    if pooling and _pooling(model) not in (None, pooling):
        raise ValueError(
            f"{what}: found weights for the pooling {pooling} in {found.shown}, expected {_pooling(model)}, as timm "
            "builds the model by its name; choose other weights"
        )

    wanted = model.state_dict()
    heads = tuple(f"{name}." for name in _classifiers(model))
    for name in sorted(wanted.keys() | given.keys()):
        fits = name in wanted and name in given and wanted[name].shape == given[name].shape
        is_left_out = name.startswith(heads) and (head == "new" or (head == "by_size" and not fits))
        if is_left_out:
            given.pop(name, None)
        elif fits:
            continue
        elif name.endswith("num_batches_tracked") and name in wanted:
            pass  # files written before torch counted batches
        else:
            there = list(given[name].shape) if name in given else "nothing"
            here = list(wanted[name].shape) if name in wanted else "nothing"
            or_new = ", or set model.head=new" if what == PRETRAINED and name.startswith(heads) else ""
            raise ValueError(
                f"{what}: found {there} for {quoted(name, 80)} in {found.file.name}, expected {here}; choose weights "
                f"of this architecture and image size{or_new}"
            )
    with torch.no_grad():
        for name, tensor in given.items():
            wanted[name].copy_(tensor)


def _resize(model: nn.Module, name: str, before_px: int, size_px: int) -> None:
    """Let a model that is built for one size take another, as timm does: position embeddings are interpolated."""
    config = _timms_config(name)
    has_one_size = name == "sandbox_vit" if config is None else config.fixed_input_size
    if before_px == size_px or not has_one_size:
        return
    resize: Any = getattr(model, "set_input_size", None)
    if resize is None:
        raise ValueError(
            f"{PRETRAINED}: found weights for pictures of {before_px} px, expected {size_px} px, and this model cannot "
            f"change its size; set data.size_px={before_px}"
        )
    resize(img_size=(size_px, size_px))


def _pooling(model: nn.Module) -> str | None:
    """How the features of a picture are pooled, by timm's word; None if the model does not say."""
    for owner in (getattr(model, "head", None), model):
        pool = getattr(owner, "global_pool", None)
        pool = getattr(pool, "pool_type", pool)
        if isinstance(pool, str):
            return pool
    return None


def _timms_config(name: str) -> Any:
    """What timm says of the model; None for a name that it does not know."""
    if name in SANDBOX or not NAME_PATTERN.fullmatch(name):
        return None
    import timm

    return timm.models.get_pretrained_cfg(name)


def classifier_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Those of the modules that make the logits."""
    heads = tuple(f"{name}." for name in _classifiers(model))
    return [parameter for name, parameter in model.named_parameters() if name.startswith(heads)]


def _classifiers(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules that make the logits."""
    config = getattr(model, "pretrained_cfg", None)
    return _as_names(config["classifier"] if config else "head" if hasattr(model, "head") else "fc")


def _classifier_names(name: str) -> tuple[str, ...]:
    config = _timms_config(name)
    return _as_names(SANDBOX.get(name, "fc") if config is None else config.classifier)


def _as_names(named: str | Sequence[str] | None) -> tuple[str, ...]:
    return (named,) if isinstance(named, str) else tuple(named or ())
