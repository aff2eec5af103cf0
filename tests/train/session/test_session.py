"""Trainings from start to end: results, stopping and going on to the same bits, values that are not finite."""

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

import sixfold
from cluster.process.stop_flag import StopFlag
from cluster.ranks.group import Ranks
from cluster.ranks.place import find_place
from cluster.recipes.load import dump_recipe
from shards.disk.data_set import kind_of_place, open_data_set
from shards.disk.home import home
from shards.disk.store import FolderStore
from shards.stream.index import load_index
from tests.support import warm
from tests.support.small_data_set import write_data_set
from tests.support.small_training import NEVER, StopAfter, last_state, measured, small_recipe, train_alone, write_sets
from train.evaluate.data_check import open_domains
from train.evaluate.evaluate import Validation, open_set, open_sets, select
from train.evaluate.results import read_results
from train.model.aux_bn import aux_keys, plain_tensors
from train.model.classifiers import ModelSpec, build
from train.recipe import TrainRecipe
from train.run import train
from train.session import checkpoint
from train.session.session import Session
from train.task.export import class_names


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_sets(folder)
    return folder


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert run(small_recipe(data), out) == 0
    return out


def run(recipe: TrainRecipe, out: Path, looks: int = NEVER) -> int:
    return train_alone(recipe, out, looks).exit_code


def lines(out: Path, kind: str) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def names_of(recipe: TrainRecipe) -> dict[str, str]:
    return class_names(open_domains(recipe.data.domains, None))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# the end of a training


def test_a_training_leaves_results_of_every_set_and_one_chosen_validation(data: Path, whole: Path) -> None:
    results = read_results(whole / "results.jsonl").results
    assert {(line.set, line.role) for line in results} == {("validation", "validation"), ("one", "test")}
    assert [line.step for line in results if line.role == "validation" and line.selected] == [
        select([Validation.of(line) for line in results if line.role == "validation" and line.branch is None])
    ] * 2
    test, of_branch = [line for line in results if line.role == "test"]
    assert test.selected
    assert of_branch.selected
    assert (test.branch, of_branch.branch) == (None, "synthetic")
    assert test.n == 20
    assert set(test.data) == {"real", "synthetic", "one"}
    validations = [line for line in results if line.role == "validation"]
    assert all(set(line.data) == {"real", "synthetic", "validation"} for line in validations)
    digests = {name: load_index(str(data / name)).digest for name in ("real", "synthetic", "test", "held-out")}
    assert test.data == {"real": digests["real"], "synthetic": digests["synthetic"], "one": digests["held-out"]}
    assert {line.data["validation"] for line in validations} == {digests["test"]}


def test_the_folder_of_a_training_is_known_for_what_it_is(whole: Path) -> None:
    assert kind_of_place(FolderStore(whole)) == "training"
    with pytest.raises(ValueError, match=r"found the folder of a training, .* `sixfold report` shows its results"):
        open_data_set(str(whole))


def test_the_exported_model_is_a_plain_one_with_the_chosen_weights(whole: Path) -> None:
    plain = build(ModelSpec(name="sandbox_resnet", num_classes=5, aux="none"), (8,), 0, 32)
    tensors = load_file(whole / "model.safetensors")
    plain.load_state_dict(tensors, strict=True)
    assert same(tensors, plain_tensors(last_state(whole, "chosen.safetensors")))
    about = json.loads((whole / "model.json").read_text())
    assert about["class_names"] == {"0": "zero", "1": "one", "2": "two", "3": "crane", "4": "crane"}
    measured = json.loads((whole / "bn_distances.json").read_text())
    assert (measured["step"], measured["weights"]) == (6, "last")
    assert {row["domain"] for row in measured["layers"]} == {1}


