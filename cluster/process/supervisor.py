"""A small process between a program and the one that started it, so that the program can save when its starter dies.

When an actor ends, Ray kills its children with SIGKILL. A program started with `start_supervised` is a grandchild: its
supervisor (`python -m cluster.process.supervisor PROGRAM ARGUMENT...`) turns the end of either process above it into
SIGTERM for the program, which saves and ends. SIGTERM for the supervisor is passed on.

In: a command, its folder, its environment. Out: the program's exit code, or its signal. On disk: nothing.
Imports only the standard library, so the supervisor starts at once.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

_LIBC = ctypes.CDLL(None)  # loaded here, because nothing should be loaded after a fork
_PR_SET_PDEATHSIG = 1


def start_supervised(
    command: Sequence[str],
    home: Path,
    start_in: Path,
    environment: Mapping[str, str],
    stdout: IO[bytes],
    stderr: IO[bytes] | int,
) -> "subprocess.Popen[bytes]":
    """Start `command` in the folder `start_in` under a supervisor; returns the supervisor.

    The supervisor leads a session of its own and ends with the command's exit code. When the thread that called this
    function ends, the command gets SIGTERM. `environment` is the whole environment; `home`, the checkout, is put in
    front of its PYTHONPATH. Raises OSError if the supervisor cannot be started.
    """
    paths = [str(home), *(path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path)]
    return subprocess.Popen(
        [sys.executable, "-S", "-P", "-m", "cluster.process.supervisor", *command],
        cwd=start_in,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env={**environment, "PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,  # a terminal's Ctrl-C reaches the driver only, which then asks the command to stop
        preexec_fn=end_with_parent,
    )


def end_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent dies. Runs in a child, before its program starts."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


def main(command: Sequence[str]) -> int:
    """Run `command`, pass SIGTERM on to it once, and return its exit code; a signal that ended it ends this process."""
    child: subprocess.Popen[bytes] | None = None
    asked = False

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if not asked and child is not None:  # a second SIGTERM would tell the program not to save
            child.send_signal(signal.SIGTERM)
        asked = True

    signal.signal(signal.SIGTERM, pass_on)
    child = subprocess.Popen(command, preexec_fn=end_with_parent)
    if asked:
        child.send_signal(signal.SIGTERM)
    with contextlib.suppress(ChildProcessError):  # `send_signal` polls first, and may have collected the exit code
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    code = child.poll()
    assert code is not None, "it has ended"
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
