"""Random-weight models that edit, in their true on-disk format: inpainting pipelines, a ControlNet with an IP-Adapter,
an instruction editor. Some hundred kilobytes each.

In: a folder. On disk: what `save_pretrained` of diffusers and transformers writes; an IP-Adapter in the hub's own
layout and names. Out: the folder.
"""

import re
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from tests.support.tiny_pipelines import WIDTH, tiny_pipeline

BASES = {"inpaint-sd": "sd", "inpaint-sdxl": "sdxl", "fill": "flux", "kontext": "flux"}
CLASSES = {
    "inpaint-sd": "StableDiffusionInpaintPipeline",
    "inpaint-sdxl": "StableDiffusionXLInpaintPipeline",
    "fill": "FluxFillPipeline",
    "kontext": "FluxKontextPipeline",
}
IP_WEIGHTS, IMAGE_ENCODER = "sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors", "models/image_encoder"


def tiny_editor(name: str, folder: Path) -> Path:
    """One of `CLASSES`, from a tiny text-to-image pipeline with as many input channels as its denoiser has."""
    base = tiny_pipeline(BASES[name], folder.with_name(f"{folder.name}-base"))
    parts = dict(_loaded(base).components)
    torch.manual_seed(1)
    if name.startswith("inpaint"):  # latents, mask, latents of what is kept
        parts["unet"] = diffusers.UNet2DConditionModel.from_config({**parts["unet"].config, "in_channels": 9})
        settings = {"requires_safety_checker": False} if name == "inpaint-sd" else {}
        pipeline = getattr(diffusers, CLASSES[name])(**parts, **settings)
    else:
        if name == "fill":  # latents, latents of what is kept, mask
            config = {**parts["transformer"].config, "in_channels": 64 + 64 + 256, "out_channels": 64}
            parts["transformer"] = diffusers.FluxTransformer2DModel.from_config(config)
        wanted = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "transformer", "scheduler")
        pipeline = getattr(diffusers, CLASSES[name])(**{part: parts[part] for part in wanted})
    pipeline.save_pretrained(folder, safe_serialization=True)
    _keep_tokenizers(base, folder)
    return folder


def tiny_controlnet(base: Path, folder: Path) -> Path:
    """For the U-Net of a tiny pipeline. Its last layers are not zero, so that edges matter."""
    unet = _loaded(base).unet
    torch.manual_seed(2)
    control = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 16, 16))
    for block in (*control.controlnet_down_blocks, control.controlnet_mid_block):
        torch.nn.init.normal_(block.weight, std=0.5)
    control.save_pretrained(folder, safe_serialization=True)
    return folder


def tiny_ip_adapter(base: Path, folder: Path) -> Path:
    """An IP-Adapter-plus with its encoder, laid out as on the hub."""
    unet = _loaded(base).unet
    torch.manual_seed(3)
    cross = unet.config.cross_attention_dim
    projection = IPAdapterPlusImageProjection(WIDTH, cross, hidden_dims=64, heads=1, num_queries=4)
    weights = {f"image_proj.{name}": value for name, value in _hub_names(projection.state_dict()).items()}
    readers = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for name in unet.attn_processors:
        place = 1 + 2 * readers.index(name) if name in readers else None
        if place is None:
            continue
        attention = unet.get_submodule(name.removesuffix(".processor"))
        for part in ("k", "v"):
            shape = getattr(attention, f"to_{part}").weight.shape
            weights[f"ip_adapter.{place}.to_{part}_ip.weight"] = torch.randn(shape) * 0.2
    (folder / IP_WEIGHTS).parent.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / IP_WEIGHTS)
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        projection_dim=WIDTH,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(folder / IMAGE_ENCODER, safe_serialization=True)
    return folder


def _loaded(folder: Path) -> Any:
    return diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)


def _keep_tokenizers(base: Path, folder: Path) -> None:
    """As the hub has CLIP's: from_pretrained reads and writes another form."""
    for tokenizer in base.glob("tokenizer*"):
        for path in (folder / tokenizer.name).iterdir():
            path.unlink()
        for path in tokenizer.iterdir():
            (folder / tokenizer.name / path.name).write_bytes(path.read_bytes())


def _hub_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A resampler's weights by the names of the file on the hub."""
    named: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if name.endswith("attn.to_v.weight"):
            continue
        if name.endswith("attn.to_k.weight"):
            value = torch.cat([value, state[name.replace("to_k", "to_v")]])
            name = name.replace("to_k", "to_kv")
        name = re.sub(r"^layers\.(\d)\.attn\.(to_\w+)\.", r"layers.\1.0.\2.", name).replace("to_out.0", "to_out")
        name = re.sub(r"^layers\.(\d)\.ln0\.", r"layers.\1.0.norm1.", name)
        name = re.sub(r"^layers\.(\d)\.ln1\.", r"layers.\1.0.norm2.", name)
        for theirs, ours in (("1.0", "ff.0"), ("1.1", "ff.1.net.0.proj"), ("1.3", "ff.1.net.2")):
            name = re.sub(rf"^layers\.(\d)\.{re.escape(ours)}\.", rf"layers.\1.{theirs}.", name)
        named[name] = value
    return named
