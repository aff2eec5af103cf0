"""The default path draws what diffusers' own call draws, bit for bit, and keeps doing so whatever is built beside it.

The reference is the pipeline's own `__call__`, from texts to pixels, with texts encoded in the same batch shapes. It is
the same loaded object: where weights happen to lie in memory moves the last bit on a CPU (a pipeline that diffusers
loaded by itself is compared in test_families, within one level). On a kind of machine that was seen before, hashes of
images from before any fast path existed must hold as well.
"""

import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from pydantic import ValidationError
from torch._dynamo.utils import counters

from gen.model.folder import ModelError
from gen.sampler.compiled import first_compiles, share_kernels
from gen.sampler.device import is_memory_short
from gen.sampler.sampler import Request, Sampler
from gen.sampler.spec import SamplerSpec, check_sampler, sampler_digest, sampler_json
from shards.disk.home import home
from shards.disk.lock import locked
from shards.disk.machine_cache import cache_folder
from tests.gen.sampler.test_families import ONE_CALL_TOLERANCE, recorded_rows, recorded_text_rows, relative_l2
from tests.support.tiny_pipelines import tiny_pipeline

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FAMILIES = ("sd", "sdxl", "sd3", "flux")
TEXTS = ("a red nine", "a die", "nine pips on a tile", "blue ink")
REQUESTS = [Request(text, "", 1000 + place) for place, text in enumerate(TEXTS)]
SANDBOX = home() / "sandbox" / "models" / "generator"

# torch, its CPU kernels, the processor -> model -> first 16 hex digits of the images' sha256
HASHES = {
    ("2.13.0+cu130", "AVX512", "AuthenticAMD 26 2"): {
        "sd": "defab84dfdcca0c9",
        "sdxl": "27fea1d814779ea4",
        "sd3": "508a00d8addb8378",
        "flux": "1f162e12b845250d",
    },
    ("2.13.0+cu130", "AVX512", "GenuineIntel 6 207"): {
        "sd": "defab84dfdcca0c9",
        "sdxl": "5c99811ad0c41298",
        "sd3": "c96c97338d429335",
        "flux": "3b344eed6dc3bfa1",
        "sandbox": "7c93d1e7a72d8a70",
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
    known = HASHES.get(here, {}).get(model)
    assert known in (None, hashlib.sha256(drawn.tobytes()).hexdigest()[:16])


# what a device decides


def test_auto_becomes_bf16_and_compiled_blocks_on_a_gpu_and_neither_on_a_cpu() -> None:
    open_spec = SamplerSpec(model="m")
    assert (open_spec.decided(True).dtype, open_spec.decided(True).compile) == ("bf16", "regional")
    assert open_spec.decided(True, has_bf16=False).dtype == "fp16"
    assert (open_spec.decided(False).dtype, open_spec.decided(False).compile) == ("fp32", "none")
    chosen = SamplerSpec(model="m", dtype="fp16", compile="full")
    assert chosen.decided(True) == chosen.decided(False) == chosen


def test_a_loaded_sampler_says_what_it_decided(folders: dict[str, Path]) -> None:
    sampler = load(folders["sd"])
    assert (sampler.spec.dtype, sampler.spec.compile) == ("fp32", "none")


def test_a_batch_that_is_still_open_is_refused_in_one_line(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="found auto, which only the start of a run decides"):
        load(folders["sd"], batch="auto").sample(REQUESTS)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"batch": 0}, "batch: found 0, expected auto or 1..1024"),
        ({"guidance_interval": [0.5, 0.5]}, "expected 0 <= low < high <= 1"),
        ({"guidance_interval": [0.0, 0.5], "guidance": 1.0}, "guidance_interval: has no effect without guidance"),
        ({"reuse_every": 2, "compile": "full"}, "set compile=regional"),
        ({"fuse_qkv": True, "attention": "xformers"}, "fuse_qkv: not with attention=xformers"),
        ({"decoder_revision": "0" * 40}, "found no decoder beside it"),
        ({"quantise": "int8", "compile": "none"}, "quantise: slower than without where nothing is compiled"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(ValidationError, match=line):
        SamplerSpec(model="m", **fields)


# rounding only


@pytest.mark.parametrize("family", FAMILIES)
def test_fused_projections_change_one_call_by_rounding_only(folders: dict[str, Path], family: str) -> None:
    plain, fused = load(folders[family], steps=1), load(folders[family], steps=1, fuse_qkv=True)
    assert relative_l2(fused.latents(REQUESTS), plain.latents(REQUESTS)) < ONE_CALL_TOLERANCE


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_text_encoders_that_leave_the_device_after_a_units_prompts_change_no_bit(
    folders: dict[str, Path], family: str
) -> None:
    texts = [*TEXTS, *(f"text {number}" for number in range(5))]
    staying, leaving = (load(folders[family], text_batch=3, offload_text=offload) for offload in (False, True))
    for sampler in (staying, leaving):
        sampler.prepare(texts, ["", "rust", "rust"])
    requests = [*REQUESTS[:3], Request(TEXTS[3], "rust", 1)]
    with recorded_text_rows(leaving) as rows:
        drawn = leaving.sample(requests).image_NHWC
    assert rows == [], "nothing is left to encode"
    assert np.array_equal(drawn, staying.sample(requests).image_NHWC)


@pytest.mark.parametrize(("free", "leaves"), [(0.51, False), (0.49, True)])
def test_text_encoders_leave_a_gpu_by_themselves_where_the_model_leaves_less_than_half_of_it(
    folders: dict[str, Path], free: float, leaves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = 24 * 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free * total), total))
    assert is_memory_short(torch.device("cuda")) is leaves
    assert load(folders["sd"]).spec.offload_text is False, "a CPU has nowhere to move them to"
    monkeypatch.setattr("gen.sampler.sampler.is_memory_short", lambda device: leaves)
    assert load(folders["sd"]).spec.offload_text is leaves
    assert load(folders["sd"], offload_text=not leaves).spec.offload_text is not leaves, "a recipe has the last word"


