"""Trained weights to start from: from the hub's cache or from files, safetensors only, known by their bytes."""

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from tests.support.hub_cache import COMMIT, put_into_cache, timm_model
from tests.support.small_training import last_state, small_recipe, train_alone, write_sets
from train.model.aux_bn import aux_layers, export_plain
from train.model.classifiers import ModelSpec, build, normalisation_of, what_it_starts_from
from train.model.normalisation import IMAGENET, Normalisation
from train.recipe import TrainRecipe, deciding, recipe_digest

torch.set_num_threads(1)
HALF = (0.5, 0.5, 0.5)
NAME = "resnet10t"


def of_hub(num_classes: int = 7, **fields: object) -> ModelSpec:
    told = {"name": NAME, "num_classes": num_classes, "pretrained": "someone/tiny", "pretrained_revision": COMMIT}
    return ModelSpec.model_validate({**told, **fields})


def logits(model: nn.Module, size_px: int = 64) -> torch.Tensor:
    pictures = torch.randn(2, 3, size_px, size_px, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model.eval()(pictures)


@pytest.mark.parametrize("prefix", ["", "hf-hub:"])
def test_a_model_of_the_hub_is_found_by_name_and_commit_and_computes_what_timms_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    theirs = timm_model(NAME)
    put_into_cache(tmp_path, monkeypatch, theirs)
    ours = build(of_hub(aux="none", pretrained=f"{prefix}someone/tiny"), (2, 2), seed=0, size_px=64)
    assert torch.equal(logits(ours), logits(theirs))


def test_auxiliary_layers_start_from_the_trained_statistics_and_a_head_of_another_size_is_new_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = timm_model(NAME)
    put_into_cache(tmp_path, monkeypatch, theirs)
    model = build(of_hub(num_classes=5), (2, 2), seed=4, size_px=64)
    layers = aux_layers(model)
    assert layers
    for name, layer in layers.items():
        trained = theirs.get_submodule(name)
        for branch in layer.branches():
            assert torch.equal(branch.running_mean, trained.running_mean)
            assert torch.equal(branch.running_var, trained.running_var)
            assert torch.equal(branch.weight, trained.weight)
    fresh = build(ModelSpec(name=NAME, num_classes=5), (2, 2), seed=4, size_px=64)
    assert torch.equal(model.fc.weight, fresh.fc.weight)
    [line] = what_it_starts_from(of_hub(num_classes=5))
    assert f"starts from someone/tiny at {COMMIT[:12]}, sha256 " in line
    assert line.endswith("its classifier of 7 outputs is left out, a new one of 5 is trained")
    assert "classifier" not in what_it_starts_from(of_hub())[0]
    assert what_it_starts_from(ModelSpec(name=NAME, num_classes=5)) == []


def test_pictures_are_normalised_as_the_weights_were_trained_unless_the_recipe_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_into_cache(tmp_path, monkeypatch, timm_model(NAME), mean=HALF, std=HALF)
    assert normalisation_of(of_hub()) == Normalisation(HALF, HALF)
    assert normalisation_of(of_hub(std=IMAGENET.std)) == Normalisation(HALF, IMAGENET.std)


def test_a_transformer_takes_another_picture_size_as_timms_own_loading_gives_it(tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    timm.models.save_for_hf(timm_model(name), tmp_path, safe_serialization=True)
    spec = ModelSpec(name=name, num_classes=7, aux="none", pretrained=str(tmp_path))
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, img_size=64)
    assert torch.equal(logits(build(spec, (2, 2), 0, 64)), logits(theirs))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pretrained_revision": None}, r"without a commit|found no such|expected a \.safetensors file or a folder"),
        ({"pretrained": "hf-hub:someone/tiny", "pretrained_revision": None}, "without a commit, .*pretrained_revision"),
        ({"pretrained_revision": "main"}, "expected a commit of 40 hex digits; .*set model.pretrained_revision to it"),
        ({"pretrained_revision": "f" * 40}, "is not in the hub cache .* get it with `hf download someone/tiny"),
        ({"name": "resnet18"}, "found weights of resnet10t .* set model.name=resnet10t"),
        ({"pretrained_sha256": "0" * 64}, "with the sha256 [0-9a-f]{16}, expected 0000000000000000"),
    ],
)
def test_weights_that_cannot_be_used_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], words: str
) -> None:
    put_into_cache(tmp_path, monkeypatch, timm_model(NAME))
    with pytest.raises(ValueError, match=words) as caught:
        build(of_hub(**change), (2, 2), 0, 64)
    assert "\n" not in str(caught.value)


