"""`auto`: which batch a curve speaks for, when a curve ends, who is asked, and that a run never changes its mind.

Devices are simulated where a curve is measured (a clock that calls move on), real where a batch is asked for: tiny
pipelines and the sandbox, on the CPU. A GPU's memory and its number types are simulated by what torch would say of it.
"""

import gc
import json
import subprocess
import sys
import weakref
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.fan_out.fan_out import stays_here
from cluster.fan_out.ray_session import ray_session
from cluster.fan_out.work import FanOutSpec
from cluster.process.stop_flag import StopFlag
from gen.output import RUN
from gen.recipe import Recipe, read_recipe
from gen.run import run
from gen.sampler import batch_curve
from gen.sampler import device as model_device
from gen.sampler.batch_curve import (
    CROWDED,
    SHARE,
    SIZES,
    WARM_UP_S,
    Curve,
    find_batch,
    in_company,
    measure_curve,
    room_bytes,
    smallest_within,
)
from gen.sampler.decide import decide_open_fields, may_have_gpu
from gen.sampler.sampler import CACHED_TEXT_BYTES, Sampler
from gen.sampler.spec import SamplerSpec
from shards.disk.home import home
from shards.disk.store import open_store
from tests.support.tiny_pipelines import tiny_pipeline

BUDGET_S = batch_curve.BUDGET_S["cuda"]
ROOT = home()
RECIPE = ROOT / "recipes" / "sandbox.yaml"

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@given(st.dictionaries(st.integers(1, 1024), st.floats(1e-3, 1e6), min_size=1))
def test_the_batch_is_the_smallest_within_three_percent_of_the_best(rates: dict[int, float]) -> None:
    batch = smallest_within(rates, SHARE)
    assert rates[batch] >= SHARE * max(rates.values())
    assert all(rates[smaller] < SHARE * max(rates.values()) for smaller in rates if smaller < batch)


class Device:
    """A call of n images takes `fixed_s + n * each_s`, a size's first one `compile_s` more; `memory` images fit."""

    def __init__(
        self,
        fixed_s: float,
        each_s: float,
        memory: int = 10_000,
        compile_s: float = 0.0,
        error: Exception | None = None,
    ) -> None:
        self.fixed_s, self.each_s, self.memory, self.compile_s = fixed_s, each_s, memory, compile_s
        self.error = error or torch.OutOfMemoryError("simulated: CUDA out of memory")
        self.now = 0.0
        self.calls: list[int] = []

    def clock(self) -> float:
        return self.now

    def warm_up(self, size: int) -> None:
        self.now += self.compile_s
        self.call(size)

    def call(self, size: int) -> None:
        if size > self.memory:
            raise self.error
        self.calls.append(size)
        self.now += self.fixed_s + size * self.each_s

    def curve(self, budget_s: float = 1e12, **more: Callable[[], bool]) -> batch_curve.Curve:
        return measure_curve(self.warm_up, self.call, SIZES["cuda"], budget_s, self.clock, **more)


@pytest.mark.parametrize(
    ("device", "budget_s", "measured", "ended"),
    [
        (Device(1.0, 0.001), 1e9, [1, 2, 4, 8, 16, 32, 64], "largest size"),
        (Device(1e-9, 1.0), 1e9, [1, 2, 4], "nothing gained"),
        (Device(1.0, 0.001, memory=9), 1e9, [1, 2, 4, 8], "memory"),
        (Device(1.0, 0.001), 11.0, [1, 2], "time"),
        (Device(1.0, 100.0), 500.0, [1, 2], "nothing gained"),
    ],
)
def test_a_curve_ends_at_the_last_size_full_memory_the_end_of_its_time_or_where_nothing_is_gained(
    device: Device, budget_s: float, measured: list[int], ended: str
) -> None:
    curve = device.curve(budget_s)
    assert (list(curve.rates), curve.ended) == (measured, ended)
    for size, rate in curve.rates.items():
        assert rate == pytest.approx(size / (device.fixed_s + size * device.each_s))


