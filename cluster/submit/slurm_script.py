"""The script that SLURM runs for a call: plain bash that a person can read, change and submit by hand.

In: a `Call`, a `SiteSpec`, the folder of the job. Out: the text of the script, the options of each submission. On disk:
nothing.

What it does, in order: run the site's own lines; start one step (`sixfold node`, on each machine or for each rank);
pass SLURM's warning on as a file, `stop`, in the job's folder, because a signal for a step would end Ray's own
processes too; and, if the step then ended with exit code 75 ("run the same command again"), queue the job again. How
the step ended is what its first process has written into that folder (`cluster.submit.node`), not what `srun` says.
`scancel` does not: nobody was warned of a time limit.
"""

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster.process.exit import EXIT_AGAIN, EXIT_FOLLOWED
from cluster.recipes.site import SiteSpec
from cluster.submit.call import Call, whole
from shards.disk.safe_text import one_line

Mode = Literal["ray", "array", "ranks"]
REQUEUE_S = 60  # for SLURM to take a job back
IDS = "ids"  # folder in the job's own: an empty file for each id that SLURM gave; of an array's tasks, the array's
# in the folder of a life
ID = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}"
CANCELLED = "cancelled"  # folder in the job's own: an empty file for each id that is to end for good
STOP = "stop"  # its work is to end, and to be queued again
OVER, CAUSE = "over", "cause"  # exit codes: of its first process; of another one that failed by itself


@dataclass(frozen=True)
class Script:
    """A script, and how often it is to be submitted with which options."""

    text: str
    submissions: tuple[tuple[str, ...], ...]


def mode_of(call: Call, site: SiteSpec) -> Mode:
    """How the call's work is spread inside a job. A sweep has no units that tasks of an array could claim."""
    if call.verb == "train":
        return "ranks"
    return "ray" if call.verb == "sweep" else site.how


def words_of(call: Call, site: SiteSpec) -> list[str]:
    """What follows the name of the program in a job. Tasks of an array share the output; each is one worker. None of
    them draws the gallery of all."""
    shared = ["cluster.in_process=true", "cluster.shared=true", "--no-gallery"]
    return [*call.words, *(shared if mode_of(call, site) == "array" else [])]


def slurm_script(call: Call, site: SiteSpec, folder: Path, workdir: Path, program: tuple[str, ...]) -> Script:
    """The script of `call`, which is started from `workdir`. `folder`, whole, is the job's: its logs are written there,
    and its machines meet there, so all of them must see it. `program`: how sixfold is started on the machines. Raises
    ValueError for a folder that SLURM cannot name."""
    mode = mode_of(call, site)
    nodes = 1 if mode == "array" else site.nodes
    ranks = max(1, site.gpus_per_node) if mode == "ranks" else 1
    gpus = min(site.gpus_per_node, 1) if mode == "array" else site.gpus_per_node
    cores = _cores(site, mode, ranks)
    log = "%A_%a.log" if mode == "array" else "%j.log"
    head = [
        f"--job-name=sixfold-{call.name}",
        f"--nodes={nodes}",
        f"--ntasks-per-node={ranks}",
        *([f"--cpus-per-task={cores}"] if cores else []),
        *([site.gpu_option.replace("{gpus}", str(gpus))] if gpus else []),
        *(f"--{name}={value}" for name, value in _asked(site) if value),
        f"--time={site.time}",
        f"--signal B:USR1@{site.warn_s}",
        "--requeue" if site.chain == "requeue" else "--no-requeue",
        "--open-mode=append",
        f"--output={str(folder).replace('%', '%%')}/{log}",
        f"--chdir={workdir}",
        *site.options,
    ]
    step = [*_step(site, nodes, ranks, gpus, cores), *_program(site, program), "node", mode]
    lines = [
        "#!/bin/bash",
        f"# {one_line(call.line)}",
        "# written by `sixfold submit`; to continue, submit this file again, or give the same command again",
        *(f"#SBATCH {_head_word(word)}" for word in head),
        "",
        f"job={shlex.quote(str(folder))}",
        'life="$job/$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"  # the machines of this life meet there',
        f'mkdir -p "$life" "$job/{IDS}" && : > "$job/{IDS}/{ID}" || exit 1',
        *(["", "# of the site", *site.setup] if site.setup else []),
        *_token(mode),
        "",
        "warned=",
        f'asked() {{ echo "$1" >> "$life/{STOP}"; }}',
        f"trap 'warned=yes; asked SIGUSR1' USR1  # {site.warn_s} s before the time limit, or before a preemption",
        "trap 'asked SIGTERM' TERM",
        "",
        f'{whole(step)} --meeting "$life" --scratch {shlex.quote(site.scratch)} \\',
        f"  --out {shlex.quote(call.out)} -- \\",
        f"  {whole(words_of(call, site))} &",
        "step=$! code=0",
        'wait "$step" || code=$?',
        "# a signal ends `wait`, not the step",
        'while kill -0 "$step" 2>/dev/null; do code=0; wait "$step" || code=$?; done',
        "# srun tells the highest code of all processes; the first one's counts, or that of the one that ended it",
        f'[ -s "$life/{OVER}" ] && code=$(cat "$life/{OVER}")',
        f'[ "$code" = {EXIT_FOLLOWED} ] && [ -s "$life/{CAUSE}" ] && code=$(cat "$life/{CAUSE}")',
        *_again(site, folder),
        'exit "$code"',
        "",
    ]
    return Script("\n".join(lines), _submissions(site) if mode == "array" else ((),))


