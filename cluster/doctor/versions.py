"""Versions of libraries against floors, below which they have known security holes.

In: what is installed. Out: `Check`s. On disk: reads the metadata of packages.
"""

import importlib.metadata
import re
import sys
from collections.abc import Callable, Iterator

from cluster.doctor.check import Check, check

PYTHON = (3, 11)
# Older versions have known security holes: read_webdataset unpickles (ray), weights_only can be bypassed and memory
# corrupted (torch), a JPEG can overflow a buffer (Pillow).
FLOORS = {"ray": (2, 60), "torch": (2, 10), "pillow": (13, 0, 0), "safetensors": (0, 5)}
# Not ours, but often in the same environment: a recipe of hydra can name code that it runs.
FLOORS_IF_THERE = {"hydra-core": (1, 3, 4)}


def versions(version_of: Callable[[str], str] = importlib.metadata.version) -> Iterator[Check]:
    """Python and each library with a floor. `version_of` raises PackageNotFoundError for what is not installed."""
    found = sys.version_info[:3]
    yield check("python", found >= PYTHON, ".".join(map(str, found)), f"needs {_text(PYTHON)} or newer")
    for package, floor in (FLOORS | FLOORS_IF_THERE).items():
        try:
            version = version_of(package)
        except importlib.metadata.PackageNotFoundError:
            if package in FLOORS:
                yield Check(package, "bad", "not installed", "run `make test` once: it sets up .venv")
            continue
        is_good = numbers_of(version) >= (*floor, 0, 0)[:3]
        yield check(package, is_good, version, f"needs {_text(floor)}; older ones have known security holes")


def numbers_of(version: str) -> tuple[int, ...]:
    """``"2.13.0+cu130"`` -> (2, 13, 0); a version before a release, such as 13.0.0rc1, is one before it."""
    release = re.match(r"\d+(\.\d+)*", version)
    if release is None:
        return ()
    numbers = tuple(map(int, release.group().split(".")))
    numbers += (0,) * (3 - len(numbers))
    is_before = re.match(r"[-_.]?(a|b|c|rc|alpha|beta|pre|preview|dev)", version[release.end() :], re.IGNORECASE)
    return (*numbers[:-1], numbers[-1] - 1) if is_before else numbers


def _text(floor: tuple[int, ...]) -> str:
    return ".".join(map(str, floor))
