"""The noise of an inversion is that of the model's own scheduler; references are diffusers' schedulers for training."""

from typing import Any

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from gen.invert.noise import noise_of
from gen.model.folder import ModelError


@pytest.mark.parametrize("kind", [DPMSolverMultistepScheduler, EulerDiscreteScheduler, PNDMScheduler, DDPMScheduler])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noise_and_target_are_those_of_training_with_the_schedulers_betas(kind: Any, prediction: str) -> None:
    scheduler = kind(prediction_type=prediction, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    noise, reference = noise_of(scheduler, "sd", 16), DDPMScheduler.from_config(scheduler.config)
    clean, gaussian = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    index = noise.index(torch.tensor([0.0, 0.5, 0.9999]))
    steps = noise.timestep_T[index]
    assert steps.tolist() == [0, 500, 999]
    assert torch.allclose(noise.add(clean, gaussian, index), reference.add_noise(clean, gaussian, steps), atol=1e-6)
    wanted = gaussian if prediction == "epsilon" else reference.get_velocity(clean, gaussian, steps)
    assert torch.allclose(noise.target(clean, gaussian, index), wanted, atol=1e-6)


@pytest.mark.parametrize("tokens", [16, 1024])
@pytest.mark.parametrize("is_dynamic", [False, True])
def test_sigmas_of_flows_are_shifted_as_the_pipeline_shifts_them(is_dynamic: bool, tokens: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=is_dynamic)
    noise = noise_of(scheduler, "flux", tokens)
    if is_dynamic:
        scheduler.set_timesteps(sigmas=torch.linspace(1.0, 0.001, 1000).tolist(), mu=calculate_shift(tokens))
    wanted = scheduler.sigmas[:1000].flip(0)  # with little noise first, as ours
    assert torch.allclose(noise.added_T, wanted, atol=1e-6)
    assert torch.allclose(noise.timestep_T, 1000 * wanted, atol=1e-3)
    clean, gaussian = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    index, sigma = torch.tensor([700]), float(wanted[700])
    assert torch.allclose(noise.add(clean, gaussian, index), (1 - sigma) * clean + sigma * gaussian, atol=1e-5)
    assert torch.equal(noise.target(clean, gaussian, index), gaussian - clean)


def test_a_prediction_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ModelError, match=r"found the prediction type flow_prediction, expected epsilon"):
        noise_of(DPMSolverMultistepScheduler(prediction_type="flow_prediction"), "sd", 16)
