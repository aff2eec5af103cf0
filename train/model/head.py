"""The classifier of a model that starts from trained weights: kept, new, or taken output by output by class name.

In: the rule of a recipe, what the data call their classes, the weights that were found (`train.model.pretrained`). Out:
which output of the weights is which new one; tensors with these rows. On disk: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from shards.disk.safe_text import quoted
from shards.labels.folders import fold_name
from train.model.pretrained import Pretrained

if TYPE_CHECKING:
    from torch import Tensor, nn

Head = Literal["by_size", "keep", "new", "map"]
HEAD = (
    "the classifier, where the model starts from trained weights; by_size: kept if it has as many outputs, else new; "
    "keep: kept, it must have as many; new: drawn by the seed; map: of each class of the data the output that has its "
    "name, the others new"
)


def names_in(found: Pretrained) -> Mapping[int, str]:
    """What the weights' description calls their outputs; {} where nothing says."""
    return {} if found.about is None else found.about.names


def mapped_outputs(names: Mapping[int, str], theirs: Mapping[int, str], shown: str) -> dict[int, int]:
    """Output of the new classifier -> output of the weights that has its class name, for those that have one.

    `names`: new output -> class name; `theirs`: output of the weights -> class name; `shown`: what to call those. Names
    are compared as those of class folders are (`fold_name`); numbers never decide. Raises ValueError where nothing is
    named, no name is known to both, or one of them stands for two outputs.
    """
    for who, named in (("the data", names), (shown, theirs)):
        if not named:
            raise ValueError(
                f"model.head: found map, and {who} without class names, expected names on both sides; set "
                "model.head=new, or keep"
            )
    sides: list[dict[str, list[int]]] = [{}, {}]
    for side, named in zip(sides, (names, theirs), strict=True):
        for output, name in sorted(named.items()):
            side.setdefault(fold_name(name.removesuffix(f" ({output})")), []).append(output)
    ours, known = sides
    both = [name for name in ours if name in known]
    for name in both:
        for who, outputs in (("the data", ours[name]), (shown, known[name])):
            if len(outputs) > 1:
                raise ValueError(
                    f"model.head: found map, and the outputs {outputs[0]} and {outputs[1]} of {who} that are both "
                    f"called {quoted(name, 60)}, expected one of a name; set model.head=new, or keep"
                )
    if not both:
        raise ValueError(
            f"model.head: found map, and no class of the data ({quoted(min(ours), 30)}, ...) among the names in "
            f"{shown} ({quoted(min(known), 30)}, ...), expected some; set model.head=new"
        )
    return {ours[name][0]: known[name][0] for name in both}


def map_rows(heads: Sequence[str], model: nn.Module, given: dict[str, Tensor], rows: Mapping[int, int]) -> None:
    """Put into `given` a classifier of the model's size: its initial values, and of `rows`, new output -> given one,
    those given. `heads`: names of the modules that make the logits."""
    import torch

    wanted, prefixes = model.state_dict(), tuple(f"{name}." for name in heads)
    for name in [name for name in given if name in wanted and name.startswith(prefixes)]:
        mine = wanted[name].clone()
        if given[name].shape[1:] != mine.shape[1:] or max(rows.values()) >= len(given[name]) or max(rows) >= len(mine):
            continue  # whoever loads them says what does not fit
        mine[torch.tensor(list(rows))] = given[name][torch.tensor(list(rows.values()))].to(mine.dtype)
        given[name] = mine
