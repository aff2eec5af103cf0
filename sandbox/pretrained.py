"""A classifier of faces and shapes, in the role of weights that were trained on ImageNet.

In: pictures of the pool with a face or a shape, and their labels. Out: a `sandbox_resnet` with 16 outputs: the ten
faces with pips, then the six shapes. On disk: `models/pretrained/`, in the format of our exports, float16. It never
sees a numeral, so a training that starts from it has colours, lights, grounds and styles, and has to learn the classes.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from sandbox.descent import Descent, one_cycle
from sandbox.world import CLASS_NAMES, SHAPES, SIZE_PX, Scene

NAMES = (*(f"{name} pips" for name in CLASS_NAMES), *SHAPES)
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


@dataclass(frozen=True, kw_only=True)
class PretrainedSpec:
    """How the classifier is trained."""

    num_steps: int = 2000
    batch: int = 64
    peak_lr: float = 3e-3
    shift_px: int = 4
    seed: int = 5


def label_of(scene: Scene) -> int | None:
    """The output for a scene: 0..9 faces, 10..15 shapes; None for a numeral and an empty page."""
    if scene.sense == "pips":
        return scene.class_id
    return len(CLASS_NAMES) + scene.class_id if scene.sense == "shape" else None


def train_pretrained(
    images: NDArray[np.uint8], labels: NDArray[np.int64], spec: PretrainedSpec, report: Callable[[int, float], None]
) -> nn.Module:
    """Train on pictures N H W C with labels 0..15, shifted; calls `report(step, loss)` every 50 steps."""
    from train.model.sandbox_resnet import sandbox_resnet

    torch.manual_seed(spec.seed)
    rng = np.random.default_rng(spec.seed)
    model = sandbox_resnet(len(NAMES)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.peak_lr, weight_decay=0.05)
    descent = Descent(optimizer, lambda step: spec.peak_lr * one_cycle(step, spec.num_steps), report, clip=None)
    for _ in range(spec.num_steps):
        rows = rng.integers(len(images), size=spec.batch)
        dx, dy = rng.integers(0, 2 * spec.shift_px + 1, 2)
        pixels = nn.functional.pad(normalised(images[rows]), (spec.shift_px,) * 4, mode="replicate")
        logits = model(pixels[:, :, dy : dy + SIZE_PX, dx : dx + SIZE_PX])
        descent.step(nn.functional.cross_entropy(logits, torch.from_numpy(labels[rows]), label_smoothing=0.05))
    return model.eval()


def normalised(images: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 N H W C -> float N C H W with about mean 0 and deviation 1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255).sub_(MEAN[0]).div_(STD[0])


@torch.no_grad()
def accuracy(model: nn.Module, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> float:
    """The share of pictures N H W C that the model in evaluation mode names rightly."""
    parts = [model(normalised(images[i : i + 128])).argmax(-1).numpy() for i in range(0, len(images), 128)]
    return float(np.mean(np.concatenate(parts) == labels))


def save_pretrained(model: nn.Module, folder: Path) -> None:
    """Save weights in float16, and what `model.pretrained` of a recipe has to know of them."""
    folder.mkdir(parents=True, exist_ok=True)
    half = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    save_file(half, folder / "model.safetensors")
    about = {
        "model": "sandbox_resnet",
        "num_classes": len(NAMES),
        "class_names": dict(enumerate(NAMES)),
        "size_px": SIZE_PX,
        "mean": MEAN,
        "std": STD,
    }
    (folder / "model.json").write_text(json.dumps(about, indent=2) + "\n")
