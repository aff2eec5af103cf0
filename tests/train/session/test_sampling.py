"""A training whose rare classes come as often as the others."""

from pathlib import Path

import pytest

from shards.disk.store import open_store
from shards.set.long_tail import write_long_tail
from tests.support.small_training import last_state, small_recipe, train_alone, write_sets
from train.recipe import recipe_digest


def test_a_balanced_training_on_a_long_tail_goes_on_to_the_same_bits_and_refuses_another_sampling(
    tmp_path: Path,
) -> None:
    write_sets(tmp_path)
    write_long_tail(open_store(str(tmp_path / "real")), "tail", 4, 0)
    changes = {"data__domains__0__subset": "tail", "engine__accumulate": 2, "model__bn": "rank"}
    recipe = small_recipe(tmp_path, data__domains__0__sampling="balanced", **changes)
    natural = small_recipe(tmp_path, **changes)
    assert recipe_digest(recipe) != recipe_digest(natural)
    for out, looks in (("whole", 10**9), ("again", 3)):
        train_alone(recipe, tmp_path / out, looks)
    with pytest.raises(ValueError, match=r'data\.domains\.0\.sampling: "balanced" before, "natural" now'):
        train_alone(natural, tmp_path / "again")
    assert train_alone(recipe, tmp_path / "again").exit_code == 0
    assert train_alone(natural, tmp_path / "natural").exit_code == 0
    whole, again, other = (last_state(tmp_path / out) for out in ("whole", "again", "natural"))
    assert all((again[name] == tensor).all() for name, tensor in whole.items())
    assert any((other[name] != tensor).any() for name, tensor in whole.items())
