"""Programs that outlive the process that started them by as long as they need to save: see
`cluster.process.supervisor`.

In: a command, where it starts, what its environment is. Out: its keeper, as a `Popen`; the last line of what it said.
On disk: what the command writes.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO

from cluster.process.supervisor import end_with_parent
from shards.disk.safe_text import one_line

TEXT_BYTES = 65_536  # of output read at a time


def start_kept(
    command: Sequence[str],
    home: Path,
    start_in: Path,
    environment: Mapping[str, str],
    stdout: IO[bytes],
    stderr: IO[bytes] | int,
) -> "subprocess.Popen[bytes]":
    """Start `command` in the folder `start_in`, with modules from the checkout `home`, behind a keeper.

    The keeper leads a session of its own, has the command's exit code, and passes SIGTERM on. When the thread that
    called this is gone the command gets SIGTERM. `environment` is all of it but for PYTHONPATH, which `home` leads.
    Raises OSError if it cannot be started.
    """
    paths = [str(home), *(path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path)]
    return subprocess.Popen(
        [sys.executable, "-S", "-P", "-m", "cluster.process.supervisor", *command],
        cwd=start_in,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env={**environment, "PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,  # a terminal's Ctrl-C is for the driver, which asks for the end
        preexec_fn=end_with_parent,
    )


def last_line(file: BinaryIO) -> str:
    """The last line with anything on it, without escapes and controls; "" if there is none."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - TEXT_BYTES))
    lines = [shown_line(line) for line in file.read().split(b"\n")]
    return next((line for line in reversed(lines) if line), "")


def shown_line(line: bytes) -> str:
    """A line of a program's output as text that a terminal may show."""
    return one_line(line.decode("utf-8", "replace"))
