"""What a call of the sampler begins with when it changes pictures instead of drawing them from noise.

In: pictures and a strength gamma, a loaded pipeline. Out: their latents, and the arguments that begin with them. On
disk: nothing.

Of a schedule of T steps only the last floor(gamma T) are taken: gamma 1 keeps almost nothing of a picture, a small
gamma almost all. Source: Meng et al. 2022 (SDEdit), as diffusers' image-to-image pipelines do it, but with one rule for
the number of steps in all families.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from gen.sampler.latents import for_denoiser
from gen.sampler.pipeline import draw_noise

if TYPE_CHECKING:
    import torch

    from gen.sampler.spec import SamplerSpec

LATENT_CHANNELS = 16  # of SD3 and FLUX
PIPELINES = {  # family -> diffusers' pipeline that changes a whole picture, and the one that changes a part
    "sd": ("StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"),
    "sdxl": ("StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"),
    "sd3": ("StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline"),
    "flux": ("FluxImg2ImgPipeline", "FluxInpaintPipeline"),
}


@dataclass(frozen=True, eq=False)
class Start:
    """The pictures of a call, one for each request, squares of the size that is made."""

    image_NHWC: np.ndarray  # uint8 RGB
    gamma: float  # 0 .. 1; at least one step
    region_NHW: np.ndarray | None = None  # bool: where a picture may change; None: everywhere

    def filled_up(self, missing: int) -> Start:
        """With so many copies of the last picture behind it."""
        image_NHWC, region_NHW = (
            None if rows is None else np.concatenate([rows, *[rows[-1:]] * missing])
            for rows in (self.image_NHWC, self.region_NHW)
        )
        assert image_NHWC is not None
        return Start(image_NHWC, self.gamma, region_NHW)


def executed_steps(steps: int, gamma: float) -> int:
    """floor(gamma * steps), gamma as it is written: 0.29 of 100 steps are 29, though the nearest double is below."""
    return math.floor(Fraction(repr(float(gamma))) * steps)


def stock_strength(family: str, steps: int, gamma: float) -> float:
    """The strength by which diffusers' pipelines of a family take just these steps: some round down there, some up."""
    nudge = 1e-6 if family in ("sd", "sdxl") else -1e-6
    return min(1.0, (executed_steps(steps, gamma) + nudge) / steps)


class Beginnings:
    """What the calls of one loaded pipeline begin with. Owns the pipelines that begin with pictures, over the same
    networks, scheduler and settings; each is made when it is first needed."""

    def __init__(self, pipeline: Any, family: str, device: torch.device) -> None:
        self._pipeline = pipeline
        self._family = family
        self._device = device
        self._changing: dict[bool, Any] = {}  # whether only a part changes -> pipeline

    def of(
        self, start: Start | None, spec: SamplerSpec, dtype: torch.dtype, generators: Sequence[torch.Generator]
    ) -> tuple[Any, dict[str, Any]]:
        """The pipeline to call, and the arguments that say what it begins with: noise without a `start`.

        Raises ValueError for pictures or regions of another size or number, and for a gamma of no step.
        """
        import torch

        if start is None:
            noise = draw_noise(self._pipeline, self._family, spec.made_px, dtype, generators)
            if self._device.type == "cuda":
                noise = noise.pin_memory().to(self._device, non_blocking=True)
            return self._pipeline, {"latents": noise, "height": spec.made_px, "width": spec.made_px}
        side, executed = spec.made_px, executed_steps(spec.steps, start.gamma)
        _check(start, len(generators), side, executed, spec.steps)
        begin: dict[str, Any] = {"strength": stock_strength(self._family, spec.steps, start.gamma)}
        if start.region_NHW is not None or self._family in ("sd3", "flux"):
            begin |= {"height": side, "width": side}
        if start.region_NHW is None:
            image_NCHW = _pixels(start) * 2 - 1
            begin["image"] = _encode(self._pipeline.vae, self._family, image_NCHW, dtype, generators)
        else:
            begin |= _regions(start)
            if self._family in (
                "sd3",
                "flux",
            ):  # read by networks that were trained to inpaint alone; else encoded anew
                cells = side // self._pipeline.vae_scale_factor
                begin["masked_image_latents"] = torch.zeros(len(generators), LATENT_CHANNELS, cells, cells)
        return self._changer(start.region_NHW is not None), begin

    def _changer(self, in_parts: bool) -> Any:
        """The image-to-image pipeline; `in_parts`: the inpainting one, which takes a network of text to image."""
        import diffusers

        if in_parts not in self._changing:
            kind = getattr(diffusers, PIPELINES[self._family][in_parts])
            settings = {"requires_safety_checker": False} if self._family == "sd" else {}
            if self._family == "sdxl":
                settings = {"force_zeros_for_empty_prompt": self._pipeline.config.force_zeros_for_empty_prompt}
            changer = _encoding_as_it_is(kind, self._family)(**self._pipeline.components, **settings)
            changer.set_progress_bar_config(disable=True)
            self._changing[in_parts] = changer
        return self._changing[in_parts]


def _check(start: Start, num: int, side: int, executed: int, steps: int) -> None:
    if start.image_NHWC.shape != (num, side, side, 3) or not 1 <= executed <= steps:
        raise ValueError(
            f"start: found pictures {list(start.image_NHWC.shape)} and {executed} steps, expected "
            f"[{num}, {side}, {side}, 3] and 1..{steps} steps"
        )
    region_NHW = start.region_NHW
    if region_NHW is not None and (region_NHW.dtype != np.bool_ or region_NHW.shape != (num, side, side)):
        raise ValueError(
            f"start: found regions {region_NHW.dtype} {list(region_NHW.shape)}, expected bool [{num}, {side}, {side}]"
        )


def _regions(start: Start) -> dict[str, torch.Tensor]:
    """Pictures and regions as 0 or 1, for a pipeline that encodes both itself."""
    import torch

    assert start.region_NHW is not None
    return {"image": _pixels(start), "mask_image": torch.tensor(start.region_NHW).unsqueeze(1).float()}


def _pixels(start: Start) -> torch.Tensor:
    """NCHW in 0..1."""
    import torch

    return torch.tensor(start.image_NHWC).permute(0, 3, 1, 2) / 255


def _encoding_as_it_is(kind: type, family: str) -> Any:
    """The pipeline class `kind`, which encodes pictures in the type that the autoencoder has: its own way of SDXL moves
    the weights to another type and leaves them there, and that of the others fails where the types differ."""

    def encode(pipeline: Any, image: torch.Tensor, generator: Sequence[torch.Generator]) -> torch.Tensor:
        return _encode(pipeline.vae, family, image, image.dtype, generator)

    return type(kind.__name__, (kind,), {"_encode_vae_image": encode, "__module__": kind.__module__})


def _encode(
    vae: Any, family: str, image_NCHW: torch.Tensor, dtype: torch.dtype, generators: Sequence[torch.Generator]
) -> torch.Tensor:
    """Latents NCHW at the denoiser's scale, each drawn from its encoder's distribution by its own generator; pictures
    around [-1, 1].

    One picture a call, so that none depends on its neighbours.
    """
    import torch
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents

    weight = next(vae.parameters())
    rows = [
        retrieve_latents(vae.encode(image_1CHW.to(weight.device, weight.dtype)), generator=generator)
        for image_1CHW, generator in zip(image_NCHW.split(1), generators, strict=True)
    ]
    return for_denoiser(torch.cat(rows).to(dtype), vae.config, family)
