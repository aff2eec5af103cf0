"""An output of edits that another recipe began, and in which nothing was made."""

import json
from pathlib import Path

import pytest

from gen.sampler import batch_curve
from gen.sampler.batch_curve import CROWDED, Curve
from shards.disk.layout import RUN
from tests.support.killed import leave_claims_alone
from tests.support.small_edits import edit, recipe_of, write_classes, write_real

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_it_keeps_no_batch_of_the_recipe_that_began_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    body = recipe_of(write_real(tmp_path / "real"), write_classes(tmp_path / "c.csv"), {"kind": "perturb", "gamma": 0})
    batches = []
    for steps, batch in ((4, 3), (8, 2)):
        monkeypatch.setattr(batch_curve, "_measure", lambda *arguments, batch=batch: Curve({batch: 1.0}, CROWDED))
        sampler = {"batch": "auto", "steps": steps, "device": "cpu"}
        assert edit(body, tmp_path / "out", sampler=sampler).exit_code == 0
        batches.append(json.loads((tmp_path / "out" / RUN).read_text())["identity"]["sampler"]["batch"])
        for file in (tmp_path / "out").glob("0*"):
            file.unlink()
    assert batches == [3, 2]


def test_it_is_not_begun_anew_beside_a_shard_that_a_killed_run_has_claimed(tmp_path: Path) -> None:
    body = recipe_of(write_real(tmp_path / "real"), write_classes(tmp_path / "c.csv"), {"kind": "perturb", "gamma": 0})
    assert edit(body, tmp_path / "out").exit_code == 0
    leave_claims_alone(tmp_path / "out")
    with pytest.raises(ValueError, match=r"was made by another recipe or from other data \(sampler.steps: 4 before, 8"):
        edit(body, tmp_path / "out", sampler={"steps": 8})
    assert edit(body, tmp_path / "out").made_units == 0, "the claims are carried out"