def test_the_export_needs_no_training_data(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scratch space may be cleared after the last step; the sets to measure on are elsewhere."""
    sets = Path(shutil.copytree(data, tmp_path / "sets"))
    finish = Session._finish

    def finish_without_data(self: Session, state: dict[str, object]) -> object:
        shutil.rmtree(sets / "real")
        shutil.rmtree(sets / "synthetic")
        return finish(self, state)

    monkeypatch.setattr(Session, "_finish", finish_without_data)
    assert run(small_recipe(sets), tmp_path / "run") == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    names = [json.loads((run / "model.json").read_text())["class_names"] for run in (tmp_path / "run", whole)]
    assert names[0] == names[1]


def test_a_shard_that_is_recorded_while_the_names_are_read_does_no_harm(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is published at each listing of the data set in turn, and has a class that no other shard has."""

    def changed(shard: int, index: int, row: dict[str, object]) -> dict[str, object]:
        return {**row, "class_id": 5, "class_name": "five"} if shard == 2 else row

    write_data_set(tmp_path / "ours", num_shards=3, change=changed)
    old = {"0": "zero", "1": "one", "2": "two", "3": "crane", "4": "crane"}
    remote = fsspec.filesystem("memory")
    plain_ls = type(remote).ls
    found = []
    for turn in range(1, 6):
        url = f"memory://{tmp_path.name}-{turn}-{os.getpid()}"
        late = {f"{url}/{path.name}": path.read_bytes() for path in sorted((tmp_path / "ours").glob("00002*"))}
        for path in (tmp_path / "ours").glob("0000[01]*"):
            remote.pipe_file(f"{url}/{path.name}", path.read_bytes())
        turns = itertools.count(1)

        def ls(self: Any, *args: Any, **options: Any) -> Any:
            if next(turns) == turn:  # noqa: B023
                for name, content in late.items():  # noqa: B023
                    remote.pipe_file(name, content)
            return plain_ls(self, *args, **options)

        monkeypatch.setattr(type(remote), "ls", ls)
        names = names_of(small_recipe(data, data__domains__1__source=url))
        monkeypatch.undo()
        assert names in (old, {**old, "5": "five"})
        found.append(len(names))
    assert found[0] == 6
    assert found[-1] == 5


def test_class_names_are_read_from_as_few_tables_as_hold_them(data: Path, tmp_path: Path) -> None:
    """A table that is not needed may be broken: nobody looks at it. The model has one class more than the data."""
    shutil.copytree(data, tmp_path / "sets")
    recipe = small_recipe(tmp_path / "sets", model__num_classes=6)
    for domain in recipe.data.domains:
        load_index(domain.source)
        for table in sorted(Path(domain.source).glob("*.parquet"))[1:]:
            table.write_bytes(bytes(table.stat().st_size))
    assert names_of(recipe) == {"0": "zero", "1": "one", "2": "two", "3": "crane", "4": "crane"}


def test_a_measured_model_has_every_module_in_the_mode_it_was_in(data: Path) -> None:
    recipe = small_recipe(data)
    model = build(recipe.model, recipe.quotas, 0, 32)
    model.get_submodule("bn1").eval()  # frozen
    before = {name: module.training for name, module in model.named_modules()}
    one = open_set("one", "test", recipe.evaluate.tests["one"], recipe.model.num_classes)
    with Ranks(find_place({})) as ranks:
        assert measured(model, one, recipe, ranks).n == 20
    assert {name: module.training for name, module in model.named_modules()} == before
    assert set(before.values()) == {True, False}


def test_the_same_command_does_nothing_to_a_finished_run(data: Path, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.name != "run.lock"}
    assert run(small_recipe(data), whole) == 0
    after = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.name != "run.lock"}
    assert {path.name for path in after if after[path] != before.get(path)} <= {"recipe.yaml", "log.jsonl", "run"}
    again = train_alone(small_recipe(data), whole).sentence()
    assert "6 steps, finished before; nothing was left to do; top-1: one " in again
    assert again.endswith(
        f"to train longer, give more schedule.steps and another folder (--out); model.pretrained={whole} starts there "
        "from these weights"
    )


