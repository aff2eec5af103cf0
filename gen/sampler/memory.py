"""How much memory a worker needs, before it loads anything: an estimate, and called one.

In: a sampler's spec and its checked model folder. Out: a `Need`; what this machine has. On disk, read only: configs,
and the headers of safetensors, which say how many numbers there are. Does not import torch.

Weights are counted: every parameter, in the type that the spec gives it. What a call holds besides is a rule of thumb,
in tensors of the widest layer for each image: UNET_TENSORS of a U-Net's first stage, TRANSFORMER_TENSORS of a
transformer's tokens, DECODER_TENSORS of the decoder's full picture. The denoiser and the decoder work one after the
other, so the larger of the two counts. Libraries and the driver's own share come on top (LIBRARIES_BYTES).
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from cluster.process.machine import memory_bytes
from gen.model.folder import ModelError, ModelFolder, read_config
from gen.sampler.device import has_gpu_files
from gen.sampler.spec import SamplerSpec, is_guided, with_size
from shards.disk.amounts import counted, size_text

UNET_TENSORS = 40
TRANSFORMER_TENSORS = 16
DECODER_TENSORS = 4
LIBRARIES_BYTES = 1_000_000_000
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
TEXT_TOKENS = 512  # of the longest text that a transformer reads beside its picture
NVIDIA_SMI_S = 20


@dataclass(frozen=True)
class Need:
    """Bytes of one worker."""

    weights: int
    text_weights: int  # of them, those of text encoders
    call: int  # what a call of the denoiser or the decoder holds at most, by the rule of thumb
    dtype: str  # fp32, fp16 or bf16
    batch: int
    beside: int = 0  # weights of other models that lie there too: those of an editor

    @property
    def all(self) -> int:
        """Of weights, a call and the libraries."""
        return self.weights + self.beside + self.call + LIBRARIES_BYTES

    def sentence(self) -> str:
        """``"about 9.5 GB a worker: 2.1 GB of weights as bf16, 6.4 GB for a call of 32 images and 1.0 GB for libraries
        (an estimate)"``."""
        beside = f"{size_text(self.beside)} of those of the editor, " if self.beside else ""
        return (
            f"about {size_text(self.all)} a worker: {size_text(self.weights)} of weights as {self.dtype}, {beside}"
            f"{size_text(self.call)} for a call of {counted(self.batch, 'image')} and {size_text(LIBRARIES_BYTES)} for "
            "libraries (an estimate)"
        )


@dataclass(frozen=True)
class Beside:
    """Other models that a worker holds, in the sampler's type: those of an editor."""

    numbers: int = 0  # parameters
    most_bytes: int | None = None  # of all weights on a GPU, the sampler's included; None: they all stay there


NOTHING = Beside()


@dataclass(frozen=True)
class Room:
    """Bytes that one worker can have here."""

    bytes: int
    where: str  # in words: "a GPU here", "each of 2 workers on this machine"
    is_gpu: bool
    workers: int = 1  # that share this machine's memory


def need_of(spec: SamplerSpec, folder: ModelFolder, on_gpu: bool) -> Need:
    """What a worker needs. ``dtype: auto`` is what it would be on that kind of device, ``batch: auto`` 1: the batch is
    then measured. Raises ModelError if the model does not say its size."""
    spec = with_size(spec.decided(on_gpu), folder)
    batch = 1 if spec.batch == "auto" else spec.batch
    value = BYTES[spec.dtype]
    numbers = {name: num_numbers(weight_files(folder.path / name, spec.variant)) for name in folder.components}
    text = sum(number for name, number in numbers.items() if name.startswith("text_encoder"))
    decoder = spec.vae_dtype or spec.dtype
    passes = 2 if is_guided(spec, folder) else 1
    call = max(
        batch * passes * value * _denoiser_values(spec, folder),
        min(batch, spec.vae_batch) * BYTES[decoder] * _decoder_values(spec, folder),
    )
    return Need(sum(numbers.values()) * value, text * value, call, spec.dtype, batch)


