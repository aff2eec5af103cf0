"""A model folder: what is checked and hashed is all that a library can load, links and hidden names included."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from gen.model.folder import ModelError, flat_digest, flat_model, model_digest, open_model
from tests.support.tiny_pipelines import tiny_pipeline

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

WEIGHTS = "diffusion_pytorch_model.safetensors"
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline("sd", tmp_path_factory.mktemp("models") / "generator")


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(pristine, tmp_path / "generator"))


def opened(folder: Path) -> str:
    """The digest of a folder that may be loaded. Raises ModelError."""
    open_model(str(folder), None, None, folder)
    return model_digest(str(folder), None, folder)


def behind_a_link(folder: Path, component: str) -> Path:
    """Move a component out of the folder and leave a link to it."""
    elsewhere = folder.parent / "elsewhere" / component
    elsewhere.parent.mkdir(exist_ok=True)
    shutil.move(folder / component, elsewhere)
    (folder / component).symlink_to(elsewhere)
    return elsewhere


def test_i6_weights_behind_a_link_to_a_folder_are_hashed_as_they_are_loaded(folder: Path) -> None:
    before = opened(folder)
    unet = behind_a_link(folder, "unet")
    assert opened(folder) == before
    other = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(str(unet)))
    other.save_pretrained(str(unet))
    assert opened(folder) != before


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("modeling.py", b"raise SystemExit", "found code in the model folder (unet/modeling.py)"),
        ("config.json", b'{"auto_map": {"AutoModel": "modeling.Net"}}', "found 'auto_map' in unet/config.json"),
        (WEIGHTS, b"cut", "expected a sound safetensors file"),
    ],
)
def test_i3_what_lies_behind_a_link_to_a_folder_is_checked_as_the_rest(
    folder: Path, name: str, content: bytes, found: str
) -> None:
    (behind_a_link(folder, "unet") / name).write_bytes(content)
    with pytest.raises(ModelError, match=found.replace("(", r"\(").replace(")", r"\)")):
        opened(folder)


@pytest.mark.parametrize("link", ["unet/again", "again"])
def test_a_link_that_leads_to_itself_or_far_away_is_refused_and_not_followed_without_end(
    folder: Path, link: str
) -> None:
    (folder / link).symlink_to(folder)
    with pytest.raises(ModelError, match=r"expected those of one model; look for a link to another folder"):
        opened(folder)


def hide_component(folder: Path) -> None:
    shutil.move(folder / "unet", folder / ".unet")
    index = json.loads((folder / "model_index.json").read_text())
    index[".unet"] = index.pop("unet")
    (folder / "model_index.json").write_text(json.dumps(index))


def hide_weights(folder: Path) -> None:
    shutil.move(folder / "unet" / WEIGHTS, folder / "unet" / f".{WEIGHTS}")
    index = {"weight_map": {"conv_in.weight": f".{WEIGHTS}"}}
    (folder / "unet" / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def adapt_text_encoder(folder: Path) -> None:
    content = {"base_model_name_or_path": "../another", "peft_type": "LORA"}
    (folder / "text_encoder" / "adapter_config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (hide_component, "found no folder '.unet'"),
        (hide_weights, "expected a file beside it"),
        (adapt_text_encoder, "text_encoder: found an adapter, whose base model lies elsewhere"),
    ],
)
def test_i6_a_folder_that_would_load_what_is_not_hashed_is_refused(
    folder: Path, change: Callable[[Path], None], found: str
) -> None:
    change(folder)
    with pytest.raises(ModelError, match=found):
        opened(folder)


@pytest.mark.parametrize("name", ["tokenizer.tiktoken", "vocab.bpe", "source.spm", "additional_chat_templates/a.jinja"])
def test_i6_the_digest_of_a_flat_folder_covers_what_tokenizers_read(tmp_path: Path, name: str) -> None:
    before = flat_digest(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{{ messages }}")
    assert flat_digest(tmp_path) != before


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (POINTER, "found a git-lfs pointer instead of the file; run `git lfs pull` in its repository"),
        (b"<!DOCTYPE html><html>Sign in</html>", "found a web page instead of the file"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_stands_in_for_another_is_named_as_what_it_is(
    pristine: Path, tmp_path: Path, name: str, content: bytes, found: str
) -> None:
    model = Path(shutil.copytree(pristine / "text_encoder", tmp_path / "model"))
    (model / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"{name}: {found}"):
        flat_model("judge.model", str(model), None, "config.json", "model.safetensors")


@pytest.mark.parametrize(
    "put", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("gone")]
)
def test_a_pipe_a_device_or_a_link_to_nowhere_is_named_and_never_opened(
    folder: Path, put: Callable[[Path], None]
) -> None:
    weights = folder / "unet" / WEIGHTS
    weights.unlink()
    put(weights)
    with pytest.raises(ModelError, match=f"{WEIGHTS}: found a link that leads nowhere, a pipe or a device"):
        opened(folder)
