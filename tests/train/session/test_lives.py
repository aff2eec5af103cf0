"""The history of a training's folder: a line for each start, with the steps that were there and why it ended."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.process.lives import Life, lives_of
from shards.disk.store import FolderStore
from sixfold import command_line
from tests.support.small_training import small_recipe, train_alone, write_sets


def history(folder: Path) -> list[Life]:
    return lives_of(FolderStore(folder, read_only=True))


def test_a_training_tells_the_steps_of_each_life_and_why_it_ended(tmp_path: Path) -> None:
    write_sets(tmp_path)
    out, recipe = tmp_path / "run", small_recipe(tmp_path)
    assert train_alone(recipe, out, looks=3).exit_code == 75
    [stopped] = history(out)
    assert (stopped.verb, str(stopped.before)) == ("train", "0 steps")
    assert stopped.start_s is not None
    assert stopped.end is not None
    assert (stopped.end.exit_code, stopped.end.reason, str(stopped.end.there)) == (75, "stopped: enough", "3 steps")
    assert train_alone(recipe, out).exit_code == 0
    second = history(out)[1]
    assert str(second.before) == "3 steps"
    assert second.end is not None
    assert (second.end.exit_code, second.end.reason, str(second.end.there)) == (0, "complete", "6 steps")
    train_alone(recipe, out)
    assert len(history(out)) == 2, "a call of a finished training lives no life"


def test_the_status_of_a_training_is_its_history(tmp_path: Path) -> None:
    write_sets(tmp_path)
    out, recipe = tmp_path / "run", small_recipe(tmp_path)
    for looks, code, told in (
        (3, 3, "UTC train on "),
        (100, 0, "from 3 steps to 6 steps, ended after "),
    ):
        train_alone(recipe, out, looks)
        said = CliRunner().invoke(command_line(), ["status", str(out)])
        assert (said.exit_code, told in said.stdout) == (code, True), said.output
    assert said.stdout.count("\nlife ") + said.stdout.startswith("life ") == 2


def test_a_training_that_fails_says_why_in_its_history(tmp_path: Path) -> None:
    write_sets(tmp_path)
    out = tmp_path / "run"
    assert train_alone(small_recipe(tmp_path), out, looks=3).exit_code == 75
    (tmp_path / "synthetic" / "00000.tar").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"00000") as caught:
        train_alone(small_recipe(tmp_path), out)
    end = history(out)[1].end
    assert end is not None
    assert (end.exit_code, end.reason) == (2, str(caught.value)[:500])