@given(st.floats(1e-3, 10), st.floats(1e-3, 10))
def test_a_curve_that_ends_early_loses_at_most_two_percent_more(fixed_s: float, each_s: float) -> None:
    """Where a call costs a fixed part and a part an image, two doublings that gain less than 3.1 % each leave 1.6 %."""
    chosen = Device(fixed_s, each_s).curve().batch
    best = max(size / (fixed_s + size * each_s) for size in SIZES["cuda"])
    assert chosen / (fixed_s + chosen * each_s) >= 0.95 * best


def test_compiling_for_a_minute_a_size_changes_neither_the_rates_nor_the_batch() -> None:
    """Simulated: SD1.5 on a large GPU. The budget for timed calls would be over after the third compilation."""
    slow, quick = Device(0.8, 0.11, compile_s=90.0), Device(0.8, 0.11)
    assert slow.curve(BUDGET_S).rates == pytest.approx(quick.curve(BUDGET_S).rates)
    assert slow.curve(BUDGET_S).batch == quick.curve(BUDGET_S).batch > 4


def test_compilations_without_end_end_the_curve_by_time() -> None:
    curve = Device(1.0, 0.001, compile_s=0.4 * WARM_UP_S).curve()
    assert (list(curve.rates), curve.ended) == ([1, 2], "time")


def test_calls_of_more_than_ten_seconds_are_timed_once() -> None:
    device = Device(11.0, 0.001, memory=2)
    device.curve()
    assert device.calls == [1, 1, 2, 2], "one to warm up and one timed"


def test_a_size_that_fills_the_memory_is_not_in_the_curve_unless_it_is_the_smallest() -> None:
    device = Device(1.0, 0.001)
    assert list(device.curve(is_full=lambda: device.calls[-1] >= 8).rates) == [1, 2, 4]
    assert list(Device(1.0, 0.001).curve(is_full=lambda: True).rates) == [1]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes"),
    ],
)
def test_a_full_memory_ends_a_curve_whichever_library_says_so(error: Exception) -> None:
    assert list(Device(1.0, 0.001, memory=4, error=error).curve().rates) == [1, 2, 4]


def test_any_other_error_is_no_full_memory() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        Device(1.0, 0.001, memory=4, error=RuntimeError("mat1 and mat2 shapes cannot be multiplied")).curve()


def test_a_model_for_which_even_one_image_is_too_large_is_an_error_not_a_batch() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        Device(1.0, 1.0, memory=0).curve()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline("sd", tmp_path_factory.mktemp("models") / "sd")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "cpu", (1, 2, 4))


def test_a_curve_is_measured_once_for_the_same_settings_on_a_machine(model: Path, tmp_path: Path, short: None) -> None:
    spec = SamplerSpec(model=str(model), steps=1, size_px=64, device="cpu", batch="auto").decided(False)
    calls: list[int] = []
    beat: Callable[[], None] = lambda: calls.append(1)  # noqa: E731
    first = find_batch(spec, tmp_path, 1.0, beat)
    assert first["measured"] is True
    assert first["batch"] in SIZES["cpu"]
    assert len(calls) >= 4
    calls.clear()
    again = find_batch(spec, tmp_path, 1.0, beat)
    assert (again["batch"], again["measured"], calls) == (first["batch"], False, [])
    other = find_batch(spec.model_copy(update={"steps": 2}), tmp_path, 1.0, beat)
    assert other["measured"] is True, "other settings, another curve"
    leaving = find_batch(spec.model_copy(update={"offload_text": True}), tmp_path, 1.0, beat)
    assert leaving["measured"] is True, "text encoders that stay take memory"
    assert find_batch(spec, tmp_path, 0.5, beat)["measured"] is True, "half a GPU holds less"
    for file in tmp_path.glob("*.json"):
        file.write_text("{ torn")
    assert find_batch(spec, tmp_path, 1.0, beat)["measured"] is True, "a damaged file is not believed"
    assert len(list(tmp_path.glob("*.tmp"))) == 0


