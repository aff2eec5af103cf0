"""Shortcuts of the sampler that change images: guidance interval, feature reuse, tiny decoder, low-bit linears.

In: a loaded pipeline. Out: the same pipeline, whose calls do less work. On disk: nothing. A recipe asks for each of
them; by default there is none.

The number of the step alone decides what is skipped. A cache that looks at how far features have moved decides for a
whole batch, so an image would depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gen.model.folder import ModelError, flat_model, read_config
from shards.disk.safe_text import quoted

if TYPE_CHECKING:
    import torch

DECODER_WEIGHTS = "diffusion_pytorch_model.safetensors"
FP8_CAPABILITY = (8, 9)  # of a GPU (Ada, Hopper); below it torchao stops with an assertion

# Parts of a denoiser that see one row an image instead of one a token: conditioning by time, size and pooled text. Of
# 16 rows or fewer CUDA makes no int8 product, and of so few there is nothing to gain.
ROW_PER_IMAGE = ("time_embedding", "time_emb_proj", "time_text_embed", "add_embedding", "norm")


class Shortcuts:
    """Stands around a denoiser's forward and counts its calls. Owns the features that it hands out again.

    ``guidance_interval`` (low, high): only calls whose share of the way lies in [low, high) run both passes, the
    others the conditional one. ``reuse_every`` n: of n calls in a row the first one runs whole, the others only a
    U-Net's outermost layers, over the deep features of the whole one. Source: Ma et al. 2024, DeepCache.
    """

    def __init__(
        self, pipeline: Any, family: str, guidance_interval: tuple[float, float] | None, reuse_every: int | None
    ) -> None:
        self._pipeline = pipeline
        self._interval = guidance_interval
        self._every = reuse_every
        self._calls = 0
        self._rows = 0  # of the last whole call
        self._whole = True
        self._kept: dict[int, Any] = {}
        denoiser = pipeline.unet if family in ("sd", "sdxl") else pipeline.transformer
        if reuse_every is not None:
            for number, module in enumerate(deep_modules(denoiser)):
                module.forward = self._keep(number, module.forward)
        if guidance_interval is not None or reuse_every is not None:
            denoiser.forward = self._step(denoiser.forward)

    @contextmanager
    def one_call(self) -> Iterator[None]:
        """Around every call of the pipeline; no features are held while pictures are decoded."""
        self._calls = 0
        try:
            yield
        finally:
            self._kept.clear()

    def _step(self, forward: Callable[..., tuple[torch.Tensor]]) -> Callable[..., tuple[torch.Tensor]]:
        import torch

        def step(*args: Any, **kwargs: Any) -> tuple[torch.Tensor]:
            rows = len(args[0] if args else kwargs["hidden_states"])
            at = self._calls / len(self._pipeline.scheduler.timesteps)  # a scheduler may call more than once a step
            alone = self._interval is not None and not self._interval[0] <= at < self._interval[1]
            if alone:  # the second half of the rows is the conditional one
                args, kwargs = _second_half(args, rows), _second_half(kwargs, rows)
                rows //= 2
            self._whole = self._every is None or self._calls % self._every == 0 or rows != self._rows
            self._rows = rows
            self._calls += 1
            made = forward(*args, **kwargs)[0]
            # equal halves: whatever the scale, the pipeline's guidance leaves them as they are
            return (torch.cat([made, made]) if alone else made,)

        return step

    def _keep(self, number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def held(*args: Any, **kwargs: Any) -> Any:
            if self._whole:
                self._kept[number] = forward(*args, **kwargs)
            return self._kept[number]

        return held


def deep_modules(unet: Any) -> list[Any]:
    """All of a U-Net but the first layer of its first block down and the last layer of its last block up."""
    first, last = unet.down_blocks[0], unet.up_blocks[-1]
    found = [*unet.down_blocks[1:], *([unet.mid_block] if unet.mid_block is not None else []), *unet.up_blocks[:-1]]
    for name in ("resnets", "attentions"):
        found += [*(getattr(first, name, None) or [])[1:], *(getattr(last, name, None) or [])[:-1]]
    return [*found, *(first.downsamplers or [])]


def _second_half(value: Any, rows: int) -> Any:
    """``value`` without the first half of every tensor of ``rows`` rows in it."""
    if isinstance(value, dict):
        return {name: _second_half(inner, rows) for name, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(_second_half(inner, rows) for inner in value)
    if getattr(value, "ndim", 0) and len(value) == rows:
        return value[rows // 2 :]
    return value


def check_decoder(model: str, revision: str | None, home: Path) -> Path:
    """The checked folder of a tiny decoder (TAESD and its kin). Raises ModelError."""
    folder = flat_model("sampler.decoder", model, revision, "config.json", DECODER_WEIGHTS, (Path(), home))
    kind = read_config(folder / "config.json").get("_class_name")
    if kind != "AutoencoderTiny":
        raise ModelError(
            f"sampler.decoder {quoted(model, 120)}: found {quoted(kind, 80)}, expected an AutoencoderTiny; use the "
            "TAESD of the model's family, or leave sampler.decoder null"
        )
    return folder


def set_decoder(pipeline: Any, folder: Path, dtype: torch.dtype) -> None:
    """Put the tiny decoder in the place of the model's own. Raises ModelError if it reads other latents."""
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    tiny = AutoencoderTiny.from_pretrained(str(folder), dtype=dtype, use_safetensors=True, local_files_only=True)
    found, expected = tiny.config.latent_channels, pipeline.vae.config.latent_channels
    if found != expected:
        raise ModelError(
            f"sampler.decoder {folder}: reads {found} latent channels, the model makes {expected}; use the TAESD of "
            "the model's family"
        )
    pipeline.register_modules(vae=tiny)


