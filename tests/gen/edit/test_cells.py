"""Settings by kind and side: fields, then the table, then cells."""

from typing import Any

import pytest

from gen.edit.attributes.attribute import ATTRIBUTE_KINDS
from gen.edit.cells import SETTINGS, Cell, Settings, settings_of
from gen.edit.priors.table import TASKS, Task, edit_cell
from gen.edit.recipe import AttributeEditSpec

PLAIN = Settings(strength=0.5, alpha=0.6)
TRAINED = {"kind": "inpaint", "model": "anywhere"}
CASCADE = {"kind": "cascade", "model": "here", "base": "there", "controlnet": "anywhere", "ip_adapter": "beside"}
INSTRUCT = {"kind": "instruct", "model": "anywhere"}


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
        ({"table": "pets", "editor": {**TRAINED, "steps": 77}}, "editor.steps: found 77 beside the table pets, which"),
        ({"table": "cars", "editor": {**TRAINED, "guidance": 1.5}}, "editor.guidance: found 1.5 beside the table cars"),
        ({"table": "pets", "editor": {**CASCADE, "ip_scale": 0.9}}, "editor.ip_scale: found 0.9 beside the table pets"),
        (
            {"table": "pets", "editor": TRAINED, "masks": {"order": ["otsu"], "dilate_px": 9}},
            "masks.dilate_px: found 9 beside the table pets, which has its own for backgrounds, expected 0",
        ),
        (
            {"editor": INSTRUCT, "prior": "drawn"},
            "prior: found one with the editor instruct, which has no use for it",
        ),
        ({"editor": INSTRUCT, "prior": "none"}, "prior: found one with the editor instruct"),
        ({"editor": INSTRUCT, "alpha": 0.9}, "alpha: found one with the editor instruct"),
        ({"editor": INSTRUCT, "strength": {"colour": 0.1}}, "strength: found one with the editor instruct"),
        (
            {"editor": INSTRUCT, "masks": {"order": ["otsu"], "dilate_px": 9}},
            "masks.dilate_px: found one with the editor instruct",
        ),
        (
            {"attributes": {"weights": {"colour": 2}}},
            "attributes.weights: found other ones than the defaults, but no text",
        ),
        (
            {"cells": [{"kind": "colour", "strength": 0.3}]},
            "cells.0: found colour, which is not edited, expected one of background",
        ),
        (
            {
                "attributes": {"kinds": ["colour", "texture"]},
                "cells": [{"kind": "texture", "strength": 0.3}, {"kind": "background", "strength": 0.3}],
            },
            "cells.1: found background, which is not edited, expected one of colour, texture",
        ),
        (
            {"cells": [{"kind": "background", "side": "infeasible", "strength": 0.3}]},
            "cells.0: found infeasible, which is not edited, expected feasible",
        ),
        (
            {
                "editor": {**CASCADE, "ip_adapter": None},
                "attributes": {"kinds": ["colour"]},
                "cells": [{"kind": "colour", "strength": 0.3}],
            },
            "cells.0.strength: found 0.3 with the editor cascade, expected null; without an ip_adapter it has none for",
        ),
        ({"editor": {**CASCADE, "ip_adapter": None, "ip_scale": 1.3}}, "editor.ip_scale: found 1.3 with no ip_adapter"),
        ({"attributes": {"per_class": 7}}, "attributes.per_class: found 7 with source lexicon, which has no use for"),
        ({"judge": {"kind": "none", "threshold": 0.9}}, "judge.threshold: found 0.9 with kind none, which has no use"),
        ({"judge": {"kind": "none", "budget": 9}}, "judge.budget: found 9 with kind none, which has no use for it"),
    ],
)
def test_settings_without_a_use_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as told:
        spec_of(**fields)
    assert message in str(told.value)


@pytest.mark.parametrize("editor", [TRAINED, CASCADE, INSTRUCT])
def test_the_same_settings_are_taken_where_they_have_a_use_and_so_are_defaults_that_are_written_out(
    editor: dict[str, Any],
) -> None:
    cells = [{"kind": "colour", "side": "infeasible", "guidance": 3.0}]
    attributes = {"kinds": ["background", "colour"], "feasibility": "mixed"}
    spec = spec_of(editor={**editor, "steps": 77, "guidance": 1.5}, attributes=attributes, cells=cells)
    assert AttributeEditSpec.model_validate(spec.model_dump()) == spec
    if editor is not INSTRUCT:
        fields = {"prior": "drawn", "alpha": 0.9, "strength": {"colour": 0.1}}
        spec_of(editor=editor, masks={"order": ["otsu"], "dilate_px": 9}, **fields)
        with_table = spec_of(editor=editor, table="pets")
        assert AttributeEditSpec.model_validate(with_table.model_dump()) == with_table