def test_pickled_weights_of_the_hub_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = put_into_cache(tmp_path, monkeypatch, timm_model(NAME))
    (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"found only pytorch_model\.bin, expected model\.safetensors"):
        build(of_hub(), (2, 2), 0, 64)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_args": {"act_layer": "gelu"}}, "found a model built with 'act_layer'"),
        ({"model_args": {"in_chans": 1}}, "found a model built with 'in_chans'"),
        ({"num_classes": "many"}, "a bad field 'num_classes'"),
        ({"architecture": "../x"}, "a bad field 'architecture'"),
        ({"model_args": {"global_pool": "max"}}, "found weights for the pooling max .* expected avg"),
    ],
)
def test_a_description_that_means_another_model_is_refused(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    timm.models.save_for_hf(timm_model(NAME), tmp_path, safe_serialization=True)
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | change))
    with pytest.raises(ValueError, match=words):
        build(ModelSpec(name=NAME, num_classes=7, pretrained=str(tmp_path)), (2, 2), 0, 64)


def test_a_description_of_another_library_says_nothing(tmp_path: Path) -> None:
    timm.models.save_for_hf(timm_model(NAME), tmp_path, safe_serialization=True)
    (tmp_path / "config.json").write_text('{"model_type": "resnet", "architectures": ["X"]}')
    spec = ModelSpec(name=NAME, num_classes=7, pretrained=str(tmp_path))
    assert normalisation_of(spec) == normalisation_of(ModelSpec(name=NAME, num_classes=7))
    build(spec, (2, 2), 0, 64)


# what a training is


def begun_from(folder: Path, data: Path, **changes: object) -> TrainRecipe:
    model = {"name": NAME, "num_classes": 5, "aux": "bn", "bn": "group", "pretrained": str(folder)}
    short = {"schedule__steps": 1, "schedule__epoch_steps": 1, "schedule__groups": 1, "evaluate__validation": None}
    return small_recipe(data, model=model, evaluate__tests={}, **{**short, **changes})


def test_weights_are_known_by_their_bytes_wherever_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = put_into_cache(tmp_path, monkeypatch, timm_model(NAME))
    moved = Path(shutil.copytree(snapshot, tmp_path / "moved"))
    one, other = begun_from(moved, tmp_path), begun_from(snapshot, tmp_path)
    hub = {"model__pretrained": "someone/tiny", "model__pretrained_revision": COMMIT}
    cached = small_recipe(tmp_path, **hub, model__name=NAME)
    assert deciding(one) == deciding(other)
    assert recipe_digest(one) == recipe_digest(other)
    assert deciding(cached)["model"]["pretrained"] == deciding(one)["model"]["pretrained"]
    before = deciding(one)
    timm.models.save_for_hf(timm_model(NAME, seed=98), moved, safe_serialization=True)
    assert deciding(one)["model"]["pretrained"] != before["model"]["pretrained"]
    assert recipe_digest(one) != recipe_digest(other)


def test_a_training_goes_on_with_moved_weights_and_not_with_changed_ones(tmp_path: Path) -> None:
    write_sets(tmp_path)
    timm.models.save_for_hf(timm_model(NAME), tmp_path / "weights", safe_serialization=True)
    two = {"schedule__steps": 2}
    out = tmp_path / "run"
    train_alone(begun_from(tmp_path / "weights", tmp_path, **two), out, looks=2)
    assert "pretrained_sha256: " in (out / "recipe.yaml").read_text()
    (tmp_path / "weights").rename(tmp_path / "elsewhere")
    timm.models.save_for_hf(timm_model(NAME, seed=98), tmp_path / "changed", safe_serialization=True)
    with pytest.raises(ValueError, match=r"another recipe \(model\.pretrained: "):
        train_alone(begun_from(tmp_path / "changed", tmp_path, **two), out)
    assert train_alone(begun_from(tmp_path / "elsewhere", tmp_path, **two), out).exit_code == 0
    train_alone(begun_from(tmp_path / "elsewhere", tmp_path, **two), tmp_path / "at once")
    ends = [last_state(folder) for folder in (out, tmp_path / "at once")]
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
    about = json.loads((out / "model.json").read_text())
    assert len(about["pretrained_sha256"]) == 64
    assert str(tmp_path) not in (out / "model.json").read_text()


def test_a_model_that_starts_from_weights_is_exported_without_them(tmp_path: Path) -> None:
    timm.models.save_for_hf(timm_model(NAME), tmp_path, safe_serialization=True)
    spec = ModelSpec(name=NAME, num_classes=7, pretrained=str(tmp_path))
    model = build(spec, (2, 2), 0, 64)
    plain = build(ModelSpec(name=NAME, num_classes=7, aux="none"), (1,), 0, 64)
    plain.load_state_dict(export_plain(model), strict=True)
    assert torch.equal(logits(plain), logits(model))