def test_a_finished_run_without_test_sets_is_known_too_and_shows_its_validation(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = small_recipe(data, evaluate__tests={}, schedule__steps=1, schedule__epoch_steps=1)
    assert run(recipe, tmp_path / "run") == 0
    capsys.readouterr()
    again = train_alone(recipe, tmp_path / "run")
    assert re.search(r"1 steps, finished before; nothing was left to do; top-1: validation [0-9.]+ %", again.sentence())
    assert "of training" not in capsys.readouterr().err


def test_what_the_folder_alone_tells_is_told_before_torch_is_loaded(data: Path, whole: Path, tmp_path: Path) -> None:
    """Finished, of another recipe, locked, of something else; in a process of its own, that says what it imported."""
    program = """
import fcntl, sys
from pathlib import Path
from cluster.recipes.load import load_recipe
from train.recipe import TrainRecipe
from train.session import run_folder
from train.task.facts import FACTS
whole, data, recipe = map(Path, sys.argv[1:])
asked, known = load_recipe(recipe, TrainRecipe), FACTS["classify"]
def look(recipe, folder):
    return run_folder.look(recipe, folder, known.last_file, known.metric)
print(look(asked, whole).sentence(), look(asked, whole.parent / "new"))
for folder, changes in ((whole, ["optim.lr=0.1"]), (data / "real", [])):
    try:
        look(load_recipe(recipe, TrainRecipe, changes), folder)
    except ValueError as error:
        print(error)
with (whole / "run.lock").open() as held:
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        look(asked, whole)
    except ValueError as error:
        print(error)
print(sorted({"torch", "timm", "ray"} & set(sys.modules)))
"""
    (tmp_path / "recipe.yaml").write_text(dump_recipe(small_recipe(data)))
    words = [sys.executable, "-c", program, str(whole), str(data), str(tmp_path / "recipe.yaml")]
    done = subprocess.run(words, cwd=home(), capture_output=True, text=True, timeout=120, check=True)
    finished, other, foreign, locked, loaded = done.stdout.splitlines()
    assert "6 steps, finished before; nothing was left to do; top-1: one " in finished
    assert finished.endswith(" None")
    assert "found a training with another recipe (optim.lr: 0.05 before, 0.1 now)" in other
    assert "found a data set of shards, expected a new or empty folder, or that of a training" in foreign
    assert "found another training at work in this folder, expected none; wait for it" in locked
    assert loaded == "[]"


def test_the_verb_says_that_a_training_is_finished_and_builds_nothing(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.run.train", lambda *words: pytest.fail("it was begun"))
    (tmp_path / "recipe.yaml").write_text(dump_recipe(small_recipe(data)))
    words = ["train", str(tmp_path / "recipe.yaml"), "--out", str(whole)]
    for more in ([], ["--ranks", "2"]):
        done = CliRunner().invoke(sixfold.command_line(), [*words, *more])
        assert done.exit_code == 0, done.output
        assert "6 steps, finished before; nothing was left to do; top-1: one " in done.output
    tried = CliRunner().invoke(sixfold.command_line(), [*words, "--dry-run"])
    assert "finished before" not in tried.output


def test_a_folder_of_another_recipe_is_refused_with_the_difference(data: Path, whole: Path) -> None:
    with pytest.raises(ValueError, match=r"optim\.lr: 0\.05 before, 0\.1 now"):
        run(small_recipe(data, optim__lr=0.1), whole)


def test_a_recipe_that_failed_before_it_trained_does_not_keep_the_folder_from_its_mended_form(
    data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="found no such subset"):
        run(small_recipe(data, data__domains__1__subset="6x"), tmp_path / "run")
    assert run(small_recipe(data), tmp_path / "run", looks=3) == 75
    with pytest.raises(ValueError, match=r"optim\.lr: 0\.05 before, 0\.1 now"):
        run(small_recipe(data, optim__lr=0.1), tmp_path / "run")


def test_sets_to_measure_on_are_looked_at_before_the_training(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gone: found no folder"):
        run(small_recipe(data, evaluate__tests={"gone": {"source": str(data / "gone")}}), tmp_path / "gone")
    shared = str(data / "test") + "/"  # the validation set under another spelling
    with pytest.raises(ValueError, match=r"found 13 samples that are also in evaluate\.validation"):
        run(small_recipe(data, evaluate__tests={"same": {"source": shared}}), tmp_path / "same")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("log", ["none", "tensorboard"])
def test_a_training_that_is_refused_before_its_first_step_leaves_what_was_there(
    data: Path, tmp_path: Path, log: str
) -> None:
    """By a set that is missing, by weights that do not fit, by a label that the first batch has."""
    wrong = [
        {"data__domains__1__subset": "6x"},
        {"optim__optimizer": "sgd", "model__num_classes": 3, "evaluate__validation": None, "evaluate__tests": {}},
    ]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("of a person")
    (tmp_path / "mine" / "recipe.yaml").write_text("of a person too")
    for changes in wrong:
        for out in (tmp_path / "new" / "run", tmp_path / "mine"):
            with pytest.raises(ValueError, match="found"):
                run(small_recipe(data, log=log, **changes), out)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert {path.name: path.read_text() for path in (tmp_path / "mine").iterdir()} == {
        "notes.txt": "of a person",
        "recipe.yaml": "of a person too",
    }


def test_a_training_that_fails_after_a_step_keeps_its_log(data: Path, tmp_path: Path) -> None:
    class Broken(StopAfter):
        @property
        def requested(self) -> bool:
            self.left -= 1
            if self.left < 0:
                raise ValueError("a fault after two steps")
            return False

    with pytest.raises(ValueError, match="a fault after two steps"), Ranks(find_place({})) as ranks:
        train(small_recipe(data), tmp_path / "run", home(), Broken(5), ranks)
    assert next(line["step"] for line in lines(tmp_path / "run", "train")) == 1


def test_a_folder_that_cannot_be_written_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file: cannot be written \(File exists\); give a folder"):
        run(small_recipe(data), tmp_path / "file")


def test_how_the_work_is_done_may_change_between_lives(data: Path, tmp_path: Path) -> None:
    assert run(small_recipe(data), tmp_path / "run", looks=5) == 75  # after the first epoch
    told = {"evaluate__tests__one__views": 2}  # and what a result line says of its set
    other = small_recipe(data, data__threads=0, checkpoint__keep=5, engine__channels_last=True, **told)
    assert run(other, tmp_path / "run") == 0
    results = read_results(tmp_path / "run" / "results.jsonl").results
    assert len({line.recipe for line in results}) == 1
    assert {(line.role, line.views) for line in results} == {("validation", 1), ("test", 2)}
    assert {line.step: line.selected for line in results if line.role == "validation"} == {3: True, 6: False}


def test_a_training_does_not_go_on_in_another_precision(data: Path, tmp_path: Path) -> None:
    assert run(small_recipe(data), tmp_path / "run", looks=3) == 75
    half = small_recipe(data, engine__dtype="bf16")
    told = r'found a training with another recipe \(engine\.dtype: "fp32" before, "bf16" now\); use that recipe, or'
    with pytest.raises(ValueError, match=told) as refused:
        run(half, tmp_path / "run")
    assert "\n" not in str(refused.value)
    (tmp_path / "run" / "recipe.yaml").unlink()
    with pytest.raises(ValueError, match=r"checkpoints/step-000003: " + told):
        run(half, tmp_path / "run")


def test_a_checkpoint_that_does_not_tell_its_precision_goes_on_in_that_of_its_folder(
    data: Path, tmp_path: Path
) -> None:
    """Versions before did not write it into checkpoints."""
    half = small_recipe(data, engine__dtype="bf16")
    assert run(half, tmp_path / "run", looks=3) == 75
    checkpoints = tmp_path / "run" / "checkpoints"
    parts = checkpoint.read(checkpoints / "step-000003", [])
    state = json.loads(parts["state.json"])
    del state["recipe"]["engine"], state["bn_groups"]
    shutil.rmtree(checkpoints)
    checkpoint.save(checkpoints, 3, {**parts, "state.json": json.dumps(state).encode()}.items())
    with pytest.raises(ValueError, match=r'engine\.dtype: "bf16" before, "fp32" now'):
        run(small_recipe(data), tmp_path / "run")
    assert run(half, tmp_path / "run") == 0


@pytest.mark.parametrize(("bn", "before", "now"), [("rank", 4, 2), ("world", 4, 2), ("group", 1, 1)])
def test_a_training_whose_batches_are_normalised_otherwise_than_before_says_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], bn: str, before: int, now: int
) -> None:
    changes = {"model__bn": bn, "schedule__groups": 4}
    assert run(small_recipe(data, **changes), tmp_path / "run", looks=5) == 75
    capsys.readouterr()
    assert run(small_recipe(data, **changes, engine__accumulate=2), tmp_path / "run") == 0
    said = f"from step 5 on {now} groups share batch statistics, before it {before}: engine.accumulate or the number of"
    assert (said in capsys.readouterr().err) == (before != now)
    results = read_results(tmp_path / "run" / "results.jsonl").results
    assert {line.step: line.bn_groups for line in results if line.role == "validation"} == {3: before, 6: now}
    assert [line["bn_groups"] for line in lines(tmp_path / "run", "started")] == [before, now]


def test_the_chosen_validation_is_marked_though_the_data_moved_since(data: Path, tmp_path: Path) -> None:
    assert run(small_recipe(data, schedule__epoch_steps=5), tmp_path / "run", looks=7) == 75  # right before the end
    shutil.copytree(data / "synthetic", tmp_path / "moved")
    recipe = small_recipe(data, schedule__epoch_steps=5, data__domains__1__source=str(tmp_path / "moved"))
    assert run(recipe, tmp_path / "run") == 0
    results = read_results(tmp_path / "run" / "results.jsonl").results
    assert len({line.recipe for line in results}) == 2
    assert [line.selected for line in results if line.role == "validation" and line.branch is None].count(True) == 1
    again = train_alone(recipe, tmp_path / "run")
    assert "finished before" in again.sentence()


def test_the_time_until_all_ranks_agree_counts_as_time_of_the_training(data: Path, tmp_path: Path) -> None:
    """A rank that is late there, by its storage or as here by a slow answer to whether it shall stop, holds up all."""

    class SlowFlag(StopAfter):
        @property
        def requested(self) -> bool:
            time.sleep(0.2)
            return False

    with Ranks(find_place({})) as ranks:
        outcome = train(small_recipe(data), tmp_path / "run", home(), SlowFlag(NEVER), ranks)
    assert outcome.images_per_s <= 6 * 16 / (7 * 0.2)


def test_what_a_remote_data_set_costs_stands_in_the_log_and_trouble_is_said_once(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"memory://{tmp_path.name}-{os.getpid()}"
    remote = fsspec.filesystem("memory")
    for path in (data / "synthetic").glob("0*"):
        remote.pipe_file(f"{url}/{path.name}", path.read_bytes())
    recipe = small_recipe(
        data, data__domains__1__source=url, data__cache={"folder": str(tmp_path / "cache"), "max_bytes": 1}
    )
    assert run(recipe, tmp_path / "run") == 0
    first, second = lines(tmp_path / "run", "fetched")
    assert (first["step"], second["step"]) == (3, 6)
    domains = second["domains"]
    assert isinstance(domains, dict)
    assert domains["real"].keys() == {"bytes_local"}
    assert domains["synthetic"]["bytes_ranged"] > first["domains"]["synthetic"]["bytes_ranged"]  # type: ignore[index]
    assert domains["synthetic"]["cache_full"] > 0
    said = [line for line in capsys.readouterr().err.splitlines() if "data.domains.synthetic:" in line]
    assert len(said) == 1
    assert "raise data.cache.max_bytes, or free space on its disk" in said[0]


def test_two_trainings_in_one_folder_are_refused(data: Path, tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / "run.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another training at work"):
            run(small_recipe(data), tmp_path)


def test_a_label_beyond_the_model_is_named(data: Path, tmp_path: Path) -> None:
    words = r"model.num_classes: found 3, expected at least 5, for data\.domains\.real has the class id 4; set model\."
    with pytest.raises(ValueError, match=words):
        run(small_recipe(data, model__num_classes=3, evaluate__validation=None, evaluate__tests={}), tmp_path / "run")


@pytest.mark.parametrize(("loss", "aux"), [("per_domain", "none"), ("pooled", "bn")])
def test_real_images_come_first_where_loss_or_statistics_treat_them_differently(
    data: Path, loss: str, aux: str
) -> None:
    swapped = {"data__domains__0__name": "synthetic", "data__domains__1__name": "real"}
    with pytest.raises(ValueError, match="found synthetic first, expected real"):
        small_recipe(data, **swapped, optim__loss=loss, model__aux=aux)
    assert small_recipe(data, **swapped, optim__loss="pooled", model__aux="none").quotas == (4, 4)


# stopping and going on


def stopped_and_continued(data: Path, out: Path, looks: list[int]) -> int:
    """Run in as many lives as it takes; how many there were."""
    recipe = small_recipe(data)
    for number, wanted in enumerate(looks):
        if run(recipe, out, wanted) == 0:
            return number + 1
    assert run(recipe, out) == 0
    return len(looks) + 1


@pytest.mark.parametrize("looks", [[1], [3], [4], [2, 2, 2]], ids=str)
def test_d11_stopped_at_any_step_it_goes_on_to_the_same_bits(
    data: Path, whole: Path, tmp_path: Path, looks: list[int]
) -> None:
    out = tmp_path / "run"
    assert stopped_and_continued(data, out, looks) == len(looks) + 1
    for part in ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "chosen.safetensors"):
        assert same(last_state(out, part), last_state(whole, part)), part
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    found, wanted = (read_results(folder / "results.jsonl").results for folder in (out, whole))
    assert {(one.set, one.branch, one.step, one.top1, one.selected) for one in found} == {
        (one.set, one.branch, one.step, one.top1, one.selected) for one in wanted
    }


def test_d11_dropped_branches_are_the_same_after_going_on(data: Path, tmp_path: Path) -> None:
    recipe = small_recipe(data, model__drop_path=0.5)
    assert run(recipe, tmp_path / "one") == 0
    assert run(recipe, tmp_path / "two", looks=2) == 75
    torch.rand(7)  # somebody else draws from the process's generator
    assert run(recipe, tmp_path / "two") == 0
    assert same(last_state(tmp_path / "one"), last_state(tmp_path / "two"))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("optimizer", "lr"), [("adamw", 0.003), ("lamb", 0.01), ("sgd", 0.01)])