def _denoiser_values(spec: SamplerSpec, folder: ModelFolder) -> int:
    """Numbers that one pass holds for one image, by the rule of thumb."""
    is_unet = folder.family in ("sd", "sdxl")
    config = read_config(folder.path / ("unet" if is_unet else "transformer") / "config.json")
    side = spec.made_px // _shrinks(folder)
    if is_unet:
        return UNET_TENSORS * side**2 * _first(config.get("block_out_channels"), 0)
    width = _whole(config.get("num_attention_heads")) * _whole(config.get("attention_head_dim"))
    return TRANSFORMER_TENSORS * ((side // 2) ** 2 + TEXT_TOKENS) * width


def _decoder_values(spec: SamplerSpec, folder: ModelFolder) -> int:
    channels = read_config(folder.path / "vae" / "config.json").get("block_out_channels")
    return DECODER_TENSORS * spec.made_px**2 * _first(channels, 1)


def _shrinks(folder: ModelFolder) -> int:
    """How many pixels a side of the picture has for each of its latents."""
    channels = read_config(folder.path / "vae" / "config.json").get("block_out_channels")
    return 2 ** (len(channels) - 1) if isinstance(channels, list) and channels else 8


def _first(channels: object, place: int) -> int:
    """The channels of a stage, or of the last one there is."""
    return _whole(channels[min(place, len(channels) - 1)]) if isinstance(channels, list) and channels else 0


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def weight_files(component: Path, variant: str | None) -> list[Path]:
    """The files of a component's weights that would be loaded."""
    files = sorted(component.glob("*.safetensors"))
    tagged = [path for path in files if f".{variant}" in path.name] if variant else []
    plain = [path for path in files if not any(f".{tag}" in path.name for tag in ("fp16", "bf16"))]
    return tagged or plain or files


def num_numbers(files: Iterable[Path]) -> int:
    """Parameters in files of weights."""
    total = 0
    for path in files:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118  no mapping
                total += math.prod(file.get_slice(name).get_shape())
    return total


def room_here(on_gpu: bool, workers: int, gpu_share: float) -> Room | None:
    """What one of ``workers`` on this machine can have; None if nobody can tell."""
    if not on_gpu:
        shared = "this machine" if workers == 1 else f"each of {counted(workers, 'worker')} on this machine"
        return Room(memory_bytes() // workers, shared, is_gpu=False, workers=workers)
    there = _gpu_bytes()
    share = "" if gpu_share >= 1 else f"{gpu_share:g} of "
    return None if there is None else Room(int(there * min(1.0, gpu_share)), f"{share}a GPU here", is_gpu=True)


def _gpu_bytes() -> int | None:
    """Memory of the smallest GPU here; None where there is none, or where the driver does not answer."""
    if not has_gpu_files():
        return None
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=NVIDIA_SMI_S, check=True).stdout
        return min(int(line) << 20 for line in said.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def advice_on(need: Need, room: Room) -> str:
    """What to change so that ``need`` fits into ``room``; "" if it fits."""
    if need.all <= room.bytes:
        return ""
    ways = []
    if need.dtype == "fp32" and room.is_gpu:
        ways.append("set sampler.dtype=bf16")
    if need.call > LIBRARIES_BYTES // 10:
        ways.append("lower sampler.batch or sampler.vae_batch")
    if room.is_gpu and need.text_weights > need.weights // 10:
        ways.append("set sampler.offload_text=true")
    if room.is_gpu and need.beside:
        ways.append("set or lower edit.editor.device_gib")
    if room.workers > 1:
        ways.append("lower cluster.workers")
    return ", ".join(ways) or "use a smaller model, or a machine with more memory"


def refuse_too_large(need: Need, room: Room, model: str) -> None:
    """Raises ModelError if the weights alone, which are counted and not guessed, have no room."""
    kept = need.weights + need.beside - (need.text_weights if room.is_gpu else 0)  # text encoders can leave a GPU
    if kept > room.bytes:
        all_weights, beside = size_text(need.weights + need.beside), " and its editor" if need.beside else ""
        raise ModelError(
            f"model {model}{beside}: found {all_weights} of weights as {need.dtype}, expected at most "
            f"{size_text(room.bytes)}, the memory of {room.where}; {advice_on(need, room)}"
        )
