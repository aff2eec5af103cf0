"""The safety checker of a Stable Diffusion model, run on the device of the images.

In: checker and feature extractor of a loaded pipeline; for each call a batch of images. Out: a flag for each image, on
the same device. On disk: nothing.

diffusers itself goes through the CPU, with a PIL picture for each image and a loop over concepts: 6 to 10 ms an image
at 512 px, while the GPU waits. Here the extractor reads the same 8-bit pixels as tensors. On a CPU the scores are the
same to the last bit. On a GPU torchvision resizes in floats before it rounds, which moves a pixel by a few levels of
255.

Shapes: N images, C channels, H height and W width, D width of the projection, K concepts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen.model.folder import ModelError
from shards.disk.safe_text import quoted

if TYPE_CHECKING:
    import torch

SPECIAL_CARE_STEP = 0.01  # by which every concept's score rises once a special-care concept was seen
DECIMALS = 3  # to which diffusers rounds a score before it asks whether it is above 0


def check_extractor(extractor: Any) -> None:
    """Raises ModelError for one that reads PIL pictures only."""
    found = getattr(extractor, "backend", type(extractor).__name__)
    if found != "torchvision":
        raise ModelError(
            f"safety_checker: found a feature extractor for {quoted(found, 80)}, expected one that reads tensors; name "
            "CLIPImageProcessor as feature_extractor in model_index.json"
        )


def flag_images(checker: Any, extractor: Any, image_NCHW: torch.Tensor) -> torch.Tensor:
    """Bool N: the checker objects. Images around [-1, 1], not yet clipped; NaN counts as black.

    Source: StableDiffusionSafetyChecker.forward of diffusers.
    """
    concept_NK, special_NK = concept_scores(checker, extractor, image_NCHW)
    care_N1 = (special_NK > 0).any(dim=1, keepdim=True)
    return ((concept_NK + SPECIAL_CARE_STEP * care_N1).round(decimals=DECIMALS) > 0).any(dim=1)


def concept_scores(checker: Any, extractor: Any, image_NCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine minus threshold of every concept, fp32 NK, and of every special-care concept, that one rounded."""
    import torch
    from torch.nn.functional import normalize

    unit = torch.nan_to_num(image_NCHW.float(), nan=-1.0).div_(2).add_(0.5).clamp_(0, 1)
    pixels_NCHW = extractor(unit.mul_(255).round_().to(torch.uint8), return_tensors="pt")["pixel_values"]
    seen_ND = normalize(checker.visual_projection(checker.vision_model(pixels_NCHW.to(checker.dtype))[1]))
    concept_NK = (seen_ND @ normalize(checker.concept_embeds).T).float() - checker.concept_embeds_weights.float()
    special_NK = (seen_ND @ normalize(checker.special_care_embeds).T).float()
    special_NK = special_NK - checker.special_care_embeds_weights.float()
    return concept_NK, special_NK.round(decimals=DECIMALS)