def test_d11_every_optimiser_goes_on_to_the_same_bits_in_either_layout(
    data: Path, tmp_path: Path, optimizer: str, lr: float, channels_last: bool
) -> None:
    changes: dict[str, object] = {"optim__optimizer": optimizer, "optim__lr": lr, "schedule__steps": 4}
    recipe = small_recipe(data, **changes, evaluate__validation=None, engine__channels_last=channels_last)
    assert run(recipe, tmp_path / "one") == 0
    assert run(recipe, tmp_path / "two", looks=2) == 75
    assert run(recipe, tmp_path / "two") == 0
    for part in ("model.safetensors", "optimizer.safetensors"):
        assert same(last_state(tmp_path / "one", part), last_state(tmp_path / "two", part))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_d12_a_signal_to_the_process_saves_and_ends_with_75(data: Path, tmp_path: Path, name: str) -> None:
    recipe = small_recipe(data, schedule__steps=100_000, schedule__epoch_steps=100_000)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    child = start(tmp_path / "recipe.yaml", tmp_path / "run")
    wait_for(tmp_path / "run" / "log.jsonl", '"kind": "train"')
    child.send_signal(signal.Signals[name])
    assert child.wait(timeout=200) == 75
    (state,) = (tmp_path / "run" / "checkpoints").glob("*/state.json")
    assert json.loads(state.read_text())["step"] >= 1
    assert lines(tmp_path / "run", "stopped")[0]["reason"] == name


