"""Which code runs: a hash of our packages, an archive of them for other machines, the versions of their libraries.

In: the folder that holds the packages, names of libraries. Out: hex sha256, a table of versions, how two tables differ.
On disk: the archive, a zip file.
"""

import hashlib
import importlib.metadata
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

PACKAGES = ("cluster", "gen", "retrieve", "shards", "train")
ROOF = "sixfold.py"
DATA_SUFFIXES = frozenset(
    {".css", ".csv", ".html", ".js", ".md", ".svg", ".txt", ".yaml"}
)  # what our code reads beside itself
RECIPES = "recipes"
SANDBOX = "sandbox"
SHIPPED_MODEL = f"{SANDBOX}/models/generator"  # what a worker can be asked for, by its name below our folder
MODEL_SUFFIXES = frozenset({".json", ".safetensors", ".txt"})


def code_hash(root: Path) -> str:
    """Hex sha256 over names and contents of the five packages' ``.py`` files and ``sixfold.py``, in sorted order."""
    digest = hashlib.sha256()
    for name, file in _named([*_inside(root, PACKAGES, frozenset({".py"})), root / ROOF], root).items():
        data = file.read_bytes()
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def write_archive(root: Path, archive: Path) -> None:
    """Write the zip file ``archive`` of what a worker needs from us, whatever else lies in ``root``.

    It holds the five packages, ``sixfold.py`` and the sandbox with its generator: code, the texts that it reads, the
    shipped model. The same files give the same bytes.
    """
    zip_files(_named(_for_workers(root), root), archive)


def program_files(root: Path) -> dict[str, Path]:
    """The files of the whole program by their names below ``root``: what a worker needs, the rest of the sandbox, the
    recipes that ship."""
    shipped = _inside(root, (SANDBOX, RECIPES), MODEL_SUFFIXES | {".jpg", ".png", ".yaml"})
    return _named([*_for_workers(root), *shipped], root)


def zip_files(files: Mapping[str, Path], archive: Path) -> None:
    """Write the zip file ``archive`` of these: name in it -> file. The same files give the same bytes."""
    with zipfile.ZipFile(archive, "w") as into:  # stored: weights do not shrink
        for name, file in sorted(files.items()):
            entry = zipfile.ZipInfo(name)  # dated 1980
            entry.external_attr = 0o644 << 16
            into.writestr(entry, file.read_bytes())


def _for_workers(root: Path) -> list[Path]:
    return [
        *_inside(root, (*PACKAGES, SANDBOX), DATA_SUFFIXES | {".py"}),
        *_inside(root, (SHIPPED_MODEL,), MODEL_SUFFIXES),
        root / ROOF,
    ]


def _inside(root: Path, folders: Iterable[str], suffixes: frozenset[str]) -> list[Path]:
    return [file for folder in folders for file in (root / folder).rglob("*") if file.suffix in suffixes]


def _named(files: Iterable[Path], root: Path) -> dict[str, Path]:
    """Those of ``files`` that are files, by their sorted names below ``root``."""
    named = {file.relative_to(root).as_posix(): file for file in files if file.is_file()}
    return dict(sorted(named.items()))


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
