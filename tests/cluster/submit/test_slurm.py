"""SLURM's commands that are missing, slow, refuse or babble: one line each, nothing lost, nothing submitted twice."""

import dataclasses
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
from cluster.submit.submit import cancel_jobs, jobs_of, preview_slurm, run_here, submit_slurm, told_jobs

Fake = Callable[..., None]
ROW = "{job:<40}{state:<30}{restarts:<12}{reason:<100}"
UNKNOWN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
LOST = 'echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1'


def shows(job: str = "7", state: str = "RUNNING", reason: str = "None", restarts: int = 0) -> str:
    """A squeue that knows one job."""
    return f"echo '{ROW.format(job=job, state=state, reason=reason, restarts=restarts)}'"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts a program of a name on the path, which runs a script; each call of it stands in `calls`. No other command
    of SLURM is found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm, "SETTLED_S", 0.3)
    monkeypatch.setattr(slurm, "PAUSES_S", (0.0, 0.0, 0.0))
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
    fake("squeue", shows(state="PENDING", reason="Priority", restarts=2))
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


def test_a_submitted_array_is_told_by_its_tasks(fake: Fake, tmp_path: Path) -> None:
    fake("sbatch", "wc -l < $PWD/calls")
    fake("squeue", UNKNOWN)
    said: list[str] = []
    submit_slurm(call_of(tmp_path), SiteSpec(how="array", tasks=15, max_array=10), said.append)
    assert said == [f"job 1, 2: 15 tasks claiming units; logs in {tmp_path}/out/_meta/jobs/00001"]


@pytest.mark.parametrize("out", ["out", "memory://bucket/of-a-preview"])
def test_a_preview_names_the_folder_that_a_job_gets(fake: Fake, tmp_path: Path, out: str) -> None:
    fake("sbatch", "echo 7")
    fake("squeue", UNKNOWN)
    call = dataclasses.replace(call_of(tmp_path), out=out)
    line = preview_slurm(call, SiteSpec()).splitlines()[0]
    folder = submit_slurm(call, SiteSpec(), print).folder
    assert line == f"would write {folder}/job.sh:".replace("00001", "NNNNN")


def test_a_job_that_lives_is_not_submitted_again_and_one_that_is_over_is(fake: Fake, tmp_path: Path) -> None:
    fake("sbatch", "echo 7")
    fake("squeue", shows())
    submit_slurm(call_of(tmp_path), SiteSpec(), print)
    with pytest.raises(ValueError, match="job 7 of SLURM is running; wait for it, or end it with `sixfold cancel"):
        submit_slurm(call_of(tmp_path), SiteSpec(), print)
    fake("squeue", UNKNOWN)
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
        ("printf 'a\\033[31mb\\nc' >&2; exit 3", r"sbatch: a.*b"),
        ("exit 4", "sbatch: ended with 4: it says nothing"),
    ],
)
def test_c5_a_submission_that_is_refused_is_one_line_and_leaves_no_job(
    fake: Fake, tmp_path: Path, script: str, line: str
) -> None:
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


def runs(tmp_path: Path, job: str = "7") -> str:
    """A squeue that knows one job of the first receipt's script, asked in either way."""
    known = f'echo "6 {tmp_path}/other.sh"; echo "{job} {tmp_path}/out/_meta/jobs/00001/job.sh"'
    return f"""case "$*" in *--user*) {known};;
      *) {shows(job)};; esac"""


def test_c5_a_busy_controller_is_asked_again_when_it_says_that_it_has_no_such_job(fake: Fake, tmp_path: Path) -> None:
    fake("squeue", "true")
    fake("sbatch", f'[ "$(grep -c sbatch {tmp_path}/calls)" -ge 3 ] && echo 7 || {{ {LOST}; }}')
    assert submit_slurm(call_of(tmp_path), SiteSpec(), print).ids == ("7",)
    assert (tmp_path / "calls").read_text().count("sbatch") == 3