def start(recipe: Path, out: Path) -> warm.Child:
    return warm.start(["-m", "train.program", str(recipe), str(out)])


def wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + 200
    while not (path.is_file() and text in path.read_text()):
        assert time.monotonic() < deadline, f"{path} never said {text}"
        time.sleep(0.02)


@pytest.mark.torture
@pytest.mark.timeout(3000)
def test_d11_killed_at_twenty_random_moments_it_ends_with_the_same_bits(data: Path, tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED", "0"))
    print(f"seed {seed}")
    rng = random.Random(seed)
    recipe = small_recipe(data, schedule__steps=400, schedule__epoch_steps=40, checkpoint__every_min=1e-9)
    assert run(recipe, tmp_path / "whole") == 0
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    out, kills = tmp_path / "run", 0
    while kills < 20:
        child = start(tmp_path / "recipe.yaml", out)
        seen = len(lines(out, "saved")) if (out / "log.jsonl").is_file() else 0
        deadline = time.monotonic() + 600
        while child.poll() is None and (not out.is_dir() or not (out / "log.jsonl").is_file()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        target = seen + 1 + int(rng.random() * 6)
        while child.poll() is None and len(lines(out, "saved")) < target and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)
        if child.poll() is not None:
            break
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=30)
        kills += 1
    print(f"{kills} kills")
    assert run(recipe, out) == 0
    assert kills == 20
    for part in ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "chosen.safetensors"):
        assert same(last_state(out, part), last_state(tmp_path / "whole", part)), part