def test_a_measurement_survives_a_cache_that_cannot_be_written(model: Path, tmp_path: Path, short: None) -> None:
    spec = SamplerSpec(model=str(model), steps=1, size_px=64, device="cpu", batch="auto").decided(False)
    find_batch(spec, tmp_path, 1.0, lambda: None)
    for file in tmp_path.glob("*.json"):
        file.unlink()
        file.mkdir()  # no file can take its place
    assert find_batch(spec, tmp_path, 1.0, lambda: None)["batch"] in SIZES["cpu"]
    assert list(tmp_path.glob("*.tmp")) == []


def test_a_batch_leaves_room_for_a_runs_texts_and_for_the_other_workers_of_a_gpu() -> None:
    gpu = 80 * 2**30
    assert room_bytes(gpu, 1.0, offload_text=True) == 0.9 * gpu
    assert room_bytes(gpu, 1.0, offload_text=False) == 0.9 * gpu - CACHED_TEXT_BYTES
    assert room_bytes(gpu, 0.5, offload_text=True) == 0.45 * gpu


@pytest.mark.parametrize(
    ("ended", "free", "share", "expected"),
    [
        ("memory", 79, 1.0, "memory"),  # the rest is the driver's own
        ("memory", 60, 1.0, CROWDED),
        ("memory", 60, 0.5, "memory"),
        ("nothing gained", 60, 1.0, "nothing gained"),
    ],
)
def test_a_full_memory_of_which_others_hold_a_part_says_so(ended: str, free: int, share: float, expected: str) -> None:
    assert in_company(Curve({1: 2.0}, ended), free, 80, share) == Curve({1: 2.0}, expected)


def test_a_curve_that_others_cut_short_is_said_and_not_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A simulated GPU: 60 of 80 GB are free, and four images fill it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    crowded = in_company(Device(1.0, 0.001, memory=2).curve(), 60, 80, 1.0)
    monkeypatch.setattr(batch_curve, "_measure", lambda *arguments: crowded)
    said: list[str] = []
    with StopFlag() as stop:
        decided = decide_open_fields(recipe(model), open_store(str(tmp_path / "out"), False), said.append, stop)
    assert decided.sampler.batch == 2
    assert "other processes hold a part of the GPU's memory, so this one is for this run only" in said[-1]
    assert list((tmp_path / "cache").rglob("*.json")) == []


def test_the_measured_model_is_gone_when_its_curve_is_there(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: None
) -> None:
    """Also where only the collector can find it: forwards that were replaced hold their modules in a circle."""
    modules: list[weakref.ref[torch.nn.Module]] = []
    load = Sampler.load

    def load_and_remember(spec: SamplerSpec) -> Sampler:
        sampler = load(spec)
        modules.extend(weakref.ref(module) for module in sampler._pipeline.unet.modules())
        return sampler

    monkeypatch.setattr(Sampler, "load", load_and_remember)
    spec = SamplerSpec(model=str(model), steps=2, size_px=64, device="cpu", batch="auto", reuse_every=2).decided(False)
    gc.disable()
    try:
        find_batch(spec, tmp_path, 1.0, lambda: None)
        assert [one for one in modules if one() is not None] == []
    finally:
        gc.enable()
    assert len(modules) > 10


def recipe(model: Path, *overrides: str) -> Recipe:
    small = [f"sampler.model={model}", "sampler.steps=1", "sampler.batch=auto", "sampler.device=cpu"]
    return read_recipe(RECIPE, [*small, "cluster.in_process=true", *overrides])


def test_a_curve_that_ended_by_time_is_said_and_not_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: None
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(batch_curve.BUDGET_S, "cpu", 0.0)
    said: list[str] = []
    with StopFlag() as stop:
        for out in ("one", "two"):
            decided = decide_open_fields(recipe(model), open_store(str(tmp_path / out), False), said.append, stop)
            assert decided.sampler.batch == 1
    assert [line.startswith("sampler.batch: 1 (") and "was not kept" in line for line in said] == [False, True] * 2
    assert list((tmp_path / "cache").rglob("*.json")) == []


