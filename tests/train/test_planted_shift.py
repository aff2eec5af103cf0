"""Auxiliary statistics do what they are for: they take up a gap between the domains that naive mixing suffers from."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shards.disk.home import home
from train.evaluate.results import find_results
from train.report.comparison import compare

POINTS = ("naive, shift 1", "stats, shift 1", "bn, shift 1")


@pytest.mark.torture
@pytest.mark.timeout(3000)
def test_with_a_planted_shift_balance_with_statistics_of_its_own_is_not_below_naive_mixing(tmp_path: Path) -> None:
    """15 trainings of recipes/sweeps/gap.yaml on photographs, 5 seeds each; it makes its synthetic images first."""
    data, sweep = tmp_path / "out/real", tmp_path / "gap"
    base = f"base={home() / 'recipes/sandbox-train.yaml'}"
    changes = 'changes={"data.domains.1.subset": "6x", "engine.dtype": "bf16"}'
    asked = [str(home() / "recipes/sweeps/gap.yaml"), base, changes, "--points", ",".join(POINTS), "--out", str(sweep)]
    environment = {**os.environ, "PYTHONPATH": str(home())}
    for command in (["sandbox.build", "--data", str(data)], ["sixfold", "sweep", *asked]):
        said = subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, env=environment, timeout=2900)
        assert said.returncode == 0
    [found, *_] = compare(find_results([sweep]).results).sweeps
    reached = {row.label: row.cells["real-test"].accuracy for row in found.rows}
    print(reached)
    assert all(len(row.seeds) == 5 for row in found.rows)
    for point in POINTS[1:]:
        assert reached[point].value >= reached[POINTS[0]].value
