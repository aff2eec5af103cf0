"""An adapted CLIP on the Hugging Face hub: which files go there, what its card says, and that its Python loads it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

import sixfold
from shards.views.hub import push
from tests.support.hub_server import TOKEN, HubServer
from tests.support.small_training import small_recipe, train_alone, write_sets
from tests.support.tiny_clip import SIZE_PX, tiny_open_clip, tiny_transformers
from tests.support.training_results import result
from train.evaluate.features import open_network
from train.evaluate.results import append_results
from train.recipe import TrainRecipe
from train.task.clip_card import clip_files
from train.task.model_card import model_files

NAME = "someone/numerals"
BASE, COMMIT = "openai/clip-vit-base-patch16", "57c216476eefef5ab752ec549e440a49ae4ae5f3"
OWN = {
    "transformers": {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    | {"processor_config.json"},
    "open_clip": {"open_clip_config.json", "open_clip_model.safetensors"},
}
ALWAYS = {"classifier.safetensors", "clip.json", "README.md"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of each library that has ended, in the folders `lora` and `full`."""
    folder = tmp_path_factory.mktemp("runs")
    write_sets(folder)
    for library, tune in (("transformers", "lora"), ("open_clip", "full")):
        make = tiny_open_clip if library == "open_clip" else tiny_transformers
        model = ("open_clip:" if library == "open_clip" else "") + str(make(folder / library))
        told = small_recipe(folder).model_dump(mode="json") | {"task": "clip", "model": None}
        told["clip"] = {"model": model, "tune": tune, "templates": ["a *{name}* <b>", "{name}"], "wise_alpha": 0.5}
        told["data"] |= {"size_px": SIZE_PX}
        told["schedule"] = {"groups": 2, "steps": 1, "epoch_steps": 1}
        assert train_alone(TrainRecipe.model_validate(told), folder / tune).exit_code == 0
    return folder


def sent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with HubServer() as hub:
        push(NAME, "model", model_files(folder, NAME, "MIT"), TOKEN, endpoint=hub.url)
        return hub.repos[NAME].files


def card_of(files: dict[str, bytes]) -> tuple[dict[str, Any], str]:
    header, text = files["README.md"].decode().split("---\n", 2)[1:]
    return yaml.safe_load(header), text


def run_as_written(code: str, copy: Path, **names: Any) -> dict[str, Any]:
    """What the names are after the card's Python, with a copy of the repository in the hub's place."""
    local = code.replace(f'hf_hub_download("{NAME}", ', f'"{copy}/" + (')
    local = local.replace(f'"hf-hub:{NAME}"', f'"local-dir:{copy}"').replace(f'"{NAME}"', f'"{copy}"')
    assert NAME not in local
    exec(local, names)
    return names


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of peft, when it loads an adapter
@pytest.mark.parametrize(("library", "tune"), [("transformers", "lora"), ("open_clip", "full")])
def test_the_python_of_the_card_gives_the_logits_of_the_export_from_what_was_sent(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, tune: str
) -> None:
    files = sent(runs / tune, monkeypatch)
    adapter = {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} if tune == "lora" else set()
    assert files.keys() == OWN[library] | ALWAYS | adapter
    assert not any(str(runs).encode() in data for data in files.values()), "no place of this machine"
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    codes = re.findall(r"```python\n(.*?)```", card_of(files)[1], flags=re.S)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, SIZE_PX, 3), np.uint8))
    with torch.no_grad():
        found = run_as_written(codes[0], tmp_path, image=image)
    head = load_file(runs / tune / "classifier.safetensors")
    assert found["logits"].shape == (1, len(head["weight"]))
    unit = found["features"] / found["features"].norm()
    assert (found["logits"] - (unit @ head["weight"].T + head["bias"])).abs().max() < 1e-5
    assert len(codes) == (2 if tune == "lora" else 1)
    if tune == "lora":
        alone = run_as_written(codes[1], tmp_path, FOLDER_OF_THE_CLIP=runs / library)["model"].eval()
        with torch.no_grad():
            pooled: Tensor = alone.get_image_features(pixel_values=found["pixels"]).pooler_output
        assert (pooled - found["features"]).abs().max() < 1e-5


