"""Images from prompts and seeds: one loaded text-to-image pipeline, whichever of the four families it is.

In: a `SamplerSpec` (gen.sampler.spec) and, per call, a batch of `Request` (prompt, negative, seed), from noise or from
pictures (gen.sampler.start).
Out: `Sampled`: uint8 images NHWC and two flags per image (finite, flagged by the model's safety checker).
Nothing is written to disk; weights come from a checked folder (`gen.model.folder`), never from the network.

What an image depends on: its prompt, negative, seed and the spec; noise comes from one CPU generator per
image (initial latents and the steps of ancestral schedulers alike), so it is the same in every batch. The
arithmetic of a batch is not: kernels round differently for another batch shape (about 1e-6 relative in
fp32), so a unit keeps its batches and records them.

Shapes: N images of a call, H height and W width in pixels, T text tokens, D embedding width.
"""

from __future__ import annotations

import copy
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.process.machine import memory_bytes
from cluster.recipes.load import fingerprint
from gen.sampler.compiled import compile_networks, first_compiles, share_kernels
from gen.sampler.device import for_device, is_memory_short
from gen.sampler.in_place import activate_in_place
from gen.sampler.latents import for_decoder
from gen.sampler.memory import Room, need_of, refuse_too_large
from gen.sampler.pipeline import TORCH_TYPES, load_pipeline, require_xformers, set_scheduler
from gen.sampler.safety import check_extractor, flag_images
from gen.sampler.shortcuts import Shortcuts, quantise_linears
from gen.sampler.spec import SamplerSpec, check_sampler, is_distilled, sampler_json, with_size
from gen.sampler.start import Beginnings, Start
from gen.sampler.text_once import TextOnce, text_readers
from gen.sampler.texts import encode_texts

if TYPE_CHECKING:
    import torch

COMPILE_S = 1100.0  # for a first call, its compilation included; below a run's own limit for the start of a worker
CACHED_VALUES = 1 << 18  # floats (1 MB) that a CPU core's own cache holds
CACHED_TEXT_BYTES = 1 << 29  # of prompt embeddings kept: 1,600 texts of SDXL, 120 of FLUX at 512 tokens


@dataclass(frozen=True)
class Request:
    """One image to be drawn."""

    prompt: str
    negative: str  # "" = the spec's negative
    seed: int  # 0 .. 2**63 - 1


@dataclass(frozen=True)
class Sampled:
    """One batch. On a GPU the copy may still be under way: call ``wait`` before looking at the arrays."""

    image_NHWC: np.ndarray  # uint8
    finite_N: np.ndarray  # bool: no NaN or Inf in the float image
    flagged_N: np.ndarray  # bool: the model's own safety checker objects
    wait: Callable[[float], None]  # seconds -> TimeoutError if the pixels are not there by then


