"""Editors with networks of their own, from folders in their true on-disk format with random weights. One picture a
call: all comparisons are of bytes.

The independent reference is diffusers' own `__call__`, from texts and pictures to pixels.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image as Pil
from pydantic import TypeAdapter

from gen.edit.cells import Settings
from gen.edit.editors.editor import Change, Editor, Own
from gen.edit.editors.open import Apart, open_editor
from gen.edit.editors.shelf import Shelf, bytes_of
from gen.edit.editors.spec import EditorSpec, OwnSpec, check_editor, editor_digest, pipeline_folder
from gen.edit.editors.stages import Inpaint
from gen.edit.editors.stock import Stock
from gen.edit.priors.background import background_region
from gen.sampler.pipeline import from_folder
from gen.sampler.sampler import Request, Sampler
from gen.sampler.spec import SamplerSpec
from tests.support.tiny_editors import CLASSES, tiny_controlnet, tiny_editor, tiny_ip_adapter
from tests.support.tiny_pipelines import tiny_pipeline

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIDE = 64
ALL = ("inpaint-sd", "inpaint-sdxl", "fill", "kontext", "cascade-sd", "cascade-sdxl", "controlnet-sdxl")
INPAINTERS = ("inpaint-sd", "inpaint-sdxl", "fill")
CASCADES = ("cascade-sd", "cascade-sdxl")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("editors")
    for name in CLASSES:
        tiny_editor(name, root / name)
    for family in ("sd", "sdxl"):
        base = root / f"inpaint-{family}-base"
        tiny_controlnet(base, root / f"controlnet-{family}")
        tiny_ip_adapter(base, root / f"ip-{family}")
    return root


def spec_of(root: Path, name: str, **fields: Any) -> Any:
    if name.startswith("inpaint") or name == "fill":
        parts = {"kind": "inpaint", "model": str(root / name), "steps": 2}
    elif name == "kontext":
        parts = {"kind": "instruct", "model": str(root / name), "steps": 1}
    else:
        family = name.rpartition("-")[2]
        parts = {
            "kind": "cascade",
            "model": str(root / f"inpaint-{family}"),
            "steps": 2,
            "base": str(root / f"inpaint-{family}-base"),
            "controlnet": str(root / f"controlnet-{family}"),
            "control_steps": 1,
            "ip_adapter": str(root / f"ip-{family}") if name.startswith("cascade") else None,
        }
    spec: Any = TypeAdapter(EditorSpec).validate_python({**parts, **fields})
    return spec


@cache
def sampler_of(root: Path) -> Sampler:
    model = str(root / "inpaint-sd-base")
    return Sampler.load(SamplerSpec(model=model, steps=3, size_px=SIDE, batch=4, device="cpu"))


def load_anew(root: Path, name: str, **fields: Any) -> Any:
    spec = spec_of(root, name, **fields)
    check_editor(spec, SIDE)
    return open_editor(spec, sampler_of(root), editor_digest(spec))


load = cache(load_anew)


def changes(kind: Any, num: int = 2, **settings: Any) -> list[Change]:
    """Discs on noise, with a prior: another place under them, or grey over them."""
    rng, made = np.random.default_rng(7), []
    for place in range(num):
        source_HWC = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        object_HW = np.hypot(*np.mgrid[-32:32, -32:32]) < 14 + 3 * place
        region_HW = ~object_HW if kind == "background" else object_HW
        start_HWC = np.where(region_HW[..., None], np.uint8(180), source_HWC)
        request = Request(f"a nine {place} on moss", "", 100 + place)
        whole = Settings(**{"strength": 0.5, "alpha": 0.5, **settings})
        made.append(Change(kind, "moss", request, source_HWC, start_HWC, object_HW, whole))
    return made


def pictures(editor: Editor, asked: Sequence[Change]) -> np.ndarray:
    sampled = editor.change(asked, lambda share: None)
    sampled.wait(60)
    assert sampled.finite_N.all()
    assert not sampled.flagged_N.any()
    return sampled.image_NHWC


def stock_of(editor: Apart) -> Stock:
    changer = editor._changer
    return changer.first.stock if hasattr(changer, "first") else changer.stock  # type: ignore[attr-defined]


def networks_of(editor: Apart) -> list[torch.nn.Module]:
    parts = stock_of(editor).pipeline.components.values()
    return [part for part in parts if isinstance(part, torch.nn.Module)]


@contextmanager
def counted_calls(module: torch.nn.Module) -> Iterator[list[int]]:
    calls: list[int] = []
    handle = module.register_forward_pre_hook(lambda *told: calls.append(1))
    yield calls
    handle.remove()


@pytest.mark.parametrize("kind", ["background", "colour"])
@pytest.mark.parametrize("name", ALL)
def test_a_picture_has_the_same_bytes_alone_and_in_any_company(root: Path, name: str, kind: str) -> None:
    editor, asked = load(root, name), changes(kind)
    together = pictures(editor, asked)
    assert together.shape == (2, SIDE, SIDE, 3)
    assert together.dtype == np.uint8
    assert len({image.tobytes() for image in together}) == 2
    assert np.array_equal(pictures(editor, asked[::-1])[::-1], together)
    assert np.array_equal(pictures(editor, asked[1:2])[0], together[1])


@pytest.mark.parametrize("name", ALL)
def test_the_same_seed_gives_the_same_bytes_after_loading_again_and_another_seed_others(root: Path, name: str) -> None:
    (asked,) = changes("colour", num=1)
    first = pictures(load(root, name), [asked])
    assert np.array_equal(pictures(load_anew(root, name), [asked]), first)
    other = replace(asked, request=replace(asked.request, seed=5))
    assert not np.array_equal(pictures(load(root, name), [other]), first)


@pytest.mark.parametrize("name", [*INPAINTERS, "kontext"])
def test_a_picture_is_the_one_that_the_pipelines_own_call_makes(root: Path, name: str) -> None:
    asked = changes("background", num=1)[0]
    ours = pictures(load(root, name), [asked])[0]
    pipeline = getattr(diffusers, CLASSES[name]).from_pretrained(root / name, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    told: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 7.5, "strength": 0.5}
    told |= {"prompt": asked.request.prompt, "mask_image": Pil.fromarray(asked.region_HW)}
    if name == "kontext":
        prompt = "change the background to moss, keep the object as it is"
        told = {"num_inference_steps": 1, "guidance_scale": 2.5, "prompt": prompt, "max_area": SIDE * SIDE}
        told["_auto_resize"] = False
    theirs = pipeline(
        image=Pil.fromarray(asked.source_HWC if name == "kontext" else asked.start_HWC),
        height=SIDE,
        width=SIDE,
        generator=torch.Generator().manual_seed(100),
        output_type="np",
        **told,
    ).images[0]
    assert np.abs(ours.astype(int) - np.rint(theirs * 255).astype(int)).max() <= 1


def test_the_region_of_a_background_is_blurred_as_the_recipe_says_and_that_of_a_colour_is_not(root: Path) -> None:
    """Compared with the pipeline's own call; thin strokes, of which the blur leaves nothing."""
    name, blur_px = "inpaint-sd", 21
    asked = changes("background", num=1)[0]
    strokes_HW = np.zeros((SIDE, SIDE), bool)
    strokes_HW[10:54, 30:33] = strokes_HW[30:33, 10:54] = True
    asked = replace(asked, object_HW=strokes_HW)
    ours = pictures(load(root, name, region_blur_px=blur_px), [asked])[0]
    pipeline = getattr(diffusers, CLASSES[name]).from_pretrained(root / name, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompt=asked.request.prompt,
        image=Pil.fromarray(asked.start_HWC),
        mask_image=Pil.fromarray(background_region(strokes_HW, blur_px)),
        height=SIDE,
        width=SIDE,
        strength=0.5,
        num_inference_steps=2,
        guidance_scale=7.5,
        generator=torch.Generator().manual_seed(100),
        output_type="np",
    ).images[0]
    assert np.abs(ours.astype(int) - np.rint(theirs * 255).astype(int)).max() <= 1
    plain = load(root, name)
    assert not np.array_equal(pictures(plain, [asked])[0], ours)
    ink = replace(asked, kind="colour")
    assert np.array_equal(pictures(plain, [ink]), pictures(load(root, name, region_blur_px=blur_px), [ink]))


