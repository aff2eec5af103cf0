"""A folder that belongs to a recipe: claimed by the first, compared by every later one, refused with what differs."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from cluster.recipes.folder import MAX_LISTED, Folder, LocalFolder, changes, claim, listing
from cluster.recipes.load import RecipeError
from shards.disk.store import open_store


class Small(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    threads: int = 1
    later: int = 7  # a field that came with a later version


def decides(recipe: Small) -> Mapping[str, Any]:
    return recipe.model_dump(mode="json", exclude={"threads"})


@pytest.fixture(params=["local", "store", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "local":
        return LocalFolder(tmp_path)
    return open_store(str(tmp_path) if request.param == "store" else f"memory://{tmp_path.name}-{os.getpid()}")


def run(folder: Folder, recipe: Small, is_used: bool = True) -> None:
    claim(folder, "recipe.yaml", recipe, decides, "pool", is_used)


def test_the_first_run_claims_and_the_same_recipe_goes_on(folder: Folder) -> None:
    run(folder, Small(seed=1))
    assert folder.read_bytes("recipe.yaml") == b"seed: 1\nthreads: 1\nlater: 7\n"
    run(folder, Small(seed=1))


def test_another_recipe_is_refused_with_what_differs_and_changes_nothing(folder: Folder) -> None:
    run(folder, Small(seed=1))
    before = folder.read_bytes("recipe.yaml")
    with pytest.raises(ValueError, match=r"found a pool with another recipe \(seed: 1 before, 2 now\); use"):
        run(folder, Small(seed=2))
    assert folder.read_bytes("recipe.yaml") == before


def test_what_decides_nothing_may_change_and_is_written_down(folder: Folder) -> None:
    run(folder, Small(seed=1))
    run(folder, Small(seed=1, threads=8))
    assert b"threads: 8" in folder.read_bytes("recipe.yaml")


def test_a_recipe_that_made_nothing_owns_nothing(folder: Folder) -> None:
    run(folder, Small(seed=1), is_used=False)
    run(folder, Small(seed=2), is_used=False)
    assert b"seed: 2" in folder.read_bytes("recipe.yaml")


def test_a_field_that_came_later_is_no_difference_at_its_default(folder: Folder) -> None:
    folder.replace("recipe.yaml", b"seed: 1\n")
    run(folder, Small(seed=1))
    folder.replace("recipe.yaml", b"seed: 1\n")
    with pytest.raises(ValueError, match=r"\(later: 7 before, 8 now\)"):
        run(folder, Small(seed=1, later=8))
    assert changes({"seed": 1}, {"seed": 1, "later": 7}, Small) == []


def test_a_file_that_is_no_recipe_is_named(folder: Folder) -> None:
    folder.replace("recipe.yaml", b"seed: [1\n")
    with pytest.raises(RecipeError, match=r"recipe\.yaml:2: not a plain YAML recipe"):
        run(folder, Small(seed=1))


def test_a_long_list_says_how_many_more_there_are() -> None:
    assert listing([f"f{number}" for number in range(MAX_LISTED + 2)]).endswith(f"f{MAX_LISTED - 1}; and 2 more")
