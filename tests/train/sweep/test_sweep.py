"""Sweeps: what is planned, that nothing is trained twice, what becomes of runs that fail, die, hang or are stopped."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from cluster.fan_out.events import Event
from cluster.fan_out.work import FanOutSpec
from cluster.process.exit import Draining
from cluster.process.identity import start_ticks, this_place, this_process
from cluster.process.lives import lives_of
from cluster.process.stop_flag import StopFlag
from cluster.recipes.load import dump_recipe, kind_of, load_recipe
from cluster.recipes.overrides import lay_over
from shards.disk.data_set import kind_of_place
from shards.disk.home import home
from shards.disk.store import FolderStore
from shards.stream.index import load_index
from tests.support.small_training import small_recipe, write_sets
from tests.support.sweep_recipe import SmallRecipe
from tests.support.training_results import result
from train.evaluate.results import RESULTS, find_results, read_results, write_results
from train.recipe import TrainRecipe, recipe_digest
from train.report.comparison import compare
from train.sweep.done import DataOf, Digests, describe_sweep, finished, gather
from train.sweep.plan import MakeSpec, SweepSpec, labels_in, plan_runs
from train.sweep.run import SweepOutcome, run_sweep
from train.sweep.worker import RunJob, SweepJob, SweepWorker

REPO = home()
CHILD = (sys.executable, "-m", "tests.support.sweep_child")


def spec_of(points: dict[str, dict[str, Any]], seeds: int = 2, **changes: Any) -> SweepSpec:
    fields = {
        "name": "scale",
        "base": "base.yaml",
        "seeds": seeds,
        "baseline": next(iter(points)),
        "points": points,
        "minutes_each": 2.0,
        "cluster": FanOutSpec(in_process=True, attempts=2),
    }
    return SweepSpec.model_validate({**fields, **changes})


TWO_POINTS: dict[str, dict[str, Any]] = {"0x": {"x": 0}, "6x": {"x": 6, "changes": {"lr": 4}}}


def sweep(
    spec: SweepSpec,
    out: Path,
    stop: StopFlag | None = None,
    made: list[MakeSpec] | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> SweepOutcome:
    made = made if made is not None else []
    return run_sweep(spec, SmallRecipe(), out, REPO, stop or StopFlag(), made.append, on_event, CHILD)


def starts(out: Path) -> int:
    return len(list(out.glob("*/started-*")))


def test_relative_paths_of_recipes_count_from_the_folder_where_the_sweep_was_called(tmp_path, monkeypatch):
    """A Ray worker's own folder is a copy of the code, where no data lies."""
    monkeypatch.chdir(tmp_path)
    tell = (sys.executable, "-c", "import os, sys; print(os.getcwd()); sys.exit(3)")
    spec = spec_of(TWO_POINTS, seeds=1, cluster=FanOutSpec(in_process=True, attempts=1))
    outcome = run_sweep(spec, SmallRecipe(), tmp_path / "out", REPO, StopFlag(), lambda make: None, program=tell)
    assert outcome.exit_code == 3
    said = {path.read_text().strip() for path in (tmp_path / "out" / "logs").glob("*.txt")}
    assert said == {str(tmp_path)}


# planning


def test_a_grid_is_every_point_with_every_seed():
    runs = plan_runs(spec_of(TWO_POINTS, seeds=3), SmallRecipe())
    assert [(run.place.point.label, run.seed) for run in runs] == [(p, s) for p in ("0x", "6x") for s in range(3)]
    assert [run.recipe.lr for run in runs] == [1, 1, 1, 4, 4, 4]  # type: ignore[attr-defined]
    assert [run.recipe.seed for run in runs] == [0, 1, 2, 0, 1, 2]  # type: ignore[attr-defined]
    assert len({run.name for run in runs}) == len({run.digest for run in runs}) == 6
    assert all(run.digest == recipe_digest(run.recipe) for run in runs)


