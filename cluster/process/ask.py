"""A short question to a program: its answer within a deadline, or why there is none.

In: a command, seconds, an environment. Out: an `Answer`; it never raises for what the program does. On disk: nothing.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shards.disk.safe_text import one_line

MAX_BYTES = 1 << 20  # of an answer
END_S = 5.0  # for a killed program to be gone


@dataclass(frozen=True)
class Answer:
    """What a program said. `trouble`: why that is no answer, in a few words; "" if it ended with 0. `complaint`: all
    that it said of it. `is_late`: there was no answer in time, so what was asked for may have happened all the same."""

    said: str
    trouble: str = ""
    complaint: str = ""
    is_late: bool = False


def ask(command: Sequence[str], within_s: float, environ: Mapping[str, str], most_bytes: int = MAX_BYTES) -> Answer:
    """Run the command with the whole environment `environ`. One that is slow is killed, with all that it started. Of
    what it says `most_bytes` are taken."""
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environ),
            start_new_session=True,  # what it starts is in its group, and is killed with it
        )
    except OSError as error:
        return Answer("", one_line(f"cannot be started: {error.strerror or error}", 200))
    try:
        said, complaint = child.communicate(timeout=within_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=END_S)
        return Answer("", f"no answer within {within_s:g} s", is_late=True)
    text = said[:most_bytes].decode("utf-8", "replace")
    if child.returncode == 0:
        return Answer(text)
    told = (complaint or said)[-MAX_BYTES:].decode("utf-8", "replace").strip()
    why = one_line(told.splitlines()[-1], 200) if told else "it says nothing"
    how = f"ended with {child.returncode}" if child.returncode > 0 else f"was ended by signal {-child.returncode}"
    return Answer(text, f"{how}: {why}", told)
