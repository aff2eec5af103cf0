"""What sixfold makes of a GPU, beside the way people do it today: `make bench-gpu`, or `python -m docs.bench.gpu`.

In: rows to measure (`--rows G1,G3`; none = all; `rest` = those without figures in `--out`). Out: their tables on
standard output; exit 1 if a target is missed or a row failed. On disk: `bench_gpu.json` and `bench_gpu.md` in `--out`
(default docs), both written anew after every row, so that an interrupted run keeps what it has and a second one adds to
it; `--from FOLDER` measures nothing and takes over what a run elsewhere wrote to FOLDER. `--dry` runs every row with
tiny networks on the CPU, judges no speed and writes only where `--out` says.

What runs: SD1.5, SDXL, SDXL-Turbo and FLUX.1-schnell in their true architectures with random weights made on the
device; no file is downloaded and no tokenizer needed (token ids are drawn from the text, so tokenizing is not timed).
Time depends on shapes, but clocks depend on data: every network is scaled until its output has a spread near 1, and
finite values with such a spread are demanded between all stages. The U-Nets predict v, not noise: a random network
that "predicts noise" would send latents with a spread of 15 into the decoder. A step costs the same either way.

Our written side is `gen.make.refill.UnitWorker` with the settings of a recipe that names no others: screen, JPEG 4:4:4
with its XMP, tar, table, hashes, fsync and record; a turn is one unit and has all that happens at a unit's ends.

How: the sides of a row take turns in one process (A B A B ...) after a warm-up; a cell is the median of the repeats
with the least and the most; a ratio is taken repeat by repeat. Random pictures compress unlike photographs, so every
side encodes the same photograph-like arrays while its own pixels are made, checked and copied as always. The ceilings
are those of a large matrix product and a large copy, measured in the same run. Compiled is what `compile: auto` is on a
GPU: the blocks of the denoiser and the decoder.

Time: by arithmetic, since none was measured, all rows take about thirteen minutes of an H200. A run does what fits into
its `--budget` and names the others: SD1.5 and SDXL (G1-G4, G8, G9, G13, G14, G16), then `--rows rest`.

Needs torch, diffusers, transformers, numpy, Pillow, pydantic, PyYAML, psutil, pyarrow, fsspec and simplejpeg, and
torchvision for G17 alone; no Ray, no DeepSpeed, no OpenCV. On a machine with a torch of its own and no network, bring
the wheels, for its Python, of diffusers, pydantic, pydantic-core, annotated-types, typing-inspection, typing-extensions
and simplejpeg, and of any of the others that are not there. Tested in miniature with torch 2.11, transformers 5.17,
Python 3.12, and with torch 2.13, transformers 5.23, Python 3.11; diffusers 0.42.1 in both.

Shapes: N images of a call, H height and W width, T text tokens, D embedding width.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import gc
import io
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

import numpy as np

from docs.bench.device import (
    Samples,
    Verdict,
    ceilings,
    empty_compile_cache,
    facts,
    failure,
    in_miniature,
    kept,
    over,
    replace_files,
    spread,
    synchronize,
    told,
)
from gen.sampler.sampler import Request, Sampled, Sampler, _tune
from gen.sampler.spec import SamplerSpec

if TYPE_CHECKING:
    import torch

HOME = Path(__file__).resolve().parents[1]
NUMBERS, PAGE = "data/bench_gpu.json", "bench_gpu.md"
REPEATS = 3
LEAST_ROUNDS_S = 5.0  # quick sides are repeated until this has passed
WAIT_S = 120.0  # for a batch's pixels, for a thread: far more than any of them takes
PHOTOGRAPHS = 16
SECOND_PROCESS_S = 40.0  # least time for the second process of G16
STD_RANGE = (0.1, 10.0)  # spread between stages: near 1, as with trained weights
NVIDIA_FP8_SDXL = 2.177  # images/s of one H200, TensorRT, FP8 U-Net (MLPerf Inference v4.1, closed, offline)
LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "pillow", "simplejpeg", "torchvision", "triton")

T = TypeVar("T")
Turn: TypeAlias = Callable[[Path], int]  # does the work in an empty folder; how many images it made
Rows: TypeAlias = "Iterator[RowPlan]"  # each is measured, if wanted, before the next is asked for


# --- The architectures ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """One workload: which networks, which picture, and how many images each side makes in a turn."""

    world: str  # a key of WORLDS
    size_px: int
    steps: int
    guidance: float
    batch: int  # ours, images per call
    batches: int  # ours, calls per turn
    stock_batch: int  # of the batched stock loop
    alone: int  # images of a turn of the stock loop at batch 1
    text_tokens: int | None = None


@dataclass(frozen=True)
class World:
    """A family with the configs of its networks, as published with the weights."""

    family: Literal["sd", "sdxl", "flux"]
    denoiser: Mapping[str, Any]
    vae: Mapping[str, Any]
    clip_l: Mapping[str, Any]
    second: Mapping[str, Any] | None  # SDXL: OpenCLIP bigG; FLUX: T5-XXL


CLIP_VOCABULARY = {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407}
CLIP_L = {
    **CLIP_VOCABULARY, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "projection_dim": 768, "hidden_act": "quick_gelu",
}  # fmt: skip
BIG_G = {
    **CLIP_VOCABULARY, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
    "num_attention_heads": 20, "projection_dim": 1280, "hidden_act": "gelu",
}  # fmt: skip
T5_XXL = {
    "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4, "norm_num_groups": 32,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
CROSS, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
WORLDS = {
    "sd15": World(
        "sd",
        {
            "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
            "down_block_types": (CROSS, CROSS, CROSS, "DownBlock2D"),
            "up_block_types": ("UpBlock2D", CROSS_UP, CROSS_UP, CROSS_UP),
            "cross_attention_dim": 768, "attention_head_dim": 8,
        },
        {**VAE, "sample_size": 512, "scaling_factor": 0.18215},
        CLIP_L,
        None,
    ),
    "sdxl": World(
        "sdxl",
        {
            "sample_size": 128, "block_out_channels": (320, 640, 1280), "layers_per_block": 2,
            "down_block_types": ("DownBlock2D", CROSS, CROSS), "up_block_types": (CROSS_UP, CROSS_UP, "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048, "use_linear_projection": True, "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
        },
        {**VAE, "sample_size": 1024, "scaling_factor": 0.13025},
        CLIP_L,
        BIG_G,
    ),
    "flux": World(
        "flux",
        {
            "patch_size": 1, "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
            "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768,
            "guidance_embeds": False, "axes_dims_rope": (16, 56, 56),
        },
        {
            **VAE, "sample_size": 1024, "latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159,
            "use_quant_conv": False, "use_post_quant_conv": False,
        },
        CLIP_L,
        T5_XXL,
    ),
}  # fmt: skip
WORKS = {
    "sd15": Work("sd15", 512, 50, 7.5, batch=32, batches=1, stock_batch=16, alone=2),
    "sdxl": Work("sdxl", 1024, 30, 7.5, batch=8, batches=1, stock_batch=8, alone=1),
    "sdxl20": Work("sdxl", 1024, 20, 8.0, batch=32, batches=1, stock_batch=8, alone=1),
    "turbo": Work("sdxl", 512, 1, 0.0, batch=32, batches=8, stock_batch=32, alone=8),
    "flux": Work("flux", 1024, 4, 0.0, batch=4, batches=1, stock_batch=4, alone=2, text_tokens=256),
}
SWEEP, SWEEP_STEPS = (1, 2, 4, 8, 16, 32, 64), 4

TINY_CLIP = {**CLIP_L, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "projection_dim": 32}
TINY_CLIP |= {"num_attention_heads": 4, "vocab_size": 512, "bos_token_id": 510, "eos_token_id": 511}
TINY_T5 = {**T5_XXL, "vocab_size": 512, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
TINY_UNET = {
    "sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", CROSS), "up_block_types": (CROSS_UP, "UpBlock2D"), "attention_head_dim": 4,
}  # fmt: skip
TINY_VAE = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 64}
TINY_WORLDS = {
    "sd15": World("sd", {**TINY_UNET, "cross_attention_dim": 32}, {**WORLDS["sd15"].vae, **TINY_VAE}, TINY_CLIP, None),
    "sdxl": World(
        "sdxl",
        {
            **WORLDS["sdxl"].denoiser, **TINY_UNET, "cross_attention_dim": 64, "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 80, "transformer_layers_per_block": 1,
        },
        {**WORLDS["sdxl"].vae, **TINY_VAE},
        TINY_CLIP,
        TINY_CLIP,
    ),
    "flux": World(
        "flux",
        {
            **WORLDS["flux"].denoiser, "in_channels": 16, "num_layers": 1, "num_single_layers": 1,
            "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 32, "pooled_projection_dim": 32,
            "axes_dims_rope": (4, 4, 8),
        },
        {**WORLDS["flux"].vae, **TINY_VAE, "latent_channels": 4},
        TINY_CLIP,
        TINY_T5,
    ),
}  # fmt: skip
TINY_WORKS = {
    name: dataclasses.replace(
        work, size_px=64, steps=min(work.steps, 4), batch=4, batches=2, stock_batch=2, alone=1,
        text_tokens=work.text_tokens and 16,
    )
    for name, work in WORKS.items()
}  # fmt: skip
TINY_SWEEP = (1, 2, 4)


@dataclass(frozen=True)
class Tokens:
    """Stands for a tokenizer: ids drawn from the text, between begin and end, filled up with the end.

    Has the few members that the pipelines ask of one.
    """

    vocabulary: int  # ids of words are below this
    begin: tuple[int, ...]
    end: int
    model_max_length: int
    added_tokens_encoder: Mapping[str, int] = field(default_factory=dict)

    def tokenize(self, text: str) -> list[str]:
        return text.split()

    def __call__(
        self,
        texts: str | Sequence[str],
        padding: str,
        return_tensors: str,
        max_length: int | None = None,
        truncation: bool = False,
        return_length: bool = False,
        return_overflowing_tokens: bool = False,
    ) -> Any:
        import torch
        from transformers import BatchEncoding

        rows = [self._ids(text) for text in ([texts] if isinstance(texts, str) else texts)]
        length = max(map(len, rows)) if padding == "longest" else (max_length or self.model_max_length)
        ids_NT = torch.tensor([(row + [self.end] * length)[:length] for row in rows])
        return BatchEncoding({"input_ids": ids_NT, "attention_mask": torch.ones_like(ids_NT)})

    def _ids(self, text: str) -> list[int]:
        rng = np.random.default_rng(zlib.crc32(text.encode()))
        words = [int(one) for one in rng.integers(1, self.vocabulary, min(12, 2 * len(text)))]
        return [*self.begin, *words, self.end]


@contextlib.contextmanager
def made_on(device: str, dtype: torch.dtype, seed: int) -> Iterator[None]:
    """Networks built inside are born there, in that type, from that seed."""
    import torch

    before = torch.get_default_dtype()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                yield
        finally:
            torch.set_default_dtype(before)


def networks(world: World) -> dict[str, Any]:
    """The networks of a world by the names their pipeline gives them, in the device and type of `made_on`."""
    import diffusers
    import transformers

    clip_config = transformers.CLIPTextConfig(**world.clip_l)
    parts: dict[str, Any] = {
        "vae": diffusers.AutoencoderKL(**world.vae),
        "text_encoder": transformers.CLIPTextModel(clip_config),
    }
    if world.family == "flux":
        parts["transformer"] = diffusers.FluxTransformer2DModel(**world.denoiser)
        parts["text_encoder_2"] = transformers.T5EncoderModel(transformers.T5Config(**(world.second or {})))
    else:
        parts["unet"] = diffusers.UNet2DConditionModel(**world.denoiser)
        if world.family == "sdxl":
            second = transformers.CLIPTextConfig(**(world.second or {}))
            parts["text_encoder_2"] = transformers.CLIPTextModelWithProjection(second)
    return {name: part.eval().requires_grad_(False) for name, part in parts.items()}


def build(world: World, few_steps: bool, device: str, dtype: torch.dtype) -> Any:
    """A stock pipeline with random weights, scaled so that its stages speak in numbers near 1.

    `few_steps`: with the scheduler of the Turbo models.
    """
    import diffusers

    with made_on(device, dtype, seed=0):
        parts = networks(world)
    words = Tokens(
        min(world.clip_l["vocab_size"] - 2, 49000),
        (world.clip_l["bos_token_id"],),
        world.clip_l["eos_token_id"],
        world.clip_l["max_position_embeddings"],
    )
    steps = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    steps |= {"prediction_type": "v_prediction", "steps_offset": 1}
    if world.family == "sd":
        pipeline: Any = diffusers.StableDiffusionPipeline(
            **parts,
            tokenizer=words,
            scheduler=diffusers.DDIMScheduler(**steps, clip_sample=False, set_alpha_to_one=False),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    elif world.family == "sdxl":
        scheduler: Any = diffusers.EulerDiscreteScheduler(**steps)
        if few_steps:
            scheduler = diffusers.EulerAncestralDiscreteScheduler(**steps, timestep_spacing="trailing")
        pipeline = diffusers.StableDiffusionXLPipeline(
            **parts, tokenizer=words, tokenizer_2=words, scheduler=scheduler, add_watermarker=False
        )
    else:
        long = Tokens((world.second or {})["vocab_size"] - 128, (), 1, 512)
        pipeline = diffusers.FluxPipeline(
            **parts, tokenizer=words, tokenizer_2=long, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
        )
    pipeline.set_progress_bar_config(disable=True)
    _scale(pipeline, world.family)
    return pipeline


def denoiser_of(pipeline: Any) -> Any:
    return pipeline.transformer if hasattr(pipeline, "transformer") else pipeline.unet


def denoiser_inputs(pipeline: Any, size_px: int, num: int, tokens: int, seed: int) -> dict[str, Any]:
    """Random inputs of one forward of `num` rows, as the pipeline would shape them; the same numbers for one seed."""
    import torch

    denoiser, side = denoiser_of(pipeline), size_px // pipeline.vae_scale_factor
    config, place = denoiser.config, {"device": denoiser.device, "dtype": denoiser.dtype}
    rng = torch.Generator("cpu").manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=rng).to(**place)

    if hasattr(pipeline, "transformer"):
        patches = (side // 2) ** 2
        return {
            "hidden_states": noise(num, patches, config.in_channels),
            "timestep": torch.full((num,), 0.5, **place),
            "pooled_projections": noise(num, config.pooled_projection_dim),
            "encoder_hidden_states": noise(num, tokens, config.joint_attention_dim),
            "txt_ids": torch.zeros(tokens, 3, **place),
            "img_ids": torch.zeros(patches, 3, **place),
        }
    inputs: dict[str, Any] = {
        "sample": noise(num, config.in_channels, side, side),
        "timestep": torch.tensor(500, device=denoiser.device),
        "encoder_hidden_states": noise(num, tokens, config.cross_attention_dim),
    }
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        sizes = torch.tensor([[size_px, size_px, 0, 0, size_px, size_px]] * num, **place)
        inputs["added_cond_kwargs"] = {"text_embeds": noise(num, pooled), "time_ids": sizes}
    return inputs


def _scale(pipeline: Any, family: str) -> None:
    """Token embeddings with a spread of 1; last layers such that the denoiser's output has 1, the image 0.5."""
    import torch

    rng = torch.Generator("cpu").manual_seed(1)
    for name in ("text_encoder", "text_encoder_2"):
        encoder = getattr(pipeline, name, None)
        if encoder is not None and type(encoder).__name__.startswith("CLIP"):
            weight = encoder.get_input_embeddings().weight
            weight.data /= weight.data.float().std()
    denoiser, vae = denoiser_of(pipeline), pipeline.vae
    with torch.no_grad():
        size_px = 16 * pipeline.vae_scale_factor
        last = denoiser.proj_out if family == "flux" else denoiser.conv_out
        _divide(last, denoiser(**denoiser_inputs(pipeline, size_px, 2, 77, seed=2), return_dict=False)[0].float().std())
        shape = (2, vae.config.latent_channels, 16, 16)
        latents = torch.randn(shape, generator=rng).to(vae.device, vae.dtype) / vae.config.scaling_factor
        _divide(vae.decoder.conv_out, 2 * vae.decode(latents, return_dict=False)[0].float().std())


