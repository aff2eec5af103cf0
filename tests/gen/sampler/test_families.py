"""The four pipeline families generate through one sampler, from folders in their true on-disk format.

The pipelines are tiny and have random weights (tests/support/tiny_pipelines.py). Tolerance for another batch size: 1e-5
relative L2 on the latents of one denoiser call in fp32 (measured: 7e-8 to 1.3e-6); for the same batch equal bytes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from gen.model.folder import PIPELINES, ModelError, open_model
from gen.sampler.sampler import Request, Sampler
from gen.sampler.spec import SCHEDULERS, SamplerSpec, check_sampler
from tests.support.tiny_pipelines import tiny_pipeline

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FAMILIES = ("sd", "sdxl", "sd3", "flux")
TEXTS = ("a red nine", "a die", "nine pips on a tile", "blue ink")
REQUESTS = [Request(text, "", 1000 + place) for place, text in enumerate(TEXTS)]
ONE_CALL_TOLERANCE = 1e-5
COMPILED_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {family: tiny_pipeline(family, root / family) for family in FAMILIES}


@cache
def load(folder: Path, **fields: Any) -> Sampler:
    """A loaded pipeline; equal settings share it, since loading is what costs time here."""
    return load_anew(folder, **fields)


def load_anew(folder: Path, **fields: Any) -> Sampler:
    settings = {"steps": 3, "guidance": 3.0, "size_px": 64, "batch": 4, "vae_batch": 2, "device": "cpu", **fields}
    sampler = Sampler.load(SamplerSpec(model=str(folder), **settings))
    sampler.prepare(TEXTS)
    return sampler


def denoiser(sampler: Sampler) -> torch.nn.Module:
    pipeline = sampler._pipeline
    return pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer


def relative_l2(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@contextmanager
def recorded_rows(module: torch.nn.Module) -> Iterator[list[int]]:
    """The batch size of every forward call of `module`."""
    rows: list[int] = []

    def hook(_: torch.nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        rows.append(len(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]))

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    yield rows
    handle.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_generates_through_the_same_sampler(folders: dict[str, Path], family: str) -> None:
    sampler = load(folders[family])
    assert sampler.family == family
    sampled = sampler.sample(REQUESTS)
    sampled.wait(60)
    assert sampled.image_NHWC.shape == (4, 64, 64, 3)
    assert sampled.image_NHWC.dtype == np.uint8
    assert sampled.finite_N.tolist() == [True] * 4
    assert sampled.flagged_N.tolist() == [False] * 4
    assert sampled.image_NHWC.std() > 1
    assert len({image.tobytes() for image in sampled.image_NHWC}) == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_batch_gives_the_same_bytes_also_after_loading_again(folders: dict[str, Path], family: str) -> None:
    sampler = load(folders[family])
    first = sampler.sample(REQUESTS).image_NHWC
    sampler.sample([Request("something else", "", 5)])
    assert np.array_equal(sampler.sample(REQUESTS).image_NHWC, first)
    assert np.array_equal(load_anew(folders[family]).sample(REQUESTS).image_NHWC, first)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_is_the_one_that_the_pipelines_own_call_draws(folders: dict[str, Path], family: str) -> None:
    """The independent reference is diffusers' own `__call__` from texts to pixels, its VAE included."""
    ours = load(folders[family], vae_batch=4).sample(REQUESTS).image_NHWC
    name = {value: key for key, value in PIPELINES.items()}[family]
    pipeline = getattr(diffusers, name).from_pretrained(folders[family], local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompt=list(TEXTS),
        height=64,
        width=64,
        num_inference_steps=3,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(request.seed) for request in REQUESTS],
        output_type="np",
    ).images
    assert np.abs(ours.astype(int) - np.rint(theirs * 255).astype(int)).max() <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_an_images_noise_does_not_depend_on_its_batch(folders: dict[str, Path], family: str) -> None:
    sampler = load(folders[family], steps=1)
    together = sampler.latents(REQUESTS)
    for place, request in enumerate(REQUESTS):
        assert relative_l2(sampler.latents([request])[0], together[place]) < ONE_CALL_TOLERANCE
    turned = sampler.latents(REQUESTS[::-1])
    assert relative_l2(turned.flip(0), together) < ONE_CALL_TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_guidance_off_is_a_single_pass(folders: dict[str, Path], family: str) -> None:
    off, on = load(folders[family], guidance=1.0), load(folders[family], guidance=3.0)
    with recorded_rows(denoiser(off)) as rows_off, recorded_rows(denoiser(on)) as rows_on:
        off.sample(REQUESTS)
        on.sample(REQUESTS)
    assert set(rows_off) == {4}
    assert set(rows_on) == ({4} if family == "flux" else {8})  # FLUX takes its guidance as an input


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3"])
def test_a_negative_text_changes_the_image_and_the_prompts_own_wins(folders: dict[str, Path], family: str) -> None:
    plain = load(folders[family])
    spec_negative = load(folders[family], negative="blurry")
    without = plain.sample(REQUESTS).image_NHWC
    with_spec = spec_negative.sample(REQUESTS).image_NHWC
    with_own = plain.sample([Request(r.prompt, "blurry", r.seed) for r in REQUESTS]).image_NHWC
    assert not np.array_equal(without, with_spec)
    assert np.array_equal(with_own, with_spec)


