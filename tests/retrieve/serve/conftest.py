"""A CLIP that is loaded once, a pool, and a server of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gen.model.clip import Clip
from tests.support.served_pool import Served, load_clip, open_search, served, write_served_pool


@pytest.fixture(scope="session")
def clip() -> Clip:
    torch.set_num_threads(1)
    return load_clip()


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory, clip: Clip) -> Path:
    folder = tmp_path_factory.mktemp("pools") / "digits"
    write_served_pool(folder, clip)
    return folder


@pytest.fixture(scope="module")
def server(pool: Path, clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Without a token; nothing is blocked in it."""
    with served(open_search(pool, clip)) as one:
        yield one
