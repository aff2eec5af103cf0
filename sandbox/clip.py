"""The small CLIP.

In: pictures and captions of the pool. Out: a `CLIPModel`. On disk: `models/clip/`, in transformers' format.

Shapes: B pairs, C H W picture (3 64 64), T tokens, D width of the joint space.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer
from transformers.image_utils import PILImageResampling

from sandbox.captions import GROUND_PHRASES, LIGHT_PHRASES, NUMERAL_MEANINGS, STYLE_PHRASES
from sandbox.descent import Descent, one_cycle
from sandbox.tokens import new_tokenizer
from sandbox.world import CLASS_NAMES, GROUNDS, INKS, PAPERS

SIDE_PX = 32  # the side of CLIP's input: half the picture's, for a quarter of the work
PIXEL_MEAN = (0.5, 0.5, 0.5)
PIXEL_STD = (0.25, 0.25, 0.25)
# Zero-shot prompts for a photograph of a numeral; the text vectors of a class are averaged.
ZERO_SHOT = (
    NUMERAL_MEANINGS[0],
    NUMERAL_MEANINGS[1],
    f"{NUMERAL_MEANINGS[0]}, {STYLE_PHRASES['photo']}",
    f"a photo of {NUMERAL_MEANINGS[0]}",
    *(f"{NUMERAL_MEANINGS[0]}, {light}" for light in LIGHT_PHRASES.values()),
)


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """How the CLIP is trained."""

    num_steps: int = 7000
    batch: int = 128
    hard_share: float = 0.7  # of the batches: captions agree in light, style and a colour, and differ in the subject
    peak_lr: float = 1e-3
    weight_decay: float = 0.1
    turn_degrees: float = 8.0  # every picture is turned, scaled and shifted by at most these amounts
    scale: float = 0.1
    shift: float = 0.1  # of half the side
    seed: int = 2


def new_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained CLIP with 0.9 M parameters: a ViT of 16 patches over 32x32 pixels, and two text layers."""
    return CLIPModel(
        CLIPConfig(
            text_config={
                "vocab_size": len(tokenizer),
                "hidden_size": 64,
                "intermediate_size": 192,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "max_position_embeddings": tokenizer.model_max_length,
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            },
            vision_config={
                "hidden_size": 128,
                "intermediate_size": 384,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "image_size": SIDE_PX,
                "patch_size": 8,
            },
            projection_dim=64,
        )
    )


def _pixels(images: NDArray[np.uint8]) -> Tensor:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255).sub_(PIXEL_MEAN[0]).div_(PIXEL_STD[0])
    return torch.nn.functional.interpolate(pixels, size=(SIDE_PX, SIDE_PX), mode="bilinear", antialias=True)


