"""Ratios of edits to sources: scales within scales, both sides by halves, and one side alone for a training."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import sixfold
from shards.disk.store import open_for_reading
from shards.set.manifest import read_subset
from shards.stream.index import load_index
from tests.support.small_edits import NAMES, edit, recipe_of, rows, write_classes, write_real

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCALES = (1, 2, 3, 5, 10)
SOURCES = 2  # of each class
HOW = {
    "kind": "attribute",
    "attributes": {"kinds": ["background", "colour"], "feasibility": "mixed", "lexicon": "sandbox"},
    "masks": {"order": ["otsu"]},
}


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten edits of each source; afterwards each smaller scale is asked for and makes nothing."""
    folder = tmp_path_factory.mktemp("edited")
    real, classes = write_real(folder / "real"), write_classes(folder / "classes.csv")
    body = recipe_of(real, classes, HOW)
    body["sampler"] |= {"steps": 2, "batch": 30}
    body["source"] |= {"per_class": SOURCES}
    assert edit(body, folder / "out", 10).exit_code == 0
    for scale in SCALES:
        assert edit(body, folder / "out", scale).made_units == 0
    return folder / "out"


def of_scale(edited: Path, name: str) -> list[dict[str, Any]]:
    uids = set(read_subset(open_for_reading(str(edited)), name)[0]["uid"].to_pylist())
    return [{**row, "told": json.loads(row["edit"])} for row in rows(edited) if row["uid"] in uids]


def test_each_scale_is_a_part_of_the_next_and_has_so_many_edits_of_each_source(edited: Path) -> None:
    before: set[str] = set()
    for scale in SCALES:
        made = of_scale(edited, f"{scale}x")
        assert Counter(Counter(row["url"] for row in made).values()) == {scale: SOURCES * len(NAMES)}
        now = {row["uid"] for row in made}
        assert before < now
        before = now


def test_every_scale_has_half_of_each_side_and_uses_attributes_about_equally_often(edited: Path) -> None:
    for scale in SCALES:
        for class_id in NAMES:
            made = [row for row in of_scale(edited, f"{scale}x") if row["class_id"] == class_id]
            sides = Counter(row["told"]["side"] for row in made)
            assert 0 <= sides["infeasible"] - sides["feasible"] <= 1
            for source in {row["url"] for row in made}:
                names = Counter(row["told"]["attribute"] for row in made if row["url"] == source)
                assert set(names.values()) == {1}, "there are more attributes than edits of a source"


def test_one_side_alone_out_of_twice_the_scale_is_as_many_edits_of_each_source(edited: Path) -> None:
    for name, scale, side in (("feasible-1", "2x", "feasible"), ("infeasible-5", "10x", "infeasible")):
        call = ["subset", str(edited), name, "--where", f"side={side}", "--of", scale]
        assert CliRunner().invoke(sixfold.command_line(), call).exit_code == 0
        made = of_scale(edited, name)
        assert {row["told"]["side"] for row in made} == {side}
        each = int(scale.removesuffix("x")) // 2
        assert Counter(Counter(row["url"] for row in made).values()) == {each: SOURCES * len(NAMES)}
        assert len(load_index(str(edited), name).label) == len(made)
