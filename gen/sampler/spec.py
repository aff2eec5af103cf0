"""The settings of a sampler: every choice that shapes an image, checked against the model.

In: the recipe's `sampler`. Out: a checked `SamplerSpec`, its digest for the run's fingerprint, one line for every row.
On disk: reads the model's configs and hashes its weights; nothing is written. Does not import torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.code import SHIPPED_MODEL
from gen.model.folder import (
    COMMIT_PATTERN,
    ModelError,
    ModelFolder,
    flat_digest,
    hub_digest,
    model_digest,
    open_model,
    read_config,
)
from gen.model.style_token import RowsName, check_fits, open_style_token, token_digest
from gen.sampler.shortcuts import check_decoder, require_torchao
from shards.disk.address import BESIDE, places_of
from shards.disk.home import home

# name in the recipe -> diffusers class, settings over the model's own scheduler config, families
SCHEDULERS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "ddim": ("DDIMScheduler", {}, ("sd", "sdxl")),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}, ("sd", "sdxl")),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}, ("sd", "sdxl")),
    "dpm++_karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
        ("sd", "sdxl"),
    ),
    "dpm++_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, ("sd", "sdxl")),
    "euler": ("EulerDiscreteScheduler", {}, ("sd", "sdxl")),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}, ("sd", "sdxl")),
    "heun": ("HeunDiscreteScheduler", {}, ("sd", "sdxl")),
    "unipc": ("UniPCMultistepScheduler", {}, ("sd", "sdxl")),
    "lcm": ("LCMScheduler", {}, ("sd", "sdxl")),
    "flow_euler": ("FlowMatchEulerDiscreteScheduler", {}, ("sd3", "flux")),
    "flow_heun": ("FlowMatchHeunDiscreteScheduler", {}, ("sd3",)),
}


# Fields of earlier versions. A data set of theirs keeps the null; a value made images that this version cannot make.
GONE = {"merge_tokens"}
SIDES = {"flux": 128}  # of latents, where the transformer's config does not say it
# What shapes no image, and what each image's row names in a column of its own.
ELSEWHERE = {"model", "revision", "family", "licence", "negative", "offload_text", "device", "style_token"}
PLACES = ("model", "decoder", "style_token")  # fields that name folders, which may move; their contents may not change


class SamplerSpec(BaseModel):
    """The model and every choice that changes pixels; all of it is part of a run's fingerprint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[str, BESIDE] = Field(
        description="folder of a pipeline (relative: same bytes anywhere) or hub id with revision"
    )
    revision: str | None = Field(default=None, description="commit of the hub id, 40 hex digits; null for a folder")
    variant: Literal["fp16", "bf16"] | None = Field(
        default=None, description="weight files with this tag", examples=["fp16"]
    )
    family: Literal["auto", "sd", "sdxl", "sd3", "flux"] = Field(default="auto", description="auto: as the model says")
    licence: str = Field(default="unknown", min_length=1, max_length=200, description="recorded with every image")
    scheduler: str | None = Field(default=None, description=f"null (the model's own) or {', '.join(SCHEDULERS)}")
    spacing: Literal["leading", "trailing", "linspace"] | None = Field(
        default=None,
        description="of the timesteps; null = the scheduler's own (Lightning models want trailing)",
        examples=["trailing"],
    )
    steps: int = Field(default=30, ge=1, le=1000, description="denoising steps")
    guidance: float = Field(
        default=2.0,
        ge=0,
        le=100,
        description="classifier-free guidance, one pass at 1 and below; FLUX: its embedded scale",
    )
    negative: str = Field(
        default="", max_length=8192, description="negative text of prompts that have none", examples=["text, watermark"]
    )
    text_tokens: int | None = Field(
        default=None, ge=1, le=512, description="T5 tokens of SD3 and FLUX; null = the pipeline's own", examples=[256]
    )
    size_px: int | None = Field(
        default=None, ge=8, le=4096, description="side of the generated square; null = the one that the model is for"
    )
    saved_px: int | None = Field(default=None, ge=8, le=4096, description="side of the stored square; null = size_px")
    resize: Literal["area", "bicubic"] = Field(default="area", description="box mean or antialiased bicubic")
    dtype: Literal["auto", "fp32", "fp16", "bf16"] = Field(
        default="auto",
        description="type of weights and activations; auto: bf16 on a GPU (fp16 on an older one), fp32 on a CPU",
    )
    vae_dtype: Literal["fp32", "fp16", "bf16"] | None = Field(
        default=None,
        description="of the decoder; null = dtype, or fp32 where the model says that fp16 overflows",
        examples=["fp32"],
    )
    retry_fp32: bool = Field(default=False, description="decode an image with NaN or Inf once more in fp32")
    attention: Literal["sdpa", "xformers"] = Field(default="sdpa", description="attention kernels")
    fuse_qkv: bool = Field(default=False, description="query, key and value in one product; rounds differently")
    compile: Literal["auto", "none", "regional", "full"] = Field(
        default="auto", description="torch.compile the networks; auto: regional on a GPU, none on a CPU"
    )
    batch: int | Literal["auto"] = Field(
        default=16, description="images per model call, 1..1024; auto: by a curve measured when a run begins"
    )
    vae_batch: int = Field(
        default=8, ge=1, le=1024, description="images per decoder call; from 1024 px on 4 or less, for short indices"
    )
    text_batch: int = Field(default=16, ge=1, le=1024, description="texts per encoder call")
    offload_text: bool | Literal["auto"] = Field(
        default="auto",
        description="encode a unit's prompts at once, then move text encoders and embeddings off the GPU; auto: where "
        "the loaded model leaves less than half of its memory",
    )
    guidance_interval: tuple[float, float] | None = Field(
        default=None,
        description="[low, high): guidance only in this part of the steps, 0..1; other images",
        examples=[[0.2, 0.8]],
    )
    reuse_every: int | None = Field(
        default=None,
        ge=2,
        le=100,
        description="run a U-Net's deep layers every n steps only; other images",
        examples=[3],
    )
    decoder: Annotated[str | None, BESIDE] = Field(
        default=None,
        description="folder or hub id of a TAESD (AutoencoderTiny) instead of the VAE; other images",
        examples=["madebyollin/taesd"],
    )
    decoder_revision: str | None = Field(
        default=None,
        description="commit of that hub id; null for a folder",
        examples=["0123456789abcdef0123456789abcdef01234567"],
    )
    quantise: Literal["int8", "fp8"] | None = Field(
        default=None,
        description="linear layers of the denoiser through torchao, on a GPU; other images",
        examples=["int8"],
    )
    style_token: Annotated[str | None, BESIDE] = Field(
        default=None,
        description="filled in from prompts.style_token",
        examples=["out/invert/rendition"],
    )
    style_rows: RowsName | None = Field(
        default=None, description="filled in from prompts.style_rows", examples=["untrained"]
    )
    threads: int = Field(default=1, ge=1, le=256, description="CPU threads of torch in each worker")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto = cuda where there is one")

    @model_validator(mode="before")
    @classmethod
    def _without_what_is_gone(cls, fields: Any) -> Any:
        if not isinstance(fields, Mapping):
            return fields
        for name in GONE & fields.keys():
            if fields[name] is not None:
                raise ValueError(
                    f"found {name}: {str(fields[name])[:60]}, which this version no longer has; remove it, or go on "
                    "with the version that began the data set"
                )
        return {name: value for name, value in fields.items() if name not in GONE}

    # each check by itself, so that a person hears of all mistakes at once (`cluster.recipes.mistake`)

    @model_validator(mode="after")
    def _revision_is_a_commit(self) -> SamplerSpec:
        if self.revision is not None and not COMMIT_PATTERN.fullmatch(self.revision):
            raise ValueError(
                f"revision: found {self.revision[:80]!r}, expected a commit of 40 hex digits; branches and tags move, "
                "so copy the commit from the model's page"
            )
        return self

    @model_validator(mode="after")
    def _scheduler_is_known(self) -> SamplerSpec:
        if self.scheduler is not None and self.scheduler not in SCHEDULERS:
            raise ValueError(f"scheduler: found {self.scheduler!r}, expected null or one of {', '.join(SCHEDULERS)}")
        return self

    @model_validator(mode="after")
    def _size_is_a_multiple(self) -> SamplerSpec:
        if self.size_px is not None and self.size_px % 8:
            raise ValueError(f"size_px: found {self.size_px}, expected a multiple of 8")
        return self

    @model_validator(mode="after")
    def _images_are_not_enlarged(self) -> SamplerSpec:
        if self.saved_px is not None and self.size_px is not None and self.saved_px > self.size_px:
            raise ValueError(
                f"saved_px: found {self.saved_px}, expected at most size_px = {self.size_px}; images are never enlarged"
            )
        return self

    @model_validator(mode="after")
    def _negative_is_looked_at(self) -> SamplerSpec:
        if self.negative and self.guidance <= 1:
            raise ValueError("negative: has no effect without guidance; set guidance above 1 or leave negative empty")
        return self

    @model_validator(mode="after")
    def _batch_is_bounded(self) -> SamplerSpec:
        if self.batch != "auto" and not 1 <= self.batch <= 1024:
            raise ValueError(f"batch: found {self.batch}, expected auto or 1..1024")
        return self

    @model_validator(mode="after")
    def _interval_is_one(self) -> SamplerSpec:
        if self.guidance_interval is not None:
            low, high = self.guidance_interval
            if not 0 <= low < high <= 1:
                raise ValueError(f"guidance_interval: found [{low:g}, {high:g}], expected 0 <= low < high <= 1")
        return self

    @model_validator(mode="after")
    def _interval_has_guidance(self) -> SamplerSpec:
        if self.guidance_interval is not None and self.guidance <= 1:
            raise ValueError("guidance_interval: has no effect without guidance; set guidance above 1 or remove it")
        return self

    @model_validator(mode="after")
    def _reuse_fits_compile(self) -> SamplerSpec:
        if self.reuse_every is not None and self.compile == "full":
            raise ValueError("reuse_every: skips parts of a network that compile=full makes one; set compile=regional")
        return self

    @model_validator(mode="after")
    def _fused_fits_attention(self) -> SamplerSpec:
        if self.fuse_qkv and self.attention == "xformers":
            raise ValueError("fuse_qkv: not with attention=xformers; set one of the two back")
        return self

    @model_validator(mode="after")
    def _quantised_is_compiled(self) -> SamplerSpec:
        if self.quantise is not None and self.compile == "none":
            raise ValueError("quantise: slower than without where nothing is compiled; set compile=regional")
        return self

    @model_validator(mode="after")
    def _decoder_is_named(self) -> SamplerSpec:
        if self.decoder_revision is not None and self.decoder is None:
            raise ValueError("decoder_revision: found no decoder beside it; set decoder, or remove the revision")
        return self

    @model_validator(mode="after")
    def _rows_have_their_token(self) -> SamplerSpec:
        if self.style_rows is not None and self.style_token is None:
            raise ValueError("style_rows: found no style_token beside it; set prompts.style_token, or remove it")
        return self

    def decided(self, on_gpu: bool, has_bf16: bool = True) -> SamplerSpec:
        """The spec with a value for every ``auto`` that the kind of device decides; ``batch`` stays as it is.

        ``has_bf16``: the GPU itself computes in bf16 (V100 and T4 do not, and emulate it slowly).
        """
        half = "bf16" if has_bf16 else "fp16"
        chosen = {
            "dtype": (half if on_gpu else "fp32") if self.dtype == "auto" else self.dtype,
            "compile": ("regional" if on_gpu else "none") if self.compile == "auto" else self.compile,
        }
        return self.model_copy(update=chosen)

    @property
    def call_size(self) -> int:
        """Images per model call. Raises ValueError while that is ``auto``."""
        if self.batch == "auto":
            raise ValueError("batch: found auto, which only the start of a run decides; set sampler.batch to a number")
        return self.batch

    @property
    def made_px(self) -> int:
        """The side of the generated image in pixels. Raises ValueError while that is left to the model."""
        if self.size_px is None:
            raise ValueError("size_px: found null, which only the start of a run decides; set sampler.size_px")
        return self.size_px

    @property
    def stored_px(self) -> int:
        """The side of the stored image in pixels."""
        return self.made_px if self.saved_px is None else self.saved_px