# values that are not finite


def test_d15_a_step_that_is_not_finite_stops_the_run_with_its_name(data: Path, tmp_path: Path) -> None:
    recipe = small_recipe(data, optim__lr=1e30, optim__clip_grad=None)
    with pytest.raises(ValueError, match=r"step \d: found a (loss of (nan|inf)|gradient that is not finite)"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_d15_skipped_steps_are_counted_and_leave_no_trace_in_any_tensor(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = small_recipe(
        data, optim__lr=1e30, optim__clip_grad=None, nan__policy="skip", checkpoint__every_min=1e-9, checkpoint__keep=9
    )
    with pytest.raises(ValueError, match=r"in 4 steps in a row, expected at most 3 \(nan.most\)"):
        run(recipe, out)
    assert [row["in_row"] for row in lines(out, "skipped")] == [1, 2, 3]
    files = list((out / "checkpoints").glob("*/*.safetensors"))
    assert files
    for file in files:
        assert all(bool(t.isfinite().all()) for t in load_file(file).values() if t.is_floating_point()), file
    after = [row["step"] for row in lines(out, "saved")]
    states = [json.loads((out / "checkpoints" / f"step-{step:06d}" / "state.json").read_text()) for step in after]
    assert {state["moved"] for state in states[-3:]} == {states[-1]["moved"]}
    assert {state["ema_updates"] for state in states[-3:]} == {states[-1]["moved"]}


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 0.05), ("adamw", 0.003), ("lamb", 0.01)])
def test_d15_a_training_stopped_before_anything_moved_goes_on(
    data: Path, tmp_path: Path, optimizer: str, lr: float
) -> None:
    recipe = small_recipe(data, optim__optimizer=optimizer, optim__lr=lr, optim__lam=1e39, nan__policy="skip")
    assert run(recipe, tmp_path / "run", looks=3) == 75
    with pytest.raises(ValueError, match=r"found a loss of nan in 4 steps in a row"):
        run(recipe, tmp_path / "run")
    assert [row["in_row"] for row in lines(tmp_path / "run", "skipped")] == [1, 2, 3]


