"""The settings of an edit, by task, kind and side: VariReal's tables as data (V.20, V.30 to V.33).

In: a task, a kind of attribute, whether it is feasible. Out: an `EditCell`. On disk: nothing.

Lengths are for a canvas of 1024 px. VariReal has no settings of colour and texture for tasks beside its three, but for
the scale of the IP-Adapter. There `other` has ours: guidance 12, strength 0.65 and alpha 0.6 keep the shape and change
the surface; they were not tuned. Its background is VariReal's fourth column, for Waterbirds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from gen.edit.attributes.attribute import AttributeKind

Task = Literal["pets", "aircraft", "cars", "other"]
TASKS: tuple[Task, ...] = get_args(Task)

CANVAS_PX = 1024
# The second stage of colour and texture: ControlNet with IP-Adapter, the same for all tasks.
CONTROL_STEPS, CONTROL_GUIDANCE, CONTROL_SCALE = 25, 7.5, 1.0
# Of the pictures that priors are made of.
BACKGROUND_PRIOR_STEPS, TEXTURE_PRIOR_STEPS = 20, 15


@dataclass(frozen=True, kw_only=True)
class EditCell:
    """The settings of one kind of edit. What a kind does not use is None."""

    guidance: float  # of inpainting
    steps: int
    strength: float
    dilation_px: int | None = None  # background: side of the square that the mask grows by for the prior
    alpha: float | None = None  # colour, texture: share of the prior
    ip_scale: float | None = None  # colour, texture: of the IP-Adapter in the second stage


def _background(guidance: float, strength: float, dilation_px: int) -> EditCell:
    return EditCell(guidance=guidance, steps=30, strength=strength, dilation_px=dilation_px)


def _surface(guidance: float, strength: float, alpha: float, ip_scale: float) -> EditCell:
    return EditCell(guidance=guidance, steps=20, strength=strength, alpha=alpha, ip_scale=ip_scale)


_BACKGROUND: Mapping[Task, EditCell] = {
    "pets": _background(40, 0.99, 120),
    "aircraft": _background(7.5, 0.95, 50),
    "cars": _background(7.5, 0.90, 25),
    "other": _background(7.5, 0.80, 0),
}
_COLOUR: Mapping[tuple[Task, bool], EditCell] = {
    ("pets", True): _surface(12, 0.30, 0.30, 0.7),
    ("pets", False): _surface(12, 0.30, 0.50, 0.7),
    ("aircraft", True): _surface(12, 0.80, 0.60, 0.4),
    ("aircraft", False): _surface(12, 0.80, 0.65, 0.4),
    ("cars", True): _surface(30, 0.85, 0.60, 0.4),
    ("cars", False): _surface(30, 0.85, 0.60, 0.4),
    ("other", True): _surface(12, 0.65, 0.60, 0.4),
    ("other", False): _surface(12, 0.65, 0.60, 0.4),
}
_TEXTURE: Mapping[tuple[Task, bool], EditCell] = {
    ("pets", True): _surface(12, 0.30, 0.50, 0.2),
    ("pets", False): _surface(12, 0.30, 0.40, 0.5),
    ("aircraft", True): _surface(8, 0.65, 0.50, 0.65),
    ("aircraft", False): _surface(8, 0.30, 0.65, 0.4),
    ("cars", True): _surface(30, 0.65, 0.65, 0.65),
    ("cars", False): _surface(8, 0.30, 0.65, 0.4),
    ("other", True): _surface(12, 0.65, 0.60, 0.4),
    ("other", False): _surface(12, 0.65, 0.60, 0.4),
}


def edit_cell(task: Task, kind: AttributeKind, feasible: bool) -> EditCell:
    """The settings for one task, kind and side. For a background both sides have the same."""
    if kind == "background":
        return _BACKGROUND[task]
    return (_COLOUR if kind == "colour" else _TEXTURE)[task, feasible]
