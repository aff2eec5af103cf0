"""The real img2dataset, where `make tools` has set it up, and what tests need around it."""

import contextlib
import re
from pathlib import Path

import pytest

from retrieve.download.program import find_program
from retrieve.download.spec import DownloadSpec


def _is_there() -> bool:
    try:
        find_program(DownloadSpec())
    except ValueError:
        return False
    return True


needs_img2dataset = pytest.mark.skipif(not _is_there(), reason="no img2dataset here; run `make tools`")


def started_by(pid: int) -> list[int]:
    """The living processes of img2dataset that this process, alive or not, has started: their folder bears its pid."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_zombie = (folder / "stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z"
            told = re.search(rb"HOME=\S*/sixfold-download-[0-9a-f]+-(\d+)-", (folder / "environ").read_bytes())
            if told is not None and int(told[1]) == pid and not is_zombie:
                found.append(int(folder.name))
    return found