def _divide(layer: Any, by: torch.Tensor) -> None:
    layer.weight.data /= by
    layer.bias.data /= by


def check_stages(pipeline: Any, work: Work) -> dict[str, float]:
    """Spread between all stages of one picture in two steps; ValueError where it is not finite or far from 1."""
    import torch

    with torch.no_grad():
        encoded = pipeline.encode_prompt("a picture", **_encoding(pipeline, work))
        text = next(one for one in encoded if one is not None)
        inputs = denoiser_inputs(pipeline, work.size_px, 1, text.shape[1], seed=3)
        predicted = denoiser_of(pipeline)(**inputs, return_dict=False)[0]
        short = dataclasses.replace(work, steps=min(2, work.steps))
        latents = stock_call(pipeline, short, ["a picture"], output_type="latent")
        image = torch.from_numpy(stock_call(pipeline, short, ["a picture"], output_type="np"))
    spread = {}
    for name, tensor in {"text": text, "denoiser": predicted, "latents": latents, "image": 2 * image}.items():
        spread[name] = float(tensor.float().std())
        if not (bool(torch.isfinite(tensor).all()) and STD_RANGE[0] <= spread[name] <= STD_RANGE[1]):
            raise ValueError(
                f"{work.world}, {name}: found a spread of {spread[name]:.3g}, expected finite numbers between "
                f"{STD_RANGE[0]} and {STD_RANGE[1]}; the random weights need another scale"
            )
    return spread


