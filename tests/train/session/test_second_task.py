"""What a Task inherits from the Session, shown on one of under a hundred lines: `tests.support.brightness`."""

import json
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cluster.ranks.group import Ranks
from cluster.ranks.host import free_port
from cluster.ranks.place import find_place
from cluster.recipes.load import dump_recipe
from shards.disk.home import home
from shards.stream.index import load_index
from tests.support import warm
from tests.support.brightness import Brightness
from tests.support.faulty_disk import Killed
from tests.support.rank_environment import rank_environment
from tests.support.small_data_set import write_data_set
from tests.support.small_training import NEVER, StopAfter, last_state, small_recipe, write_sets
from train.evaluate.results import Result, append_results, read_results
from train.recipe import TrainRecipe
from train.report.report import write_report
from train.session.in_folder import train_in_folder
from train.session.outcome import TrainOutcome

PARTS = ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "chosen.safetensors")
TOLERANCE = 2e-6  # of weights, after six steps in fp32: sums over ranks are taken in another order


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_sets(folder)
    return folder


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    outcome = brightness(asked(data), out)
    assert outcome.exit_code == 0
    assert "; close guesses: one " in outcome.sentence()
    return out


def asked(data: Path, **changes: object) -> TrainRecipe:
    """With fewer classes than the data have: labels are a matter of the Task."""
    return small_recipe(data, **{"model__num_classes": 2, "optim__lam": 0.7, **changes})


def brightness(recipe: TrainRecipe, out: Path, looks: int = NEVER) -> TrainOutcome:
    with Ranks(find_place({})) as ranks:
        return train_in_folder(recipe, Brightness(recipe), out, home(), StopAfter(looks), ranks)


def started(recipe: Path, out: Path, environment: dict[str, str]) -> warm.Child:
    return warm.start(["-m", "tests.support.brightness", str(recipe), str(out)], environment=environment)


def lines(out: Path, kind: str) -> list[dict[str, object]]:
    text = (out / "log.jsonl").read_text() if (out / "log.jsonl").is_file() else ""
    rows = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [row for row in rows if row["kind"] == kind]


def same_weights(one: Path, other: Path) -> None:
    for part in PARTS:
        found, wanted = last_state(one, part), last_state(other, part)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), part


def test_the_task_is_under_a_hundred_lines() -> None:
    assert len((home() / "tests" / "support" / "brightness.py").read_text().splitlines()) < 100


def told_of(out: Path) -> list[tuple[object, ...]]:
    """What the results say, but for times."""
    return [(one.set, one.step, one.top1, one.selected) for one in read_results(out / "results.jsonl").results]


