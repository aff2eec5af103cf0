"""What an editor's folders must be, and what its digest tells."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from safetensors.torch import load_file

from gen.edit.editors.open import open_editor
from gen.edit.editors.spec import EditorSpec, at_home, beside_of, check_editor, content_of, editor_digest
from gen.model.folder import ModelError
from gen.sampler.memory import Beside
from gen.sampler.sampler import Sampler
from gen.sampler.spec import SamplerSpec, check_sampler
from tests.support.tiny_editors import (
    IMAGE_ENCODER,
    IP_WEIGHTS,
    tiny_controlnet,
    tiny_editor,
    tiny_ip_adapter,
)
from tests.support.tiny_pipelines import tiny_pipeline

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    tiny_editor("inpaint-sdxl", root / "inpaint")
    tiny_editor("kontext", root / "kontext")
    tiny_pipeline("sd", root / "sd")
    tiny_controlnet(root / "inpaint-base", root / "control")
    tiny_controlnet(root / "sd", root / "control-sd")
    tiny_ip_adapter(root / "inpaint-base", root / "ip")
    tiny_ip_adapter(root / "sd", root / "ip-sd")
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """Copies that a test may damage."""
    return shutil.copytree(whole, tmp_path / "folders")


def parsed(fields: dict[str, Any]) -> Any:
    spec: Any = TypeAdapter(EditorSpec).validate_python(fields)
    return spec


def cascade(root: Path, **fields: Any) -> Any:
    parts = {"model": "inpaint", "base": "inpaint-base", "controlnet": "control", "ip_adapter": "ip"}
    return parsed({"kind": "cascade", **{name: str(root / folder) for name, folder in parts.items()}, **fields})


def control(root: Path, **fields: Any) -> Any:
    return parsed(
        {"kind": "control", "model": str(root / "inpaint-base"), "controlnet": str(root / "control"), **fields}
    )


@pytest.mark.parametrize("kind", ["StableDiffusionXLInpaintPipeline", "FluxKontextPipeline"])
def test_a_recipe_of_generate_that_names_an_editor_is_refused_with_one_line(whole: Path, kind: str) -> None:
    folder = whole / ("inpaint" if "Inpaint" in kind else "kontext")
    with pytest.raises(ModelError, match=rf"found pipeline class '{kind}', expected one of StableDiff") as told:
        check_sampler(SamplerSpec(model=str(folder)))
    assert "this one changes pictures: name it in edit.editor.model" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("kind", "folder", "line"),
    [
        ("inpaint", "sd", "found pipeline class 'StableDiffusionPipeline', expected one of StableDiffusionInpaint"),
        ("inpaint", "kontext", "found pipeline class 'FluxKontextPipeline'"),
        ("instruct", "inpaint", "found pipeline class 'StableDiffusionXLInpaintPipeline', expected one of FluxKontext"),
        ("inpaint", "nowhere", "found no such folder"),
        ("control", "inpaint", "found pipeline class 'StableDiffusionXLInpaintPipeline', expected one of StableDiff"),
    ],
)
def test_a_pipeline_of_another_kind_is_refused(whole: Path, kind: str, folder: str, line: str) -> None:
    more = {"controlnet": str(whole / "control")} if kind == "control" else {}
    with pytest.raises(ModelError, match=line) as told:
        check_editor(parsed({"kind": kind, "model": str(whole / folder), **more}), 64)
    assert "\n" not in str(told.value)


def test_a_size_that_its_family_does_not_take_is_refused(whole: Path) -> None:
    check_editor(parsed({"kind": "inpaint", "model": str(whole / "inpaint")}), 72)
    with pytest.raises(ModelError, match=r"size_px: found 72, the family flux of edit\.editor\.model expects a mul"):
        check_editor(parsed({"kind": "instruct", "model": str(whole / "kontext")}), 72)


def test_a_controlnet_for_another_text_is_refused(whole: Path) -> None:
    with pytest.raises(ModelError, match=r"controlnet .*found a text width of 32, expected 64 as edit\.editor\.base"):
        check_editor(cascade(whole, controlnet=str(whole / "control-sd")), 64)
    check_editor(control(whole), 64)
    with pytest.raises(ModelError, match=r"controlnet .*found a text width of 32, expected 64 as edit\.editor\.model"):
        check_editor(control(whole, controlnet=str(whole / "control-sd")), 64)


def test_an_ip_adapter_for_another_denoiser_is_refused_when_it_is_loaded(whole: Path) -> None:
    sampler = Sampler.load(SamplerSpec(model=str(whole / "sd"), size_px=64, batch=1, device="cpu"))
    with pytest.raises(ModelError, match="ControlNet and IP-Adapter do not go with the base") as told:
        open_editor(cascade(whole, ip_adapter=str(whole / "ip-sd")), sampler, "")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("place", "pickle"),
    [
        ("inpaint/unet/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ("inpaint-base/unet/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ("control/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        (f"ip/{IMAGE_ENCODER}/model.safetensors", "pytorch_model.bin"),
        (f"ip/{IP_WEIGHTS}", "ip-adapter-plus_sdxl_vit-h.bin"),
    ],
)
def test_weights_that_are_pickles_are_refused_before_a_library_opens_them(root: Path, place: str, pickle: str) -> None:
    check_editor(cascade(root), 64)
    (root / place).rename((root / place).parent / pickle)
    with pytest.raises(ModelError) as told:
        check_editor(cascade(root), 64)
    assert "expected" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("place", ["inpaint", "inpaint-base", "control", f"ip/{IMAGE_ENCODER}", "ip/sdxl_models"])
def test_code_in_a_folder_is_refused(root: Path, place: str) -> None:
    (root / place / "modeling.py").write_text("print('here')")
    with pytest.raises(ModelError, match="found code in the model folder"):
        check_editor(cascade(root), 64)


def test_remote_code_in_a_config_is_refused(root: Path) -> None:
    config = root / "control" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "auto_map": {"AutoModel": "x.y"}}))
    with pytest.raises(ModelError, match=r"'auto_map' in config\.json"):
        check_editor(cascade(root), 64)


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("ip_weights", "../secret.safetensors", "ip_weights"),
        ("ip_weights", "sdxl_models/ip.bin", "expected a .safetensors file"),
        ("image_encoder", "/etc", "image_encoder"),
        ("revision", "main", "expected a commit of 40 hex digits"),
        ("controlnet_revision", "main", "expected a commit of 40 hex digits"),
        ("device_gib", 0, "device_gib"),
        ("region_blur_px", 40, "region_blur_px\n.* found 40, expected an odd number of px, or 0 for none"),
    ],
)
def test_a_field_that_cannot_be_meant_is_refused(whole: Path, field: str, value: object, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        cascade(whole, **{field: value})


def test_an_instruction_names_its_attribute(whole: Path) -> None:
    told = {"kind": "instruct", "model": "anywhere", "instruction": {"colour": "make it {color}"}}
    with pytest.raises(ValueError, match=r"instruction\.colour: found 'make it \{color\}', expected the slot"):
        parsed(told)


@pytest.mark.parametrize(
    "place",
    [
        "inpaint/unet/config.json",
        "inpaint-base/vae/config.json",
        "control/config.json",
        f"ip/{IMAGE_ENCODER}/config.json",
    ],
)
def test_the_digest_follows_the_bytes_of_each_folder_and_not_its_place(root: Path, place: str, tmp_path: Path) -> None:
    before = editor_digest(cascade(root))
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    assert editor_digest(cascade(moved)) == before
    assert content_of(cascade(moved)) == content_of(cascade(root))
    (moved / place).write_text((moved / place).read_text() + " ")
    assert editor_digest(cascade(moved)) != before


def test_the_digest_of_a_controlnet_alone_follows_both_of_its_folders(root: Path) -> None:
    digests = {editor_digest(control(root))}
    for place in ("inpaint-base/unet/config.json", "control/config.json"):
        (root / place).write_text((root / place).read_text() + " ")
        digests.add(editor_digest(control(root)))
    assert len(digests) == 3
    assert content_of(control(root, condition="mask")) != content_of(control(root))


def test_the_content_has_what_decides_pixels_and_not_the_room_on_a_device(whole: Path) -> None:
    plain = content_of(cascade(whole))
    assert content_of(cascade(whole, device_gib=8)) == plain
    assert content_of(cascade(whole, ip_scale=0.5)) != plain
    assert str(whole) not in json.dumps(plain)


def test_workers_are_given_whole_paths(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(whole)
    spec = cascade(Path(), model="inpaint", base="inpaint-base", controlnet="control", ip_adapter="ip")
    away = at_home(spec)
    monkeypatch.chdir("/")
    assert content_of(away) == content_of(cascade(whole))
    assert parsed({"kind": "own"}) == at_home(parsed({"kind": "own"}))


@pytest.mark.parametrize(
    ("make", "folders"),
    [
        (cascade, ["inpaint", "inpaint-base", "control", "ip"]),
        (control, ["inpaint-base", "control"]),
        (lambda root: parsed({"kind": "inpaint", "model": str(root / "inpaint"), "device_gib": 2}), ["inpaint"]),
        (lambda root: parsed({"kind": "own"}), []),
    ],
    ids=["cascade", "control", "inpaint", "own"],
)
def test_what_an_editor_adds_to_memory_is_every_weight_that_it_loads(root: Path, make: Any, folders: list[str]) -> None:
    files = [file for folder in folders for file in (root / folder).rglob("*.safetensors")]
    expected = sum(value.numel() for file in files for value in load_file(file).values())
    other = root / f"ip/{IP_WEIGHTS}"
    shutil.copy(other, other.with_name("another.safetensors"))
    spec = make(root)
    assert beside_of(spec) == Beside(expected, 2 << 30 if spec.kind == "inpaint" else None)