def test_the_decoder_may_have_a_type_of_its_own(folders: dict[str, Path]) -> None:
    sampler = load(folders["sdxl"], dtype="bf16", vae_dtype="fp32")
    assert (sampler._pipeline.unet.dtype, sampler._pipeline.vae.dtype) == (torch.bfloat16, torch.float32)
    assert sampler.sample(REQUESTS).finite_N.all()


def test_another_batch_of_a_loaded_model_is_that_model(folders: dict[str, Path]) -> None:
    sampler = load(folders["sd"])
    assert np.array_equal(
        sampler.with_batch(2).sample(REQUESTS[:2]).image_NHWC, sampler.sample(REQUESTS[:2]).image_NHWC
    )
    with pytest.raises(ValueError, match=r"expected 1\.\.2"):
        sampler.with_batch(2).sample(REQUESTS)


# guidance interval


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3"])
def test_guidance_in_all_steps_is_full_guidance_and_in_none_is_no_guidance(
    folders: dict[str, Path], family: str
) -> None:
    full, always = load(folders[family]), load(folders[family], guidance_interval=[0.0, 1.0])
    none, never = load(folders[family], guidance=1.0), load(folders[family], guidance_interval=[0.9, 1.0])
    assert torch.equal(always.latents(REQUESTS), full.latents(REQUESTS))
    assert torch.equal(never.latents(REQUESTS), none.latents(REQUESTS))
    assert not torch.equal(full.latents(REQUESTS), none.latents(REQUESTS))


def test_steps_outside_the_guidance_interval_run_half_the_rows(folders: dict[str, Path]) -> None:
    sampler = load(folders["sd"], steps=10, guidance_interval=[0.2, 0.5])
    with recorded_rows(sampler._pipeline.unet.conv_in) as rows:
        sampler.latents(REQUESTS)
        sampler.latents(REQUESTS)
    assert rows == 2 * [4, 4, 8, 8, 8, 4, 4, 4, 4, 4]


# feature reuse