def _encoding(pipeline: Any, work: Work) -> dict[str, Any]:
    if hasattr(pipeline, "transformer"):
        return {"prompt_2": None, "device": pipeline.device, "max_sequence_length": work.text_tokens}
    return {"device": pipeline.device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}


def teraflop(pipeline: Any, work: Work) -> dict[str, float]:
    """TFLOP of one image (1 multiply-add = 2): denoiser with all its steps, decoder, text; counted, not timed."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    vae, side = pipeline.vae, work.size_px // pipeline.vae_scale_factor
    latents = torch.zeros(1, vae.config.latent_channels, side, side, device=vae.device, dtype=vae.dtype)

    def counted(forward: Callable[[], Any]) -> float:
        # the plain kernel, because its products are counted whatever the torch
        with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            forward()
        return counter.get_total_flops() / 1e12

    tokens = work.text_tokens or 77
    inputs = denoiser_inputs(pipeline, work.size_px, 1, tokens, seed=4)
    forwards = work.steps * (2 if work.guidance > 1 and not hasattr(pipeline, "transformer") else 1)
    return {
        "denoiser": forwards * counted(lambda: denoiser_of(pipeline)(**inputs)),
        "decoder": counted(lambda: vae.decode(latents)),
        "text": counted(lambda: pipeline.encode_prompt("a picture", **_encoding(pipeline, work))),
    }


# --- Both sides -------------------------------------------------------------------------------------------------------


def fuse_qkv(spec: SamplerSpec) -> SamplerSpec:
    return spec.model_copy(update={"fuse_qkv": True})


def cudnn_benchmark(spec: SamplerSpec) -> SamplerSpec:
    import torch

    torch.backends.cudnn.benchmark = True
    return spec


def max_autotune(spec: SamplerSpec) -> SamplerSpec:
    import torch._inductor.config

    torch._inductor.config.max_autotune = True
    return spec


# Ways to be faster that a recipe does not take by itself: `--extras fuse_qkv,cudnn_benchmark`.
EXTRAS: dict[str, Callable[[SamplerSpec], SamplerSpec]] = {
    "fuse_qkv": fuse_qkv,
    "cudnn_benchmark": cudnn_benchmark,
    "max_autotune": max_autotune,
}


@dataclass(frozen=True)
class Ours:
    """A tuned copy of a stock pipeline behind our sampler. `first_s`: its first call, compilation included."""

    sampler: Sampler
    pipeline: Any
    first_s: float


def tune(bench: Bench, stock: Any, work: Work, spec: SamplerSpec, first_steps: int = 2) -> Ours:
    """A copy of `stock`, tuned as `gen.sampler.sampler` tunes what it loads, after a first call of `first_steps`."""
    import torch

    torch.compiler.reset()  # graphs of another row would count against the limit of shapes
    pipeline = copy.deepcopy(stock)
    family, device = bench.worlds[work.world].family, torch.device(bench.device)
    _tune(pipeline, spec, family, device)
    sampler = Sampler(pipeline, spec, family, device, None)
    short = copy.copy(sampler)
    short.spec = spec.model_copy(update={"steps": min(first_steps, spec.steps)})
    begun = bench.now()
    short.sample([Request("a picture", "", 0)]).wait(WAIT_S)
    return Ours(sampler, pipeline, bench.now() - begun)


def sampler_spec(bench: Bench, work: Work) -> SamplerSpec:
    """As a recipe has it that names no more than the work: compiled as `compile: auto` decides on a GPU."""
    spec = SamplerSpec(
        model="random weights",
        steps=work.steps,
        guidance=work.guidance,
        text_tokens=work.text_tokens,
        size_px=work.size_px,
        dtype="fp32" if bench.dry else "bf16",
        batch=work.batch,
    ).decided(on_gpu=True)
    for name in bench.extras:
        spec = EXTRAS[name](spec)
    return spec


def uncompiled(spec: SamplerSpec, changes: Mapping[str, Any]) -> SamplerSpec:
    return SamplerSpec.model_validate({**spec.model_dump(), "compile": "none", **changes})


def ours_turn(bench: Bench, ours: Ours, work: Work, written: bool) -> Turn:
    """A unit of the run, as `sixfold generate` makes it, or its batches into nothing; prompts are encoded anew."""
    count = work.batch * work.batches
    texts = [f"picture number {place}" for place in range(count)]

    def discarded(folder: Path) -> int:
        ours.sampler.prepare(texts)
        with Discard() as sink:
            for first in range(0, count, work.batch):
                batch = range(first, first + work.batch)
                sink.add(ours.sampler.sample([Request(texts[place], "", place) for place in batch]))
        return count

    if not written:
        return discarded
    from gen.make.refill import ShardSpec, UnitJob, UnitWorker
    from gen.sampler.text_to_image import TextToImage, TextToImageJob
    from shards.disk.store import open_store

    job = TextToImageJob(
        unit=UnitJob(out="", fingerprint="0" * 64, shards=ShardSpec(samples_per_shard=count)),
        num_per_class={0: count},
        seed=0,
        sampler=ours.sampler.spec,
        model_digest="0" * 64,
    )
    shown = bench.photographs(work.size_px)
    model = Shown(ours.sampler, np.stack([shown[place % len(shown)] for place in range(work.batch)]))

    def turn(folder: Path) -> int:
        maker = TextToImage(job, model, Prompts(texts))  # type: ignore[arg-type]
        worker = UnitWorker(job.unit, maker, open_store(str(folder)))
        made = worker(0, "bench-0", lambda done, rejected: None)
        if made["images"] != count or made["rejected"]:
            raise ValueError(
                f"found {made['images']} images and rejected {made['rejected']}, expected {count} and none; the random "
                "weights need another scale"
            )
        return count

    return turn


@dataclass(frozen=True)
class Shown:
    """Our sampler, whose pixels arrive as always; then photographs stand in their place.

    So what comes after it screens and encodes pictures that compress like pictures.
    """

    sampler: Sampler
    photographs_NHWC: np.ndarray  # as many as a call has images

    @property
    def prepare(self) -> Callable[..., None]:
        return self.sampler.prepare

    def sample(self, requests: Sequence[Request]) -> Sampled:
        return dataclasses.replace(self.sampler.sample(requests), image_NHWC=self.photographs_NHWC[: len(requests)])


@dataclass(frozen=True)
class Prompts:
    """Stands for a table of prompts: one class. Has the few members that a unit asks of one."""

    texts: Sequence[str]

    def num_per_class(self) -> dict[int, int]:
        return {0: len(self.texts)}

    def prompt(self, class_id: int, prompt_id: int) -> Any:
        from gen.prompts.table import Prompt

        return Prompt(class_id, prompt_id, "picture", None, "template", "number", self.texts[prompt_id], "", {})


def stock_turn(bench: Bench, pipeline: Any, work: Work, batch: int, images: int, written: bool) -> Turn:
    """The usual loop: the pipeline makes PIL images, each is saved as PNG where it was made."""
    from PIL import Image

    def turn(folder: Path) -> int:
        for first in range(0, images, batch):
            texts = [f"picture number {place}" for place in range(first, first + batch)]
            made = stock_call(pipeline, work, texts, output_type="pil")
            if written:
                shown = bench.photographs(work.size_px)
                for place in range(first, first + len(made)):
                    Image.fromarray(shown[place % len(shown)]).save(folder / f"{place:06d}.png")
        return images

    return turn


def stock_call(pipeline: Any, work: Work, texts: Sequence[str], output_type: str) -> Any:
    import torch

    length = {} if work.text_tokens is None else {"max_sequence_length": work.text_tokens}
    return pipeline(
        list(texts),
        height=work.size_px,
        width=work.size_px,
        num_inference_steps=work.steps,
        guidance_scale=work.guidance,
        generator=torch.Generator(pipeline.device).manual_seed(0),
        output_type=output_type,
        **length,
    ).images


class Discard:
    """Where images go that nobody wants: each batch is waited for while the next one is made."""

    def __init__(self) -> None:
        self._last: Sampled | None = None

    def __enter__(self) -> Discard:
        return self

    def __exit__(self, *_: object) -> None:
        self._arrive()

    def add(self, sampled: Sampled) -> None:
        self._arrive()
        self._last = sampled

    def _arrive(self) -> None:
        if self._last is not None:
            _checked(self._last)


def _checked(sampled: Sampled) -> None:
    sampled.wait(WAIT_S)
    if not sampled.finite_N.all():
        raise ValueError(f"found {int((~sampled.finite_N).sum())} images with NaN or Inf, expected none; not measured")


def photograph(side_px: int, seed: int) -> np.ndarray:
    """uint8 HWC with the spectrum and the edges of a photograph: 1/f noise under shaded discs."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.rfftfreq(side_px), np.fft.fftfreq(side_px)[:, None]).clip(1 / side_px)
    phases = np.exp(2j * np.pi * rng.uniform(size=(3, *frequency.shape)))
    noise_CHW = np.fft.irfft2(phases / frequency, s=(side_px, side_px))
    noise_CHW = 0.9 * noise_CHW[:1] + 0.3 * noise_CHW
    image_CHW = 128 + 40 * noise_CHW / noise_CHW.std()
    down, across = np.mgrid[:side_px, :side_px] / side_px
    for _ in range(12):
        row, column, radius = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.05, 0.25)
        inside = (down - row) ** 2 + (across - column) ** 2 < radius**2
        shade = 1 + 0.3 * (across - column)[inside] / radius
        image_CHW[:, inside] = 0.2 * image_CHW[:, inside] + 0.8 * rng.uniform(20, 235, (3, 1)) * shade
    return np.ascontiguousarray(image_CHW.clip(0, 255).round().astype(np.uint8).transpose(1, 2, 0))


