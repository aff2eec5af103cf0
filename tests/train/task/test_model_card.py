"""A trained model on the Hugging Face hub: its files and its card."""

from pathlib import Path

import pytest
import timm
import torch
import yaml
from typer.testing import CliRunner

import sixfold
from shards.views.hub import push
from tests.support.hub_cache import timm_model
from tests.support.hub_server import TOKEN, HubServer
from tests.support.small_training import small_recipe
from tests.support.training_results import result
from train.evaluate.results import append_results
from train.model.normalisation import IMAGENET
from train.task.export import write_export
from train.task.model_card import model_files

NAME = "someone/birds"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A training that has ended, with what must stay at home beside its export."""
    recipe = small_recipe(tmp_path, model={"name": "resnet10t", "num_classes": 2, "aux": "none"})
    names = {"0": "crane", "1": "a_b <i>"}
    write_export(tmp_path, recipe, timm_model("resnet10t", 2).state_dict(), {"class_names": names}, IMAGENET, [])
    append_results(tmp_path / "results.jsonl", [result()])
    for name in ("recipe.yaml", "log.jsonl", "checkpoints/step-000001/state.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("secret")
    return tmp_path


def test_a_copy_from_the_hub_is_the_model_for_timm(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with HubServer() as hub:
        push(NAME, "model", model_files(folder, NAME, "MIT"), TOKEN, endpoint=hub.url)
        files = hub.repos[NAME].files
    assert files.keys() == {"model.safetensors", "config.json", "model.json", "README.md"}
    copy = tmp_path_factory.mktemp("copy")
    for name, data in files.items():
        (copy / name).write_bytes(data)
    one, other = (timm.create_model(f"local-dir:{place}", pretrained=True).eval() for place in (folder, copy))
    pictures = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(one(pictures), other(pictures))


def test_the_card_says_licence_accuracy_and_outputs_and_takes_names_as_text(folder: Path) -> None:
    card = model_files(folder, NAME, "MIT")[-1].source
    assert isinstance(card, bytes)
    header, text = card.decode().split("---\n")[1:]
    assert yaml.safe_load(header) == {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["timm", "image-classification", "sixfold"],
        "license": "mit",
    }
    assert f'timm.create_model("hf-hub:{NAME}", pretrained=True)' in text
    assert "| " + result().set in text
    assert "* 1: a\\_b \\<i\\>" in text


@pytest.mark.parametrize(
    ("domains", "words"),
    [
        (("real",), "trained with sixfold on real images."),
        (("real", "retrieved"), "trained with sixfold on real, retrieved images."),
        ((), "trained with sixfold."),
    ],
)
def test_the_card_names_the_domains_that_the_model_was_trained_on(
    folder: Path, domains: tuple[str, ...], words: str
) -> None:
    (folder / "results.jsonl").unlink()
    data = dict.fromkeys((*domains, "real-test"), "cd" * 32)
    append_results(folder / "results.jsonl", [result(data=data)])
    card = model_files(folder, NAME, None)[-1].source
    assert isinstance(card, bytes)
    assert words in card.decode()


def test_the_card_names_the_domains_of_earlier_stages_first(folder: Path) -> None:
    (folder / "stages" / "first").mkdir(parents=True)
    earlier = result(set="validation", role="validation", data={"synthetic": "ab" * 32, "validation": "ef" * 32})
    append_results(folder / "stages" / "first" / "results.jsonl", [earlier])
    card = model_files(folder, NAME, None)[-1].source
    assert isinstance(card, bytes)
    assert "trained with sixfold on synthetic, real images." in card.decode()


def test_an_export_of_an_earlier_version_gets_the_description_that_timm_needs(folder: Path) -> None:
    whole = (folder / "config.json").read_text()
    (folder / "config.json").unlink()
    files = {one.name: one.source for one in model_files(folder, NAME, None)}
    assert files["config.json"] == whole.encode()


def test_a_training_that_has_no_result_yet_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found no exported model, .*run the same `sixfold train` to its end"):
        model_files(tmp_path, NAME, None)


def test_a_push_of_a_training_without_a_result_says_to_train_it_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "run.lock").touch()
    tried = CliRunner().invoke(sixfold.command_line(), ["push", str(tmp_path), NAME])
    assert "found no exported model" in str(tried.exception)
    assert "run the same `sixfold train` to its end" in str(tried.exception)