def test_a_run_begins_with_a_number_and_keeps_it_whatever_a_curve_would_say_later(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: None
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = open_store(str(tmp_path / "out"), False)
    said: list[str] = []
    with StopFlag() as stop:
        decided = decide_open_fields(recipe(model), store, said.append, stop)
        assert decided.sampler.batch in SIZES["cpu"]
        assert (decided.sampler.dtype, decided.sampler.compile) == ("fp32", "none")
        assert f"sampler.batch: {decided.sampler.batch} " in said[-1]
        assert decide_open_fields(decided, store, said.append, stop) == decided
        store.replace(RUN, json.dumps({"identity": {"sampler": {"batch": 7, "dtype": "bf16"}}}).encode())
        kept = decide_open_fields(recipe(model), store, said.append, stop).sampler
        assert (kept.batch, kept.dtype, kept.compile) == (7, "bf16", "none")
        assert decide_open_fields(recipe(model, "sampler.batch=3"), store, said.append, stop).sampler.batch == 3


def test_a_batch_that_cannot_be_measured_ends_the_run_in_one_line(model: Path, tmp_path: Path) -> None:
    broken = recipe(model, "sampler.size_px=64", "sampler.text_tokens=3")  # a fixed text length
    with StopFlag() as stop, pytest.raises(ValueError, match=r"auto could not be decided .*text_tokens") as error:
        decide_open_fields(broken, open_store(str(tmp_path / "out"), False), lambda line: None, stop)
    assert "\n" not in str(error.value)


# who is asked


@pytest.mark.parametrize(
    ("device", "cluster", "here", "possible"),
    [
        ("cuda", {}, True, True),
        ("cpu", {"gpus_per_worker": 1}, False, False),
        ("auto", {"gpus_per_worker": 0.5}, True, True),
        ("auto", {"gpus_per_worker": 0}, False, False),
        ("auto", {}, True, False),
        ("auto", {}, False, True),
        ("auto", {"in_process": True, "gpus_per_worker": 1}, True, False),
    ],
)
def test_a_worker_is_asked_unless_it_cannot_have_a_gpu(
    monkeypatch: pytest.MonkeyPatch, device: str, cluster: dict[str, Any], here: bool, possible: bool
) -> None:
    """On a driver without a GPU (simulated where there is one)."""
    monkeypatch.setattr("gen.sampler.decide.has_gpu_files", lambda: False)
    spec = SamplerSpec.model_validate({"model": "m", "device": device})
    assert may_have_gpu(spec, FanOutSpec(**cluster), here) is possible


def test_workers_are_elsewhere_only_on_a_cluster_that_was_named() -> None:
    assert stays_here(FanOutSpec(in_process=True), {"RAY_ADDRESS": "head:6379"})
    assert stays_here(FanOutSpec(), {})
    assert stays_here(FanOutSpec(), {"RAY_ADDRESS": "local"})
    assert not stays_here(FanOutSpec(), {"RAY_ADDRESS": "head:6379"})


def test_where_no_worker_can_have_a_gpu_nobody_is_asked(model: Path, tmp_path: Path) -> None:
    """A cluster that does not exist cannot answer."""
    spec = recipe(model, "sampler.batch=4", "cluster.in_process=false", "cluster.gpus_per_worker=0")
    with StopFlag() as stop:
        decided = decide_open_fields(spec, open_store(str(tmp_path / "out"), False), lambda line: None, stop).sampler
    assert (decided.dtype, decided.compile, decided.batch) == ("fp32", "none", 4)


def test_on_a_cluster_one_worker_is_asked(model: Path, tmp_path: Path) -> None:
    """A real Ray that is already there, as a cluster that the driver has joined; without GPUs."""
    spec = recipe(model, "sampler.batch=4", "sampler.device=auto", "cluster.in_process=false")
    with ray_session(FanOutSpec(gpus_per_worker=0), 1), StopFlag() as stop:
        assert not stays_here(spec.cluster, {})
        decided = decide_open_fields(spec, open_store(str(tmp_path / "out"), False), lambda line: None, stop).sampler
    assert (decided.dtype, decided.compile, decided.batch) == ("fp32", "none", 4)


@pytest.mark.parametrize(("has_bf16", "dtype"), [(True, "bf16"), (False, "fp16")])
def test_the_answer_of_a_worker_with_a_gpu_settles_a_run_whose_driver_has_none(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_bf16: bool, dtype: str
) -> None:
    """A simulated GPU, asked in this process: what torch says there is all that counts."""
    monkeypatch.setattr(model_device, "has_gpu_files", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr("gen.sampler.decide.has_gpu_files", lambda: False)
    open_recipe = recipe(model, "sampler.batch=4", "sampler.device=cuda")
    with StopFlag() as stop:
        decided = decide_open_fields(
            open_recipe, open_store(str(tmp_path / "out"), False), lambda line: None, stop
        ).sampler
    assert (decided.dtype, decided.compile, decided.batch) == (dtype, "regional", 4)


def test_a_device_that_was_named_and_is_not_there_ends_the_run_in_one_line(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    open_recipe = recipe(model, "sampler.batch=4", "sampler.device=cuda")
    with (
        StopFlag() as stop,
        pytest.raises(ValueError, match=r"dtype, sampler\.compile: .*torch sees no GPU") as error,
    ):
        decide_open_fields(open_recipe, open_store(str(tmp_path / "out"), False), lambda line: None, stop)
    assert "\n" not in str(error.value)


def test_without_a_gpu_everything_is_decided_without_torch() -> None:
    """In a process of its own, where torch would be seen."""
    code = (
        "import sys; from gen.model import device; from gen.sampler.sampler import SamplerSpec\n"
        "device.has_gpu_files = lambda: False\n"
        "print(device.for_device(SamplerSpec(model='m'))[0].dtype, 'torch' in sys.modules)"
    )
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert made.stdout.split() == ["fp32", "False"]


# what no device here can do is said before the output begins


@pytest.fixture
def torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were installed: it is asked for by name before anything is loaded."""
    monkeypatch.setattr("gen.sampler.shortcuts.find_spec", lambda name: object())


QUANTISED = ("sampler.batch=4", "sampler.device=auto", "sampler.quantise=int8", "sampler.compile=regional")


@pytest.mark.parametrize("fields", [(), ("sampler.dtype=fp32",)], ids=["open", "all given"])
def test_quantising_without_a_gpu_begins_no_output(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torchao: None, fields: tuple[str, ...]
) -> None:
    monkeypatch.setattr("gen.sampler.decide.has_gpu_files", lambda: False)
    asked = recipe(model, *QUANTISED, *fields)
    with StopFlag() as stop, pytest.raises(ValueError, match="quantise int8: needs a GPU, found none; set"):
        run(asked, Fraction("0.2"), str(tmp_path / "out"), ROOT, stop)
    assert not (tmp_path / "out" / RUN).exists()


def test_quantising_with_a_gpu_that_cannot_begins_no_output(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torchao: None
) -> None:
    """A simulated A100, which has no fp8."""
    for module in ("gen.sampler.decide", "gen.sampler.device"):
        monkeypatch.setattr(f"{module}.has_gpu_files", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    asked = recipe(model, *QUANTISED, "sampler.quantise=fp8", "sampler.dtype=bf16")
    expected = r"sampler\.quantise: no worker can do it \(.*compute capability 8\.0, expected 8\.9"
    with StopFlag() as stop, pytest.raises(ValueError, match=expected):
        run(asked, Fraction("0.2"), str(tmp_path / "out"), ROOT, stop)
    assert not (tmp_path / "out" / RUN).exists()
