"""A folder of one process in the system's temporary folder, for what nobody else may read or find in the way.

In: a place. Out: paths. On disk: `<place>/sixfold-<random>`, mode 0700, with `owner.json`; it is removed when its owner
ends, and one whose owner was killed at the next start of another.
"""

import atexit
import dataclasses
import json
import re
import shutil
import tempfile
from pathlib import Path

from cluster.process.identity import ProcessId, alive, this_place, this_process
from shards.disk.checked_json import plain_json
from shards.disk.regular import read_regular

PREFIX = "sixfold-"
MAX_OWNER_BYTES = 10_000  # another user may have put anything there


def temporary_root() -> Path:
    """The system's temporary folder, or /tmp where its name is too long or has characters that Ray cannot take.

    Ray puts Unix sockets about 65 bytes below our folder, and a socket's path has at most 107.
    """
    usual = tempfile.gettempdir()
    return Path(usual if re.fullmatch(r"[A-Za-z0-9/._-]{1,20}", usual) else "/tmp")


def make_private_folder(where: Path) -> Path:
    """A new folder of this process in `where`; those of dead processes of this machine are removed there."""
    remove_dead_folders(where)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=where))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "owner.json").write_text(json.dumps(dataclasses.asdict(this_process())))
    return folder


def remove_dead_folders(where: Path) -> None:
    """Remove the private folders of processes that have died here."""
    for folder in where.glob(f"{PREFIX}*"):
        try:
            owner = ProcessId(**plain_json(read_regular(folder / "owner.json", MAX_OWNER_BYTES)))
        except (OSError, ValueError, TypeError):  # another user's, or still being made
            continue
        if owner.place == this_place() and not alive(owner):
            shutil.rmtree(folder, ignore_errors=True)  # another process may remove it at the same time
