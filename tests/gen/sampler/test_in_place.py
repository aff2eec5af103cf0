"""Activations that write over what they read change no bit of a picture, and nothing that another layer reads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D

from gen.sampler.in_place import activate_in_place
from gen.sampler.sampler import Request, Sampler
from gen.sampler.spec import SamplerSpec
from shards.disk.home import home
from tests.support.tiny_pipelines import tiny_pipeline

SANDBOX = home() / "sandbox" / "models" / "generator"
REQUESTS = [Request(f"a number {number}", "", 100 + number) for number in range(3)]


def load(model: Path) -> Sampler:
    return Sampler.load(SamplerSpec(model=str(model), size_px=32, steps=3, guidance=3.0, device="cpu"))


@pytest.mark.parametrize("family", ["sandbox", "sd", "sdxl", "sd3", "flux"])
def test_the_pictures_are_those_of_activations_that_keep_what_they_read(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SANDBOX if family == "sandbox" else tiny_pipeline(family, tmp_path)
    over = load(model)
    drawn = over.sample(REQUESTS).image_NHWC
    monkeypatch.setattr("gen.sampler.sampler.activate_in_place", lambda network: None)
    assert np.array_equal(drawn, load(model).sample(REQUESTS).image_NHWC)


def test_an_activation_between_layers_takes_no_memory_and_the_time_embedding_stays_for_the_next_block() -> None:
    block = ResnetBlock2D(in_channels=32, temb_channels=8)
    values, embedding = torch.randn(1, 32, 4, 4), torch.randn(1, 8)
    expected = block(values, embedding)
    activate_in_place(block)
    before = values.clone(), embedding.clone()
    assert torch.equal(block(values, embedding), expected)
    assert torch.equal(values, before[0])
    assert torch.equal(embedding, before[1])
    normed = torch.randn(1, 32, 4, 4)
    assert block.nonlinearity(normed).data_ptr() == normed.data_ptr()


@pytest.mark.parametrize("settings", [{"non_linearity": "mish"}, {"non_linearity": "gelu"}])
def test_other_activations_stay_what_they_are(settings: dict[str, Any]) -> None:
    block = ResnetBlock2D(in_channels=32, temb_channels=None, **settings)
    activate_in_place(block)
    normed = torch.randn(1, 32, 4, 4)
    assert block.nonlinearity(normed).data_ptr() != normed.data_ptr()
