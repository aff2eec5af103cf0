"""Calls that begin with pictures: the same as diffusers' own image-to-image pipelines, with one rule for the steps."""

from fractions import Fraction
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gen.sampler.latents import for_decoder, for_denoiser
from gen.sampler.sampler import Request, Sampler
from gen.sampler.spec import SamplerSpec
from gen.sampler.start import Start, executed_steps
from tests.support.tiny_pipelines import tiny_pipeline

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FAMILIES = ("sd", "sdxl", "sd3", "flux")
STEPS, SIDE = 4, 64
REQUESTS = [Request(text, "", 7 + place) for place, text in enumerate(("a red nine", "a die", "blue ink"))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {family: tiny_pipeline(family, root / family) for family in FAMILIES}


@cache
def load(folder: Path, **fields: object) -> Sampler:
    settings = {"steps": STEPS, "guidance": 3.0, "size_px": SIDE, "batch": 4, "vae_batch": 2, "device": "cpu", **fields}
    sampler = Sampler.load(SamplerSpec.model_validate({"model": str(folder), **settings}))
    sampler.prepare([request.prompt for request in REQUESTS])
    return sampler


def pictures(num: int = len(REQUESTS)) -> np.ndarray:
    """Smooth ones, of different colours."""
    random = np.random.default_rng(5)
    coarse = torch.from_numpy(random.uniform(0, 255, (num, 3, 4, 4)))
    smooth = torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic").clamp(0, 255)
    return smooth.permute(0, 2, 3, 1).to(torch.uint8).numpy()


def apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(np.int16) - other.astype(np.int16)).mean())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("gamma", [0.25, 0.5, 1.0])
def test_pictures_are_changed_as_by_the_librarys_own_pipeline(
    folders: dict[str, Path], family: str, gamma: float
) -> None:
    sampler = load(folders[family])
    found = sampler.latents(REQUESTS, start=Start(pictures(), gamma))
    kind = {"sd": "StableDiffusion", "sdxl": "StableDiffusionXL", "sd3": "StableDiffusion3", "flux": "Flux"}[family]
    theirs = getattr(diffusers, f"{kind}Img2ImgPipeline").from_pretrained(folders[family])
    theirs.set_progress_bar_config(disable=True)
    rows = []
    for request, image_HWC in zip(REQUESTS, pictures(), strict=True):
        image_1CHW = torch.from_numpy(image_HWC).permute(2, 0, 1)[None] / 255
        sized = {} if family in ("sd", "sdxl") else {"height": SIDE, "width": SIDE}
        # 0.25 and 0.5 of 4 steps are whole in binary, so that no family rounds
        made = theirs(
            prompt=request.prompt, image=image_1CHW, strength=gamma, num_inference_steps=STEPS, guidance_scale=3.0,
            generator=torch.Generator().manual_seed(request.seed), output_type="latent", **sized,
        ).images  # fmt: skip
        if family == "flux":
            made = theirs._unpack_latents(made, SIDE, SIDE, theirs.vae_scale_factor)
        rows.append(made)
    expected = torch.cat(rows)
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def region(num: int = len(REQUESTS)) -> np.ndarray:
    """The right half of each picture."""
    region_NHW = np.zeros((num, SIDE, SIDE), bool)
    region_NHW[:, :, SIDE // 2 :] = True
    return region_NHW


@pytest.mark.parametrize("family", FAMILIES)
def test_a_part_of_a_picture_is_changed_as_by_the_librarys_own_pipeline(folders: dict[str, Path], family: str) -> None:
    sampler = load(folders[family])
    found = sampler.latents(REQUESTS, start=Start(pictures(), 0.5, region()))
    kind = {"sd": "StableDiffusion", "sdxl": "StableDiffusionXL", "sd3": "StableDiffusion3", "flux": "Flux"}[family]
    theirs = getattr(diffusers, f"{kind}InpaintPipeline").from_pretrained(folders[family])
    theirs.set_progress_bar_config(disable=True)
    rows = []
    for place, request in enumerate(REQUESTS):
        made = theirs(
            prompt=request.prompt, image=torch.from_numpy(pictures()[place]).permute(2, 0, 1)[None] / 255,
            mask_image=torch.from_numpy(region()[place])[None, None].float(), height=SIDE, width=SIDE, strength=0.5,
            num_inference_steps=STEPS, guidance_scale=3.0, output_type="latent",
            generator=torch.Generator().manual_seed(request.seed),
        ).images  # fmt: skip
        if family == "flux":
            made = theirs._unpack_latents(made, SIDE, SIDE, theirs.vae_scale_factor)
        rows.append(made)
    expected = torch.cat(rows)
    assert float((found - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("types", [("bf16", "fp32"), ("fp32", "bf16"), ("bf16", None)])
def test_an_autoencoder_keeps_its_type_beside_a_denoiser_of_another(
    folders: dict[str, Path], family: str, types: tuple[str, str | None]
) -> None:
    sampler = load(folders[family], dtype=types[0], vae_dtype=types[1])
    before = next(sampler._pipeline.vae.parameters()).dtype
    from_noise = sampler.sample(REQUESTS).image_NHWC
    for start in (Start(pictures(), 0.5), Start(pictures(), 0.5, region())):
        assert sampler.sample(REQUESTS, start=start).finite_N.all()
        assert next(sampler._pipeline.vae.parameters()).dtype == before
    assert (sampler.sample(REQUESTS).image_NHWC == from_noise).all()


def test_a_call_is_filled_up_with_copies_of_its_last_picture_and_region() -> None:
    whole = Start(pictures(2), 0.5, region(2)).filled_up(3)
    assert whole.region_NHW is not None
    assert [len(rows) for rows in (whole.image_NHWC, whole.region_NHW)] == [5, 5]
    assert (whole.image_NHWC[1:] == whole.image_NHWC[1]).all()
    assert Start(pictures(2), 0.5).filled_up(1).region_NHW is None


@pytest.mark.parametrize("family", FAMILIES)
def test_outside_the_region_the_latents_are_those_of_the_picture(folders: dict[str, Path], family: str) -> None:
    """Two prompts with one seed: what is drawn from the encoder's distribution is the same."""
    sampler = load(folders[family])
    first, second = (
        sampler.latents([Request(text, "", 1)], start=Start(pictures(1), 1.0, region(1)))
        for text in ("a red nine", "blue ink")
    )
    apart = (first - second).abs().amax(dim=(0, 1, 2))
    middle = len(apart) // 2
    assert float(apart[:middle].max()) == 0
    assert float(apart[middle:].min()) > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_takes_the_floor_of_its_share_of_the_steps(folders: dict[str, Path], family: str) -> None:
    sampler = load(folders[family], steps=7, scheduler=None)
    for gamma in (0.15, 0.3, 0.5, 0.8, 0.99, 1.0):
        shares: list[float] = []
        sampler.latents(REQUESTS[:1], shares.append, Start(pictures(1), gamma))
        assert len(shares) == executed_steps(7, gamma) == int(7 * gamma)
        assert shares[-1] == 1


@given(steps=st.integers(1, 1000), hundredths=st.integers(0, 100))
def test_the_number_of_steps_is_that_of_the_decimal_fraction_as_it_is_written(steps: int, hundredths: int) -> None:
    assert executed_steps(steps, hundredths / 100) == Fraction(hundredths, 100) * steps // 1


def test_the_papers_numbers_of_steps() -> None:
    assert [executed_steps(50, gamma) for gamma in (0.1, 0.3, 0.5, 0.6, 1.0)] == [5, 15, 25, 30, 50]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("in_parts", [False, True])
def test_a_picture_does_not_depend_on_its_neighbours(folders: dict[str, Path], family: str, in_parts: bool) -> None:
    sampler, start = load(folders[family]), Start(pictures(), 0.5, region() if in_parts else None)
    together = sampler.latents(REQUESTS, start=start)
    for place, request in enumerate(REQUESTS):
        own = Start(start.image_NHWC[place : place + 1], 0.5, region(1) if in_parts else None)
        alone = sampler.latents([request], start=own)
        assert float((together[place] - alone[0]).norm() / alone.norm()) < 1e-5
    again = sampler.latents(REQUESTS, start=start)
    assert torch.equal(again, together)


def test_more_of_the_way_moves_a_picture_further(folders: dict[str, Path]) -> None:
    sampler = load(folders["sd"], steps=8, guidance=1.0)
    untouched = sampler.latents(REQUESTS, start=Start(pictures(), 0.125))
    moved = []
    for gamma in (0.25, 0.5, 0.75, 1.0):
        latents = sampler.latents(REQUESTS, start=Start(pictures(), gamma))
        moved.append(float((latents - untouched).norm()))
    assert moved == sorted(moved)


def test_a_call_from_noise_is_the_same_before_and_after_one_from_pictures(folders: dict[str, Path]) -> None:
    for family in FAMILIES:
        sampler = load(folders[family])
        before = sampler.sample(REQUESTS).image_NHWC
        changed = sampler.sample(REQUESTS, start=Start(pictures(), 0.5)).image_NHWC
        assert apart(sampler.sample(REQUESTS).image_NHWC, before) == 0
        assert apart(changed, before) > 1


def test_pictures_of_another_size_or_number_and_a_gamma_without_steps_are_refused(folders: dict[str, Path]) -> None:
    sampler = load(folders["sd"])
    for start in (
        Start(pictures(2), 0.5),
        Start(pictures()[:, :32], 0.5),
        Start(pictures(), 0.2),
    ):
        with pytest.raises(
            ValueError, match=r"start: found pictures .* steps, expected \[3, 64, 64, 3\] and 1..4 steps"
        ):
            sampler.latents(REQUESTS, start=start)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_scales_of_denoiser_and_decoder_are_inverse(family: str) -> None:
    latents = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scaling = {"scaling_factor": 0.18215, "shift_factor": 0.0609}
    for config in (
        SimpleNamespace(**scaling),
        SimpleNamespace(**scaling, latents_mean=[1.0, -2.0, 3.0, 0.5], latents_std=[2.0, 0.5, 1.5, 4.0]),
    ):
        torch.testing.assert_close(for_decoder(for_denoiser(latents, config, family), config, family), latents)