# what is trained


def test_main_statistics_see_real_images_only(data: Path, tmp_path: Path) -> None:
    """Other synthetic images change the auxiliary statistics of the first layer, never its main ones."""
    settings = {"schedule__steps": 1, "evaluate__validation": None, "model__bn": "rank"}
    assert run(small_recipe(data, **settings), tmp_path / "one") == 0
    other = small_recipe(data, **settings, data__domains__1__source=str(data / "test"))
    assert run(other, tmp_path / "two") == 0
    one, two = last_state(tmp_path / "one"), last_state(tmp_path / "two")
    assert torch.equal(one["bn1.running_mean"], two["bn1.running_mean"])
    assert not torch.equal(one["bn1.aux_bn.0.running_mean"], two["bn1.aux_bn.0.running_mean"])


def test_both_branches_are_measured_with_the_chosen_weights_and_told(data: Path, tmp_path: Path) -> None:
    """With one affine map for both; the auxiliary branch is the plain model with the other statistics."""
    recipe = small_recipe(data, model__aux="stats", model__bn="rank")
    outcome = train_alone(recipe, tmp_path / "run")
    main, other = [line for line in outcome.results if line.set == "one"]
    assert (main.branch, other.branch, other.n) == (None, "synthetic", main.n)
    told = f"one {100 * main.top1:.2f} % ({100 * other.top1:.2f} % with the batch normalisation of synthetic)"
    assert told in outcome.sentence()
    state = last_state(tmp_path / "run", "chosen.safetensors")
    assert not any("aux_bn" in name and name.endswith(("weight", "bias")) for name in state)
    own = {
        name: state.get(f"{name.rpartition('.')[0]}.aux_bn.0.{name.rpartition('.')[2]}", tensor)
        for name, tensor in plain_tensors(state).items()
    }
    [one] = [one for one in open_sets(recipe.evaluate, 5) if one.role == "test"]
    for tensors, line in ((plain_tensors(state), main), (own, other)):
        plain = build(ModelSpec(name="sandbox_resnet", num_classes=5, aux="none"), (8,), 0, 32)
        plain.load_state_dict(tensors, strict=True)
        with Ranks(find_place({})) as ranks:
            assert measured(plain, one, recipe, ranks).top1 == line.top1
    again = train_alone(recipe, tmp_path / "run")
    assert [(line.branch, line.top1) for line in again.results] == [(None, main.top1), ("synthetic", other.top1)]


