"""What a training asks for: when a folder goes on with it, and what does not fit together."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.support.small_training import small_recipe
from train.recipe import deciding, refuse_other


def test_a_training_of_an_earlier_version_goes_on_while_new_fields_stand_at_their_defaults(tmp_path: Path) -> None:
    before = deciding(small_recipe(tmp_path))
    del before["evaluate"]["crop_pct"], before["optim"]["lam"], before["data"]["mix"]
    for domain in before["data"]["domains"]:
        del domain["grow"]
    refuse_other(small_recipe(tmp_path), before, "here")
    with pytest.raises(
        ValueError, match=r"data\.domains\.1\.grow: false before, true now; optim\.lam: 1\.0 before, 2\.0 now\)"
    ):
        refuse_other(small_recipe(tmp_path, optim__lam=2.0, data__domains__1__grow=True), before, "here")


def test_another_recipe_is_refused_with_what_differs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"here: found a training with another recipe \(seed: 3 before, 4 now\); use"):
        refuse_other(small_recipe(tmp_path, seed=4), deciding(small_recipe(tmp_path)), "here")


def test_a_warm_up_that_is_longer_than_the_training_says_what_to_change(tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as refused:
        small_recipe(tmp_path, optim__warmup_steps=6)
    said = str(refused.value.errors()[0]["ctx"]["error"])
    assert said == (
        "optim.warmup_steps: found 6, expected fewer than schedule.steps = 6; lower optim.warmup_steps or raise "
        "schedule.steps"
    )


@pytest.mark.parametrize("change", [{"schedule__groups": 2**40}, {"data__domains__0__quota": 10**9}])
def test_a_step_that_no_memory_holds_is_refused(tmp_path: Path, change: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match=r"expected steps of at most 1,048,576; lower it or the quotas"):
        small_recipe(tmp_path, **change)
