"""The sandbox's autoencoder: what it keeps of a picture, and what its training presses on it to keep."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sandbox import score, sets, world
from sandbox.autoencoder import (
    AutoencoderSpec,
    covariance_penalty,
    decode,
    encode,
    load_autoencoder,
    new_autoencoder,
    pixel_weights,
    train_autoencoder,
)

MODELS = Path(world.__file__).parent / "models"


def latents_of(seed: int) -> Tensor:
    """Latents 64 4 8 8 with mean 0 and unit covariance over all cells, exactly."""
    cells = torch.randn(64 * 64, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    cells -= cells.mean(0)
    root = torch.linalg.cholesky(torch.linalg.inv(torch.cov(cells.T)))
    return (cells @ root).reshape(64, 8, 8, 4).permute(0, 3, 1, 2)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), factor=st.floats(0, 3), shift=st.floats(-2, 2))
def test_the_penalty_is_the_mean_of_the_squares_by_which_means_and_covariance_are_off(seed, factor, shift):
    latents = latents_of(seed)
    assert float(covariance_penalty(latents)) == pytest.approx(0, abs=1e-12)
    turned = torch.einsum("ij,bjhw->bihw", torch.linalg.qr(latents[0, :, :4, 0]).Q, latents)
    assert float(covariance_penalty(turned)) == pytest.approx(0, abs=1e-12)
    latents[:, 2] = factor * latents[:, 2] + shift
    assert float(covariance_penalty(latents)) == pytest.approx((factor**2 - 1) ** 2 / 16 + shift**2 / 4, abs=1e-9)


def test_channels_that_all_say_the_same_have_a_penalty():
    latents = latents_of(1)
    assert float(covariance_penalty(latents[:, :1].expand(-1, 4, -1, -1))) == pytest.approx(12 / 16)


def test_the_error_of_a_thin_stroke_counts_more_than_that_of_the_paper_around_it():
    page = torch.ones(1, 3, 20, 20)
    page[:, :, 8:10, 4:16] = -1.0
    counts = pixel_weights(page, 0.5)
    assert counts.shape == (1, 1, 20, 20)
    assert float(counts.mean()) == pytest.approx(1)
    stroke = 24 / 400  # of the pixels; their colours differ alike from each other, so the mean lies that near the paper
    assert float(counts[0, 0, 9, 9]) == pytest.approx(0.5 + 0.25 / stroke, rel=1e-4)
    assert float(counts[0, 0, 0, 0]) == pytest.approx(0.5 + 0.25 / (1 - stroke), rel=1e-4)
    assert float((pixel_weights(page, 0.0) - 1).abs().max()) == 0
    torch.testing.assert_close(pixel_weights(torch.full((1, 3, 8, 8), 0.3), 0.5), torch.full((1, 1, 8, 8), 0.5))


def test_the_1x1_convolutions_pass_everything_on_until_the_latents_are_whitened():
    model = new_autoencoder()
    numbers = torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(model.quant_conv(numbers), numbers)
    torch.testing.assert_close(model.post_quant_conv(numbers[:, :4]), numbers[:, :4])
    assert not any(one.requires_grad for conv in (model.quant_conv, model.post_quant_conv) for one in conv.parameters())


def test_the_shipped_autoencoder_keeps_inks_and_papers_and_one_that_lost_a_channel_does_not():
    vae = load_autoencoder(MODELS / "generator" / "vae")
    plain = [replace(scene, ground="plain", light="daylight") for scene in sets.set_scenes("real-val")[:48]]
    true = np.stack([world.render(scene) for scene in plain])
    latents = encode(vae, true)

    def kept(images):
        pairs = zip(map(world.measure_ink_and_paper, true), map(world.measure_ink_and_paper, images), strict=True)
        return np.mean([before == after for before, after in pairs])

    assert kept(decode(vae, latents)) > 0.97  # the bar itself is measured by sandbox.score on 500 pictures
    latents[:, 1] = 0
    assert kept(decode(vae, latents)) < 0.9


def test_an_autoencoder_is_trained_to_the_same_whitened_latents_from_the_same_seed():
    images = np.stack([world.render(scene) for scene in sets.set_scenes("real-val")[:40]])
    spec = AutoencoderSpec(num_steps=2, batch=4)
    first, second = (train_autoencoder(images, spec, lambda step, loss: None) for _ in range(2))
    latents = encode(first, images)
    torch.testing.assert_close(latents, encode(second, images), rtol=0, atol=0)
    assert float(covariance_penalty(latents)) < 1e-4
    assert decode(first, latents).shape == images.shape


def test_the_score_measures_the_autoencoder_alone():
    bars = score.measure(MODELS, 20, ("autoencoder",))
    assert [bar.name for bar in bars] == ["vae_ink", "vae_paper", "vae_numeral"]
    assert all(bar.num == 20 and bar.bar == 0.97 for bar in bars)