@pytest.mark.parametrize("model", ["sd", "sdxl", "sandbox"])
def test_deep_layers_run_every_nth_step_and_outer_layers_in_every_step(folders: dict[str, Path], model: str) -> None:
    sampler = load(folders[model], steps=6, reuse_every=3)
    unet = sampler._pipeline.unet
    with recorded_rows(unet.down_blocks[-1].resnets[0]) as deep, recorded_rows(unet.up_blocks[-1].resnets[-1]) as outer:
        first = sampler.latents(REQUESTS)
        second = sampler.latents(REQUESTS)
    assert (deep, outer) == ([8] * 4, [8] * 12)
    assert torch.equal(first, second), "nothing is left over from the call before"
    whole = load(folders[model], steps=6).latents(REQUESTS)
    assert 0 < relative_l2(first, whole) < 1
    for place, request in enumerate(REQUESTS):
        assert relative_l2(sampler.latents([request])[0], first[place]) < 1e-3, "no image depends on its neighbours"


def test_reuse_and_interval_together_run_whole_where_the_number_of_rows_changes(folders: dict[str, Path]) -> None:
    sampler = load(folders["sd"], steps=6, reuse_every=2, guidance_interval=[0.5, 1.0])
    with recorded_rows(sampler._pipeline.unet.mid_block.resnets[0]) as deep:
        latents = sampler.latents(REQUESTS)
    assert deep == [4, 4, 8, 8]  # steps 0, 2, 3 (rows change) and 4
    assert torch.isfinite(latents).all()


def test_one_step_reuses_nothing(folders: dict[str, Path]) -> None:
    one, plain = load(folders["sd"], steps=1, reuse_every=2), load(folders["sd"], steps=1)
    assert torch.equal(one.latents(REQUESTS), plain.latents(REQUESTS))


# tiny decoder


def tiny_decoder(folder: Path, channels: int = 4) -> Path:
    torch.manual_seed(0)
    tiny: Any = AutoencoderTiny(
        latent_channels=channels,
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    )
    tiny.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_a_tiny_decoder_takes_the_place_of_the_models_own(
    folders: dict[str, Path], tmp_path: Path, family: str
) -> None:
    folder = tiny_decoder(tmp_path / "taesd", 16 if family in ("sd3", "flux") else 4)
    sampler = load(folders[family], decoder=str(folder))
    image = sampler.sample(REQUESTS).image_NHWC
    own = AutoencoderTiny.from_pretrained(folder)
    with torch.inference_mode():
        expected = own.decode(sampler.latents(REQUESTS)).sample.clamp(-1, 1)
    assert np.abs(image - np.rint((expected / 2 + 0.5).permute(0, 2, 3, 1).numpy() * 255)).max() <= 1
    assert torch.equal(load(folders[family]).latents(REQUESTS), sampler.latents(REQUESTS))
    assert sampler_digest(sampler.spec) != sampler_digest(load(folders[family]).spec)


def test_a_decoder_that_is_none_or_reads_other_latents_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="found 'AutoencoderKL', expected an AutoencoderTiny"):
        load(folders["sd"], decoder=str(folders["sd"] / "vae"))
    with pytest.raises(ModelError, match="reads 16 latent channels, the model makes 4"):
        load(folders["sd"], decoder=str(tiny_decoder(tmp_path / "taesd", 16)))


# refusals by family, and what a row says


@pytest.mark.parametrize(
    ("family", "fields", "line"),
    [
        ("flux", {"guidance_interval": [0.0, 0.5]}, "guidance_interval: this model runs one pass a step"),
        ("flux", {"reuse_every": 2}, "family flux has no U-Net"),
        ("sd3", {"reuse_every": 2}, "family sd3 has no U-Net"),
        pytest.param(
            "sd",
            {"quantise": "fp8"},
            "torchao is not installed",
            marks=pytest.mark.skipif(find_spec("torchao") is not None, reason="torchao is installed"),
        ),
    ],
)
def test_a_shortcut_that_a_model_cannot_take_is_refused_before_loading(
    folders: dict[str, Path], family: str, fields: dict[str, Any], line: str
) -> None:
    with pytest.raises(ModelError, match=line) as error:
        check_sampler(SamplerSpec(model=str(folders[family]), size_px=64, **fields))
    assert "\n" not in str(error.value)


