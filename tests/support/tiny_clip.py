"""Tiny CLIPs with random weights, shaped as ViT-B/16 is, in the folder formats of transformers and open_clip."""

import json
import shutil
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

from shards.disk.home import home

SANDBOX = home() / "sandbox" / "models" / "clip"
SIZE_PX, WIDTH = 32, 16
MEAN, STD = [0.4, 0.5, 0.6], [0.3, 0.2, 0.25]
OPEN_CLIP = {
    "embed_dim": WIDTH,
    "vision_cfg": {"image_size": SIZE_PX, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


def tiny_transformers(folder: Path, seed: int = 0) -> Path:
    """Two blocks a tower, with the sandbox's tokenizer."""
    text = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"vocab_size": 830, "max_position_embeddings": 32, "bos_token_id": 828, "eos_token_id": 829}
    sizes = {"image_size": SIZE_PX, "patch_size": 16}
    torch.manual_seed(seed)
    config = CLIPConfig(
        text_config={**text, **tokens, "pad_token_id": 829}, vision_config={**vision, **sizes}, projection_dim=WIDTH
    )
    CLIPModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SANDBOX / name, folder / name)
    told = json.loads((SANDBOX / "processor_config.json").read_text())
    told["image_processor"] |= {"image_mean": MEAN, "image_std": STD, "resample": 3}
    (folder / "processor_config.json").write_text(json.dumps(told))
    return folder


def tiny_open_clip(folder: Path, seed: int = 0) -> Path:
    """Likewise; its tokenizer is open_clip's own."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    save_file(open_clip.CLIP(**OPEN_CLIP).state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    config = {"model_cfg": OPEN_CLIP, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder
