"""What a sweep makes before it trains: each kind of recipe by its own means, in the order that a point gives."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import sixfold
from cluster.fan_out.work import Summary
from cluster.recipes.load import dump_recipe
from gen.model.style_token import open_style_token
from shards.disk.home import home
from shards.stream.index import load_index
from tests.support.inversions import inversion, pipeline_of
from tests.support.small_edits import rows, write_classes, write_real
from tests.support.small_training import write_sets
from train.sweep.run import SweepOutcome

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def swept(folder: Path, make: list[dict[str, Any]], *more: str) -> Any:
    """A sweep of the sandbox whose second point needs `make`."""
    points = {"0x": {}, "6x": {"changes": {"optim.lr": 0.5}, "make": make}}
    base = f"base={home() / 'recipes/sandbox-train.yaml'}"
    arguments = ["sweep", str(home() / "recipes/sweeps/scale.yaml"), base, "tune={}", f"points={json.dumps(points)}"]
    return CliRunner().invoke(sixfold.command_line(), [*arguments, "--out", str(folder / "sweep"), *more])


@pytest.fixture
def learned(tmp_path: Path) -> dict[str, Any]:
    """What asks for a token of a tiny generator."""
    write_sets(tmp_path)
    recipe = inversion(tmp_path, pipeline_of("sd", tmp_path / "generator"))
    (tmp_path / "invert.yaml").write_text(dump_recipe(recipe))
    return {"recipe": str(tmp_path / "invert.yaml"), "out": str(tmp_path / "token"), "changes": {"seed": 7}}


def test_a_style_token_is_learned_before_the_images_that_are_told_it_and_only_once(
    tmp_path: Path, learned: dict[str, Any]
) -> None:
    """The images are asked of another generator than the token's, which is refused when the token is read."""
    told = {"prompts.style_token": learned["out"], "meanings.choose": "none"}
    images = {"recipe": str(home() / "recipes/sandbox.yaml"), "out": str(tmp_path / "images"), "changes": told}
    said = swept(tmp_path, [learned, images])
    assert f"{tmp_path / 'token'}: found a token of family sd for text encoders of width 32" in str(said.exception)
    token = open_style_token(tmp_path / "token")
    assert [one.word for one in token.told.words] == ["<style>"]
    assert "seed: 7" in (tmp_path / "token" / "recipe.yaml").read_text()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "token").rglob("*") if path.suffix != ".lock"}
    assert "found a token of family sd" in str(swept(tmp_path, [learned, images]).exception)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "token").rglob("*") if path.suffix != ".lock"}
    assert after == before


def test_a_plan_names_what_is_made_with_its_multiple_where_it_has_one(tmp_path: Path, learned: dict[str, Any]) -> None:
    images = {"recipe": str(home() / "recipes/sandbox.yaml"), "scale": "3x", "out": "out/images"}
    said = swept(tmp_path, [learned, images], "--dry-run").stdout
    assert f"  needs   {learned['out']}: {learned['recipe']}\n" in said
    assert f"  needs   out/images: {home() / 'recipes/sandbox.yaml'} at 3x\n" in said
    assert not (tmp_path / "token").exists()


def test_a_multiple_of_a_token_and_a_training_that_is_none_are_refused(tmp_path: Path, learned: dict[str, Any]) -> None:
    said = swept(tmp_path, [{**learned, "scale": "6x"}])
    assert "found scale: 6x beside a style token, expected none; take it out of `make`" in str(said.exception)
    training = {"recipe": str(home() / "recipes/sandbox-train.yaml"), "out": str(tmp_path / "token")}
    said = swept(tmp_path, [training])
    assert "found a training with task classify under `make`, expected one with task invert" in str(said.exception)
    assert not (tmp_path / "token").exists()


def test_edits_are_made_by_their_recipe_with_the_changes_of_the_point(tmp_path: Path) -> None:
    real, classes = write_real(tmp_path / "real"), write_classes(tmp_path / "classes.csv")
    small = {
        "classes.source": str(classes),
        "meanings": {"choose": "none"},
        "source": {"set": str(real), "per_class": 1},
        "sampler.steps": 4,
        "cluster.in_process": True,
    }
    changes = {
        "edit.attributes.kinds": ["colour"],
        "edit.attributes.feasibility": "mixed",
        "edit.judge": {"kind": "none"},
        "edit.masks.spoil": {"kind": "random"},
    }
    recipe = str(home() / "recipes/edit/sandbox.yaml")
    edits = [
        {"recipe": recipe, "scale": scale, "out": str(tmp_path / "edits"), "changes": {**small, **changes}}
        for scale in ("2x", "1x")
    ]
    retrieve = str(home() / "recipes/sandbox-retrieve.yaml")
    last = {"recipe": retrieve, "out": "none", "changes": {"pool.source": "gone"}}  # so that nothing is trained
    assert "gone: found no folder" in str(swept(tmp_path, [*edits, last]).exception)
    told = [json.loads(row["edit"]) for row in rows(tmp_path / "edits")]
    assert sorted(one["side"] for one in told) == ["feasible"] * 3 + ["infeasible"] * 3
    assert {(one["kind"], one["mask"]["spoil"]["kind"]) for one in told} == {("colour", "random")}
    assert [len(load_index(str(tmp_path / "edits"), name)) for name in ("1x", "2x")] == [3, 6]


def test_a_report_that_cannot_be_written_leaves_the_end_of_the_sweep_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    incomplete = Summary(
        done=1, quarantined=(), retried=0, rerun=0, workers_started=1, workers_lost=0, images=1, rejected=0,
        seconds=1.0, error="no room",
    )  # fmt: skip
    ended = SweepOutcome(name="scale", titles=[], asked=2, done=1, made=1, work=incomplete, seconds=1.0)
    monkeypatch.setattr("train.sweep.run.run_sweep", lambda *args, **options: ended)
    (tmp_path / "sweep" / "report.html").mkdir(parents=True)
    said = swept(tmp_path, [])
    assert said.exit_code == incomplete.exit_code != 0, said.output
    assert "sixfold: no report (" in said.stderr
    assert said.stderr.endswith(f"; `sixfold report {tmp_path / 'sweep'}` writes one\n")
    assert said.stdout.endswith("not complete: no room\n")