def require_torchao(how: str) -> None:
    """Raise ModelError if torchao is not installed; `how` is the recipe's way to quantise."""
    if find_spec("torchao") is None:
        raise ModelError(
            f"quantise {how}: torchao is not installed; `pip install -e .[gpu]`, or set sampler.quantise=null"
        )


def check_quantise(how: str, dtype: str, capability: tuple[int, int] | None) -> None:
    """Raises ModelError where weights of ``dtype`` or a GPU of this ``capability`` (None: no GPU) cannot be had."""
    if capability is None:
        raise ModelError(f"quantise {how}: needs a GPU, found none; set sampler.quantise=null")
    if how == "fp8" and dtype != "bf16":
        raise ModelError(f"quantise fp8: found dtype {dtype}, expected bf16; set sampler.dtype=bf16, or quantise=int8")
    if how == "fp8" and capability < FP8_CAPABILITY:
        found, expected = (f"{major}.{minor}" for major, minor in (capability, FP8_CAPABILITY))
        raise ModelError(
            f"quantise fp8: found a GPU of compute capability {found}, expected {expected} or more; set "
            "sampler.quantise=int8"
        )


def quantise_linears(denoiser: Any, how: Literal["int8", "fp8"]) -> None:
    """Weights once, activations in every call, of the linear layers that `is_quantised` names."""
    from importlib import import_module

    quantization = import_module("torchao.quantization")
    by_row = quantization.PerRow()  # a scale for a whole batch would make an image depend on its neighbours
    settings = {
        "int8": quantization.Int8DynamicActivationInt8WeightConfig,
        "fp8": quantization.Float8DynamicActivationFloat8WeightConfig,
    }[how](granularity=by_row)
    quantization.quantize_(denoiser, settings, filter_fn=is_quantised)


def is_quantised(module: torch.nn.Module, name: str) -> bool:
    """Linear layers over tokens whose sides the kernels take; not the last one, whose errors no later one mends."""
    import torch

    if not isinstance(module, torch.nn.Linear) or module.in_features % 16 or module.out_features % 16:
        return False
    return name != "proj_out" and not any(part.startswith(ROW_PER_IMAGE) for part in name.split("."))
