"""What a U-Net makes of the text alone is made once a call, and the pictures keep their bits."""

import contextlib
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gen.sampler.sampler import Request, Sampler
from gen.sampler.spec import SamplerSpec
from gen.sampler.text_once import TextOnce
from shards.disk.home import home
from tests.support.tiny_pipelines import tiny_pipeline

SANDBOX = home() / "sandbox" / "models" / "generator"
REQUESTS = [Request(f"a number {number}", "", 100 + number) for number in range(3)]


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> Counter[torch.nn.Module]:
    """Layer -> how often it really computed."""
    counts: Counter[torch.nn.Module] = Counter()
    forward = torch.nn.Linear.forward

    def counted(layer: torch.nn.Linear, values: torch.Tensor) -> torch.Tensor:
        counts[layer] += 1
        return forward(layer, values)

    monkeypatch.setattr(torch.nn.Linear, "forward", counted)
    return counts


@pytest.fixture(params=["sandbox", "sdxl"])  # a summary of the text in the time embedding, and none
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return SANDBOX if request.param == "sandbox" else tiny_pipeline(request.param, tmp_path)


def load(model: Path, **fields: Any) -> Sampler:
    spec = {"size_px": 32, "steps": 4, "guidance": 3.0, "device": "cpu", **fields}
    return Sampler.load(SamplerSpec.model_validate({"model": str(model), **spec}))


def key_layers(sampler: Sampler) -> dict[str, torch.nn.Module]:
    modules = sampler._pipeline.unet.named_modules()
    return {name: module for name, module in modules if name.endswith(("attn2.to_k", "attn2.to_v"))}


def test_keys_and_values_of_the_text_are_computed_once_a_call(model: Path, products: Counter[torch.nn.Module]) -> None:
    sampler = load(model)
    layers = key_layers(sampler)
    assert layers
    for call in (1, 2):
        sampler.latents(REQUESTS)
        assert {products[layer] for layer in layers.values()} == {call}


@pytest.mark.parametrize("fields", [{"fuse_qkv": True}, {"guidance_interval": (0.25, 0.75)}])
def test_the_pictures_are_those_of_a_network_that_computes_them_every_step(
    model: Path, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    once = load(model, **fields).sample(REQUESTS).image_NHWC
    monkeypatch.setattr("gen.sampler.sampler.text_readers", lambda unet: [])
    assert np.array_equal(once, load(model, **fields).sample(REQUESTS).image_NHWC)


def test_another_text_in_the_next_call_is_not_answered_with_the_last_one(model: Path) -> None:
    sampler = load(model)
    first = sampler.latents(REQUESTS)
    other = [Request("a dog", "", request.seed) for request in REQUESTS]
    assert torch.equal(sampler.latents(other), load(model).latents(other))
    assert torch.equal(sampler.latents(REQUESTS), first)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_kept_once_a_call_is_over(fails: bool) -> None:
    layer = torch.nn.Linear(4, 4)
    once = TextOnce([layer])
    text = torch.zeros(1, 7, 4)
    with contextlib.suppress(RuntimeError), once.one_call():
        made = weakref.ref(layer(text))
        assert layer(text) is made()
        if fails:
            raise RuntimeError("out of memory")
    assert made() is None
