"""Child processes that begin warm: forked from a process that has imported the heavy libraries.

A child runs `sixfold` or one training as its own process would, and may be stopped and killed like one. But it starts
in milliseconds: torch, diffusers and our packages take about six seconds of a core to import. The process that forks
has run nothing, so no thread is lost in the fork.

In: a command's words, its environment and folder. Out: a `Child`. On disk: what the child says, in the file `said`.
"""

import contextlib
import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PRELOADED = [
    *("torch", "diffusers", "transformers", "gen.run", "gen.sampler.sampler", "gen.make.regenerate"),
    *("shards.views.gallery", "train.session.session", "sixfold", "tests.support.warm"),
]
_FORKING: Any = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(PRELOADED)


class Child:
    """A running program; the methods are those of `subprocess.Popen` that tests need."""

    def __init__(self, process: Any, said: Path) -> None:
        self._process = process
        self._said = said
        self.pid: int = process.pid

    def poll(self) -> int | None:
        """The exit code, negative for the signal that ended it; None while it runs."""
        code: int | None = self._process.exitcode
        return code

    def wait(self, timeout: float) -> int:
        """The exit code. Raises TimeoutError after `timeout` seconds."""
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise TimeoutError(f"process {self.pid} still runs after {timeout} s; it said: {self.said()[-2000:]}")
        return code

    def said(self) -> str:
        """All it has written so far to standard output and standard error, in one."""
        return self._said.read_text(encoding="utf-8", errors="replace")

    def send_signal(self, number: int) -> None:
        """As `os.kill`; nothing if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(module: str, arguments: Sequence[str], said: Path, environment: Mapping[str, str], folder: Path) -> Child:
    """`python -m module arguments`, begun in `folder` with `environment` and nothing else of this process's."""
    process = _FORKING.Process(
        target=_run, args=(module, list(arguments), str(said), dict(environment), str(folder)), daemon=False
    )
    said.touch()
    process.start()
    return Child(process, said)


def _run(module: str, arguments: list[str], said: str, environment: dict[str, str], folder: str) -> None:
    """In the child: become the program."""
    out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(out, number)
    os.close(out)
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    for number in (signal.SIGINT, signal.SIGTERM):  # as a program finds them
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    if hasattr(time, "tzset"):
        time.tzset()
    os.chdir(folder)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
