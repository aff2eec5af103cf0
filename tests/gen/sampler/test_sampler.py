"""The sampler: what it refuses to load, what it promises about pixels, and that it stays light.

Model folders are tiny real ones (tests/support/tiny_pipelines.py), damaged on purpose. Canaries are files whose
execution or unpickling would leave a mark on disk.
"""

import json
import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from cluster.process.exit import Draining
from gen.model.folder import ModelError, check_safetensors, model_digest, open_model
from gen.sampler.sampler import Request, Sampler, _await_event
from gen.sampler.spec import SamplerSpec, check_sampler, model_places, sampler_digest, sampler_json
from shards.disk.home import home
from tests.support.tiny_pipelines import tiny_pipeline

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REQUESTS = [Request(f"the number {number}", "", number) for number in range(4)]
CHECKOUT = home()


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline("sd", tmp_path_factory.mktemp("models") / "generator")


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(pristine, tmp_path / "generator"))


def spec(folder: Path, **fields: Any) -> SamplerSpec:
    settings = {"steps": 2, "size_px": 64, "batch": 4, "vae_batch": 3, "device": "cpu", **fields}
    return SamplerSpec(model=str(folder), **settings)


def refusal(folder: Path, **fields: Any) -> str:
    """The one line with which loading refuses."""
    with pytest.raises(ModelError) as error:
        Sampler.load(spec(folder, **fields))
    line = str(error.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("steps", [2, 5])
def test_b15_a_call_says_that_it_is_alive_after_each_step_and_before_each_call_of_the_decoder(
    pristine: Path, steps: int
) -> None:
    sampler = Sampler.load(spec(pristine, steps=steps, scheduler="ddim"))
    said: list[float] = []
    watched = sampler.sample(REQUESTS, said.append)
    assert said == [*((step + 1) / steps for step in range(steps)), 1.0, 1.0], "four images: two calls of the decoder"
    assert np.array_equal(watched.image_NHWC, sampler.sample(REQUESTS).image_NHWC)

    def stop(share: float) -> None:
        raise Draining("no longer wanted")

    with pytest.raises(Draining):
        sampler.sample(REQUESTS, stop)
    assert np.array_equal(sampler.sample(REQUESTS).image_NHWC, watched.image_NHWC), "it can be used again"


def test_workers_are_told_the_whole_path_of_a_folder_that_does_not_ship_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of one beside our code: they get a copy of the code, without it."""
    ours, shipped = tmp_path / "ours", "sandbox/models/generator"
    for folder in (ours / "models" / "my-sd", ours / shipped, tmp_path / "models" / "mine"):
        folder.mkdir(parents=True)
    for module in ("gen.sampler.spec", "shards.disk.address"):
        monkeypatch.setattr(f"{module}.home", lambda: ours)

    def place(model: str) -> str | None:
        return model_places(SamplerSpec(model=model))["model"]

    for caller in (ours, tmp_path):
        monkeypatch.chdir(caller)
        assert place("models/my-sd") == str(ours / "models" / "my-sd")
        assert place(shipped) == shipped
        assert place("models/none") == "models/none"
    assert place("models/mine") == str(tmp_path / "models" / "mine")


# what is refused


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt", ".pth"])
def test_i1_a_folder_with_only_pickled_weights_is_refused_and_no_pickle_is_opened(
    folder: Path, tmp_path: Path, suffix: str
) -> None:
    mark = tmp_path / "unpickled"
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.with_suffix(suffix).write_bytes(pickle.dumps(Canary(mark)))
    check_sampler(spec(folder))  # beside safetensors it is only never read
    weights.unlink()
    line = refusal(folder)
    assert "expected safetensors" in line
    assert f"diffusion_pytorch_model{suffix}" in line
    assert not mark.exists()


def test_a_component_without_any_weights_is_refused(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert "found a config but no weights" in refusal(folder)


def test_i3_code_in_the_folder_is_refused_and_never_imported(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "imported"
    module = folder / "unet" / "modeling_canary.py"
    module.write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    assert "found code in the model folder (unet/modeling_canary.py)" in refusal(folder)
    assert not mark.exists()
    assert "modeling_canary" not in sys.modules


@pytest.mark.parametrize("place", ["unet/config.json", "text_encoder/config.json", "tokenizer/tokenizer_config.json"])
def test_i3_auto_map_is_refused_wherever_it_stands(folder: Path, place: str) -> None:
    config = json.loads((folder / place).read_text())
    (folder / place).write_text(
        json.dumps({**config, "nested": [{"auto_map": {"AutoModel": "evil--modeling.Canary"}}]})
    )
    assert f"found 'auto_map' in {place}" in refusal(folder)


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("_class_name", "CommunityPipeline", "found pipeline class 'CommunityPipeline'"),
        ("_class_name", ["canary", "Pipeline"], r"found pipeline class \['canary', 'Pipeline'\]"),
        ("unet", ["canary", "Canary"], r"found component unet = \['canary', 'Canary'\]"),
        ("unet", ["os", "system"], "expected \\[library, class\\]"),
        ("custom_pipeline", "https://example.org/x.py", "found 'custom_pipeline'"),
        ("../outside", ["diffusers", "AutoencoderKL"], "found no folder"),
    ],
)
def test_i3_foreign_classes_and_pipelines_in_the_index_are_refused(
    folder: Path, field: str, value: object, line: str
) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, field: value}))
    with pytest.raises(ModelError, match=line):
        Sampler.load(spec(folder))
    assert "canary" not in sys.modules


def test_unknown_pipeline_classes_are_answered_with_the_known_ones(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "KandinskyPipeline"}))
    line = refusal(folder)
    for known in ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline", "FluxPipeline"):
        assert known in line


def safetensors(entries: str | dict[str, Any], data: bytes = b"\0" * 16, length: int | None = None) -> bytes:
    header = (entries if isinstance(entries, str) else json.dumps(entries)).encode()
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def tensor(start: int, end: int, shape: tuple[Any, ...] = (2,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "header too small"),
        (b"\0\0\0", "header too small"),
        (safetensors({}, length=2**60), "header too large"),
        (safetensors({"a": tensor(0, 8)}, length=4096), "invalid header length"),
        (safetensors("{]"), "invalid JSON in header"),
        (safetensors("[]"), "invalid JSON in header"),
        (safetensors('{"a": 1, "a": 2}'), "invalid JSON in header"),
        (safetensors({"a": tensor(0, 8), "b": tensor(4, 12)}), "invalid offset for tensor `b`"),
        (safetensors({"a": tensor(0, 8), "b": tensor(12, 20)}), "invalid offset for tensor `b`"),
        (safetensors({"a": tensor(0, 8), "b": tensor(8, 16, (3,))}), "invalid shape, data type, or offset"),
        (safetensors({"a": tensor(0, 2**62, (2**60,))}), "overflow computing buffer size"),
        (safetensors({"a": tensor(0, 8)}), "file not fully covered"),
        (safetensors({"a": tensor(8, 0, (-2,))}), "expected usize"),
        (safetensors({"a": tensor(0, 8, (2.0,))}), "expected usize"),
        (safetensors({"a": tensor(0, 8, dtype="PICKLE")}), "unknown variant `PICKLE`"),
        (safetensors({"a": "text"}), "expected struct TensorInfo"),
    ],
)
def test_i2_a_safetensors_header_must_describe_its_file_exactly(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError) as error:
        check_safetensors(path)
    assert found in str(error.value)
    assert "download the model again" in str(error.value)


def test_i2_a_truncated_or_padded_weight_file_is_refused_before_loading(folder: Path) -> None:
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[:-1], whole + b"\0", whole[: len(whole) // 2], whole[:7]):
        weights.write_bytes(damaged)
        assert "expected a sound safetensors file" in refusal(folder)


def test_i2_an_index_of_weights_may_only_name_files_beside_it(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"conv_in.weight": "../../elsewhere.safetensors"}})
    )
    assert "expected a file beside it" in refusal(folder)


# what is missing


def test_a_missing_model_is_one_line_that_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def line(model: str, revision: str | None) -> str:
        with pytest.raises(ModelError) as error:
            open_model(model, revision, None, tmp_path)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert f"`hf download stabilityai/sdxl-turbo --revision {COMMIT}`" in line("stabilityai/sdxl-turbo", COMMIT)
    assert "python -m sandbox.build" in line("sandbox/models/generator", None)
    assert "sampler.revision=" in line("stabilityai/sdxl-turbo", None)
    assert "expected a commit of 40 hex digits" in line("stabilityai/sdxl-turbo", "main")
    (tmp_path / "empty").mkdir()
    assert "found a folder without model_index.json" in line("empty", None)


def test_branch_names_and_unknown_settings_are_refused_in_the_recipe() -> None:
    for fields, words in [
        ({"revision": "main"}, "expected a commit of 40 hex digits"),
        ({"scheduler": "euler-a"}, "expected null or one of ddim"),
        ({"saved_px": 128, "size_px": 64}, "images are never enlarged"),
        ({"size_px": 100}, "expected a multiple of 8"),
        ({"negative": "blurry", "guidance": 1.0}, "has no effect without guidance"),
        ({"stepz": 3}, "stepz"),
    ]:
        with pytest.raises(ValidationError, match=words):
            SamplerSpec(model="m", **fields)


def test_i6_a_hub_model_is_taken_from_the_pinned_commit_only(
    pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache has the commit in its path; another commit of the same model is not a substitute."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--someone--tiny" / "snapshots" / COMMIT
    shutil.copytree(pristine, snapshot)
    assert open_model("someone/tiny", COMMIT, None, tmp_path).path == snapshot
    with pytest.raises(ModelError, match="is not in the hub cache"):
        open_model("someone/tiny", COMMIT[::-1], None, tmp_path)
    settings = {"steps": 1, "size_px": 64, "device": "cpu"}
    sampler = Sampler.load(SamplerSpec(model="someone/tiny", revision=COMMIT, **settings))
    assert sampler.sample(REQUESTS).image_NHWC.shape == (4, 64, 64, 3)


def test_weights_with_a_variant_tag_load_when_asked_for(folder: Path) -> None:
    for weights in list(folder.rglob("*.safetensors")):
        weights.rename(weights.with_name(weights.name.replace(".safetensors", ".fp16.safetensors")))
    assert "set sampler.variant" in refusal(folder)
    assert "found no bf16 variant" in refusal(folder, variant="bf16")
    assert Sampler.load(spec(folder, variant="fp16")).sample(REQUESTS[:1]).image_NHWC.shape == (1, 64, 64, 3)


# the digest


def test_the_digest_covers_every_file_that_loading_reads_and_no_other(folder: Path, tmp_path: Path) -> None:
    before = model_digest(str(folder), None, tmp_path)
    (folder / "README.md").write_text("hello")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.json").write_text("{}")
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    assert model_digest(str(folder), None, tmp_path) == before
    assert model_digest(str(moved), None, tmp_path) == before
    loaded = [path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors", ".txt")]
    for path in [path for path in loaded if ".cache" not in path.parts]:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert model_digest(str(folder), None, tmp_path) != before, path
        path.write_bytes(content)
    assert sampler_digest(spec(folder)) == before


# pixels


def test_the_noise_depends_on_the_low_32_bits_of_a_seed(pristine: Path) -> None:
    """No wish but a fact, which docs/FORMATS.md tells: torch keeps no more of it."""
    requests = [Request("the number 1", "", seed) for seed in (5, 5 + (7 << 32), 6)]
    image_NHWC = Sampler.load(spec(pristine, batch=3)).sample(requests).image_NHWC
    assert [np.array_equal(image_NHWC[0], other) for other in image_NHWC[1:]] == [True, False]


def test_saved_images_are_box_means_of_the_generated_ones(pristine: Path) -> None:
    large = Sampler.load(spec(pristine)).sample(REQUESTS).image_NHWC
    small = Sampler.load(spec(pristine, saved_px=32)).sample(REQUESTS).image_NHWC
    assert small.shape == (4, 32, 32, 3)
    boxes = large.reshape(4, 32, 2, 32, 2, 3).astype(float).mean(axis=(2, 4))
    assert np.abs(small - boxes).max() <= 1
    smooth = Sampler.load(spec(pristine, saved_px=32, resize="bicubic")).sample(REQUESTS).image_NHWC
    assert smooth.shape == (4, 32, 32, 3)
    assert np.abs(smooth - boxes).mean() < 16


def test_e1_nan_is_seen_before_the_cast_and_the_cast_is_quiet(pristine: Path) -> None:
    sampler = Sampler.load(spec(pristine))
    with torch.no_grad():
        sampler._pipeline.vae.decoder.conv_out.bias.fill_(float("nan"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        sampled = sampler.sample(REQUESTS)
    assert sampled.finite_N.tolist() == [False] * 4
    assert sampled.image_NHWC.max() == 0


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_e1_one_bad_value_anywhere_is_seen_in_its_own_image_only(pristine: Path, dtype: str, value: float) -> None:
    sampler = Sampler.load(spec(pristine, dtype=dtype, vae_batch=4))
    places = iter([(0, 0, 0), (2, 63, 63), (1, 17, 40)])

    def damage(module: torch.nn.Module, args: tuple[Any, ...], image_NCHW: torch.Tensor) -> None:
        image_NCHW[2][next(places)] = value

    sampler._pipeline.vae.decoder.register_forward_hook(damage)
    for _ in range(3):
        assert sampler.sample(REQUESTS).finite_N.tolist() == [True, True, False, True]


def test_e1_the_largest_numbers_of_a_type_are_finite(pristine: Path) -> None:
    sampler = Sampler.load(spec(pristine, dtype="fp16", vae_batch=4))

    def enlarge(module: torch.nn.Module, args: tuple[Any, ...], image_NCHW: torch.Tensor) -> None:
        image_NCHW[:, 0], image_NCHW[:, 1] = torch.finfo(torch.float16).max, torch.finfo(torch.float16).min

    sampler._pipeline.vae.decoder.register_forward_hook(enlarge)
    sampled = sampler.sample(REQUESTS)
    assert sampled.finite_N.all()
    assert (sampled.image_NHWC[..., 0] == 255).all()
    assert (sampled.image_NHWC[..., 1] == 0).all()


def test_e1_an_overflow_of_the_fp16_decoder_is_decoded_again_in_fp32_when_asked(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["decoder.conv_in.weight"] *= 1e6  # beyond 65,504, what fp16 holds; group norm undoes it in fp32
    save_file({name: value.clamp(-6e4, 6e4) for name, value in weights.items()}, path)
    plain, again = Sampler.load(spec(folder, dtype="fp16")), Sampler.load(spec(folder, dtype="fp16", retry_fp32=True))
    assert not plain.sample(REQUESTS).finite_N.any()
    sampled = again.sample(REQUESTS)
    assert sampled.finite_N.all()
    assert sampled.image_NHWC.std() > 1


@pytest.mark.parametrize("flags", [True, False])
def test_e3_the_models_own_safety_checker_flags_and_its_black_image_is_not_used(tmp_path: Path, flags: bool) -> None:
    sampler = Sampler.load(spec(tiny_pipeline("sd", tmp_path / "sd", checker_flags=flags)))
    sampled = sampler.sample(REQUESTS)
    assert sampled.flagged_N.tolist() == [flags] * 4
    assert sampled.image_NHWC.max() > 0


def test_a_batch_larger_than_the_recipes_or_empty_is_a_mistake(pristine: Path) -> None:
    sampler = Sampler.load(spec(pristine, batch=2))
    for requests in ([], REQUESTS[:3]):
        with pytest.raises(ValueError, match=r"expected 1\.\.2"):
            sampler.sample(requests)


def test_threads_are_pinned_by_the_spec(pristine: Path) -> None:
    before = torch.get_num_threads()
    try:
        Sampler.load(spec(pristine, threads=2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_half_precision_weights_load_into_any_type(pristine: Path) -> None:
    for dtype in ("fp32", "bf16"):
        assert Sampler.load(spec(pristine, dtype=dtype)).sample(REQUESTS).finite_N.all()


def test_a_gpu_that_never_finishes_is_not_waited_for_without_end() -> None:
    class Stuck:
        def query(self) -> bool:
            return False

    with pytest.raises(TimeoutError, match="the GPU has not finished a batch in 0 s"):
        _await_event(Stuck(), 0.01)  # type: ignore[arg-type]


# what every image says about its making


def test_the_stored_settings_are_one_line_of_canonical_json(tmp_path: Path) -> None:
    line = sampler_json(spec(tmp_path, scheduler="euler_a", guidance=2.5))
    assert "\n" not in line
    assert line == json.dumps(json.loads(line), sort_keys=True)
    assert json.loads(line)["scheduler"] == "euler_a"
    assert json.loads(line)["guidance"] == 2.5


# lightness


def test_the_sampler_imports_without_ray_deepspeed_and_faiss_and_defers_torch() -> None:
    code = (
        "import sys\n"
        "for name in ('ray', 'deepspeed', 'faiss', 'webdataset'): sys.modules[name] = None\n"
        "import gen.sampler.text_to_image, gen.make.screen\n"
        "assert 'torch' not in sys.modules and 'diffusers' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr


def test_xformers_without_a_gpu_is_one_line(pristine: Path) -> None:
    assert refusal(pristine, attention="xformers").startswith("attention xformers:")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_without_a_gpu_is_one_line(pristine: Path) -> None:
    assert "torch sees no GPU here" in refusal(pristine, device="cuda")


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {
                "size_px": 512,
                "licence": "MIT",
                "device": "cpu",
                "offload_text": True,
                "family": "sd",
                "negative": "blurry",
            },
            '{"attention": "sdpa", "batch": 16, "compile": "auto", "dtype": "auto", "fuse_qkv": false, '
            '"guidance": 2.0, "resize": "area", "retry_fp32": false, "size_px": 512, "steps": 30, "text_batch": 16, '
            '"threads": 1, "vae_batch": 8}',
        ),
        (
            {
                "size_px": 512,
                "guidance_interval": (0.1, 0.8),
                "reuse_every": 3,
                "batch": "auto",
                "decoder": "x",
                "decoder_revision": COMMIT,
                "quantise": "int8",
                "compile": "regional",
                "vae_dtype": "fp32",
                "variant": "fp16",
                "scheduler": "ddim",
                "saved_px": 256,
            },
            '{"attention": "sdpa", "batch": "auto", "compile": "regional", "decoder": "x", '
            f'"decoder_revision": "{COMMIT}", "dtype": "auto", "fuse_qkv": false, "guidance": 2.0, '
            '"guidance_interval": [0.1, 0.8], "quantise": "int8", "resize": "area", "retry_fp32": false, '
            '"reuse_every": 3, "saved_px": 256, "scheduler": "ddim", "size_px": 512, "steps": 30, "text_batch": 16, '
            '"threads": 1, "vae_batch": 8, "vae_dtype": "fp32", "variant": "fp16"}',
        ),
    ],
)
def test_the_settings_in_a_row_keep_their_bytes(fields: dict[str, Any], line: str) -> None:
    """Kernels, curves and fingerprints of earlier versions are found by them."""
    assert sampler_json(SamplerSpec(model="m", **fields)) == line
