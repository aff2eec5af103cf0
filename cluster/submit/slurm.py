"""SLURM's own commands, each with a deadline: submit, ask, cancel, and what a site looks like.

In: scripts, ids of jobs. Out: ids, states, a `SiteSpec` as YAML. On disk: nothing. A command that is missing, slow or
fails becomes one line (`JobError`).
"""

import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.process.ask import ask
from cluster.recipes.load import parse_recipe
from cluster.recipes.scalar import scalar
from cluster.recipes.site import SiteSpec
from cluster.submit.state import JobError, JobState
from cluster.waiting import waiting
from shards.disk.amounts import counted
from shards.disk.safe_text import one_line

COMMAND_S = 60.0
MOST_BYTES = 1 << 28  # of an answer: a line a task of an array
PAUSES_S = (2.0, 10.0, 30.0)  # after each try to submit: a busy controller gives no answer now and then
# then the controller may have done what it was asked for all the same
UNCLEAR = re.compile(r"[Tt]imed out|temporarily una|Unable to contact|[Cc]onnection|[Cc]ommunication", re.ASCII)
IDS_AT_ONCE = 5000  # of one question: a word of a command has at most 128 kB
STATE = "JobArrayID:40,State:30,RestartCnt:12,Reason:100"  # columns of squeue; the last one may hold blanks
SETTLED_S, LOOK_S = 6.0, 0.5  # for the controller to look at a new job; between two questions
# reasons for which a job waits for ever, and what to change; not those that pass: limits of all an account's jobs
# together (AssocGrp...), and PartitionNodeLimit, which also means that machines are down
NEVER = {
    "PartitionTimeLimit": "lower cluster.site.time to what the partition allows",
    "PartitionConfig": "the partition has no machine with what is asked for; look at cores and GPUs of `sinfo --long`",
    "BadConstraints": "no machine has what is asked for; lower cluster.site.cpus_per_node or gpus_per_node",
    "InvalidAccount": "correct cluster.site.account",
    "InvalidQOS": "correct cluster.site.qos",
    "AssocMaxNodePerJobLimit": "your account has fewer machines a job; lower cluster.site.nodes",
    "AssocMaxWallDurationPerJobLimit": "your account has shorter jobs; lower cluster.site.time",
    "QOSMaxNodePerJobLimit": "the quality of service has fewer machines a job; lower cluster.site.nodes",
    "QOSMaxWallDurationPerJobLimit": "the quality of service has shorter jobs; lower cluster.site.time",
}


def submit(script: Path, options: Sequence[str] = (), known: Sequence[str] = ()) -> str:
    """Hand a script to SLURM; the id of its job. Where no answer comes, the job is looked for by its script before it
    is sent again; `known`: jobs of the same script that are there already. Raises JobError, `unclear` if the job may be
    there all the same."""
    lost, may_send = JobError(""), True
    for pause_s in PAUSES_S:
        if may_send:
            try:
                return _id_in(_run(["sbatch", "--parsable", *options, str(script)], "submitting the job to SLURM"))
            except JobError as error:
                if not error.unclear:
                    raise
                lost = error
        time.sleep(pause_s)
        try:
            new = [job for job in ids_of(script) if job not in known]
        except JobError:
            may_send = False  # nobody knows what is there
            continue
        if new:
            return new[-1]
        may_send = True
    raise JobError(f"{lost}; SLURM may have taken it all the same: `sixfold status` looks for it", unclear=True)


def _id_in(answer: str) -> str:
    """The id in what sbatch says, on its last line; a site's own sbatch may say more before. Raises JobError."""
    number = (answer.strip().splitlines() or [""])[-1].partition(";")[0]
    if not number.isdecimal():
        raise JobError(f"sbatch: found {one_line(answer, 80)!r} as its answer, expected the id of a job", unclear=True)
    return number


def ids_of(script: Path) -> list[str]:
    """Jobs of this user that run the script, oldest first; an array is one. Raises JobError."""
    words = ["squeue", "--noheader", "--all", "--states=all", f"--user={os.getuid()}", "--format=%F %o"]
    rows = (row.partition(" ") for row in _run(words, "looking for the job").splitlines())
    return sorted({number for number, _, command in rows if command == str(script) and number.isdecimal()}, key=int)


