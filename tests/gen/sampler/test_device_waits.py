"""What a call does on the CPU waits for no number that a GPU has still to compute.

Without a GPU: a tensor of device "meta" has a shape and no values, so asking for a value raises, where on a GPU it
would wait. Values are those of the class that diffusers has.
"""

from inspect import signature
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from gen.sampler.sampler import Sampler
from gen.sampler.spec import SCHEDULERS, SamplerSpec
from tests.support.tiny_pipelines import tiny_pipeline

NAMES = [name for name, (_, _, families) in SCHEDULERS.items() if "sd" in families]
WAITLESS = [name for name in NAMES if name != "unipc"]  # which solves its little systems on the device
SHAPE = (2, 4, 8, 8)
STEPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline("sd", tmp_path_factory.mktemp("models") / "sd")


def ours(folder: Path, name: str | None) -> Any:
    return Sampler.load(SamplerSpec(model=str(folder), size_px=64, device="cpu", scheduler=name))._pipeline.scheduler


def plain(scheduler: Any) -> Any:
    return getattr(diffusers, type(scheduler).__name__).from_config(scheduler.config)


def denoise(scheduler: Any, device: str) -> torch.Tensor:
    """All steps over noise, with a model that halves its input."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(SHAPE[0])]
    given = {"generator": generators} if "generator" in signature(scheduler.step).parameters else {}
    scheduler.set_timesteps(STEPS, device=device)
    sample = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9)).to(device)
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(sample, timestep)
        sample = scheduler.step(scaled / 2, timestep, sample, return_dict=False, **given)[0]
    return sample


@pytest.mark.parametrize("name", [None, *NAMES])
def test_a_scheduler_makes_the_samples_that_diffusers_own_makes(folder: Path, name: str | None) -> None:
    scheduler = ours(folder, name)
    assert torch.equal(denoise(scheduler, "cpu"), denoise(plain(scheduler), "cpu"))


@pytest.mark.parametrize("name", WAITLESS)
def test_no_step_asks_the_device_for_a_value(folder: Path, name: str) -> None:
    assert denoise(ours(folder, name), "meta").shape == SHAPE


@pytest.mark.parametrize("name", WAITLESS)
def test_what_diffusers_own_class_asks_for_would_be_seen_here(folder: Path, name: str) -> None:
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        denoise(plain(ours(folder, name)), "meta")