def sampler_json(spec: SamplerSpec) -> str:
    """The settings that shape an image as one line of JSON, stored with every image; null ones are left out."""
    return json.dumps(spec.model_dump(exclude=ELSEWHERE, exclude_none=True), sort_keys=True)


def sampler_digest(spec: SamplerSpec) -> str:
    """The digest of the weights and configs of the model, and of its tiny decoder and its style token if it has one,
    for the fingerprint.

    Raises ModelError if one of them is not here; whether they are sound and fit the spec says `check_sampler`.
    """
    digest = model_digest(spec.model, spec.revision, home())
    if spec.decoder is not None:
        if spec.decoder_revision is not None:
            decoder = hub_digest(spec.decoder, spec.decoder_revision)
        else:
            decoder = flat_digest(check_decoder(spec.decoder, None, home()))
        digest = hashlib.sha256(f"{digest}\0{decoder}\n".encode()).hexdigest()
    if spec.style_token is not None:
        token = token_digest(open_style_token(spec.style_token), spec.style_rows or "learned")
        digest = hashlib.sha256(f"{digest}\0style\0{token}\n".encode()).hexdigest()
    return digest


def model_places(spec: SamplerSpec) -> dict[str, str | None]:
    """Where a worker finds what `spec` names, as values of its fields `model`, `decoder` and `style_token`.

    Workers start in other folders: a relative one gets its whole path, also beside our code, of which they get a copy
    without it. What ships with sixfold keeps its name, because every node has its own.
    """
    return {
        "model": _place(spec.model, spec.revision),
        "decoder": _place(spec.decoder, spec.decoder_revision),
        "style_token": _place(spec.style_token, None),
    }