def why_never(job: str, within_s: float = SETTLED_S) -> str:
    """Why the job would wait for ever, as SLURM says within the time; "" if it says nothing of the kind."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            found = states([job])
        except JobError:  # the job is there, and nobody can tell
            return ""
        reasons = {one.reason for one in found if one.state == "PENDING"}
        if never := sorted(reasons & NEVER.keys()):
            return f"{never[0]}: {NEVER[never[0]]}"
        if not found or reasons - {"", "None"} or any(one.state != "PENDING" for one in found):
            return ""
        if time.monotonic() > deadline:
            return ""
        time.sleep(LOOK_S)


def states(ids: Sequence[str]) -> list[JobState]:
    """What SLURM knows of the jobs, of each task of an array once; one that it has forgotten has none. One question,
    however many tasks they have. Raises JobError."""
    found: dict[str, JobState] = {}
    deadline = time.monotonic() + COMMAND_S  # of all of them
    for start in range(0, len(ids), IDS_AT_ONCE):
        jobs = ",".join(ids[start : start + IDS_AT_ONCE])
        words = ["squeue", "--noheader", "--all", "--array", "--states=all", f"--jobs={jobs}", f"--Format={STATE}"]
        try:
            text = _run(words, f"asking SLURM for {counted(len(ids), 'job')}", deadline - time.monotonic())
        except JobError as error:
            if "Invalid job id" in str(error):  # it says so of one alone
                continue
            raise
        rows = (row.split(None, 3) for row in text.splitlines())
        found |= {row[0]: _state_of(row) for row in rows if len(row) >= 3}
    return list(found.values())


def cancel(ids: Sequence[str]) -> None:
    """End the jobs; one that has ended already is no mistake. Raises JobError."""
    deadline = time.monotonic() + COMMAND_S
    for start in range(0, len(ids), IDS_AT_ONCE):
        jobs = ids[start : start + IDS_AT_ONCE]
        try:
            _run(["scancel", *jobs], f"cancelling {counted(len(ids), 'job')}", deadline - time.monotonic())
        except JobError as error:
            if "Invalid job id" not in str(error):
                raise


def describe_site() -> str:
    """The text of a `site.yaml` for this site, from what its controller says, which `SiteSpec` takes. Raises JobError,
    and RecipeError for a site whose names we cannot write."""
    config = _run(["scontrol", "show", "config"], "asking SLURM for its settings")
    rows = _run(["sinfo", "--noheader", "--format=%P|%l|%D|%c|%G|%a"], "asking SLURM for its partitions")
    partitions = [line.split("|") for line in rows.splitlines() if line.count("|") == 5]
    usable = [one for one in partitions if one[5] == "up"]
    if not usable:
        raise JobError("sinfo: found no partition that is up, expected one that you may use; ask the site's support")
    default = next((one for one in usable if one[0].endswith("*")), usable[0])
    with_gpus = [one for one in usable if "gpu" in one[4]]
    chosen = default if not with_gpus or "gpu" in default[4] else with_gpus[0]
    gpus = re.search(r"gpu(?::([A-Za-z0-9_.-]+))?:(\d+)", chosen[4])
    settings = dict(re.findall(r"^(\w+)\s*=\s*(\S*)", config, re.MULTILINE))
    lines = [
        "# What jobs of this site need: written by `sixfold submit --init`, to be changed by hand.",
        "# A recipe may say otherwise below cluster.site; docs/recipes.md has all fields.",
        "#",
        "# partition        time limit  machines  cores  GPUs",
        *(
            f"# {name:<16} {limit:>11} {number:>9} {cores:>6}  {what}{'' if state == 'up' else f'  ({state})'}"
            for name, limit, number, cores, what, state in partitions
        ),
        "",
        f"partition: {scalar(chosen[0].rstrip('*'))}",
        f"time: {scalar(_time_of(chosen[1]))}",
        f"nodes: 1  # {chosen[2]} are there",
        f"gpus_per_node: {gpus[2] if gpus else 0}",
        *([f"gpu_option: {scalar(f'--gres=gpu:{gpus[1]}:{{gpus}}')}"] if gpus and gpus[1] else []),
        f"cpus_per_node: {re.sub('[^0-9]', '', chosen[3]) or 'null'}",
        f"max_array: {_array_of(settings.get('MaxArraySize', ''))}",
        f"chain: {'requeue' if settings.get('JobRequeue', '1') != '0' else 'resubmit'}",
        "# account: who pays, if the site asks for it",
        "# setup: [module load python]",
        "# container: {kind: apptainer, image: /path/to/sixfold.sif}",
        "# price_per_gpu_hour: 2.5",
    ]
    text = "\n".join(lines) + "\n"
    parse_recipe(text.encode(), SiteSpec, "what SLURM says of this site")
    return text


def _time_of(limit: str) -> str:
    """A job's time: the partition's limit, at most a day."""
    whole = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit)
    if whole is None or int(whole[1] or 0) >= 1:
        return "24:00:00"
    return f"{int(whole[2] or 0):02d}:{int(whole[3]):02d}:{int(whole[4]):02d}"


def _array_of(size: str) -> int:
    """`MaxArraySize` is one more than the largest index."""
    return max(1, int(size) - 1) if size.isdecimal() else 1000


def _state_of(row: Sequence[str]) -> JobState:
    number, state, restarts, *reasons = row
    reason = one_line("".join(reasons).strip(), 100)
    return JobState(number, state, "" if reason == "None" else reason, int(restarts) if restarts.isdecimal() else 0)


def _run(words: Sequence[str], what: str, within_s: float | None = None) -> str:
    """What the command prints, in at most `COMMAND_S`. Raises JobError, `unclear` if the controller gave no answer."""
    name = words[0]
    if shutil.which(name) is None:
        raise JobError(f"{name}: found no such command, expected SLURM's; run this on a login node of the site")
    with waiting(what):
        answer = ask(words, COMMAND_S if within_s is None else max(1.0, within_s), os.environ, MOST_BYTES)
    if answer.trouble:
        said = one_line(answer.complaint or answer.trouble, 300).removeprefix(f"{name}: ").removeprefix("error: ")
        advice = "; is the controller up? `scontrol ping` says; try again later" if answer.is_late else ""
        raise JobError(f"{name}: {said}{advice}", unclear=answer.is_late or UNCLEAR.search(said) is not None)
    return answer.said
