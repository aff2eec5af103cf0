"""How a process ends: the exit codes of every command, the exceptions that end work early, and a sure end.

In: nothing. Out: numbers and exception types. On disk: nothing.
"""

import atexit
import os
import sys
from typing import NoReturn

EXIT_COMPLETE = 0
EXIT_FAILED = 1  # the run could not go on: no worker starts, every unit fails
EXIT_MISTAKE = 2  # the request cannot be carried out: a recipe, an argument or a folder is wrong
EXIT_INCOMPLETE = 3  # the run went to its end, some of its units failed
EXIT_FOLLOWED = 4  # this rank ended because another rank failed; that rank's cause and code count
EXIT_AGAIN = 75  # EX_TEMPFAIL: stopped on request; the same command continues


class Draining(Exception):
    """Raised by `beat` inside a worker: the run no longer wants this unit. Clean up, and do not catch it."""


class WorkerBroken(Exception):
    """Raised by a worker whose process must not be used again (a lost device, a corrupt CUDA context)."""


class NotAgain(Exception):
    """Raised by a worker for a unit that would fail again, however often and wherever it is tried."""


class RunFailed(Exception):
    """Raised where a run cannot go on though nothing that was asked for is wrong. `code`: how the process ends."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def leave(code: int) -> NoReturn:
    """End this process, whose work is done, with `code`: exit functions run, output is written, nothing is taken apart.

    For ranks. Gloo and autograd have threads that want the interpreter's lock while it is being taken apart; now and
    then that aborts a process whose work is done (signal 6, "terminate called without an active exception").
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
