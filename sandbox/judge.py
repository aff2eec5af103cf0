"""The judge: a plain CNN that says which numeral a picture shows, or that it shows none.

In: pictures and their labels, of the pool and of the scans for training and validation, so that it has met the hands
of real-test. Out: an answer for each picture. On disk: `models/judge.safetensors`, float16. It is trained without test
scans, generated images and captions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sandbox.autoencoder import to_tensor
from sandbox.descent import Descent, one_cycle

NO_NUMERAL = 10


@dataclass(frozen=True, kw_only=True)
class JudgeSpec:
    """How the judge is trained."""

    num_steps: int = 2000
    batch: int = 64
    peak_lr: float = 3e-3
    shift_px: int = 4
    noise: float = 0.08  # of the range -1..1
    seed: int = 4


def new_judge() -> nn.Sequential:
    """An untrained judge: 0.2 M parameters, 11 answers."""

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *block(3, 16, 2),
        *block(16, 32, 2),
        *block(32, 64, 1),
        *block(64, 96, 2),
        *block(96, 96, 2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(96 * 16, 11),
    )


def train_judge(
    images: NDArray[np.uint8], labels: NDArray[np.int64], spec: JudgeSpec, report: Callable[[int, float], None]
) -> nn.Sequential:
    """Train on pictures N H W C with labels 0..10 (10: no numeral), shifted, noised and with channels permuted."""
    torch.manual_seed(spec.seed)
    rng = np.random.default_rng(spec.seed)
    model = new_judge()
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.peak_lr, weight_decay=0.05)
    descent = Descent(optimizer, lambda step: spec.peak_lr * one_cycle(step, spec.num_steps), report, clip=None)
    for _ in range(spec.num_steps):
        rows = rng.integers(len(images), size=spec.batch)
        dx, dy = rng.integers(0, 2 * spec.shift_px + 1, 2)
        pixels = nn.functional.pad(to_tensor(images[rows]), (spec.shift_px,) * 4, mode="replicate")
        pixels = pixels[:, torch.from_numpy(rng.permutation(3)), dy : dy + 64, dx : dx + 64]
        pixels = pixels + spec.noise * torch.randn(pixels.shape)
        descent.step(nn.functional.cross_entropy(model(pixels), torch.from_numpy(labels[rows]), label_smoothing=0.05))
    return model.eval()


def save_judge(model: nn.Sequential, path: Path) -> None:
    """Save the weights in float16."""
    half = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()
    }
    save_file(half, path)


def load_judge(path: Path) -> nn.Sequential:
    """The judge in float32, ready to use."""
    model = new_judge()
    state: dict[str, Tensor] = load_file(path)
    model.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in state.items()})
    return model.eval()


@torch.no_grad()
def judge(model: nn.Sequential, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The numeral in each picture N H W C, or NO_NUMERAL."""
    parts = [model(to_tensor(images[i : i + 128])).argmax(-1).numpy() for i in range(0, len(images), 128)]
    return np.concatenate(parts)
