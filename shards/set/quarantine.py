"""The quarantine of damaged files: `_meta/quarantine/NNNNNN/`.

In: a store, names, a reason. Out: the new names. On disk: one numbered folder per incident, with `reason.json` and the
files under their own names. Nothing is ever deleted, so a person can look. The unit counts as not done, and the same
`generate` makes it again.
"""

import json
import re
from collections.abc import Sequence

from shards.disk.layout import META
from shards.disk.store import Store

QUARANTINE = f"{META}/quarantine"
MAX_INCIDENTS = 1_000_000
_NUMBER = re.compile(r"[0-9]{6}")


def incidents(store: Store) -> list[str]:
    """The folders of all incidents; others that lie among them are not ours."""
    return [name for name in store.folders(f"{QUARANTINE}/") if _NUMBER.fullmatch(name.rpartition("/")[2])]


def set_aside(store: Store, names: Sequence[str], reason: str) -> list[str]:
    """Move the files that exist to a new quarantine folder, in this order; returns their new names.

    Give the record first: after a crash in between, the unit has no record and is made again.
    """
    text = json.dumps({"reason": reason, "files": list(names)}, indent=4).encode() + b"\n"
    last = max((int(name.rpartition("/")[2]) for name in incidents(store)), default=0)
    for number in range(last + 1, MAX_INCIDENTS):
        folder = f"{QUARANTINE}/{number:06d}"
        if not store.exists(f"{folder}/reason.json") and store.write_exclusive(f"{folder}/reason.json", text):
            break
    else:
        raise ValueError(f"{store.url}/{QUARANTINE}: found {last:,} incidents; look at them and move them away")
    moved = []
    for name in names:
        new_name = f"{folder}/{name.rpartition('/')[2]}"
        try:
            store.move(name, new_name)
        except FileNotFoundError:
            continue
        moved.append(new_name)
    return moved
