"""The segmenter: a small Segformer that says where the ink is.

In: pictures of the pool and where their ink is (`sandbox.world.ink_mask`). Out: a mask for each picture. On disk:
`models/segmenter/` in transformers' own format, with the preprocessing beside the weights, float16. It never sees a
writer of the real sets, and it is told ink from paper and nothing else: not what the ink means.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor
from transformers.utils import logging

from sandbox.autoencoder import to_tensor
from sandbox.descent import Descent, one_cycle
from sandbox.world import SIZE_PX

PAPER, INK = 0, 1  # class ids


@dataclass(frozen=True, kw_only=True)
class SegmenterSpec:
    """How the segmenter is trained."""

    num_steps: int = 2400
    batch: int = 16
    peak_lr: float = 3e-3
    noise: float = 0.02  # of the range -1..1
    seed: int = 6


def new_segmenter() -> SegformerForSemanticSegmentation:
    """An untrained segmenter: 0.2 M parameters; its answer has half the picture's resolution."""
    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 32, 48, 64],
        num_attention_heads=[1, 1, 2, 4],
        patch_sizes=[3, 3, 3, 3],
        strides=[2, 2, 2, 2],
        sr_ratios=[8, 4, 2, 1],
        mlp_ratios=[4, 4, 4, 4],
        decoder_hidden_size=64,
        drop_path_rate=0.0,
        classifier_dropout_prob=0.0,
        id2label={PAPER: "paper", INK: "ink"},
        label2id={"paper": PAPER, "ink": INK},
    )
    return SegformerForSemanticSegmentation(config)


def new_processor() -> SegformerImageProcessor:
    """The preprocessing that it is trained with: 64 px, values in -1..1."""
    return SegformerImageProcessor(
        size={"height": SIZE_PX, "width": SIZE_PX},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        do_reduce_labels=False,
    )


def train_segmenter(
    images: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    often: NDArray[np.int64],
    spec: SegmenterSpec,
    report: Callable[[int, float], None],
) -> SegformerForSemanticSegmentation:
    """Train on pictures N H W C and masks N H W, mirrored, noised and with channels permuted.

    Half of each batch is drawn from the rows `often`, half from all.
    """
    torch.manual_seed(spec.seed)
    rng = np.random.default_rng(spec.seed)
    model = new_segmenter().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.peak_lr, weight_decay=0.01)
    descent = Descent(optimizer, lambda step: spec.peak_lr * one_cycle(step, spec.num_steps), report)
    for _ in range(spec.num_steps):
        rows = rng.integers(len(images), size=spec.batch)
        rows[: spec.batch // 2] = rng.choice(often, size=spec.batch // 2)
        pixels = to_tensor(images[rows])[:, torch.from_numpy(rng.permutation(3))]
        wanted = torch.from_numpy(masks[rows])
        flips = [axis for axis in (1, 2) if rng.random() < 0.5]
        pixels, wanted = pixels.flip([axis + 1 for axis in flips]), wanted.flip(flips)
        pixels = pixels + spec.noise * torch.randn(pixels.shape)
        descent.step(_loss(_logits(model, pixels), wanted))
    return model.eval()


def _logits(model: nn.Module, pixels: Tensor) -> Tensor:
    """How far ink is above paper, N H W at the picture's size; enlarged as transformers' post-processing does."""
    coarse = model(pixel_values=pixels).logits
    fine = nn.functional.interpolate(coarse, size=pixels.shape[-2:], mode="bilinear", align_corners=False)
    return fine[:, INK] - fine[:, PAPER]


def _loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy of pixels, and one minus a soft IoU of pictures, which keeps thin strokes."""
    target = wanted.float()
    shown = logits.sigmoid()
    both = (shown * target).sum((1, 2))
    either = (shown + target - shown * target).sum((1, 2))
    return nn.functional.binary_cross_entropy_with_logits(logits, target) + (1 - (both + 1) / (either + 1)).mean()


def save_segmenter(model: SegformerForSemanticSegmentation, folder: Path) -> None:
    """Save weights in float16, config and preprocessing, as transformers does."""
    model.half().save_pretrained(folder, safe_serialization=True)
    new_processor().save_pretrained(folder)


def load_segmenter(folder: Path) -> SegformerForSemanticSegmentation:
    """The segmenter in float32, ready to use."""
    logging.disable_progress_bar()
    model = SegformerForSemanticSegmentation.from_pretrained(
        folder, use_safetensors=True, dtype=torch.float32, local_files_only=True
    )
    return model.eval()


@torch.no_grad()
def ink_of(model: SegformerForSemanticSegmentation, images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where the ink is in pictures N H W C of 64 px, bool N H W."""
    parts = [(_logits(model, to_tensor(images[i : i + 64])) > 0).numpy() for i in range(0, len(images), 64)]
    return np.concatenate(parts)


def overlaps(found: NDArray[np.bool_], true: NDArray[np.bool_]) -> list[float]:
    """Intersection over union of each pair of masks N H W; 1 where both are empty."""
    both, either = (found & true).sum((1, 2)), (found | true).sum((1, 2))
    return [1.0 if not union else float(shared / union) for shared, union in zip(both, either, strict=True)]
