"""docs/RETRIEVE.md: its recipes are what their commands read."""

import re

from cluster.recipes.load import parse_recipe
from retrieve.run.recipe import RetrieveRecipe
from shards.disk.home import home
from train.sweep.plan import SweepSpec


def test_the_recipes_of_the_page_are_read() -> None:
    page = (home() / "docs" / "RETRIEVE.md").read_text(encoding="utf-8")
    retrieval, sweep = re.findall(r"^```yaml\n(.*?)^```$", page, flags=re.M | re.S)
    assert parse_recipe(retrieval.encode(), RetrieveRecipe, "the page").pool.clip is None
    points = parse_recipe(sweep.encode(), SweepSpec, "the page").points
    assert list(points) == ["real", "synthetic", "retrieved"]
    assert points["retrieved"].make[0].recipe.name == "birds-retrieve.yaml"