@pytest.mark.parametrize("name", INPAINTERS)
@pytest.mark.parametrize(("strength", "taken"), [(0.25, 1), (0.75, 3), (0.99, 3), (1.0, 4)])
def test_of_the_steps_the_last_floor_of_their_share_is_taken(
    root: Path, name: str, strength: float, taken: int
) -> None:
    editor = load(root, name)
    pipeline = stock_of(editor).pipeline
    with counted_calls(pipeline.transformer if name == "fill" else pipeline.unet) as calls:
        pictures(editor, changes("colour", num=1, strength=strength, steps=4))
    assert len(calls) == taken


@pytest.mark.parametrize("name", ALL)
def test_steps_and_guidance_of_a_cell_win_over_the_editors_own(root: Path, name: str) -> None:
    editor, plain = load(root, name), changes("background", num=1)
    own = pictures(editor, plain)
    for told in ({"steps": 4}, {"guidance": 4.0}):
        assert not np.array_equal(pictures(editor, changes("background", num=1, **told)), own)
    spec = spec_of(root, name)
    same = {"steps": spec.steps, "guidance": spec.guidance}
    assert np.array_equal(pictures(editor, changes("background", num=1, **same)), own)


@pytest.mark.parametrize("name", ALL)
def test_a_prior_counts_where_an_editor_says_that_it_wants_one_and_nowhere_else(root: Path, name: str) -> None:
    for kind in ("background", "colour"):
        editor, (asked,) = load(root, name), changes(kind, num=1)
        bare = replace(asked, start_HWC=asked.source_HWC)
        same = np.array_equal(pictures(editor, [asked]), pictures(editor, [bare]))
        assert same is not editor.wants_prior(kind)


