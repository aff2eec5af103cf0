"""The scale of latents: what a denoiser works on, and what an autoencoder makes and reads, as each family has it.

In: latents NCHW, the autoencoder's config, the family. Out: latents NCHW. On disk: nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def for_decoder(latents_NCHW: torch.Tensor, config: Any, family: str) -> torch.Tensor:
    """From the denoiser's scale to the autoencoder's."""
    if family in ("sd3", "flux"):
        return latents_NCHW / config.scaling_factor + config.shift_factor
    statistics = _statistics(latents_NCHW, config, family)
    if statistics is None:
        return latents_NCHW / config.scaling_factor
    mean_1C11, std_1C11 = statistics
    return latents_NCHW * std_1C11 / config.scaling_factor + mean_1C11


def for_denoiser(latents_NCHW: torch.Tensor, config: Any, family: str) -> torch.Tensor:
    """The inverse of `for_decoder`."""
    if family in ("sd3", "flux"):
        return (latents_NCHW - config.shift_factor) * config.scaling_factor
    statistics = _statistics(latents_NCHW, config, family)
    if statistics is None:
        return latents_NCHW * config.scaling_factor
    mean_1C11, std_1C11 = statistics
    return (latents_NCHW - mean_1C11) * config.scaling_factor / std_1C11


def _statistics(latents: torch.Tensor, config: Any, family: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Mean and standard deviation 1C11 that some SDXL models scale by."""
    import torch

    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if family != "sdxl" or mean is None or std is None:
        return None
    both = (torch.tensor(values, device=latents.device, dtype=latents.dtype) for values in (mean, std))
    mean_1C11, std_1C11 = (values.view(1, -1, 1, 1) for values in both)
    return mean_1C11, std_1C11
