"""The checkout, or the installed folder, that this very code was imported from.

In: nothing. Out: a path. On disk: `recipes/`, `sandbox/` and the packages lie in it.
"""

from pathlib import Path


def home() -> Path:
    """The folder that holds the packages."""
    return Path(__file__).resolve().parents[2]
