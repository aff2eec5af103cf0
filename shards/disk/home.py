"""The folder that this code was imported from: a checkout, or where it is installed.

In: nothing. Out: a path. On disk: `recipes/`, `sandbox/` and the packages are in it.
"""

from pathlib import Path


def home() -> Path:
    """The folder that holds the packages."""
    return Path(__file__).resolve().parents[2]
