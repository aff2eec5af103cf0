"""The model's own safety checker, run where the images are, says what diffusers' own path says.

The checker is tiny and has random weights; its thresholds stand in the middle of what random pictures score, so that
every concept decides about some of them. The reference is `StableDiffusionPipeline.run_safety_checker`: pictures
through PIL, and the checker's own loop over concepts.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from gen.model.folder import ModelError
from gen.sampler.safety import check_extractor, concept_scores, flag_images
from gen.sampler.sampler import Request, Sampler
from gen.sampler.spec import SamplerSpec
from tests.support.tiny_pipelines import tiny_pipeline

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NUM = 60
# Scores on a GPU, where pictures are resized in floats; bf16 has steps of 0.004 near 1.
SCORE_TOLERANCE = {"fp32": 2e-3, "bf16": 1e-2}


def pictures(side: int) -> torch.Tensor:
    """Waves and noise around [-1, 1], some of it outside; one picture holds NaN and one is of one colour."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.randn(NUM, 3, 4, 4, generator=generator)
    image_NCHW = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    image_NCHW += 0.2 * torch.randn(NUM, 3, side, side, generator=generator)
    image_NCHW[3, :, 5:9] = float("nan")
    image_NCHW[4] = 0.5
    return image_NCHW


def loaded(folder: Path, dtype: str, side: int) -> Any:
    """A pipeline whose thresholds lie among the scores of `pictures`."""
    pipeline = Sampler.load(
        SamplerSpec(model=str(folder), size_px=64, batch=2, steps=1, device="cpu", dtype=dtype)  # type: ignore[arg-type]
    )._pipeline
    checker, generator = pipeline.safety_checker, torch.Generator().manual_seed(6)
    for embeds in (checker.concept_embeds, checker.special_care_embeds):
        embeds.data = torch.randn(embeds.shape, generator=generator).to(embeds.dtype)
    thresholds = (checker.concept_embeds_weights, checker.special_care_embeds_weights)
    for threshold in thresholds:
        threshold.data.zero_()
    with torch.inference_mode():
        scores = concept_scores(checker, pipeline.feature_extractor, pictures(side))
    for threshold, score_NK, share in zip(thresholds, scores, (0.97, 0.8), strict=True):
        threshold.data = score_NK.quantile(share, dim=0).to(threshold.dtype)
    return pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline("sd", tmp_path_factory.mktemp("models") / "sd", checker_flags=False)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("side", [64, 32, 24])
@torch.inference_mode()
def test_flags_are_those_of_diffusers_own_path(folder: Path, dtype: str, side: int) -> None:
    pipeline, image_NCHW = loaded(folder, dtype, side), pictures(side)
    shown = torch.nan_to_num(image_NCHW, nan=-1.0).clamp(-1, 1)
    _, theirs = pipeline.run_safety_checker(shown, torch.device("cpu"), pipeline.safety_checker.dtype)
    ours = flag_images(pipeline.safety_checker, pipeline.feature_extractor, image_NCHW)
    assert ours.tolist() == [bool(flag) for flag in theirs]
    assert 10 < int(ours.sum()) < NUM - 10, "thresholds in the middle decide both ways"


@torch.inference_mode()
def test_a_special_care_concept_makes_every_other_one_stricter(folder: Path) -> None:
    pipeline, image_NCHW = loaded(folder, "fp32", 64), pictures(64)
    checker, extractor = pipeline.safety_checker, pipeline.feature_extractor
    concept_NK, special_NK = concept_scores(checker, extractor, image_NCHW)
    careful_N = (special_NK > 0).any(dim=1)
    checker.concept_embeds_weights.data += concept_NK[careful_N].max() + 0.005  # above all, but by less than the step
    assert not (concept_scores(checker, extractor, image_NCHW)[0][careful_N] > 0).any()
    flagged_N = flag_images(checker, extractor, image_NCHW)
    assert flagged_N[careful_N].any()
    checker.special_care_embeds_weights.data += 2.0
    assert not flag_images(checker, extractor, image_NCHW)[careful_N].any()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@torch.inference_mode()
def test_resizing_in_floats_as_on_a_gpu_moves_scores_by_less_than_the_tolerance(folder: Path, dtype: str) -> None:
    """Simulated: the same operations that torchvision takes where bytes have no kernel of their own."""
    pipeline, image_NCHW = loaded(folder, dtype, 64), pictures(64)
    checker, extractor = pipeline.safety_checker, pipeline.feature_extractor
    bytes_NCHW = torch.nan_to_num(image_NCHW, nan=-1.0).div(2).add(0.5).clamp(0, 1).mul(255).round()
    small = torch.nn.functional.interpolate(bytes_NCHW, size=(32, 32), mode="bicubic", antialias=True)
    resized = small.round().clamp(0, 255) / 255 * 2 - 1
    here, there = (concept_scores(checker, extractor, image)[0] for image in (image_NCHW, resized))
    assert float((here - there).abs().max()) < SCORE_TOLERANCE[dtype]


def test_flags_of_a_call_are_those_of_its_images(folder: Path) -> None:
    sampler = Sampler.load(SamplerSpec(model=str(folder), size_px=64, batch=8, steps=1, device="cpu"))
    requests = [Request(f"the number {number}", "", number) for number in range(8)]
    checker = sampler._pipeline.safety_checker
    checker.concept_embeds.data = torch.randn(checker.concept_embeds.shape, generator=torch.Generator().manual_seed(1))
    checker.concept_embeds_weights.data.fill_(2.0)
    with torch.inference_mode():
        image_NCHW = sampler._decode(sampler.latents(requests), lambda share: None)
        scores_N = concept_scores(checker, sampler._pipeline.feature_extractor, image_NCHW)[0][:, 0]
    checker.concept_embeds_weights.data[0] += scores_N.median()
    flagged_N = sampler.sample(requests).flagged_N
    assert np.array_equal(flagged_N, (scores_N > scores_N.median() + 0.0005).numpy())
    assert 0 < flagged_N.sum() < 8


def test_an_extractor_that_reads_pil_pictures_only_is_refused_in_one_line() -> None:
    with pytest.raises(ModelError, match="found a feature extractor for 'pil'") as error:
        check_extractor(CLIPImageProcessorPil())
    assert "\n" not in str(error.value)


@torch.inference_mode()
def test_nothing_of_a_picture_is_asked_for_on_the_host(folder: Path) -> None:
    """Tensors of device "meta" have no values: whatever would wait for a GPU, or fetch a picture from it, raises."""
    pipeline = Sampler.load(SamplerSpec(model=str(folder), size_px=64, batch=2, steps=1, device="cpu"))._pipeline
    checker, image_NCHW = pipeline.safety_checker.to("meta"), pictures(64).to("meta")
    flagged_N = flag_images(checker, pipeline.feature_extractor, image_NCHW)
    assert (flagged_N.device.type, flagged_N.dtype, flagged_N.shape) == ("meta", torch.bool, (NUM,))
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        pipeline.run_safety_checker(image_NCHW, torch.device("meta"), checker.dtype)
