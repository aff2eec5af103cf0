"""What decides of an inversion: the guidance of its pictures only where the model is told it while it learns."""

from typing import Any

import pytest

from cluster.recipes.folder import changes
from gen.invert.spec import InvertSpec, by_content, pinned_generator
from gen.invert.words import words_for
from tests.support.tiny_pipelines import tiny_pipeline


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {family: str(tiny_pipeline(family, folder / family)) for family in ("sd", "flux")}


@pytest.mark.parametrize("fields", [{"tokens": "class"}, {"tokens": "group", "groups": {"odd": ["one", "two"]}}])
def test_a_token_that_leaves_no_room_for_a_class_is_refused_in_one_line(fields: dict[str, Any]) -> None:
    names = {7: "one", 12: "two"}
    fitting, long = (InvertSpec(model="m", token=f"<{'a' * num}>", **fields) for num in (36, 38))
    assert words_for(fitting, names).word_of
    with pytest.raises(ValueError, match=r"^invert\.token: found .* expected words of at most 40 char") as told:
        words_for(long, names)
    assert "\n" not in str(told.value)


def test_the_guidance_decides_only_for_a_model_that_is_told_it(models: dict[str, str]) -> None:
    for family, is_told in (("sd", False), ("flux", True)):
        one, two = (by_content(InvertSpec(model=models[family], guidance=value)) for value in (2.0, 3.5))
        assert (one != two) == is_told
        assert ("loss_guidance" in one) == is_told


def test_pictures_may_be_drawn_otherwise_while_a_model_learns_with_what_it_began_with(models: dict[str, str]) -> None:
    begun = pinned_generator(InvertSpec(model=models["flux"], guidance=2.0))
    assert begun.loss_guidance == 2.0
    assert by_content(begun) == by_content(InvertSpec(model=models["flux"], guidance=9.0, loss_guidance=2.0))
    assert by_content(begun) == by_content(begun.model_copy(update={"guidance": 9.0}))


def test_a_training_that_began_without_the_field_is_refused(models: dict[str, str]) -> None:
    now = by_content(InvertSpec(model=models["flux"]))
    before = {name: value for name, value in now.items() if name != "loss_guidance"}
    assert changes(before, now, InvertSpec) == ["loss_guidance: null before, 2.0 now"]
