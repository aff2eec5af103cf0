"""A picture drawn anew in the shape of its object, by tiny ControlNets in their true on-disk format.

The independent reference is diffusers' own `__call__`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image as Pil
from pydantic import TypeAdapter

from gen.edit.cells import Settings
from gen.edit.editors.editor import Change, Editor
from gen.edit.editors.open import open_editor
from gen.edit.editors.spec import EditorSpec, check_editor, editor_digest
from gen.edit.priors.edges import edge_image, mask_image
from gen.edit.priors.paste import core_of
from gen.sampler.sampler import Request, Sampler
from gen.sampler.spec import SamplerSpec
from tests.support.alter_makers import alter_of, attribute, made_by, mask_of, table_of
from tests.support.small_edits import write_real
from tests.support.tiny_editors import tiny_controlnet
from tests.support.tiny_pipelines import tiny_pipeline

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIDE = 64
PAPER = attribute("background", "yellow paper", (252, 226, 70))
INK = attribute("colour", "green ink", (15, 120, 35))


def change_of(source_HWC: np.ndarray, object_HW: np.ndarray, prompt: str, seed: int) -> Change:
    settings = Settings(strength=0.5, alpha=0.5)
    return Change("background", "yellow paper", Request(prompt, "", seed), source_HWC, source_HWC, object_HW, settings)


def painted(editor: Editor, asked: Sequence[Change]) -> np.ndarray:
    sampled = editor.change(asked, lambda share: None)
    sampled.wait(60)
    assert sampled.finite_N.all()
    return sampled.image_NHWC


def opened(fields: dict[str, Any], model: str) -> Editor:
    spec: Any = TypeAdapter(EditorSpec).validate_python(fields)
    check_editor(spec, SIDE)
    sampler = Sampler.load(SamplerSpec(model=model, steps=1, size_px=SIDE, batch=4, device="cpu"))
    return open_editor(spec, sampler, editor_digest(spec))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiny")
    tiny_pipeline("sd", root / "sd")
    tiny_controlnet(root / "sd", root / "control")
    return root


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_real(tmp_path_factory.mktemp("real") / "set")


def control(root: Path, **fields: Any) -> dict[str, Any]:
    return {"kind": "control", "model": str(root / "sd"), "controlnet": str(root / "control"), **fields}


@pytest.mark.parametrize("condition", ["mask", "edges"])
def test_a_picture_is_the_one_that_the_pipelines_own_call_makes_of_mask_or_edges(tiny: Path, condition: str) -> None:
    rng = np.random.default_rng(3)
    object_HW = np.hypot(*np.mgrid[-32:32, -32:32]) < 17
    asked = change_of(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), object_HW, "a nine on moss", 11)
    fields = control(tiny, condition=condition, steps=2, control_scale=0.7)
    ours = painted(opened(fields, str(tiny / "sd")), [asked])[0]
    base = diffusers.StableDiffusionPipeline.from_pretrained(tiny / "sd", local_files_only=True).components
    network = diffusers.ControlNetModel.from_pretrained(tiny / "control", local_files_only=True)
    pipeline = diffusers.StableDiffusionControlNetPipeline(**base, controlnet=network, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    shape_HWC = mask_image(object_HW) if condition == "mask" else edge_image(asked.source_HWC, object_HW)
    theirs = pipeline(
        prompt="a nine on moss",
        image=Pil.fromarray(shape_HWC),
        num_inference_steps=2,
        guidance_scale=7.5,
        controlnet_conditioning_scale=0.7,
        generator=torch.Generator().manual_seed(11),
        output_type="np",
    ).images[0]
    assert np.abs(ours.astype(int) - np.rint(theirs * 255).astype(int)).max() <= 1


def test_a_mask_is_drawn_white_on_black() -> None:
    object_HW = np.eye(4, dtype=bool)
    assert (mask_image(object_HW) == np.where(object_HW, 255, 0)[..., None]).all()
    assert mask_image(object_HW).shape == (4, 4, 3)
    assert mask_image(object_HW).dtype == np.uint8


@pytest.mark.parametrize("paste", ["soft", "none"])
def test_the_source_comes_back_or_nothing_of_it_does_as_the_recipe_says(
    tiny: Path, real: Path, tmp_path: Path, paste: str
) -> None:
    editor = opened(control(tiny, steps=1), str(tiny / "sd"))
    prompts = table_of(tmp_path / "prompts.parquet")
    maker = alter_of(real, prompts, tmp_path, (PAPER, INK), editor, paste=paste, prior="drawn")
    seen = set()
    for picture, row, source_HWC in made_by(maker):
        told, mask_HW = json.loads(row["edit"]), mask_of(row)
        kept_HW = core_of(mask_HW) if told["kind"] == "background" else ~mask_HW
        assert picture.image_HWC is not None
        same_HW = (picture.image_HWC == source_HWC).all(axis=2)
        assert same_HW[kept_HW].all() == (paste == "soft")
        assert paste == "soft" or same_HW.mean() < 0.01
        assert ("halo" in told) is (paste == "soft" and told["kind"] == "background")
        seen.add(told["kind"])
    assert seen == {"background", "colour"}