def test_every_row_says_which_shortcut_was_taken_and_is_silent_about_those_that_were_not() -> None:
    shortcuts = {"guidance_interval": [0.0, 0.5], "reuse_every": 3, "decoder": "taesd", "quantise": "int8"}
    assert not shortcuts.keys() & json.loads(sampler_json(SamplerSpec(model="m"))).keys()
    told = json.loads(sampler_json(SamplerSpec(model="m", **shortcuts)))
    assert {name: told[name] for name in shortcuts} == shortcuts


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("sdxl", {"steps": 1, "scheduler": "euler_a", "spacing": "trailing"}),  # Turbo
        ("sdxl", {"steps": 4, "scheduler": "euler", "spacing": "trailing"}),  # Lightning
        ("sd", {"steps": 4, "scheduler": "lcm"}),  # LCM
        ("flux", {"steps": 4, "scheduler": "flow_euler"}),  # schnell
    ],
)
def test_the_settings_of_distilled_models_run_one_pass_a_step(
    folders: dict[str, Path], family: str, fields: dict[str, Any]
) -> None:
    sampler = load(folders[family], guidance=0.0, **fields)
    pipeline = sampler._pipeline
    entry = pipeline.unet.conv_in if family != "flux" else pipeline.transformer.x_embedder
    with recorded_rows(entry) as rows:
        sampled = sampler.sample(REQUESTS)
    assert rows == [4] * fields["steps"]
    assert sampled.finite_N.all()


# kernels compiled once on a machine


def test_one_process_compiles_and_the_others_wait_for_it_but_not_for_ever(tmp_path: Path) -> None:
    order = []

    def second() -> None:
        with first_compiles(tmp_path, "key", 60):
            order.append("second")

    with ThreadPoolExecutor(1) as pool:
        with first_compiles(tmp_path, "key", 60):
            waiting = pool.submit(second)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.5)
            order.append("first")
        waiting.result(timeout=60)
    assert order == ["first", "second"]
    with locked(tmp_path / "key.lock", 0), first_compiles(tmp_path, "key", 60):
        pass  # what has been compiled is waited for by nobody
    with locked(tmp_path / "other.lock", 0), first_compiles(tmp_path, "other", 0.2):
        pass  # goes on beside a process that takes too long


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Simulated: Lustre without flock, NFS without a lock daemon."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    with first_compiles(tmp_path, "key", 0), first_compiles(tmp_path, "key", 0):
        pass
    assert (tmp_path / "key.done").exists()
    with locked(tmp_path / "any.lock", 0), locked(tmp_path / "any.lock", 0):
        pass


def test_a_folder_of_kernels_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    with first_compiles(tmp_path / "missing", "key", 0):
        pass


def test_an_error_of_the_first_call_is_its_own_and_leaves_no_mark(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="first call"), first_compiles(tmp_path, "key", 0):
        raise LookupError("of the first call")
    assert not (tmp_path / "key.done").exists()


def test_without_a_compiler_a_first_call_that_fails_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    line = r"no C compiler \(CC=no-such-compiler\).*sampler.compile=none"
    with pytest.raises(ModelError, match=line) as error, first_compiles(tmp_path, "key", 0):
        raise RuntimeError("Failed to find C compiler")
    assert "\n" not in str(error.value)
    with first_compiles(tmp_path, "key", 0):
        pass  # whose kernels are there already


def test_a_cache_that_cannot_be_written_becomes_a_private_temporary_one_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").write_text("")
    said: list[str] = []
    environ = {"XDG_CACHE_HOME": str(tmp_path / "file")}
    folder = cache_folder(environ, "batch", said.append)
    assert folder.parent == tmp_path / f"sixfold_cache-{os.getuid()}"
    assert (folder.is_dir(), stat.S_IMODE(folder.parent.stat().st_mode)) == (True, 0o700)
    assert cache_folder(environ, "batch", said.append) == folder, "the next process finds it"
    assert len(said) == 2
    assert "set XDG_CACHE_HOME" in said[0]
    assert "\n" not in said[0]
    folder.parent.chmod(0o755)
    assert cache_folder(environ, "batch", said.append).parent != folder.parent, "others may have written there"