def test_a_run_is_named_by_what_varies_and_its_seed():
    points = {"0x": {"x": 0}, "6x": {"x": 6, "changes": {"domains.1.quota": 4}}}
    runs = plan_runs(spec_of(points, changes={"behaviour": "good"}, seeds=2), SmallRecipe())
    assert [run.title for run in runs] == [
        "0x, seed 0",
        "0x, seed 1",
        "6x, seed 0 (domains.1.quota=4)",
        "6x, seed 1 (domains.1.quota=4)",
    ]


def test_changes_reach_into_lists_and_null_takes_an_element_out():
    data = SmallRecipe().model_dump(mode="json")
    changed = lay_over(data, {"domains.1.quota": 3, "domains.0": None, "evaluate.tests.new": "c"}, SmallRecipe, "here")
    assert changed["domains"] == [{"name": "synthetic", "quota": 3}]
    assert changed["evaluate"]["tests"] == {"real-test": "a", "sketch": "b", "new": "c"}
    assert data == SmallRecipe().model_dump(mode="json")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lrr": 1}, "unknown key `lrr`; did you mean `lr`"),
        ({"evalute.tests": {}}, "unknown key `evalute`; did you mean `evaluate`"),
        ({"domains.2.quota": 1}, "`domains` is a list of 2; give a number below 2"),
        ({"domains.x": 1}, "`domains` is a list of 2; give a number below 2"),
        ({"lr.deep": 1}, "`lr` is a plain value, it has no fields below it"),
        ({"behaviour": "odd"}, "`behaviour`: found \"odd\", expected 'good', 'fail'"),
        ({"evaluate.surprise": 1}, "unknown key `evaluate.surprise`; known here: tests"),
        ({"evaluate.tests": {}}, "found no test set"),
        ({}, "found the same recipe at the points 0x and 6x"),
    ],
)
def test_a_point_that_makes_no_valid_recipe_is_refused_in_one_line(changes, words):
    spec = spec_of({"0x": {}, "6x": {"changes": changes}})
    with pytest.raises(ValueError, match=words) as caught:
        plan_runs(spec, SmallRecipe())
    assert "\n" not in str(caught.value)
    assert "6x" in str(caught.value)


def test_a_baseline_that_is_no_point_is_refused():
    with pytest.raises(ValueError, match="baseline: found '7x', expected one of 0x, 6x"):
        spec_of(TWO_POINTS, baseline="7x")
    with pytest.raises(ValueError, match=r"points\.6x\.baseline: found '1x'"):
        spec_of({"0x": {}, "6x": {"baseline": "1x"}})


def test_the_plan_can_be_read_before_it_is_run(tmp_path):
    points = {"0x": {}, "6x": {"changes": {"lr": 4}, "make": [{"recipe": "recipes/sandbox.yaml", "out": "out/data"}]}}
    spec = spec_of(points)
    runs = plan_runs(spec, SmallRecipe())
    before = describe_sweep(spec, runs, tmp_path)
    assert "2 points x 2 seeds" in before
    assert "point     6x: 0 of 2 runs done; lr=4" in before
    assert "needs   out/data: recipes/sandbox.yaml at 6x" in before
    assert "4 of 4 runs, about 8.0 min of one worker" in before
    assert list(tmp_path.iterdir()) == []
    sweep(spec, tmp_path)
    assert "0 of 4 runs, about 0 s of one worker" in describe_sweep(spec, runs, tmp_path)


# running


def test_a_sweep_trains_every_run_and_gathers_its_results(tmp_path):
    outcome = sweep(spec_of(TWO_POINTS), tmp_path)
    assert (outcome.exit_code, outcome.done, outcome.made) == (0, 4, 4)
    compared = compare(find_results([tmp_path]).results)
    assert compared.singles == ()
    assert compared.problems == ()
    [table] = compared.sweeps
    assert [row.label for row in table.rows] == ["0x", "6x"]
    assert table.sets == ("real-test", "sketch")
    difference = table.rows[1].cells["real-test"].difference
    assert difference is not None
    assert (difference.value, difference.n) == (pytest.approx(0.03), 2)
    assert kind_of_place(FolderStore(tmp_path)) == "sweep"


