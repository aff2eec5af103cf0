"""The recipe's choice of an editor: which networks change a picture, and how; their folders and digest.

In: the recipe's `edit.editor`. Out: a frozen spec by `kind`; the checked folders of its models; a digest of their
weights. On disk, read only and never downloaded: pipelines in diffusers' own format with safetensors, a ControlNet, an
IP-Adapter with its image encoder. Does not import torch.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from gen.edit.attributes.attribute import AttributeKind
from gen.edit.priors.table import CONTROL_GUIDANCE, CONTROL_SCALE, CONTROL_STEPS
from gen.model.folder import (
    COMMIT_PATTERN,
    EDITORS,
    PIPELINES,
    ModelError,
    ModelFolder,
    flat_digest,
    flat_model,
    hub_digest,
    model_digest,
    open_model,
    read_config,
)
from gen.sampler.memory import NOTHING, Beside, num_numbers, weight_files
from gen.wording.templates import slots_of
from shards.disk.address import BESIDE, places_of
from shards.disk.home import home
from shards.disk.safe_text import quoted

WHAT = "edit.editor"  # the recipe's section, for messages
INPAINTERS = {name: family for name, family in EDITORS.items() if name != "FluxKontextPipeline"}
INSTRUCTED = {"FluxKontextPipeline": EDITORS["FluxKontextPipeline"]}
BASES = {name: family for name, family in PIPELINES.items() if family in ("sd", "sdxl")}  # with a ControlNet
CONFIG = "config.json"
CONTROL_WEIGHTS, ENCODER_WEIGHTS = "diffusion_pytorch_model.safetensors", "model.safetensors"
BELOW = r"^[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)*$"  # a place in a folder, never above it
EXAMPLE_COMMIT = "0123456789abcdef0123456789abcdef01234567"
MULTIPLES = {"sd": 8, "sdxl": 8, "flux": 16}  # of the side in px
PLACES = ("model", "base", "controlnet", "ip_adapter")  # fields that name folders, each with its `..revision`


def _odd(side_px: int) -> int:
    if side_px and side_px % 2 == 0:
        raise ValueError(f"found {side_px}, expected an odd number of px, or 0 for none")
    return side_px


RegionBlur = Annotated[int, Field(ge=0, le=1023), AfterValidator(_odd)]
REGION_BLUR = (
    "of a background: side in px of the Gaussian that blurs the region to be painted, of which the pipeline then takes "
    "what is half or more; VariReal's is 41 at 1024 px, 0 = as the mask is"
)


class OwnSpec(BaseModel):
    """The generator's own text-to-image network, as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["own"] = Field("own", description="inpainting by sampler.model, with sampler's steps and guidance")


