"""Images made on a SLURM of two machines, with nothing written by hand: whole, the same bytes, whatever happens."""

import hashlib
import os
import signal
import tempfile
import time
from pathlib import Path

import pytest

from shards.disk.home import home
from tests.support.slurm_site import Site

RECIPE = str(home() / "recipes/sandbox.yaml")
CHEAP = (
    *("sampler.steps=2", "prompts.kind=name", "prompts.per_class=null", "meanings.choose=none"),
    *("shards.samples_per_shard=10", "cluster.start_deadline_s=120"),
)
SCALE = "0.5x"  # 100 images in 10 shards
ARRAY = ("cluster.site.how=array", "cluster.site.tasks=2", "cluster.site.cpus_per_node=1")


def submit(site: Site, work: Path, *more: str, scale: str = SCALE) -> str:
    words = ("generate", RECIPE, "--to", "slurm", "--scale", scale, "--out", "out", *CHEAP, *more)
    return site.sixfold("submit", *words, cwd=work)


def urgent_job(site: Site, work: Path) -> str:
    """A job for both machines that takes the place of all others."""
    asked = ("--partition=high", "--nodes=2", "--exclusive", "--time=1", f"--output={work}/high.log")
    return site.run("sbatch", "--parsable", *asked, "--wrap", "sleep 2").strip()


def hashes(folder: Path) -> dict[str, str]:
    """Name of each tar -> hash of its bytes."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.tar"))}


def num_done(work: Path) -> int:
    return len(list((work / "out").glob("?????_stats.json")))


def logs_of(work: Path) -> str:
    return "\n".join(path.read_text() for path in sorted((work / "out/_meta/jobs").glob("*/*.log")))


@pytest.fixture(scope="module")
def expected(site: Site, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one process on this machine makes."""
    folder = tmp_path_factory.mktemp("expected")
    words = ("generate", RECIPE, "--scale", SCALE, "--out", "out", *CHEAP, "cluster.in_process=true", "--no-gallery")
    site.sixfold(*words, cwd=folder, timeout=300)
    found = hashes(folder / "out")
    assert len(found) == 10
    return found


def test_c1_c2_c3_an_array_that_is_warned_of_its_time_limit_and_preempted_makes_the_same_bytes(
    site: Site, work: Path, expected: dict[str, str]
) -> None:
    told = submit(site, work, *ARRAY)
    assert "tasks claiming units" in told
    site.wait(lambda: num_done(work) >= 2, 240, "two shards")
    (first, *_) = (job for job, state in site.jobs().items() if state == "RUNNING")
    site.run("scancel", "--signal=USR1", "--batch", first)  # as SLURM does before the limit
    urgent = urgent_job(site, work)
    site.wait(lambda: urgent not in site.jobs(), 120, "the urgent job")
    assert num_done(work) < 10, "it must be preempted under way"
    site.wait(site.is_idle, 300, "the array")
    assert hashes(work / "out") == expected
    starts = list((work / "out/_meta/lives").glob("*.json"))
    assert len(starts) >= 4, "two tasks, each begun again"
    assert "10 done, 0 damaged" in site.sixfold("status", "out", cwd=work)


def test_ray_over_two_machines_makes_the_same_bytes_and_leaves_nothing_behind(
    site: Site, work: Path, expected: dict[str, str]
) -> None:
    scratch = tempfile.mkdtemp(dir="/tmp", prefix="s")
    told = submit(site, work, "cluster.site.nodes=2", "cluster.site.cpus_per_node=1", f"cluster.site.scratch={scratch}")
    assert "2 machines, Ray over its machines" in told
    site.wait(site.is_idle, 240, "the job")
    assert hashes(work / "out") == expected
    assert "2 workers" in logs_of(work)
    assert os.listdir(scratch) == []
    told = site.sixfold("logs", "out", "--lines", "3", cwd=work)
    assert "0.5x: 100 images in 10 of 10 shards" in told
    assert "no job runs or waits" in site.sixfold("cancel", "out", cwd=work)


