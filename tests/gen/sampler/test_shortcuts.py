"""Shortcuts go only where they change nothing between the images of a batch, and hold nothing once a call is over."""

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from gen.model.folder import ModelError
from gen.sampler.sampler import Request, Sampler
from gen.sampler.shortcuts import check_quantise, is_quantised, quantise_linears
from gen.sampler.spec import SamplerSpec, check_sampler
from tests.gen.sampler.test_families import recorded_rows
from tests.support.tiny_pipelines import tiny_pipeline

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FAMILIES = ("sd", "sdxl", "sd3", "flux")
REQUESTS = [Request(f"the number {number}", "", number) for number in range(3)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {family: tiny_pipeline(family, root / family) for family in FAMILIES}


def spec(folder: Path, **fields: Any) -> SamplerSpec:
    settings = {"steps": 3, "guidance": 3.0, "size_px": 64, "batch": 4, "device": "cpu", **fields}
    return SamplerSpec(model=str(folder), **settings)


# models that take the scale as an input


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole latent consistency model, not the adapter: its U-Net knows the guidance scale."""
    folder = tiny_pipeline("sd", tmp_path_factory.mktemp("models") / "lcm")
    config = json.loads((folder / "unet" / "config.json").read_text())
    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel.from_config({**config, "time_cond_proj_dim": 8})
    unet.save_pretrained(folder / "unet", safe_serialization=True)
    return folder


def test_a_distilled_u_net_runs_one_pass_a_step_at_any_scale(distilled: Path) -> None:
    sampler = Sampler.load(spec(distilled, scheduler="lcm"))
    with recorded_rows(sampler._pipeline.unet.conv_in) as rows:
        sampler.latents(REQUESTS)
    assert rows == [3, 3, 3]
    assert not sampler.guided


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"guidance_interval": [0.0, 0.5]}, "guidance_interval: this model runs one pass a step; set .*=null"),
        ({"negative": "rust"}, "negative: this model runs one pass a step without any; leave sampler.negative empty"),
    ],
)
def test_what_needs_a_second_pass_is_refused_before_loading(distilled: Path, fields: dict[str, Any], line: str) -> None:
    with pytest.raises(ModelError, match=line) as error:
        check_sampler(spec(distilled, **fields))
    assert "\n" not in str(error.value)


def test_a_folder_without_its_denoiser_is_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    index = json.loads((folders["sd"] / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": index["_class_name"]}))
    with pytest.raises(ModelError, match="found no unet; download it again"):
        check_sampler(spec(tmp_path))


# low-bit linears


@pytest.mark.parametrize(
    ("how", "dtype", "capability", "line"),
    [
        ("int8", "fp32", None, "quantise int8: needs a GPU, found none"),
        ("fp8", "bf16", None, "quantise fp8: needs a GPU, found none"),
        ("fp8", "fp16", (9, 0), "found dtype fp16, expected bf16"),
        ("fp8", "bf16", (8, 6), "found a GPU of compute capability 8.6, expected 8.9 or more; set sampler.quantise="),
    ],
)
def test_low_bits_are_refused_where_the_device_or_the_type_has_none(
    how: str, dtype: str, capability: tuple[int, int] | None, line: str
) -> None:
    with pytest.raises(ModelError, match=line) as error:
        check_quantise(how, dtype, capability)
    assert "\n" not in str(error.value)


def test_low_bits_are_taken_where_the_device_and_the_type_have_them() -> None:
    for how, dtype, capability in (("fp8", "bf16", (8, 9)), ("fp8", "bf16", (10, 0)), ("int8", "fp16", (8, 0))):
        check_quantise(how, dtype, capability)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_layers_over_tokens_become_low_bit(folders: dict[str, Path], family: str) -> None:
    """CUDA's int8 product wants more than 16 rows: a layer over images would have one row an image."""
    sampler = Sampler.load(spec(folders[family], size_px=96))
    denoiser = sampler._pipeline.unet if family in ("sd", "sdxl") else sampler._pipeline.transformer
    num_rows: dict[str, set[int]] = {}

    def record(name: str, inputs: tuple[torch.Tensor, ...]) -> None:
        num_rows.setdefault(name, set()).add(inputs[0].shape[:-1].numel())

    for name, module in denoiser.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, inputs, name=name: record(name, inputs))
    sampler.latents(REQUESTS[:1])
    chosen = {name for name in num_rows if is_quantised(denoiser.get_submodule(name), name)}
    assert len(chosen) >= 8
    assert min(min(num_rows[name]) for name in chosen) > 16
    rest = {name for name in num_rows if name not in chosen and "embedder" not in name and name != "proj_out"}
    fitting = {name for name in rest if not any(side % 16 for side in denoiser.get_submodule(name).weight.shape)}
    assert all(min(num_rows[name]) <= 2 for name in fitting), "nothing over tokens is left out"
    assert "proj_out" not in chosen


def test_low_bit_activations_have_a_scale_a_row_not_a_batch() -> None:
    pytest.importorskip("torchao")
    layer = torch.nn.Sequential(torch.nn.Linear(32, 32, bias=False))
    quantise_linears(layer, "int8")
    alone, loud = torch.randn(20, 32), 1000 * torch.randn(20, 32)
    together = layer(torch.cat([alone, loud]))[:20]
    assert torch.equal(layer(alone), together)


# what is held


def test_reused_features_are_let_go_before_pictures_are_decoded(folders: dict[str, Path]) -> None:
    sampler = Sampler.load(spec(folders["sd"], reuse_every=3))
    made: list[Any] = []
    handle = sampler._pipeline.unet.mid_block.register_forward_hook(
        lambda _module, _inputs, features: made.append(weakref.ref(features))
    )
    sampler.latents(REQUESTS)
    gc.collect()
    handle.remove()
    assert made
    assert all(features() is None for features in made)


@pytest.mark.parametrize(
    ("family", "fields", "copies"),
    [
        ("sd", {"dtype": "fp16"}, True),
        ("sd", {"dtype": "fp32"}, False),
        ("sd", {"dtype": "fp16", "vae_dtype": "fp32"}, False),
        ("sd", {"dtype": "fp32", "vae_dtype": "fp16"}, True),
    ],
)
def test_a_decoder_that_runs_in_fp32_is_not_kept_twice(
    folders: dict[str, Path], family: str, fields: dict[str, Any], copies: bool
) -> None:
    sampler = Sampler.load(spec(folders[family], retry_fp32=True, **fields))
    assert (sampler._vae_fp32 is not None) == copies
