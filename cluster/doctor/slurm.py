"""SLURM: whether its commands are here and its controller answers, and what it says that matters for long runs.

In: the environment. Out: `Check`s. On disk: nothing. A command that is missing, slow or failing is a line, never a wait
beyond its deadline.
"""

import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Literal

from cluster.doctor.check import Check, check
from cluster.process.ask import ask
from shards.disk.amounts import counted
from shards.disk.safe_text import one_line

ANSWER_S = 10.0  # for each command
COMMANDS = ("sbatch", "srun", "scontrol", "squeue", "sinfo")
MOST_PARTITIONS = 10  # in one line
LEAST_KILL_S = 15  # between SIGTERM and SIGKILL: a run takes up to `cluster.drain_s`, 10, to stop
CONFIG = ("SLURM_VERSION", "JobRequeue", "KillWait", "PreemptMode")
PARTITION_FORMAT = "%P|%a|%l|%D|%G"  # name, up or down, time limit, nodes, GPUs and the like


def slurm(environ: Mapping[str, str], within_s: float = ANSWER_S) -> Iterator[Check]:
    """Nothing is bad where there is no SLURM, unless this is one of its jobs."""
    found = {name: shutil.which(name, path=environ.get("PATH")) for name in COMMANDS}
    there = {name: path for name, path in found.items() if path is not None}
    is_job = "SLURM_JOB_ID" in environ
    otherwise: Literal["bad", "note"] = "bad" if is_job else "note"
    if not there:
        advice = "this is a SLURM job, so load the module or mount the folder of its commands"
        yield check("SLURM", not is_job, "none of its commands is here", advice)
        return
    missing = [name for name in COMMANDS if name not in there]
    said = f"no {', no '.join(missing)}" if missing else ", ".join(COMMANDS)
    yield check("SLURM commands", not missing, said, "load SLURM's module, or mend PATH", otherwise)
    if "scontrol" in there:
        pinged = ask([there["scontrol"], "ping"], within_s, environ)
        wrong = pinged.trouble or ("" if re.search(r"\bis UP\b", pinged.said) else one_line(pinged.said, 200))
        advice = "ask the administrators, or try later: nothing can be submitted, requeued or looked up now"
        yield check("SLURM controller", not wrong, wrong or one_line(pinged.said, 200), advice, otherwise)
        if wrong:
            return
        yield from _config(there["scontrol"], within_s, environ)
    if "sinfo" in there:
        yield _partitions(there["sinfo"], within_s, environ)


def _config(scontrol: str, within_s: float, environ: Mapping[str, str]) -> Iterator[Check]:
    answer = ask([scontrol, "show", "config"], within_s, environ)
    if answer.trouble:
        yield Check("SLURM settings", "note", f"scontrol show config: {answer.trouble}", "look at it by hand")
        return
    told = dict(re.findall(r"^(\w+)[ \t]*=[ \t]*(.*?)[ \t]*$", answer.said, re.MULTILINE))
    found = ", ".join(f"{name} {one_line(told[name], 60)}" for name in CONFIG if name in told)
    advice = []
    if told.get("JobRequeue") == "0":
        advice.append("submit with --requeue, or a preempted job does not come back")
    kill = re.match(r"\d+", told.get("KillWait", ""))
    if kill is not None and int(kill.group()) < LEAST_KILL_S:
        advice.append("submit with --signal=B:USR1@120: the time between SIGTERM and SIGKILL is short")
    yield check("SLURM settings", not advice, found or "it names none that we know", "; ".join(advice), "note")


def _partitions(sinfo: str, within_s: float, environ: Mapping[str, str]) -> Check:
    answer = ask([sinfo, "--noheader", f"--format={PARTITION_FORMAT}"], within_s, environ)
    name = "SLURM partitions"
    if answer.trouble:
        return Check(name, "note", f"sinfo: {answer.trouble}", "look at it by hand; name one with --partition")
    rows = [parts for line in answer.said.splitlines() if len(parts := line.strip().split("|")) == 5]
    words = []
    for partition, state, limit, nodes, has in rows[:MOST_PARTITIONS]:
        number = counted(int(nodes), "node") if nodes.isascii() and nodes.isdecimal() else nodes
        gpus = "" if has in ("(null)", "") else f", {has}"
        words.append(one_line(f"{partition} ({state}, {limit}, {number}{gpus})", 120))
    more = f" and {len(rows) - MOST_PARTITIONS} more" if len(rows) > MOST_PARTITIONS else ""
    is_up = any(parts[1] == "up" for parts in rows)
    return check(name, is_up, f"{', '.join(words) or 'none'}{more}", "none is up: ask the administrators", "note")
