"""The ControlNet: with it the generator draws its numerals, faces and shapes where it is told to.

In: latents of the pool's pictures, their captions, and where their ink is (`sandbox.world.ink_mask`). Out: a
`ControlNetModel` for the generator's U-Net, which stays as it is. On disk: `models/controlnet/`, in diffusers' own
format, fp16 safetensors.

The condition is the mask itself, white ink on black, and not its outline. It is what a masker gives, so nothing lies
between mask and picture that could fail. And a stroke is some 6 px wide, less than a latent cell of 8: within one cell
an outline would have to say which of its sides is ink, a mask does say it.

Shapes: B batch, C latent channels (4), h w latent cells (8), H W pixels (64), T tokens, D text width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.controlnet.pipeline_controlnet import StableDiffusionControlNetPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sandbox.descent import Descent, one_cycle
from sandbox.generator import load_generator


@dataclass(frozen=True, kw_only=True)
class ControlSpec:
    """How the ControlNet is trained."""

    num_steps: int = 600  # 0.4 to 0.5 s each on one core
    warmup_steps: int = 40
    batch: int = 16
    peak_lr: float = 1e-3
    weight_decay: float = 0.01
    caption_dropout: float = 0.3  # share of captions replaced by "": then the mask alone says what is drawn
    seed: int = 8


def new_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """An untrained ControlNet: a copy of the U-Net's way down, whose outputs are zero at first.

    diffusers builds equally many layers in each block of a ControlNet, the U-Net has one less in its second. What that
    one adds begins as nothing, so that the copy goes on as the U-Net does.
    """
    config: Any = unet.config
    model = ControlNetModel(
        in_channels=config.in_channels,
        down_block_types=config.down_block_types,
        block_out_channels=config.block_out_channels,
        layers_per_block=max(config.layers_per_block),
        cross_attention_dim=config.cross_attention_dim,
        attention_head_dim=config.attention_head_dim,
        norm_num_groups=config.norm_num_groups,
        addition_embed_type=config.addition_embed_type,
        addition_embed_type_num_heads=config.addition_embed_type_num_heads,
        conditioning_embedding_out_channels=(8, 16, 48, 96),
    )
    missing, _ = model.load_state_dict(unet.state_dict(), strict=False)
    more = {".".join(name.split(".")[:4]) for name in missing if name.startswith("down_blocks.")}
    for block in map(model.get_submodule, sorted(more)):
        for name in ("conv2", "proj_out"):  # the last layer of a residual block, of an attention
            if (last := getattr(block, name, None)) is not None:
                torch.nn.init.zeros_(last.weight)
                torch.nn.init.zeros_(last.bias)
    model.controlnet_cond_embedding.conv_out.reset_parameters()  # diffusers has zeros: it learns later
    return model


def condition_of(masks_NHW: NDArray[np.bool_]) -> Tensor:
    """What the ControlNet reads of masks: N 3 H W, 1 where there shall be ink, else 0."""
    return torch.from_numpy(masks_NHW)[:, None].float().expand(-1, 3, -1, -1)


def train_controlnet(
    pipeline: StableDiffusionPipeline,
    latents_NChw: Tensor,
    captions: Sequence[str],
    masks_NHW: NDArray[np.bool_],
    often: NDArray[np.int64],
    spec: ControlSpec,
    report: Callable[[int, float], None],
) -> ControlNetModel:
    """Train a ControlNet for the pipeline, which stays as it is; calls `report` every 50 steps.

    Half of each batch is drawn from the rows `often`, half from all N.
    """
    torch.manual_seed(spec.seed)
    rng = np.random.default_rng(spec.seed)
    unet, text_encoder = pipeline.unet.requires_grad_(False), pipeline.text_encoder.requires_grad_(False)
    model = new_controlnet(unet).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=spec.peak_lr, betas=(0.9, 0.99), weight_decay=spec.weight_decay
    )
    told = pipeline.tokenizer(["", *captions], padding="max_length", truncation=True, return_tensors="pt")
    alphas = pipeline.scheduler.alphas_cumprod
    descent = Descent(optimizer, lambda step: spec.peak_lr * one_cycle(step, spec.num_steps, spec.warmup_steps), report)
    for _ in range(spec.num_steps):
        rows = rng.integers(len(captions), size=spec.batch)
        rows[: spec.batch // 2] = rng.choice(often, size=spec.batch // 2)
        text_BT = told["input_ids"][np.where(rng.random(spec.batch) < spec.caption_dropout, 0, rows + 1)]
        z_BChw = latents_NChw[rows]
        # spread over the batch as for the generator, and denser near pure noise, where the shape is decided
        shares = np.sqrt((rng.permutation(spec.batch) + rng.random(spec.batch)) / spec.batch)
        t_B = torch.from_numpy(shares * 1000).long()
        noise_BChw = torch.randn(z_BChw.shape)
        a_B, s_B = alphas[t_B].sqrt()[:, None, None, None], (1 - alphas[t_B]).sqrt()[:, None, None, None]
        noisy_BChw, velocity_BChw = a_B * z_BChw + s_B * noise_BChw, a_B * noise_BChw - s_B * z_BChw
        # of so few words and cells: the gradient of torch's fused attention takes five times as long on a CPU
        with sdpa_kernel(SDPBackend.MATH):
            words_BTD = text_encoder(input_ids=text_BT).last_hidden_state
            down, mid = model(noisy_BChw, t_B, words_BTD, condition_of(masks_NHW[rows]), return_dict=False)
            output_BChw = unet(
                noisy_BChw,
                t_B,
                words_BTD,
                down_block_additional_residuals=down,
                mid_block_additional_residual=mid,
            ).sample
        descent.step((output_BChw - velocity_BChw).square().mean())
    return model.eval()


def save_controlnet(model: ControlNetModel, folder: Path) -> None:
    """Save the weights in float16, with their config, as diffusers does."""
    model.half().save_pretrained(folder, safe_serialization=True)


def load_controlled(models: Path) -> StableDiffusionControlNetPipeline:
    """The generator of a folder of models with its ControlNet, in float32, without a progress bar."""
    controlnet = ControlNetModel.from_pretrained(
        models / "controlnet", use_safetensors=True, torch_dtype=torch.float32, local_files_only=True
    )
    parts = load_generator(models / "generator").components
    pipeline = StableDiffusionControlNetPipeline(**parts, controlnet=controlnet, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