# --- Measuring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One line of a row's table: column -> samples of all repeats."""

    what: str
    figures: Mapping[str, Samples]


@dataclass(frozen=True)
class Result:
    title: str
    lines: Sequence[Line]  # ours first
    ratio_of: str | None = None  # the column whose ratio ours / this line is printed
    verdicts: Sequence[Verdict] = ()
    notes: Sequence[str] = ()
    details: Mapping[str, Any] = field(default_factory=dict)  # for the JSON alone
    not_measured: str | None = None  # why
    where: Mapping[str, Any] = field(default_factory=dict)  # it was measured: `facts`, ceilings, extras


@dataclass(frozen=True)
class Bench:
    """What all rows share."""

    dry: bool
    device: str
    dtype: torch.dtype
    worlds: Mapping[str, World]
    works: Mapping[str, Work]
    extras: Sequence[str]
    deadline: float  # of `clock`
    import_s: float
    clock: Callable[[], float]
    matmul_tflops: float
    shown: dict[int, list[np.ndarray]] = field(default_factory=dict)  # photographs by side, made once

    def now(self) -> float:
        """The clock, once the device has done all it was asked to do."""
        synchronize(self.device)
        return self.clock()

    def photographs(self, side_px: int) -> list[np.ndarray]:
        if side_px not in self.shown:
            self.shown[side_px] = [photograph(side_px, seed) for seed in range(2 if self.dry else PHOTOGRAPHS)]
        return self.shown[side_px]

    def judge(self, target: str, found: str, met: bool) -> Verdict:
        return Verdict(target, found, None if self.dry else met)

    def share(self, images_per_s: Samples, tflop: float) -> Samples:
        return tuple(100 * one * tflop / self.matmul_tflops for one in images_per_s)


def alternate(bench: Bench, sides: Mapping[str, Turn], budget_s: float) -> dict[str, Samples]:
    """Images per second of every side, in turns. Call it warm: the first turn counts.

    Three rounds, or more where they are quick; fewer where they would outlast the budget, and the page says how many.
    """
    rates: dict[str, list[float]] = {name: [] for name in sides}
    begun = bench.now()
    repeats = 1 if bench.dry else REPEATS
    for done in range(10 * repeats):
        passed = bench.now() - begun
        late = done > 0 and passed / done * (done + 1) > min(budget_s, bench.deadline - begun)
        if late or (done >= repeats and (bench.dry or passed > LEAST_ROUNDS_S)):
            break
        for name, turn in sides.items():
            with tempfile.TemporaryDirectory() as folder:
                started = bench.now()
                images = turn(Path(folder))
                rates[name].append(images / (bench.now() - started))
    return {name: tuple(samples) for name, samples in rates.items()}


def kernel_seconds(bench: Bench, turn: Turn) -> tuple[float, dict[str, float]]:
    """Time inside kernels during one turn, and that of the twelve costliest by name (in miniature: of operators)."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    kind = ProfilerActivity.CPU if bench.device == "cpu" else ProfilerActivity.CUDA
    with tempfile.TemporaryDirectory() as folder, profile(activities=[kind]) as profiler:
        turn(Path(folder))
        synchronize(bench.device)
    spent = {}
    for event in profiler.key_averages():
        if bench.device == "cpu":
            spent[event.key] = event.self_cpu_time_total / 1e6
        elif event.device_type == torch.autograd.DeviceType.CUDA:
            spent[event.key] = event.self_device_time_total / 1e6
    most = sorted(spent, key=lambda name: -spent[name])[:12]
    return sum(spent.values()), {name[:120]: spent[name] for name in most}


class Once(Generic[T]):
    """`make` when it is first asked for; what it raises is raised again for everyone who asks.

    So what several rows share is made by the first of them, and if it fails the rows that need it say so, no others.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: list[T] = []
        self._error: Exception | None = None

    @property
    def is_made(self) -> bool:
        return bool(self._made)

    def __call__(self) -> T:
        if self._error is not None:
            raise self._error
        if not self._made:
            try:
                self._made.append(self._make())
            except Exception as error:
                self._error = error
                raise
        return self._made[0]


@dataclass(frozen=True)
class RowPlan:
    """A row to come. `shared`: what it is made of; where that is there already, the row costs no time."""

    row: str
    make: Callable[[], Result]
    shared: Once[Any] | None = None


# --- The rows ---------------------------------------------------------------------------------------------------------

OURS, OURS_LOST = "sixfold, a shard of JPEG", "sixfold, images discarded"
STOCK_1, STOCK_N = "diffusers loop, batch 1, PNG files", "diffusers loop, batched, PNG files"
STOCK_LOST = "diffusers loop, batch 1, images discarded"
IMAGES, SHARE = "images/s", "% of the matmul ceiling"


def throughput(
    bench: Bench, stock: Any, ours: Ours, work: Work, names: Sequence[str], budget_s: float
) -> tuple[dict[str, Samples], dict[str, float]]:
    """Rates of the named sides, and TFLOP of an image."""
    from PIL import Image

    from shards.disk.jpeg import encode_jpeg

    short = dataclasses.replace(work, steps=min(2, work.steps))
    stock_sides = {STOCK_1: (1, work.alone, True), STOCK_N: (work.stock_batch, work.stock_batch, True)}
    stock_sides[STOCK_LOST] = (1, work.alone, False)
    shown = bench.photographs(work.size_px)  # made, and both codecs loaded, before anything is timed
    encode_jpeg(shown[0], 95, "444")
    Image.fromarray(shown[0]).save(io.BytesIO(), "PNG")
    sides: dict[str, Turn] = {}
    for name in names:
        if name in (OURS, OURS_LOST):
            sides[name] = ours_turn(bench, ours, work, name == OURS)
        else:
            batch, images, written = stock_sides[name]
            sides[name] = stock_turn(bench, stock, work, batch, images, written)
            stock_call(stock, short, ["a picture"] * batch, output_type="pil")  # warm
    return alternate(bench, sides, budget_s), teraflop(stock, work)


