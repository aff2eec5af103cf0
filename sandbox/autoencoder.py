"""The autoencoder of the small generator: an `AutoencoderKL` with factor 8.

In: pictures of the pool. Out: the trained model. On disk: nothing; `sandbox.generator` saves it in the pipeline's
folder.

Shapes: B batch, C channels, H W pixels (64), h w latent cells (8).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from sandbox.descent import Descent, one_cycle


@dataclass(frozen=True, kw_only=True)
class AutoencoderSpec:
    """How the autoencoder is trained."""

    num_steps: int = 8000  # 0.21 s each on one core with AVX-512
    batch: int = 16
    crop_px: int = (
        32  # sides of the squares that a step sees: a quarter of the work, and whole pictures come back as well
    )
    peak_lr: float = 1.5e-3
    noise: float = 0.1  # standard deviation, of latents with variance 1: as much as the errors of a small U-Net
    covariance_weight: float = 0.1  # of `covariance_penalty`
    edge_weight: float = 0.5  # of L1 on differences of neighbouring pixels: keeps strokes and textures sharp
    rare_share: float = 0.5  # of a pixel's weight that grows with its colour's distance from the picture's mean
    seed: int = 1


def new_autoencoder() -> AutoencoderKL:
    """An untrained autoencoder with 2.2 M parameters: 64x64 pictures, 8x8x4 latents.

    The two 1x1 convolutions pass on what they get and are not trained; `whiten` fills them. As a decoder trains, its
    own turns blind to a direction that says nothing yet, and then the encoder never learns to use it.
    """
    model = AutoencoderKL(
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
    for conv in (model.quant_conv, model.post_quant_conv):
        assert conv is not None
        conv.requires_grad_(False)
        torch.nn.init.dirac_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    return model


def load_autoencoder(folder: Path) -> AutoencoderKL:
    """A trained one, in float32, from its own folder."""
    model: AutoencoderKL = AutoencoderKL.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
    return model.eval()


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """uint8 B H W C -> float B C H W in -1..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def train_autoencoder(
    images: NDArray[np.uint8], spec: AutoencoderSpec, report: Callable[[int, float], None]
) -> AutoencoderKL:
    """Train on pictures N H W C; calls `report(step, loss)` every 50 steps. The model's latents are whitened."""
    torch.manual_seed(spec.seed)
    rng = np.random.default_rng(spec.seed)
    model = new_autoencoder()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=spec.peak_lr, betas=(0.9, 0.98), weight_decay=1e-4)
    descent = Descent(optimizer, lambda step: spec.peak_lr * one_cycle(step, spec.num_steps), report)
    for _ in range(spec.num_steps):
        rows = np.sort(rng.integers(len(images), size=spec.batch))
        top, left = rng.integers(images.shape[1] - spec.crop_px + 1, size=2)
        target = to_tensor(images[rows, top : top + spec.crop_px, left : left + spec.crop_px])
        latents = model.encode(target).latent_dist.mean
        error = model.decode(latents + spec.noise * torch.randn_like(latents)).sample - target
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        pixels = (pixel_weights(target, spec.rare_share) * (error.abs() + error.square())).mean()
        descent.step(pixels + spec.edge_weight * edges + spec.covariance_weight * covariance_penalty(latents))
    model.eval()
    whiten(model, images[:2000])
    return model


def pixel_weights(images_BCHW: Tensor, rare_share: float) -> Tensor:
    """What the error of each pixel counts, B 1 H W with mean 1 in each picture: more where the colour is far from the
    picture's mean. Without it the colour of a thin stroke, a tenth of the pixels, is learned late or never."""
    far = (images_BCHW - images_BCHW.mean((2, 3), keepdim=True)).norm(dim=1, keepdim=True)
    return 1 - rare_share + rare_share * far / far.mean((2, 3), keepdim=True).clamp_min(0.02)


def covariance_penalty(latents_BChw: Tensor) -> Tensor:
    """How far the channels are from mean 0 and unit covariance over a batch: mean squares, a number; 0: not at all.

    With it each channel tells something of its own from the first steps on. Without it one direction, brightness, has
    nearly all the variance, and the decoder finds the others late or never.
    """
    cells = latents_BChw.permute(0, 2, 3, 1).reshape(-1, latents_BChw.shape[1])
    far = torch.cov(cells.T) - torch.eye(cells.shape[1], dtype=cells.dtype)
    return far.square().mean() + cells.mean(0).square().mean()


@torch.no_grad()
def encode(model: AutoencoderKL, images: NDArray[np.uint8], batch: int = 64) -> Tensor:
    """Mean latents N 4 8 8, float32."""
    starts = range(0, len(images), batch)
    return torch.cat([model.encode(to_tensor(images[at : at + batch])).latent_dist.mean for at in starts])


@torch.no_grad()
def decode(model: AutoencoderKL, latents_NChw: Tensor, batch: int = 64) -> NDArray[np.uint8]:
    """Pictures N H W C of latents."""
    starts = range(0, len(latents_NChw), batch)
    images = torch.cat([model.decode(latents_NChw[at : at + batch]).sample for at in starts])
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


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