@pytest.mark.parametrize("script", [LOST, "sleep 30", "echo hello", "echo 7; sleep 30"])
def test_c5_a_job_whose_answer_is_lost_is_found_and_not_sent_again(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(slurm, "COMMAND_S", 1.0)
    fake("sbatch", script)
    fake("squeue", runs(tmp_path))
    assert submit_slurm(call_of(tmp_path), SiteSpec(), print).ids == ("7",)
    assert (tmp_path / "calls").read_text().count("sbatch") == 1


def test_c5_nothing_is_sent_again_while_nobody_says_what_is_there(fake: Fake, tmp_path: Path) -> None:
    """The job is found by its script when SLURM answers again, is not sent twice, and can be cancelled."""
    fake("sbatch", LOST)
    with pytest.raises(
        JobError, match=r"Socket timed out.*SLURM may have taken it all the same: `sixfold status` looks"
    ):
        submit_slurm(call_of(tmp_path), SiteSpec(), print)
    assert (tmp_path / "calls").read_text().count("sbatch") == 1
    fake("squeue", runs(tmp_path))
    with pytest.raises(ValueError, match=r"job without a known number \(.*job.sh\) of SLURM is running; wait for it"):
        submit_slurm(call_of(tmp_path), SiteSpec(), print)
    fake("scancel", "true")
    assert cancel_jobs(str(tmp_path / "out"), print) == 1
    assert "scancel 7\n" in (tmp_path / "calls").read_text()
    fake("squeue", "true")
    fake("sbatch", "echo 8")
    assert submit_slurm(call_of(tmp_path), SiteSpec(), print).ids == ("8",)


def test_a_job_that_was_not_waited_for_keeps_its_receipt(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        submit_slurm(call_of(tmp_path), SiteSpec(), print)
    fake("squeue", runs(tmp_path))
    assert [job.lives for job in jobs_of(Book.of(str(tmp_path / "out")))] == [True]


def test_of_several_arrays_those_that_were_taken_are_known(fake: Fake, tmp_path: Path) -> None:
    fake("squeue", UNKNOWN)
    fake("sbatch", f'case "$*" in *0-4*) echo no room >&2; exit 1;; *) wc -l < {tmp_path}/calls;; esac')
    site = SiteSpec(how="array", tasks=25, max_array=10)
    with pytest.raises(JobError, match="no room; 2 of 3 arrays were taken, and their tasks work"):
        submit_slurm(call_of(tmp_path), site, print)
    (receipt,) = Book.of(str(tmp_path / "out")).receipts()
    assert len(receipt.ids) == 2


@pytest.mark.parametrize("reason", ["PartitionTimeLimit", "AssocMaxNodePerJobLimit", "InvalidQOS", "BadConstraints"])
def test_a_job_that_would_wait_for_ever_is_taken_back(fake: Fake, tmp_path: Path, reason: str) -> None:
    fake("sbatch", "echo 7")
    fake("scancel", "true")
    fake("squeue", shows(state="PENDING", reason=reason))
    with pytest.raises(JobError, match=f"SLURM would never start this job: {reason}: .*; it is taken back"):
        submit_slurm(call_of(tmp_path), SiteSpec(), print)
    assert "scancel 7" in (tmp_path / "calls").read_text()
    assert Book.of(str(tmp_path / "out")).receipts() == []


@pytest.mark.parametrize("reason", ["AssocGrpNodeLimit", "PartitionNodeLimit"])
def test_a_job_whose_reason_to_wait_may_pass_stays(fake: Fake, tmp_path: Path, reason: str) -> None:
    """Other jobs of the account end, and machines that are down come back."""
    fake("sbatch", "echo 7")
    fake("squeue", shows(state="PENDING", reason=reason))
    submit_slurm(call_of(tmp_path), SiteSpec(), print)
    assert "scancel" not in (tmp_path / "calls").read_text()
    assert [receipt.ids for receipt in Book.of(str(tmp_path / "out")).receipts()] == [("7",)]


def test_jobs_that_a_job_has_submitted_for_itself_are_asked_for_too(fake: Fake, tmp_path: Path) -> None:
    fake("sbatch", "echo 7")
    fake("squeue", UNKNOWN)
    receipt = submit_slurm(call_of(tmp_path), SiteSpec(chain="resubmit"), print)
    for name in ("7", "9", "nonsense"):
        (Path(receipt.folder) / "ids" / name).mkdir(parents=True)
    list(jobs_of(Book.of(str(tmp_path / "out"))))
    assert "--jobs=7,9 " in (tmp_path / "calls").read_text()


def test_c5_a_status_says_that_slurm_cannot_be_asked(fake: Fake, tmp_path: Path) -> None:
    fake("sbatch", "echo 7")
    fake("squeue", UNKNOWN)
    submit_slurm(call_of(tmp_path), SiteSpec(), print)
    fake("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    (line,) = told_jobs(str(tmp_path / "out"))
    assert line == "job 7 of SLURM cannot be asked for here (squeue: Unable to contact slurm controller)"


def test_tasks_of_an_array_are_told_by_state_each_once_by_one_question(fake: Fake, tmp_path: Path) -> None:
    rows = [ROW.format(job=f"8_{one}", state=state, reason="None", restarts=0) for one, state in
            enumerate(["RUNNING", "RUNNING", "COMPLETED"])]  # fmt: skip
    fake("squeue", "\n".join(f"echo '{row}'" for row in [*rows, rows[0]]))
    asked = [str(number) for number in range(8, 3000)]
    assert states(asked) == [
        *(JobState("8_0", "RUNNING", ""), JobState("8_1", "RUNNING", ""), JobState("8_2", "COMPLETED", "")),
    ]
    assert (tmp_path / "calls").read_text().count("squeue") == 1


def test_all_questions_about_a_job_share_one_deadline(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "COMMAND_S", 2.0)
    monkeypatch.setattr(slurm, "IDS_AT_ONCE", 1)
    fake("squeue", "sleep 1.5")
    with pytest.raises(JobError, match="no answer within"):
        states([str(number) for number in range(100)])
    assert (tmp_path / "calls").read_text().count("squeue") <= 3


def test_a_job_after_one_that_was_taken_back_has_a_script_of_its_own(fake: Fake, tmp_path: Path) -> None:
    """SLURM may still know the first by its script, and a lost answer is looked for by that."""
    call = call_of(tmp_path)
    fake("sbatch", "echo 7")
    fake("squeue", shows(state="PENDING", reason="PartitionTimeLimit"))
    fake("scancel", "true")
    with pytest.raises(JobError, match="it is taken back"):
        submit_slurm(call, SiteSpec(), print)
    fake("squeue", shows())
    assert submit_slurm(call, SiteSpec(), print).number == 2


def test_a_job_is_marked_as_cancelled_before_slurm_is_told_so_that_it_does_not_queue_itself_again(
    fake: Fake, tmp_path: Path
) -> None:
    fake("sbatch", "echo 7")
    fake("squeue", shows())
    call = call_of(tmp_path)
    submit_slurm(call, SiteSpec(), print)
    fake("scancel", f"ls {call.out}/_meta/jobs/*/cancelled/7 > {tmp_path}/seen")
    assert cancel_jobs(call.out, print) == 1
    assert (tmp_path / "seen").read_text().strip().endswith("00001/cancelled/7")


# ---------------------------------------------------------------- outputs that are no folder, and may only be read


@pytest.mark.parametrize("refused", ["no exclusive create", "no right to write"])
def test_jobs_of_an_output_that_may_only_be_read_are_told_and_cancelled(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    out = f"memory://{tmp_path.name}-{len(refused)}"
    fake("sbatch", "echo 7")
    fake("squeue", shows())
    submit_slurm(dataclasses.replace(call_of(tmp_path), out=out), SiteSpec(), print)

    def forbidden(*_: object) -> bool:
        raise PermissionError("Access Denied")

    if refused == "no exclusive create":  # as gs:// is
        monkeypatch.setattr("shards.disk.store.EXCLUSIVE_CREATE", frozenset())
    else:
        monkeypatch.setattr("shards.disk.object_store.ObjectStore.write_exclusive", forbidden)
    fake("scancel", "true")
    assert told_jobs(out) == ["job 7 of SLURM is running"]
    assert cancel_jobs(out, print) == 1
    with pytest.raises(ValueError, match=r"job 7 of SLURM is running; wait for it"):
        submit_slurm(dataclasses.replace(call_of(tmp_path), out=out), SiteSpec(), print)


# ---------------------------------------------------------------- jobs whose other side is gone


def gone(tmp_path: Path, kind: str = "job") -> Book:
    """The book of an output with the receipt of a job at a server that is gone."""
    book = Book.of(str(tmp_path / "out"))
    receipt = book.begin(call_of(tmp_path), kind, "http://127.0.0.1:1" if kind == "job" else "vision")
    book.keep(dataclasses.replace(receipt, ids=("sixfold-x-1",)))
    return book


@pytest.mark.parametrize("kind", ["job", "k8s"])
def test_a_job_whose_server_is_gone_is_named_with_what_to_do(fake: Fake, tmp_path: Path, kind: str) -> None:
    gone(tmp_path, kind)
    file = tmp_path / "out/_meta/jobs/00001.json"
    with pytest.raises(
        JobError,
        match=f"job sixfold-x-1 of .* cannot be asked for here .*; if it is over, remove {file} and submit again",
    ):
        submit_slurm(call_of(tmp_path), SiteSpec(), print)
    file.unlink()
    fake("sbatch", "echo 7")
    fake("squeue", UNKNOWN)
    assert submit_slurm(call_of(tmp_path), SiteSpec(), print).ids == ("7",)


def test_a_job_that_was_seen_to_be_over_is_not_asked_for_again(fake: Fake, tmp_path: Path) -> None:
    fake("squeue", UNKNOWN)
    fake("sbatch", "echo 7")
    submit_slurm(call_of(tmp_path), SiteSpec(), print)
    fake("sbatch", "echo 8")
    submit_slurm(call_of(tmp_path), SiteSpec(), print)
    fake("squeue", "case $* in *=8*) echo gone >&2; exit 1;; esac")
    (tmp_path / "calls").unlink()
    over, unknown = told_jobs(str(tmp_path / "out"))
    assert over == "job 7 of SLURM is over"
    assert "cannot be asked for here" in unknown
    assert (tmp_path / "calls").read_text().count("squeue") == 1
    (tmp_path / "out/_meta/jobs/00001/ids").mkdir()
    (tmp_path / "out/_meta/jobs/00001/ids/7").touch()
    (tmp_path / "out/_meta/jobs/00001/ids/9").touch()  # somebody has submitted its script again
    fake("squeue", shows("9"))
    assert told_jobs(str(tmp_path / "out"))[0] == "job 7 of SLURM is running"


def test_a_job_that_cannot_be_asked_for_keeps_no_other_from_being_cancelled(fake: Fake, tmp_path: Path) -> None:
    fake("sbatch", "echo 7")
    fake("squeue", shows())
    fake("scancel", "true")
    submit_slurm(call_of(tmp_path), SiteSpec(), print)
    gone(tmp_path)
    said: list[str] = []
    with pytest.raises(JobError, match=r"cannot be asked for here .*; if it is over, remove .*/00002.json"):
        cancel_jobs(str(tmp_path / "out"), said.append)
    assert said == ["cancelled job 7 of SLURM is running"]
    assert "scancel 7\n" in (tmp_path / "calls").read_text()


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


@pytest.mark.parametrize("state", ["down", "drain", "inact"])
def test_a_partition_that_takes_no_jobs_is_shown_and_not_chosen(fake: Fake, tmp_path: Path, state: str) -> None:
    fake("scontrol", f"printf '{CONFIG}'")
    fake("sinfo", f"printf '{ROWS.replace('(S:0-1)|up', f'(S:0-1)|{state}')}'")
    text = describe_site()
    assert "\npartition: cpu\n" in text
    assert f"gpu:h100:8(S:0-1)  ({state})\n" in text
    fake("sinfo", f"printf '{ROWS.replace('|up', f'|{state}')}'")
    with pytest.raises(JobError, match="found no partition that is up, expected one that you may use"):
        describe_site()


@pytest.mark.parametrize("partition", ["3090", "on", "no", "null", "1e3", "a100_80gb", "0x10"])
def test_a_partition_of_any_name_is_a_name(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, partition: str
) -> None:
    fake("scontrol", f"printf '{CONFIG}'")
    fake("sinfo", f"echo '{partition}*|4:00:00|12|64|gpu:{partition}:2|up'")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    site_file(os.environ).parent.mkdir()
    site_file(os.environ).write_text(describe_site())
    site = load_site(None, os.environ)
    assert (site.partition, site.gpus_per_node) == (partition, 2)


def test_a_site_that_no_job_could_name_is_not_written_down(fake: Fake, tmp_path: Path) -> None:
    fake("scontrol", f"printf '{CONFIG}'")
    fake("sinfo", "echo 'a b*|4:00:00|12|64|(null)|up'")
    with pytest.raises(ValueError, match=r"what SLURM says of this site:.*expected one word without blanks"):
        describe_site()


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