def compared(
    bench: Bench,
    title: str,
    rates: Mapping[str, Samples],
    names: Sequence[str],
    tflop: Mapping[str, float],
    at_least: float,
    note: str,
) -> Result:
    """A row whose target is a ratio between the first two named sides."""
    total = sum(tflop.values())
    lines = [Line(name, {IMAGES: rates[name], SHARE: bench.share(rates[name], total)}) for name in names]
    ratio = statistics.median(over(rates[names[0]], rates[names[1]]))
    verdict = bench.judge(f"at least {at_least:g}x {names[1]}", f"{ratio:.2f}x", ratio >= at_least)
    return Result(title, lines, ratio_of=IMAGES, verdicts=[verdict], notes=[note])


def of_ceiling(
    bench: Bench, title: str, rates: Mapping[str, Samples], tflop: Mapping[str, float], at_least: float
) -> Result:
    total = sum(tflop.values())
    share = statistics.median(bench.share(rates[OURS], total))
    parts = ", ".join(f"{name} {value:.4g}" for name, value in tflop.items())
    return Result(
        title,
        [Line(OURS, {IMAGES: rates[OURS], SHARE: bench.share(rates[OURS], total)})],
        verdicts=[bench.judge(f"at least {at_least:g} % of the ceiling", f"{share:.1f} %", share >= at_least)],
        notes=[f"TFLOP of an image, counted: {parts}."],
        details={"teraflop": dict(tflop)},
    )


def sd15_rows(bench: Bench) -> Rows:
    work = bench.works["sd15"]
    begun = bench.now()
    stock = build(bench.worlds["sd15"], False, bench.device, bench.dtype)
    build_s = bench.now() - begun
    spreads = Once(lambda: check_stages(stock, work))

    @Once
    def ours() -> Ours:
        spreads()
        return tune(bench, stock, work, sampler_spec(bench, work), first_steps=work.steps)  # a whole batch, for G16

    timed = Once(lambda: throughput(bench, stock, ours(), work, [OURS, OURS_LOST, STOCK_1, STOCK_N], budget_s=75))
    title = f"SD1.5, {work.size_px} px, {work.steps} steps with guidance"

    def against(sides: Sequence[str], what: str, at_least: float) -> Result:
        rates, tflop = timed()
        return compared(bench, f"{title}, {what}", rates, sides, tflop, at_least, _note(ours(), spreads()))

    yield RowPlan("G1", lambda: against([OURS, STOCK_1], "against batch 1", 7), timed)
    yield RowPlan("G2", lambda: against([OURS, STOCK_N], "against a batch", 1.5), timed)
    yield RowPlan("G8-sd15", lambda: of_ceiling(bench, f"{title}, share of the ceiling", *timed(), 55), timed)
    yield RowPlan("G13", lambda: busy_row(bench, ours(), work, timed()[0][OURS]))
    yield RowPlan("X1-sd15", lambda: exactness_row(bench, stock, ours(), work))
    yield RowPlan("G14", lambda: decoder_row(bench, stock, ours(), work))
    yield RowPlan("G16", lambda: cold_start_row(bench, build_s, ours().first_s))


def single_rows(bench: Bench) -> Rows:
    """Rows on SD1.5 that need no compiled copy of it."""
    work = bench.works["sd15"]
    stock = build(bench.worlds["sd15"], False, bench.device, bench.dtype)
    yield RowPlan("G11", lambda: interval_row(bench, stock, work))
    yield RowPlan("G15", lambda: sweep_row(bench, stock, work))
    yield RowPlan("G17", lambda: device_jpeg_row(bench, stock, work))
    yield RowPlan("X2", lambda: shortcuts_row(bench, stock, work))
    yield RowPlan("X3", lambda: checker_row(bench, stock, work))


def sdxl_rows(bench: Bench) -> Rows:
    work, mlperf = bench.works["sdxl"], bench.works["sdxl20"]
    stock = build(bench.worlds["sdxl"], False, bench.device, bench.dtype)
    spreads = Once(lambda: check_stages(stock, work))

    @Once
    def ours() -> Ours:
        spreads()
        return tune(bench, stock, work, sampler_spec(bench, work))

    timed = Once(lambda: throughput(bench, stock, ours(), work, [OURS, STOCK_1, STOCK_N], budget_s=65))
    title = f"SDXL, {work.size_px} px, {work.steps} steps with guidance"

    def against(sides: Sequence[str], what: str, at_least: float) -> Result:
        rates, tflop = timed()
        return compared(bench, f"{title}, {what}", rates, sides, tflop, at_least, _note(ours(), spreads()))

    yield RowPlan("G3", lambda: against([OURS, STOCK_1], "against batch 1", 1.9), timed)
    yield RowPlan("G4", lambda: against([OURS, STOCK_N], "against a batch", 1.3), timed)
    yield RowPlan("G8-sdxl", lambda: of_ceiling(bench, f"{title}, share of the ceiling", *timed(), 55), timed)
    yield RowPlan("X1-sdxl", lambda: exactness_row(bench, stock, ours(), work))
    yield RowPlan("G9", lambda: published_row(bench, stock, mlperf, spreads()))


def turbo_rows(bench: Bench) -> Rows:
    work = bench.works["turbo"]
    stock = build(bench.worlds["sdxl"], True, bench.device, bench.dtype)
    spreads = Once(lambda: check_stages(stock, work))

    @Once
    def ours() -> Ours:
        spreads()
        return tune(bench, stock, work, sampler_spec(bench, work))

    timed = Once(lambda: throughput(bench, stock, ours(), work, [OURS, OURS_LOST, STOCK_1, STOCK_N], budget_s=30))

    def against(sides: Sequence[str], what: str, at_least: float) -> Result:
        rates, tflop = timed()
        title = f"SDXL-Turbo, {work.size_px} px, {work.steps} step, {what}"
        return compared(bench, title, rates, sides, tflop, at_least, _note(ours(), spreads()))

    yield RowPlan("G5", lambda: against([OURS, STOCK_1, OURS_LOST], "against batch 1", 10), timed)
    yield RowPlan("G6", lambda: against([OURS, STOCK_N, OURS_LOST], "against a batch", 5), timed)
    yield RowPlan("G12", lambda: against([OURS, OURS_LOST], "images written against images discarded", 0.98), timed)


def flux_rows(bench: Bench) -> Rows:
    work = bench.works["flux"]
    stock = build(bench.worlds["flux"], False, bench.device, bench.dtype)
    spreads = Once(lambda: check_stages(stock, work))

    @Once
    def ours() -> Ours:
        spreads()
        return tune(bench, stock, work, sampler_spec(bench, work))

    names = [OURS_LOST, STOCK_LOST, OURS, STOCK_1]  # judged without files, which only widen the gap
    timed = Once(lambda: throughput(bench, stock, ours(), work, names, budget_s=40))
    title = f"FLUX.1-schnell, {work.size_px} px, {work.steps} steps, {work.text_tokens} text tokens"

    def against_batch_1() -> Result:
        rates, tflop = timed()
        note = _note(ours(), spreads())
        return compared(bench, f"{title}, against batch 1", rates, names, tflop, 1.6, note)

    yield RowPlan("G7", against_batch_1, timed)
    yield RowPlan("G8-flux", lambda: of_ceiling(bench, f"{title}, share of the ceiling", *timed(), 60), timed)
    yield RowPlan("X1-flux", lambda: exactness_row(bench, stock, ours(), work))


def _note(ours: Ours, spreads: Mapping[str, float]) -> str:
    stages = ", ".join(f"{name} {value:.2f}" for name, value in spreads.items())
    return f"First call of ours, compilation included: {ours.first_s:.0f} s. Spread between stages: {stages}."


def published_row(bench: Bench, stock: Any, work: Work, spreads: Mapping[str, float]) -> Result:
    ours = tune(bench, stock, work, sampler_spec(bench, work))
    rates, tflop = throughput(bench, stock, ours, work, [OURS], budget_s=60)
    found = statistics.median(rates[OURS]) / NVIDIA_FP8_SDXL
    target = f"at least 0.75 of NVIDIA's published {NVIDIA_FP8_SDXL} images/s (TensorRT, FP8 U-Net)"
    return Result(
        f"SDXL, {work.size_px} px, {work.steps} steps, guidance {work.guidance:g}, batch {work.batch}",
        [Line(OURS, {IMAGES: rates[OURS], SHARE: bench.share(rates[OURS], sum(tflop.values()))})],
        verdicts=[bench.judge(target, f"{found:.2f}", found >= 0.75)],
        notes=[
            "Same settings as MLPerf SDXL, accuracy not run; the other side was not run here.",
            _note(ours, spreads),
        ],
    )


