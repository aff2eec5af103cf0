"""The networks that find objects, each loaded from a checked folder: pictures in, boxes or masks out.

In: a folder from `gen.edit.masks.spec.mask_folders`, and a device. Out: functions of one image, which is all that a
network ever sees at once: a mask cannot depend on its batch. Everything is computed in float32. On disk: only reads.

N boxes or objects; H, W the image's sides. Boxes are left, top, right, bottom in pixels of the image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gen.model.folder import ModelError, read_config
from shards.disk.safe_text import one_line, quoted

if TYPE_CHECKING:
    from torch import Tensor

Image = NDArray[np.uint8]  # H W 3
Masks = NDArray[np.bool_]  # N H W
Boxes = NDArray[np.float32]  # N 4
_Loaded = TypeVar("_Loaded")


@dataclass(frozen=True, eq=False)
class Found:
    """What was found in an image, the best first; `score_N` is between 0 and 1."""

    score_N: NDArray[np.float32]
    box_N4: Boxes


def load_detector(
    folder: Path, device: str, box_threshold: float, text_threshold: float
) -> Callable[[Image, str], Found]:
    """The boxes of what a text names. Grounding DINO or MM-Grounding-DINO. Raises ModelError."""
    import torch
    import transformers

    types = {
        "grounding-dino": transformers.GroundingDinoForObjectDetection,
        "mm-grounding-dino": transformers.MMGroundingDinoForObjectDetection,
    }
    network = types[str(read_config(folder / "config.json")["model_type"])]
    model = _model(folder, network, device)
    processor = _read(folder, lambda: transformers.GroundingDinoProcessor.from_pretrained(folder, **_LOCAL))
    longest = int(model.config.max_text_len)

    def boxes_of(image: Image, text: str) -> Found:
        asked = detector_text(text)
        inputs = processor(
            images=_picture(image), text=asked, truncation=True, max_length=longest, return_tensors="pt"
        ).to(device)
        with torch.inference_mode():
            outputs = model(**inputs)
        _refuse_damage(folder, outputs.pred_boxes)
        [found] = processor.post_process_grounded_object_detection(
            outputs,
            input_ids=inputs["input_ids"],
            threshold=box_threshold,
            text_threshold=text_threshold,
            target_sizes=[image.shape[:2]],
        )
        named = [bool(label) for label in found["text_labels"]]  # no word of the text reaches its threshold: no name
        score_N, box_N4 = found["scores"][named].cpu().numpy(), found["boxes"][named].cpu().numpy()
        order = np.argsort(-score_N, kind="stable")
        return Found(score_N[order].astype(np.float32), box_N4[order].astype(np.float32))

    return boxes_of


def detector_text(text: str) -> str:
    """A text as the detector was trained to read it: lower case, and one full stop, at its end.

    A full stop or question mark inside would make two things of "St. Bernard".
    """
    return " ".join(text.lower().replace(".", " ").replace("?", " ").split()) + "."


def load_sam(folder: Path, device: str) -> Callable[[Image, Boxes], Masks]:
    """The object in each box: SAM 2, one mask a box. Raises ModelError."""
    import torch
    from transformers import Sam2Model, Sam2Processor

    model = _model(folder, Sam2Model, device)
    processor = _read(folder, lambda: Sam2Processor.from_pretrained(folder, **_LOCAL))

    def masks_of(image: Image, box_N4: Boxes) -> Masks:
        inputs = processor(images=_picture(image), input_boxes=[box_N4.tolist()], return_tensors="pt").to(device)
        with torch.inference_mode():
            outputs = model(**inputs, multimask_output=False)
        _refuse_damage(folder, outputs.pred_masks)
        [mask_N1HW] = processor.post_process_masks(outputs.pred_masks, inputs["original_sizes"])
        masks: Masks = mask_N1HW[:, 0].cpu().numpy()
        return masks

    return masks_of


def load_text_segmenter(folder: Path, device: str, score_threshold: float) -> Callable[[Image, str], Masks]:
    """The objects that a text names, the best first: SAM 3. Raises ModelError."""
    import torch
    from transformers import Sam3Model, Sam3Processor

    model = _model(folder, Sam3Model, device)
    processor = _read(folder, lambda: Sam3Processor.from_pretrained(folder, **_LOCAL))

    longest = int(model.config.text_config.max_position_embeddings)

    def masks_of(image: Image, text: str) -> Masks:
        # the processor as a whole does not cut a text that is too long
        tokens = processor.tokenizer(
            text, padding="max_length", max_length=longest, truncation=True, return_tensors="pt"
        ).to(device)
        pixels = processor.image_processor(_picture(image), return_tensors="pt")["pixel_values"].to(device)
        with torch.inference_mode():
            outputs = model(pixel_values=pixels, input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        _refuse_damage(folder, outputs.pred_masks)
        [found] = processor.post_process_instance_segmentation(
            outputs, threshold=score_threshold, target_sizes=[image.shape[:2]]
        )
        order = np.argsort(-found["scores"].cpu().numpy(), kind="stable")
        masks: Masks = found["masks"].cpu().numpy().astype(bool)[order]
        return masks

    return masks_of


def load_segmenter(folder: Path, device: str, object_ids: Sequence[int] | None) -> Callable[[Image], NDArray[np.bool_]]:
    """Where one of the classes `object_ids` is (None: all but 0): any of transformers' semantic segmenters.

    Raises ModelError, also for a class that the model does not have.
    """
    import torch
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES

    kind = read_config(folder / "config.json").get("model_type")
    if kind not in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES:
        raise ModelError(
            f"{folder}: found a model of the type {quoted(kind, 40)}, expected a semantic segmenter: "
            f"{', '.join(sorted(MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES))}"
        )
    model = _model(folder, AutoModelForSemanticSegmentation, device)
    processor = _read(folder, lambda: AutoImageProcessor.from_pretrained(folder, **_LOCAL))
    num_classes = int(model.config.num_labels)
    strange = [number for number in object_ids or () if number >= num_classes]
    if strange or num_classes < 2:
        raise ModelError(
            f"{folder}: found {num_classes} classes, expected {max([*strange, 1]) + 1} or more; choose object_ids below"
            f" {num_classes}"
        )

    def mask_of(image: Image) -> NDArray[np.bool_]:
        inputs = processor(images=_picture(image), return_tensors="pt").to(device)
        with torch.inference_mode():
            outputs = model(**inputs)
        _refuse_damage(folder, outputs.logits)
        [class_HW] = processor.post_process_semantic_segmentation(outputs, target_sizes=[image.shape[:2]])
        ids_HW = class_HW.cpu().numpy()
        return np.asarray(ids_HW != 0 if object_ids is None else np.isin(ids_HW, object_ids))

    return mask_of


_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def _picture(image: Image) -> Any:
    from PIL import Image as pil

    return pil.fromarray(image)


def _model(folder: Path, network: Any, device: str) -> Any:
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    model, told = _read(
        folder,
        lambda: network.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **_LOCAL
        ),
    )
    if told["missing_keys"] or told["mismatched_keys"]:
        lacking = sorted(map(str, [*told["missing_keys"], *told["mismatched_keys"]]))
        raise ModelError(
            f"{folder}: found no weights for {len(lacking)} tensors of {network.__name__} ({lacking[0][:60]}), "
            "expected all; download the model again"
        )
    return model.eval().to(device)


def _read(folder: Path, load: Callable[[], _Loaded]) -> _Loaded:
    try:
        return load()
    except ModelError:
        raise
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ModelError(
            f"{folder}: found a model that transformers cannot load ({one_line(str(error), 160)}); download it again"
        ) from None


def _refuse_damage(folder: Path, answer: "Tensor") -> None:
    if not bool(answer.isfinite().all()):
        raise ModelError(f"{folder}: found an answer that is not finite, expected numbers; its weights are damaged")
