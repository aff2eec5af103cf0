"""What travels with a call to machines that do not see this one's files: its recipe and the small files that it names.

In: a `Call`, the names of what the program itself brings there. Out: a `Luggage`: files, the words of the call there,
what has to be seen from there. On disk: nothing; files are looked at.

What the program ships is there already. A file of at most `LARGEST` bytes travels, with its field set to where it lies
then. A folder and a larger file do not: their fields are set to whole paths, which a shared file system has too. A
sweep names recipes that name more, so for it nothing but its own recipe travels.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from cluster.recipes.scalar import scalar
from cluster.submit.call import Call
from shards.disk.address import local_root
from shards.disk.home import home

LARGEST = 10_000_000  # bytes of a file that travels


@dataclass(frozen=True)
class Luggage:
    """Files that travel, by their names there; the words behind the program's name there; what stays here."""

    files: dict[str, Path]
    words: tuple[str, ...]
    must_see: tuple[str, ...]  # whole paths of what the call reads and writes, and that is no part of the luggage


def pack(call: Call, shipped: Collection[str], folder: str, largest: int = LARGEST) -> Luggage:
    """The luggage of `call`, which lies in `folder` there. `shipped`: names below our folder of all that is there."""
    files = {_name(0, call.recipe): call.recipe}
    changes: list[str] = []
    must_see: list[str] = []
    for field, value, path in call.named:
        below = path.relative_to(home()).as_posix() if path.is_relative_to(home()) else None
        if below is not None and any(name == below or name.startswith(f"{below}/") for name in shipped):
            there = below
        elif call.verb != "sweep" and path.is_file() and path.stat().st_size <= largest:
            name = _name(len(files), path)
            files[name] = path
            there = f"{folder}/{name}"
        else:
            there = str(path)
            must_see.append(there)
        if there != value:
            changes.append(f"{field}={scalar(there)}")
    if (root := local_root(call.out)) is not None:
        must_see.append(str(root))
    words = (call.verb, f"{folder}/{_name(0, call.recipe)}", *call.arguments, *changes, "--out", call.out)
    return Luggage({f"{folder}/{name}": path for name, path in files.items()}, words, tuple(dict.fromkeys(must_see)))


def _name(number: int, path: Path) -> str:
    """One that every system takes, and no two files share."""
    return f"{number}-{re.sub(r'[^A-Za-z0-9._-]', '_', path.name)[-100:]}"
