"""`auto` in a recipe: who is asked, what is said, and that a run never changes its mind.

Tiny pipelines on the CPU answer. A GPU's memory and its number types are simulated by what torch would say of it.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.fan_out.fan_out import stays_here
from cluster.fan_out.ray_session import ray_session
from cluster.fan_out.work import FanOutSpec
from cluster.process.stop_flag import StopFlag
from gen.run.auto import fill_auto, may_have_gpu
from gen.run.output import RUN
from gen.run.recipe import Recipe, read_recipe
from gen.run.run import run
from gen.sampler import batch_curve
from gen.sampler import device as model_device
from gen.sampler.batch_curve import CROWDED, SIZES, Curve
from gen.sampler.spec import SamplerSpec
from shards.disk.home import home
from tests.support.tiny_pipelines import tiny_pipeline

ROOT = home()
RECIPE = ROOT / "recipes" / "sandbox.yaml"

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline("sd", tmp_path_factory.mktemp("models") / "sd")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "cpu", (1, 2, 4))


def recipe(model: Path, *overrides: str) -> Recipe:
    small = [f"sampler.model={model}", "sampler.steps=1", "sampler.batch=auto", "sampler.device=cpu"]
    return read_recipe(RECIPE, [*small, "cluster.in_process=true", *overrides])


def filled(
    recipe: Recipe, begun: Mapping[str, Any] | None, say: Callable[[str], None] = lambda line: None
) -> SamplerSpec:
    with StopFlag() as stop:
        return fill_auto(recipe.sampler, recipe.cluster, begun, say, stop)


def test_a_curve_that_others_cut_short_is_said_and_not_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A simulated GPU: the memory that others hold ends the curve at two images."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    crowded = Curve({1: 1.0, 2: 2.0}, CROWDED)
    monkeypatch.setattr(batch_curve, "_measure", lambda *arguments: crowded)
    said: list[str] = []
    decided = filled(recipe(model), None, said.append)
    assert decided.batch == 2
    assert "other processes hold a part of the GPU's memory, so this one is for this run only" in said[-1]
    assert list((tmp_path / "cache").rglob("*.json")) == []


def test_a_curve_that_ended_by_time_is_said_and_not_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: None
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(batch_curve.BUDGET_S, "cpu", 0.0)
    said: list[str] = []
    for _ in range(2):
        decided = filled(recipe(model), None, said.append)
        assert decided.batch == 1
    assert [line.startswith("sampler.batch: 1 (") and "was not kept" in line for line in said] == [False, True] * 2
    assert list((tmp_path / "cache").rglob("*.json")) == []


def test_a_run_begins_with_a_number_and_keeps_it_whatever_a_curve_would_say_later(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: None
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    said: list[str] = []
    decided = filled(recipe(model), None, said.append)
    assert decided.batch in SIZES["cpu"]
    assert (decided.dtype, decided.compile) == ("fp32", "none")
    assert f"sampler.batch: {decided.batch} " in said[-1]
    begun = decided.model_dump(mode="json")
    assert filled(recipe(model), begun, said.append) == decided
    begun = {"batch": 7, "dtype": "bf16"}
    kept = filled(recipe(model), begun, said.append)
    assert (kept.batch, kept.dtype, kept.compile) == (7, "bf16", "none")
    assert filled(recipe(model, "sampler.batch=3"), begun, said.append).batch == 3


def test_a_size_that_the_recipe_leaves_open_is_the_models_own_and_that_of_a_run_that_has_begun(model: Path) -> None:
    still_open = recipe(model, "sampler.size_px=null", "sampler.batch=4")
    assert filled(still_open, None).size_px == 64
    assert filled(still_open, {"size_px": 512}).size_px == 512
    assert filled(recipe(model, "sampler.size_px=72", "sampler.batch=4"), {"size_px": 512}).size_px == 72


def test_a_run_that_goes_on_asks_nobody_what_was_decided_before(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call writes its batch down; at the second one a curve would say another."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = ["sampler.size_px=64", "shards.samples_per_shard=10", "prompts.per_class=2", "meanings.choose=none"]
    for batch, num_made in ((4, 1), (8, 0)):
        monkeypatch.setattr(batch_curve, "_measure", lambda *arguments, batch=batch: Curve({batch: 1.0}, CROWDED))
        with StopFlag() as stop:
            made = run(recipe(model, *small), Fraction("0.05"), str(tmp_path / "out"), ROOT, stop)
        assert (made.made_units, made.done_units, made.exit_code) == (num_made, 1, 0), made.sentence()
    known = json.loads((tmp_path / "out" / RUN).read_text())
    assert known["identity"]["sampler"]["batch"] == 4


def test_an_output_in_which_nothing_was_made_keeps_no_size_and_no_batch_of_the_model_that_began_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is killed before its first shard; then its model is corrected, whose own size is another."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = ["sampler.size_px=null", "shards.samples_per_shard=10", "prompts.per_class=2", "meanings.choose=none"]
    larger = shutil.copytree(model, tmp_path / "larger")
    config = json.loads((larger / "unet" / "config.json").read_text())
    (larger / "unet" / "config.json").write_text(json.dumps(config | {"sample_size": config["sample_size"] + 1}))
    decided = []
    for used, batch in ((model, 4), (larger, 2)):
        monkeypatch.setattr(batch_curve, "_measure", lambda *arguments, batch=batch: Curve({batch: 1.0}, CROWDED))
        with StopFlag() as stop:
            made = run(recipe(used, *small), Fraction("0.05"), str(tmp_path / "out"), ROOT, stop)
        assert made.exit_code == 0, made.sentence()
        sampler = json.loads((tmp_path / "out" / RUN).read_text())["identity"]["sampler"]
        decided.append((sampler["size_px"], sampler["batch"]))
        for file in (tmp_path / "out").glob("0*"):
            file.unlink()
    assert decided == [(64, 4), (72, 2)]


def test_a_batch_that_cannot_be_measured_ends_the_run_in_one_line(model: Path) -> None:
    broken = recipe(model, "sampler.size_px=64", "sampler.text_tokens=3")  # a fixed text length
    with pytest.raises(ValueError, match=r"auto could not be decided .*text_tokens") as error:
        filled(broken, None)
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
    monkeypatch.setattr("gen.run.auto.has_gpu_files", lambda: False)
    spec = SamplerSpec.model_validate({"model": "m", "device": device})
    assert may_have_gpu(spec, FanOutSpec(**cluster), here) is possible


def test_workers_are_elsewhere_only_on_a_cluster_that_was_named() -> None:
    assert stays_here(FanOutSpec(in_process=True), {"RAY_ADDRESS": "head:6379"})
    assert stays_here(FanOutSpec(), {})
    assert stays_here(FanOutSpec(), {"RAY_ADDRESS": "local"})
    assert not stays_here(FanOutSpec(), {"RAY_ADDRESS": "head:6379"})


def test_where_no_worker_can_have_a_gpu_nobody_is_asked(model: Path) -> None:
    """A cluster that does not exist cannot answer."""
    spec = recipe(model, "sampler.batch=4", "cluster.in_process=false", "cluster.gpus_per_worker=0")
    decided = filled(spec, None)
    assert (decided.dtype, decided.compile, decided.batch) == ("fp32", "none", 4)


def test_on_a_cluster_one_worker_is_asked(model: Path) -> None:
    """A real Ray that is already there, as a cluster that the driver has joined; without GPUs."""
    spec = recipe(model, "sampler.batch=4", "sampler.device=auto", "cluster.in_process=false")
    with ray_session(FanOutSpec(gpus_per_worker=0), 1, StopFlag()):
        assert not stays_here(spec.cluster, {})
        decided = filled(spec, None)
    assert (decided.dtype, decided.compile, decided.batch) == ("fp32", "none", 4)


@pytest.mark.parametrize(("has_bf16", "dtype"), [(True, "bf16"), (False, "fp16")])
def test_the_answer_of_a_worker_with_a_gpu_settles_a_run_whose_driver_has_none(
    model: Path, monkeypatch: pytest.MonkeyPatch, has_bf16: bool, dtype: str
) -> None:
    """A simulated GPU, asked in this process: what torch says there is all that counts."""
    monkeypatch.setattr(model_device, "has_gpu_files", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr("gen.run.auto.has_gpu_files", lambda: False)
    open_recipe = recipe(model, "sampler.batch=4", "sampler.device=cuda")
    decided = filled(open_recipe, None)
    assert (decided.dtype, decided.compile, decided.batch) == (dtype, "regional", 4)


def test_a_device_that_was_named_and_is_not_there_ends_the_run_in_one_line(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    open_recipe = recipe(model, "sampler.batch=4", "sampler.device=cuda")
    with pytest.raises(ValueError, match=r"dtype, sampler\.compile: .*torch sees no GPU") as error:
        filled(open_recipe, None)
    assert "\n" not in str(error.value)


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
    monkeypatch.setattr("gen.run.auto.has_gpu_files", lambda: False)
    asked = recipe(model, *QUANTISED, *fields)
    with StopFlag() as stop, pytest.raises(ValueError, match="quantise int8: needs a GPU, found none; set"):
        run(asked, Fraction("0.2"), str(tmp_path / "out"), ROOT, stop)
    assert not (tmp_path / "out" / RUN).exists()


def test_quantising_with_a_gpu_that_cannot_begins_no_output(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torchao: None
) -> None:
    """A simulated A100, which has no fp8."""
    for module in ("gen.run.auto", "gen.sampler.device"):
        monkeypatch.setattr(f"{module}.has_gpu_files", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    asked = recipe(model, *QUANTISED, "sampler.quantise=fp8", "sampler.dtype=bf16")
    expected = r"sampler\.quantise: no worker can do it \(.*compute capability 8\.0, expected 8\.9"
    with StopFlag() as stop, pytest.raises(ValueError, match=expected):
        run(asked, Fraction("0.2"), str(tmp_path / "out"), ROOT, stop)
    assert not (tmp_path / "out" / RUN).exists()
