"""Images of a GPU: a unit of `sixfold generate` beside the loop of diffusers' documentation.

In: a bench. Out: a row for each workload. On disk: a shard, or PNG files, removed again.

SD1.5, SDXL and FLUX.1 in their true architectures, with random weights made on the device. Time depends on shapes, but
clocks depend on data: every network is scaled until its output has a spread near 1, and that is checked. The U-Nets
predict v: a random one that "predicts noise" would send latents with a spread of 15 into the decoder. Random pictures
compress unlike photographs, so every side encodes the same photograph-like arrays in place of its own pixels. Ours is
compiled as `compile: auto` decides on a GPU; the stock loop is eager, in the same type.
"""

from __future__ import annotations

import contextlib
import copy
import io
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from docs.bench.device import IMAGES, SHARE, Bench
from docs.bench.encode import photograph
from docs.bench.measure import Line, Result, Side, Verdict, ratios
from docs.bench.unit import unit_side
from gen.sampler.batch_curve import measure_curve
from gen.sampler.pipeline import in_one_place
from gen.sampler.sampler import Request, Sampled, Sampler
from gen.sampler.spec import SamplerSpec

if TYPE_CHECKING:
    import torch

Family = Literal["sd", "sdxl", "flux"]
WAIT_S = 120.0  # for a batch's pixels: far more than any takes
OURS, LOST = "sixfold, a shard of JPEG", "sixfold, images discarded"
STOCK_1, STOCK_N = "diffusers loop, batch 1, PNG files", "diffusers loop, batched, PNG files"