def _place(model: str | None, revision: str | None) -> str | None:
    if model is None or revision is not None:
        return model
    there = next((place.resolve() for place in places_of(model) if place.is_dir()), None)
    return model if there is None or there == (home() / SHIPPED_MODEL).resolve() else str(there)


def check_sampler(spec: SamplerSpec) -> ModelFolder:
    """Everything about the model that can be known without loading torch; raises ModelError with one line."""
    folder = open_model(spec.model, spec.revision, spec.variant, home())
    if spec.family not in ("auto", folder.family):
        raise ModelError(
            f"model {spec.model}: found family {folder.family}, the recipe says {spec.family}; set sampler.family=auto"
        )
    if spec.scheduler is not None and folder.family not in SCHEDULERS[spec.scheduler][2]:
        known = [name for name, (_, _, families) in SCHEDULERS.items() if folder.family in families]
        raise ModelError(
            f"scheduler {spec.scheduler}: not for family {folder.family}; set sampler.scheduler to null or one of "
            f"{', '.join(known)}"
        )
    if folder.family in ("sd3", "flux") and spec.spacing is not None:
        raise ModelError(f"spacing {spec.spacing}: family {folder.family} has none; set sampler.spacing to null")
    if folder.family in ("sd", "sdxl") and spec.text_tokens is not None:
        raise ModelError(
            f"text_tokens: family {folder.family} has a fixed text length; set sampler.text_tokens to null"
        )
    denoiser = "unet" if folder.family in ("sd", "sdxl") else "transformer"
    if denoiser not in folder.components:
        raise ModelError(f"model {spec.model}: found no {denoiser}; download it again")
    if is_distilled(folder.family, read_config(folder.path / denoiser / "config.json")):
        if spec.negative:
            raise ModelError("negative: this model runs one pass a step without any; leave sampler.negative empty")
        if spec.guidance_interval is not None:
            raise ModelError("guidance_interval: this model runs one pass a step; set sampler.guidance_interval=null")
    if folder.family in ("sd3", "flux") and spec.reuse_every is not None:
        raise ModelError(f"reuse_every: family {folder.family} has no U-Net; set sampler.reuse_every to null")
    if spec.decoder is not None:
        folder = replace(folder, decoder=check_decoder(spec.decoder, spec.decoder_revision, home()))
    if spec.style_token is not None:
        check_fits(open_style_token(spec.style_token), folder, model_digest(spec.model, spec.revision, home()))
    if spec.quantise is not None:
        require_torchao(spec.quantise)
    multiple = 16 if folder.family in ("sd3", "flux") else 8
    if with_size(spec, folder).made_px % multiple:
        raise ModelError(f"size_px: found {spec.size_px}, family {folder.family} expects a multiple of {multiple}")
    return folder