def busy_row(bench: Bench, ours: Ours, work: Work, rates: Samples) -> Result:
    turn = ours_turn(bench, ours, work, written=True)
    inside_s, costliest = kernel_seconds(bench, turn)
    images = work.batch * work.batches
    busy = tuple(100 * inside_s * rate / images for rate in rates)
    found = statistics.median(busy)
    return Result(
        "time inside kernels / wall time, images written",
        [Line(OURS, {"% busy": busy, "kernel s/image": (inside_s / images,)})],
        verdicts=[bench.judge("at least 97 %", f"{found:.1f} %", found >= 97)],
        notes=[
            f"Kernel time of one profiled turn over the wall time of the {len(rates)} unprofiled turns of G1, "
            f"{sum(images / rate for rate in rates):.0f} s in all."
        ],
        details={"costliest_kernels_s": costliest},
    )


def decoder_row(bench: Bench, stock: Any, ours: Ours, work: Work) -> Result:
    import torch

    precise = copy.deepcopy(stock.vae).float()
    side, count = work.size_px // stock.vae_scale_factor, ours.sampler.spec.vae_batch
    rng = torch.Generator("cpu").manual_seed(5)
    shape = (count, stock.vae.config.latent_channels, side, side)
    latents = torch.randn(shape, generator=rng).to(bench.device, bench.dtype) / stock.vae.config.scaling_factor

    def side_of(vae: Any, inputs: torch.Tensor) -> Turn:
        def turn(folder: Path) -> int:
            with torch.inference_mode():
                for _ in range(1 if bench.dry else 10):
                    vae.decode(inputs, return_dict=False)
            return count * (1 if bench.dry else 10)

        return turn

    sides = {
        "sixfold's decoder, compiled, channels last": side_of(ours.pipeline.vae, latents),
        "diffusers' decoder, same type": side_of(stock.vae, latents),
        "diffusers' decoder in fp32, as an upcast decodes": side_of(precise, latents.float()),
    }
    for turn in sides.values():
        turn(Path())  # warm
    rates = alternate(bench, sides, budget_s=10)
    tflop = teraflop(stock, work)["decoder"]
    lines = [Line(name, {IMAGES: rate, SHARE: bench.share(rate, tflop)}) for name, rate in rates.items()]
    first, *_, last = rates.values()
    found = f"{statistics.median(over(first, last)):.1f}x the fp32 decoder"
    return Result(
        f"decoder of SD1.5, {work.size_px} px, {count} images a call",
        lines,
        ratio_of=IMAGES,
        verdicts=[Verdict("reported only; 4-8x predicted", found, None)],
    )


def exactness_row(bench: Bench, stock: Any, ours: Ours, work: Work) -> Result:
    """Noise exactly the same in any batch; one call of the denoiser alike within rounding."""
    import torch

    family = bench.worlds[work.world].family
    channels = stock.vae.config.latent_channels

    def noise(seeds: Sequence[int]) -> torch.Tensor:
        drawn = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        place = (bench.dtype, torch.device(bench.device), drawn)
        made = stock.prepare_latents(len(seeds), channels, work.size_px, work.size_px, *place)
        return made[0] if family == "flux" else made  # FLUX: and where the patches lie

    together = noise(range(work.batch))
    same = all(torch.equal(together[place], noise([place])[0]) for place in range(work.batch))
    rows = work.batch * (2 if ours.sampler.guided else 1)  # so that the compiled graph is the one that was measured
    inputs = denoiser_inputs(stock, work.size_px, rows, work.text_tokens or 77, seed=6)
    alone = _first_of(inputs, rows)
    with torch.inference_mode():
        eager = denoiser_of(stock)(**inputs, return_dict=False)[0]
        one = denoiser_of(stock)(**alone, return_dict=False)[0]
        fast = denoiser_of(ours.pipeline)(**inputs, return_dict=False)[0]
    bound = 1e-5 if bench.dtype == torch.float32 else 2e-2  # bf16 keeps 8 bits: 0.4 % a rounding, many in a row
    batch, compiled = relative_l2(one, eager[:1]), relative_l2(fast, eager)
    return Result(
        f"exactness of {work.world}, {work.size_px} px",
        [
            Line(f"one call of the denoiser, batch 1 against {rows}", {"relative L2": (batch,)}),
            Line("one call of the denoiser, eager against compiled", {"relative L2": (compiled,)}),
        ],
        verdicts=[
            Verdict("each image's noise the same bytes in any batch", "yes" if same else "no", same),
            Verdict(f"batch 1 against {rows}: at most {bound:g}", f"{batch:.2e}", batch <= bound),
            Verdict(f"eager against compiled: at most {bound:g}", f"{compiled:.2e}", compiled <= bound),
        ],
    )


