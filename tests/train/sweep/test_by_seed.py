"""Sweeps whose seeds have changes of their own, such as a draw of the real images and synthetic images."""

from pathlib import Path
from typing import Any

import pytest

from cluster.recipes.load import load_recipe
from cluster.recipes.mistake import RecipeError
from tests.support.sweep_recipe import SmallRecipe
from tests.train.sweep.test_sweep import TWO_POINTS, spec_of, sweep
from train.evaluate.results import RESULTS, read_results
from train.report.comparison import compare
from train.sweep.done import describe_sweep
from train.sweep.plan import MakeSpec, SweepSpec, plan_runs

DRAWS = {"domains.0.quota": (16, 17, 18)}
MAKE = {"recipe": "recipes/sandbox.yaml", "out": "out/data-{seed}", "by_seed": {"seed": [10, 11, 12]}}


def quotas(spec: SweepSpec) -> dict[tuple[str, int], list[int]]:
    """The quotas of each run's domains, by point and seed."""
    return {
        (run.place.point.label, run.seed): [domain["quota"] for domain in run.recipe.domains]  # type: ignore[attr-defined]
        for run in plan_runs(spec, SmallRecipe())
    }


def test_every_point_has_the_values_of_the_seed() -> None:
    spec = spec_of(TWO_POINTS, seeds=3, by_seed=DRAWS)
    assert quotas(spec) == {(point, seed): [16 + seed, 16] for point in ("0x", "6x") for seed in range(3)}
    runs = plan_runs(spec, SmallRecipe())
    assert [run.place.by_seed for run in runs] == 2 * [{"domains.0.quota": 16 + seed} for seed in range(3)]
    assert {tuple(run.place.point.changes) for run in runs} == {(), ("lr",)}  # those of all its seeds
    assert len({run.digest for run in runs}) == 6


def test_a_point_may_have_values_of_its_own_beside_and_instead_of_those_of_the_sweep() -> None:
    points: dict[str, dict[str, Any]] = {
        "as the sweep": {},
        "fixed": {"changes": {"domains.0.quota": 5}},
        "its own": {"by_seed": {"domains.0.quota": [1, 2], "domains.1.quota": [3, 4]}},
        "one domain": {"changes": {"domains.0": None}},
    }
    found = quotas(spec_of(points, by_seed=DRAWS))
    assert [found["as the sweep", seed] for seed in range(2)] == [[16, 16], [17, 16]]
    assert [found["fixed", seed] for seed in range(2)] == [[5, 16], [5, 16]]
    assert [found["its own", seed] for seed in range(2)] == [[1, 3], [2, 4]]
    assert [found["one domain", seed] for seed in range(2)] == [[16], [16]]


def test_a_domain_that_a_point_takes_out_moves_no_value_to_another() -> None:
    points: dict[str, dict[str, Any]] = {"0x": {"changes": {"domains.0": None}}, "6x": {}}
    assert quotas(spec_of(points, by_seed={"domains.1.quota": [8, 9]}))["0x", 1] == [9]


def test_a_sweep_with_fewer_seeds_takes_the_first_values_and_keeps_their_runs() -> None:
    few, many = (plan_runs(spec_of(TWO_POINTS, seeds=seeds, by_seed=DRAWS), SmallRecipe()) for seeds in (2, 3))
    assert {run.name for run in few} < {run.name for run in many}


def test_values_of_seeds_go_with_settings_that_are_tuned() -> None:
    base = SmallRecipe.model_validate({"evaluate": {"validation": "v"}})
    spec = spec_of(TWO_POINTS, seeds=2, by_seed=DRAWS, tune={"overfits": [0, 1]})
    found = [run.recipe.model_dump() for run in plan_runs(spec, base)]
    assert [(one["domains"][0]["quota"], one["overfits"]) for one in found[:4]] == [(16, 0), (16, 1), (17, 0), (17, 1)]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"by_seed": {"lr": [1]}}, "by_seed.lr: found 1 value beside 2 seeds, expected one for each"),
        ({"points": {"a": {}, "b": {"by_seed": {"lr": [1]}}}}, "points.b.by_seed.lr: found 1 value beside 2 seeds"),
        (
            {"points": {"a": {}, "b": {"make": [{**MAKE, "by_seed": {"seed": [1]}}]}}},
            "points.b.make.0.by_seed.seed: found 1 value beside 2 seeds",
        ),
        ({"by_seed": {"seed": [1, 2]}}, "by_seed.seed: found a field that runs are compared by"),
        ({"by_seed": {"evaluate.tests": [1, 2]}}, "by_seed.evaluate.tests: found a field that runs are compared by"),
        (
            {"by_seed": {"domains.0.quota": [1, 2]}, "changes": {"domains.0": {}}},
            "by_seed.domains.0.quota: found it in changes too (`domains.0`)",
        ),
        ({"by_seed": {"overfits": [1, 2]}, "tune": {"overfits": [1, 2]}}, "tune.overfits: found it in by_seed too"),
        (
            {"points": {"a": {}, "b": {"by_seed": {"lr": [1, 2]}}}, "tune": {"lr": [1, 2]}},
            "tune.lr: found it in points.b.by_seed too",
        ),
        ({"points": {"a": {}, "b": {"make": [{**MAKE, "out": "out"}]}}}, "beside by_seed, expected {seed} in it"),
        ({"points": {"a": {}, "b": {"make": [{**MAKE, "by_seed": {}}]}}}, "found {seed} in it and no by_seed"),
        (
            {"points": {"a": {}, "b": {"make": [{**MAKE, "changes": {"seed": 1}}]}}},
            "by_seed.seed: found it in changes too",
        ),
    ],
)
def test_values_that_fit_no_seed_or_stand_in_two_places_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="found ") as caught:
        spec_of(**{"points": TWO_POINTS, **fields})
    assert words in str(caught.value)


