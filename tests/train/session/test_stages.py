"""Trainings in stages: what is handed over, stopping and going on in any of them, what is refused before the first."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cluster.ranks.host import free_port
from cluster.recipes.load import dump_recipe, parse_recipe
from cluster.recipes.overrides import lay_over
from shards.stream.index import load_index
from tests.support import warm
from tests.support.rank_environment import rank_environment
from tests.support.small_data_set import write_data_set
from tests.support.small_training import SMOOTH, as_weights, last_state, small_recipe, train_alone, write_sets
from train.evaluate.results import find_results, read_results
from train.model.pretrained import as_safetensors
from train.recipe import TrainRecipe, recipe_digest
from train.run import TASKS
from train.sources import look_up
from train.stage import StageSpec
from train.sweep.plan import SweepSpec, plan_runs
from train.task.hand_over import started_from
from train.task.model_card import model_files

PARTS = ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "chosen.safetensors")
TOLERANCE = 2e-6  # of weights, after two and two steps in fp32: sums over ranks are taken in another order


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_sets(folder)
    return folder


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training in two stages that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert train_alone(staged(data), out).exit_code == 0
    return out


def staged(data: Path, **changes: Any) -> TrainRecipe:
    """Four steps on synthetic images with mixup, then four on real ones with a new classifier."""
    first = {
        "name": "synthetic",
        "data": {
            "domains": [{"name": "synthetic", "source": str(data / "synthetic"), "quota": 8}],
            "mix": {"mixup_alpha": 0.8},
        },
        "schedule": {"groups": 2, "steps": 4, "epoch_steps": 2},
    }
    usual = {
        "data__domains": [{"name": "real", "source": str(data / "real"), "quota": 8}],
        "model__aux": "none",
        "model__head": "new",
        "optim__optimizer": "adamw",
        "optim__lr": 0.003,
        "schedule__steps": 4,
        "schedule__epoch_steps": 2,
        "before": [first],
    }
    return small_recipe(data, **{**usual, **changes})


def lines(out: Path, kind: str) -> list[dict[str, Any]]:
    text = (out / "log.jsonl").read_text() if (out / "log.jsonl").is_file() else ""
    rows = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [row for row in rows if row["kind"] == kind]


def same_weights(one: Path, other: Path) -> None:
    """In both stages, and the exports."""
    for place in (Path("stages/synthetic"), Path()):
        for part in PARTS:
            found, wanted = last_state(one / place, part), last_state(other / place, part)
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[name], wanted[name]) for name in wanted), (place, part)
        files = [(run / place / "model.safetensors").read_bytes() for run in (one, other)]
        assert files[0] == files[1]


# what is handed over


def test_the_last_stage_is_the_training_that_starts_from_the_export_of_the_one_before(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    """With its optimiser, average, steps and order fresh and nothing mixed, bit for bit."""
    by_hand = staged(data, before=[], model__pretrained=str(whole / "stages" / "synthetic"))
    assert train_alone(by_hand, tmp_path / "run").exit_code == 0
    for part in PARTS:
        found, wanted = last_state(whole, part), last_state(tmp_path / "run", part)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), part
    assert {float(value) for name, value in last_state(whole, PARTS[2]).items() if name.startswith("step/")} == {4.0}
    recipe = staged(data)
    assert recipe.earlier["synthetic"].data.mix.is_on
    assert not recipe.data.mix.is_on


@pytest.mark.parametrize("head", ["new", "keep", "map"])
def test_the_backbone_is_handed_over_bit_for_bit_and_the_classifier_as_the_recipe_says(
    data: Path, whole: Path, head: str
) -> None:
    """Two of the five classes share a name, which `map` refuses."""
    stage = whole / "stages" / "synthetic"
    task = TASKS["classify"](started_from(staged(data, model__head=head), stage))
    if head == "map":
        task.names.update({"0": "two", "1": "never seen", "2": "zero"})  # type: ignore[attr-defined]
    model = task.build(torch.device("cpu")).state_dict()
    end, drawn = load_file(stage / "model.safetensors"), TASKS["classify"](staged(data, before=[], model__head="new"))
    fresh = drawn.build(torch.device("cpu")).state_dict()
    for name, tensor in model.items():
        if not name.startswith("fc."):
            assert torch.equal(tensor, end[name]), name
        elif head == "map":
            assert torch.equal(tensor[[0, 2]], end[name][[2, 0]])
            assert torch.equal(tensor[[1, 3, 4]], fresh[name][[1, 3, 4]])
        else:
            assert torch.equal(tensor, fresh[name] if head == "new" else end[name]), name


def test_each_stage_leaves_results_and_the_last_one_says_how_good_its_start_was(data: Path, whole: Path) -> None:
    found = find_results([whole])
    assert not found.problems
    tests = {line.run: line for line in found.results if line.role == "test"}
    assert tests.keys() == {"run", "run/synthetic"}
    assert tests["run/synthetic"].leep is None
    assert set(tests["run/synthetic"].data) == {"synthetic", "one"}
    assert set(tests["run"].data) == {"real", "one"}
    (logged,) = lines(whole, "leep")
    assert tests["run"].leep == {"synthetic": logged["leep"]}
    assert logged["leep"] < 0
    told = json.loads((whole / "stages" / "leep.json").read_text())
    assert told == {"digest": load_index(str(data / "real")).digest, "leep": tests["run"].leep}
    about = json.loads((whole / "model.json").read_text())
    assert len(about["pretrained_sha256"]) == 64
    assert about["recipe"] == recipe_digest(staged(data)) == tests["run"].recipe != tests["run/synthetic"].recipe


def test_weights_that_were_trained_before_are_measured_as_the_start(data: Path, whole: Path, tmp_path: Path) -> None:
    recipe = staged(data, model__pretrained=str(whole), schedule__steps=2, before__0__schedule__steps=2)
    assert train_alone(recipe, tmp_path / "run").exit_code == 0
    assert [row["of"] for row in lines(tmp_path / "run", "leep")] == ["start", "synthetic"]


def test_a_start_that_could_not_be_measured_once_is_measured_when_the_training_goes_on(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> float:
        raise ValueError("picture 3 could not be read")

    start = str(whole / "stages" / "synthetic")
    recipe = staged(data, before=[], model__pretrained=start, schedule__steps=2, evaluate__leep=True)
    with monkeypatch.context() as patch:
        patch.setattr("train.session.start_leep.leep_of", unreadable)
        assert train_alone(recipe, tmp_path / "run", 1).exit_code == 75
    assert lines(tmp_path / "run", "leep")[0]["reason"] == "picture 3 could not be read"
    assert train_alone(recipe, tmp_path / "run").exit_code == 0
    (test,) = [one for one in read_results(tmp_path / "run" / "results.jsonl").results if one.role == "test"]
    assert test.leep == {"start": pytest.approx(lines(whole, "leep")[0]["leep"])}


def test_a_training_without_stages_says_how_good_its_start_was_if_asked(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    """What the last stage of a training in stages says of the same weights and pictures."""
    start = str(whole / "stages" / "synthetic")
    plain: dict[str, Any] = {"before": [], "model__pretrained": start, "schedule__steps": 2}
    asked = staged(data, evaluate__leep=True, **plain)
    assert train_alone(asked, tmp_path / "run", 1).exit_code == 75
    measured = (tmp_path / "run" / "leep.json").stat().st_mtime_ns
    assert train_alone(asked, tmp_path / "run").exit_code == 0
    assert (tmp_path / "run" / "leep.json").stat().st_mtime_ns == measured, "once, and not after each stop"
    (line,) = [one for one in read_results(tmp_path / "run" / "results.jsonl").results if one.role == "test"]
    assert line.leep == {"start": pytest.approx(lines(whole, "leep")[0]["leep"])}
    assert recipe_digest(staged(data, **plain)) != recipe_digest(asked)
    assert train_alone(staged(data, **plain), tmp_path / "other").exit_code == 0
    assert not (tmp_path / "other" / "leep.json").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "evaluate.leep: found it with stages, which are measured in any case"),
        ({"before": []}, "evaluate.leep: found it with no model.pretrained, expected trained weights"),
    ],
    ids=["stages", "from nothing"],
)
def test_a_start_that_is_measured_anyway_or_does_not_exist_is_refused(
    data: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        staged(data, evaluate__leep=True, **changes)


def test_weights_without_a_classifier_have_a_reason_in_the_place_of_their_leep(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    backbone = {name: one for name, one in load_file(whole / "model.safetensors").items() if not name.startswith("fc.")}
    (tmp_path / "backbone.safetensors").write_bytes(as_safetensors(backbone))
    weights = str(tmp_path / "backbone.safetensors")
    recipe = staged(data, model__pretrained=weights, schedule__steps=2, before__0__schedule__steps=2)
    assert train_alone(recipe, tmp_path / "run").exit_code == 0
    start, synthetic = lines(tmp_path / "run", "leep")
    assert (start["of"], start["reason"]) == ("start", "its weights have no classifier")
    assert synthetic["leep"] < 0
    tests = [line for line in find_results([tmp_path / "run"]).results if line.run == "run" and line.role == "test"]
    assert [set(line.leep or {}) for line in tests] == [{"synthetic"}]


def test_the_outcome_names_the_stages(data: Path, whole: Path, tmp_path: Path) -> None:
    stopped = train_alone(staged(data), tmp_path / "run", looks=3)
    assert stopped.exit_code == 75
    words = "stage synthetic (1 of 2), stopped at step 3 of 4 (enough) and saved; the same command goes on"
    assert stopped.sentence() == f"{tmp_path / 'run'}: {words}"
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.name != "run.lock"}
    again = train_alone(staged(data), whole)
    assert again.sentence().startswith(
        f"{whole}: after the stage synthetic: 4 steps, finished before; nothing was left"
    )
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.name != "run.lock"} == before


# stopping and going on


@pytest.mark.parametrize("looks", [[6], [3, 4, 2]], ids=str)
def test_stopped_in_any_stage_it_goes_on_to_the_same_bits(
    data: Path, whole: Path, tmp_path: Path, looks: list[int]
) -> None:
    for number in looks:
        assert train_alone(staged(data), tmp_path / "run", number).exit_code == 75
        with pytest.raises(ValueError, match="found no exported model"):
            model_files(tmp_path / "run", "someone/half", None)
    assert train_alone(staged(data), tmp_path / "run").exit_code == 0
    same_weights(tmp_path / "run", whole)


Moment = Callable[[], bool]


def saved(place: Path, step: float) -> Moment:
    """A checkpoint of this step or a later one is on disk."""
    return lambda: (lines(place, "saved") or [{"step": 0}])[-1]["step"] >= step


def spread_over(place: Path, kills: int, steps: int, rng: random.Random) -> list[Moment]:
    """Random moments of a stage, one in each of equal parts of its steps."""
    return [saved(place, 1 + int((part + rng.random()) / kills * (steps - 2))) for part in range(kills)]


def hand_over(out: Path) -> list[Moment]:
    """What is handed over is whole, its LEEP is known, the last stage has begun."""
    return [(out / "stages" / name).is_file for name in ("synthetic/model.json", "leep.json")] + [
        (out / "log.jsonl").is_file
    ]


def killed(data: Path, folder: Path, steps: int, moments: Callable[[Path], list[Moment]], rng: random.Random) -> None:
    """Train in a process that is killed just after these moments, then to the end; compare it with a whole one."""
    schedule = {"groups": 2, "steps": steps, "epoch_steps": 4}
    recipe = staged(data, schedule=schedule, before__0__schedule=schedule, checkpoint__every_min=1e-9)
    assert train_alone(recipe, folder / "whole").exit_code == 0
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    out = folder / "run"
    for has_come in moments(out):
        child = warm.start(["-m", "train.program", str(folder / "recipe.yaml"), str(out)])
        deadline = time.monotonic() + 300
        while child.poll() is None and not has_come():
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(rng.random() * 0.02)
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=30)
        assert child.returncode == -signal.SIGKILL
    assert train_alone(recipe, out).exit_code == 0
    same_weights(out, folder / "whole")


@pytest.mark.timeout(600)
def test_killed_once_in_each_stage_it_goes_on_to_the_same_bits(data: Path, tmp_path: Path) -> None:
    rng = random.Random(0)

    def moments(out: Path) -> list[Moment]:
        return [*spread_over(out / "stages" / "synthetic", 1, 8, rng), *spread_over(out, 1, 8, rng)]

    killed(data, tmp_path, 8, moments, rng)


@pytest.mark.torture
@pytest.mark.timeout(3000)
def test_killed_at_ten_random_moments_of_both_stages_and_the_hand_over_it_goes_on_to_the_same_bits(
    data: Path, tmp_path: Path
) -> None:
    seed = int(os.environ.get("SEED", "0"))
    print(f"seed {seed}")
    rng = random.Random(seed)

    def moments(out: Path) -> list[Moment]:
        first = spread_over(out / "stages" / "synthetic", 4, 200, rng)
        return [*first, *hand_over(out), *spread_over(out, 3, 200, rng)]

    killed(data, tmp_path, 200, moments, rng)


@pytest.mark.parametrize(
    "engine", [{"engine__kind": "ddp"}, {"engine__kind": "deepspeed", "engine__zero": 2}], ids=["ddp", "zero2"]
)
@pytest.mark.timeout(600)
def test_two_ranks_train_both_stages_as_one_process_does(data: Path, tmp_path: Path, engine: dict[str, Any]) -> None:
    few = {**SMOOTH, "optim__optimizer": "sgd", "schedule__steps": 2, "before__0__schedule__steps": 2}
    recipe = staged(data, **few)
    assert train_alone(recipe, tmp_path / "one").exit_code == 0
    (tmp_path / "recipe.yaml").write_text(dump_recipe(staged(data, **engine, **few)))
    port, words = free_port(), ["-m", "train.program", str(tmp_path / "recipe.yaml"), str(tmp_path / "two")]
    ranks = [warm.start(words, environment=rank_environment(rank, 2, port)) for rank in range(2)]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    for place in (Path("stages/synthetic"), Path()):
        assert lines(tmp_path / "two" / place, "started")[0]["ranks"] == 2
        for part in PARTS[:3]:
            found, wanted = (as_weights(tmp_path / run / place, part) for run in ("two", "one"))
            apart = [float((found[name].double() - wanted[name].double()).abs().max()) for name in wanted]
            assert max(apart) < TOLERANCE, (place, part)
    one, two = (lines(tmp_path / run, "leep")[0]["leep"] for run in ("one", "two"))
    assert one == pytest.approx(two, abs=1e-5)


# what is refused


def test_another_recipe_is_refused_with_the_stage_that_differs_from_the_first_step_on(
    data: Path, tmp_path: Path
) -> None:
    assert train_alone(staged(data), tmp_path / "run", looks=2).exit_code == 75
    for change, words in (
        ({"before__0__schedule__steps": 5}, r"before\.0\.schedule\.steps: 4 before, 5 now"),
        ({"before__0__data__mix__mixup_alpha": 0.2}, r"before\.0\.data\.mix\.mixup_alpha: 0\.8 before, 0\.2 now"),
        ({"schedule__steps": 5}, r"schedule\.steps: 4 before, 5 now"),
        ({"before": []}, r"before: \[\{.*before, \[\] now"),
    ):
        with pytest.raises(ValueError, match=rf"found a training with another recipe \({words}"):
            train_alone(staged(data, **change), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data__domains__0__subset": "6x"}, "last stage: .*found no such subset"),
        ({"evaluate__tests": {"gone": {"source": "gone"}}}, "gone: found no folder"),
        ({"model__freeze": ["nowhere.*"]}, r"last stage: model\.freeze: found .nowhere\.\*., which no parameter"),
        (
            {"model__head": "keep", "before__0__model": {"num_classes": 7, "head": "new"}},
            "keep for 5 outputs after a s",
        ),
        ({"model__head": "map", "before__0__model": {"head": "new"}}, "both called .crane., expected one of a name"),
        ({"model__head": "keep"}, "stage synthetic: model.head: found keep for a model that starts from nothing"),
        ({"model__name": "sandbox_vit", "model__bn": "rank", "model__aux": "bn"}, "found no layer of batch normalisat"),
        (
            {
                "optim__lr_backbone": 0.1,
                "model__freeze": ["fc.*"],
                "before__0__model": {"freeze": []},
                "before__0__optim": {"lr_backbone": 1},
            },
            r"last stage: optim\.lr_backbone: found 0\.1 for a model that trains no classifier",
        ),
        ({"engine__kind": "single", "before__0__data__domains__0__quota": 3, "schedule__groups": 2}, ""),
    ],
    ids=["data", "tests", "freeze", "keep", "map", "keep of nothing", "no layer", "optimiser", "sound"],
)
def test_what_a_later_stage_would_be_refused_for_is_found_before_the_first(
    data: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    recipe = staged(data, **changes)
    if not words:
        assert train_alone(recipe, tmp_path / "run", looks=1).exit_code == 75
        return
    with pytest.raises(ValueError, match=words) as refused:
        train_alone(recipe, tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "folder"), [("tests.one", "held-out"), ("validation", "test")])
def test_no_stage_trains_on_pictures_that_measure_the_result_whatever_it_measures_itself(
    data: Path, tmp_path: Path, kind: str, folder: str
) -> None:
    changes: dict[str, Any] = {"evaluate": {"tests": {}, "validation": None}}
    changes["data__domains__0__source"] = str(data / folder)
    recipe = staged(data, **{f"before__0__{field}": value for field, value in changes.items()})
    assert recipe.earlier["synthetic"].evaluate.tests == {}
    with pytest.raises(ValueError, match=rf"^stage synthetic: evaluate\.{kind} .*found \d+ samples that") as refused:
        train_alone(recipe, tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"before__0__schedule__steps": 0}, r"before\.0\.schedule\.steps"),
        (
            {"before__0__optim": {"lr": 0.1, "warmup_steps": 4}},
            r"before\.0: optim\.warmup_steps: found 4, expected fewe",
        ),
        ({"before": [{"name": "a"}, {"name": "a"}]}, "before: found two stages of one name"),
        ({"before": [{"name": "a/b"}]}, r"before\.0\.name"),
        ({"before": [{"name": "start"}]}, r"before\.0\.name\s.*found start, the name of the weights"),
        ({"before__0__seed": 4}, r"before\.0\.seed"),
    ],
)
def test_a_stage_that_is_no_training_is_refused_by_its_field(data: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        staged(data, **changes)


@pytest.mark.parametrize("missing", ["before.0.name", "optim.lr", "optim", "data.size_px", "model.name"])
def test_what_is_missing_is_told_once_and_not_again_for_each_stage(data: Path, missing: str) -> None:
    recipe = staged(data, before__0__optim={"lr": 0.1}).model_dump(mode="json")
    *path, last = missing.split(".")
    inner: Any = recipe
    for name in path:
        inner = inner[int(name) if name.isdecimal() else name]
    del inner[last]
    with pytest.raises(ValueError, match=f"`{missing}` is missing") as refused:
        parse_recipe(json.dumps(recipe).encode(), TrainRecipe, "recipe.yaml")
    assert "\n" not in str(refused.value)


def test_data_of_all_stages_are_looked_for_and_those_of_finished_ones_are_not(data: Path, tmp_path: Path) -> None:
    recipe = staged(data, before__0__data__domains__0__source=str(tmp_path / "gone"))
    (line,) = look_up(recipe).refused
    assert line.startswith("before.0.data.domains.synthetic: ")
    assert look_up(recipe, finished=["synthetic"]).refused == ()
    write_data_set(tmp_path / "gone", num_shards=1, num_slots=10)
    assert look_up(recipe).refused == ()


def test_a_stage_that_is_done_needs_its_data_no_more(data: Path, whole: Path, tmp_path: Path) -> None:
    sets = Path(shutil.copytree(data, tmp_path / "sets"))
    assert train_alone(staged(sets), tmp_path / "run", looks=6).exit_code == 75
    shutil.rmtree(sets / "synthetic")
    assert train_alone(staged(sets), tmp_path / "run").exit_code == 0
    assert last_state(tmp_path / "run").keys() == last_state(whole).keys()


# recipes


def test_what_a_stage_leaves_out_is_the_recipes_also_after_it_was_written_and_read(data: Path) -> None:
    recipe = staged(data, before__0__optim={"lr": 0.02})
    first = recipe.earlier["synthetic"]
    assert (first.optim.lr, first.optim.optimizer, first.optim.ema_decay) == (0.02, "adamw", 0.9)
    assert (first.data.size_px, first.quotas, first.evaluate, first.before) == (32, (8,), recipe.evaluate, ())
    again = parse_recipe(dump_recipe(recipe).encode(), TrainRecipe, "recipe.yaml")
    assert again == recipe
    assert dump_recipe(again) == dump_recipe(recipe)
    spelt_out = staged(data, before__0__optim={"lr": 0.02, "optimizer": "adamw"})
    assert recipe_digest(spelt_out) == recipe_digest(recipe) != recipe_digest(staged(data))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data.augment.scale", [0.3, 1.0]),
        ("data.mix.cutmix_alpha", 1.0),
        ("data.domains", [{"name": "synthetic", "source": "elsewhere", "quota": 8}]),
        ("optim.weight_decay", 0.0),
        ("optim.ema_decay", None),
        ("schedule.steps", 9),
        ("evaluate.batch", 3),
        ("evaluate.validation.subset", "2x"),
        ("evaluate.validation", None),
        ("evaluate.tests.one.views", 2),
        ("evaluate.tests.two", {"source": "two"}),
        ("evaluate.tests", {}),
        ("model.drop_path", 0.1),
    ],
)
def test_a_stage_that_sets_one_field_however_deep_has_all_others_of_the_recipe(
    data: Path, field: str, value: Any
) -> None:
    own = {"data__augment": {"flip": 0.25, "jitter": [0.3, 0.3, 0.3]}, "data__mix": {"mixup_alpha": 0.8}}
    stage = lay_over({"name": "first"}, {field: value}, StageSpec, "stage")
    recipe = staged(data, before=[stage], data__mix__per="sample", **own)
    last = recipe.model_dump(mode="json", exclude={"before"})
    expected = TrainRecipe.model_validate(lay_over(last, {field: value}, TrainRecipe, "recipe"))
    assert recipe.earlier["first"] == expected != TrainRecipe.model_validate(last)
    again = parse_recipe(dump_recipe(recipe).encode(), TrainRecipe, "recipe.yaml")
    assert again == recipe
    assert again.earlier == recipe.earlier


def test_what_a_stage_and_the_recipe_make_together_is_checked(data: Path) -> None:
    with pytest.raises(ValueError, match=r"before\.0: .*optim\.lr_end: found 0\.01, expected at most lr, 0\.003"):
        staged(data, before__0__optim={"lr_end": 0.01})
    with pytest.raises(ValueError, match=r"before\.0: evaluate\.tests\.synthetic: found a test set with the name of a"):
        staged(data, evaluate__tests={"synthetic": {"source": str(data / "held-out")}})


def test_a_set_of_which_a_stage_changes_one_field_is_looked_for(data: Path) -> None:
    recipe = staged(data, before__0__evaluate={"validation": {"subset": "6x"}, "tests": {"one": {"views": 2}}})
    (line,) = look_up(recipe).refused
    assert line.startswith("before.0.evaluate.validation: ")
    assert "before.0.evaluate.tests.one" in "\n".join(look_up(recipe).places)


def test_a_sweep_changes_adds_and_removes_stages(data: Path) -> None:
    told = {
        "name": "stages",
        "base": "recipe.yaml",
        "seeds": 1,
        "baseline": "none",
        "minutes_each": 1,
        "tune": {"optim.lr": [0.001, 0.002]},
        "points": {
            "none": {"changes": {"before.0": None}},
            "longer": {"changes": {"before.0.schedule.steps": 9}},
            "two": {"changes": {"before": [{"name": "a"}, {"name": "b", "schedule": {"steps": 3, "epoch_steps": 3}}]}},
        },
    }
    runs = plan_runs(SweepSpec.model_validate(told), staged(data))
    found = [{name: one.schedule.steps for name, one in run.recipe.earlier.items()} for run in runs]  # type: ignore[attr-defined]
    assert found == [{}, {}, {"synthetic": 9}, {"synthetic": 9}, {"a": 4, "b": 3}, {"a": 4, "b": 3}]
    assert len({run.digest for run in runs}) == 6
    rates = [run.recipe.earlier["synthetic"].optim.lr for run in runs[2:4]]  # type: ignore[attr-defined]
    assert rates == [0.001, 0.002]


def test_a_training_without_stages_has_no_folder_for_them(data: Path, tmp_path: Path) -> None:
    recipe = staged(data, before=[], model__head="by_size")
    assert train_alone(recipe, tmp_path / "run", looks=1).exit_code == 75
    assert not (tmp_path / "run" / "stages").exists()
    assert read_results(tmp_path / "run" / "results.jsonl").results == ()
