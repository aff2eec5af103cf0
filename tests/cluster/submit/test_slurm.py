"""SLURM's commands that are missing, slow, refuse or babble: one line each, nothing lost, nothing submitted twice."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.process.stop_flag import StopFlag
from cluster.recipes.site import SiteSpec, load_site, site_file
from cluster.submit import slurm
from cluster.submit.book import Book
from cluster.submit.call import Call, Target
from cluster.submit.cost import Rate, cost_lines
from cluster.submit.slurm import describe_site, states
from cluster.submit.state import JobError, JobState
from cluster.submit.submit import cancel_jobs, jobs_of, run_here, submit_slurm, told_jobs

Fake = Callable[..., None]
SHOW = "JobId=7 JobName=x JobState={state} Reason={reason} Restarts={restarts}"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts a program of a name on the path, which runs a script; each call of it stands in `calls`. No other command
    of SLURM is found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm, "SETTLED_S", 0.3)
    for name in ("sbatch", "scontrol", "scancel", "squeue", "sinfo"):
        program(folder / name, "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1")

    def make(name: str, script: str) -> None:
        program(folder / name, f'echo "$0 $*" >> {tmp_path}/calls\n{script}')

    return make


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def call_of(tmp_path: Path) -> Call:
    return Call("generate", tmp_path / "r.yaml", "name", str(tmp_path / "out"), ("--scale", "1x"))


def test_a_job_is_known_by_its_output(fake: Fake, tmp_path: Path) -> None:
    fake("sbatch", "echo '7;cluster'")
    fake("scontrol", f"echo '{SHOW.format(state='PENDING', reason='Priority', restarts=2)}'")
    said: list[str] = []
    receipt = submit_slurm(call_of(tmp_path), SiteSpec(), said.append)
    assert said == [f"job 7: 1 machine, Ray over its machines; logs in {tmp_path}/out/_meta/jobs/00001"]
    assert receipt.ids == ("7",)
    script = tmp_path / "out/_meta/jobs/00001/job.sh"
    assert f"sbatch --parsable {script}\n" in (tmp_path / "calls").read_text()
    assert "generate" in script.read_text()
    (job,) = jobs_of(Book.of(str(tmp_path / "out")))
    assert job.told == "job 7 of SLURM is pending (Priority), queued again 2 times"
    assert told_jobs(str(tmp_path / "out")) == [job.told]
    fake("scancel", "true")
    assert cancel_jobs(str(tmp_path / "out"), said.append) == 1
    assert "scancel 7" in (tmp_path / "calls").read_text()


def test_a_job_that_lives_is_not_submitted_again_and_one_that_is_over_is(fake: Fake, tmp_path: Path) -> None:
    fake("sbatch", "echo 7")
    fake("scontrol", f"echo '{SHOW.format(state='RUNNING', reason='None', restarts=0)}'")
    submit_slurm(call_of(tmp_path), SiteSpec(), print)
    with pytest.raises(ValueError, match="job 7 of SLURM is running; wait for it, or end it with `sixfold cancel"):
        submit_slurm(call_of(tmp_path), SiteSpec(), print)
    fake("scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    fake("sbatch", "echo 8")
    assert submit_slurm(call_of(tmp_path), SiteSpec(), print).number == 2
    assert [receipt.ids for receipt in Book.of(str(tmp_path / "out")).receipts()] == [("7",), ("8",)]


@pytest.mark.parametrize(
    ("script", "line"),
    [
        (
            "echo 'sbatch: error: Batch job submission failed: Invalid account' >&2; exit 1",
            "sbatch: Batch job .*account",
        ),
        ("echo hello", "sbatch: found 'hello' as its answer, expected the id of a job"),
        ("printf 'a\\033[31mb\\nc' >&2; exit 3", r"sbatch: a.*b"),
        ("exit 4", "sbatch: ended with 4: it says nothing"),
        ("sleep 30", "sbatch: no answer within 1 s; is the controller up"),
    ],
)
def test_c5_a_submission_that_fails_is_one_line_and_leaves_no_job(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, line: str
) -> None:
    monkeypatch.setattr(slurm, "COMMAND_S", 1.0)
    fake("sbatch", script)
    with pytest.raises(JobError, match=line) as error:
        submit_slurm(call_of(tmp_path), SiteSpec(), print)
    assert "\n" not in str(error.value)
    assert "\033" not in str(error.value)
    assert Book.of(str(tmp_path / "out")).receipts() == []


def test_c5_a_missing_command_says_where_it_would_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(JobError, match="sbatch: found no such command, expected SLURM's; run this on a login node"):
        submit_slurm(call_of(tmp_path), SiteSpec(), print)


def test_c5_a_busy_controller_is_asked_three_times_at_most(fake: Fake, tmp_path: Path) -> None:
    fake("scontrol", "echo 'Invalid job id' >&2; exit 1")
    fake("sbatch", f'[ "$(wc -l < {tmp_path}/calls)" -ge 3 ] && echo 7 || {{ echo "Socket timed out" >&2; exit 1; }}')
    assert submit_slurm(call_of(tmp_path), SiteSpec(), print).ids == ("7",)
    fake("sbatch", 'echo "Socket timed out" >&2; exit 1')
    with pytest.raises(JobError, match="Socket timed out"):
        submit_slurm(call_of(tmp_path), SiteSpec(), print)


def test_of_several_arrays_those_that_were_taken_are_known(fake: Fake, tmp_path: Path) -> None:
    fake("scontrol", "echo 'Invalid job id' >&2; exit 1")
    fake("sbatch", f'case "$*" in *0-4*) echo no room >&2; exit 1;; *) wc -l < {tmp_path}/calls;; esac')
    site = SiteSpec(how="array", tasks=25, max_array=10)
    with pytest.raises(JobError, match="no room; 2 of 3 arrays were taken, and their tasks work"):
        submit_slurm(call_of(tmp_path), site, print)
    (receipt,) = Book.of(str(tmp_path / "out")).receipts()
    assert len(receipt.ids) == 2


@pytest.mark.parametrize("reason", ["PartitionTimeLimit", "PartitionNodeLimit", "InvalidQOS", "BadConstraints"])
def test_a_job_that_would_wait_for_ever_is_taken_back(fake: Fake, tmp_path: Path, reason: str) -> None:
    fake("sbatch", "echo 7")
    fake("scancel", "true")
    fake("scontrol", f"echo '{SHOW.format(state='PENDING', reason=reason, restarts=0)}'")
    with pytest.raises(JobError, match=f"SLURM would never start this job: {reason}: .*; it is taken back"):
        submit_slurm(call_of(tmp_path), SiteSpec(), print)
    assert "scancel 7" in (tmp_path / "calls").read_text()
    assert Book.of(str(tmp_path / "out")).receipts() == []


def test_jobs_that_a_job_has_submitted_for_itself_are_asked_for_too(fake: Fake, tmp_path: Path) -> None:
    fake("sbatch", "echo 7")
    fake("scontrol", "echo 'Invalid job id' >&2; exit 1")
    receipt = submit_slurm(call_of(tmp_path), SiteSpec(chain="resubmit"), print)
    (Path(receipt.folder) / "ids").write_text("7\n9\nnonsense\n")
    list(jobs_of(Book.of(str(tmp_path / "out"))))
    assert "scontrol --oneliner show job 9" in (tmp_path / "calls").read_text()


def test_c5_a_status_says_that_slurm_cannot_be_asked(fake: Fake, tmp_path: Path) -> None:
    fake("sbatch", "echo 7")
    fake("scontrol", "echo 'Invalid job id' >&2; exit 1")
    submit_slurm(call_of(tmp_path), SiteSpec(), print)
    fake("scontrol", "echo 'Unable to contact slurm controller' >&2; exit 1")
    (line,) = told_jobs(str(tmp_path / "out"))
    assert line == "7 of SLURM cannot be asked for here (scontrol: Unable to contact slurm controller)"


def test_tasks_of_an_array_are_told_by_state(fake: Fake) -> None:
    rows = [f"JobId={9 + one} ArrayJobId=8 ArrayTaskId={one} JobState={state} Reason=None" for one, state in
            enumerate(["RUNNING", "RUNNING", "COMPLETED"])]  # fmt: skip
    fake("scontrol", "\n".join(f"echo '{row}'" for row in rows))
    assert states(["8"]) == {
        "8": [JobState("8_0", "RUNNING", ""), JobState("8_1", "RUNNING", ""), JobState("8_2", "COMPLETED", "")]
    }


CONFIG = "MaxArraySize            = 1001\nJobRequeue              = 0\n"
ROWS = "cpu*|4:00:00|12|64|(null)|up\ngpu|2-00:00:00|4|32+|gpu:h100:8(S:0-1)|up\n"


def test_a_site_is_described_from_what_slurm_says(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake("scontrol", f"printf '{CONFIG}'")
    fake("sinfo", f"printf '{ROWS}'")
    text = describe_site()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = site_file(os.environ)
    path.parent.mkdir()
    path.write_text(text)
    site = load_site(None, os.environ)
    assert (site.partition, site.time, site.gpus_per_node, site.cpus_per_node) == ("gpu", "24:00:00", 8, 32)
    assert (site.gpu_option, site.max_array, site.chain) == ("--gres=gpu:h100:{gpus}", 1000, "resubmit")
    assert "# cpu*                 4:00:00        12     64  (null)" in text


def test_a_recipe_says_more_than_the_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = site_file(os.environ)
    path.parent.mkdir()
    path.write_text("partition: cpu\nnodes: 3\n")
    found = load_site(SiteSpec(nodes=1, account="a"), os.environ)
    assert (found.partition, found.nodes, found.account) == ("cpu", 1, "a")
    path.write_text("partitoin: cpu\n")
    with pytest.raises(ValueError, match="did you mean `partition`"):
        load_site(None, os.environ)


def test_what_images_would_cost_follows_from_the_rate_of_one_worker() -> None:
    site = SiteSpec(nodes=4, gpus_per_node=8, price_per_gpu_hour=2.0)
    assert cost_lines(7_200_000, Rate(10.0, "as you say"), site) == [
        "rate     10 images/s a GPU, as you say",
        "time     about 6.2 hours on 32 GPUs, without loading and waiting",
        "work     about 200.0 GPU-hours, 27.8 for a million images",
        "money    about 400 at 2 a GPU-hour, 56 for a million images",
    ]
    (line,) = cost_lines(10, None, SiteSpec(how="array", tasks=5, most_at_once=2))
    assert line.startswith("time     unknown on 2 cores: nobody has told the rate")


def test_receipts_of_two_who_submit_at_once_have_two_numbers(tmp_path: Path) -> None:
    call = call_of(tmp_path)
    books = [Book.of(call.out) for _ in range(2)]
    assert [book.begin(call, "slurm").number for book in books] == [1, 2]


@pytest.mark.parametrize("content", [b"", b"{}", b'{"kind": 1}', b"\xff", b"[]"])
def test_a_damaged_receipt_is_named(tmp_path: Path, content: bytes) -> None:
    book = Book.of(str(tmp_path))
    book.begin(call_of(tmp_path), "slurm")
    (tmp_path / "_meta/jobs/00001.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"_meta/jobs/00001.json: found"):
        book.receipts()


def test_a_cluster_without_a_head_is_one_line(tmp_path: Path) -> None:
    with (
        StopFlag(),
        pytest.raises(ValueError, match=r"--to ray://127.0.0.1:1: .*give the address of the cluster's head"),
    ):
        run_here(call_of(tmp_path), Target("ray", "127.0.0.1:1"))
