"""How the sandbox's ControlNet is made: from the generator, in diffusers' own format, the same from the same seed."""

from pathlib import Path

import numpy as np
import pytest

from sandbox import build, world

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MODELS = Path(world.__file__).parent / "models"


def test_an_untrained_controlnet_changes_nothing_and_reads_as_the_generator_does():
    import torch
    from diffusers import StableDiffusionControlNetPipeline

    from sandbox.controlnet import condition_of, new_controlnet
    from sandbox.generator import draw, load_generator

    plain = load_generator(MODELS / "generator")
    model = new_controlnet(plain.unet).eval()
    steered = StableDiffusionControlNetPipeline(**plain.components, controlnet=model, requires_safety_checker=False)
    steered.set_progress_bar_config(disable=True)
    told = ["two, the handwritten numeral, red ink on mint paper"], [3], 3
    condition = condition_of(np.ones((1, 64, 64), bool))
    np.testing.assert_array_equal(draw(steered, *told, conditions_NCHW=condition), draw(plain, *told))
    torch.nn.init.zeros_(model.controlnet_cond_embedding.conv_out.weight)
    torch.nn.init.zeros_(model.controlnet_cond_embedding.conv_out.bias)
    sample, words = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 128)
    ours = _way_down(model, sample, words, torch.ones(2, 3, 64, 64))
    torch.testing.assert_close(ours, _way_down(plain.unet, sample, words))


def _way_down(model, sample, words, *condition):
    """What its middle block gives."""
    import torch

    seen = []
    handle = model.mid_block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        model(sample, torch.tensor([500, 900]), words, *condition)
    handle.remove()
    return seen[0]


def test_a_controlnet_is_trained_to_the_same_weights_from_the_same_seed(tmp_path):
    import torch

    from sandbox.captions import pool_rows
    from sandbox.controlnet import ControlSpec, save_controlnet, train_controlnet
    from sandbox.generator import load_generator

    pipeline = load_generator(MODELS / "generator")
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    rows = list(pool_rows(6))
    masks = np.stack([world.ink_mask(row.scene) for row in rows])
    latents = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for name in ("first", "second"):
        model = train_controlnet(
            pipeline,
            latents,
            [row.caption for row in rows],
            masks,
            np.arange(2),
            ControlSpec(num_steps=2, batch=4),
            lambda step, loss: None,
        )
        save_controlnet(model, tmp_path / name)
    first, second = (
        (tmp_path / name / "diffusion_pytorch_model.safetensors").read_bytes() for name in ("first", "second")
    )
    assert first == second
    assert all(torch.equal(value, before[name]) for name, value in pipeline.unet.state_dict().items())


def test_a_build_leaves_a_controlnet_that_its_generator_takes(tmp_path, monkeypatch):
    from sandbox.controlnet import condition_of, load_controlled
    from sandbox.generator import draw

    (tmp_path / "generator").symlink_to(MODELS / "generator")
    monkeypatch.setattr(build, "NUM_CONTROLLED", 40)
    build.build_controlnet(tmp_path, 1, lambda line: None)
    names = {path.name for path in (tmp_path / "controlnet").iterdir()}
    assert names == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert sum(path.stat().st_size for path in (tmp_path / "controlnet").iterdir()) < 6_000_000
    condition = condition_of(np.ones((1, 64, 64), bool))
    drawn = draw(load_controlled(tmp_path), ["two"], [3], num_steps=2, conditions_NCHW=condition)
    assert drawn.shape == (1, 64, 64, 3)


def test_a_controlnet_without_a_generator_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"found no generator, expected one; run `python -m sandbox\.build --only unet`"
    ):
        build.build_controlnet(tmp_path, 1, lambda line: None)


def test_the_shipped_controlnet_draws_the_ink_where_it_is_told():
    from sandbox.controlnet import condition_of, load_controlled
    from sandbox.generator import draw
    from sandbox.segmenter import ink_of, load_segmenter, overlaps
    from sandbox.sets import set_scenes

    shipped = [MODELS / "segmenter", MODELS / "controlnet"]
    assert sum(path.stat().st_size for folder in shipped for path in folder.iterdir()) <= 8 * 2**20
    scenes = set_scenes("real-val")[:8]
    masks = np.stack([world.ink_mask(scene) for scene in scenes])
    told = [f"{world.CLASS_NAMES[s.class_id]}, the handwritten numeral, blue ink on white paper" for s in scenes]
    drawn = draw(load_controlled(MODELS), told, list(range(8)), conditions_NCHW=condition_of(masks))
    assert np.mean(overlaps(ink_of(load_segmenter(MODELS / "segmenter"), drawn), masks)) > 0.8
    assert {world.measure_ink_and_paper(image) for image in drawn} == {("blue", "white")}
