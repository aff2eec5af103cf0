"""One SLURM for all tests of this folder."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.slurm_site import NoMachines, Site, slurm_site, why_not


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if reason := why_not():
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(slurm_site(tmp_path_factory.mktemp("slurm")))
        except (subprocess.SubprocessError, OSError, NoMachines) as error:
            pytest.skip(f"SLURM's daemons do not run here: {error}")
        yield running


@pytest.fixture
def work(site: Site, tmp_path: Path) -> Path:
    """An empty folder to start from; no job is there before."""
    site.wait(site.is_idle, 60, "an empty queue")
    return tmp_path
