"""A CLIP that was adapted and exported, as a classifier of pictures.

In: what `train.model.clip.find_exported_clip` found. Out: a model that gives logits. On disk, read only: what
`train.task.export_clip` wrote.

Shapes: N pictures, S pixels, C classes, D embedding width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gen.model.clip import OPEN_CLIP, ClipSpec, clip_folder, load_open_clip, load_transformers
from gen.model.folder import read_config
from train.model.clip import CLASSIFIER, CLIP_ABOUT, CLIP_MODEL
from train.model.pretrained import Pretrained, read_weights


class ClipClassifier(nn.Module):
    """Logits N C of pictures N 3 S S: weight times features of length 1, and the bias."""

    def __init__(self, library: str, clip: nn.Module, weight_CD: Tensor, bias_C: Tensor) -> None:
        super().__init__()
        self.library = library
        self.clip: Any = clip
        self.head = nn.Linear(weight_CD.shape[1], len(weight_CD))
        self.head.load_state_dict({"weight": weight_CD, "bias": bias_C})

    def forward(self, pixels_N3SS: Tensor) -> Tensor:
        """N C."""
        if self.library == "open_clip":
            features_ND = self.clip.encode_image(pixels_N3SS)
        else:
            features_ND = self.clip.get_image_features(pixel_values=pixels_N3SS).pooler_output
        return self.head(F.normalize(features_ND, dim=-1))


def load_exported_clip(found: Pretrained) -> nn.Module:
    """The classifier in evaluation mode on the CPU. Raises ValueError for weights that are not there or do not fit."""
    folder = found.file.parent.parent
    library = str(read_config(folder / CLIP_ABOUT)["library"])
    prefix = OPEN_CLIP if library == "open_clip" else ""
    checked = clip_folder(ClipSpec(model=f"{prefix}{folder / CLIP_MODEL}"))
    clip, *_ = (load_open_clip if library == "open_clip" else load_transformers)(checked)
    head = read_weights(Pretrained(folder / CLASSIFIER), "MODEL")
    with torch.no_grad():
        return ClipClassifier(library, clip, head["weight"], head["bias"]).eval()
