"""`batch: auto`: which batch a curve speaks for, when a curve ends, and that a run never changes its mind.

Devices are simulated where a curve is measured (a clock that calls move on), real where a batch is asked for: tiny
pipelines and the sandbox, on the CPU.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.signals import StopFlag
from cluster.work import FanOutSpec
from gen.batch_curve import SHARE, SIZES, find_batch, measure_curve, smallest_within
from gen.output import RUN
from gen.recipe import Recipe, read_recipe
from gen.sampler import SamplerSpec
from gen.settle import runs_on_gpu, settle
from shards.store import open_store
from tests.tiny_pipelines import tiny_pipeline

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "sandbox.yaml"

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@given(st.dictionaries(st.integers(1, 1024), st.floats(1e-3, 1e6), min_size=1))
def test_the_batch_is_the_smallest_within_three_percent_of_the_best(rates: dict[int, float]) -> None:
    batch = smallest_within(rates, SHARE)
    assert rates[batch] >= SHARE * max(rates.values())
    assert all(rates[smaller] < SHARE * max(rates.values()) for smaller in rates if smaller < batch)


class Device:
    """A call of n images takes `fixed_s + n * each_s`; `memory` is the most images that fit."""

    def __init__(self, fixed_s: float, each_s: float, memory: int = 10_000) -> None:
        self.fixed_s, self.each_s, self.memory = fixed_s, each_s, memory
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def call(self, size: int) -> None:
        if size > self.memory:
            raise torch.OutOfMemoryError("simulated")
        self.now += self.fixed_s + size * self.each_s


@pytest.mark.parametrize(
    ("device", "budget_s", "measured", "ended"),
    [
        (Device(1.0, 0.001), 1e9, [1, 2, 4, 8, 16, 32, 64], "largest size"),
        (Device(1e-9, 1.0), 1e9, [1, 2, 4], "nothing gained"),
        (Device(1.0, 0.001, memory=9), 1e9, [1, 2, 4, 8], "memory"),
        (Device(1.0, 0.001), 15.0, [1, 2], "time"),
    ],
)
def test_a_curve_ends_at_the_last_size_full_memory_the_end_of_its_time_or_where_nothing_is_gained(
    device: Device, budget_s: float, measured: list[int], ended: str
) -> None:
    curve = measure_curve(device.call, SIZES["cuda"], budget_s, device.clock)
    assert (list(curve.rates), curve.ended) == (measured, ended)
    for size, rate in curve.rates.items():
        assert rate == pytest.approx(size / (device.fixed_s + size * device.each_s))


@given(st.floats(1e-3, 10), st.floats(1e-3, 10))
def test_a_curve_that_ends_early_loses_at_most_two_percent_more(fixed_s: float, each_s: float) -> None:
    """Where a call costs a fixed part and a part an image, two doublings that gain less than 3.1 % each leave 1.6 %."""
    device = Device(fixed_s, each_s)
    chosen = measure_curve(device.call, SIZES["cuda"], 1e12, device.clock).batch
    best = max(size / (fixed_s + size * each_s) for size in SIZES["cuda"])
    assert chosen / (fixed_s + chosen * each_s) >= 0.95 * best


def test_a_model_for_which_even_one_image_is_too_large_is_an_error_not_a_batch() -> None:
    device = Device(1.0, 1.0, memory=0)
    with pytest.raises(torch.OutOfMemoryError):
        measure_curve(device.call, SIZES["cuda"], 1e9, device.clock)


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
    first = find_batch(spec, tmp_path, beat)
    assert first["measured"] is True
    assert first["batch"] in SIZES["cpu"]
    assert len(calls) >= 4
    calls.clear()
    again = find_batch(spec, tmp_path, beat)
    assert (again["batch"], again["measured"], calls) == (first["batch"], False, [])
    other = find_batch(spec.model_copy(update={"steps": 2}), tmp_path, beat)
    assert other["measured"] is True, "other settings, another curve"
    for file in tmp_path.glob("*.json"):
        file.write_text("{ torn")
    assert find_batch(spec, tmp_path, beat)["measured"] is True, "a damaged file is not believed"
    assert len(list(tmp_path.glob("*.tmp"))) == 0


def recipe(model: Path, *overrides: str) -> Recipe:
    small = [f"sampler.model={model}", "sampler.steps=1", "sampler.batch=auto", "sampler.device=cpu"]
    return read_recipe(RECIPE, [*small, "cluster.in_process=true", *overrides])


def test_a_run_begins_with_a_number_and_keeps_it_whatever_a_curve_would_say_later(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: None
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = open_store(str(tmp_path / "out"), False)
    said: list[str] = []
    with StopFlag() as stop:
        settled = settle(recipe(model), store, said.append, stop)
        assert settled.sampler.batch in SIZES["cpu"]
        assert (settled.sampler.dtype, settled.sampler.compile) == ("fp32", "none")
        assert f"sampler.batch: {settled.sampler.batch} " in said[-1]
        assert settle(settled, store, said.append, stop) == settled
        store.replace(RUN, json.dumps({"identity": {"sampler": {"batch": 7, "dtype": "bf16"}}}).encode())
        kept = settle(recipe(model), store, said.append, stop).sampler
        assert (kept.batch, kept.dtype, kept.compile) == (7, "bf16", "none")
        assert settle(recipe(model, "sampler.batch=3"), store, said.append, stop).sampler.batch == 3


def test_a_batch_that_cannot_be_measured_ends_the_run_in_one_line(model: Path, tmp_path: Path) -> None:
    broken = recipe(model, "sampler.size_px=64", "sampler.text_tokens=3")  # a fixed text length
    with StopFlag() as stop, pytest.raises(RuntimeError, match=r"auto could not be measured .*text_tokens") as error:
        settle(broken, open_store(str(tmp_path / "out"), False), lambda line: None, stop)
    assert "\n" not in str(error.value)


def test_workers_have_a_gpu_where_the_recipe_says_so() -> None:
    def on_gpu(device: str, **cluster: object) -> bool:
        return runs_on_gpu(SamplerSpec.model_validate({"model": "m", "device": device}), FanOutSpec(**cluster))

    assert on_gpu("cuda")
    assert not on_gpu("cpu", gpus_per_worker=1)
    assert on_gpu("auto", gpus_per_worker=0.5)
    assert not on_gpu("auto", gpus_per_worker=0)
    assert on_gpu("auto") is torch.cuda.is_available()
