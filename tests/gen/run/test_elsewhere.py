"""The same images wherever a run goes on: other settings of the machine, and nothing left but the output."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from shards.disk.home import home

RECIPE = str(home() / "recipes/sandbox.yaml")
CHEAP = (
    *("sampler.steps=2", "prompts.kind=name", "prompts.per_class=null", "meanings.choose=none"),
    *("shards.samples_per_shard=10", "cluster.in_process=true"),
)


def generate(cwd: Path, scale: str, umask: int = 0o022, **environ: str) -> None:
    words = ("generate", RECIPE, "--scale", scale, "--out", str(cwd / "out"), "--no-gallery", *CHEAP)
    done = subprocess.run(
        [sys.executable, str(home() / "sixfold.py"), *words],
        cwd=cwd,
        env={**os.environ, **environ},
        umask=umask,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "out").glob("*.tar"))}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("expected")
    generate(folder, "0.1x")
    found = tars(folder)
    assert len(found) == 2
    return found


def test_c11_another_locale_time_zone_hash_seed_and_umask_give_the_same_bytes(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    other = {"LC_ALL": "C", "LANG": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "7"}
    generate(tmp_path, "0.1x", 0o007, HOME=str(tmp_path), **other)
    assert tars(tmp_path) == expected
    for path in (tmp_path / "out").glob("0*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o040, f"{path.name}: the group may not read it"
        assert not mode & 0o007, f"{path.name}: {mode:o}"


def test_c8_a_run_goes_on_on_a_machine_that_has_nothing_but_the_output(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    for scale in ("0.05x", "0.1x"):
        here = tmp_path / scale  # the machine of this life
        (here / "tmp").mkdir(parents=True)
        if (tmp_path / "0.05x/out").exists():
            shutil.move(tmp_path / "0.05x/out", here / "out")
            shutil.rmtree(tmp_path / "0.05x")
        generate(here, scale, TMPDIR=str(here / "tmp"), XDG_CACHE_HOME=str(here / "cache"), HOME=str(here))
    assert tars(tmp_path / "0.1x") == expected
