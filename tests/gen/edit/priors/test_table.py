"""VariReal's tables of settings, cell by cell, as METHODS.md has them."""

import pytest

from gen.edit.attributes.attribute import ATTRIBUTE_KINDS
from gen.edit.priors.table import TASKS, Task, edit_cell


@pytest.mark.parametrize(
    ("task", "guidance", "strength", "dilation_px"),
    [("pets", 40, 0.99, 120), ("aircraft", 7.5, 0.95, 50), ("cars", 7.5, 0.90, 25), ("other", 7.5, 0.80, 0)],
)
@pytest.mark.parametrize("feasible", [True, False])
def test_a_background_edit(task: Task, guidance: float, strength: float, dilation_px: int, feasible: bool) -> None:
    cell = edit_cell(task, "background", feasible)
    assert (cell.guidance, cell.steps, cell.strength, cell.dilation_px) == (guidance, 30, strength, dilation_px)
    assert cell.alpha is cell.ip_scale is None


@pytest.mark.parametrize(
    ("task", "feasible", "guidance", "strength", "alpha"),
    [
        ("pets", True, 12, 0.30, 0.30),
        ("pets", False, 12, 0.30, 0.50),
        ("aircraft", True, 12, 0.80, 0.60),
        ("aircraft", False, 12, 0.80, 0.65),
        ("cars", True, 30, 0.85, 0.60),
        ("cars", False, 30, 0.85, 0.60),
    ],
)
def test_a_colour_edit(task: Task, feasible: bool, guidance: float, strength: float, alpha: float) -> None:
    cell = edit_cell(task, "colour", feasible)
    assert (cell.guidance, cell.steps, cell.strength, cell.alpha) == (guidance, 20, strength, alpha)
    assert cell.dilation_px is None


@pytest.mark.parametrize(
    ("task", "feasible", "guidance", "strength", "alpha"),
    [
        ("pets", True, 12, 0.30, 0.50),
        ("pets", False, 12, 0.30, 0.40),
        ("aircraft", True, 8, 0.65, 0.50),
        ("aircraft", False, 8, 0.30, 0.65),
        ("cars", True, 30, 0.65, 0.65),
        ("cars", False, 8, 0.30, 0.65),
    ],
)
def test_a_texture_edit(task: Task, feasible: bool, guidance: float, strength: float, alpha: float) -> None:
    cell = edit_cell(task, "texture", feasible)
    assert (cell.guidance, cell.steps, cell.strength, cell.alpha) == (guidance, 20, strength, alpha)
    assert cell.dilation_px is None


@pytest.mark.parametrize(
    ("task", "colour", "feasible_texture", "infeasible_texture"),
    [("pets", 0.7, 0.2, 0.5), ("aircraft", 0.4, 0.65, 0.4), ("cars", 0.4, 0.65, 0.4), ("other", 0.4, 0.4, 0.4)],
)
def test_the_scale_of_the_ip_adapter(
    task: Task, colour: float, feasible_texture: float, infeasible_texture: float
) -> None:
    assert edit_cell(task, "colour", True).ip_scale == edit_cell(task, "colour", False).ip_scale == colour
    assert edit_cell(task, "texture", True).ip_scale == feasible_texture
    assert edit_cell(task, "texture", False).ip_scale == infeasible_texture


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", ATTRIBUTE_KINDS)
@pytest.mark.parametrize("feasible", [True, False])
def test_every_cell_can_be_run(task: Task, kind: str, feasible: bool) -> None:
    cell = edit_cell(task, kind, feasible)  # type: ignore[arg-type]
    assert 0 < cell.strength <= 1
    assert int(cell.steps * cell.strength) >= 1
    assert cell.guidance > 1
    assert (cell.alpha is None) == (cell.ip_scale is None) == (kind == "background")
    assert (cell.dilation_px is None) == (kind != "background")
