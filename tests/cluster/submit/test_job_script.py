"""The script of a SLURM job, run by bash: how its step ended decides whether it is queued again, and as what."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.process.lives import begin
from cluster.recipes.site import SiteSpec
from cluster.submit.call import Call, Verb
from cluster.submit.node import run_node
from cluster.submit.slurm_script import slurm_script
from shards.disk.home import home
from shards.disk.store import FolderStore

# srun(1) and all its processes, each a `sixfold node`: warns the script, and ends with the highest of their codes
SRUN = """#!{python}
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {home!r})
import cluster.submit.node as node

os.kill(os.getppid(), signal.SIGUSR1)
time.sleep(0.2)  # until the script has heard it
words = sys.argv[sys.argv.index("node") + 1 :]
mode, meeting, out = words[0], Path(words[words.index("--meeting") + 1]), words[words.index("--out") + 1]
codes, node.STARTS, node.LOOK_S = {codes!r}, 1, 0.05

class Ray:
    def __init__(self, *_):
        self.lives = codes[int(os.environ["SLURM_PROCID"])] != "no ray"
    def __enter__(self):
        return self
    def __exit__(self, *_):
        pass

node._Ray, node._start_head = Ray, lambda *_: (Ray(), "127.0.0.1:1")
children = []
for rank, code in enumerate(codes):
    if child := os.fork():
        children.append(child)
        continue
    number = str(rank)
    os.environ.update(SLURM_PROCID=number, SLURM_NODEID=number, SLURM_STEP_NUM_NODES="1")
    if code == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    pause = 0.3 if rank == 0 and mode == "ray" else 0
    program = ["sh", "-c", f"sleep {{pause}}; exit {{code}}"]
    os._exit(node.run_node(mode, meeting, Path("/tmp"), out, program, dict(os.environ)))
ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
sys.exit(max(end if end >= 0 else 128 - end for end in ends))
"""


class Job:
    """A job script in a folder of its own, with commands of SLURM that note how they are called."""

    def __init__(self, folder: Path, codes: list[str], verb: Verb = "train", **site: object) -> None:
        self.folder, self.out = folder / "job", folder / "out"
        self.out.mkdir()
        self.bin = folder / "bin"
        self.bin.mkdir()
        (self.bin / "srun").write_text(SRUN.format(python=sys.executable, home=str(home()), codes=codes))
        self.command("scontrol", f'echo "scontrol $*" >> {folder}/calls')
        self.command("sbatch", f'echo "sbatch $*" >> {folder}/calls; echo "9;cluster"')
        self.command("sleep", '[ "$1" = 60 ] || exec /usr/bin/sleep "$1"')
        call = Call(verb, Path("/r.yaml"), "name", str(self.out))
        text = slurm_script(call, SiteSpec(**site), self.folder, folder, ("sixfold",)).text
        self.folder.mkdir()
        self.script = self.folder / "job.sh"
        self.script.write_text(text)
        self.calls = folder / "calls"
        for path in self.bin.iterdir():
            path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def command(self, name: str, script: str) -> None:
        (self.bin / name).write_text(f"#!/bin/bash\n{script}\n")

    def run(self, job: str = "7", restart: int = 0, **environ: str) -> tuple[int, str]:
        """The script's exit code, and how SLURM's commands were called."""
        path = f"{self.bin}:{os.environ['PATH']}"
        slurm = {"SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": str(restart), "PATH": path, **environ}
        done = subprocess.run(
            ["bash", str(self.script)], env={**os.environ, **slurm}, capture_output=True, text=True, timeout=60
        )
        self.said = done.stdout + done.stderr
        return done.returncode, self.calls.read_text() if self.calls.exists() else ""


def starts_that_got_no_further(out: Path, number: int, job: str = "7") -> None:
    for restart in range(number):
        with begin(
            FolderStore(out), f"l{restart}", "train", {"SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": str(restart)}
        ) as life:
            life.there(4, "step")
            life.at_work()
            life.ended(75, "stopped")


@pytest.mark.parametrize("mode", [{"nodes": 3}, {"how": "ray", "nodes": 3}])
def test_three_starts_that_got_no_further_end_the_chain_of_a_job_of_several_processes(
    tmp_path: Path, mode: dict[str, object]
) -> None:
    verb: Verb = "generate" if "how" in mode else "train"
    job = Job(tmp_path, ["75", "75" if verb == "train" else "no ray", "75"], verb, **mode)
    starts_that_got_no_further(job.out, 2)
    assert job.run() == (75, "scontrol requeue 7\n")
    starts_that_got_no_further(job.out, 1)
    assert job.run(restart=1) == (1, "scontrol requeue 7\n")
    assert "the last 3 starts of this job got no further" in job.said


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        (["0", "0", "0"], 0),
        (["75", "75", "75"], 75),
        (["4", "2", "4"], 2),  # a rank whose failure ended the others
        (["4", "4", "3"], 3),
        (["1", "4", "4"], 1),
        (["4", "137", "4"], 137),
        (["4", "75", "75"], 4),  # nobody knows of a cause, so nothing is queued again for ever
        (["killed", "1", "4"], 137),
        (["3", "75", "0"], 3),
    ],
)
def test_a_job_ends_as_its_first_process_or_as_the_one_that_failed(tmp_path: Path, codes: list[str], code: int) -> None:
    job = Job(tmp_path, codes, nodes=3)
    assert job.run() == (code, "scontrol requeue 7\n" if code == 75 else "")


@pytest.mark.parametrize("code", ["0", "1", "3"])
def test_a_machine_whose_ray_has_ended_does_not_decide_how_the_job_ends(tmp_path: Path, code: str) -> None:
    job = Job(tmp_path, [code, "no ray"], "generate", nodes=2)
    assert job.run() == (int(code), "")


def test_the_next_job_of_a_chain_is_known_while_it_waits(tmp_path: Path) -> None:
    job = Job(tmp_path, ["75"], chain="resubmit")
    assert job.run() == (0, f"sbatch --parsable {job.script}\n")
    assert sorted(path.name for path in (job.folder / "ids").iterdir()) == ["7", "9"]


@pytest.mark.parametrize("chain", ["requeue", "resubmit"])
def test_a_job_that_is_cancelled_after_it_was_warned_does_not_queue_itself_again(tmp_path: Path, chain: str) -> None:
    job = Job(tmp_path, ["75"], chain=chain)
    (job.folder / "cancelled").mkdir()
    (job.folder / "cancelled" / "7").touch()
    assert job.run() == (75, "")
    code, calls = job.run("8")
    assert calls != "", f"another job of the same script is none that was cancelled: {code}"


def test_tasks_of_an_array_are_known_as_one_job(tmp_path: Path) -> None:
    job = Job(tmp_path, ["75"], "generate", how="array", chain="resubmit")
    for task in (1, 2):
        job.run(str(7 + task), SLURM_ARRAY_JOB_ID="8", SLURM_ARRAY_TASK_ID=str(task))
    assert (
        job.calls.read_text() == f"sbatch --parsable --array=1 {job.script}\nsbatch --parsable --array=2 {job.script}\n"
    )
    assert sorted(path.name for path in (job.folder / "ids").iterdir()) == ["8", "9"]


def test_a_machine_that_does_not_see_the_jobs_folder_begins_nothing(tmp_path: Path) -> None:
    meeting, out = tmp_path / "out/_meta/jobs/00001/7-0", tmp_path / "out"
    environ = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_NODEID": "0"}
    with pytest.raises(ValueError, match=r"found no such folder, .* must see it .*cluster\.site\.container\.mounts"):
        run_node("array", meeting, tmp_path, str(out), ["mkdir", "--parents", str(out)], environ)
    assert list(tmp_path.iterdir()) == []