# As published with the weights; what is not named is the library's default.
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768}
BIG_G = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "projection_dim": 1280, "hidden_act": "gelu",
}  # fmt: skip
T5_XXL = {
    "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
UNETS: dict[Family, dict[str, Any]] = {
    "sd": {"sample_size": 64, "cross_attention_dim": 768},
    "sdxl": {
        "sample_size": 128, "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048,
        "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip
VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
DECODERS: dict[Family, dict[str, Any]] = {
    "sd": {**VAE, "sample_size": 512, "scaling_factor": 0.18215},
    "sdxl": {**VAE, "sample_size": 1024, "scaling_factor": 0.13025},
    "flux": {
        **VAE, "sample_size": 1024, "latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159,
        "use_quant_conv": False, "use_post_quant_conv": False,
    },
}  # fmt: skip
BETAS = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction",
    "steps_offset": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """One workload: which networks and picture, how many images a side makes in a turn, what is wanted."""

    family: Family
    shown: str
    size_px: int
    steps: int
    guidance: float
    scheduler: tuple[str, dict[str, Any]]  # of diffusers
    batch: int  # ours, images per call
    batches: int  # ours, calls per turn
    stock_batch: int  # of the batched loop
    alone: int  # images of a turn of the loop at batch 1
    at_least: dict[str, float]  # side -> images/s, ours over its; SHARE -> ours, % of the ceiling
    predicted: str
    text_tokens: int | None = None

    @property
    def rows(self) -> int:
        """Of a call of the denoiser."""
        return self.batch * (2 if self.guidance > 1 else 1)

    def small(self) -> Work:
        few, tokens = min(self.steps, 3), self.text_tokens and 16
        return replace(self, size_px=64, steps=few, batch=4, batches=2, stock_batch=2, alone=1, text_tokens=tokens)


SD15 = Work(
    "sd", "SD1.5", 512, 50, 7.5, ("DDIMScheduler", {**BETAS, "clip_sample": False, "set_alpha_to_one": False}),
    batch=32, batches=1, stock_batch=16, alone=2, at_least={STOCK_1: 7, STOCK_N: 1.5, SHARE: 55},
    predicted="5.2-6.4 images/s; the loop 0.7-0.8 at batch 1, where launches bound it, and 3-4.3 batched",
)  # fmt: skip
SDXL = Work(
    "sdxl", "SDXL", 1024, 30, 7.5, ("EulerDiscreteScheduler", BETAS),
    batch=8, batches=1, stock_batch=8, alone=1, at_least={STOCK_1: 1.9, STOCK_N: 1.3, SHARE: 55},
    predicted="1.0-1.24 images/s; the loop 0.5-0.6 at batch 1; 1.25-1.6x the batched loop",
)  # fmt: skip
TURBO = Work(
    "sdxl", "SDXL-Turbo", 512, 1, 0.0, ("EulerAncestralDiscreteScheduler", {**BETAS, "timestep_spacing": "trailing"}),
    batch=32, batches=8, stock_batch=32, alone=8, at_least={STOCK_1: 10, STOCK_N: 5, LOST: 0.98},
    predicted="75-110 images/s; the loop 7.5 at batch 1 and 15-18 batched, where PNG bounds it",
)  # fmt: skip
FLUX = Work(
    "flux", "FLUX.1-schnell", 1024, 4, 0.0, ("FlowMatchEulerDiscreteScheduler", {"shift": 1.0}),
    batch=4, batches=1, stock_batch=4, alone=2, at_least={STOCK_1: 1.6, SHARE: 60}, text_tokens=256,
    predicted="1.7-2.1x the loop at batch 1; batches gain little at 1024 px",
)  # fmt: skip


def networks(family: Family, marks: dict[str, int]) -> dict[str, Any]:
    """The networks by the names that their pipeline gives them. `marks`: the tokens that begin and end a text."""
    import diffusers
    import transformers

    clip = transformers.CLIPTextConfig
    parts: dict[str, Any] = {
        "vae": diffusers.AutoencoderKL(**DECODERS[family]),
        "text_encoder": transformers.CLIPTextModel(clip(**CLIP_L, **marks)),
    }
    if family == "flux":
        parts["transformer"] = diffusers.FluxTransformer2DModel()
        parts["text_encoder_2"] = transformers.T5EncoderModel(transformers.T5Config(**T5_XXL))
    else:
        parts["unet"] = diffusers.UNet2DConditionModel(**UNETS[family])
    if family == "sdxl":
        parts["text_encoder_2"] = transformers.CLIPTextModelWithProjection(clip(**BIG_G, **marks))
    return parts


def stock_pipeline(bench: Bench, work: Work) -> Any:
    """A stock pipeline on the device, whose tokenizers know letters only. Dry: with tiny networks."""
    import diffusers
    import torch
    import transformers

    from tests.support.tiny_pipelines import tiny_pipeline

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        tiny = diffusers.DiffusionPipeline.from_pretrained(tiny_pipeline(work.family, Path(folder)))
    kind, settings = work.scheduler
    parts = {**tiny.components, "scheduler": getattr(diffusers, kind)(**settings)}
    if not bench.dry:
        marks = {name: getattr(tiny.tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
        torch.manual_seed(0)
        with torch.device(bench.device):
            made = networks(work.family, marks)
        parts |= {name: part.eval().requires_grad_(False).to(torch.bfloat16) for name, part in made.items()}
    pipeline = type(tiny)(**parts)
    pipeline.set_progress_bar_config(disable=True)
    _scale(pipeline, work)
    return pipeline


def _scale(pipeline: Any, work: Work) -> None:
    """Token embeddings with a spread of 1; last layers such that the denoiser's output has 1, the image 0.5."""
    import torch

    for encoder in (pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)):
        if type(encoder).__name__.startswith("CLIP"):
            weight = encoder.get_input_embeddings().weight
            weight.data /= weight.data.float().std()
    vae, denoiser = pipeline.vae, denoiser_of(pipeline)
    shape = (2, vae.config.latent_channels, 16, 16)
    latents = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(1)) / vae.config.scaling_factor
    with torch.no_grad():
        decoded = vae.decode(latents.to(vae.device, vae.dtype), return_dict=False)[0]
    predicted = first_call(pipeline, work, 1)[2]
    last = denoiser.proj_out if work.family == "flux" else denoiser.conv_out
    for layer, spread in ((last, predicted.float().std()), (vae.decoder.conv_out, 2 * decoded.float().std())):
        layer.weight.data /= spread
        layer.bias.data /= spread


def denoiser_of(pipeline: Any) -> Any:
    return pipeline.transformer if hasattr(pipeline, "transformer") else pipeline.unet


def first_call(stock: Any, work: Work, batch: int) -> tuple[tuple[Any, ...], dict[str, Any], torch.Tensor]:
    """Arguments and answer of the denoiser when it is first called for `batch` images; there the call ends."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []

    def keep(_: object, args: Any, more: Any, answer: Any) -> None:
        calls.append((args, more, answer[0]))
        raise StopIteration

    hook = denoiser_of(stock).register_forward_hook(keep, with_kwargs=True)
    with contextlib.suppress(StopIteration):
        stock_call(stock, work, numbered(batch), "latent")
    hook.remove()
    return calls[0]


def teraflop(stock: Any, work: Work) -> float:
    """TFLOP of an image (1 multiply-add = 2), counted, not timed: text, all steps, decoder."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    found = []
    for steps in (1, 2):  # the plain kernel, because its products are counted whatever the torch
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            stock_call(stock, replace(work, steps=steps), numbered(1), "pt")
        found.append(counter.get_total_flops() / 1e12)
    return found[0] + (work.steps - 1) * (found[1] - found[0])


def check_spreads(stock: Any, work: Work) -> str:
    """The spread of each stage in words. Raises ValueError where it is not finite or far from 1."""
    _, more, predicted = first_call(stock, work, 1)
    image = 4 * stock_call(stock, replace(work, steps=min(2, work.steps)), numbered(1), "pt")  # of 0..1
    found = []
    for name, tensor in (("text", more["encoder_hidden_states"]), ("denoiser", predicted), ("image", image)):
        spread = float(tensor.float().std())
        if not 0.1 <= spread <= 10:  # NaN neither
            raise ValueError(
                f"{work.shown}, {name}: found a spread of {spread:.3g}, expected one between 0.1 and 10; the random "
                "weights need another scale"
            )
        found.append(f"{name} {spread:.2f}")
    return ", ".join(found)


def our_sampler(bench: Bench, stock: Any, work: Work, compiled: bool = True) -> Sampler:
    """The same weights behind our sampler, with the settings of a recipe that names no more than the work."""
    import torch

    torch.compiler.reset()  # graphs of another row would count against the limit of shapes
    spec = SamplerSpec(
        model="random weights",
        steps=work.steps,
        guidance=work.guidance,
        text_tokens=work.text_tokens,
        size_px=work.size_px,
        dtype="fp32" if bench.dry else "bf16",
        batch=work.batch,
        compile="auto" if compiled else "none",
        offload_text=False,  # the stock loop needs the same encoders
    ).decided(on_gpu=True)
    own = ("unet", "transformer", "vae", "scheduler")
    parts = {name: copy.deepcopy(part) if name in own else part for name, part in stock.components.items()}
    pipeline = in_one_place(type(stock))(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return Sampler.around(pipeline, spec, work.family, bench.device)


@dataclass(frozen=True)
class Shown:
    """Our sampler, whose pixels arrive as always; then photographs stand in their place."""

    sampler: Sampler
    photographs_NHWC: np.ndarray  # as many as a call has images

    def prepare(self, texts: Sequence[str], negatives: Sequence[str]) -> None:
        self.sampler.prepare(texts, negatives)

    def sample(self, requests: Sequence[Request], alive: Callable[[float], None]) -> Sampled:
        return replace(self.sampler.sample(requests, alive), image_NHWC=self.photographs_NHWC[: len(requests)])


def numbered(count: int) -> list[str]:
    return [f"picture number {place}" for place in range(count)]


def discarded_side(sampler: Sampler, work: Work) -> Side:
    """The same batches into nothing; prompts are encoded anew."""
    requests = [Request(text, "", place) for place, text in enumerate(numbered(work.batch * work.batches))]

    def turn(folder: Path) -> int:
        sampler.prepare([request.prompt for request in requests])
        firsts = range(0, len(requests), work.batch)
        for made in [sampler.sample(requests[first : first + work.batch]) for first in firsts]:
            made.wait(WAIT_S)
        return len(requests)

    return turn


def stock_side(stock: Any, work: Work, batch: int, images: int, photographs: Sequence[np.ndarray]) -> Side:
    """The usual loop: the pipeline makes PIL images, each is saved as PNG where it was made."""
    from PIL import Image

    Image.fromarray(photographs[0]).save(io.BytesIO(), "PNG")  # loads the codec before anything is timed
    stock_call(stock, replace(work, steps=min(2, work.steps)), numbered(batch), "pil")  # warm

    def turn(folder: Path) -> int:
        for first in range(0, images, batch):
            for place in range(first, first + len(stock_call(stock, work, numbered(batch), "pil"))):
                Image.fromarray(photographs[place % len(photographs)]).save(folder / f"{place:06d}.png")
        return images

    return turn


def stock_call(stock: Any, work: Work, texts: Sequence[str], output_type: str) -> Any:
    import torch

    length = {} if work.text_tokens is None else {"max_sequence_length": work.text_tokens}
    return stock(
        list(texts),
        height=work.size_px,
        width=work.size_px,
        num_inference_steps=work.steps,
        guidance_scale=work.guidance,
        generator=torch.Generator(stock.device).manual_seed(0),
        output_type=output_type,
        **length,
    ).images


def measure(bench: Bench, work: Work, budget_s: float) -> Result:
    """Images per second of the sides, ours as a share of the ceiling, and how exact one call of the denoiser is."""
    work = work.small() if bench.dry else work
    stock = stock_pipeline(bench, work)
    spreads, tflop = check_spreads(stock, work), teraflop(stock, work)
    begun = bench.now()
    sampler = our_sampler(bench, stock, work)
    first_s = bench.now() - begun
    shown = [photograph(seed, work.size_px) for seed in range(2 if bench.dry else 8)]
    batch_NHWC = np.stack([shown[place % len(shown)] for place in range(work.batch)])
    sides = {OURS: unit_side(Shown(sampler, batch_NHWC), sampler.spec, work.batch * work.batches)}
    if LOST in work.at_least:
        sides[LOST] = discarded_side(sampler, work)
    for name, batch, images in ((STOCK_1, 1, work.alone), (STOCK_N, work.stock_batch, work.stock_batch)):
        if name in work.at_least:
            sides[name] = stock_side(stock, work, batch, images, shown)
    rates = bench.rates(sides, budget_s)
    shares = {name: bench.share(rate, tflop) for name, rate in rates.items()}
    lines = [Line(name, {IMAGES: rate, SHARE: shares[name]}) for name, rate in rates.items()]
    verdicts = []
    for name, least in work.at_least.items():
        found = statistics.median(shares[OURS] if name == SHARE else ratios(rates[OURS], rates[name]))
        target = f"at least {least:g} {name}" if name == SHARE else f"at least {least:g}x: {name}"
        verdicts.append(bench.judge(target, f"{found:.3g}{'x' * (name != SHARE)}", found >= least))
    bound = 1e-5 if bench.dry else 2e-2  # bf16 keeps 8 bits: 0.4 % a rounding, many in a row
    for name, error in exactness(stock, sampler, work).items():
        lines.append(Line(f"one call of the denoiser, {name}", {"relative L2": (error,)}))
        verdicts.append(Verdict(f"{name}: relative L2 at most {bound:g}", f"{error:.2e}", error <= bound))
    return Result(
        title=f"{work.shown}, {work.size_px} px, {work.steps} steps{', guidance' * (work.rows > work.batch)}",
        method=f"random weights of the true architecture, bf16. Ours: a unit of {work.batch * work.batches} images, "
        f"screened and written, in batches of {work.batch}; the batched loop: {work.stock_batch} images a call. "
        f"{tflop:.4g} TFLOP an image, counted.",
        anchor="nothing of these on one card; what is predicted follows from arithmetic and published results",
        predicted=work.predicted,
        lines=lines,
        ratio_of=IMAGES,
        verdicts=verdicts,
        notes=[f"First call of ours, compilation included: {first_s:.0f} s. Spread between stages: {spreads}."],
    )


def exactness(stock: Any, sampler: Sampler, work: Work) -> dict[str, float]:
    """Relative L2 of one call of the denoiser: alone against in a batch, and compiled against eager."""
    import torch
    from torch.utils._pytree import tree_map

    def first(value: Any) -> Any:
        return value[:1] if isinstance(value, torch.Tensor) and value.ndim and len(value) == work.rows else value

    def fresh(value: Any) -> Any:  # made here, as a compiled graph knows them
        return value.clone() if isinstance(value, torch.Tensor) else value

    with torch.inference_mode():
        args, more, eager = tree_map(fresh, first_call(stock, work, work.batch))  # the rows of the compiled graph
        alone = denoiser_of(stock)(*tree_map(first, args), **tree_map(first, more))[0]
        compiled = denoiser_of(sampler._pipeline)(*args, **more)[0]
    pairs = {f"batch 1 against {work.rows}": (alone, eager[:1]), "compiled against eager": (compiled, eager)}
    return {name: float((one - other).double().norm() / other.double().norm()) for name, (one, other) in pairs.items()}


def batch_auto(bench: Bench) -> Result:
    """The batch that `batch: auto` chooses by its own curve, against the best of a sweep in turns."""
    sizes = (1, 2, 4) if bench.dry else (1, 2, 4, 8, 16, 32, 64)
    work = replace(SD15.small() if bench.dry else SD15, steps=4, batch=max(sizes))
    sampler = our_sampler(bench, stock_pipeline(bench, work), work, compiled=False)
    requests = [Request(text, "", place) for place, text in enumerate(numbered(max(sizes)))]
    sampler.prepare([request.prompt for request in requests])

    def call(size: int, folder: Path | None = None) -> int:
        sampler.with_batch(size).latents(requests[:size])
        bench.now()
        return size

    call(max(sizes))  # encodes all texts
    curve = measure_curve(call, call, sizes, 20.0, bench.now)
    names = {size: f"batch {size}{', chosen' * (size == curve.batch)}" for size in sizes}
    rates = bench.rates({name: partial(call, size) for size, name in names.items()}, budget_s=15)
    middle = {name: statistics.median(samples) for name, samples in rates.items()}
    found = middle[names[curve.batch]] / max(middle.values())
    return Result(
        title=f"images per call, SD1.5, {work.size_px} px, {work.steps} steps",
        method="up to the latents, uncompiled; chosen by the rule of `batch: auto` from a curve of its own, which "
        f"ended with: {curve.ended}.",
        anchor="a GPU is full at about 8 images of SD1.5 with guidance (computed)",
        predicted="at least 0.97 of the best",
        lines=[Line(name, {IMAGES: rate}) for name, rate in rates.items()],
        verdicts=[bench.judge("the chosen batch at least 0.97 of the best", f"{found:.3f}", found >= 0.97)],
    )