def _asked(site: SiteSpec) -> list[tuple[str, str | None]]:
    return [("partition", site.partition), ("account", site.account), ("qos", site.qos)]


def _cores(site: SiteSpec, mode: Mode, ranks: int) -> int:
    """Cores of each process of the step; 0 = what the site gives. Every GPU's worker has one at least; a task of an
    array has its GPU's share, and one core where there are no GPUs: it is one worker."""
    known = site.cpus_per_node or site.gpus_per_node
    if mode == "array":
        return max(1, known // site.gpus_per_node) if site.gpus_per_node else 1
    return max(1, known // ranks) if known else 0


def _head_word(word: str) -> str:
    """Of a line that SLURM itself reads: it knows quotes, and blanks end a word. Raises ValueError."""
    if any(one in '"\\\n\r' for one in word):
        raise ValueError(
            f"{one_line(word)}: expected a folder without quotes, backslashes and line breaks; "
            "SLURM cannot name this one"
        )
    name, equals, value = word.partition("=")
    return f'{name}="{value}"' if equals and any(one.isspace() for one in value) else word


def _token(mode: Mode) -> list[str]:
    """Each life of a Ray cluster has a token of its own, in the environment alone."""
    if mode != "ray":
        return []
    return ["", "export RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \\n')",
            "export RAY_AUTH_TOKEN"]  # fmt: skip


def _step(site: SiteSpec, nodes: int, ranks: int, gpus: int, cores: int) -> list[str]:
    words = ["srun", f"--nodes={nodes}", f"--ntasks={nodes * ranks}", f"--ntasks-per-node={ranks}"]
    words += ["--kill-on-bad-exit=0", "--unbuffered"]
    if cores:
        words.append(f"--cpus-per-task={cores}")
    box = site.container
    if box is None:
        return words
    if box.kind == "pyxis":
        words.append(f"--container-image={box.image}")
        return [*words, *([f"--container-mounts={','.join(box.mounts)}"] if box.mounts else [])]
    binds = [f"--bind={mount}" for mount in box.mounts]
    return [*words, "apptainer", "exec", *(["--nv"] if gpus else []), *binds, box.image]


def _program(site: SiteSpec, program: tuple[str, ...]) -> list[str]:
    return [site.container.program] if site.container else list(program)


def _again(site: SiteSpec, folder: Path) -> list[str]:
    """Queue the job again if it was warned, its work can go on and nobody has cancelled it. Otherwise the exit code
    says what is to be done."""
    if site.chain == "never":
        return []
    if site.chain == "requeue":
        send = f'timeout {REQUEUE_S} scontrol requeue "$SLURM_JOB_ID"'
        after = [f"sleep {REQUEUE_S}  # SLURM ends this script here", f"exit {EXIT_AGAIN}"]
    else:
        script = shlex.quote(str(folder / "job.sh"))
        task = "${SLURM_ARRAY_TASK_ID:+--array=$SLURM_ARRAY_TASK_ID}"
        send = f"next=$(timeout {REQUEUE_S} sbatch --parsable {task} {script})"
        after = [f': > "$job/{IDS}/${{next%%;*}}"  # known from now on, and not only when it starts', "exit 0"]
    return [
        f'if [ "$code" = {EXIT_AGAIN} ] && [ -n "$warned" ] && [ ! -e "$job/{CANCELLED}/{ID}" ]; then',
        f"  if {send}; then",
        *(f"    {line}" for line in after),
        "  fi",
        '  echo "sixfold: SLURM did not take the job again; run the same command again to continue" >&2',
        "fi",
    ]


def _submissions(site: SiteSpec) -> tuple[tuple[str, ...], ...]:
    """An array for every `max_array` tasks."""
    limit = "" if site.most_at_once is None else f"%{site.most_at_once}"
    sizes = [site.max_array] * (site.tasks // site.max_array)
    sizes += [site.tasks % site.max_array] if site.tasks % site.max_array else []
    assert sum(sizes) == site.tasks
    assert len(sizes) == math.ceil(site.tasks / site.max_array)
    return tuple((f"--array=0-{size - 1}{limit}",) for size in sizes)