class TrainedSpec(BaseModel):
    """What all pipelines that were trained to edit have. They draw no priors: `sampler.model` does. dtype and device
    are the sampler's. Pictures are edited one by one, so that none depends on its batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[str, BESIDE] = Field(description="folder of a pipeline that edits, or hub id with revision")
    revision: str | None = Field(None, description="commit of the hub id; null = a folder", examples=[EXAMPLE_COMMIT])
    variant: Literal["fp16", "bf16"] | None = Field(None, description="weight files with this tag", examples=["fp16"])
    licence: str = Field("unknown", min_length=1, max_length=200, description="recorded with every image")
    device_gib: float | None = Field(
        None,
        gt=0,
        description="GiB of weights on the GPU, those of sampler.model included, those of masks and judge not; what is "
        "not at work waits in the machine's memory. null = all stay on the GPU",
        examples=[24],
    )

    @property
    def device_bytes(self) -> int | None:
        """`device_gib` in bytes."""
        return None if self.device_gib is None else int(self.device_gib * (1 << 30))

    @model_validator(mode="after")
    def _revisions_are_commits(self) -> "TrainedSpec":
        for name, value in self:
            if name.endswith("revision") and value is not None and not COMMIT_PATTERN.fullmatch(value):
                raise ValueError(
                    f"{name}: found {quoted(value, 80)}, expected a commit of 40 hex digits; branches and tags move"
                )
        return self


class InpaintSpec(TrainedSpec):
    """Networks that were trained to inpaint: Stable Diffusion, SDXL or FLUX Fill."""

    kind: Literal["inpaint"] = Field(description="inpainting by networks trained for it")
    steps: int = Field(30, ge=1, le=1000, description="denoising steps of a whole way")
    guidance: float = Field(7.5, ge=0, le=100, description="of the text; FLUX: its embedded scale")
    region_blur_px: RegionBlur = Field(0, description=REGION_BLUR)


class CascadeSpec(TrainedSpec):
    """Inpainting, and for colours and textures a second stage: a ControlNet keeps the object's edges, an IP-Adapter
    takes its looks from the first stage. Both are VariReal's."""

    kind: Literal["cascade"] = Field(description="inpainting, then for objects a ControlNet with an IP-Adapter")
    steps: int = Field(30, ge=1, le=1000, description="of inpainting: denoising steps of a whole way")
    guidance: float = Field(7.5, ge=0, le=100, description="of inpainting")
    region_blur_px: RegionBlur = Field(0, description=REGION_BLUR)
    base: Annotated[str, BESIDE] = Field(
        description="folder of the text-to-image pipeline (sd or sdxl) that the ControlNet steers, or hub id"
    )
    base_revision: str | None = Field(None, description="its commit; null = a folder", examples=[EXAMPLE_COMMIT])
    base_variant: Literal["fp16", "bf16"] | None = Field(
        None, description="its weight files with this tag", examples=["fp16"]
    )
    controlnet: Annotated[str, BESIDE] = Field(description="folder of a ControlNet for Canny edges, or hub id")
    controlnet_revision: str | None = Field(None, description="its commit; null = a folder", examples=[EXAMPLE_COMMIT])
    ip_adapter: Annotated[str | None, BESIDE] = Field(
        None,
        description="folder with an IP-Adapter and its image encoder, or hub id; null = none: then the text and the "
        "edges alone make colours and textures, without prior or inpainting",
        examples=["h94/IP-Adapter"],
    )
    ip_adapter_revision: str | None = Field(None, description="its commit; null = a folder", examples=[EXAMPLE_COMMIT])
    ip_weights: str = Field(
        "sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors",
        pattern=BELOW,
        description="its weights, a file of that folder",
    )
    image_encoder: str = Field("models/image_encoder", pattern=BELOW, description="its encoder, below that folder")
    ip_scale: float = Field(0.4, ge=0, le=2, description="how much the IP-Adapter counts")
    control_steps: int = Field(CONTROL_STEPS, ge=1, le=1000, description="denoising steps of the second stage")
    control_guidance: float = Field(CONTROL_GUIDANCE, ge=0, le=100, description="of the second stage")
    control_scale: float = Field(CONTROL_SCALE, ge=0, le=2, description="how much the ControlNet counts")

    @model_validator(mode="after")
    def _weights_are_safe(self) -> "CascadeSpec":
        if not self.ip_weights.endswith(".safetensors"):
            raise ValueError(
                f"ip_weights: found {quoted(self.ip_weights, 80)}, expected a .safetensors file; pickles can run code"
            )
        return self


class Instructions(BaseModel):
    """What an instruction editor is told; {attribute} stands for the attribute's words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    background: str = Field("change the background to {attribute}, keep the object as it is", description="for it")
    colour: str = Field("change the colour of the object to {attribute}", description="for a colour")
    texture: str = Field("change the surface of the object to {attribute}", description="for a texture")

    @model_validator(mode="after")
    def _have_their_slot(self) -> "Instructions":
        for name, form in self:
            if slots_of(form) != ("attribute",):
                raise ValueError(
                    f"instruction.{name}: found {quoted(form, 80)}, expected the slot {{attribute}} and no other"
                )
        return self

    def of(self, kind: AttributeKind) -> str:
        """The one of a kind."""
        return {"background": self.background, "colour": self.colour, "texture": self.texture}[kind]


class InstructSpec(TrainedSpec):
    """An editor that is told what to change: FLUX Kontext. It sees the source, and needs no prior."""

    kind: Literal["instruct"] = Field(description="an editor that follows an instruction")
    instruction: Instructions = Field(default_factory=Instructions)
    steps: int = Field(28, ge=1, le=1000, description="denoising steps")
    guidance: float = Field(2.5, ge=0, le=100, description="its embedded scale")


class ControlSpec(TrainedSpec):
    """A ControlNet alone: the whole picture is drawn anew from the text, with the object's shape where it was."""

    kind: Literal["control"] = Field(description="drawn anew from noise, a ControlNet keeps the object's shape")
    model: Annotated[str, BESIDE] = Field(
        description="folder of the text-to-image pipeline (sd or sdxl) that the ControlNet steers, or hub id"
    )
    controlnet: Annotated[str, BESIDE] = Field(description="folder of a ControlNet, or hub id")
    controlnet_revision: str | None = Field(None, description="its commit; null = a folder", examples=[EXAMPLE_COMMIT])
    condition: Literal["edges", "mask"] = Field(
        "edges",
        description="what the ControlNet was trained to read. edges: Canny's of the object on white; mask: the object "
        "white on black",
    )
    steps: int = Field(CONTROL_STEPS, ge=1, le=1000, description="denoising steps")
    guidance: float = Field(CONTROL_GUIDANCE, ge=0, le=100, description="of the text")
    control_scale: float = Field(CONTROL_SCALE, ge=0, le=2, description="how much the ControlNet counts")


