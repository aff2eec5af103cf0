"""Which code runs: a hash of our packages, and the versions of the libraries they use.

In: the checkout's root, names of libraries. Out: hex sha256, a table of versions, how two tables differ.
On disk: nothing.
"""

import hashlib
import importlib.metadata
from collections.abc import Iterable, Mapping
from pathlib import Path

PACKAGES = ("cluster", "gen", "retrieve", "shards", "train")
ROOF = "sixfold.py"


def code_hash(root: Path) -> str:
    """Hex sha256 over names and contents of the five packages' ``.py`` files and ``sixfold.py``, in sorted order."""
    digest = hashlib.sha256()
    files = [file for package in PACKAGES for file in (root / package).rglob("*.py")]
    if (root / ROOF).is_file():
        files.append(root / ROOF)
    for file in sorted(files, key=lambda file: file.relative_to(root).as_posix()):
        data = file.read_bytes()
        digest.update(f"{file.relative_to(root).as_posix()}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Name of each distribution to its version, or ``"absent"`` if it is not installed. Imports none of them."""
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def difference(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """How two tables of versions differ: ``"python 3.11.2 here, 3.12.1 there; ray …"``, or "" if they are equal."""
    names = sorted(ours.keys() | theirs.keys())
    return "; ".join(
        f"{name} {ours.get(name, 'absent')} here, {theirs.get(name, 'absent')} there"
        for name in names
        if ours.get(name) != theirs.get(name)
    )
