"""Sweeps that tune: the same grid for every point, one setting chosen for it, on validation alone and by few seeds."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.fan_out.events import Event
from cluster.recipes.load import load_recipe
from tests.support.sweep_recipe import Sets, SmallRecipe
from tests.support.training_results import result
from tests.train.sweep.test_sweep import TWO_POINTS, spec_of
from tests.train.sweep.test_sweep import sweep as plain_sweep
from train.evaluate.evaluate import Validation, select
from train.evaluate.results import RESULTS, Result, append_results, find_results, read_results, selected
from train.report.comparison import compare
from train.sweep.choice import choices, chosen, needed, num_needed, scores_of, sweep_lines
from train.sweep.done import Digests, describe_sweep, gather
from train.sweep.plan import Run, SweepSpec, plan_runs
from train.sweep.progress import SweepProgress
from train.sweep.run import SweepOutcome

BASE = SmallRecipe(evaluate=Sets(validation="v"))
POINTS: dict[str, dict[str, Any]] = {"0x": {"x": 0}, "6x": {"x": 6, "changes": {"domains.1.quota": 4}}}
OVERFITS = {"overfits": 2, "evaluate.validation": "v"}  # a higher lr: better on tests, worse on validation


def sweep(out: Path, tune: dict[str, list[Any]]) -> SweepOutcome:
    return plain_sweep(spec_of(POINTS, seeds=1, changes=OVERFITS, tune=tune), out)


def planned(tune: dict[str, list[Any]], seeds: int = 1, **more: Any) -> list[Run]:
    return plan_runs(spec_of(POINTS, seeds=seeds, tune=tune, **more), BASE)


def results(runs: list[Run], lines: list[list[Result]]) -> list[int]:
    return chosen(runs, scores_of(dict(enumerate(lines))))


def lines_of(run: Run, validation: int, test: int = 500) -> list[Result]:
    about: dict[str, Any] = {"run": run.name, "recipe": run.digest, "seed": run.seed, "sweep": run.place}
    return [
        result(validation, 1000, 10, **about, set="validation", role="validation"),
        *(result(test, 1000, 10, **about, set=name) for name in run.tests),
    ]


def scored(runs: list[Run], *validation: int) -> list[list[Result]]:
    return [lines_of(run, score) for run, score in zip(runs, validation, strict=True)]


# planning


def test_every_point_and_seed_has_a_run_for_each_setting_of_one_grid() -> None:
    runs = planned({"lr": [1, 3], "engine.deadline_s": [60, 90, 120]}, seeds=2)
    of_points: dict[tuple[str, int], list[object]] = {}
    for run in runs:
        assert run.place.tuned is not None
        assert run.place.tuned.num_settings == 6
        of_points.setdefault((run.place.point.label, run.seed), []).append(run.place.tuned.settings)
    grid = [{"lr": lr, "engine.deadline_s": s} for lr in (1, 3) for s in (60, 90, 120)]
    assert of_points == {(label, seed): grid for label in ("0x", "6x") for seed in (0, 1)}
    assert len({run.name for run in runs}) == 24
    assert runs[-1].title == "6x, seed 1 (domains.1.quota=4, lr=3, engine.deadline_s=120)"
    assert runs[-1].recipe.lr == 3  # type: ignore[attr-defined]


def test_a_sweep_without_tune_keeps_its_names_and_one_that_gets_a_grid_keeps_its_runs_in_it() -> None:
    before = plan_runs(spec_of(POINTS), BASE)
    assert {run.name for run in before} < {run.name for run in planned({"lr": [0.5, 1.0]}, seeds=2)}
    assert all(run.place.tuned is None for run in before)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tune": {"lr": []}}, r"tune\.lr: found \[\], expected a list of different values"),
        ({"tune": {"lr": [1, 3, 1]}}, r"tune\.lr: found \[1, 3, 1\], expected a list of different values"),
        ({"tune": {"seed": [0, 1]}}, r"tune\.seed: found a field that runs are compared by"),
        ({"tune": {"evaluate.validation": ["a", "b"]}}, r"tune\.evaluate\.validation: found a field that runs are"),
        ({"tune": {"lr": [1, 2]}, "changes": {"lr": 3}}, r"tune\.lr: found it in changes too \(`lr`\)"),
        ({"tune": {"lr": [1, 2]}, "points": TWO_POINTS}, r"tune\.lr: found it in points\.6x\.changes too \(`lr`\)"),
        (
            {"tune": {"domains": [[], [{}]]}},
            r"tune\.domains: found it in points\.6x\.changes too \(`domains\.1\.quota`",
        ),
        ({"tune": {"engine": [{}], "engine.x": [1]}}, r"tune\.engine\.x: found it in tune too \(`engine`\)"),
        (
            {"tune": {"lr": list(range(40)), "overfits": list(range(26))}},
            "found 1,040 settings for each point, expected",
        ),
    ],
)
def test_a_grid_that_is_not_the_same_for_all_or_decides_by_itself_is_refused(fields, words) -> None:
    with pytest.raises(ValueError, match=words):
        spec_of(**{"points": POINTS, **fields})


def test_a_grid_needs_a_validation_set_and_settings_that_differ() -> None:
    with pytest.raises(ValueError, match=r"point 0x: found `tune` and no `evaluate.validation`, expected a validation"):
        plan_runs(spec_of(POINTS, tune={"lr": [1, 2]}), SmallRecipe())
    with pytest.raises(
        ValueError, match=r"the same recipe at two settings of `tune`, 0x, seed 0 \(lr=1\) and 0x, seed"
    ):
        planned({"lr": [1, 1.0]})
    with pytest.raises(ValueError, match="unknown key `lrr`; did you mean `lr`"):
        planned({"lrr": [1, 2]})


def test_a_grid_stands_in_the_file_of_a_sweep_and_fits_on_the_command_line(tmp_path: Path) -> None:
    text = "name: a\nbase: b.yaml\nbaseline: x\nminutes_each: 1\npoints: {x: {}, y: {}}\ntune: {optim.lr: [0.1, 0.3]}\n"
    (tmp_path / "a.yaml").write_text(text)
    assert load_recipe(tmp_path / "a.yaml", SweepSpec).tune == {"optim.lr": (0.1, 0.3)}
    more = load_recipe(
        tmp_path / "a.yaml", SweepSpec, ["tune.data.augment.policy=[none, trivial]", "tune.optim.lr=[1]"]
    )
    assert more.tune == {"optim.lr": (1,), "data.augment.policy": ("none", "trivial")}


def test_the_plan_names_the_grid_and_counts_all_runs(tmp_path: Path) -> None:
    spec = spec_of(POINTS, tune={"lr": [1, 3, 9], "engine.deadline_s": [60, 90]})
    said = describe_sweep(spec, plan_runs(spec, BASE), tmp_path).splitlines()
    assert said[:4] == [
        "sweep     scale, 2 points x 2 seeds, baseline 0x",
        "tune      lr: 1, 3, 9",
        "tune      engine.deadline_s: 60, 90",
        "          6 settings for 2 seeds of each point",
    ]
    assert "point     6x: 0 of 12 runs done; domains.1.quota=4" in said
    assert said[-1] == "to train  24 of 24 runs, about 48.0 min of one worker"
    five = spec.model_copy(update={"seeds": 5})
    said = describe_sweep(five, plan_runs(five, BASE), tmp_path).splitlines()
    assert said[3] == "          6 settings for 2 seeds of each point; the other seeds have the best on validation"
    assert "point     6x: 0 of 15 runs done; domains.1.quota=4" in said
    assert said[-1] == "to train  30 of 30 runs, about 60.0 min of one worker"


# choosing


def test_a_setting_that_wins_on_the_test_set_and_loses_on_validation_is_not_chosen(tmp_path: Path) -> None:
    """And what was trained without a grid is not trained again."""
    assert sweep(tmp_path, {}).made == 2
    first = sweep(tmp_path, {"lr": [9, 1]})
    assert (first.exit_code, first.asked, first.done, first.made) == (0, 4, 4, 2)
    found = find_results([tmp_path])
    compared = compare(found.results)
    assert compared.singles == compared.problems == found.problems == ()
    [table] = compared.sweeps
    assert [(row.label, row.cells["real-test"].by_seed) for row in table.rows] == [("0x", {0: 0.61}), ("6x", {0: 0.61})]
    others = [line for line in read_results(tmp_path / RESULTS).results if line.top1 == 0.69]
    assert len(others) == 4, "the lines of the others are kept"
    assert not any(line.selected for line in others)
    [lost] = {line.run for line in others if line.sweep and line.sweep.point.label == "6x"}
    assert {line.top1 for line in selected(read_results(tmp_path / lost / RESULTS).results)} == {0.69}
    assert first.sentence().splitlines()[1:] == [
        "tuned: 2 of 2 points, each with the best of 2 settings on validation with the first seed",
        "chosen: lr 9 (0), 1 (2)",
        "the best lr is the smallest (1) for 0x, 6x: widen the grid",
    ]
    assert sweep(tmp_path, {"lr": [9, 1]}).work is None
    kept = selected(read_results(tmp_path / RESULTS).results)
    assert [line.sweep.tuned.settings["lr"] for line in kept if line.sweep and line.sweep.tuned] == [1, 1, 1, 1]


def test_of_equal_settings_the_first_in_the_grid_is_chosen() -> None:
    runs = planned({"lr": [3, 1, 2]})
    assert results(runs, scored(runs, 700, 700, 699, 698, 700, 700)) == [0, 4]


def test_the_test_results_of_a_setting_change_nothing_about_the_choice() -> None:
    runs = planned({"lr": [1, 2]})
    for tests in ((0, 0, 0, 0), (0, 900, 0, 900), (900, 0, 900, 0)):
        lines = [lines_of(run, score, test) for run, score, test in zip(runs, (700, 710, 690, 680), tests, strict=True)]
        assert results(runs, lines) == [1, 2]


def test_settings_are_chosen_by_the_score_that_chooses_checkpoints() -> None:
    """That of an inversion follows the loss, not the share of pictures that came nearer; older lines have none."""
    runs = planned({"lr": [1, 2]})
    lines = scored(runs, 900, 700, 900, 700)
    assert results(runs, lines) == [0, 2]
    for number, score in {0: 0.4, 1: 0.5}.items():
        lines[number] = [line.model_copy(update={"score": score}) for line in lines[number]]
    assert results(runs, lines) == [1, 2]
    for own in lines[:2]:
        assert select([Validation.of(own[0]), Validation(999, 0.45)]) == (999 if own is lines[0] else own[0].step)


def test_nothing_is_chosen_and_nothing_counts_while_a_setting_is_missing() -> None:
    runs = planned({"lr": [1, 2, 3]})
    lines = scored(runs, 700, 710, 690, 700, 710, 690)
    lines[2] = []
    assert results(runs, lines) == [4]
    counted = {line.sweep.point.label for line in sweep_lines(runs, lines) if line.selected and line.sweep}
    assert counted == {"6x"}
    with_best = "each with the best of 3 settings on validation with the first seed"
    assert choices(runs, lines)[0] == f"tuned: 1 of 2 points, {with_best}"
    assert choices(runs, [[] for _ in runs]) == [f"tuned: 0 of 2 points, {with_best}"]


def test_a_run_without_a_result_on_validation_is_not_done(tmp_path: Path) -> None:
    runs = planned({"lr": [1, 2]})
    for run in runs:
        append_results(tmp_path / run.name / RESULTS, lines_of(run, 700))
    assert gather(runs, tmp_path, lambda recipe: Digests({}, {})) == 4
    path = tmp_path / runs[0].name / RESULTS
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))
    assert gather(runs, tmp_path, lambda recipe: Digests({}, {})) == 3


def test_the_best_in_the_mean_of_the_first_seeds_is_the_setting_of_all_seeds() -> None:
    runs = planned({"lr": [1, 2]}, seeds=4)  # point by point, seed by seed, setting by setting
    scores = dict(enumerate((700, 710, 720, 700)))  # means: 710 for lr 1, 705 for lr 2
    assert needed(runs, scores) == [0, 1, 2, 3, 4, 6, 8, 9, 10, 11], "of 0x all, of 6x what tunes"
    assert num_needed(runs) == 12
    assert chosen(runs, scores) == [0, 2]
    scores |= {4: 100, 6: 100, 5: 999, 7: 999}  # later seeds choose nothing, and what is not needed is no result
    assert chosen(runs, scores) == [0, 2, 4, 6]


@given(st.data())
def test_whatever_is_done_each_point_has_one_setting_or_none(data: st.DataObject) -> None:
    tune_seeds = data.draw(st.integers(1, 5))
    runs = planned({"lr": [1, 2, 3]}, seeds=4, tune_seeds=tune_seeds)
    done = data.draw(st.sets(st.integers(0, len(runs) - 1)))
    scores = {number: data.draw(st.integers(0, 3)) / 3 for number in sorted(done)}
    found = chosen(runs, scores)
    wanted = needed(runs, scores)
    assert set(found) <= done & set(wanted)
    for label in POINTS:
        own = [number for number, run in enumerate(runs) if run.place.point.label == label]
        settings = {str(runs[number].place.tuned) for number in found if number in own}
        tuning = {number for number in own if runs[number].seed < tune_seeds}
        assert len(settings) == (1 if tuning <= done else 0)
        assert tuning <= set(wanted)
        if tuning <= done:
            assert len(set(own) & set(wanted)) == len(tuning) + max(0, 4 - tune_seeds)
    assert len(needed(runs, dict.fromkeys(range(len(runs)), 0.5))) == num_needed(runs)


def test_a_sweep_trains_what_tunes_and_then_the_other_seeds_with_the_best(tmp_path: Path) -> None:
    told: list[Event] = []
    spec = spec_of(POINTS, seeds=3, tune_seeds=1, changes=OVERFITS, tune={"lr": [9, 1]})
    first = plain_sweep(spec, tmp_path, on_event=told.append)
    assert (first.exit_code, first.asked, first.done, first.made) == (0, 8, 8, 8)
    runs = plan_runs(spec, SmallRecipe())
    began = [runs[one.unit].title for one in told if one.kind == "unit_started" and one.unit is not None]
    assert began[4:] == [
        f"{point}, seed {seed} ({changes}lr=1)"
        for point, changes in (("0x", ""), ("6x", "domains.1.quota=4, "))
        for seed in (1, 2)
    ]
    assert [one.at_s for one in told] == sorted(one.at_s for one in told), "one clock for both"
    [table] = compare(find_results([tmp_path]).results).sweeps
    assert [(row.label, row.seeds) for row in table.rows] == [("0x", (0, 1, 2)), ("6x", (0, 1, 2))]
    assert plain_sweep(spec, tmp_path).work is None


def test_only_the_end_of_numbers_that_some_point_has_chosen_asks_for_a_wider_grid() -> None:
    tune = {"lr": [1, 3, 9], "behaviour": ["good", "fail"]}
    runs = planned(tune)

    def said(best: dict[str, int]) -> list[str]:
        """With these places in the grid as the best of the points."""
        lines = []
        for run in runs:
            assert run.place.tuned is not None
            place = list(spec_of(POINTS, tune=tune).grid).index(dict(run.place.tuned.settings))
            lines.append(lines_of(run, 800 if best[run.place.point.label] == place else 700))
        return choices(runs, lines)[1:]

    assert said({"0x": 2, "6x": 3}) == ["chosen: lr 1 (0), 3 (2), 9 (0); behaviour good (1), fail (1)"]
    assert said({"0x": 4, "6x": 5})[1:] == ["the best lr is the largest (9) for 0x, 6x: widen the grid"]
    assert said({"0x": 0, "6x": 5})[1:] == [
        "the best lr is the smallest (1) for 0x: widen the grid",
        "the best lr is the largest (9) for 6x: widen the grid",
    ]


# while it works


def test_a_run_is_told_by_its_validation_and_only_the_chosen_one_by_its_tests() -> None:
    spec = spec_of(POINTS, seeds=1, tune={"lr": [1, 3]})
    runs = plan_runs(spec, BASE)
    told: list[str] = []
    progress = SweepProgress(spec, runs, told.append, lambda: 0.0)
    progress.begin({0: lines_of(runs[0], 710, 400), 1: [], 2: [], 3: []})
    assert progress.line() == "sweep scale: 1 of 4 runs, about 6.0 min left"

    def ends(number: int, validation: float, test: float) -> list[str]:
        told.clear()
        data: dict[str, Any] = {"top1": {"real-test": test}, "validation": validation}
        progress(Event(kind="unit_done", at_s=9.0, unit=number, data=data))
        return [line.partition("s  ")[2] for line in told]

    done, best = ends(1, 0.7, 0.9)
    assert done.startswith("0x, seed 0 (lr=3) done: 70.00 % on validation; 2 of 4 runs")
    assert done.endswith("; so far on real-test: 0x 40.00 % (1)")
    assert best.startswith("0x, seed 0 (lr=1) chosen, the best of 2 settings on validation with the first seed: ")
    assert best.endswith(": 40.00 % on real-test, 40.00 % on sketch")
    [done] = ends(2, 0.6, 0.55)
    assert done.startswith("6x, seed 0 (domains.1.quota=4, lr=1) done: 60.00 % on validation; 3 of 4 runs")
    assert "55.00" not in done
    assert ends(3, 0.6, 0.99)[1].endswith("with the first seed: 55.00 % on real-test"), "the first of equals"
