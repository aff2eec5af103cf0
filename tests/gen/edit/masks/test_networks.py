"""Networks in transformers' own formats, tiny and random: masks as the library's own, and what is never opened."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    Sam2Model,
    Sam2Processor,
    Sam3Model,
    Sam3Processor,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)

from gen.edit.masks.masker import Masker
from gen.edit.masks.networks import (
    detector_text,
    load_detector,
    load_sam,
    load_segmenter,
    load_text_segmenter,
)
from gen.edit.masks.spec import MaskSpec, mask_digest, mask_folders
from shards.disk.home import home
from tests.support.tiny_finders import (
    as_sam3_video,
    tiny_detector,
    tiny_sam2,
    tiny_sam2_video,
    tiny_sam3,
    tiny_segformer,
    with_pickle,
)

torch.set_num_threads(1)
MAKERS: dict[str, Callable[[Path], Path]] = {
    "detector": tiny_detector,
    "sam": tiny_sam2,
    "text_model": tiny_sam3,
    "segmenter": tiny_segformer,
}
WAY_OF = {"detector": "grounded", "sam": "grounded", "text_model": "text", "segmenter": "segmenter"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("finders")
    return {name: make(place / name) for name, make in MAKERS.items()}


def picture(seed: int = 0, size: tuple[int, int] = (70, 90)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def spec_of(folders: dict[str, Path], *order: str, **fields: object) -> MaskSpec:
    """Limits and thresholds that let anything pass: a random network finds no object."""
    paths = {name: str(folder) for name, folder in folders.items()}
    open_to_all = {"box_threshold": 0, "text_threshold": 0, "score_threshold": 0, "contour": "all", "least_area": 0}
    return MaskSpec(**{"order": order, **open_to_all, "greatest_area": 1, **paths, **fields})


def refused(spec: MaskSpec) -> str:
    with pytest.raises(ValueError) as caught:
        Masker.load(spec, "cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# equal to the libraries


def test_boxes_are_those_of_transformers_the_best_first(folders: dict[str, Path]) -> None:
    found = load_detector(folders["detector"], "cpu", 0.0, 0.0)(picture(), "A dog St. Bernard")
    model = GroundingDinoForObjectDetection.from_pretrained(folders["detector"]).eval()
    processor = GroundingDinoProcessor.from_pretrained(folders["detector"])
    inputs = processor(images=Image.fromarray(picture()), text="a dog st bernard.", return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    [theirs] = processor.post_process_grounded_object_detection(outputs, threshold=0.0, target_sizes=[(70, 90)])
    order = theirs["scores"].argsort(descending=True, stable=True)
    assert len(found.score_N) == 12
    np.testing.assert_allclose(found.score_N, theirs["scores"][order].numpy(), atol=1e-6)
    np.testing.assert_allclose(found.box_N4, theirs["boxes"][order].numpy(), atol=1e-3)


def test_boxes_below_either_threshold_are_left_out(folders: dict[str, Path]) -> None:
    scores = load_detector(folders["detector"], "cpu", 0.0, 0.0)(picture(), "a pug").score_N
    middle = float(scores[5])
    assert len(load_detector(folders["detector"], "cpu", middle, 0.0)(picture(), "a pug").score_N) == 5
    assert len(load_detector(folders["detector"], "cpu", 0.0, 1.0)(picture(), "a pug").score_N) == 0


def test_a_detectors_text_has_one_full_stop() -> None:
    assert detector_text("A dog St. Bernard?") == "a dog st bernard."
    assert detector_text("A  bird  Crane") == "a bird crane."


def test_a_text_longer_than_a_model_reads_is_cut(folders: dict[str, Path]) -> None:
    found = load_detector(folders["detector"], "cpu", 0.0, 0.0)(picture(), "crane " * 500)
    assert len(found.score_N) == 12
    masks = load_text_segmenter(folders["text_model"], "cpu", 0.0)(picture(), "crane " * 500)
    assert masks.shape == (10, 70, 90)


def test_masks_of_boxes_are_those_of_transformers(folders: dict[str, Path]) -> None:
    boxes = np.array([[5, 5, 40, 50], [0, 0, 90, 70], [60, 20, 80, 30]], np.float32)
    masks = load_sam(folders["sam"], "cpu")(picture(), boxes)
    model, processor = Sam2Model.from_pretrained(folders["sam"]).eval(), Sam2Processor.from_pretrained(folders["sam"])
    for box, mask in zip(boxes, masks, strict=True):
        inputs = processor(images=Image.fromarray(picture()), input_boxes=[[box.tolist()]], return_tensors="pt")
        with torch.inference_mode():
            logits = model(**inputs, multimask_output=False).pred_masks
        [theirs] = processor.post_process_masks(logits, [(70, 90)])
        assert (mask == theirs[0, 0].numpy()).mean() > 0.999
    assert 0 < masks.mean() < 1


def test_masks_of_a_text_are_those_of_transformers_the_best_first(folders: dict[str, Path]) -> None:
    masks = load_text_segmenter(folders["text_model"], "cpu", 0.0)(picture(), "crane")
    model = Sam3Model.from_pretrained(folders["text_model"]).eval()
    processor = Sam3Processor.from_pretrained(folders["text_model"])
    inputs = processor(images=Image.fromarray(picture()), text="crane", return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    [theirs] = processor.post_process_instance_segmentation(outputs, threshold=0.0, target_sizes=[(70, 90)])
    order = theirs["scores"].argsort(descending=True, stable=True)
    assert masks.shape == (10, 70, 90)
    assert (masks == theirs["masks"][order].numpy().astype(bool)).mean() > 0.999


def test_a_segmenters_classes_count_as_asked(folders: dict[str, Path]) -> None:
    model = SegformerForSemanticSegmentation.from_pretrained(folders["segmenter"]).eval()
    processor = SegformerImageProcessor.from_pretrained(folders["segmenter"])
    inputs = processor(images=Image.fromarray(picture()), return_tensors="pt")
    with torch.inference_mode():
        [ids] = processor.post_process_semantic_segmentation(model(**inputs), target_sizes=[(70, 90)])
    seen = ids.unique().tolist()
    assert len(seen) > 1
    assert (load_segmenter(folders["segmenter"], "cpu", None)(picture()) == (ids != 0).numpy()).all()
    assert (load_segmenter(folders["segmenter"], "cpu", seen[:1])(picture()) == (ids == seen[0]).numpy()).all()


# through the spec


@pytest.mark.parametrize("way", ["grounded", "text", "segmenter"])
def test_every_way_gives_a_mask_of_the_images_size_whatever_is_beside_it(folders: dict[str, Path], way: str) -> None:
    masker = Masker.load(spec_of(folders, way), "cpu")
    images = [picture(1), picture(2, (33, 120)), picture(3, (64, 64)), picture(4, (5, 3))]
    together = masker.masks(images, ["crane"] * 4, ["bird"] * 4, ["k"] * 4)
    for image, mask in zip(images, together, strict=True):
        assert (mask.how, mask.reason) == (way, "")
        assert mask.mask_HW.shape == image.shape[:2]
        [alone] = masker.masks([image], ["crane"], ["bird"], ["k"])
        assert (alone.mask_HW == mask.mask_HW).all()


def test_the_other_detector_works_alike(folders: dict[str, Path], tmp_path: Path) -> None:
    mm = tiny_detector(tmp_path / "mm", is_mm=True)
    [mask] = Masker.load(spec_of({**folders, "detector": mm}, "grounded"), "cpu").masks(
        [picture()], ["pug"], [""], ["k"]
    )
    assert mask.mask_HW.shape == (70, 90)


def test_the_hubs_sam_2_and_sam_3_are_models_of_videos(folders: dict[str, Path], tmp_path: Path) -> None:
    spec = spec_of({"detector": folders["detector"], "sam": tiny_sam2_video(tmp_path / "two")}, "grounded")
    [mask] = Masker.load(spec, "cpu").masks([picture()], ["pug"], ["dog"], ["k"])
    assert 0 < mask.area < 1
    three = as_sam3_video(folders["text_model"], tmp_path / "three")
    found = load_text_segmenter(mask_folders(spec_of({"text_model": three}, "text"))["text_model"], "cpu", 0.0)
    assert (
        found(picture(), "crane") == load_text_segmenter(folders["text_model"], "cpu", 0.0)(picture(), "crane")
    ).all()


def test_the_sandboxs_segmenter_is_one_of_transformers() -> None:
    from sandbox.segmenter import ink_of, load_segmenter, overlaps
    from sandbox.sets import set_scenes
    from sandbox.world import ink_mask, render

    scenes = set_scenes("real-val")[:40]
    images, true = [render(scene) for scene in scenes], np.stack([ink_mask(scene) for scene in scenes])
    spec = MaskSpec(order=("segmenter",), segmenter="sandbox/models/segmenter", contour="all")
    masks = Masker.load(spec, "cpu").masks(images, [""] * 40, [""] * 40, [""] * 40)
    assert {mask.how for mask in masks} == {"segmenter"}
    found = np.stack([mask.mask_HW for mask in masks])
    theirs = ink_of(load_segmenter(home() / "sandbox" / "models" / "segmenter"), np.stack(images))
    assert (found == theirs).mean() > 0.999
    assert np.mean(overlaps(found, true)) > 0.9


# what is never opened


@pytest.mark.parametrize("field", MAKERS)
def test_a_folder_with_a_pickle_alone_is_refused(folders: dict[str, Path], tmp_path: Path, field: str) -> None:
    pickled = with_pickle(folders[field], tmp_path / "old")
    told = refused(spec_of({**folders, field: pickled}, WAY_OF[field]))
    assert "found only pytorch_model.bin, expected model.safetensors; pickled weights can run code" in told


@pytest.mark.parametrize("field", MAKERS)
def test_another_kind_of_model_is_refused(folders: dict[str, Path], field: str) -> None:
    told = refused(spec_of({**folders, field: home() / "sandbox" / "models" / "clip"}, WAY_OF[field]))
    assert "found a model of the type 'clip', expected " in told


@pytest.mark.parametrize("field", MAKERS)
def test_code_and_what_asks_for_code_is_refused(folders: dict[str, Path], tmp_path: Path, field: str) -> None:
    copy = Path(shutil.copytree(folders[field], tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "x.Y"}}))
    assert "asks for code from the folder or the hub" in refused(spec_of({**folders, field: copy}, WAY_OF[field]))
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "modeling.py").write_text("raise SystemExit")
    assert "found code in the model folder (modeling.py)" in refused(spec_of({**folders, field: copy}, WAY_OF[field]))


def test_a_folder_that_is_not_there_is_refused_with_the_field_for_a_commit(folders: dict[str, Path]) -> None:
    told = refused(spec_of({**folders, "sam": Path("nobody/sam2")}, "grounded"))
    assert told == (
        "edit.masks.sam 'nobody/sam2': found no such folder, expected one with config.json; for a model of the hub "
        "also give its commit, edit.masks.sam_revision=<40 hex digits>"
    )
    told = refused(spec_of({**folders, "sam": Path("nobody/sam2")}, "grounded", sam_revision="0" * 40))
    assert "commit 0000000000000000000000000000000000000000 is not in the hub cache" in told


def test_a_backbone_that_would_be_asked_of_the_hub_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folders["segmenter"], tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "backbone": "someone/swin"}))
    assert "found the backbone 'someone/swin' in config.json" in refused(spec_of({"segmenter": copy}, "segmenter"))


def test_weights_that_lack_a_tensor_are_refused_and_not_drawn_anew(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folders["segmenter"], tmp_path / "copy"))
    weights = load_file(copy / "model.safetensors")
    weights.pop("decode_head.classifier.weight")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    told = refused(spec_of({"segmenter": copy}, "segmenter"))
    assert "found no weights for 1 tensors of " in told
    assert "decode_head.classifier.weight" in told


def test_weights_that_are_not_finite_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folders["segmenter"], tmp_path / "copy"))
    weights = load_file(copy / "model.safetensors")
    weights["decode_head.classifier.bias"].fill_(float("nan"))
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"found an answer that is not finite, expected numbers; its weights are damaged"
    ):
        Masker.load(spec_of({"segmenter": copy}, "segmenter"), "cpu").masks([picture()], [""], [""], [""])


def test_a_class_that_the_segmenter_does_not_have_is_refused(folders: dict[str, Path]) -> None:
    told = refused(spec_of({"segmenter": folders["segmenter"]}, "segmenter", object_ids=(1, 4)))
    assert told.endswith("found 4 classes, expected 5 or more; choose object_ids below 4")


def test_the_digest_is_of_the_weights_and_the_preprocessing(folders: dict[str, Path], tmp_path: Path) -> None:
    first = mask_digest(spec_of(folders, "segmenter"))
    copy = Path(shutil.copytree(folders["segmenter"], tmp_path / "copy"))
    assert mask_digest(spec_of({"segmenter": copy}, "segmenter")) == first
    settings = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0, 0, 0]}))
    assert mask_digest(spec_of({"segmenter": copy}, "segmenter")) != first
    assert mask_digest(spec_of(folders, "segmenter", object_ids=(1,))) != first
    both = mask_digest(spec_of(folders, "grounded"))
    assert mask_digest(spec_of(folders, "grounded", box_threshold=0.1)) != both
