"""A recipe of a retrieval that nobody could run is refused with all that would make it one."""

import re

import pytest

from cluster.recipes.load import parse_recipe
from retrieve.run.recipe import RetrieveRecipe

MINIMAL = b"name: birds\nclasses: {source: sandbox, per_class: 2}\npool: {source: pool}\n"


def parse(*overrides: str) -> RetrieveRecipe:
    return parse_recipe(MINIMAL, RetrieveRecipe, "birds.yaml", overrides)


@pytest.mark.parametrize(
    "overrides", [[], ["order=score", "filter.top=null"], ["filter.score=0.2"], ["search.routes=[image]"]]
)
def test_a_pool_without_a_model_is_refused_with_the_fields_that_do_without(overrides: list[str]) -> None:
    with pytest.raises(
        ValueError, match=re.escape("vectors: search.routes: [captions], filter: {top: null}, order: ran")
    ):
        parse(*overrides)


def test_the_fields_of_the_message_are_enough() -> None:
    assert parse("search.routes=[captions]", "filter={top: null}", "order=random").pool.clip is None