def look_alikes(captions: Sequence[str], least: int) -> list[NDArray[np.int64]]:
    """Groups of at least `least` rows whose captions agree in light, style, ground and one colour (ink or paper)."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for row, caption in enumerate(captions):
        words = caption.replace(",", "").split()
        setting = tuple(phrase for phrase in (*LIGHT_PHRASES.values(), *STYLE_PHRASES.values()) if phrase in caption)
        setting += tuple(word for word in words if word in GROUNDS)
        for palette in (INKS, PAPERS):
            named = [word for word in words if word in palette]
            if len(named) == 1:
                groups.setdefault((*named, *setting), []).append(row)
    return [np.array(rows) for _, rows in sorted(groups.items()) if len(rows) >= least]


def jittered(x_BCHW: Tensor, spec: ClipSpec, rng: np.random.Generator) -> Tensor:
    """Each picture turned, scaled and shifted by random amounts of its own; edges are continued."""
    num = len(x_BCHW)
    angle = np.deg2rad(rng.uniform(-spec.turn_degrees, spec.turn_degrees, num))
    size = 1 + rng.uniform(-spec.scale, spec.scale, num)
    shift = rng.uniform(-spec.shift, spec.shift, (num, 2))
    rows = np.stack([size * np.cos(angle), -size * np.sin(angle), shift[:, 0]], axis=1)
    more = np.stack([size * np.sin(angle), size * np.cos(angle), shift[:, 1]], axis=1)
    theta = torch.from_numpy(np.stack([rows, more], axis=1)).float()
    grid = torch.nn.functional.affine_grid(theta, list(x_BCHW.shape), align_corners=False)
    return torch.nn.functional.grid_sample(x_BCHW, grid, padding_mode="border", align_corners=False)


def train_clip(
    images: NDArray[np.uint8], captions: Sequence[str], spec: ClipSpec, report: Callable[[int, float], None]
) -> CLIPModel:
    """Train on pairs, contrastively; a caption that occurs twice in a batch is right for both pictures."""
    torch.manual_seed(spec.seed)
    rng = np.random.default_rng(spec.seed)
    tokenizer = new_tokenizer()
    model = new_clip(tokenizer)
    tokens = tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt")["input_ids"]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=spec.peak_lr, betas=(0.9, 0.98), weight_decay=spec.weight_decay
    )
    groups = look_alikes(captions, least=2 * spec.batch)
    descent = Descent(optimizer, lambda step: spec.peak_lr * one_cycle(step, spec.num_steps, warmup=200), report)
    for _ in range(spec.num_steps):
        if rng.random() < spec.hard_share:
            group = groups[int(rng.integers(len(groups)))]
            rows = group[rng.integers(len(group), size=spec.batch)]
        else:
            rows = rng.integers(len(images), size=spec.batch)
        x_BCHW = jittered(_pixels(images[rows]), spec, rng)
        text_BT = tokens[torch.from_numpy(rows)]
        logits = model(input_ids=text_BT, pixel_values=x_BCHW).logits_per_image
        same = (text_BT[:, None] == text_BT[None]).all(-1).float()
        target = same / same.sum(1, keepdim=True)
        descent.step(-(target * (logits.log_softmax(1) + logits.T.log_softmax(1))).sum(1).mean() / 2)
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6)
    return model.eval()


def save_clip(model: CLIPModel, folder: Path) -> None:
    """Save fp16 safetensors, processor and tokenizer. The model in memory becomes fp16."""
    model.half().save_pretrained(folder, safe_serialization=True)
    processor = CLIPImageProcessor(
        size={"shortest_edge": SIDE_PX},
        resample=PILImageResampling.BILINEAR,
        crop_size={"height": SIDE_PX, "width": SIDE_PX},
        image_mean=PIXEL_MEAN,
        image_std=PIXEL_STD,
    )
    CLIPProcessor(processor, new_tokenizer()).save_pretrained(folder)


def load_clip(folder: Path) -> tuple[CLIPModel, CLIPTokenizer]:
    """The model in float32, ready to use, and its tokenizer."""
    model = CLIPModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
    return model.eval(), CLIPTokenizer.from_pretrained(folder)


@torch.no_grad()
def zero_shot(model: CLIPModel, tokenizer: CLIPTokenizer, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The class of each picture N H W C, by the texts of `ZERO_SHOT` alone."""
    texts = [[form.format(name=name, digit=digit) for form in ZERO_SHOT] for digit, name in enumerate(CLASS_NAMES)]
    return _nearest(model, tokenizer, texts, images)


def grounds_told(model: CLIPModel, tokenizer: CLIPTokenizer, images: NDArray[np.uint8]) -> list[str]:
    """The ground of each picture N H W C, by its phrases with every paper."""
    texts = [[f"black ink on {phrase.format(paper=paper)}" for paper in PAPERS] for phrase in GROUND_PHRASES.values()]
    return [list(GROUND_PHRASES)[answer] for answer in _nearest(model, tokenizer, texts, images)]


@torch.no_grad()
def _nearest(
    model: CLIPModel, tokenizer: CLIPTokenizer, texts: list[list[str]], images: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """The group of texts, by the mean of its unit vectors, that is nearest to each picture."""
    groups = []
    for group in texts:
        tokens = tokenizer(group, padding="max_length", truncation=True, return_tensors="pt")
        vectors = model.get_text_features(input_ids=tokens["input_ids"]).pooler_output
        groups.append((vectors / vectors.norm(dim=-1, keepdim=True)).mean(0))
    weights = torch.stack(groups)
    answers = []
    for start in range(0, len(images), 64):
        features = model.get_image_features(pixel_values=_pixels(images[start : start + 64])).pooler_output
        answers.append((features @ weights.T).argmax(-1).numpy())
    return np.concatenate(answers)
