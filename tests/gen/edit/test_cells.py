"""Settings by kind and side: fields, then the table, then cells."""

from typing import Any

import pytest

from gen.edit.attributes.attribute import ATTRIBUTE_KINDS
from gen.edit.cells import SETTINGS, Cell, Settings, settings_of
from gen.edit.priors.table import TASKS, Task, edit_cell
from gen.edit.recipe import AttributeEditSpec

PLAIN = Settings(strength=0.5, alpha=0.6)
TRAINED = {"kind": "inpaint", "model": "anywhere"}


def spec_of(**fields: Any) -> AttributeEditSpec:
    return AttributeEditSpec.model_validate({"kind": "attribute", "masks": {"order": ["otsu"]}, **fields})


def test_without_table_and_cells_the_fields_count() -> None:
    spec = spec_of(strength={"colour": 0.3}, alpha=0.2)
    assert spec.settings("colour", True, 64) == Settings(strength=0.3, alpha=0.2)
    assert spec.settings("background", False, 64) == Settings(strength=0.8, alpha=0.2)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", ATTRIBUTE_KINDS)
@pytest.mark.parametrize("feasible", [True, False])
def test_a_table_gives_the_settings_of_its_cell(task: Task, kind: Any, feasible: bool) -> None:
    found, cell = spec_of(table=task, editor=TRAINED).settings(kind, feasible, 1024), edit_cell(task, kind, feasible)
    assert (found.strength, found.steps, found.guidance) == (cell.strength, cell.steps, cell.guidance)
    assert (found.dilate_px, found.ip_scale) == (cell.dilation_px, cell.ip_scale)
    assert found.alpha == (0.6 if cell.alpha is None else cell.alpha)


def test_a_tables_lengths_shrink_with_the_square() -> None:
    assert [settings_of(PLAIN, "pets", (), "background", True, side).dilate_px for side in (1024, 512)] == [120, 60]


def test_a_cell_wins_over_the_table_and_a_later_cell_over_an_earlier_one_on_its_side_alone() -> None:
    cells = (
        Cell(kind="colour", strength=0.9, guidance=5.0),
        Cell(kind="colour", side="infeasible", strength=0.2),
        Cell(kind="texture", strength=0.4),
    )
    feasible, infeasible = (settings_of(PLAIN, "cars", cells, "colour", side, 1024) for side in (True, False))
    assert (feasible.strength, infeasible.strength) == (0.9, 0.2)
    assert feasible.guidance == infeasible.guidance == 5.0
    assert (feasible.alpha, feasible.ip_scale, feasible.steps) == (0.60, 0.4, 20)


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_of_a_cell_reaches_its_kind_alone(name: str) -> None:
    kind: Any = "background" if name == "dilate_px" else "texture"
    value = 3 if name in ("steps", "dilate_px") else 0.25
    cells = (Cell.model_validate({"kind": kind, "side": "feasible", name: value}),)
    assert getattr(settings_of(PLAIN, None, cells, kind, True, 64), name) == value
    assert settings_of(PLAIN, None, cells, kind, False, 64) == PLAIN
    assert settings_of(PLAIN, None, cells, "colour", True, 64) == PLAIN


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"table": "pets"}, "table: found pets with the editor own, expected null"),
        ({"table": "pets", "editor": TRAINED, "alpha": 0.1}, "table: found pets beside strength or alpha"),
        ({"cells": [{"kind": "colour", "steps": 9}]}, "cells.0.steps: found 9 with the editor own, expected null"),
        (
            {"editor": TRAINED, "cells": [{"kind": "colour", "ip_scale": 0.5}]},
            "cells.0.ip_scale: found 0.5 with the editor inpaint",
        ),
        ({"cells": [{"kind": "background", "alpha": 0.5}]}, "alpha: found 0.5 for a background, which has none"),
        ({"cells": [{"kind": "colour", "dilate_px": 5}]}, "dilate_px: found 5 for a colour, which has none"),
    ],
)
def test_settings_without_a_use_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as told:
        spec_of(**fields)
    assert message in str(told.value)