def test_an_export_that_failed_leaves_no_test_result_and_the_next_call_makes_both(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(Brightness, "export", full)
        with pytest.raises(OSError, match="no space left"):
            brightness(asked(data), tmp_path / "run")
    assert "one" not in {name for name, *_ in told_of(tmp_path / "run")}
    assert brightness(asked(data), tmp_path / "run").exit_code == 0
    assert told_of(tmp_path / "run") == told_of(whole)
    assert (tmp_path / "run" / "line.safetensors").read_bytes() == (whole / "line.safetensors").read_bytes()


def test_killed_between_the_export_and_the_test_results_it_ends_with_the_same_files(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies_at_a_test(path: Path, results: Sequence[Result]) -> None:
        if results[0].role == "test":
            raise Killed
        append_results(path, results)

    with monkeypatch.context() as patched:
        patched.setattr("train.session.session.append_results", dies_at_a_test)
        with pytest.raises(Killed):
            brightness(asked(data), tmp_path / "run")
    assert (tmp_path / "run" / "line.safetensors").is_file()
    assert brightness(asked(data), tmp_path / "run").exit_code == 0
    assert told_of(tmp_path / "run") == told_of(whole)
    assert (tmp_path / "run" / "line.safetensors").read_bytes() == (whole / "line.safetensors").read_bytes()


def test_results_log_and_report_come_with_the_session(whole: Path, tmp_path: Path) -> None:
    results = read_results(whole / "results.jsonl").results
    assert {line.step for line in results if line.role == "validation"} == {3, 6}
    chosen, test = [line for line in results if line.selected]
    assert (chosen.set, test.set, test.n) == ("validation", "one", 20)
    assert chosen.step == test.step
    for row in lines(whole, "train"):
        assert {"loss", "loss_real", "loss_synthetic", "loss_bias", "rate"} <= row.keys()
    assert [row["close"] for row in lines(whole, "test")] == [test.score]
    assert load_file(whole / "line.safetensors").keys() == last_state(whole, "chosen.safetensors").keys()
    assert "one" in write_report([whole], tmp_path / "report.html").read_text()


@pytest.mark.parametrize("looks", [1, 3, 4])
def test_stopped_at_any_step_it_goes_on_to_the_same_bits(data: Path, whole: Path, tmp_path: Path, looks: int) -> None:
    assert brightness(asked(data), tmp_path / "run", looks).exit_code == 75
    assert brightness(asked(data), tmp_path / "run").exit_code == 0
    same_weights(tmp_path / "run", whole)
    assert "nothing was left to do; close guesses: one " in brightness(asked(data), tmp_path / "run").sentence()


@pytest.mark.timeout(600)
def test_killed_it_goes_on_to_the_same_bits(data: Path, tmp_path: Path) -> None:
    """What it draws at random is drawn again."""
    long = {"schedule__steps": 200, "schedule__epoch_steps": 40, "checkpoint__every_min": 1e-9}
    recipe = asked(data, **long, model__drop_path=0.1)
    assert brightness(recipe, tmp_path / "whole").exit_code == 0
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    child = started(tmp_path / "recipe.yaml", tmp_path / "run", {})
    deadline = time.monotonic() + 300
    while len(lines(tmp_path / "run", "saved")) < 5:
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait(timeout=30) == -signal.SIGKILL
    assert brightness(recipe, tmp_path / "run").exit_code == 0
    assert len(lines(tmp_path / "run", "resumed")) == 1
    same_weights(tmp_path / "run", tmp_path / "whole")


@pytest.mark.timeout(600)
def test_two_ranks_train_what_one_process_trains(data: Path, whole: Path, tmp_path: Path) -> None:
    """The loss has a part over the batches of both ranks together."""
    (tmp_path / "recipe.yaml").write_text(dump_recipe(asked(data, engine__kind="ddp")))
    port = free_port()
    ranks = [started(tmp_path / "recipe.yaml", tmp_path / "run", rank_environment(rank, 2, port)) for rank in range(2)]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    assert lines(tmp_path / "run", "started")[0]["ranks"] == 2
    for part in PARTS[:3]:
        found, wanted = last_state(tmp_path / "run", part), last_state(whole, part)
        assert max(float((found[name].double() - wanted[name].double()).abs().max()) for name in wanted) < TOLERANCE
    (test,) = [line for line in read_results(tmp_path / "run" / "results.jsonl").results if line.role == "test"]
    assert test.n == 20


def test_data_that_grow_are_taken_in(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "sets")
    recipe = asked(tmp_path / "sets", data__domains__1__grow=True, schedule__steps=12)
    assert brightness(recipe, tmp_path / "run", looks=4).exit_code == 75
    before = load_index(str(tmp_path / "sets" / "synthetic")).digest
    write_data_set(tmp_path / "more", num_shards=5, num_slots=10, num_rejected=0)
    for number in ("00003", "00004"):
        for file in (tmp_path / "more").glob(f"{number}*"):
            shutil.copy(file, tmp_path / "sets" / "synthetic")
    assert brightness(recipe, tmp_path / "run").exit_code == 0
    results = read_results(tmp_path / "run" / "results.jsonl").results
    assert results[0].data["synthetic"] == before
    assert results[-1].data["synthetic"] == load_index(str(tmp_path / "sets" / "synthetic")).digest != before