def _first_of(inputs: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The same call for its first row alone."""
    return {
        name: _first_of(value, rows)
        if isinstance(value, dict)
        else value[:1]
        if value.ndim and len(value) == rows
        else value
        for name, value in inputs.items()
    }


def relative_l2(found: torch.Tensor, expected: torch.Tensor) -> float:
    difference = (found.double() - expected.double()).norm() / expected.double().norm()
    return float(difference)


def cold_start_row(bench: Bench, build_s: float, first_s: float) -> Result:
    """The first image of this process, whose compile cache was empty, against one that finds the cache filled."""
    command = [sys.executable, "-m", "docs.bench.gpu", "--first-image", *(["--dry"] if bench.dry else [])]
    command += [f"--extras={','.join(bench.extras)}"]
    left_s = bench.deadline - bench.now()
    if left_s < SECOND_PROCESS_S:
        reason = f"{max(0.0, left_s):.0f} s were left and {SECOND_PROCESS_S:.0f} wanted; run it with --rows G16"
        return Result("cold start of SD1.5 to the first batch", [], not_measured=reason)
    done = subprocess.run(command, cwd=HOME.parent, capture_output=True, text=True, timeout=left_s)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing on its standard error"])[-1]
        raise ValueError(f"the second process ended with {done.returncode}: {last}; run it alone with --rows G16")
    second = json.loads(done.stdout.strip().splitlines()[-1])
    first = {"import_s": bench.import_s, "build_s": build_s, "first_s": first_s}
    ratio = sum(second.values()) / sum(first.values())
    lines = [
        Line(
            what,
            {
                "import s": (times["import_s"],),
                "networks s": (times["build_s"],),
                "first batch s": (times["first_s"],),
                "in all s": (sum(times.values()),),
            },
        )
        for what, times in (("compile cache empty", first), ("second process, cache filled by the first", second))
    ]
    return Result(
        "cold start of SD1.5 to the first batch",
        lines,
        verdicts=[bench.judge("the second takes at most 0.4 of the first", f"{ratio:.2f}", ratio <= 0.4)],
        notes=[f"First batch alone, compilation included: {second['first_s'] / first_s:.2f} of the first."],
    )


def first_image(bench: Bench) -> dict[str, float]:
    """What the second process of G16 does."""
    work = bench.works["sd15"]
    begun = bench.now()
    stock = build(bench.worlds["sd15"], False, bench.device, bench.dtype)
    build_s = bench.now() - begun
    ours = tune(bench, stock, work, sampler_spec(bench, work), first_steps=work.steps)
    return {"import_s": bench.import_s, "build_s": build_s, "first_s": ours.first_s}


def interval_row(bench: Bench, stock: Any, work: Work) -> Result:
    short = shortened(bench, work)
    spec = uncompiled(sampler_spec(bench, short), {})
    sides = {
        "guidance in 60 % of the steps": uncompiled(spec, {"guidance_interval": (0.2, 0.8)}),
        "in every step": spec,
    }
    rates = denoised(bench, stock, short, sides, budget_s=12)
    ratio = statistics.median(over(*rates.values()))
    return Result(
        f"guidance interval, SD1.5, {short.size_px} px, {short.steps} steps, batch {short.batch}, uncompiled, without "
        "decoding",
        [Line(name, {IMAGES: rate}) for name, rate in rates.items()],
        ratio_of=IMAGES,
        verdicts=[bench.judge("at least 1.22x", f"{ratio:.2f}x", ratio >= 1.22)],
        notes=["The sampler's guidance_interval [0.2, 0.8). Quality not measured."],
    )


def shortcuts_row(bench: Bench, stock: Any, work: Work) -> Result:
    short = shortened(bench, work)
    spec = uncompiled(sampler_spec(bench, short), {})
    sides = {
        "as it is": spec,
        "fuse_qkv": uncompiled(spec, {"fuse_qkv": True}),
        "reuse_every 3": uncompiled(spec, {"reuse_every": 3}),
        "merge_tokens 0.5": uncompiled(spec, {"merge_tokens": 0.5}),
    }
    rates = denoised(bench, stock, short, sides, budget_s=25)
    plain = rates["as it is"]
    found = ", ".join(
        f"{name} {statistics.median(over(rate, plain)):.2f}x" for name, rate in rates.items() if rate is not plain
    )
    return Result(
        f"shortcuts of the sampler, SD1.5, {short.size_px} px, {short.steps} steps, batch {short.batch}, uncompiled, "
        "without decoding",
        [Line(name, {IMAGES: rate}) for name, rate in rates.items()],
        ratio_of=IMAGES,
        verdicts=[Verdict("reported only", found, None)],
        notes=["fuse_qkv changes the rounding, the others the images. Quality not measured: random weights."],
    )


def checker_row(bench: Bench, stock: Any, work: Work) -> Result:
    """Stable Diffusion 1.5 comes with a safety checker, which looks at every picture."""
    short = shortened(bench, work)
    spec = uncompiled(sampler_spec(bench, short), {})
    with_checker = tune(bench, stock, short, spec)
    checker, extractor = safety_checker(bench)
    with_checker.pipeline.register_modules(safety_checker=checker, feature_extractor=extractor)
    without = tune(bench, stock, short, spec)
    sides = {
        "with the safety checker": ours_turn(bench, with_checker, short, written=False),
        "without": ours_turn(bench, without, short, written=False),
    }
    for turn in sides.values():
        turn(Path())  # warm
    rates = alternate(bench, sides, budget_s=15)
    slowdown = 100 * (1 - statistics.median(over(*rates.values())))
    return Result(
        f"safety checker, SD1.5, {short.size_px} px, {short.steps} steps, batch {short.batch}, uncompiled, images "
        "discarded",
        [Line(name, {IMAGES: rate}) for name, rate in rates.items()],
        ratio_of=IMAGES,
        verdicts=[bench.judge("at most 3 % slower", f"{slowdown:.1f} %", slowdown <= 3)],
    )


def safety_checker(bench: Bench) -> tuple[Any, Any]:
    """The checker's true architecture (CLIP's ViT-L/14) with random weights and thresholds that nothing passes."""
    import transformers
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    side = 32 if bench.dry else 224
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    if bench.dry:
        vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision |= {"patch_size": 16 if bench.dry else 14, "image_size": side}
    text = {**TINY_CLIP, "hidden_size": 32}  # it has none; the config wants one
    with made_on(bench.device, bench.dtype, seed=0):
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=768)
        checker = StableDiffusionSafetyChecker(config).eval().requires_grad_(False)
    extractor = transformers.CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return checker, extractor


def shortened(bench: Bench, work: Work) -> Work:
    """Enough steps for a shortcut to show, and no more."""
    return dataclasses.replace(work, steps=4 if bench.dry else 20, batch=work.stock_batch, batches=1)


def denoised(
    bench: Bench, stock: Any, work: Work, specs: Mapping[str, SamplerSpec], budget_s: float
) -> dict[str, Samples]:
    """Images per second of our sampler, up to the latents, with each of the specs."""
    requests = [Request(f"picture number {place}", "", place) for place in range(work.batch)]

    def side(spec: SamplerSpec) -> Turn:
        sampler = tune(bench, stock, work, spec).sampler
        sampler.prepare([request.prompt for request in requests])

        def turn(folder: Path) -> int:
            sampler.latents(requests)
            return work.batch

        turn(Path())  # warm
        return turn

    return alternate(bench, {name: side(spec) for name, spec in specs.items()}, budget_s)


def sweep_row(bench: Bench, stock: Any, work: Work) -> Result:
    """The batch that `batch: auto` chooses by its own curve, against the best of a sweep in turns."""
    from gen.sampler.batch_curve import measure_curve

    sizes, steps = (TINY_SWEEP, 2) if bench.dry else (SWEEP, SWEEP_STEPS)
    short = dataclasses.replace(work, steps=steps, batch=max(sizes))
    sampler = tune(bench, stock, short, uncompiled(sampler_spec(bench, short), {})).sampler
    requests = [Request(f"picture number {place}", "", place) for place in range(max(sizes))]
    sampler.prepare([request.prompt for request in requests])

    def call(size: int) -> None:
        sampler.with_batch(size).latents(requests[:size])
        synchronize(bench.device)

    def side(size: int) -> Turn:
        def turn(folder: Path) -> int:
            call(size)
            return size

        return turn

    call(max(sizes))  # encodes all texts
    curve = measure_curve(call, call, sizes, 20.0, bench.now)
    names = {size: f"batch {size}{', chosen' * (size == curve.batch)}" for size in sizes}
    rates = alternate(bench, {names[size]: side(size) for size in sizes}, budget_s=15)
    middle = {name: statistics.median(samples) for name, samples in rates.items()}
    found = middle[names[curve.batch]] / max(middle.values())
    return Result(
        f"images per call, SD1.5, {short.size_px} px, {steps} steps, uncompiled, without decoding",
        [Line(name, {IMAGES: rate}) for name, rate in rates.items()],
        verdicts=[bench.judge("the chosen batch at least 0.97 of the best", f"{found:.3f}", found >= 0.97)],
        notes=[f"Chosen by the rule of `batch: auto` from a curve of its own, which ended with: {curve.ended}."],
    )


def device_jpeg_row(bench: Bench, stock: Any, work: Work) -> Result:
    import torch

    title = f"JPEG made on the device, {work.size_px} px, and the denoiser beside it"
    if find_spec("torchvision") is None:
        return Result(title, [], not_measured="torchvision is not installed")
    from torchvision.io import encode_jpeg

    images = [torch.from_numpy(one.transpose(2, 0, 1).copy()) for one in bench.photographs(work.size_px)]
    images = [one.to(bench.device) for one in (images * 4)[: 2 if bench.dry else 64]]
    forwards, count = (2, 2) if bench.dry else (20, work.stock_batch)
    inputs = denoiser_inputs(stock, work.size_px, 2 * count, 77, seed=9)
    due = max(1, count * forwards // work.steps)  # images that so many forwards bring forth

    def encode(folder: Path) -> int:
        encode_jpeg(images, quality=95)
        return len(images)

    def plain(folder: Path) -> int:
        with torch.inference_mode():
            for _ in range(forwards):
                stock.unet(**inputs, return_dict=False)
        return forwards

    def beside(folder: Path) -> int:
        with ThreadPoolExecutor(1) as encoder:
            made = encoder.submit(_on_own_stream, bench.device, encode_jpeg, images[:due])
            plain(folder)
            made.result(timeout=WAIT_S)
        return forwards

    for turn in (encode, plain, beside):
        turn(Path())  # warm
    (rate,) = alternate(bench, {"encode": encode}, budget_s=4).values()
    both = alternate(bench, {"beside": beside, "plain": plain}, budget_s=10)
    slowdown = 100 * (1 - statistics.median(over(both["beside"], both["plain"])))
    found = statistics.median(rate)
    return Result(
        title,
        [
            Line("torchvision's encoder on the device, quality 95", {IMAGES: rate}),
            Line("denoiser alone", {"forwards/s": both["plain"]}),
            Line("denoiser while its images are encoded", {"forwards/s": both["beside"]}),
        ],
        verdicts=[
            bench.judge("at least 3000 images/s", f"{found:.0f}", found >= 3000),
            bench.judge("denoiser at most 3 % slower", f"{slowdown:.1f} %", slowdown <= 3),
        ],
    )


def _on_own_stream(device: str, encode_jpeg: Callable[..., Any], images: Sequence[torch.Tensor]) -> None:
    import torch

    with contextlib.nullcontext() if device == "cpu" else torch.cuda.stream(torch.cuda.Stream()):
        encode_jpeg(list(images), quality=95)


@dataclass(frozen=True)
class Group:
    """Rows that share networks. `need_s`: with less time left none of them is begun."""

    rows: tuple[str, ...]
    need_s: float
    measure: Callable[[Bench], Rows]


GROUPS = (  # what is cut when the time is short stands last
    Group(("G1", "G2", "G8-sd15", "G13", "X1-sd15", "G14", "G16"), 60, sd15_rows),
    Group(("G3", "G4", "G8-sdxl", "X1-sdxl", "G9"), 110, sdxl_rows),
    Group(("G7", "G8-flux", "X1-flux"), 80, flux_rows),
    Group(("G5", "G6", "G12"), 70, turbo_rows),
    Group(("G11", "G15", "G17", "X2", "X3"), 30, single_rows),
)
ROWS = tuple(row for group in GROUPS for row in group.rows)


# --- The page and the command -----------------------------------------------------------------------------------------


def section(row: str, result: Result) -> str:
    """One row in Markdown: medians (least - most), and ours / each line repeat by repeat."""
    if result.not_measured is not None:
        return f"### {row}\n\nNot measured: {result.not_measured}."
    lines = [f"### {row}: {result.title}", ""]
    columns = list(dict.fromkeys(column for line in result.lines for column in line.figures))
    heads = ["", *columns, *([f"{result.ratio_of}, ours / this"] if result.ratio_of else [])]
    lines += [f"| {' | '.join(heads)} |", f"|---{'|---:' * (len(heads) - 1)}|"]
    for line in result.lines:
        cells = [line.what, *(spread(line.figures[name]) if name in line.figures else "" for name in columns)]
        if result.ratio_of:
            ours = result.lines[0].figures[result.ratio_of]
            theirs = line.figures.get(result.ratio_of)
            cells.append("" if theirs is None else "1" if line is result.lines[0] else spread(over(ours, theirs), "x"))
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| target | came out | met |", "|---|---|---|"]
    lines += [f"| {one.target} | {one.found} | {one.word} |" for one in result.verdicts]
    repeats = max(len(samples) for line in result.lines for samples in line.figures.values())
    return "\n".join([*lines, *(f"\n{note}" for note in [*result.notes, f"Repeats: {repeats}."])])


def write(folder: Path, results: Mapping[str, Result]) -> None:
    """These rows anew, others as they were."""
    known = {**read(folder), **results}
    known = {row: known[row] for row in ROWS if row in known}
    numbers = {row: dataclasses.asdict(one) for row, one in known.items()}
    replace_files(folder, {NUMBERS: json.dumps(numbers, indent=1, allow_nan=False) + "\n", PAGE: page(known)})


def read(folder: Path) -> dict[str, Result]:
    """What runs have written there."""
    return {
        row: Result(**{**one, "lines": [Line(**line) for line in one["lines"]]}) for row, one in kept(folder / NUMBERS)
    }


def page(results: Mapping[str, Result]) -> str:
    """A table of all targets, then the rows, each with where it was measured."""
    head = ["# What sixfold makes of a GPU", "", "| row | what | target | came out | met |", "|---|---|---|---|---|"]
    for row, result in results.items():
        if result.not_measured is not None:
            head.append(f"| {row} | | | not measured: {result.not_measured} | |")
        for verdict in result.verdicts:
            head.append(f"| {row} | {result.title} | {verdict.target} | {verdict.found} | {verdict.word} |")
    sections = [f"{section(row, result)}\n\n*Where:* {told(result.where)}" for row, result in results.items()]
    return "\n\n".join(["\n".join(head), *sections]) + "\n"


def measure(bench: Bench, wanted: frozenset[str]) -> Iterator[tuple[str, Result]]:
    """Every wanted row once: its figures, or why it has none."""
    import torch

    for group in GROUPS:
        rows = dict.fromkeys(row for row in group.rows if row in wanted)  # those still to come
        left_s = bench.deadline - bench.now()
        reason = f"{left_s:.0f} s were left and {group.need_s:.0f} wanted; run it with --rows"
        if rows and left_s >= group.need_s:
            try:
                for plan in group.measure(bench):
                    is_there = plan.shared is not None and plan.shared.is_made
                    if plan.row in rows and (is_there or bench.now() < bench.deadline):
                        del rows[plan.row]
                        yield plan.row, _made(plan.make)
                reason = "the time was up; run it with --rows"
            except Exception as error:  # the networks of these rows; other groups have their own
                reason = failure(error)
        for row in rows:
            yield row, Result("", [], not_measured=reason)
        gc.collect()
        if bench.device == "cuda":
            torch.cuda.empty_cache()


def _made(make: Callable[[], Result]) -> Result:
    try:
        return make()
    except Exception as error:  # becomes a row that says so; the others go on
        return Result("", [], not_measured=failure(error))


def _chosen_rows(text: str | None, known: Mapping[str, Result]) -> frozenset[str]:
    """`G8` stands for all rows that begin with `G8-`. Raises ValueError with the names of all."""
    if text is None:
        return frozenset(ROWS)
    if text == "rest":
        return frozenset(row for row in ROWS if row not in known or known[row].not_measured is not None)
    chosen = set()
    for name in text.split(","):
        found = {row for row in ROWS if row == name or row.startswith(f"{name}-")}
        if not found:
            raise ValueError(f"--rows: found {name!r}, expected some of {','.join(ROWS)}")
        chosen |= found
    return frozenset(chosen)


def main(arguments: Sequence[str], clock: Callable[[], float] = time.perf_counter) -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.bench.gpu", description="Time a GPU's images, side by side.")
    parser.add_argument("--rows", help=f"some of {','.join(ROWS)} (G8: all three); rest; all by default")
    parser.add_argument("--dry", action="store_true", help="every row with tiny networks on the CPU; judges no speed")
    parser.add_argument("--out", type=Path, help=f"folder of {NUMBERS} and {PAGE} (default: docs)")
    parser.add_argument("--from", dest="source", type=Path, help=f"only take over the rows of this folder's {NUMBERS}")
    parser.add_argument("--budget", type=float, default=525.0, help="seconds in all; 525 keeps a run below 9 minutes")
    parser.add_argument("--extras", default="", help=f"ways no recipe takes by itself: {','.join(EXTRAS)}")
    parser.add_argument("--first-image", action="store_true", help="only times a start; row G16 runs this")
    chosen = parser.parse_args(arguments)
    extras = [name for name in chosen.extras.split(",") if name]
    if unknown := [name for name in extras if name not in EXTRAS]:
        parser.error(f"--extras: found {','.join(unknown)}, expected some of {','.join(EXTRAS)}")
    out = chosen.out or (None if chosen.dry else HOME)
    if chosen.source is not None:
        found = read(chosen.source)
        if not found:
            parser.error(f"--from: found no {NUMBERS} in {chosen.source}, expected what a run with --out wrote")
        write(chosen.out or HOME, found)
        return 0
    try:
        wanted = _chosen_rows(chosen.rows, {} if out is None else read(out))
    except ValueError as error:
        parser.error(str(error))
    begun = clock()
    import diffusers
    import torch
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
    if not chosen.dry and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; run with --dry to see that every row works")
    import_s = clock() - begun
    device, dtype = ("cpu", torch.float32) if chosen.dry else ("cuda", torch.bfloat16)
    with contextlib.ExitStack() as stack:
        if chosen.dry:
            stack.enter_context(in_miniature())
        if not chosen.first_image:
            stack.enter_context(empty_compile_cache())
        top = {} if chosen.first_image else ceilings(device, dtype, chosen.dry, clock)
        bench = Bench(
            dry=chosen.dry,
            device=device,
            dtype=dtype,
            worlds=TINY_WORLDS if chosen.dry else WORLDS,
            works=TINY_WORKS if chosen.dry else WORKS,
            extras=extras,
            deadline=begun + chosen.budget,
            import_s=import_s,
            clock=clock,
            matmul_tflops=statistics.median(top["matmul TFLOP/s"]) if top else math.nan,
        )
        if chosen.first_image:
            print(json.dumps(first_image(bench)), flush=True)
            return 0
        where = {**facts(chosen.dry, LIBRARIES), "extras": extras, "ceilings": top}
        results: dict[str, Result] = {}
        for row, result in measure(bench, wanted):
            results[row] = dataclasses.replace(result, where=where)
            print(section(row, result), end="\n\n", flush=True)
            if out is not None:
                write(out, {row: results[row]})
            print(f"({clock() - begun:.0f} s since the start)", file=sys.stderr, flush=True)
    failed = any(result.not_measured is not None for result in results.values())
    missed = any(verdict.met is False for result in results.values() for verdict in result.verdicts)
    return 1 if failed or missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
