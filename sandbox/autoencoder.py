"""The autoencoder of the small generator: an `AutoencoderKL` with factor 8.

In: pictures of the pool. Out: the trained model. On disk: nothing; `sandbox.generator` saves it in the pipeline's
folder.

Shapes: B batch, C channels, H W pixels (64), h w latent cells (8).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class AutoencoderSpec:
    """How the autoencoder is trained."""

    num_steps: int = 4000  # 0.28 s each on one core
    batch: int = 16
    peak_lr: float = 1.5e-3
    kl_weight: float = 2e-4  # of the mean over latent numbers: enough noise for the errors of a small U-Net
    edge_weight: float = 0.5  # of L1 on differences of neighbouring pixels: keeps strokes and textures sharp
    seed: int = 1


def new_autoencoder() -> AutoencoderKL:
    """An untrained autoencoder with 2.2 M parameters: 64x64 pictures, 8x8x4 latents."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 112),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
    )


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """uint8 B H W C -> float B C H W in -1..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def one_cycle(step: int, num_steps: int, warmup: int = 100) -> float:
    """The factor on the peak learning rate: a linear warm-up, then a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))


def train_autoencoder(
    images: NDArray[np.uint8], spec: AutoencoderSpec, report: Callable[[int, float], None]
) -> AutoencoderKL:
    """Train on pictures N H W C; calls `report(step, loss)` every 50 steps. The model's latents are whitened."""
    torch.manual_seed(spec.seed)
    rng = np.random.default_rng(spec.seed)
    model = new_autoencoder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.peak_lr, betas=(0.9, 0.98), weight_decay=1e-4)
    average = 0.0
    for step in range(spec.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = spec.peak_lr * one_cycle(step, spec.num_steps)
        target = to_tensor(images[np.sort(rng.integers(len(images), size=spec.batch))])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = model.encode(target).latent_dist
            output = model.decode(posterior.sample()).sample
        kl = posterior.kl().float().mean() / (4 * 8 * 8)
        error = output.float() - target
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        loss = error.abs().mean() + error.square().mean() + spec.edge_weight * edges + spec.kl_weight * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average = loss.item() if step == 0 else 0.98 * average + 0.02 * loss.item()
        if step % 50 == 49:
            report(step + 1, average)
    model.eval()
    whiten(model, images[:2000])
    return model


@torch.no_grad()
def encode(model: AutoencoderKL, images: NDArray[np.uint8], batch: int = 64, exact: bool = False) -> Tensor:
    """Mean latents N 4 8 8, float32; `exact`: computed in float32, else in bfloat16."""
    parts = []
    for start in range(0, len(images), batch):
        with torch.autocast("cpu", torch.bfloat16, enabled=not exact):
            mean = model.encode(to_tensor(images[start : start + batch])).latent_dist.mean
        parts.append(mean.float())
    return torch.cat(parts)


@torch.no_grad()
def whiten(model: AutoencoderKL, images: NDArray[np.uint8]) -> None:
    """Put a rotation of the channels into the two 1x1 convolutions, so that latents have mean 0 and unit covariance.

    Diffusion assumes data of that scale. With it in the weights, `scaling_factor` is exactly 1.
    """
    latents = encode(model, images).permute(0, 2, 3, 1).reshape(-1, 4).double()
    mean = latents.mean(0)
    variance, basis = torch.linalg.eigh(torch.cov((latents - mean).T))
    forward = (basis / variance.sqrt()).T  # rows: new channels
    backward = torch.linalg.inv(forward)
    quant, post = model.quant_conv, model.post_quant_conv
    assert quant is not None
    assert quant.bias is not None
    assert post is not None
    assert post.bias is not None
    weight, bias = quant.weight.double(), quant.bias.double()
    # The first four outputs are means, the last four log variances of the same channels.
    quant.weight[:4] = torch.einsum("ij,jkhw->ikhw", forward, weight[:4]).float()
    quant.bias[:4] = (forward @ (bias[:4] - mean)).float()
    # Log variances are per channel; after a rotation only a common, small level is kept.
    quant.weight[4:] = 0
    quant.bias[4:] = -6.0
    weight = post.weight.double()
    post.bias += torch.einsum("ijhw,j->i", weight, mean).float()
    post.weight.copy_(torch.einsum("ijhw,jk->ikhw", weight, backward).float())
