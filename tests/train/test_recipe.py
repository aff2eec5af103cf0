"""What a training asks for: when a folder goes on with it, and what does not fit together."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.recipes.folder import refuse_other
from tests.support.small_training import small_recipe
from train.recipe import TrainRecipe, deciding, recipe_digest, refuse_changed, whole_digest

# of the small recipe, as the version before those fields computed them
DIGEST = "c2a06ecd8656cec00f1624fc60101ca3705faa8639987caef9b3cd016fd8138e"
OLD_LAMB = "a455cb6a0def9b48d6489ae3c71276be711a4a012e635c5c8c750d4874fafb31"
OLD_LAMB_FIRST = "251a77f303df9d0b2cf429321b1f7d76de7d5a9abe3289e5ecffafaf8e80a230"
WHOLE = "9e485333ef679aba8e4c6a8c00145c387c556a63f51a9955ea16ba69e5ef7648"


def refuse(before: dict[str, Any], now: TrainRecipe) -> None:
    refuse_other(before, deciding(now), TrainRecipe, "here", "training")


def test_a_training_of_an_earlier_version_goes_on_while_new_fields_stand_at_their_defaults(tmp_path: Path) -> None:
    before = deciding(small_recipe(tmp_path))
    del before["evaluate"]["crop_pct"], before["optim"]["lam"], before["data"]["mix"]
    for domain in before["data"]["domains"]:
        del domain["grow"], domain["planted_shift"], domain["sampling"]
    refuse(before, small_recipe(tmp_path))
    with pytest.raises(
        ValueError, match=r"data\.domains\.1\.grow: false before, true now; optim\.lam: 1\.0 before, 2\.0 now\)"
    ):
        refuse(before, small_recipe(tmp_path, optim__lam=2.0, data__domains__1__grow=True))


def test_another_recipe_is_refused_with_what_differs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"here: found a training with another recipe \(seed: 3 before, 4 now\); use"):
        refuse(deciding(small_recipe(tmp_path)), small_recipe(tmp_path, seed=4))


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


def test_a_checkpoint_that_does_not_say_how_pictures_were_normalised_was_made_with_imagenets_numbers(
    tmp_path: Path,
) -> None:
    """So did the versions before the field; timm's ViT wants others."""
    before = deciding(small_recipe(tmp_path))
    assert not {"mean", "std"} & before["model"].keys()
    before["model"]["name"] = "vit_base_patch16_224"
    own = small_recipe(tmp_path, model__name="vit_base_patch16_224")
    with pytest.raises(ValueError, match=r"model\.mean: null before, \[0\.5, 0\.5, 0\.5\] now"):
        refuse(before, own)
    imagenet = {"model__mean": [0.485, 0.456, 0.406], "model__std": [0.229, 0.224, 0.225]}
    refuse(before, small_recipe(tmp_path, model__name="vit_base_patch16_224", **imagenet))


def test_fields_that_came_later_leave_the_digests_of_recipes_without_them_as_they_were(tmp_path: Path) -> None:
    recipe = small_recipe(Path("sets"))
    assert recipe_digest(recipe) == DIGEST
    assert recipe_digest(small_recipe(Path("sets"), model__mean=[0.5, 0.5, 0.5])) != DIGEST
    assert whole_digest(recipe) == WHOLE


def test_how_many_views_a_set_has_of_each_thing_decides_nothing_that_is_trained(tmp_path: Path) -> None:
    plain, told = small_recipe(tmp_path), small_recipe(tmp_path, evaluate__tests__one__views=2)
    assert deciding(plain) == deciding(told)
    assert recipe_digest(plain) == recipe_digest(told)
    assert whole_digest(plain) != whole_digest(told)


