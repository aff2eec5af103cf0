"""Frozen parameters: nothing of them moves, whatever the engine; what is left trains as before."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.small_training import last_state, small_recipe, train_alone, write_sets
from train.model.classifiers import ModelSpec, build

FROZEN = ("conv1.*", "bn1.*", "stages.0.*")
ENGINES: dict[str, dict[str, Any]] = {
    "single": {"engine__kind": "single"},
    "ddp": {"engine__kind": "ddp"},
    "zero0": {"engine__kind": "deepspeed"},
    "zero2": {"engine__kind": "deepspeed", "engine__zero": 2},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_sets(folder)
    return folder


@pytest.mark.parametrize("name", ENGINES)
def test_what_is_frozen_stays_bit_by_bit_with_its_statistics_in_model_and_average(
    data: Path, tmp_path: Path, name: str
) -> None:
    """Auxiliary layers too; the optimiser keeps nothing of it, also when no weight decays."""
    changes = {"schedule__steps": 3, "evaluate__validation": None, "optim__weight_decay": 0.0}
    recipe = small_recipe(data, model__freeze=list(FROZEN), **changes, **ENGINES[name])
    before = build(recipe.classifier, recipe.quotas, recipe.seed, recipe.data.size_px).state_dict()
    assert train_alone(recipe, tmp_path / "run").exit_code == 0
    for part in ("model.safetensors", "ema.safetensors"):
        after = last_state(tmp_path / "run", part)
        moved = {key for key in after if not torch.equal(after[key], before[key])}
        assert not {key for key in moved if key.startswith(("conv1.", "bn1.", "stages.0."))}
        assert {"stages.1.conv1.weight", "stages.1.bn1.running_mean", "stages.1.bn1.aux_bn.0.running_mean"} <= moved
        assert {"fc.weight", "stages.1.bn1.aux_bn.0.weight"} <= moved
    kept = last_state(tmp_path / "run", "optimizer.safetensors")
    assert "momentum_buffer/fc.weight" in kept
    assert not [key for key in kept if key.partition("/")[2].startswith(("conv1.", "bn1.", "stages.0."))]


def test_a_training_with_frozen_parts_and_two_rates_goes_on_to_the_same_bits(data: Path, tmp_path: Path) -> None:
    changes = {"schedule__steps": 4, "optim__optimizer": "lamb", "optim__lr": 0.01, "optim__lr_backbone": 0.1}
    recipe = small_recipe(data, model__freeze=list(FROZEN), **changes)
    assert train_alone(recipe, tmp_path / "one").exit_code == 0
    assert train_alone(recipe, tmp_path / "two", looks=2).exit_code == 75
    assert train_alone(recipe, tmp_path / "two").exit_code == 0
    for part in ("model.safetensors", "ema.safetensors", "optimizer.safetensors"):
        one, two = last_state(tmp_path / "one", part), last_state(tmp_path / "two", part)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one), part
    assert (
        load_file(tmp_path / "one" / "model.safetensors").keys()
        == build(ModelSpec(name="sandbox_resnet", num_classes=5, aux="none"), (4,), 0, 32).state_dict().keys()
    )


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (
            ("stage.0.*",),
            r"model\.freeze: found .stage\.0\.\*., which no parameter is called, expected patterns such as",
        ),
        (("*",), r"model\.freeze: found .\*., which is all of the model, expected something left to train"),
    ],
)
def test_patterns_that_freeze_nothing_or_everything_are_refused(patterns: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        build(ModelSpec(name="sandbox_resnet", num_classes=5, freeze=patterns), (4, 4), 0, 32)
    assert "\n" not in str(refused.value)


def test_batch_normalisation_that_is_frozen_in_part_still_counts_its_batches() -> None:
    model = build(ModelSpec(name="sandbox_resnet", num_classes=5, freeze=("bn1.bias", "stages.0.bn1.*")), (4, 4), 0, 32)
    assert model.get_submodule("bn1").training
    assert not model.get_submodule("stages.0.bn1").training
