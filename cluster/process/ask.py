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
    """What a program said. `trouble`: why that is no answer, in a few words; "" if it ended with 0."""

    said: str
    trouble: str = ""


def ask(command: Sequence[str], within_s: float, environ: Mapping[str, str]) -> Answer:
    """Run the command with the whole environment `environ`. One that is slow is killed, with all that it started."""
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
        return Answer("", f"no answer within {within_s:g} s")
    text = said[:MAX_BYTES].decode("utf-8", "replace")
    if child.returncode == 0:
        return Answer(text)
    lines = (complaint or said)[-MAX_BYTES:].decode("utf-8", "replace").strip().splitlines()
    why = one_line(lines[-1], 200) if lines else "it says nothing"
    how = f"ended with {child.returncode}" if child.returncode > 0 else f"was ended by signal {-child.returncode}"
    return Answer(text, f"{how}: {why}")