@pytest.mark.torture
def test_a_job_that_is_cancelled_under_way_goes_on_with_the_same_command(
    site: Site, work: Path, expected: dict[str, str]
) -> None:
    submit(site, work, "cluster.site.nodes=2", "cluster.site.cpus_per_node=1")
    told = site.sixfold("submit", "generate", RECIPE, "--scale", SCALE, "--out", "out", *CHEAP, cwd=work, code=2)
    assert "wait for it, or end it with `sixfold cancel" in told
    site.wait(lambda: num_done(work) >= 2, 240, "two shards")
    assert "cancelled job" in site.sixfold("cancel", "out", cwd=work)
    site.wait(site.is_idle, 120, "an empty queue")
    done = num_done(work)
    assert 2 <= done < 10
    time.sleep(5)
    assert site.is_idle(), "what is cancelled is not queued again"
    submit(site, work, *ARRAY)
    site.wait(site.is_idle, 240, "the second job")
    assert hashes(work / "out") == expected


@pytest.mark.torture
def test_a_job_longer_than_its_time_limit_is_queued_again_until_it_is_done(site: Site, work: Path) -> None:
    """A limit of two minutes, of which a warning takes one; SLURM itself sends it."""
    submit(
        site, work, *ARRAY, "cluster.site.tasks=1", "cluster.site.time=00:02:00", "cluster.site.warn_s=60",
        "sampler.steps=40", scale="1x",
    )  # fmt: skip
    site.wait(site.is_idle, 900, "the chain")
    assert num_done(work) == 20
    text = logs_of(work)
    assert text.count("stopped on request") >= 1
    assert "DUE TO JOB REQUEUE" in text


@pytest.mark.torture
def test_c7_a_time_limit_shorter_than_one_shard_ends_the_chain_with_advice(site: Site, work: Path) -> None:
    submit(
        site, work, *ARRAY, "cluster.site.tasks=1", "cluster.site.time=00:01:00", "cluster.site.warn_s=30",
        "sampler.steps=400", "shards.samples_per_shard=200", "cluster.drain_s=5", scale="1x",
    )  # fmt: skip
    site.wait(site.is_idle, 900, "the end of the chain")
    assert num_done(work) == 0
    assert "the last 3 starts of this job got no further" in logs_of(work)
    told = site.sixfold("status", "out", cwd=work, code=3)
    assert "failed" in told


@pytest.mark.torture
def test_two_jobs_share_a_machine(site: Site, work: Path, expected: dict[str, str]) -> None:
    one = ("cluster.site.nodes=1", "cluster.site.cpus_per_node=1", "cluster.site.options=[--nodelist=n1]")
    submit(site, work, *one)
    (work / "second").mkdir()
    submit(site, work / "second", *one)
    site.wait(lambda: sum(state == "RUNNING" for state in site.jobs().values()) == 2, 60, "two jobs at once")
    site.wait(site.is_idle, 300, "both jobs")
    assert hashes(work / "out") == hashes(work / "second/out") == expected


@pytest.mark.torture
def test_c9_tasks_of_an_array_are_killed_and_added(site: Site, work: Path, expected: dict[str, str]) -> None:
    submit(site, work, *ARRAY, "cluster.site.tasks=3", "cluster.site.chain=never", "sampler.steps=2")
    site.wait(lambda: num_done(work) >= 1, 240, "a shard")
    victim = next(job for job, state in site.jobs().items() if state == "RUNNING")
    site.run("scancel", f"--signal={signal.SIGKILL.name.removeprefix('SIG')}", "--full", victim)
    script = next((work / "out/_meta/jobs").glob("*/job.sh"))
    added = site.run("sbatch", "--parsable", "--array=7", str(script)).strip()
    site.wait(site.is_idle, 300, "the array and its new task")
    assert hashes(work / "out") == expected
    assert list((work / "out/_meta/jobs").glob(f"*/{added}_7.log"))


@pytest.mark.torture
def test_ray_is_preempted_and_goes_on_to_the_same_bytes(site: Site, work: Path, expected: dict[str, str]) -> None:
    submit(site, work, "cluster.site.nodes=2", "cluster.site.cpus_per_node=1")
    site.wait(lambda: num_done(work) >= 2, 240, "two shards")
    urgent_job(site, work)
    site.wait(lambda: "PENDING" in site.jobs().values(), 60, "the preemption")
    assert num_done(work) < 10
    site.wait(site.is_idle, 300, "the job")
    assert hashes(work / "out") == expected