EditorSpec = Annotated[OwnSpec | InpaintSpec | CascadeSpec | InstructSpec | ControlSpec, Field(discriminator="kind")]
SETTABLE: dict[str, tuple[str, ...]] = {  # kind -> what may be set by kind of attribute and side
    "own": ("strength", "alpha", "dilate_px"),
    "inpaint": ("strength", "alpha", "dilate_px", "steps", "guidance"),
    "cascade": ("strength", "alpha", "dilate_px", "steps", "guidance", "ip_scale"),
    "instruct": ("steps", "guidance"),
    "control": ("steps", "guidance"),
}


def pipeline_folder(spec: TrainedSpec) -> ModelFolder:
    """The checked folder of the pipeline that edits. Raises ModelError."""
    kinds: Mapping[str, str] = INPAINTERS
    if isinstance(spec, InstructSpec | ControlSpec):
        kinds = INSTRUCTED if isinstance(spec, InstructSpec) else BASES
    return open_model(spec.model, spec.revision, spec.variant, home(), f"{WHAT}.model", kinds)


def base_folder(spec: CascadeSpec) -> ModelFolder:
    """The checked folder of the pipeline that the ControlNet steers. Raises ModelError."""
    return open_model(spec.base, spec.base_revision, spec.base_variant, home(), f"{WHAT}.base", BASES)


def controlnet_folder(spec: CascadeSpec | ControlSpec) -> Path:
    """The checked folder of the ControlNet. Raises ModelError."""
    homes = (Path(), home())
    folder = flat_model(f"{WHAT}.controlnet", spec.controlnet, spec.controlnet_revision, CONFIG, CONTROL_WEIGHTS, homes)
    found = read_config(folder / CONFIG).get("_class_name")
    if found != "ControlNetModel":
        raise ModelError(f"{folder}: found a model of the class {quoted(found, 60)}, expected ControlNetModel")
    return folder


def adapter_folders(spec: CascadeSpec) -> tuple[Path, Path] | None:
    """The checked folders of the IP-Adapter's weights and of its image encoder; None without one. Raises ModelError."""
    if spec.ip_adapter is None:
        return None
    below, _, name = spec.ip_weights.rpartition("/")
    return _below(spec, below, name, name), _below(spec, spec.image_encoder, CONFIG, ENCODER_WEIGHTS)


def _below(spec: CascadeSpec, folder: str, index: str, weights: str) -> Path:
    assert spec.ip_adapter is not None
    what, revision = f"{WHAT}.ip_adapter", spec.ip_adapter_revision
    if revision is not None:
        return flat_model(what, spec.ip_adapter, revision, f"{folder}/{index}".lstrip("/"), weights)
    return flat_model(what, f"{spec.ip_adapter}/{folder}".rstrip("/"), None, index, weights, (Path(), home()))


def check_editor(spec: EditorSpec, size_px: int | None) -> None:
    """All about its models that can be known without loading torch. Raises ModelError with one line."""
    if isinstance(spec, OwnSpec):
        return
    folder = pipeline_folder(spec)
    if isinstance(spec, CascadeSpec | ControlSpec):
        _check_control(spec)
    if size_px is not None and size_px % MULTIPLES[folder.family]:
        raise ModelError(
            f"size_px: found {size_px}, the family {folder.family} of {WHAT}.model expects a multiple of "
            f"{MULTIPLES[folder.family]}"
        )


