"""Classifiers by name: what a recipe can ask for, and that its weights come from where it says."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from train.model.aux_bn import aux_layers, export_plain
from train.model.classifiers import ModelSpec, build, normalisation_of, what_it_starts_from
from train.model.normalisation import IMAGENET, Normalisation
from train.model.sandbox_resnet import sandbox_resnet

torch.set_num_threads(1)


def same(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def weights_file(path: Path, name: str = "resnet18", num_classes: int = 5) -> dict[str, Tensor]:
    torch.manual_seed(99)
    state = timm.create_model(name, num_classes=num_classes).state_dict()
    save_file(state, path)
    return state


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny", "convnext_base", "vit_tiny_patch16_224"])
def test_the_plain_model_is_timms_own(name: str) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=10).state_dict()
        ours = build(ModelSpec(name=name, num_classes=10, aux="none"), (2, 2), seed=0, size_px=224).state_dict()
    assert [(key, tensor.shape) for key, tensor in ours.items()] == [(key, t.shape) for key, t in theirs.items()]


def test_a_transformer_takes_the_recipes_image_size() -> None:
    model = build(ModelSpec(name="vit_tiny_patch16_224", num_classes=3, aux="none"), (2, 2), seed=0, size_px=64)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


def test_the_wide_net_of_the_sandbox_has_about_four_times_the_weights() -> None:
    sizes = {}
    for name in ("sandbox_resnet", "sandbox_resnet_wide"):
        model = build(ModelSpec(name=name, num_classes=10), (2, 2), seed=0, size_px=64)
        assert len(aux_layers(model)) == 10
        assert model(torch.zeros(4, 3, 64, 64)).shape == (4, 10)
        sizes[name] = sum(weight.numel() for weight in export_plain(model).values())
    assert 3.5 < sizes["sandbox_resnet_wide"] / sizes["sandbox_resnet"] < 4.5


def test_the_transformer_of_the_sandbox_is_timms_and_takes_pictures_of_whole_patches() -> None:
    spec = ModelSpec(name="sandbox_vit", num_classes=10, aux="none", drop_path=0.1)
    model = build(spec, (2, 2), seed=0, size_px=64)
    assert type(model) is timm.models.VisionTransformer
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 10)
    assert 0.5e6 < sum(weight.numel() for weight in model.parameters()) < 0.9e6
    with pytest.raises(ValueError, match=r"^data\.size_px: found 60, expected a multiple of 8"):
        build(spec, (2, 2), seed=0, size_px=60)


@pytest.mark.parametrize("aux", ["bn", "stats"])
def test_a_transformer_of_the_sandbox_has_no_batch_normalisation_to_split(aux: str) -> None:
    spec = ModelSpec.model_validate({"name": "sandbox_vit", "num_classes": 10, "aux": aux})
    with pytest.raises(ValueError, match=r"expected at least one; set model\.aux: none"):
        build(spec, (2, 2), seed=0, size_px=64)


@pytest.mark.parametrize("name", ["sandbox_resnet", "sandbox_resnet_wide", "sandbox_vit", "resnet18"])
def test_initial_weights_depend_on_the_seed_alone(name: str) -> None:
    spec = ModelSpec(name=name, num_classes=4, aux="none")
    torch.manual_seed(1)
    one = build(spec, (2, 2), seed=7, size_px=64)
    after_one = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == after_one  # the process's random state is as it was
    assert same(one, build(spec, (2, 2), seed=7, size_px=64))
    assert not same(one, build(spec, (2, 2), seed=8, size_px=64))


def test_a_model_with_and_without_auxiliary_layers_starts_from_the_same_weights() -> None:
    split = build(ModelSpec(name="sandbox_resnet", num_classes=4), (2, 2), seed=3, size_px=64)
    plain = build(ModelSpec(name="sandbox_resnet", num_classes=4, aux="none"), (2, 2), seed=3, size_px=64)
    assert len(aux_layers(split)) == 10
    assert not aux_layers(plain)
    plain.load_state_dict(export_plain(split), strict=True)


@pytest.mark.parametrize(
    ("aux", "bn", "quotas", "per_group", "sync"),
    [
        ("bn", "rank", (3, 2), False, False),
        ("bn", "group", (3, 2), True, False),
        ("bn", "world", (3, 2), False, True),
        ("stats", "rank", (3, 2), False, False),
        ("stats", "world", (3, 2), False, True),
        ("none", "group", (5,), True, False),
        ("none", "world", (5,), False, True),
    ],
)
def test_the_recipe_says_whose_samples_statistics_are_of(
    aux: str, bn: str, quotas: tuple[int, ...], per_group: bool, sync: bool
) -> None:
    spec = ModelSpec.model_validate({"name": "sandbox_resnet", "num_classes": 4, "aux": aux, "bn": bn})
    layers = aux_layers(build(spec, (3, 2), seed=0, size_px=32)).values()
    assert {(layer.quotas, layer.per_group, layer.sync) for layer in layers} == {(quotas, per_group, sync)}
    assert {layer.shared_affine for layer in layers} == {aux == "stats"}


def test_weights_of_a_file_are_used_and_fill_all_domains(tmp_path: Path) -> None:
    state = weights_file(tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        model = build(ModelSpec(name="resnet18", num_classes=5, pretrained=str(path)), (2, 2), seed=0, size_px=64)
        assert all(torch.equal(tensor, state[name]) for name, tensor in export_plain(model).items())
        assert torch.equal(model.bn1.aux_bn[0].running_var, state["bn1.running_var"])


def test_a_classifier_of_another_size_keeps_its_initial_weights(tmp_path: Path) -> None:
    state = weights_file(tmp_path / "model.safetensors", num_classes=1000)
    spec = ModelSpec(name="resnet18", num_classes=5, pretrained=str(tmp_path), aux="none")
    model = build(spec, (2, 2), seed=4, size_px=64)
    fresh = build(spec.model_copy(update={"pretrained": None}), (2, 2), seed=4, size_px=64)
    assert torch.equal(model.fc.weight, fresh.fc.weight)
    assert torch.equal(model.conv1.weight, state["conv1.weight"])


def test_a_transformer_of_the_sandbox_starts_from_weights_of_other_classes_and_another_size(tmp_path: Path) -> None:
    spec = ModelSpec(name="sandbox_vit", num_classes=7, aux="none")
    trained = build(spec, (2, 2), seed=1, size_px=32)
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    about = {"model": "sandbox_vit", "num_classes": 7, "size_px": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    about["class_names"] = {str(number): f"class {number}" for number in range(7)}
    (tmp_path / "model.json").write_text(json.dumps(about))
    begun = spec.model_copy(update={"num_classes": 3, "pretrained": str(tmp_path)})
    model = build(begun, (2, 2), seed=2, size_px=64)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 3)
    assert torch.equal(model.blocks[0].attn.qkv.weight, trained.blocks[0].attn.qkv.weight)
    assert "its classifier of 7 outputs is left out, a new one of 3 is trained" in what_it_starts_from(begun)[0]


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    weights_file(tmp_path / "model.safetensors", name="resnet34")
    with pytest.raises(ValueError, match=r"^model\.pretrained: found .* expected nothing; choose weights of this"):
        build(ModelSpec(name="resnet18", num_classes=5, pretrained=str(tmp_path)), (2, 2), seed=0, size_px=64)
    weights_file(tmp_path / "model.safetensors", name="vit_tiny_patch16_224")
    spec = ModelSpec(name="vit_tiny_patch16_224", num_classes=5, pretrained=str(tmp_path), aux="none")
    with pytest.raises(ValueError, match=r"found \[1, 197, 192\] for 'pos_embed' .* expected \[1, 17, 192\]"):
        build(spec, (2, 2), seed=0, size_px=64)


@pytest.mark.parametrize("name", ["weights.pth", "weights.bin", "missing.safetensors", "empty"])
def test_only_safetensors_that_exist_are_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    if name.startswith("weights"):
        torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(ValueError, match=r"expected a \.safetensors file or a folder with model\.safetensors"):
        build(ModelSpec(name="resnet18", num_classes=5, pretrained=str(tmp_path / name)), (2, 2), seed=0, size_px=64)


def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(np.random.default_rng(0).bytes(1000))
    with pytest.raises(ValueError, match=r"model\.safetensors unreadable .* expected safetensors$") as caught:
        build(ModelSpec(name="resnet18", num_classes=5, pretrained=str(tmp_path)), (2, 2), seed=0, size_px=64)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet5o", "did you mean resnet50?"),
        ("sandbox_resnt", "did you mean sandbox_resnet?"),
        ("hf-hub:timm/resnet50", "expected sandbox_resnet, sandbox_resnet_wide, sandbox_vit or a model of timm"),
        ("local-dir:/etc", "expected sandbox_resnet, sandbox_resnet_wide, sandbox_vit or a model of timm"),
        ("resnet50.a1_in1k", "expected sandbox_resnet, sandbox_resnet_wide, sandbox_vit or a model of timm"),
        ("../resnet50", "expected sandbox_resnet, sandbox_resnet_wide, sandbox_vit or a model of timm"),
    ],
)
def test_a_name_that_timm_does_not_have_is_refused_and_looked_up_nowhere(name: str, hint: str) -> None:
    with pytest.raises(ValueError) as caught:
        build(ModelSpec(name=name, num_classes=5), (2, 2), seed=0, size_px=64)
    assert hint in str(caught.value)


def test_a_model_without_batch_normalisation_needs_the_recipe_to_say_so() -> None:
    with pytest.raises(ValueError, match=r"expected at least one; set model\.aux: none"):
        build(ModelSpec(name="convnext_atto", num_classes=5), (2, 2), seed=0, size_px=64)


def test_a_setting_that_the_model_does_not_have_is_refused() -> None:
    spec = ModelSpec(name="vgg11_bn", num_classes=5, drop_path=0.1)
    with (
        pytest.raises(ValueError, match=r"found vgg11_bn with drop_path_rate.* set model\.drop_path: 0"),
        torch.device("meta"),
    ):
        build(spec, (2, 2), seed=0, size_px=64)


@pytest.mark.parametrize("field", [{"num_classes": 1}, {"drop_path": 1.0}, {"aux": "ln"}, {"bn": "all"}, {"lr": 1}])
def test_the_recipe_refuses(field: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ModelSpec.model_validate({"name": "sandbox_resnet", "num_classes": 5, **field})


def test_the_sandbox_model_is_small_and_learns_a_planted_difference() -> None:
    model = build(ModelSpec(name="sandbox_resnet", num_classes=2, aux="none"), (4, 4), seed=0, size_px=32)
    assert 200_000 < sum(parameter.numel() for parameter in model.parameters()) < 400_000
    draw = torch.Generator().manual_seed(0)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def batch() -> tuple[Tensor, Tensor]:
        label = torch.arange(16) % 2
        stripes = torch.sin(torch.arange(32.0) * 1.5).expand(16, 3, 32, 32)
        stripes = torch.where(label.view(-1, 1, 1, 1) == 1, stripes, stripes.mT)
        return stripes + torch.randn(16, 3, 32, 32, generator=draw), label

    for _ in range(25):
        image, label = batch()
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(image), label).backward()
        optimiser.step()
    image, label = batch()
    assert (model.eval()(image).argmax(1) == label).all()


def test_drop_path_grows_to_the_last_block_and_is_off_in_evaluation() -> None:
    model = sandbox_resnet(num_classes=2, drop_path=0.4)
    chances = [module.drop_prob for module in model.modules() if type(module).__name__ == "DropPath"]
    assert chances == [0.0, 0.2, 0.4]
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = sandbox_resnet(num_classes=2)
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model.eval()(x), plain.eval()(x))
        torch.manual_seed(0)
        assert not torch.equal(model.train()(x), plain.train()(x))


def test_pictures_are_normalised_as_the_recipe_says_else_as_the_model_wants_else_as_imagenet_is() -> None:
    assert normalisation_of(ModelSpec(name="sandbox_resnet", num_classes=5)) == IMAGENET
    assert normalisation_of(ModelSpec(name="resnet50", num_classes=5)) == IMAGENET
    half = (0.5, 0.5, 0.5)
    assert normalisation_of(ModelSpec(name="vit_base_patch16_224", num_classes=5)) == Normalisation(half, half)
    given = ModelSpec(name="vit_base_patch16_224", num_classes=5, mean=(0.1, 0.2, 0.3))
    assert normalisation_of(given) == Normalisation((0.1, 0.2, 0.3), half)
