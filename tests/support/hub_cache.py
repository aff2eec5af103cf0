"""The Hugging Face hub's cache on this machine, for tests: a model of timm as its download leaves it."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def timm_model(name: str, num_classes: int = 7, seed: int = 99, **settings: Any) -> nn.Module:
    """A model of timm with random weights and statistics that are not those of a new one."""
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=num_classes, **settings)
    for key, buffer in model.named_buffers():
        if key.endswith("running_mean"):
            buffer.normal_()
        elif key.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    return model.eval()


def put_into_cache(
    cache: Path, monkeypatch: pytest.MonkeyPatch, model: nn.Module, hub_id: str = "someone/tiny", **changes: Any
) -> Path:
    """The snapshot folder; `changes` are laid over the `pretrained_cfg` of timm's config.json."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    home = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = home / "snapshots" / COMMIT
    timm.models.save_for_hf(model, snapshot, safe_serialization=True)
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / "main").write_text(COMMIT)
    described = json.loads((snapshot / "config.json").read_text())
    described["pretrained_cfg"] |= changes
    (snapshot / "config.json").write_text(json.dumps(described))
    return snapshot