def beside_of(spec: EditorSpec) -> Beside:
    """What its models add to the sampler's. Raises ModelError."""
    if isinstance(spec, OwnSpec):
        return NOTHING
    pipelines = [(pipeline_folder(spec), spec.variant)]
    files: list[Path] = []
    if isinstance(spec, CascadeSpec):
        pipelines.append((base_folder(spec), spec.base_variant))
        if (adapter := adapter_folders(spec)) is not None:
            files += [adapter[0] / spec.ip_weights.rpartition("/")[2], *weight_files(adapter[1], None)]
    if isinstance(spec, CascadeSpec | ControlSpec):
        files += weight_files(controlnet_folder(spec), None)
    files += [
        file
        for folder, variant in pipelines
        for name in folder.components
        for file in weight_files(folder.path / name, variant)
    ]
    return Beside(num_numbers(files), spec.device_bytes)


def _check_control(spec: CascadeSpec | ControlSpec) -> None:
    """Raises ModelError for a ControlNet of another family than what it steers."""
    name, steered = ("base", base_folder(spec)) if isinstance(spec, CascadeSpec) else ("model", pipeline_folder(spec))
    folder = controlnet_folder(spec)
    if isinstance(spec, CascadeSpec):
        adapter_folders(spec)
    texts = [read_config(place / CONFIG).get("cross_attention_dim") for place in (folder, steered.path / "unet")]
    if texts[0] != texts[1]:
        raise ModelError(
            f"{WHAT}.controlnet {quoted(spec.controlnet, 120)}: found a text width of {texts[0]}, expected {texts[1]} "
            f"as {WHAT}.{name} has it; take a ControlNet of its family"
        )


def editor_digest(spec: EditorSpec) -> str:
    """Hex sha256 of the weights and configs of its models, by part; "" for `own`, whose model has its own digest.

    Raises ModelError.
    """
    if isinstance(spec, OwnSpec):
        return ""
    pipeline_folder(spec)
    parts = {"model": model_digest(spec.model, spec.revision, home(), f"{WHAT}.model")}
    if isinstance(spec, CascadeSpec):
        parts["base"] = model_digest(spec.base, spec.base_revision, home(), f"{WHAT}.base")
    if isinstance(spec, CascadeSpec | ControlSpec):
        _check_control(spec)
        commit = spec.controlnet_revision
        parts["controlnet"] = hub_digest(spec.controlnet, commit) if commit else flat_digest(controlnet_folder(spec))
    if isinstance(spec, CascadeSpec):
        adapter, commit = adapter_folders(spec), spec.ip_adapter_revision
        if spec.ip_adapter is not None and adapter is not None:
            own = "\0".join(flat_digest(folder) for folder in adapter)
            parts["ip_adapter"] = hub_digest(spec.ip_adapter, commit) if commit else own
    return hashlib.sha256("".join(f"{name}\0{digest}\n" for name, digest in parts.items()).encode()).hexdigest()


def at_home(spec: EditorSpec) -> EditorSpec:
    """The same with whole paths of folders, for workers of other working folders."""
    if isinstance(spec, OwnSpec):
        return spec
    update = {}
    for name in PLACES:
        model, revision = getattr(spec, name, None), getattr(spec, revision_of(name), None)
        if model is not None and revision is None:
            found = next((place.resolve() for place in places_of(model) if place.is_dir()), None)
            update[name] = model if found is None else str(found)
    return spec.model_copy(update=update)


def revision_of(name: str) -> str:
    """The field with the commit of a model's field."""
    return "revision" if name == "model" else f"{name}_revision"


def told_of(spec: EditorSpec) -> dict[str, Any]:
    """What each row says of its settings, as plain JSON; its models stand in other columns."""
    places = {*PLACES, *map(revision_of, PLACES)}
    return spec.model_dump(mode="json", exclude={*places, "licence", "device_gib"}, exclude_none=True)


def content_of(spec: EditorSpec) -> dict[str, Any]:
    """What decides the pixels, as plain JSON: its models by their content, not by their place. Raises ModelError."""
    licence = {} if isinstance(spec, OwnSpec) else {"licence": spec.licence}
    return {**told_of(spec), **licence, "digest": editor_digest(spec)}


def model_columns(spec: TrainedSpec, digest: str) -> dict[str, str]:
    """What each row says of the model that edited it: a hub id, or of a folder, which may move, its pipeline's class.

    `digest`: what `editor_digest` says. Raises ModelError.
    """
    has_several = isinstance(spec, CascadeSpec | ControlSpec)  # models, of which a commit names one
    by_commit = spec.revision is not None and not has_several
    return {
        "model": pipeline_folder(spec).class_name if spec.revision is None else spec.model,
        "revision": str(spec.revision) if by_commit else f"sha256:{digest}",
        "licence": spec.licence,
    }
