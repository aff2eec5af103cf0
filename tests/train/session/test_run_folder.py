"""The folder of a training, looked at before anything is loaded: whose it is."""

from pathlib import Path

import pytest

from cluster.recipes.load import dump_recipe
from tests.support.small_training import small_recipe, train_alone
from tests.support.training_results import result
from train.evaluate.results import append_results
from train.session.run_folder import look
from train.task.facts import FACTS

FACTS_OF = FACTS["classify"]


def left_by_another(folder: Path, what: str) -> None:
    """Work of a training whose recipe is not there."""
    folder.mkdir()
    if what == "export":
        (folder / FACTS_OF.last_file).write_text("{}")
    elif what == "results":
        append_results(folder / "results.jsonl", [result(set="one")])
    else:
        (folder / what).mkdir()


@pytest.mark.parametrize("what", ["export", "results", "checkpoints", "stages"])
def test_what_nothing_says_the_recipe_of_belongs_to_no_training_and_is_left_as_it_is(tmp_path: Path, what: str) -> None:
    out = tmp_path / "out"
    left_by_another(out, what)
    names = sorted(path.name for path in out.iterdir())
    found = "an export" if what == "export" else "a training"
    for tests in ({"one": {"source": "set"}}, {}):
        recipe = small_recipe(tmp_path, evaluate__tests=tests, evaluate__validation=None)
        for ask in (lambda one: look(one, out, FACTS_OF.last_file, FACTS_OF.metric), lambda one: train_alone(one, out)):
            with pytest.raises(ValueError, match=f"{out}: found {found} without recipe.yaml, expected the") as refused:
                ask(recipe)
            assert "\n" not in str(refused.value)
    assert sorted(path.name for path in out.iterdir() if path.name != "run.lock") == names
    (out / "recipe.yaml").write_text(dump_recipe(recipe))
    assert (look(recipe, out, FACTS_OF.last_file, FACTS_OF.metric) is not None) == (what == "export")