def test_a_second_call_trains_nothing_and_a_lost_run_is_trained_alone(tmp_path):
    spec = spec_of(TWO_POINTS)
    sweep(spec, tmp_path)
    first = (tmp_path / RESULTS).read_bytes()
    again = sweep(spec, tmp_path)
    assert (again.work, again.made, starts(tmp_path)) == (None, 0, 4)
    lost = plan_runs(spec, SmallRecipe())[2]
    (tmp_path / lost.name / RESULTS).unlink()
    assert sweep(spec, tmp_path).made == 1
    assert starts(tmp_path) == 5
    assert (tmp_path / RESULTS).read_bytes() == first


def test_the_history_of_a_sweep_tells_how_many_runs_each_call_left_and_why_it_ended(tmp_path):
    spec = spec_of(TWO_POINTS, seeds=1, changes={"behaviour": "good"})
    stop = StopFlag()
    stop.request("SIGUSR1")
    assert sweep(spec, tmp_path, stop).exit_code == 75
    assert sweep(spec, tmp_path).exit_code == 0
    stopped, whole = lives_of(FolderStore(tmp_path, read_only=True))
    assert (stopped.verb, str(stopped.before)) == ("sweep", "0 runs")
    assert (stopped.end.exit_code, stopped.end.reason) == (75, "stopped on request: SIGUSR1")
    assert (whole.end.exit_code, whole.end.reason, str(whole.end.there)) == (0, "complete", "2 runs")
    assert whole.start_s is None, "its runs save by themselves: no start without a finished run is a vain one"


def test_a_finished_sweep_trains_nothing_again_with_another_engine(tmp_path):
    sweep(spec_of(TWO_POINTS), tmp_path)
    again = sweep(spec_of(TWO_POINTS, changes={"engine.deadline_s": 60.0}), tmp_path)
    assert (again.work, again.made, again.done, starts(tmp_path)) == (None, 0, 4, 4)


def test_a_sweep_that_goes_on_in_another_precision_counts_no_run_of_before(tmp_path):
    points = {"low": {}, "high": {"changes": {"optim.lr": 0.1}}}
    base = small_recipe(tmp_path)

    def planned(changes):
        return plan_runs(spec_of(points, changes=changes), base)

    def done(runs):
        return [bool(finished(run, tmp_path, lambda recipe: Digests({}, {}))) for run in runs]

    for run in planned({}):
        line = result(run=run.name, recipe=run.digest, seed=run.seed, set="one")
        write_results(tmp_path / run.name / RESULTS, [line])
    assert done(planned({})) == done(planned({"engine.kind": "ddp", "engine.threads": 2})) == [True] * 4
    assert done(planned({"engine.dtype": "bf16"})) == [False] * 4


def test_points_that_are_put_in_moved_and_taken_out_leave_the_others_done_and_a_report_in_the_recipes_order(tmp_path):
    points = {"0x": {"x": 0}, "6x": {"x": 6, "changes": {"lr": 6}}, "9x": {"x": 9, "changes": {"lr": 9}}}
    for run in plan_runs(spec_of(points), SmallRecipe()):
        lines = [result(run=run.name, recipe=run.digest, seed=run.seed, set=name) for name in run.tests]
        write_results(tmp_path / run.name / RESULTS, lines)
    changed = {"3x": {"x": 3, "changes": {"lr": 3}}, **{label: points[label] for label in ("9x", "0x")}}
    runs = plan_runs(spec_of(changed, baseline="0x"), SmallRecipe())
    done = [bool(finished(run, tmp_path, lambda recipe: Digests({}, {}))) for run in runs]
    assert done == [False, False, True, True, True, True]
    gather(runs, tmp_path, lambda recipe: Digests({}, {}))
    [table] = compare(read_results(tmp_path / RESULTS).results).sweeps
    assert [row.label for row in table.rows] == ["9x", "0x"]


