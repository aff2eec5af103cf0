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

if TYPE_CHECKING:
    import torch

    from gen.sampler.spec import SamplerSpec

PIPELINES = {
    "sd": "StableDiffusionImg2ImgPipeline",
    "sdxl": "StableDiffusionXLImg2ImgPipeline",
    "sd3": "StableDiffusion3Img2ImgPipeline",
    "flux": "FluxImg2ImgPipeline",
}


@dataclass(frozen=True, eq=False)
class Start:
    """The pictures of a call, one for each request, squares of the size that is made."""

    image_NHWC: np.ndarray  # uint8 RGB
    gamma: float  # 0 .. 1; at least one step

    def filled_up(self, missing: int) -> Start:
        """With so many copies of the last picture behind it."""
        return Start(np.concatenate([self.image_NHWC, *[self.image_NHWC[-1:]] * missing]), self.gamma)


def executed_steps(steps: int, gamma: float) -> int:
    """floor(gamma * steps), gamma as it is written: 0.29 of 100 steps are 29, though the nearest double is below."""
    return math.floor(Fraction(repr(float(gamma))) * steps)


def pipeline_from(pipeline: Any, family: str) -> Any:
    """The image-to-image pipeline over the same networks, scheduler and settings."""
    import diffusers

    kind = getattr(diffusers, PIPELINES[family])
    settings = {"requires_safety_checker": False} if family == "sd" else {}
    if family == "sdxl":
        settings = {"force_zeros_for_empty_prompt": pipeline.config.force_zeros_for_empty_prompt}
    changing = kind(**pipeline.components, **settings)
    changing.set_progress_bar_config(disable=True)
    return changing


def begin_with(
    start: Start,
    pipeline: Any,
    family: str,
    spec: SamplerSpec,
    dtype: torch.dtype,
    generators: Sequence[torch.Generator],
) -> dict[str, Any]:
    """The arguments that make a call of `pipeline` (`pipeline_from`) begin with the pictures. Raises ValueError for
    pictures of another size or number, and for a gamma of no step."""
    side, executed = spec.made_px, executed_steps(spec.steps, start.gamma)
    if start.image_NHWC.shape != (len(generators), side, side, 3) or not 1 <= executed <= spec.steps:
        raise ValueError(
            f"start: found pictures {list(start.image_NHWC.shape)} and {executed} steps, expected "
            f"[{len(generators)}, {side}, {side}, 3] and 1..{spec.steps} steps"
        )
    # some families round down there, some up
    nudge = 1e-6 if family in ("sd", "sdxl") else -1e-6
    strength = min(1.0, (executed + nudge) / spec.steps)
    latents_NCHW = _encode(pipeline.vae, family, start.image_NHWC, dtype, generators)
    sized = {} if family in ("sd", "sdxl") else {"height": side, "width": side}
    return {"image": latents_NCHW, "strength": strength, **sized}


def _encode(
    vae: Any, family: str, image_NHWC: np.ndarray, dtype: torch.dtype, generators: Sequence[torch.Generator]
) -> torch.Tensor:
    """Latents NCHW at the denoiser's scale, each drawn from its encoder's distribution by its own generator.

    One picture a call, so that none depends on its neighbours.
    """
    import torch
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents

    weight = next(vae.parameters())
    rows = []
    for image_HWC, generator in zip(image_NHWC, generators, strict=True):
        image_1CHW = torch.tensor(image_HWC).permute(2, 0, 1).unsqueeze(0) / 127.5 - 1
        rows.append(retrieve_latents(vae.encode(image_1CHW.to(weight.device, weight.dtype)), generator=generator))
    return for_denoiser(torch.cat(rows).to(dtype), vae.config, family)