def test_the_card_says_what_was_adapted_how_on_which_data_and_how_good_it_is(runs: Path) -> None:
    files = {one.name: one.source for one in model_files(runs / "lora", NAME, "CC-BY-4.0")}
    header, text = card_of(files)  # type: ignore[arg-type]
    assert header == {
        "library_name": "transformers",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "transformers", "peft", "sixfold"],
        "license": "cc-by-4.0",
    }
    digest = json.loads((runs / "lora" / "clip.json").read_text())["digest"]
    assert f"* Adapted from: a CLIP with the digest {digest[:16]}\n" in text
    assert "* Way: lora; adapters of low rank" in text
    assert "0.5 of the way from the zero-shot ones to the trained ones (WiSE-FT)" in text
    assert re.search(r"\* Data: real \([0-9a-f]{12}\), synthetic \([0-9a-f]{12}\) images; 16 were seen\n", text)
    assert re.search(r"  \* a \\\*.*name.*\\\* \\<b\\>\n", text), "templates are text"
    assert re.search(r"\| one \| \d+\.\d\d \| \d+\.\d\d \| \d+ \|", text)
    assert "* 0: zero\n" in text


def test_the_hub_id_of_what_was_adapted_stands_in_the_header_the_adapter_and_the_python(
    runs: Path, tmp_path: Path
) -> None:
    for path in (runs / "lora").rglob("*"):
        if path.suffix in (".json", ".safetensors") and "checkpoints" not in path.parts:
            (tmp_path / path.relative_to(runs / "lora")).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path.relative_to(runs / "lora")).write_bytes(path.read_bytes())
    about = json.loads((tmp_path / "clip.json").read_text())
    (tmp_path / "clip.json").write_text(json.dumps({**about, "model": BASE, "revision": COMMIT}))
    append_results(tmp_path / "results.jsonl", [result(), result(branch="linear probe", right=20)])
    files = {one.name: one.source for one in model_files(tmp_path, NAME, None)}
    header, text = card_of(files)  # type: ignore[arg-type]
    assert header["base_model"] == BASE
    assert "license" not in header
    assert f'CLIPModel.from_pretrained("{BASE}", revision="{COMMIT}")' in text
    assert "| real-test, by a linear probe | 50.00 |" in text
    adapter = json.loads(files["adapter/adapter_config.json"])  # type: ignore[arg-type]
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == (BASE, COMMIT)
    (tmp_path / "clip.json").write_text(json.dumps({**about, "model": 'x"); print("', "revision": COMMIT}))
    assert "print(" not in card_of({one.name: one.source for one in clip_files(tmp_path, NAME, None)})[1]  # type: ignore[misc]


def test_a_push_tells_its_files_and_a_part_of_an_export_is_refused(runs: Path, tmp_path: Path) -> None:
    said = CliRunner().invoke(sixfold.command_line(), ["push", str(runs / "full"), NAME])
    assert said.exit_code == 0, said.output
    assert "open_clip_model.safetensors" in said.stdout
    assert f"would go to the private model {NAME}; send them with --go" in said.stdout
    for name in ("clip.json", "results.jsonl"):
        (tmp_path / name).write_bytes((runs / "full" / name).read_bytes())
    said = CliRunner().invoke(sixfold.command_line(), ["push", str(tmp_path), NAME])
    assert "found a part of an adapted CLIP, expected model/ with its weights and classifier.safetensors" in str(
        said.exception
    )


@pytest.mark.parametrize(("library", "tune"), [("transformers", "lora"), ("open_clip", "full")])
def test_the_folder_of_a_training_is_measured_with_the_clip_that_it_has_exported(
    runs: Path, library: str, tune: str
) -> None:
    prefix = "open_clip:" if library == "open_clip" else ""
    exported = open_network(f"{prefix}{runs / tune / 'model'}", None, "cpu")
    found = open_network(str(runs / tune), None, "cpu")
    assert found.is_clip
    assert found.digest == exported.digest != open_network(f"{prefix}{runs / library}", None, "cpu").digest
    pictures = [np.full((SIZE_PX, SIZE_PX, 3), shade, np.uint8) for shade in (9, 200)]
    assert (found.rows(pictures) == exported.rows(pictures)).all()
