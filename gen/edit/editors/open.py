"""Opens the editor of a recipe: its models loaded, on one shelf with the model that draws priors.

In: an editor's spec, the sampler. Out: an `Editor`. On disk: reads the checked folders, writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gen.edit.attributes.attribute import AttributeKind
from gen.edit.editors.editor import Alive, Change, Editor, Own
from gen.edit.editors.shelf import Shelf, bytes_of
from gen.edit.editors.spec import (
    WHAT,
    CascadeSpec,
    ControlSpec,
    EditorSpec,
    InpaintSpec,
    InstructSpec,
    OwnSpec,
    adapter_folders,
    base_folder,
    controlnet_folder,
    model_columns,
    pipeline_folder,
)
from gen.edit.editors.stages import Cascade, Control, Inpaint, Instruct
from gen.edit.editors.stock import Painted, Stock, sampled
from gen.edit.perturb import Model
from gen.model.folder import ModelError, ModelFolder
from gen.sampler.pipeline import TORCH_TYPES, from_folder, in_one_place
from gen.sampler.sampler import Request, Sampled, Sampler
from gen.sampler.spec import SamplerSpec
from shards.disk.safe_text import one_line

if TYPE_CHECKING:
    import torch

Trained = InpaintSpec | CascadeSpec | InstructSpec | ControlSpec
PRIORS = "sampler.model"
CONTROLLED = {"sd": "StableDiffusionControlNetPipeline", "sdxl": "StableDiffusionXLControlNetPipeline"}
LOADING = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError)


class Changer(Protocol):
    """The stages of an editor."""

    def wants_prior(self, kind: AttributeKind) -> bool:
        """Whether an edit of the kind begins with a prior."""

    def change(self, changes: Sequence[Change], alive: Alive) -> list[Painted]:
        """One picture for each change, in order, each by itself."""


class Apart:
    """An Editor with networks of its own; the text-to-image model draws priors alone."""

    def __init__(self, model: Model, changer: Changer, shelf: Shelf, columns: Mapping[str, object]) -> None:
        """The shelf has the model's networks as `PRIORS`."""
        self.columns = columns
        self._model = model
        self._changer = changer
        self._shelf = shelf

    def wants_prior(self, kind: AttributeKind) -> bool:
        """As its stages say."""
        return self._changer.wants_prior(kind)

    def prepare(self, texts: Sequence[str], drawn: Sequence[str], negatives: Sequence[str]) -> None:
        """The model reads the texts of priors; those of changes are read one by one."""
        if drawn:
            self._shelf.bring(PRIORS)
            self._model.prepare(drawn, negatives)

    def draw(self, requests: Sequence[Request], alive: Alive) -> Sampled:
        """One call of the model."""
        self._shelf.bring(PRIORS)
        return self._model.sample(requests, alive, None)

    def change(self, changes: Sequence[Change], alive: Alive) -> Sampled:
        """By the stages."""
        return sampled(self._changer.change(changes, alive))


def open_editor(spec: EditorSpec, model: Sampler, digest: str) -> Editor:
    """Loads what the spec names, on the sampler's device and in its type. `digest`: of the editor, for rows.

    Raises ModelError for what cannot be loaded or does not go together.
    """
    if isinstance(spec, OwnSpec):
        return Own(model)
    shelf = Shelf(str(model.device), spec.device_bytes)
    networks = model.networks
    shelf.put(PRIORS, networks, bytes_of(networks), is_there=True)
    return Apart(model, _changer(spec, model.spec, model.device, shelf), shelf, model_columns(spec, digest))


def _changer(spec: Trained, sampler: SamplerSpec, device: torch.device, shelf: Shelf) -> Changer:
    import torch

    dtype = getattr(torch, TORCH_TYPES[sampler.dtype])
    folder = pipeline_folder(spec)
    if isinstance(spec, ControlSpec):
        pipeline = _controlled(spec, folder, spec.variant, f"{WHAT}.model", dtype, device)
        return Control(Stock(pipeline, folder.family, shelf, f"{WHAT}.model"), spec, sampler.negative)
    stock = Stock(from_folder(folder, spec.variant, dtype, WHAT, device), folder.family, shelf, f"{WHAT}.model")
    if isinstance(spec, InstructSpec):
        return Instruct(stock, spec)
    first = Inpaint(stock, spec, sampler.negative)
    if not isinstance(spec, CascadeSpec):
        return first
    base = base_folder(spec)
    pipeline = _controlled(spec, base, spec.base_variant, f"{WHAT}.base", dtype, device)
    return Cascade(first, Stock(pipeline, base.family, shelf, f"{WHAT}.base"), spec, sampler.negative)


def _controlled(
    spec: CascadeSpec | ControlSpec,
    folder: ModelFolder,
    variant: str | None,
    what: str,
    dtype: torch.dtype,
    device: torch.device,
) -> Any:
    """A pipeline with the ControlNet and, if there is one, the IP-Adapter, on the CPU. Raises ModelError."""
    import diffusers

    base = from_folder(folder, variant, dtype, what)
    settings = {"requires_safety_checker": False} if folder.family == "sd" else {}
    if folder.family == "sdxl":
        settings = {"force_zeros_for_empty_prompt": base.config.force_zeros_for_empty_prompt}
    adapter = adapter_folders(spec) if isinstance(spec, CascadeSpec) else None
    try:
        controlnet = diffusers.ControlNetModel.from_pretrained(
            str(controlnet_folder(spec)), torch_dtype=dtype, use_safetensors=True, local_files_only=True
        )
        kind = in_one_place(getattr(diffusers, CONTROLLED[folder.family]), device)
        pipeline = kind(**base.components, controlnet=controlnet, **settings)
        pipeline.set_progress_bar_config(disable=True)
        if isinstance(spec, CascadeSpec) and adapter is not None:
            _add_adapter(pipeline, adapter[0] / spec.ip_weights.rpartition("/")[2], adapter[1], dtype)
    except ModelError:
        raise
    except LOADING as error:
        raise ModelError(
            f"{WHAT}: ControlNet and IP-Adapter do not go with the base ({one_line(str(error), 200)}), expected models "
            "of one family; take others"
        ) from error
    return pipeline


def _add_adapter(pipeline: Any, weights: Path, encoder: Path, dtype: torch.dtype) -> None:
    """Into the pipeline's denoiser, which nobody else uses. Both are read as safetensors here: the pipeline's own way
    would take an encoder's pickle."""
    from safetensors.torch import load_file
    from transformers import CLIPVisionModelWithProjection

    found = CLIPVisionModelWithProjection.from_pretrained(
        str(encoder), dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False
    )
    pipeline.register_modules(image_encoder=found)
    parts: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in load_file(weights).items():
        part, _, rest = name.partition(".")
        if part in parts:
            parts[part][rest] = tensor
    if not all(parts.values()):
        raise ModelError(f"{weights}: found no IP-Adapter, expected weights under image_proj. and ip_adapter.")
    pipeline.load_ip_adapter(parts, subfolder="", weight_name="")
