"""The process between one that may be killed and its child: `python -m cluster.process.supervisor PROGRAM ARGUMENT...`.

In: a command. Out: its exit code, or its signal. On disk: nothing. Knows only the standard library, so it starts at
once.

When an actor ends, Ray kills its children with SIGKILL. What it started with `cluster.process.supervised` is a
grandchild: whatever ends the keeper or its parent becomes SIGTERM for the program, which saves and ends. A SIGTERM for
the keeper is one for the program.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

_LIBC = ctypes.CDLL(None)  # loaded here, because after a fork nothing should be
_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """In a child, before its program starts: the kernel shall send it SIGTERM when its parent dies."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


def main(command: Sequence[str]) -> int:
    child: subprocess.Popen[bytes] | None = None
    asked = False

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if not asked and child is not None:  # a second one would tell the program not to wait for its own end
            child.send_signal(signal.SIGTERM)
        asked = True

    signal.signal(signal.SIGTERM, pass_on)
    child = subprocess.Popen(command, preexec_fn=end_with_parent)
    if asked:
        child.send_signal(signal.SIGTERM)
    with contextlib.suppress(ChildProcessError):  # `send_signal` looks first, and may have taken the end already
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