def with_size(spec: SamplerSpec, folder: ModelFolder) -> SamplerSpec:
    """`spec` with a value for `size_px`: where it is null, the side that the model in `folder` was trained for.

    Raises ModelError if the model does not say it, or if images would be enlarged.
    """
    if spec.size_px is not None:
        return spec
    denoiser = "unet" if folder.family in ("sd", "sdxl") else "transformer"
    side = read_config(folder.path / denoiser / "config.json").get("sample_size", SIDES.get(folder.family))
    halvings = read_config(folder.path / "vae" / "config.json").get("block_out_channels")
    if not isinstance(side, int) or not isinstance(halvings, list) or not (own := side * 2 ** (len(halvings) - 1)) >= 8:
        raise ModelError(f"model {spec.model}: found no size in its configs; set sampler.size_px")
    if spec.saved_px is not None and spec.saved_px > own:
        raise ModelError(
            f"saved_px: found {spec.saved_px}, expected at most the model's {own}; lower it, or set sampler.size_px"
        )
    return spec.model_copy(update={"size_px": own})


def is_guided(spec: SamplerSpec, folder: ModelFolder) -> bool:
    """Whether a step takes two passes, the second one with the negative text."""
    denoiser = "unet" if folder.family in ("sd", "sdxl") else "transformer"
    return spec.guidance > 1 and not is_distilled(folder.family, read_config(folder.path / denoiser / "config.json"))


def is_distilled(family: str, denoiser_config: Mapping[str, Any]) -> bool:
    """Models that take the guidance scale as an input and run one pass whatever it is."""
    return family == "flux" or denoiser_config.get("time_cond_proj_dim") is not None