def test_a_temporary_cache_that_is_somebody_elses_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").write_text("")
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / f"sixfold_cache-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    folder = cache_folder({"XDG_CACHE_HOME": str(tmp_path / "file")}, "batch", lambda line: None)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert folder.parent.parent == tmp_path


def test_a_cache_lies_in_the_users_home(tmp_path: Path) -> None:
    said: list[str] = []
    assert cache_folder({"HOME": str(tmp_path)}, "batch", said.append) == tmp_path / ".cache" / "sixfold" / "batch"
    assert said == []


def test_a_place_for_kernels_that_was_set_by_hand_stays(tmp_path: Path) -> None:
    environ = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "mine")}
    assert share_kernels(environ) == tmp_path / "mine"
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    assert share_kernels(environ) == tmp_path / "sixfold" / "inductor"
    assert environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "sixfold" / "inductor")


# which graphs are compiled, seen without compiling them


@pytest.fixture
def graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """How many graphs there are by now. They run as they are, which is all the same to their number."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch.compiler.reset()
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch.compiler.reset()


@pytest.mark.parametrize(
    "family", ["sd", "flux", *(pytest.param(one, marks=pytest.mark.torture) for one in ("sdxl", "sd3"))]
)
def test_loading_compiles_all_that_a_call_needs_in_two_steps(
    folders: dict[str, Path], graphs: Callable[[], int], family: str
) -> None:
    sampler = load(folders[family], steps=6, compile="regional")
    loaded = graphs()
    assert loaded > 0
    sampler.sample(REQUESTS[:3])
    assert graphs() == loaded


def test_loading_runs_every_step_where_a_shortcut_makes_them_differ(
    folders: dict[str, Path], graphs: Callable[[], int]
) -> None:
    fields = {"steps": 4, "guidance_interval": [0.5, 1.0], "reuse_every": 2}
    sampler = load(folders["sd"], compile="regional", **fields)
    loaded = graphs()
    sampler.sample(REQUESTS)
    assert graphs() == loaded


def test_a_thread_that_did_not_load_the_model_compiles_as_many_shapes_as_the_one_that_did(
    folders: dict[str, Path], graphs: Callable[[], int]
) -> None:
    """Ray loads a worker in one thread and runs it in another. Beyond its limit of shapes torch compiles no more."""
    sampler = load(folders["sd"], steps=1, batch=1, vae_batch=8, compile="regional")
    each = graphs()
    with ThreadPoolExecutor(1) as other:
        for batch in (2, 3):
            other.submit(sampler.with_batch(batch).sample, REQUESTS[:1]).result(timeout=300)
            assert graphs() == batch * each


# texts kept


def test_embeddings_are_kept_up_to_a_number_of_bytes_and_no_bit_depends_on_it(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"text {number}" for number in range(12)]
    requests = [Request(text, "", 1) for text in texts]
    plenty, little = (load(folders["sd"], steps=1, batch=12, vae_batch=12, text_batch=2) for _ in range(2))
    for sampler in (plenty, little):
        sampler.prepare(texts)
    with recorded_text_rows(plenty) as rows:
        drawn = [plenty.sample(requests).image_NHWC for _ in range(2)]
    assert rows == [2] * 6 + [1], "every chunk and the negative text once"
    chunk_bytes = 2 * 77 * 32 * 4
    monkeypatch.setattr("gen.sampler.sampler.CACHED_TEXT_BYTES", 3 * chunk_bytes)
    with recorded_text_rows(little) as rows:
        again = [little.sample(requests).image_NHWC for _ in range(2)]
    assert len(rows) == 14, "six chunks do not fit where three do"
    assert sum(tensor.nbytes for kept in little._embedded.values() for tensor in kept.values()) <= 3 * chunk_bytes
    for one, other in zip(drawn, again, strict=True):
        assert np.array_equal(one, other)
