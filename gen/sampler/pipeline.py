"""Loads a checked model folder as a pipeline, with the scheduler of the recipe.

In: a `ModelFolder`, and the sampler's spec with ``dtype`` decided. Out: a diffusers pipeline on the CPU. On disk:
nothing is written; weights are read from the folder only, never from the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen.model.folder import ModelError, ModelFolder
from gen.model.style_token import open_style_token
from gen.sampler.shortcuts import set_decoder
from gen.sampler.spec import SCHEDULERS, SamplerSpec
from gen.sampler.style import load_style_token

if TYPE_CHECKING:
    import torch

TORCH_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def load_pipeline(folder: ModelFolder, spec: SamplerSpec, decoder: Path | None) -> Any:
    """The pipeline on the CPU, its own decoder replaced by the tiny one in ``decoder``, with the words of a style token
    if the spec has one. Raises ModelError."""
    import torch

    dtype = getattr(torch, TORCH_TYPES[spec.dtype])
    pipeline = from_folder(folder, spec.variant, dtype, f"model {spec.model}")
    if decoder is not None:
        set_decoder(pipeline, decoder, dtype)
    if spec.style_token is not None:
        load_style_token(pipeline, open_style_token(spec.style_token), spec.style_rows or "learned")
    return pipeline


def from_folder(
    folder: ModelFolder, variant: str | None, dtype: torch.dtype, what: str, device: torch.device | None = None
) -> Any:
    """The pipeline of a checked folder on the CPU, as it is. `what` names it in messages, `device` is where its calls
    compute (`in_one_place`). Raises ModelError."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):  # a worker's log is for events, not for bars
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    try:
        pipeline = in_one_place(getattr(diffusers, folder.class_name), device).from_pretrained(
            str(folder.path),
            dtype=dtype,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError) as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{what}: diffusers could not load it ({cause}); download it again") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def in_one_place(kind: type, device: torch.device | None = None) -> Any:
    """`kind` for networks that compute on `device`; None: where the decoder lies.

    diffusers looks for the device of every call by walking through all modules of all networks, some of them several
    times: 3.5 ms for SD1.5, as much as ten steps outside its U-Net.
    """
    place = property(lambda pipeline: device or next(pipeline.vae.parameters()).device)
    return type(kind.__name__, (kind,), {"_execution_device": place, "__module__": kind.__module__})


def set_scheduler(pipeline: Any, spec: SamplerSpec, family: str) -> None:
    """The recipe's scheduler over the model's own settings. Raises ModelError for one with unseeded noise."""
    import diffusers

    own = pipeline.scheduler
    kind, settings, _ = SCHEDULERS[spec.scheduler] if spec.scheduler else (type(own).__name__, {}, ())
    if spec.spacing is not None:
        settings = {**settings, "timestep_spacing": spec.spacing}
    if spec.scheduler is not None or settings:
        pipeline.scheduler = getattr(diffusers, kind).from_config(own.config, **settings)
    if kind in {known for known, _, families in SCHEDULERS.values() if "sd" in families}:
        pipeline.scheduler = _counting_on_host(type(pipeline.scheduler)).from_config(pipeline.scheduler.config)
        pipeline.unet.register_forward_pre_hook(_with_timestep_beside_sample)
    if pipeline.scheduler.config.get("stochastic_sampling"):
        # the pipelines of these families hand no generator to the scheduler: noise from nowhere
        raise ModelError(f"model {spec.model}: its scheduler draws unseeded noise; set sampler.scheduler=flow_euler")


def _counting_on_host(kind: type) -> Any:
    """The scheduler class `kind` with timesteps that stay on the CPU.

    It looks up its constants by them, and the first step's place among them: on a GPU each look waits for all that was
    launched (DDIM and PNDM two or three times a step), and so does moving them there at the start of a call.
    """

    def set_timesteps(scheduler: Any, num_inference_steps: int, device: object = None, *more: object) -> None:
        kind.set_timesteps(scheduler, num_inference_steps, "cpu", *more)  # type: ignore[attr-defined]

    return type(kind.__name__, (kind,), {"set_timesteps": set_timesteps, "__module__": kind.__module__})


def _with_timestep_beside_sample(unet: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A U-Net would fetch a timestep of the CPU itself, and wait for its stream to do so."""
    sample_NCHW, timestep, *rest = args
    if timestep.device != sample_NCHW.device:
        timestep = timestep.pin_memory().to(sample_NCHW.device, non_blocking=True)
    return (sample_NCHW, timestep, *rest)


def draw_noise(
    pipeline: Any, family: str, size_px: int, dtype: torch.dtype, generators: Sequence[torch.Generator]
) -> torch.Tensor:
    """The latents that a call starts from, on the CPU; NCHW, for FLUX in its packed form.

    Equal to what the pipeline draws itself to the last bit. It would first do what waits for the GPU, and draw then.
    """
    from diffusers.utils.torch_utils import randn_tensor

    num, side = len(generators), size_px // pipeline.vae_scale_factor
    denoiser = pipeline.unet if family in ("sd", "sdxl") else pipeline.transformer
    channels = denoiser.config.in_channels // (4 if family == "flux" else 1)
    noise_NCHW = randn_tensor((num, channels, side, side), generator=list(generators), dtype=dtype)
    if family == "flux":
        return pipeline._pack_latents(noise_NCHW, num, channels, side, side)
    return noise_NCHW


def require_xformers(on_gpu: bool) -> None:
    """Raise ModelError if xformers is not installed, does not work here, or there is no GPU for it."""
    from importlib.util import find_spec

    if find_spec("xformers") is None:
        raise ModelError("attention xformers: not installed; `pip install -e .[gpu]`, or set sampler.attention=sdpa")
    if not on_gpu:
        raise ModelError("attention xformers: needs a GPU, found none; set sampler.attention=sdpa")
