"""How a classifier is taken over from trained weights: kept, new, or output by output by class name."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from train.model.classifiers import ModelSpec, build, what_it_starts_from
from train.model.head import mapped_outputs

THEIRS = {0: "crane", 1: "blue-jay", 2: "wren", 3: "owl"}


def weights(folder: Path, names: Mapping[int, str] | None = None, outputs: int = 4) -> dict[str, Tensor]:
    """An export of other classes; its tensors."""
    model = build(ModelSpec(name="sandbox_resnet", num_classes=outputs, aux="none"), (2,), 9, 32)
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    about = {"model": "sandbox_resnet", "num_classes": outputs, "size_px": 32, "class_names": names or {}}
    (folder / "model.json").write_text(json.dumps(about))
    return dict(model.state_dict())


def built(folder: Path, head: str, classes: int, names: Mapping[int, str] | None = None) -> nn.Module:
    told = {"name": "sandbox_resnet", "num_classes": classes, "aux": "none", "pretrained": str(folder), "head": head}
    return build(ModelSpec.model_validate(told), (2,), 1, 32, names)


def fresh(classes: int) -> Tensor:
    """The classifier that the seed draws."""
    return build(ModelSpec(name="sandbox_resnet", num_classes=classes, aux="none"), (2,), 1, 32).fc.weight


@pytest.mark.parametrize(
    ("head", "classes", "is_kept"), [("by_size", 4, True), ("by_size", 5, False), ("keep", 4, True), ("new", 4, False)]
)
def test_the_rule_says_whether_a_classifier_is_kept(tmp_path: Path, head: str, classes: int, is_kept: bool) -> None:
    given = weights(tmp_path / "w")
    model = built(tmp_path / "w", head, classes)
    assert torch.equal(model.fc.weight, given["fc.weight"] if is_kept else fresh(classes))
    assert torch.equal(model.conv1.weight, given["conv1.weight"])


def test_a_classifier_that_must_be_kept_and_does_not_fit_is_refused(tmp_path: Path) -> None:
    weights(tmp_path / "w")
    with pytest.raises(ValueError, match=r"found \[4\] for .*fc\.bias.*, expected \[5\].*, or set model\.head=new"):
        built(tmp_path / "w", "keep", 5)


@pytest.mark.parametrize("head", ["keep", "map"])
def test_a_rule_about_weights_that_are_not_named_is_refused(head: str) -> None:
    spec = ModelSpec.model_validate({"name": "sandbox_resnet", "num_classes": 4, "head": head})
    with pytest.raises(ValueError, match=f"model.head: found {head} for a model that starts from nothing, expected tr"):
        build(spec, (2,), 1, 32)


def test_names_decide_which_outputs_are_taken_and_ids_never(tmp_path: Path) -> None:
    """Two of three classes are known, under other ids and one in another spelling."""
    given = weights(tmp_path / "w", THEIRS)
    ours = {0: "owl", 1: "stork", 2: "Blue Jay"}
    model = built(tmp_path / "w", "map", 3, ours)
    for part in ("weight", "bias"):
        rows = getattr(model.fc, part)
        assert torch.equal(rows[0], given[f"fc.{part}"][3])
        assert torch.equal(rows[2], given[f"fc.{part}"][1])
    assert torch.equal(model.fc.weight[1], fresh(3)[1])
    told = {"name": "sandbox_resnet", "num_classes": 3, "pretrained": str(tmp_path / "w"), "head": "map"}
    [line] = what_it_starts_from(ModelSpec.model_validate(told), ours)
    assert line.endswith("; 2 of 3 outputs are taken from its classifier by name, the others are new")


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (
            {0: "crane", 1: "crane"},
            THEIRS,
            r"the outputs 0 and 1 of the data that are both called .crane., ",
        ),
        (
            {0: "wren"},
            {0: "wren", 1: "Wren"},
            r"the outputs 0 and 1 of theirs that are both called .wren., ",
        ),
        ({0: "stork"}, THEIRS, r"no class of the data \(.stork., \.\.\.\) among the names in theirs"),
        ({}, THEIRS, "the data without class names, expected names on both sides"),
        ({0: "wren"}, {}, "theirs without class names, expected names on both sides"),
    ],
    ids=["twice in the data", "twice in the weights", "none known", "data without", "weights without"],
)
def test_names_that_do_not_say_which_output_is_meant_are_refused(
    ours: dict[int, str], theirs: dict[int, str], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        mapped_outputs(ours, theirs, "theirs")
    assert "\n" not in str(refused.value)


def test_a_name_that_two_outputs_have_and_no_class_of_the_data_does_no_harm() -> None:
    assert mapped_outputs({4: "wren"}, {0: "crane", 1: "crane", 2: "wren"}, "theirs") == {4: 2}