@pytest.mark.parametrize("name", CASCADES)
def test_a_background_has_the_first_stage_alone_and_an_object_both(root: Path, name: str) -> None:
    both, first = load(root, name), load(root, name.replace("cascade", "inpaint"))
    for kind, same in (("background", True), ("colour", False)):
        asked = changes(kind)
        assert np.array_equal(pictures(both, asked), pictures(first, asked)) is same


@pytest.mark.parametrize("name", CASCADES)
def test_in_a_cascade_edges_looks_and_their_scales_count(root: Path, name: str) -> None:
    editor, (asked,) = load(root, name), changes("texture", num=1)
    own = pictures(editor, [asked])
    other_HW = np.zeros_like(asked.object_HW)
    other_HW[10:50, 20:40] = True
    scaled = replace(asked, settings=replace(asked.settings, ip_scale=1.0))
    for other in (scaled, replace(asked, object_HW=other_HW)):
        assert not np.array_equal(pictures(editor, [other]), own)
    without = load(root, name, control_scale=0.0)
    assert not np.array_equal(pictures(without, [asked]), own)
    off = [replace(asked, settings=replace(asked.settings, ip_scale=0.0)) for asked in changes("texture", num=1)]
    plain = load(root, name, ip_adapter=None)
    assert np.array_equal(pictures(editor, off), pictures(plain, off))


def test_a_negative_text_counts_and_that_of_the_recipe_stands_in_for_none(root: Path) -> None:
    (asked,) = changes("colour", num=1)
    named = replace(asked, request=replace(asked.request, negative="blurry"))
    for name in ("inpaint-sdxl", "controlnet-sdxl"):
        editor = load(root, name)
        assert not np.array_equal(pictures(editor, [named]), pictures(editor, [asked]))
    stock = stock_of(load(root, "inpaint-sdxl"))
    spec = spec_of(root, "inpaint-sdxl")
    by_recipe, by_prompt = (Inpaint(stock, spec, negative) for negative in ("blurry", ""))
    made = [by_recipe.change([asked], print)[0], by_prompt.change([named], print)[0]]
    assert np.array_equal(made[0].image_HWC, made[1].image_HWC)


def break_the_letter_q(stock: Stock) -> None:
    """Texts with it become NaN, and no others."""
    tokenizer = stock.pipeline.tokenizer
    embedding = stock.pipeline.text_encoder.get_input_embeddings()
    with torch.no_grad():
        for token in ("q", "q</w>"):
            embedding.weight[tokenizer.convert_tokens_to_ids(token)] = torch.nan


