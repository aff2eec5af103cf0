"""How much memory a model needs is counted from its headers, and what cannot fit is refused before it is loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from gen.model.folder import ModelError, open_model
from gen.sampler import memory
from gen.sampler import sampler as sampler_room
from gen.sampler.memory import Need, Room, advice_on, need_of, refuse_too_large, room_here
from gen.sampler.sampler import Sampler
from gen.sampler.spec import SamplerSpec
from shards.disk.home import home
from tests.support.tiny_pipelines import tiny_pipeline

FAMILIES = ["sd", "sdxl", "sd3", "flux"]


def spec(folder: Path, **fields: Any) -> SamplerSpec:
    return SamplerSpec(model=str(folder), **{"size_px": 64, "batch": 4, "device": "cpu", **fields})


def need(folder: Path, on_gpu: bool = False, **fields: Any) -> Need:
    return need_of(spec(folder, **fields), open_model(str(folder), None, None, home()), on_gpu)


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(request.param, tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline("sd", tmp_path_factory.mktemp("models") / "sd")


def test_weights_are_as_many_bytes_as_the_loaded_networks_have(folder: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    networks = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    loaded = sum(parameter.numel() for network in networks for parameter in network.parameters())
    found = need(folder)
    assert found.dtype == "fp32"
    assert loaded * 4 <= found.weights <= loaded * 4 * 1.05, "buffers such as position ids may be beside them"
    assert 0 < found.text_weights < found.weights


def test_half_the_type_is_half_the_weights_and_a_gpu_decides_for_half(sd: Path) -> None:
    assert need(sd, dtype="bf16").weights * 2 == need(sd, dtype="fp32").weights
    assert need(sd, on_gpu=True).dtype == "bf16"


def test_a_call_needs_more_for_more_images_larger_ones_and_guidance(folder: Path) -> None:
    calm = need(folder, batch=4, vae_batch=4, guidance=0).call
    assert need(folder, batch=8, vae_batch=8, guidance=0).call == 2 * calm
    assert need(folder, batch=4, vae_batch=4, guidance=0, size_px=128).call > calm
    assert need(folder, batch=4, vae_batch=4, guidance=5).call >= calm
    assert need(folder, batch="auto").batch == 1, "how large it may be is then measured"


def test_the_sentence_calls_itself_an_estimate(sd: Path) -> None:
    said = need(sd).sentence()
    assert said.startswith("about 1.0 GB a worker: ")
    assert "of weights as fp32" in said
    assert "for a call of 4 images" in said
    assert said.endswith("(an estimate)")


GB = 10**9


@pytest.mark.parametrize(
    ("found", "room", "words"),
    [
        (Need(2 * GB, 0, 4 * GB, "bf16", 32), Room(8 * GB, "a GPU here", True), ""),
        (Need(2 * GB, 0, 8 * GB, "bf16", 32), Room(8 * GB, "a GPU here", True), "lower sampler.batch or sampler.vae_b"),
        (Need(9 * GB, 0, 0, "fp32", 1), Room(8 * GB, "a GPU here", True), "set sampler.dtype=bf16"),
        (Need(12 * GB, 9 * GB, 0, "bf16", 1), Room(8 * GB, "a GPU here", True), "set sampler.offload_text=true"),
        (Need(6 * GB, 0, 0, "bf16", 1, 9 * GB), Room(8 * GB, "a GPU here", True), "set or lower edit.editor."),
        (Need(9 * GB, 0, 0, "fp32", 1), Room(8 * GB, "each of 2", False, workers=2), "lower cluster.workers"),
        (Need(9 * GB, 0, 0, "fp32", 1), Room(8 * GB, "this machine", False), "use a smaller model"),
    ],
)
def test_what_does_not_fit_comes_with_what_to_change(found: Need, room: Room, words: str) -> None:
    assert advice_on(found, room).startswith(words)
    assert bool(advice_on(found, room)) == (found.all > room.bytes)


def test_only_weights_that_are_counted_are_refused_and_texts_may_be_moved_off_a_gpu() -> None:
    gpu = Room(8 * GB, "a GPU here", True)
    refuse_too_large(Need(7 * GB, 0, 50 * GB, "bf16", 64), gpu, "m")
    refuse_too_large(Need(12 * GB, 9 * GB, 0, "bf16", 1), gpu, "m")
    with pytest.raises(ModelError) as refused:
        refuse_too_large(Need(24 * GB, 9 * GB, 0, "fp32", 1), gpu, "flux")
    assert str(refused.value) == (
        "model flux: found 24.0 GB of weights as fp32, expected at most 8.0 GB, the memory of a GPU here; set "
        "sampler.dtype=bf16, set sampler.offload_text=true"
    )
    with pytest.raises(ModelError, match=r"^model sd and its editor: found 10\.0 GB of weights as bf16, expected at"):
        refuse_too_large(Need(6 * GB, 0, 0, "bf16", 1, beside=4 * GB), gpu, "sd")


def test_a_model_larger_than_the_machine_is_refused_before_it_is_loaded(
    sd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_room, "memory_bytes", lambda: 1_000)
    monkeypatch.setattr(sampler_room, "load_pipeline", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(ModelError, match=r"of weights as fp32, expected at most 1.0 kB, the memory of this machine; "):
        Sampler.load(spec(sd, dtype="fp32"))


def test_workers_of_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_bytes", lambda: 16 * GB)
    assert room_here(False, 1, 1.0) == Room(16 * GB, "this machine", False)
    assert room_here(False, 4, 1.0) == Room(4 * GB, "each of 4 workers on this machine", False, 4)
    monkeypatch.setattr(memory, "_gpu_bytes", lambda: 24 * GB)
    assert room_here(True, 4, 0.5) == Room(12 * GB, "0.5 of a GPU here", True)
    monkeypatch.setattr(memory, "_gpu_bytes", lambda: None)
    assert room_here(True, 4, 1.0) is None