def test_the_precision_decides_and_what_only_rounds_does_not(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    half = small_recipe(tmp_path, engine__dtype="bf16")
    assert recipe_digest(half) != recipe_digest(recipe)
    told = r'here: found a training with another recipe \(engine\.dtype: "fp32" before, "bf16" now\); use that recipe'
    with pytest.raises(ValueError, match=told):
        refuse(deciding(recipe), half)
    with pytest.raises(ValueError, match=told):
        refuse_changed(recipe, half, "here")
    free = {"kind": "deepspeed", "zero": 1, "compile": True, "channels_last": True, "threads": 4, "deadline_s": 9.0}
    other = small_recipe(tmp_path, **{f"engine__{name}": value for name, value in free.items()})
    assert other.engine.model_dump() == {**recipe.engine.model_dump(), **free}, "all but dtype and accumulate"
    assert recipe_digest(other) == recipe_digest(recipe)
    refuse(deciding(recipe), other)


def staged(data: Path, bn: str, count: int) -> TrainRecipe:
    """With a first stage that has other batch statistics than the last one."""
    first = [{"name": "first", "model": {"bn": bn}}]
    return small_recipe(data, before=first, engine__accumulate=count)


@pytest.mark.parametrize(
    ("model", "decides"),
    [
        ({"bn": "group"}, False),
        ({"bn": "rank"}, True),
        ({"bn": "world"}, True),
        ({"name": "resnet18", "aux": "none", "bn": "rank"}, True),
        ({"name": "vit_tiny_patch16_224", "aux": "none", "bn": "rank"}, False),
        ({"name": "sandbox_vit", "aux": "none", "bn": "rank"}, False),
    ],
)
def test_micro_batches_have_digests_of_their_own_where_they_change_batch_statistics(
    model: dict[str, str], decides: bool
) -> None:
    changes = {f"model__{name}": value for name, value in model.items()}
    whole, cut = (small_recipe(Path("sets"), engine__accumulate=count, **changes) for count in (1, 2))
    assert (recipe_digest(whole) != recipe_digest(cut)) == decides
    refuse(deciding(whole), cut)


@pytest.mark.parametrize(("bn", "decides"), [("rank", True), ("group", False)])
def test_micro_batches_of_an_earlier_stage_count_too(bn: str, decides: bool) -> None:
    whole, cut = (staged(Path("sets"), bn, count) for count in (1, 2))
    assert (recipe_digest(whole) != recipe_digest(cut)) == decides


def test_lamb_is_not_split_by_zero_in_any_stage(tmp_path: Path) -> None:
    split = {"engine__kind": "deepspeed", "engine__zero": 1}
    with pytest.raises(ValidationError, match=r"engine\.zero: found 1 with lamb, whose rates need whole parameters"):
        small_recipe(tmp_path, optim__optimizer="lamb", **split)
    with pytest.raises(ValidationError, match=r"before\.0: engine\.zero: found 1 with lamb"):
        small_recipe(tmp_path, before=[{"name": "first", "optim": {"optimizer": "lamb"}}], **split)


def test_a_training_with_lamb_is_another_one_than_when_lamb_clipped_by_itself(tmp_path: Path) -> None:
    """The digests are those of the versions that let it do so."""
    lamb = small_recipe(Path("sets"), optim__optimizer="lamb")
    assert recipe_digest(lamb) != OLD_LAMB
    first = small_recipe(Path("sets"), before=[{"name": "first", "optim": {"optimizer": "lamb", "lr": 0.05}}])
    assert recipe_digest(first) != OLD_LAMB_FIRST


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("validation", "results have for the set that chooses the checkpoint, expected another name"),
        ("real", "found a test set with the name of a domain, expected another"),
        ("synthetic", "call it synthetic-test, for example"),
    ],
)
def test_a_test_set_has_a_name_that_results_have_for_nothing_else(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(ValidationError, match=f"evaluate.tests.{name}: .*{words}"):
        small_recipe(tmp_path, evaluate__tests={name: {"source": "x"}})


def test_a_recipe_has_the_part_that_its_task_trains(tmp_path: Path) -> None:
    told = small_recipe(tmp_path).model_dump(mode="json")
    with pytest.raises(ValueError, match="model: found none with task classify, expected one"):
        TrainRecipe.model_validate({**told, "model": None})