def test_points_that_differ_only_in_the_engine_keep_their_folders_apart(tmp_path):
    points = {"slow": {}, "fast": {"changes": {"engine.deadline_s": 60.0}}, "6x": {"changes": {"lr": 4}}}
    runs = {run.place.point.label: run for run in plan_runs(spec_of(points, seeds=1), SmallRecipe())}
    assert runs["slow"].digest == runs["fast"].digest
    assert runs["6x"].name == f"s000-{runs['6x'].digest[:12]}"
    turned = {label: points[label] for label in ("fast", "slow", "6x")}
    others = plan_runs(spec_of(turned, seeds=1), SmallRecipe())
    assert {run.place.point.label: run.name for run in others} == {label: run.name for label, run in runs.items()}
    assert len({run.name for run in others}) == 3


def test_a_run_is_no_rank_of_the_job_in_which_the_sweep_runs(tmp_path, monkeypatch):
    for name, value in {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    for name, value in {"JOB_ID": "7", "STEP_ID": "0", "PROCID": "1", "NTASKS": "2", "LOCALID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    tell = "import os, sys; from cluster.ranks.place import find_place; "
    tell += "print(find_place(os.environ).launcher); sys.exit(3)"
    spec = spec_of(TWO_POINTS, seeds=1, cluster=FanOutSpec(in_process=True, attempts=1))
    program = (sys.executable, "-c", tell)
    run_sweep(spec, SmallRecipe(), tmp_path, REPO, StopFlag(), lambda make: None, program=program)
    assert {path.read_text().strip() for path in (tmp_path / "logs").glob("*.txt")} == {"plain"}


def test_results_that_cannot_be_gathered_at_once_do_not_end_the_other_runs(tmp_path):
    """Something lies in the place of the sweep's results until the last run has begun."""
    (tmp_path / RESULTS).mkdir()
    heard: list[Event] = []

    def hear(event: Event) -> None:
        heard.append(event)
        if event.kind == "run_ended":
            (tmp_path / RESULTS).rmdir()

    spec = spec_of(TWO_POINTS, seeds=1)
    outcome = run_sweep(spec, SmallRecipe(), tmp_path, REPO, StopFlag(), lambda make: None, hear, CHILD)
    assert (outcome.exit_code, outcome.done) == (0, 2)
    assert len(read_results(tmp_path / RESULTS).results) == 6
    said = [event.message for event in heard if event.kind == "warning"]
    assert len(said) == 2
    assert all(text.startswith("the sweep's results were not gathered yet: ") for text in said)
    [log] = (tmp_path / "logs").glob("*.jsonl")
    assert log.read_text().count("were not gathered yet") == 2


def test_a_run_with_only_some_of_its_results_is_not_done(tmp_path):
    spec = spec_of(TWO_POINTS, seeds=1)
    sweep(spec, tmp_path)
    path = tmp_path / plan_runs(spec, SmallRecipe())[0].name / RESULTS
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    assert sweep(spec, tmp_path).made == 1


def test_more_seeds_and_a_changed_point_add_runs_and_leave_the_others(tmp_path):
    sweep(spec_of(TWO_POINTS), tmp_path)
    assert sweep(spec_of(TWO_POINTS, seeds=3), tmp_path).made == 2
    changed = {"0x": {"x": 0}, "6x": {"x": 6, "changes": {"lr": 5}}}
    assert sweep(spec_of(changed, seeds=3), tmp_path).made == 3
    rows = {(one.sweep.point.label, one.top1) for one in read_results(tmp_path / RESULTS).results if one.sweep}
    assert {top1 for label, top1 in rows if label == "6x"} >= {0.65, 0.651, 0.652}
    assert not {top1 for label, top1 in rows if label == "6x"} & {0.64, 0.641}


def test_points_can_be_chosen_and_a_later_call_with_more_of_them_goes_on(tmp_path):
    points = {**TWO_POINTS, "9x": {"x": 9, "changes": {"lr": 9}}}
    spec = spec_of(points)
    begun: list[dict[int, Any]] = []

    def call(*labels: str) -> SweepOutcome:
        return run_sweep(
            spec, SmallRecipe(), tmp_path, REPO, StopFlag(), lambda make: None, program=CHILD,
            labels=labels or None, on_begin=lambda there: begun.append(dict(there)),
        )  # fmt: skip

    first = call("9x", "0x")
    assert (first.exit_code, first.asked, first.done, first.made) == (0, 4, 4, 4)
    assert first.sentence().startswith("sweep scale: 4 of 4 runs done; ")
    assert sorted(begun[0]) == [0, 1, 4, 5]
    rest = call()
    assert (rest.asked, rest.done, rest.made, starts(tmp_path)) == (6, 6, 2, 6)
    assert [bool(begun[1][number]) for number in range(6)] == [True, True, False, False, True, True]
    again = call("0x")
    assert (again.asked, again.done, again.work, starts(tmp_path)) == (2, 2, None, 6)
    [table] = compare(read_results(tmp_path / RESULTS).results).sweeps
    assert [row.label for row in table.rows] == ["0x", "6x", "9x"], "the results of all points stay"


def test_a_label_with_a_comma_is_one_label_in_a_list_of_points():
    labels = ["0x", "3x", "3x, 1800 steps", "3x, 1800 steps, long", "a,b"]
    assert labels_in("3x, 1800 steps,0x", labels) == ["3x, 1800 steps", "0x"]
    assert labels_in("3x,0x ,3x,1800 steps, long", labels) == ["3x", "0x", "3x, 1800 steps, long"]
    assert labels_in("a,b,9x, 1800 steps", labels) == ["a,b", "9x", "1800 steps"]


def test_a_point_that_does_not_exist_is_refused_with_the_names_before_anything_is_touched(tmp_path):
    with pytest.raises(ValueError, match="points: found '7x', expected some of 0x, 6x, with commas between"):
        run_sweep(
            spec_of(TWO_POINTS), SmallRecipe(), tmp_path / "out", REPO, StopFlag(), lambda make: None, labels=["7x"]
        )
    assert not (tmp_path / "out").exists()


def test_a_sweep_whose_runs_all_find_the_same_mistake_ends_at_once_with_its_words(tmp_path):
    """Ten runs with three attempts each would take 30 starts; three say enough."""
    points = {f"{lr}x": {"changes": {"lr": lr, "behaviour": "mistake"}} for lr in range(1, 11)}
    outcome = sweep(spec_of(points, seeds=1, cluster=FanOutSpec(in_process=True)), tmp_path)
    assert (outcome.exit_code, outcome.done, starts(tmp_path)) == (1, 0, 3)
    assert "the first 3 units failed, and would fail again; the last cause: run s000-" in outcome.sentence()
    assert "found no classes, expected ten (see " in outcome.sentence()


def test_a_run_that_fails_is_tried_again_then_given_up_with_its_own_last_words(tmp_path):
    points = {"0x": {}, "6x": {"changes": {"behaviour": "fail"}}}
    outcome = sweep(spec_of(points, seeds=1), tmp_path)
    assert (outcome.exit_code, outcome.done, starts(tmp_path)) == (3, 1, 3)
    assert "gave up 1 run (6x, seed 0 (behaviour=fail): " in outcome.sentence()
    assert "found no data, expected some" in outcome.sentence()
    assert "run the same command again" in outcome.sentence()


@pytest.mark.parametrize(
    ("behaviour", "words"), [("die", "ended by SIGKILL"), ("silent", "a result of its tests is missing")]
)
def test_a_run_that_dies_or_ends_without_results_is_named(tmp_path, behaviour, words):
    outcome = sweep(spec_of({"0x": {}, "6x": {"changes": {"behaviour": behaviour}}}, seeds=1), tmp_path)
    assert outcome.exit_code == 3
    assert words in outcome.sentence()


def test_data_sets_are_made_before_the_first_run_once_each_and_only_while_runs_are_missing(tmp_path):
    make = {"recipe": "recipes/sandbox.yaml", "out": "out/data", "changes": {"prompts": {"kind": "name"}}}
    points = {"0x": {}, "6x": {"changes": {"lr": 2}, "make": [make]}, "6y": {"changes": {"lr": 3}, "make": [make]}}
    made: list[MakeSpec] = []
    sweep(spec_of(points), tmp_path, made=made)
    assert made == [MakeSpec.model_validate(make)]
    assert made[0].overrides == ['prompts={"kind": "name"}']
    sweep(spec_of(points), tmp_path, made=made)
    assert len(made) == 1


def test_a_data_set_that_cannot_be_made_stops_the_sweep_before_it_trains(tmp_path):
    def fail(make: MakeSpec) -> None:
        raise ValueError("no space")

    points = {"0x": {}, "6x": {"changes": {"lr": 2}, "make": [{"recipe": "r.yaml", "out": "out"}]}}
    with pytest.raises(ValueError, match="no space"):
        run_sweep(spec_of(points), SmallRecipe(), tmp_path, REPO, StopFlag(), fail, program=CHILD)
    assert starts(tmp_path) == 0


def test_a_stopped_sweep_lets_its_run_save_and_says_how_to_continue(tmp_path):
    stop = StopFlag()
    points = {"0x": {"changes": {"behaviour": "hang"}}, "6x": {}}

    def stop_it() -> None:
        try:
            wait_for(tmp_path, "*/ready")
        finally:
            stop.request("test")

    threading.Thread(target=stop_it, daemon=True).start()
    outcome = sweep(spec_of(points, seeds=1), tmp_path, stop)
    assert outcome.exit_code == 75
    assert "run the same command again to continue" in outcome.sentence()
    assert not list(tmp_path.glob("logs/*.process.json"))


def test_a_run_that_takes_longer_than_its_deadline_is_ended(tmp_path):
    job = worker_job(tmp_path, spec_of({"0x": {"changes": {"behaviour": "hang"}}, "6x": {}}, seeds=1))
    worker = SweepWorker(job.model_copy(update={"deadline_s": 0.0}))
    with pytest.raises(TimeoutError, match="still training after 0 minutes"):
        worker(0, "first", lambda done, rejected, under_way=0.0: None)
    assert not list(tmp_path.glob("logs/*.process.json"))


def test_a_run_that_is_no_longer_wanted_has_ended_before_its_worker_goes_on(tmp_path):
    spec = spec_of({"0x": {"changes": {"behaviour": "hang"}}, "6x": {}}, seeds=1)
    note = tmp_path / "logs" / f"{plan_runs(spec, SmallRecipe())[0].name}.process.json"
    left: list[int] = []

    def drop(done: int, rejected: int, under_way: float = 0.0) -> None:
        left.append(json.loads(note.read_text())["pid"])
        raise Draining("no longer wanted")

    with pytest.raises(Draining):
        SweepWorker(worker_job(tmp_path, spec))(0, "first", drop)
    assert not Path(f"/proc/{left[0]}").exists()


DRIVER = """
import sys
from pathlib import Path
from cluster.fan_out.work import FanOutSpec
from tests.train.sweep.test_sweep import spec_of, sweep
cluster = FanOutSpec(in_process=sys.argv[2] == "in_process", workers=1, gpus_per_worker=0)
sweep(spec_of({"0x": {"changes": {"behaviour": "hang"}}, "6x": {}}, seeds=1, cluster=cluster), Path(sys.argv[1]))
"""


@pytest.mark.parametrize("where", ["in_process", "on_ray"])
def test_b3_the_run_of_a_sweep_whose_driver_is_killed_saves_and_ends(tmp_path, where):
    """Ray kills the children of its workers, and without Ray nobody would tell the run."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path), where], cwd=REPO, env=environment)
    try:
        wait_for(tmp_path, "*/ready")
    finally:
        driver.kill()
        driver.wait(timeout=120)
    wait_for(tmp_path, "*/saved")
    assert list(tmp_path.glob("*/saved")), "nobody told the run"
    [begun] = tmp_path.glob("*/started-*")
    run = int(begun.name.partition("-")[2])
    deadline = time.monotonic() + 60
    while start_ticks(run) is not None:
        assert time.monotonic() < deadline, "the run goes on"
        time.sleep(0.05)


def test_an_orphan_is_found_by_its_identity_and_a_stranger_with_its_pid_is_left_alone(tmp_path):
    spec = spec_of(TWO_POINTS, seeds=1)
    runs = plan_runs(spec, SmallRecipe())
    worker = SweepWorker(worker_job(tmp_path, spec))
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        (tmp_path / "logs").mkdir()
        note = tmp_path / "logs" / f"{runs[0].name}.process.json"
        gone = {**dataclasses.asdict(this_process()), "started": this_process().started - 1}
        row = {"place": this_place(), "pid": orphan.pid, "started": start_ticks(orphan.pid), "worker": gone}
        note.write_text(json.dumps({**row, "pid": os.getpid(), "started": this_process().started - 1}))
        assert worker(0, "a", lambda done, rejected, under_way=0.0: None)["top1"] == {"real-test": 0.61, "sketch": 0.61}
        (tmp_path / runs[0].name / RESULTS).unlink()
        note.write_text(json.dumps(row))
        worker(0, "b", lambda done, rejected, under_way=0.0: None)
        assert orphan.wait(timeout=60) == -signal.SIGTERM, "it was asked to save and end"
    finally:
        orphan.kill()
        orphan.wait(timeout=60)


def test_a_run_whose_worker_is_at_work_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("train.sweep.worker.WORKER_GONE_S", 0.2)
    spec = spec_of(TWO_POINTS, seeds=1)
    worker = SweepWorker(worker_job(tmp_path, spec))
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    others = [subprocess.Popen(sleep, start_new_session=True) for _ in range(2)]
    try:
        (tmp_path / "logs").mkdir()
        note = tmp_path / "logs" / f"{plan_runs(spec, SmallRecipe())[0].name}.process.json"
        trains, watches = ({"place": this_place(), "pid": one.pid, "started": start_ticks(one.pid)} for one in others)
        note.write_text(json.dumps({**trains, "worker": watches}))
        with pytest.raises(RuntimeError, match=r"whose worker .* is at work, expected none; wait for the other sweep"):
            worker(0, "a", lambda done, rejected, under_way=0.0: None)
        assert [one.poll() for one in others] == [None, None]
    finally:
        for one in others:
            one.kill()
            one.wait(timeout=60)


def test_two_sweeps_in_one_folder_are_refused(tmp_path):
    stop = StopFlag()
    points = {"0x": {"changes": {"behaviour": "hang"}}, "6x": {}}
    first = threading.Thread(target=lambda: sweep(spec_of(points, seeds=1), tmp_path, stop), daemon=True)
    first.start()
    try:
        wait_for(tmp_path, "*/ready")
        with pytest.raises(ValueError, match="found another sweep at work in this folder, expected none"):
            sweep(spec_of(points, seeds=1), tmp_path)
    finally:
        stop.request("test")
        first.join(timeout=120)
    assert not first.is_alive()


# data that changed


def test_a_folder_of_another_sweep_is_refused_and_left_as_it_is(tmp_path):
    sweep(spec_of(TWO_POINTS, seeds=1), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r'found a sweep with another recipe \(name: "scale" before, "other" now\)'):
        sweep(spec_of(TWO_POINTS, seeds=1, name="other"), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_results_over_data_that_were_made_anew_stop_the_sweep_before_it_trains(tmp_path):
    spec = spec_of(TWO_POINTS, seeds=1)
    first = Digests({"real": "cd" * 32}, {})
    run_sweep(spec, SmallRecipe(), tmp_path, REPO, StopFlag(), print, program=CHILD, data_of=lambda recipe: first)
    assert sweep(spec, tmp_path).work is None
    (tmp_path / plan_runs(spec, SmallRecipe())[0].name / RESULTS).unlink()
    anew = Digests({"real": "00" * 32}, {})
    with pytest.raises(ValueError, match=r"over other data than there are now \(real: digest cdcdcdcdcdcd, now 0"):
        run_sweep(spec, SmallRecipe(), tmp_path, REPO, StopFlag(), print, program=CHILD, data_of=lambda recipe: anew)
    with pytest.raises(ValueError, match="give another folder with --out"):
        describe_sweep(spec, plan_runs(spec, SmallRecipe()), tmp_path, lambda recipe: anew)
    assert starts(tmp_path) == 2


def test_results_on_other_test_pictures_stop_the_sweep_too(tmp_path):
    spec = spec_of(TWO_POINTS, seeds=1)
    sweep(spec, tmp_path)
    for run in plan_runs(spec, SmallRecipe()):
        path = tmp_path / run.name / RESULTS
        lines = [
            line.model_copy(update={"data": {**line.data, line.set: "aa" * 32}}) for line in read_results(path).results
        ]
        write_results(path, lines)
    now = {"real-test": "aa" * 32, "sketch": "bb" * 32}
    with pytest.raises(ValueError, match=r"\(sketch: digest aaaaaaaaaaaa, now bbbbbbbbbbbb\)"):
        describe_sweep(spec, plan_runs(spec, SmallRecipe()), tmp_path, lambda recipe: Digests({}, now))
    assert "4 of" not in describe_sweep(spec, plan_runs(spec, SmallRecipe()), tmp_path, lambda recipe: Digests({}, {}))


def test_the_digests_of_a_recipe_are_those_of_its_data_and_missing_and_growing_data_have_none(tmp_path):
    write_sets(tmp_path)
    recipe = small_recipe(tmp_path, data__domains__1__grow=True)
    gone = small_recipe(tmp_path, data__domains__0__source=str(tmp_path / "gone"))
    data_of = DataOf()
    digests = {name: load_index(str(tmp_path / name)).digest for name in ("real", "synthetic", "test", "held-out")}
    assert data_of(recipe).domains == {"real": digests["real"]}
    assert data_of(recipe).sets == {"validation": digests["test"], "one": digests["held-out"]}
    assert data_of(gone).domains == {"synthetic": digests["synthetic"]}


# shipped sweeps


@pytest.mark.parametrize("path", sorted((REPO / "recipes" / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_sweep_reads_and_its_data_sets_have_valid_recipes(path, monkeypatch):
    from gen.edit.recipe import EditRecipe
    from gen.run.recipe import Recipe
    from retrieve.run.recipe import RetrieveRecipe

    kinds: dict[str, type[BaseModel]] = {
        "generate": Recipe,
        "edit": EditRecipe,
        "retrieve": RetrieveRecipe,
        "invert": TrainRecipe,
    }
    monkeypatch.chdir(REPO)
    spec = load_recipe(path, SweepSpec)
    assert spec.name == path.stem
    runs = plan_runs(spec, load_recipe(spec.base, TrainRecipe))
    assert len(runs) == len(spec.points) * spec.seeds * spec.num_settings
    pictures_of_a_step = {run.recipe.schedule.groups * sum(run.recipe.quotas) for run in runs}  # type: ignore[attr-defined]
    assert len(pictures_of_a_step) == 1, "every point has the same work in a step"
    for point in spec.points.values():
        tokens: set[str] = set()
        for make in [make.of_seed(seed) for make in point.make for seed in range(spec.seeds)]:
            kind = str(kind_of(make.recipe, kinds))
            made = load_recipe(make.recipe, kinds[kind], make.overrides)
            assert (make.scale is None) == (kind == "invert")
            if isinstance(made, TrainRecipe):
                assert made.invert is not None
                tokens.add(make.out)
            elif isinstance(made, Recipe) and made.prompts.style_token is not None:
                assert made.prompts.style_token in tokens, "a token is made before the images that are told it"


def worker_job(folder: Path, spec: SweepSpec) -> SweepJob:
    """The job of a sweep whose recipes lie in `folder`."""
    runs = plan_runs(spec, SmallRecipe())
    (folder / "recipes").mkdir()
    for run in runs:
        (folder / "recipes" / f"{run.name}.yaml").write_text(dump_recipe(run.recipe))
        assert load_recipe(folder / "recipes" / f"{run.name}.yaml", SmallRecipe) == run.recipe
    jobs = tuple(RunJob(name=run.name, digest=run.digest, tests=run.tests) for run in runs)
    return SweepJob(folder=str(folder), home=str(REPO), start_in=str(REPO), program=CHILD, deadline_s=300.0, runs=jobs)


def wait_for(folder: Path, pattern: str) -> None:
    deadline = time.monotonic() + 200
    while not list(folder.glob(pattern)):
        assert time.monotonic() < deadline, f"no {pattern} in 200 s"
        time.sleep(0.05)
