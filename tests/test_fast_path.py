"""The default path draws what diffusers' own call draws, bit for bit, and keeps doing so whatever is built beside it.

The reference is the pipeline's own `__call__`, from texts to pixels, with texts encoded in the same batch shapes. It is
the same loaded object: where weights happen to lie in memory moves the last bit on a CPU (a pipeline that diffusers
loaded by itself is compared in test_families, within one level). On a kind of machine that was seen before, hashes of
images from before any fast path existed must hold as well.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gen.sampler import Request, Sampler, SamplerSpec
from tests.tiny_pipelines import tiny_pipeline

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FAMILIES = ("sd", "sdxl", "sd3", "flux")
TEXTS = ("a red nine", "a die", "nine pips on a tile", "blue ink")
REQUESTS = [Request(text, "", 1000 + place) for place, text in enumerate(TEXTS)]
SANDBOX = Path(__file__).resolve().parents[1] / "sandbox" / "models" / "generator"

# torch, its CPU kernels, the processor -> model -> first 16 hex digits of the images' sha256
HASHES = {
    ("2.13.0+cu130", "AVX512", "AuthenticAMD 26 2"): {
        "sd": "defab84dfdcca0c9",
        "sdxl": "27fea1d814779ea4",
        "sd3": "508a00d8addb8378",
        "flux": "1f162e12b845250d",
        "sandbox": "b7ba8847ef46365b",
    },
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {**{family: tiny_pipeline(family, root / family) for family in FAMILIES}, "sandbox": SANDBOX}


def load(folder: Path, **fields: Any) -> Sampler:
    settings = {"steps": 3, "guidance": 3.0, "size_px": 64, "batch": 4, "vae_batch": 4, "device": "cpu", **fields}
    sampler = Sampler.load(SamplerSpec(model=str(folder), **settings))
    sampler.prepare(TEXTS)
    return sampler


def processor() -> str:
    """Maker, family and model: libraries choose kernels by them."""
    told = Path("/proc/cpuinfo")
    lines = dict(line.split(":", 1) for line in told.read_text().splitlines() if ":" in line) if told.exists() else {}
    facts = {name.strip(): value.strip() for name, value in lines.items()}
    return " ".join(facts.get(name, "?") for name in ("vendor_id", "cpu family", "model"))


@torch.inference_mode()
def plain_diffusers(pipeline: Any, family: str) -> np.ndarray:
    """uint8 NHWC of `REQUESTS`: diffusers' own call and decoding; the negative text is encoded alone."""
    if family == "flux":
        prompts: dict[str, Any] = {"prompt": list(TEXTS)}
    else:
        single = {"device": "cpu", "do_classifier_free_guidance": False, "num_images_per_prompt": 1}
        more = {} if family != "sd3" else {"prompt_2": None, "prompt_3": None}
        given = pipeline.encode_prompt(prompt=list(TEXTS), **more, **single)
        empty = pipeline.encode_prompt(prompt=[""], **more, **single)
        if family == "sdxl":  # zeros stand for no negative text
            empty = [part if part is None else torch.zeros_like(part) for part in empty]
        rows = len(TEXTS)
        prompts = {"prompt_embeds": given[0], "negative_prompt_embeds": empty[0].repeat(rows, 1, 1)}
        if family != "sd":
            prompts |= {"pooled_prompt_embeds": given[2], "negative_pooled_prompt_embeds": empty[2].repeat(rows, 1)}
    images = pipeline(
        **prompts,
        height=64,
        width=64,
        num_inference_steps=3,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(request.seed) for request in REQUESTS],
        output_type="np",
    ).images
    return np.rint(images * np.float32(255)).astype(np.uint8)


@pytest.mark.parametrize("model", [*FAMILIES, "sandbox"])
def test_the_default_path_draws_the_very_bits_of_plain_diffusers(folders: dict[str, Path], model: str) -> None:
    sampler = load(folders[model])
    drawn = sampler.sample(REQUESTS).image_NHWC
    assert np.array_equal(drawn, plain_diffusers(sampler._pipeline, sampler.family))
    here = (torch.__version__, torch.backends.cpu.get_cpu_capability(), processor())
    if here in HASHES:
        assert hashlib.sha256(drawn.tobytes()).hexdigest()[:16] == HASHES[here][model]
