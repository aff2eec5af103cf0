"""Trains nothing: the program that a sweep's tests start for a run. What it does stands in the recipe it is given."""

import os
import signal
import sys
import time
from pathlib import Path

import yaml

from cluster.recipes.load import load_recipe
from tests.support.sweep_recipe import SmallRecipe
from tests.support.training_results import result
from train.evaluate.results import RESULTS, append_results
from train.recipe import recipe_digest


def main(recipe_file: Path, folder: Path) -> int:
    recipe = load_recipe(recipe_file, SmallRecipe)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"started-{os.getpid()}").touch()
    if recipe.behaviour == "fail":
        print("reading data\nValueError: found no data, expected some", file=sys.stderr)
        return 1
    if recipe.behaviour == "mistake":
        print("found no classes, expected ten")
        return 2
    if recipe.behaviour == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if recipe.behaviour == "hang":

        def save(number: int, frame: object) -> None:
            (folder / "saved").touch()
            sys.exit(75)

        signal.signal(signal.SIGTERM, save)
        (folder / "ready").touch()
        time.sleep(600)
    if recipe.behaviour == "silent":
        return 0
    right = 600 + 10 * int(recipe.lr) + recipe.seed
    about = {"run": folder.name, "recipe": recipe_digest(recipe), "seed": recipe.seed}
    append_results(
        folder / RESULTS,
        [
            result(
                right - 5 - int(10 * recipe.overfits * recipe.lr),
                1000,
                10,
                **about,
                set="val",
                role="validation",
                step=50,
                selected=True,
            ),
            *(result(right, 1000, 10, **about, set=name, step=50) for name in recipe.evaluate.tests),
        ],
    )
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"data": {"domains": []}}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
