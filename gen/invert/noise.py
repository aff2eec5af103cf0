"""How a model's own scheduler adds noise, and what the model is asked to predict of it.

In: the scheduler of a loaded pipeline, latents, noise, places in time in 0..1. Out: noisy latents, the timesteps that
the model is told, the target. On disk: nothing.

Schedulers with betas (SD1.x, SD2.x, SDXL): x_t = sqrt(a) x + sqrt(1 - a) n with a from the scheduler's own betas; the
target is the noise (epsilon), sqrt(a) n - sqrt(1 - a) x (v_prediction) or x (sample). Schedulers of flows (SD3, FLUX):
x_t = (1 - s) x + s n with s among the sigmas of the scheduler, shifted as it shifts them; the target is n - x.

Shapes: N pictures, C channels, H height and W width of latents, T training timesteps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gen.model.folder import ModelError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Noise:
    """The noise of a scheduler's training: x_t = kept x + added n, at T places in time, little noise first."""

    kept_T: Tensor
    added_T: Tensor
    timestep_T: Tensor  # as the denoiser is told
    prediction: str  # epsilon, v_prediction, sample or flow

    def index(self, place_N: Tensor) -> Tensor:
        """Places in 0..1, from little to much noise, as indices of the T timesteps."""
        num = len(self.kept_T)
        return (place_N * num).long().clamp_(0, num - 1)

    def add(self, latents_NCHW: Tensor, noise_NCHW: Tensor, index_N: Tensor) -> Tensor:
        """The noisy latents."""
        kept, added = self._at(index_N)
        return kept * latents_NCHW + added * noise_NCHW

    def target(self, latents_NCHW: Tensor, noise_NCHW: Tensor, index_N: Tensor) -> Tensor:
        """What a perfect model would answer."""
        kept, added = self._at(index_N)
        if self.prediction == "epsilon":
            return noise_NCHW
        if self.prediction == "v_prediction":
            return kept * noise_NCHW - added * latents_NCHW
        if self.prediction == "sample":
            return latents_NCHW
        return noise_NCHW - latents_NCHW

    def _at(self, index_N: Tensor) -> tuple[Tensor, Tensor]:
        return self.kept_T[index_N].view(-1, 1, 1, 1), self.added_T[index_N].view(-1, 1, 1, 1)

    def to(self, device: Any) -> Noise:
        """The same on a device."""
        return Noise(self.kept_T.to(device), self.added_T.to(device), self.timestep_T.to(device), self.prediction)


def noise_of(scheduler: Any, family: str, image_tokens: int) -> Noise:
    """Of a pipeline's scheduler. `image_tokens`: of a picture in the transformer, which shift FLUX's sigmas.

    Raises ModelError for a scheduler whose noise is not known.
    """
    return _of_flow(scheduler, image_tokens) if family in ("sd3", "flux") else _of_betas(scheduler)


def _of_betas(scheduler: Any) -> Noise:
    import torch
    from diffusers import DDPMScheduler

    config = scheduler.config
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction", "sample"):
        raise ModelError(
            f"invert.model: found the prediction type {prediction}, expected epsilon, v_prediction or sample; choose "
            "another model"
        )
    kept_T = DDPMScheduler.from_config(config).alphas_cumprod.float()  # with the betas of any of these schedulers
    return Noise(kept_T.sqrt(), (1 - kept_T).sqrt(), torch.arange(len(kept_T)), prediction)


def _of_flow(scheduler: Any, image_tokens: int) -> Noise:
    import math

    import torch

    config = scheduler.config
    steps = config.num_train_timesteps
    sigma_T = torch.arange(1, steps + 1, dtype=torch.float32) / steps
    shift = config.shift
    if config.use_dynamic_shifting:  # as the pipeline shifts them for this size
        slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
        mu = config.base_shift + slope * (image_tokens - config.base_image_seq_len)
        shift = mu if config.get("time_shift_type") == "linear" else math.exp(mu)
    sigma_T = shift * sigma_T / (1 + (shift - 1) * sigma_T)
    return Noise(1 - sigma_T, sigma_T, sigma_T * steps, "flow")
