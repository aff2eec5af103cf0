"""Where damaged files are put aside: `_meta/quarantine/NNNNNN/`.

In: a store, names, a reason. On disk: one numbered folder per incident with `reason.json` and the files under their own
names. Nothing is ever deleted here, so a person can look; the unit counts as not done, and the same `generate` remakes
it.
"""

import json
from collections.abc import Sequence

from shards.disk.layout import META
from shards.disk.store import Store

QUARANTINE = f"{META}/quarantine"
MAX_INCIDENTS = 1_000_000


def set_aside(store: Store, names: Sequence[str], reason: str) -> list[str]:
    """Move `names` (those that exist) to a fresh quarantine folder, in this order; returns their new names.

    Pass the record first: a crash in between then leaves a unit without a record, which is simply made again.
    """
    text = json.dumps({"reason": reason, "files": list(names)}, indent=4).encode() + b"\n"
    for number in range(1, MAX_INCIDENTS):
        folder = f"{QUARANTINE}/{number:06d}"
        if not store.exists(f"{folder}/reason.json") and store.write_exclusive(f"{folder}/reason.json", text):
            break
    else:
        raise ValueError(f"{store.url}/{QUARANTINE}: found {MAX_INCIDENTS} incidents; look at them and move them away")
    moved = []
    for name in names:
        new_name = f"{folder}/{name.rpartition('/')[2]}"
        try:
            store.move(name, new_name)
        except FileNotFoundError:
            continue
        moved.append(new_name)
    return moved
