"""Parameters that a training leaves as they are, named by patterns.

In: a model after conversion by `train.model.aux_bn`, patterns of names in the plain model. Out: the same model, changed
in place: frozen parameters need no gradient, so no optimiser gets them. On disk: nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from shards.disk.safe_text import quoted

if TYPE_CHECKING:
    from torch import nn

FREEZE = (
    "parameters that stay as they are: patterns of names in the plain model, * for any part of one; batch "
    "normalisation whose parameters are all frozen runs in evaluation mode, so its statistics stay too"
)
_AUX_PART = re.compile(r"(^|\.)aux_bn\.[0-9]+(?=\.)")  # of a parameter's name, which is plain without it


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Take what the patterns name out of the training; auxiliary layers go with their main one.

    Raises ValueError for a pattern that no parameter has, and if nothing is left to train.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    plain = {name: _AUX_PART.sub("", name) for name, _ in model.named_parameters()}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in plain.values()):
            near = get_close_matches(pattern, sorted(set(plain.values())), n=1, cutoff=0)
            raise ValueError(
                f"model.freeze: found {quoted(pattern, 80)}, which no parameter is called, expected patterns such as "
                f"{near[0] if near else '*'}; correct it, or take it out"
            )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(fnmatchcase(plain[name], pattern) for pattern in patterns))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"model.freeze: found {quoted(', '.join(patterns), 120)}, which is all of the model, expected something "
            "left to train; take a pattern out"
        )
    for layer in model.modules():
        own = list(layer.parameters())
        if isinstance(layer, _BatchNorm) and own and not any(parameter.requires_grad for parameter in own):
            layer.eval()  # all branches alike: of trained weights each domain has the same copy
