"""Trainings on a SLURM of two machines: ranks over both, warned, queued again, and gone on with to the same bits."""

import hashlib
from pathlib import Path

import pytest

from cluster.recipes.load import dump_recipe
from tests.support.slurm_site import Site
from tests.support.small_training import small_recipe, write_sets

STEPS = 120


def submit(site: Site, work: Path, out: str, *more: str) -> str:
    words = ("submit", "train", str(work / "small.yaml"), "--to", "slurm", "--out", out, "cluster.site.cpus_per_node=1")
    return site.sixfold(*words, *more, cwd=work)


def weights_of(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.torture
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_training_that_is_warned_under_way_goes_on_to_the_same_bits(site: Site, work: Path, nodes: int) -> None:
    write_sets(work)
    engine = {"kind": "single" if nodes == 1 else "ddp"}
    schedule = {"groups": 2, "steps": STEPS, "epoch_steps": 30}
    recipe = small_recipe(work, schedule=schedule, **{f"engine__{name}": value for name, value in engine.items()})
    (work / "small.yaml").write_text(dump_recipe(recipe))
    told = submit(site, work, "whole", f"cluster.site.nodes={nodes}")
    assert "ranks of one training" in told
    site.wait(site.is_idle, 300, "the training", work / "whole/_meta/jobs/00001")
    submit(site, work, "warned", f"cluster.site.nodes={nodes}")
    log = work / "warned/log.jsonl"
    site.wait(
        lambda: log.is_file() and len(log.read_text().splitlines()) >= 2, 300, "steps", work / "warned/_meta/jobs/00001"
    )
    (job,) = site.jobs()
    site.run("scancel", "--signal=USR1", "--batch", job)
    site.wait(site.is_idle, 300, "the training", work / "warned/_meta/jobs/00001")
    text = (work / f"warned/_meta/jobs/00001/{job}.log").read_text()
    assert "and saved; the same command goes on" in text
    assert "DUE TO JOB REQUEUE" in text
    assert weights_of(work / "warned") == weights_of(work / "whole")
