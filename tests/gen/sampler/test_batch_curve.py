"""`batch: auto`: which batch a curve of speeds means, when a curve ends, and what is kept of it.

Devices are simulated where a curve is measured (a clock that calls move on), real where a batch is asked for: tiny
pipelines on the CPU.
"""

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gen.sampler import batch_curve
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
from gen.sampler.sampler import CACHED_TEXT_BYTES, Sampler
from gen.sampler.spec import SamplerSpec
from shards.disk.home import home
from tests.support.tiny_pipelines import tiny_pipeline

BUDGET_S = batch_curve.BUDGET_S["cuda"]
ROOT = home()

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


def test_without_a_gpu_everything_is_decided_without_torch() -> None:
    """In a process of its own, where torch would be seen."""
    code = (
        "import sys; from gen.sampler import device; from gen.sampler.spec import SamplerSpec\n"
        "device.has_gpu_files = lambda: False\n"
        "print(device.for_device(SamplerSpec(model='m'))[0].dtype, 'torch' in sys.modules)"
    )
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert made.stdout.split() == ["fp32", "False"]
