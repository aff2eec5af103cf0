"""A pipeline of diffusers as an editor's stage: called for one picture at a time, its networks on the shelf.

In: a loaded pipeline, the arguments of one picture. Out: `Painted`. On disk: nothing.

One picture a call, noise from a CPU generator with its own seed: the same bits alone and among others. Its time goes
into the denoiser, which a single picture of 1024 px keeps busy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gen.edit.editors.editor import Alive, Change
from gen.edit.editors.shelf import Shelf, bytes_of
from gen.edit.priors.pixels import Image, Plane
from gen.model.folder import ModelError
from gen.sampler.latents import for_decoder
from gen.sampler.safety import check_extractor, flag_images
from gen.sampler.sampler import Sampled

if TYPE_CHECKING:
    import torch

DECODER_CALLS = ("encode", "decode")
CHECKER = "safety_checker"


@dataclass(frozen=True, eq=False)
class Painted:
    """One picture of a stage."""

    image_HWC: Image
    finite: bool  # no NaN or Inf in the float image
    flagged: bool  # the model's own safety checker objects


Paint = Callable[[Change, Alive], Painted]


class Stock:
    """A loaded pipeline, its networks on a shelf. Owns the weights; one thread uses it."""

    def __init__(self, pipeline: Any, family: str, shelf: Shelf, name: str) -> None:
        """`name` tells its networks from those of other stages. Raises ModelError for a scheduler whose noise has no
        seed, a checker that reads files only, and for networks larger than the shelf's budget."""
        import torch

        self.pipeline = pipeline
        self.family = family
        self._shelf = shelf
        self._name = name
        if pipeline.scheduler.config.get("stochastic_sampling"):
            raise ModelError(
                f"{name}: its scheduler draws unseeded noise; set stochastic_sampling to false in its config"
            )
        if getattr(pipeline, CHECKER, None) is not None:
            check_extractor(pipeline.feature_extractor)
        for part, network in pipeline.components.items():
            if isinstance(network, torch.nn.Module):
                network.eval()
                place = f"{name} {part}"
                shelf.put(place, [network], bytes_of([network]))
                shelf.bring_before(place, network, DECODER_CALLS if part == "vae" else ())

    def paint(self, arguments: Mapping[str, Any], seed: int, side_px: int, alive: Alive) -> Painted:
        """One picture, a square of `side_px`. `arguments`: of the pipeline's call, besides those that all have."""
        import torch

        def after_step(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            alive((step + 1) / max(step + 1, pipeline.num_timesteps))
            return {}

        with torch.inference_mode():
            latents = self.pipeline(
                **arguments,
                height=side_px,
                width=side_px,
                generator=torch.Generator("cpu").manual_seed(seed),
                output_type="latent",
                callback_on_step_end=after_step,
                callback_on_step_end_tensor_inputs=[],
            ).images
            if self.family == "flux":  # packed 2x2 patches
                latents = self.pipeline._unpack_latents(latents, side_px, side_px, self.pipeline.vae_scale_factor)
            image_1CHW = self._decode(latents)
            flagged = self._flag(image_1CHW)
            finite = bool(torch.isfinite(image_1CHW).all())
            unit_CHW = image_1CHW[0].float().div(2).add(0.5).nan_to_num(nan=0.0).clamp(0, 1)
            image_HWC = unit_CHW.mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        return Painted(np.ascontiguousarray(image_HWC), finite, flagged)

    def _decode(self, latents_1CHW: torch.Tensor) -> torch.Tensor:
        """Around [-1, 1], not yet clipped."""
        import torch

        vae = self.pipeline.vae
        own = next(vae.parameters()).dtype
        overflows = own == torch.float16 and getattr(vae.config, "force_upcast", False)
        if overflows:
            vae.to(torch.float32)
        scaled = for_decoder(latents_1CHW, vae.config, self.family).to(next(vae.parameters()).dtype)
        image_1CHW: torch.Tensor = vae.decode(scaled, return_dict=False)[0]
        if overflows:
            vae.to(own)
        return image_1CHW

    def _flag(self, image_1CHW: torch.Tensor) -> bool:
        checker = getattr(self.pipeline, CHECKER, None)
        if checker is None:
            return False
        self._shelf.bring(f"{self._name} {CHECKER}")
        return bool(flag_images(checker, self.pipeline.feature_extractor, image_1CHW)[0])


def each(changes: Sequence[Change], paint: Paint, alive: Alive) -> list[Painted]:
    """One after the other. `alive` hears the share of them all."""
    made = []
    for place, change in enumerate(changes):
        made.append(paint(change, lambda share, place=place: alive((place + share) / len(changes))))  # type: ignore[misc]
    return made


def sampled(made: Sequence[Painted]) -> Sampled:
    """As one call of a sampler, its pixels there."""
    return Sampled(
        np.stack([one.image_HWC for one in made]),
        np.array([one.finite for one in made]),
        np.array([one.flagged for one in made]),
        wait=lambda seconds: None,
    )


def pixels(image_HWC: Image) -> torch.Tensor:
    """1CHW in 0..1."""
    import torch

    return torch.tensor(image_HWC).permute(2, 0, 1).unsqueeze(0) / 255


def region(region_HW: Plane) -> torch.Tensor:
    """11HW in 0..1; a pipeline paints where it is half or more."""
    import torch

    return torch.tensor(region_HW)[None, None].float()
