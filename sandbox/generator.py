"""The small text-to-image pipeline.

In: latents of the pool's pictures, and their captions. Out: a `StableDiffusionPipeline`. On disk: `models/generator/`,
in diffusers' own format, fp16 safetensors.

Shapes: B batch, C latent channels (4), h w latent cells (8), T tokens, D text width.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.controlnet.pipeline_controlnet import StableDiffusionControlNetPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sandbox.descent import Descent
from sandbox.tokens import new_tokenizer

TEXT_WIDTH = 128


@dataclass(frozen=True, kw_only=True)
class GeneratorSpec:
    """How U-Net and text encoder are trained."""

    num_steps: int = 6000  # 0.8 s each on one core with AVX-512
    batch: int = 64
    peak_lr: float = 1e-3
    warmup_steps: int = 200
    decay_share: float = 0.35  # of the steps, at the end, in which the learning rate falls linearly to zero
    weight_decay: float = 0.01
    caption_dropout: float = 0.1  # share of captions replaced by "", so that guidance works
    numeral_weight: float = 2.0  # captions that say "handwritten" are drawn so many times as often: they are harder
    ema: float = 0.998
    seed: int = 3


def new_scheduler() -> DPMSolverMultistepScheduler:
    """The scheduler: v-prediction over a cosine schedule that ends in pure noise, so that whole pages get colours."""
    return DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,  # diffusers' Stable Diffusion asks for it; "trailing" does not read it
        algorithm_type="dpmsolver++",
        solver_order=2,
        final_sigmas_type="zero",
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained text encoder with 0.5 M parameters; it is trained with the U-Net."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=3 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_unet() -> UNet2DConditionModel:
    """An untrained U-Net with 4.6 M parameters: plain convolutions at 8x8 cells, attention to the words at 4x4.

    A summary of the words is added to the time embedding, so that every block knows them. Without it 2,500 steps
    taught colours and pips, but hardly a numeral.
    """
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(96, 112),
        layers_per_block=(2, 1),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        norm_num_groups=16,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    torch.nn.init.zeros_(unet.add_embedding.norm2.weight)  # at the start the summary has no effect
    return unet


def learning_rate(step: int, spec: GeneratorSpec) -> float:
    """The learning rate of a step: warm-up, plateau, linear fall to zero."""
    decay_steps = spec.num_steps * spec.decay_share
    return spec.peak_lr * min((step + 1) / spec.warmup_steps, 1.0, (spec.num_steps - step) / decay_steps)


class Average:
    """The exponential moving average of some parameters; the averaged weights are shipped."""

    def __init__(self, modules: Sequence[torch.nn.Module], decay: float) -> None:
        self.live: list[Tensor] = [p for module in modules for p in module.parameters()]
        self.slow = [p.detach().clone() for p in self.live]
        self.decay = decay
        self.num_updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Average in the parameters as they are now."""
        self.num_updates += 1
        decay = min(self.decay, self.num_updates / (self.num_updates + 9))
        torch._foreach_lerp_(self.slow, self.live, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange current and averaged values; two calls change nothing."""
        for live, slow in zip(self.live, self.slow, strict=True):
            held = live.clone()
            live.copy_(slow)
            slow.copy_(held)


def train_generator(
    latents_BChw: Tensor,
    captions: Sequence[str],
    spec: GeneratorSpec,
    report: Callable[[int, float], None],
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Train U-Net and text encoder together; calls `report` every 50 steps. Returns them with averaged weights."""
    torch.manual_seed(spec.seed)
    rng = np.random.default_rng(spec.seed)
    tokenizer = new_tokenizer()
    unet, text_encoder = new_unet(), new_text_encoder(tokenizer)
    tokens = tokenizer(["", *captions], padding="max_length", truncation=True, return_tensors="pt")["input_ids"]
    alphas = new_scheduler().alphas_cumprod
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=spec.peak_lr, betas=(0.9, 0.99), weight_decay=spec.weight_decay)
    heavy = np.array(["handwrit" in caption or "by hand" in caption for caption in captions])
    cumulated = np.cumsum(np.where(heavy, spec.numeral_weight, 1.0))
    average = Average([unet, text_encoder], spec.ema)
    descent = Descent(optimizer, lambda step: learning_rate(step, spec), report)
    for _ in range(spec.num_steps):
        rows = torch.from_numpy(np.searchsorted(cumulated, rng.random(spec.batch) * cumulated[-1], side="right"))
        z_BChw = latents_BChw[rows]
        dropped = torch.from_numpy(rng.random(spec.batch) < spec.caption_dropout)
        text_BT = tokens[torch.where(dropped, 0, rows + 1)]
        # time steps are spread over the batch, so every step sees every part of the schedule
        t_B = torch.from_numpy((np.arange(spec.batch) + rng.random(spec.batch)) / spec.batch * 1000).long()
        noise_BChw = torch.randn(z_BChw.shape)
        a_B = alphas[t_B].sqrt()[:, None, None, None]
        s_B = (1 - alphas[t_B]).sqrt()[:, None, None, None]
        noisy_BChw = a_B * z_BChw + s_B * noise_BChw
        velocity_BChw = a_B * noise_BChw - s_B * z_BChw
        # of so few words and cells: the gradient of torch's fused attention takes five times as long on a CPU
        with sdpa_kernel(SDPBackend.MATH):
            words_BTD = text_encoder(input_ids=text_BT).last_hidden_state
            output_BChw = unet(noisy_BChw, t_B, words_BTD).sample
        descent.step((output_BChw - velocity_BChw).square().mean())
        average.update()
    average.swap()
    return unet.eval(), text_encoder.eval()


def save_generator(vae: AutoencoderKL, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, folder: Path) -> None:
    """Save the whole pipeline as fp16 safetensors. The modules in memory keep their type."""
    modules = (vae, unet, text_encoder)
    kept = [{name: tensor.clone() for name, tensor in module.state_dict().items()} for module in modules]
    pipeline = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=text_encoder.half(),
        tokenizer=new_tokenizer(),
        unet=unet.half(),
        scheduler=new_scheduler(),  # type: ignore[arg-type]  # an enum of names in its annotation
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    # transformers 5 writes tokenizer.json alone; older readers want CLIP's two files
    pipeline.tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))
    for module, state in zip(modules, kept, strict=True):
        module.float().load_state_dict(state)
    # transformers loads in the type that the config names; fp16 weights must compute in float32
    config = folder / "text_encoder" / "config.json"
    content = json.loads(config.read_text())
    content["dtype"] = "float32"
    config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def load_generator(folder: Path) -> StableDiffusionPipeline:
    """The pipeline in float32, without a progress bar."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def draw(
    pipeline: StableDiffusionPipeline | StableDiffusionControlNetPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    num_steps: int = 12,
    guidance: float = 2.0,
    batch: int = 32,
    conditions_NCHW: Tensor | None = None,
) -> NDArray[np.uint8]:
    """Pictures N H W C, one for each prompt, from the seed at the same place; of a pipeline with a ControlNet from the
    condition there, too."""
    parts = []
    for start in range(0, len(prompts), batch):
        noise = [torch.Generator("cpu").manual_seed(seed) for seed in seeds[start : start + batch]]
        condition = {} if conditions_NCHW is None else {"image": conditions_NCHW[start : start + batch]}
        images = pipeline(
            list(prompts[start : start + batch]),
            num_inference_steps=num_steps,
            guidance_scale=guidance,
            generator=noise,
            output_type="np",
            **condition,
        ).images
        parts.append((images * 255).round().astype(np.uint8))
    return np.concatenate(parts)
