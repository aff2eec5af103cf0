"""What a sweep fills into lines that its runs have already: what its recipe says now beside what was trained."""

from pathlib import Path
from typing import Any

import pytest

from cluster.recipes.load import load_recipe
from shards.disk.home import home
from tests.support.small_training import small_recipe
from tests.support.sweep_recipe import SmallRecipe
from tests.support.training_results import result
from tests.train.sweep.test_sweep import TWO_POINTS, spec_of
from train.evaluate.results import RESULTS, Result, read_results, write_results
from train.recipe import TrainRecipe
from train.report.comparison import compare
from train.report.words import verdict_points
from train.sweep.done import Digests, finished, gather
from train.sweep.plan import Run, SweepSpec, plan_runs


def nothing_known(recipe: object) -> Digests:
    return Digests({}, {})


def trained(runs: list[Run], folder: Path, **fields: Any) -> None:
    """Lines as the runs wrote them; no place in the sweep."""
    for run in runs:
        about: dict[str, Any] = {"run": run.name, "recipe": run.digest, "seed": run.seed, **fields}
        lines = [result(**about, set="validation", role="validation"), *(result(**about, set=one) for one in run.tests)]
        write_results(folder / run.name / RESULTS, lines)


def gathered(runs: list[Run], folder: Path) -> list[Result]:
    gather(runs, folder, nothing_known)
    return list(read_results(folder / RESULTS).results)


def test_a_sweep_that_was_trained_before_its_recipe_said_views_has_them_without_training_again(tmp_path: Path) -> None:
    points = {"low": {}, "high": {"changes": {"optim.lr": 0.1}}}
    before = plan_runs(spec_of(points), small_recipe(tmp_path))
    trained(before, tmp_path)
    assert {one.views for one in gathered(before, tmp_path)} == {1}
    said = small_recipe(tmp_path, evaluate__validation__views=2, evaluate__tests__one__views=4)
    now = plan_runs(spec_of(points), said)
    assert [run.name for run in now] == [run.name for run in before], "how often a set shows a thing decides nothing"
    lines = gathered(now, tmp_path)
    assert len(lines) == 8
    assert {(one.set, one.views) for one in lines} == {("validation", 2), ("one", 4)}
    assert {(one.set, one.views) for one in gathered(before, tmp_path)} == {("validation", 1), ("one", 1)}


def test_views_that_do_not_divide_a_set_are_refused_in_one_line(tmp_path: Path) -> None:
    said = small_recipe(tmp_path, evaluate__tests__one__views=3)
    runs = plan_runs(spec_of({"low": {}, "high": {"changes": {"optim.lr": 0.1}}}), said)
    trained(runs, tmp_path)
    with pytest.raises(ValueError, match=r"found 3 views of one in the recipe beside 40 pictures in its results, exp"):
        finished(runs[0], tmp_path, nothing_known)


def test_points_of_the_verdict_can_be_named_after_the_training(tmp_path: Path) -> None:
    points = {**TWO_POINTS, "0x again": {"x": 6, "changes": {"lr": 9}}}
    before = plan_runs(spec_of(points), SmallRecipe())
    trained(before, tmp_path)
    assert {one.sweep.point.verdict for one in gathered(before, tmp_path) if one.sweep} == {None}
    spec = spec_of({**points, "7x": {"x": 7, "changes": {"lr": 7}}}, verdict=["6x"])
    lines = gathered(plan_runs(spec, SmallRecipe()), tmp_path)
    told = {one.sweep.point.label: one.sweep.point.verdict for one in lines if one.sweep}
    assert told == {"0x": False, "6x": True, "0x again": False}
    [sweep] = compare(lines).sweeps
    assert [row.label for row in verdict_points(sweep)] == ["6x"]


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("7x", "verdict: found '7x', expected some of 0x, 6x, 6y"),
        ("0x", "verdict: found '0x', which others are compared with, expected points with another baseline"),
        ("6y", "verdict: found '6y', which others are compared with, expected points with another baseline"),
    ],
)
def test_a_verdict_about_no_point_or_about_a_baseline_is_refused(label: str, words: str) -> None:
    points = {**TWO_POINTS, "6y": {"baseline": "6y", "changes": {"lr": 5}}}
    with pytest.raises(ValueError, match=words):
        spec_of(points, verdict=["6x", label])


CONTROLS = ("statistics of 16", "random", "untrained")  # words of points that nobody asks about
JUDGED = {
    "steps": ["6x, 900 steps", "6x, 1800 steps", "6x, 3600 steps"],
    "gap": ["balance, shift 1", "stats, shift 1", "bn, shift 1"],
    "lambda": ["0.5", "2"],
    "scale": ["6x"],
}


@pytest.mark.parametrize("path", sorted((home() / "recipes" / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_no_shipped_sweep_is_judged_by_a_control(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home())
    spec = load_recipe(path, SweepSpec)
    runs = plan_runs(spec, load_recipe(spec.base, TrainRecipe))
    lines = [result(run=run.name, recipe=run.digest, seed=run.seed, sweep=run.place) for run in runs]
    [sweep] = compare(lines).sweeps
    labels = [row.label for row in verdict_points(sweep)]
    assert labels
    assert [label for label in labels if any(word in label for word in CONTROLS)] == []
    assert labels == JUDGED.get(path.stem, labels)