def test_mixup_and_cutmix_train_to_the_end(data: Path, tmp_path: Path) -> None:
    recipe = small_recipe(data, data__mix={"mixup_alpha": 0.8, "cutmix_alpha": 1.0}, schedule__steps=3)
    assert run(recipe, tmp_path / "run") == 0


def test_real_images_alone_train_as_one_domain(data: Path, tmp_path: Path) -> None:
    recipe = small_recipe(data, data__domains__1=None, model__aux="none", model__bn="rank", schedule__steps=3)
    assert run(recipe, tmp_path / "run") == 0
    model = build(recipe.model, recipe.quotas, 0, 32)
    assert not aux_keys(model)
    assert last_state(tmp_path / "run").keys() == model.state_dict().keys()


def test_a_training_writes_tensorboard_files_when_asked(data: Path, tmp_path: Path) -> None:
    assert run(small_recipe(data, log="tensorboard", schedule__steps=3), tmp_path / "run") == 0
    assert list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents*"))


def damaged(data: Path, folder: Path, num_bad: int) -> TrainRecipe:
    """A recipe whose second shard of real images has so many samples that cannot be read."""
    shutil.copytree(data, folder)
    tar = folder / "real" / "00001.tar"
    tar.write_bytes(tar.read_bytes().replace(b"\xff\xd8\xff", b"\0\0\0", num_bad))
    return small_recipe(folder, evaluate__validation=None)


def test_d6_a_bad_sample_is_replaced_named_and_counted(data: Path, tmp_path: Path) -> None:
    recipe = damaged(data, tmp_path / "sets", 1)
    outcome = train_alone(recipe, tmp_path / "run")
    named = [json.loads(line) for line in (tmp_path / "run" / "replaced-0.jsonl").read_text().splitlines()]
    assert {(row["domain"], row["tar"]) for row in named} == {("real", "00001.tar")}
    assert len({row["uid"] for row in named}) == 1
    assert outcome.replaced == len(named) > 1
    assert f"{len(named)} samples could not be read" in outcome.sentence()
    assert lines(tmp_path / "run", "replaced")[-1]["samples"] == len(named)


def test_d6_a_new_start_does_not_forget_how_many_samples_were_bad(data: Path, tmp_path: Path) -> None:
    """Lives of one step, none with more bad samples than a short run may have."""
    recipe = damaged(data, tmp_path / "sets", 5)
    file = tmp_path / "run" / "replaced-0.jsonl"
    found = [0]

    def live_on() -> None:
        for _ in range(recipe.schedule.steps):
            assert run(recipe, tmp_path / "run", looks=1) == 75
            found.append(len(file.read_text().splitlines()))

    with pytest.raises(ValueError, match=r"unreadable of \d+ samples up to step [1-5],"):
        live_on()
    assert len(found) > 2
    assert all(after - before <= 8 for before, after in itertools.pairwise(found))


TRAINING_RECIPES = (
    *("sandbox-train", "sandbox-vit"),
    *("imagenet-resnet50-6x", "imagenet-convnext-t-6x", "imagenet-vit-s16-6x"),
    *("transfer/vanilla", "transfer/mixed", "transfer/bridged", "transfer/bridged-plus"),
)


def test_the_shipped_recipes_are_whole() -> None:
    for name in TRAINING_RECIPES:
        text = (home() / "recipes" / f"{name}.yaml").read_text()
        recipe = TrainRecipe.model_validate(yaml.safe_load(text))
        assert recipe.data.domains[0].name == "real"
        for word in ("Hardware", "Expect", "Run"):
            assert f"# {word}" in text


def test_a_stop_before_the_first_step_leaves_nothing_to_clear(data: Path, tmp_path: Path) -> None:
    with StopFlag() as stop, Ranks(find_place({})) as ranks:
        stop.request("at once")
        outcome = train(small_recipe(data), tmp_path / "run", home(), stop, ranks)
    assert (outcome.exit_code, outcome.step, outcome.stopped) == (75, 0, "at once")
    assert not (tmp_path / "run" / "checkpoints").exists()