class Sampler:
    """A loaded pipeline. Owns the weights and a bounded cache of prompt embeddings; one thread uses it."""

    def __init__(
        self, pipeline: Any, spec: SamplerSpec, family: str, device: torch.device, vae_fp32: Any | None
    ) -> None:
        import torch

        self.spec = spec
        self.family = family
        self.device = device
        denoiser = pipeline.unet if family in ("sd", "sdxl") else pipeline.transformer
        self.guided = spec.guidance > 1 and not is_distilled(family, denoiser.config)  # two passes instead of one
        self._pipeline = pipeline
        self._vae_fp32 = vae_fp32
        self._shortcuts = Shortcuts(pipeline, family, spec.guidance_interval, spec.reuse_every)
        # a compiled block holds its readers inside its graph
        has_readers = family in ("sd", "sdxl") and spec.compile == "none"
        self._text_once = TextOnce(text_readers(denoiser) if has_readers else [])
        self._copying = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._chunk_of: dict[str, tuple[str, ...]] = {}
        self._embedded: OrderedDict[tuple[str, ...], dict[str, torch.Tensor]] = OrderedDict()
        self._beginnings = Beginnings(pipeline, family, device)

    @staticmethod
    def load(spec: SamplerSpec) -> Sampler:
        """Loads the pipeline onto the device, and compiles it if it is to be: seconds to minutes."""
        folder = check_sampler(spec)
        import torch

        spec, on_gpu = for_device(with_size(spec, folder))
        there = torch.cuda.mem_get_info()[1] if on_gpu else memory_bytes()
        room = Room(there, "its GPU" if on_gpu else "this machine", on_gpu)
        refuse_too_large(need_of(spec, folder, on_gpu), room, spec.model)
        if spec.attention == "xformers":
            require_xformers(on_gpu)
        torch.set_num_threads(spec.threads)
        pipeline = load_pipeline(folder, spec, folder.decoder)
        return Sampler.around(pipeline, spec, folder.family, torch.device("cuda" if on_gpu else "cpu"))

    @staticmethod
    def around(pipeline: Any, spec: SamplerSpec, family: str, device: torch.device) -> Sampler:
        """Takes over a pipeline whose weights are in memory, and compiles it if it is to be.

        ``spec`` has no ``auto`` that the kind of ``device`` decides. Raises ModelError for what does not go together.
        """
        import torch

        set_scheduler(pipeline, spec, family)
        if getattr(pipeline, "safety_checker", None) is not None:
            check_extractor(pipeline.feature_extractor)
        pipeline.to(device)
        vae_fp32 = None
        if spec.retry_fp32 and _vae_dtype(pipeline, spec, family) != torch.float32:
            vae_fp32 = copy.deepcopy(pipeline.vae).float()
        if spec.offload_text == "auto":  # changes no image, so that every worker may decide for itself
            spec = spec.model_copy(update={"offload_text": is_memory_short(device)})
        _tune(pipeline, spec, family, device)
        sampler = Sampler(pipeline, spec, family, device, vae_fp32)
        if spec.compile != "none":
            with first_compiles(share_kernels(os.environ), _compile_key(spec, family, device)):
                sampler._with_seen_shapes().sample([Request("the first picture", "", 0)]).wait(COMPILE_S)
        return sampler

    def _with_seen_shapes(self) -> Sampler:
        """The same loaded model with the fewest steps in which it meets every shape of a call.

        Two: the first step's latents lie in memory otherwise than a network's. Which rows or layers a shortcut leaves
        out follows from the share of the way, so there all steps are needed.
        """
        other = copy.copy(self)
        if self.spec.guidance_interval is None and self.spec.reuse_every is None:
            other.spec = self.spec.model_copy(update={"steps": min(2, self.spec.steps)})
        return other

    @property
    def networks(self) -> list[torch.nn.Module]:
        """All that it works with, for what else shares its device."""
        import torch

        held = [*self._pipeline.components.values(), self._vae_fp32]
        return [one for one in held if isinstance(one, torch.nn.Module)]

    def with_batch(self, batch: int) -> Sampler:
        """The same loaded model, called with another number of images; shares everything with this one."""
        other = copy.copy(self)
        other.spec = self.spec.model_copy(update={"batch": batch})
        return other

    def prepare(self, texts: Sequence[str], negatives: Sequence[str] = ("",)) -> None:
        """Fixes which texts are encoded together: chunks of ``text_batch`` in the given order, each negative alone.

        A chunk is encoded when one of its texts is first needed, so an embedding is the same bytes whether a
        whole unit is made or one batch of it is made again. With ``offload_text`` all chunks are encoded here.
        ``negatives``: as in `Request`, "" stands for the spec's.
        """
        distinct, size = tuple(dict.fromkeys(texts)), self.spec.text_batch
        chunks = [distinct[first : first + size] for first in range(0, len(distinct), size)]
        if self.guided:
            asked = dict.fromkeys(negative or self.spec.negative for negative in negatives)
            chunks += [(negative,) for negative in asked if negative not in distinct]
        self._chunk_of = {text: chunk for chunk in chunks for text in chunk}
        self._embedded.clear()
        if self.spec.offload_text and chunks:
            self._move_text_encoders(self.device)
            for chunk in chunks:
                self._embedded[chunk] = {name: self._offload(tensor) for name, tensor in self._encode(chunk).items()}
            self._move_text_encoders("cpu")

    def _offload(self, tensor: torch.Tensor) -> torch.Tensor:
        """On the CPU, where a GPU can fetch it while the next call is being launched."""
        return tensor.cpu().pin_memory() if self.device.type == "cuda" else tensor.cpu()

    def sample(
        self,
        requests: Sequence[Request],
        alive: Callable[[float], None] = lambda share: None,
        start: Start | None = None,
    ) -> Sampled:
        """Raises what torch raises when the device fails; a bad image is a flag, never an exception.

        ``start``: the pictures to begin with, one for each request; None: noise. ``alive`` is called after each
        denoising step and before each call of the decoder, with the share of the steps that is done: on a slow machine
        a batch takes many minutes. What it raises ends the call.
        """
        import torch

        if not 0 < len(requests) <= self.spec.call_size:
            raise ValueError(f"found {len(requests)} requests, expected 1..{self.spec.call_size} (sampler.batch)")
        with torch.inference_mode():
            image_NCHW = self._decode(self.latents(requests, alive, start), alive)[: len(requests)]
            flagged_N = self._flag(image_NCHW)
            return self._to_host(self._to_uint8(image_NCHW), _finite(image_NCHW), flagged_N)

    def latents(
        self,
        requests: Sequence[Request],
        alive: Callable[[float], None] = lambda share: None,
        start: Start | None = None,
    ) -> torch.Tensor:
        """The denoised latents of one call, as the decoder wants them before scaling; NCHW."""
        import torch

        spec = self.spec
        if spec.compile != "none":  # a compiled graph is bound to its shape: fill up with copies
            missing = spec.call_size - len(requests)
            requests = [*requests, *[requests[-1]] * missing]
            start = None if start is None else start.filled_up(missing)
        arguments: dict[str, Any] = self._embed([request.prompt for request in requests])
        if self.guided:
            negatives = [request.negative or spec.negative for request in requests]
            arguments |= {f"negative_{name}": tensor for name, tensor in self._embed_negative(negatives).items()}
        generators = [torch.Generator("cpu").manual_seed(request.seed) for request in requests]
        dtype = arguments["prompt_embeds"].dtype
        with torch.inference_mode(), self._shortcuts.one_call(), self._text_once.one_call():
            pipeline, begin = self._beginnings.of(start, spec, dtype, generators)
            latents = pipeline(
                **arguments,
                **begin,
                num_inference_steps=spec.steps,
                guidance_scale=spec.guidance,
                generator=generators,
                output_type="latent",
                callback_on_step_end=partial(_after_step, alive),
                callback_on_step_end_tensor_inputs=[],
            ).images
            if self.family == "flux":  # packed 2x2 patches
                latents = self._pipeline._unpack_latents(
                    latents, spec.made_px, spec.made_px, self._pipeline.vae_scale_factor
                )
        return latents

    def _embed(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """prompt_embeds NTD (and pooled_prompt_embeds ND) of ``texts``."""
        return _stack([self._embedding(text) for text in texts])

    def _embed_negative(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """As `_embed`; SDXL models may want zeros, not the empty text, where there is no negative."""
        import torch

        rows = [self._embedding(text) for text in texts]
        if self.family == "sdxl" and self._pipeline.config.force_zeros_for_empty_prompt:
            zeros = {name: torch.zeros_like(tensor) for name, tensor in rows[0].items()}
            rows = [row if text else zeros for text, row in zip(texts, rows, strict=True)]
        return _stack(rows)

    def _embedding(self, text: str) -> dict[str, torch.Tensor]:
        """From the cache, else by encoding the chunk the text belongs to (a text never named is alone)."""
        chunk = self._chunk_of.get(text, (text,))
        offload = self.spec.offload_text
        if chunk not in self._embedded:
            if offload:
                self._move_text_encoders(self.device)
            self._embedded[chunk] = self._encode(chunk)
            if offload:
                self._move_text_encoders("cpu")
            else:
                self._forget_texts()
        self._embedded.move_to_end(chunk)
        place = chunk.index(text)
        held = self._embedded[chunk]
        return {name: tensor[place].to(self.device, non_blocking=True) for name, tensor in held.items()}

    def _forget_texts(self) -> None:
        """Down to `CACHED_TEXT_BYTES`, the longest unused first, but never the one that was just encoded."""
        sizes = [sum(tensor.nbytes for tensor in chunk.values()) for chunk in self._embedded.values()]
        total = sum(sizes)
        for size in sizes[:-1]:
            if total <= CACHED_TEXT_BYTES:
                return
            self._embedded.popitem(last=False)
            total -= size

    def _move_text_encoders(self, where: torch.device | str) -> None:
        for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
            encoder = getattr(self._pipeline, name, None)
            if encoder is not None:
                encoder.to(where)

    def _encode(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """One call of the pipeline's own text encoders."""
        import torch

        with torch.inference_mode():
            return encode_texts(self._pipeline, self.family, texts, self.device, self.spec.text_tokens)

    def _decode(self, latents_NCHW: torch.Tensor, alive: Callable[[float], None]) -> torch.Tensor:
        """Images around [-1, 1], NCHW, not yet clipped."""
        import torch

        vae = self._pipeline.vae
        scaled = for_decoder(latents_NCHW, vae.config, self.family)
        parts = scaled.split(self.spec.vae_batch)
        if self.spec.compile != "none" and len(parts[-1]) < len(parts[0]):  # one shape, one graph
            missing = len(parts[0]) - len(parts[-1])
            parts = (*parts[:-1], torch.cat([parts[-1], parts[-1][-1:].expand(missing, -1, -1, -1)]))
        dtype = next(vae.parameters()).dtype  # `vae.dtype` walks through all modules
        decoded = []
        for part in parts:
            alive(1.0)
            decoded.append(vae.decode(part.to(dtype), return_dict=False)[0])
        image_NCHW = torch.cat(decoded)[: len(scaled)]
        if self._vae_fp32 is not None:
            bad = torch.nonzero(~_finite(image_NCHW)).flatten()
            if len(bad):
                image_NCHW = image_NCHW.float()
                for part in bad.split(self.spec.vae_batch):
                    image_NCHW[part] = self._vae_fp32.decode(scaled[part].float(), return_dict=False)[0]
        return image_NCHW

    def _flag(self, image_NCHW: torch.Tensor) -> torch.Tensor:
        """What the safety checker that came with the model says, if there is one."""
        import torch

        checker = getattr(self._pipeline, "safety_checker", None)
        if checker is None:
            return torch.zeros(len(image_NCHW), dtype=torch.bool, device=image_NCHW.device)
        return flag_images(checker, self._pipeline.feature_extractor, image_NCHW)

    def _to_uint8(self, image_NCHW: torch.Tensor) -> torch.Tensor:
        """Stored size, NHWC, rounded on the device: a quarter of the bytes to copy."""
        import torch
        from torch.nn.functional import interpolate

        side, device = self.spec.stored_px, image_NCHW.device
        stored_NHWC = torch.empty(len(image_NCHW), side, side, 3, dtype=torch.uint8, device=device)
        # On a CPU what is converted at once stays in the cache through all passes (512 px: 1 ms an image; in a batch
        # of 16 at once 12); on a GPU a whole batch takes the fewest launches.
        num = max(1, CACHED_VALUES // image_NCHW[0].numel()) if device.type == "cpu" else len(image_NCHW)
        for part_NCHW, stored in zip(image_NCHW.split(num), stored_NHWC.split(num), strict=True):
            unit = part_NCHW.to(torch.float32, copy=True).div_(2).add_(0.5).nan_to_num_(nan=0.0).clamp_(0, 1)
            if side != unit.shape[-1]:
                if self.spec.resize == "area":
                    unit = interpolate(unit, size=(side, side), mode="area")
                else:
                    unit = interpolate(unit, size=(side, side), mode="bicubic", antialias=True).clamp_(0, 1)
            stored.copy_(unit.mul_(255).round_().permute(0, 2, 3, 1))
        return stored_NHWC

    def _to_host(self, image_NHWC: torch.Tensor, finite_N: torch.Tensor, flagged_N: torch.Tensor) -> Sampled:
        """One copy; on a GPU into pinned memory, in a stream of its own while the next call is already running."""
        import torch

        if self._copying is None:
            return Sampled(image_NHWC.numpy(), finite_N.numpy(), flagged_N.numpy(), wait=lambda timeout_s: None)
        made = (image_NHWC, finite_N, flagged_N)
        pinned = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in made]
        arrived = torch.cuda.Event()
        self._copying.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._copying):
            for host, tensor in zip(pinned, made, strict=True):
                host.copy_(tensor, non_blocking=True)
                tensor.record_stream(self._copying)  # its memory is not given away before the copy has ended
            arrived.record()
        image, finite, flagged = (host.numpy() for host in pinned)
        return Sampled(image, finite, flagged, wait=partial(_await_event, arrived))


def _after_step(
    alive: Callable[[float], None], pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]
) -> dict[str, Any]:
    """What a pipeline calls after each step; it goes on with the tensors that it gets back, here none."""
    alive((step + 1) / max(step + 1, pipeline.num_timesteps))
    return {}


def _finite(image_NCHW: torch.Tensor) -> torch.Tensor:
    """Bool N: no NaN or Inf. By the extremes, which NaN passes through: `isfinite` makes a batch of booleans first and
    takes 15 times as long on a CPU."""
    import torch

    axes = (1, 2, 3)
    return torch.isfinite(image_NCHW.amin(axes)) & torch.isfinite(image_NCHW.amax(axes))


def _await_event(event: torch.cuda.Event, timeout_s: float) -> None:
    """Polls, because an event can only be waited for without end; half a millisecond is nothing to a batch."""
    deadline = time.monotonic() + timeout_s
    while not event.query():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the GPU has not finished a batch in {timeout_s:.0f} s; look at it with `nvidia-smi`")
        time.sleep(0.0005)


def _stack(rows: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    import torch

    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _vae_dtype(pipeline: Any, spec: SamplerSpec, family: str) -> torch.dtype:
    """Of the decoder. SDXL's own one overflows in fp16, and says so."""
    import torch

    if spec.vae_dtype is not None:
        chosen: torch.dtype = getattr(torch, TORCH_TYPES[spec.vae_dtype])
        return chosen
    if family == "sdxl" and spec.dtype == "fp16" and pipeline.vae.config.force_upcast:
        return torch.float32
    own: torch.dtype = next(pipeline.vae.parameters()).dtype
    return own


def _tune(pipeline: Any, spec: SamplerSpec, family: str, device: torch.device) -> None:
    """Types, memory format, attention kernels and compilation of the loaded pipeline."""
    import torch

    denoiser = pipeline.unet if family in ("sd", "sdxl") else pipeline.transformer
    pipeline.vae.to(_vae_dtype(pipeline, spec, family))
    if device.type == "cuda":
        pipeline.vae.to(memory_format=torch.channels_last)
        if family in ("sd", "sdxl"):
            denoiser.to(memory_format=torch.channels_last)
    if spec.fuse_qkv:
        denoiser.fuse_qkv_projections()
    if spec.quantise is not None:
        quantise_linears(denoiser, spec.quantise)
    if spec.attention == "xformers":
        if family == "flux":
            denoiser.set_attention_backend("xformers")
        else:
            denoiser.enable_xformers_memory_efficient_attention()
    if spec.compile in ("regional", "full"):
        compile_networks(pipeline, family, spec.compile)
    else:
        activate_in_place(denoiser)
        activate_in_place(pipeline.vae.decoder)


def _compile_key(spec: SamplerSpec, family: str, device: torch.device) -> str:
    """Names what a process compiles: equal keys find each other's kernels."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return fingerprint([sampler_json(spec), spec.model, spec.revision, family, name, torch.__version__])[:32]