def test_each_distinct_text_of_a_unit_is_encoded_once_in_fixed_chunks(folders: dict[str, Path]) -> None:
    sampler = load_anew(folders["sd"], text_batch=3, batch=8)
    with recorded_text_rows(sampler) as rows:
        for _ in range(3):
            sampler.sample([*REQUESTS, *REQUESTS])
    assert rows == [3, 1, 1]  # two chunks of the four texts, and the negative alone


@contextmanager
def recorded_text_rows(sampler: Sampler) -> Iterator[list[int]]:
    rows: list[int] = []

    def hook(_: torch.nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        rows.append(len(args[0] if args else kwargs["input_ids"]))

    handle = sampler._pipeline.text_encoder.register_forward_pre_hook(hook, with_kwargs=True)
    yield rows
    handle.remove()


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize("learned", [False, True])
def test_embeddings_are_those_of_the_pipelines_own_encoding(
    folders: dict[str, Path], family: str, learned: bool
) -> None:
    """Also of texts that are cut, and of learned words of several vectors, which stand for several tokens."""
    texts = ["", "a <seven> on paper", "<seven>", "ink " * 60, "ένα ⑦"]
    sampler = load_anew(folders[family])
    pipeline = sampler._pipeline
    if learned:
        torch.manual_seed(1)
        for tokenizer, encoder in (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")):
            if getattr(pipeline, tokenizer, None) is not None:
                getattr(pipeline, tokenizer).add_tokens(["<seven>", "<seven>_1"])
                getattr(pipeline, encoder).resize_token_embeddings(len(getattr(pipeline, tokenizer)))
    with torch.inference_mode():
        own = pipeline.encode_prompt(texts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    sampler.prepare(texts)
    embedded = sampler._embed(texts)
    assert torch.equal(embedded["prompt_embeds"], own[0])
    if family == "sdxl":
        assert torch.equal(embedded["pooled_prompt_embeds"], own[2])


def test_an_encoder_that_wants_a_mask_of_its_padding_gets_one(folders: dict[str, Path]) -> None:
    sampler = load_anew(folders["sd"])
    pipeline = sampler._pipeline
    unmasked = sampler._embed(["a nine"])["prompt_embeds"]
    pipeline.text_encoder.config.use_attention_mask = True
    sampler.prepare([])
    with torch.inference_mode():
        own, _ = pipeline.encode_prompt(["a nine"], "cpu", 1, False)
    masked = sampler._embed(["a nine"])["prompt_embeds"]
    assert torch.equal(masked, own)
    assert not torch.equal(masked, unmasked)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_takes_place_where_diffusers_would_find_it(folders: dict[str, Path], family: str) -> None:
    pipeline = load(folders[family])._pipeline
    own = getattr(diffusers, type(pipeline).__name__)
    assert isinstance(pipeline, own)
    assert pipeline._execution_device == own._execution_device.fget(pipeline) == torch.device("cpu")


def test_one_batch_of_a_unit_made_alone_has_the_same_embeddings(folders: dict[str, Path]) -> None:
    """A chunk's composition follows from the unit's texts, not from when it is first needed."""
    texts = [f"text {number}" for number in range(20)]
    requests = [Request(text, "", 1) for text in texts[8:12]]
    whole, part = load_anew(folders["sdxl"], text_batch=3), load_anew(folders["sdxl"], text_batch=3)
    whole.prepare(texts)
    for first in range(0, 8, 4):
        whole.sample([Request(text, "", 1) for text in texts[first : first + 4]])
    part.prepare(texts)
    assert np.array_equal(whole.sample(requests).image_NHWC, part.sample(requests).image_NHWC)


@pytest.mark.parametrize(
    ("scheduler", "family"),
    [
        (name, family)
        for name, (_, _, families) in SCHEDULERS.items()
        for family in ("sd", "sd3", "flux")
        if family in families
    ],
)
def test_every_named_scheduler_draws_the_same_image_in_every_batch(
    folders: dict[str, Path], scheduler: str, family: str
) -> None:
    """Ancestral and stochastic ones too: the noise of their steps comes from the image's own generator."""
    sampler = load(folders[family], scheduler=scheduler, steps=4)
    assert type(sampler._pipeline.scheduler).__name__ == SCHEDULERS[scheduler][0]
    together = sampler.latents(REQUESTS)
    alone = torch.cat([sampler.latents([request]) for request in REQUESTS])
    assert torch.isfinite(together).all()
    assert relative_l2(alone, together) < 1e-3  # four steps of a random network, rounding grows with each


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_without_a_size_images_have_the_one_that_diffusers_would_choose(folders: dict[str, Path], family: str) -> None:
    sampler = load(folders[family], size_px=None, steps=1)
    pipeline = sampler._pipeline
    side = pipeline.unet.config.sample_size if family == "sd" else pipeline.default_sample_size
    assert sampler.spec.size_px == side * pipeline.vae_scale_factor
    if sampler.spec.size_px <= 64:
        height, width = sampler.sample(REQUESTS).image_NHWC.shape[1:3]
        assert (height, width) == (sampler.spec.size_px,) * 2


def test_a_size_that_a_model_does_not_say_or_that_would_enlarge_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="saved_px: found 4096, expected at most the model's"):
        check_sampler(SamplerSpec(model=str(folders["sd"]), saved_px=4096))
    folder = tiny_pipeline("sd", tmp_path / "sd")
    config = folder / "unet" / "config.json"
    config.write_text(config.read_text().replace('"sample_size"', '"another_size"'))
    with pytest.raises(ModelError, match=r"found no size in its configs; set sampler\.size_px"):
        check_sampler(SamplerSpec(model=str(folder)))


def test_timestep_spacing_can_be_chosen(folders: dict[str, Path]) -> None:
    own, trailing = load(folders["sdxl"]), load(folders["sdxl"], spacing="trailing")
    assert trailing._pipeline.scheduler.config.timestep_spacing == "trailing"
    assert not np.array_equal(own.sample(REQUESTS).image_NHWC, trailing.sample(REQUESTS).image_NHWC)


@pytest.mark.parametrize(
    ("family", "fields", "line"),
    [
        ("sd", {"scheduler": "flow_euler"}, "scheduler flow_euler: not for family sd"),
        ("flux", {"scheduler": "ddim"}, "scheduler ddim: not for family flux"),
        ("sd3", {"spacing": "trailing"}, "spacing trailing: family sd3 has none"),
        ("sd", {"text_tokens": 64}, "text_tokens: family sd has a fixed text length"),
        ("flux", {"negative": "blurry"}, "negative: this model runs one pass a step without any"),
        ("flux", {"size_px": 72}, "size_px: found 72, family flux expects a multiple of 16"),
        ("sd", {"family": "sdxl"}, "found family sd, the recipe says sdxl"),
    ],
)
def test_a_setting_that_a_family_does_not_have_is_refused_before_loading(
    folders: dict[str, Path], family: str, fields: dict[str, Any], line: str
) -> None:
    with pytest.raises(ModelError, match=line) as error:
        check_sampler(SamplerSpec(model=str(folders[family]), **{"size_px": 64, **fields}))
    assert "\n" not in str(error.value)


def test_a_scheduler_that_draws_unseeded_noise_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tiny_pipeline("sd3", tmp_path / "sd3")
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace('"stochastic_sampling": false', '"stochastic_sampling": true'))
    with pytest.raises(ModelError, match="unseeded noise"):
        load(folder)


def test_text_length_of_t5_can_be_set(folders: dict[str, Path]) -> None:
    for family in ("sd3", "flux"):
        shapes = [
            load(folders[family], text_tokens=tokens)._encode(["a die"])["prompt_embeds"].shape[1]
            for tokens in (16, 32)
        ]
        assert shapes[1] - shapes[0] == 16


def test_the_fp16_sdxl_decoder_runs_in_fp32_where_its_config_says_so(tmp_path: Path) -> None:
    sampler = load(tiny_pipeline("sdxl", tmp_path / "sdxl"), dtype="fp16")
    assert sampler._pipeline.vae.dtype == torch.float32
    assert sampler._pipeline.unet.dtype == torch.float16


def test_the_family_and_components_are_read_from_the_index_without_loading(folders: dict[str, Path]) -> None:
    for family, folder in folders.items():
        opened = open_model(str(folder), None, None, Path.cwd())
        assert opened.family == family
        assert {"vae", "tokenizer", "scheduler"} <= set(opened.components)


@pytest.mark.torture
@pytest.mark.parametrize(("family", "compiled"), [*((family, "regional") for family in FAMILIES), ("sd", "full")])
def test_a_compiled_model_fills_up_short_batches_and_stays_close(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, compiled: str
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    eager, fast = (
        load(folders[family], steps=1, vae_batch=3),
        load(folders[family], steps=1, vae_batch=3, compile=compiled),
    )
    assert len(list(tmp_path.glob("*.done"))) == 1, "compiled when it was loaded"
    assert relative_l2(fast.latents(REQUESTS[:3])[:3], eager.latents(REQUESTS[:3])) < COMPILED_TOLERANCE
    drawn = fast.sample(REQUESTS[:3]).image_NHWC
    assert drawn.shape == (3, 64, 64, 3)
    assert np.abs(drawn.astype(int) - eager.sample(REQUESTS[:3]).image_NHWC).max() <= 1


@pytest.mark.torture
def test_shortcuts_stand_around_compiled_blocks_and_change_nothing_by_it(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    fields = {"steps": 4, "guidance_interval": [0.0, 0.5], "reuse_every": 2}
    eager, fast = load_anew(folders["sd"], **fields), load_anew(folders["sd"], compile="regional", **fields)
    assert relative_l2(fast.latents(REQUESTS), eager.latents(REQUESTS)) < 1e-3  # four steps, rounding grows with each