@pytest.mark.parametrize("name", ALL)
def test_a_picture_with_nan_is_told_and_the_others_have_their_bytes(root: Path, name: str) -> None:
    editor, asked = load_anew(root, name), changes("colour")
    whole = pictures(editor, asked)
    break_the_letter_q(stock_of(editor))
    if name == "controlnet-sdxl":  # has no first stage
        break_the_letter_q(editor._changer.second)
    bad = replace(asked[0], words="quartz", request=replace(asked[0].request, prompt="a quartz nine"))
    made = editor.change([bad, asked[1]], lambda share: None)
    made.wait(60)
    assert made.finite_N.tolist() == [False, True]
    assert np.array_equal(made.image_NHWC[1], whole[1])


@pytest.mark.parametrize("name", ALL)
def test_a_call_says_how_far_it_is(root: Path, name: str) -> None:
    shares: list[float] = []
    load(root, name).change(changes("colour"), shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len(set(shares)) >= 2  # a step for each picture


def test_the_safety_checker_that_comes_with_a_model_has_its_say(root: Path, tmp_path: Path) -> None:
    folder = tiny_pipeline("sd", tmp_path / "checked", checker_flags=True)
    parts = diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True).components
    diffusers.StableDiffusionInpaintPipeline(**parts).save_pretrained(tmp_path / "inpaint")
    for tokenizer in (folder / "tokenizer").iterdir():
        (tmp_path / "inpaint" / "tokenizer" / tokenizer.name).write_bytes(tokenizer.read_bytes())
    (tmp_path / "inpaint" / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
    spec = spec_of(tmp_path, "inpaint", model=str(tmp_path / "inpaint"))
    made = open_editor(spec, sampler_of(root), "").change(changes("colour", num=1), lambda share: None)
    assert (made.finite_N.tolist(), made.flagged_N.tolist()) == ([True], [True])


def test_priors_are_drawn_by_the_text_to_image_model_and_the_own_editor_is_that_model(root: Path) -> None:
    sampler, requests = sampler_of(root), [Request("a page of moss", "", 3), Request("lava", "", 4)]
    apart, own = load(root, "inpaint-sdxl"), open_editor(OwnSpec(kind="own"), sampler, "")
    assert isinstance(own, Own)
    drawn = []
    for editor in (apart, own):
        editor.prepare(["a nine on moss"], [request.prompt for request in requests], [""])
        made = editor.draw(requests, lambda share: None)
        made.wait(60)
        drawn.append(made.image_NHWC)
    sampler.prepare([request.prompt for request in requests])
    assert np.array_equal(drawn[0], sampler.sample(requests).image_NHWC)
    assert own.columns == {}
    assert apart.columns["model"] == "StableDiffusionXLInpaintPipeline"


def test_networks_that_take_turns_on_a_small_device_make_the_same_pictures(root: Path) -> None:
    """On the CPU by its other name, so that every move is asked for and none changes a number."""
    asked, name = changes("colour"), "inpaint-sdxl"
    own = pictures(load(root, name), asked)
    sizes = [bytes_of([one]) for one in networks_of(load(root, name))]
    for budget in (None, max(sizes)):
        moves: list[tuple[int, str]] = []
        shelf = Shelf("cpu:0", budget, lambda network, where, to=moves: to.append((bytes_of([network]), where)))  # type: ignore[misc]
        spec = spec_of(root, name)
        pipeline = from_folder(pipeline_folder(spec), None, torch.float32, "tiny", torch.device("cpu"))
        made = Inpaint(Stock(pipeline, "sdxl", shelf, "tiny"), spec, "").change(asked, lambda share: None)
        assert np.array_equal(np.stack([one.image_HWC for one in made]), own)
        held = 0
        for num_bytes, where in moves:
            held += num_bytes if where == "cpu:0" else -num_bytes
            assert budget is None or held <= budget
        if budget is None:
            assert sorted(moves) == sorted((num_bytes, "cpu:0") for num_bytes in sizes)
        else:
            assert len(moves) > 2 * len(sizes)
