"""The settings of an edit by kind of attribute and side: fields of a recipe, VariReal's tables, cells of one's own.

In: the recipe's `edit` part. Out: `Settings` for a kind and side. On disk: nothing.

A cell of the recipe wins over the table, the table over the fields `strength` and `alpha`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gen.edit.attributes.attribute import AttributeKind
from gen.edit.priors.table import CANVAS_PX, Task, edit_cell

SETTINGS = ("strength", "alpha", "dilate_px", "steps", "guidance", "ip_scale")


class Cell(BaseModel):
    """Settings of one kind of attribute, on one side or on both; null = as without the cell."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: AttributeKind = Field(description="of which attributes", examples=["colour"])
    side: Literal["feasible", "infeasible"] | None = Field(
        None, description="on which side; null = both", examples=["infeasible"]
    )
    strength: float | None = Field(None, gt=0, le=1, description="share of the way to noise", examples=[0.3])
    alpha: float | None = Field(
        None, ge=0, le=1, description="of colour and texture: share of the tint inside the mask", examples=[0.5]
    )
    dilate_px: int | None = Field(
        None, ge=0, le=1024, description="of a background, in place of masks.dilate_px", examples=[120]
    )
    steps: int | None = Field(
        None, ge=1, le=1000, description="of the editor, in place of its own", examples=[20]
    )  # fmt: skip
    guidance: float | None = Field(None, ge=0, le=100, description="likewise", examples=[12.0])
    ip_scale: float | None = Field(None, ge=0, le=2, description="likewise, of a cascade", examples=[0.7])

    @model_validator(mode="after")
    def _kind_has_them(self) -> "Cell":
        unused = ("alpha", "ip_scale") if self.kind == "background" else ("dilate_px",)
        for name in unused:
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: found {getattr(self, name):g} for a {self.kind}, which has none; remove it")
        return self


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of one edit. None: as the mask or the editor has it."""

    strength: float
    alpha: float
    dilate_px: int | None = None
    steps: int | None = None
    guidance: float | None = None
    ip_scale: float | None = None


def settings_of(
    plain: Settings, table: Task | None, cells: Sequence[Cell], kind: AttributeKind, feasible: bool, side_px: int
) -> Settings:
    """`plain` with what the table and the cells say of a kind and side. `side_px`: of the square; the table's lengths
    are for `CANVAS_PX`."""
    found = plain
    if table is not None:
        cell = edit_cell(table, kind, feasible)
        found = Settings(
            strength=cell.strength,
            alpha=plain.alpha if cell.alpha is None else cell.alpha,
            dilate_px=None if cell.dilation_px is None else round(cell.dilation_px * side_px / CANVAS_PX),
            steps=cell.steps,
            guidance=cell.guidance,
            ip_scale=cell.ip_scale,
        )
    for one in cells:
        if one.kind == kind and one.side in (None, "feasible" if feasible else "infeasible"):
            told = {name: value for name in SETTINGS if (value := getattr(one, name)) is not None}
            found = replace(found, **told)
    return found