def test_a_value_that_makes_no_valid_recipe_is_refused_with_its_point() -> None:
    with pytest.raises(RecipeError, match=r"^sweep scale, point 0x: `lr`: "):
        plan_runs(spec_of(TWO_POINTS, by_seed={"behaviour": ["good", "good"], "lr": [1, "much"]}), SmallRecipe())


def test_values_of_seeds_stand_in_the_file_of_a_sweep_and_fit_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(
        "name: small\nbase: base.yaml\nseeds: 2\nbaseline: a\nminutes_each: 1\n"
        "by_seed: {optim.lr: [1, 2]}\npoints: {a: {}, b: {changes: {x: 1}}}\n"
    )
    spec = load_recipe(tmp_path / "small.yaml", SweepSpec, ["by_seed.data.domains.0.subset=[one, two]"])
    assert spec.by_seed == {"optim.lr": (1, 2), "data.domains.0.subset": ("one", "two")}


def test_each_seed_has_its_own_data_set_which_is_made_once(tmp_path: Path) -> None:
    points: dict[str, dict[str, Any]] = {
        "0x": {},
        "1x": {"changes": {"lr": 2}, "make": [MAKE]},
        "6x": {"changes": {"lr": 3}, "make": [MAKE]},
    }
    made: list[MakeSpec] = []
    sweep(spec_of(points), tmp_path, made=made)
    assert [(make.out, make.changes) for make in made] == [("out/data-0", {"seed": 10}), ("out/data-1", {"seed": 11})]
    assert made[1].overrides == ["seed=11"]


def test_the_plan_names_the_values_of_the_seeds_that_are_run(tmp_path: Path) -> None:
    points: dict[str, dict[str, Any]] = {
        "0x": {},
        "6x": {"changes": {"lr": 2}, "by_seed": {"domains.1.quota": [5, 6, 7]}, "make": [MAKE]},
    }
    spec = spec_of(points, by_seed=DRAWS)
    said = describe_sweep(spec, plan_runs(spec, SmallRecipe()), tmp_path).splitlines()
    assert said == [
        "sweep     scale, 2 points x 2 seeds, baseline 0x",
        "by seed   domains.0.quota: 16, 17",
        "point     0x: 0 of 2 runs done; the base recipe",
        "point     6x: 0 of 2 runs done; lr=2",
        "  by seed domains.1.quota: 5, 6",
        "  needs   out/data-{seed}: recipes/sandbox.yaml at 6x",
        "    by seed seed: 10, 11",
        "to train  4 of 4 runs, about 8.0 min of one worker",
    ]


def test_results_say_what_their_seed_had_of_its_own_and_are_paired_by_seed(tmp_path: Path) -> None:
    """A draw that is worth ten points moves both points of its seed: the difference stays that of the points."""
    spec = spec_of({"0x": {"x": 0}, "6x": {"x": 6, "changes": {"domains.1.quota": 4}}}, by_seed={"lr": [1, 11]})
    assert sweep(spec, tmp_path).done == 4
    lines = read_results(tmp_path / RESULTS).results
    assert {(line.seed, line.sweep.by_seed["lr"]) for line in lines if line.sweep} == {(0, 1), (1, 11)}
    [control, treated] = compare(lines).sweeps[0].rows
    assert control.cells["sketch"].by_seed == {0: 0.61, 1: 0.711}
    difference = treated.cells["sketch"].difference
    assert difference is not None
    assert difference.values == (0.0, 0.0)
    assert sweep(spec, tmp_path).made == 0
