"""A SLURM of two machines on this one, for tests: Debian's slurm-wlm and munge, with ports and a key of its own.

Two partitions: a job of `high` takes the place of one of `low`, which is queued again. What SLURM waits two minutes for
(the start of a job that was queued again) a test may hasten.
"""

import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shards.disk.home import home

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")
START_S = 60.0
AGAIN_S = 4.0
CONF = """
ClusterName=sixfold-{name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
KillWait=10
JobRequeue=1
MaxArraySize=21
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=2 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=low Nodes=n1,n2 Default=YES MaxTime=60 State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes=n1,n2 MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
"""


class NoMachines(Exception):
    """The daemons run, and their machines do not come up: no fault of ours."""


def why_not() -> str:
    """Why no SLURM can be started here; "" if one can."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)}: install slurm-wlm and munge"
    return "" if os.geteuid() == 0 else "SLURM's daemons are started as root"


@dataclass(frozen=True)
class Site:
    """A SLURM that runs."""

    folder: Path
    since: dict[str, float] = field(default_factory=dict)  # jobs that were queued again: when that was seen

    @property
    def environ(self) -> dict[str, str]:
        """For programs that use it; the user's own settings are in `folder/settings`."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), "XDG_CONFIG_HOME": str(self.settings)}

    @property
    def settings(self) -> Path:
        """The user's folder of settings."""
        return self.folder / "settings"

    def run(self, *words: str, timeout: float = 60.0) -> str:
        """What a command prints. Raises CalledProcessError."""
        done = subprocess.run(words, env=self.environ, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def sixfold(self, *words: str, cwd: Path, code: int = 0, timeout: float = 120.0) -> str:
        """What our program prints on both streams, started in `cwd`."""
        done = subprocess.run(
            [sys.executable, str(home() / "sixfold.py"), *words],
            env=self.environ,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    def jobs(self) -> dict[str, str]:
        """Id to state, of the jobs that run or wait; tasks of an array one by one."""
        rows = self.run("squeue", "--noheader", "--array", "--format=%i %T").split("\n")
        return dict(row.split() for row in rows if row.strip())

    def wait(self, what: Callable[[], object], seconds: float, why: str, logs_in: Path = Path()) -> None:
        """Wait until `what` is true; every job that was queued again starts at once. Raises AssertionError with the
        newest lines of the logs in a folder."""
        deadline = time.monotonic() + seconds
        while not what():
            if time.monotonic() > deadline:
                logs = [f"{path}: {path.read_text()[-1500:]}" for path in sorted(logs_in.glob("*.log"))]
                raise AssertionError(f"waited {seconds:.0f} s for {why}; {self.jobs()}\n" + "\n".join(logs))
            self.hasten()
            time.sleep(0.3)

    def hasten(self) -> None:
        """Start what was queued again some seconds ago now and not in two minutes. Sooner, SLURM would take the end of
        the old start for that of the new one."""
        rows = self.run("squeue", "--noheader", "--array", "--states=PENDING", "--format=%A %r").splitlines()
        waiting = {row.partition(" ")[0] for row in rows if row.endswith(" BeginTime")}
        for number in self.since.keys() - waiting:
            del self.since[number]
        for number in waiting:
            if time.monotonic() - self.since.setdefault(number, time.monotonic()) > AGAIN_S:
                subprocess.run(
                    ["scontrol", "update", f"JobId={number}", "StartTime=now"],
                    env=self.environ,
                    capture_output=True,
                    timeout=60,
                )

    def is_idle(self) -> bool:
        """Whether no job runs or waits."""
        return not self.jobs()


@contextlib.contextmanager
def slurm_site(folder: Path) -> Iterator[Site]:
    """Start the daemons, wait until both machines are there, and end all of it."""
    site = Site(folder)
    host = socket.gethostname().partition(".")[0]
    port, first, second = _free_ports(3)
    for name in ("state", "settings"):
        (folder / name).mkdir(parents=True)
    text = CONF.format(name=secrets.token_hex(3), host=host, folder=folder, port=port, first=first, second=second)
    (folder / "slurm.conf").write_text(text)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    folder.chmod(0o755)
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "log", "pid", "seed")]
    try:
        subprocess.run(["munged", "--force", f"--socket={folder}/munge.socket", *munge], check=True, timeout=START_S)
        subprocess.run(["slurmctld"], env=site.environ, check=True, timeout=START_S)
        for node in ("n1", "n2"):
            subprocess.run(["slurmd", "-N", node], env=site.environ, check=True, timeout=START_S)
        deadline = time.monotonic() + START_S
        asks = ("sinfo", "--noheader", "--partition=low", "--format=%T %D")
        while "idle 2" not in (state := _answer(site, asks)):
            if time.monotonic() > deadline:
                raise NoMachines(
                    f"{state.strip()} after {START_S:.0f} s; {(folder / 'slurmctld.log').read_text()[-500:]}"
                )
            time.sleep(0.2)
        site.sixfold("submit", "--init", cwd=folder)
        yield site
    finally:
        with contextlib.suppress(subprocess.SubprocessError, AssertionError, OSError):
            for job in site.jobs():
                subprocess.run(["scancel", "--signal=KILL", "--full", job], env=site.environ, timeout=20)
            subprocess.run(["scontrol", "shutdown"], env=site.environ, timeout=20, capture_output=True)
        time.sleep(1.0)
        for file in folder.glob("*.pid"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(re.sub("[^0-9]", "", file.read_text())), 9)


def _answer(site: Site, words: Sequence[str]) -> str:
    """What a command prints, whether it fails or not."""
    done = subprocess.run(words, env=site.environ, capture_output=True, text=True, timeout=START_S)
    return done.stdout + done.stderr


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
