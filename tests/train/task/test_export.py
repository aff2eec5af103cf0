"""The export of a training: timm itself loads it, and computes the same bits."""

import json
from pathlib import Path

import pytest
import timm
import torch

from tests.support.hub_cache import timm_model
from tests.support.small_training import small_recipe
from train.model.classifiers import ModelSpec, build
from train.model.normalisation import Normalisation
from train.model.pretrained import read_about
from train.task.export import plain_model, unique_names, write_export

torch.set_num_threads(1)
NORMAL = Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
NAMES = {"0": "zero", "1": "one", "2": "two", "3": "crane", "4": "crane"}


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "convnext_atto"])
def test_timm_loads_an_export_from_its_folder_and_computes_the_same_bits(tmp_path: Path, name: str) -> None:
    recipe = small_recipe(tmp_path, model={"name": name, "num_classes": 5, "aux": "none"}, data__size_px=64)
    size = {"img_size": 64} if name.startswith("vit") else {}
    tensors = timm_model(name, 5, **size).state_dict()
    write_export(tmp_path, recipe, tensors, {"class_names": NAMES, "step": 3}, NORMAL, [])
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    pictures = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(theirs(pictures), plain_model(recipe, tensors)(pictures))
    asked = timm.data.resolve_model_data_config(theirs)
    assert (tuple(asked["input_size"]), asked["crop_pct"]) == ((3, 64, 64), recipe.evaluate.crop_pct)
    assert (tuple(asked["mean"]), tuple(asked["std"]), asked["interpolation"]) == (NORMAL.mean, NORMAL.std, "bicubic")
    described = json.loads((tmp_path / "config.json").read_text())
    assert described["label_names"] == ["zero", "one", "two", "crane (3)", "crane (4)"]
    assert (described["architecture"], described["num_classes"]) == (name, 5)
    assert described["num_features"] == theirs.num_features
    assert not {"url", "hf_hub_id", "tag", "license", "origin_url"} & described["pretrained_cfg"].keys()  # of others


def test_a_training_can_start_from_an_export(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, model={"name": "resnet10t", "num_classes": 5, "aux": "none"})
    tensors = timm_model("resnet10t", 5).state_dict()
    write_export(tmp_path, recipe, tensors, {"class_names": NAMES}, NORMAL, [])
    model = build(ModelSpec(name="resnet10t", num_classes=5, aux="none", pretrained=str(tmp_path)), (1,), 0, 32)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())


def test_timm_and_we_read_the_same_from_both_descriptions(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, model={"name": "resnet10t", "num_classes": 5, "aux": "none"})
    write_export(tmp_path, recipe, timm_model("resnet10t", 5).state_dict(), {"class_names": NAMES}, NORMAL, [])
    ours = read_about(tmp_path)
    (tmp_path / "model.json").unlink()
    timms = read_about(tmp_path)
    assert ours is not None
    assert timms is not None
    for field in ("architecture", "num_classes", "size_px", "crop_pct", "interpolation", "mean", "std"):
        assert getattr(ours, field) == getattr(timms, field)


def test_the_sandbox_network_which_timm_does_not_know_has_no_description_for_timm(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, model__aux="none", model__bn="rank")
    tensors = build(recipe.model, (4,), 0, 32).state_dict()
    write_export(tmp_path, recipe, tensors, {}, NORMAL, [])
    assert not (tmp_path / "config.json").exists()
    about = read_about(tmp_path)
    assert about is not None
    assert about.architecture == "sandbox_resnet"


def test_outputs_are_named_when_all_names_are_known() -> None:
    assert unique_names({0: "a", 1: "b"}, 2) == ["a", "b"]
    assert unique_names({0: "a"}, 2) == []
