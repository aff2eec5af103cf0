"""One SLURM for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.slurm_site import Site, slurm_site, why_not


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if reason := why_not():
        pytest.skip(reason)
    with slurm_site(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def work(site: Site, tmp_path: Path) -> Path:
    """An empty folder to start from; no job is there before."""
    site.wait(site.is_idle, 60, "an empty queue")
    return tmp_path
