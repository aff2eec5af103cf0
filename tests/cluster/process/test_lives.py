"""The history of a folder: who started on it, how far each came, why it ended, and whether a job gets any further."""

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from cluster.process.exit import EXIT_AGAIN, EXIT_COMPLETE, EXIT_FAILED, EXIT_MISTAKE, Draining, RunFailed
from cluster.process.lives import KEPT, LIVES, MAX_BYTES, Life, LifeFile, LifeStore, begin, lives_of, stuck, told
from shards.disk.home import home
from shards.disk.store import FolderStore, open_store

CHILD = """
import sys, time
from pathlib import Path
from cluster.process.lives import begin
from shards.disk.store import FolderStore
with begin(FolderStore(Path(sys.argv[1])), "t1-child", "generate") as life:
    life.there(12, "shard")
    life.at_work()
    print("at work", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["folder", "objects"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> LifeStore:
    return open_store(str(tmp_path / "set") if request.param == "folder" else f"memory://{uuid.uuid4().hex}/set")


class Clock:
    """Seconds, as many as a test says."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def start(store: LifeStore, number: int = 0, job: str = "", restarts: int = 0, clock: Clock | None = None) -> LifeFile:
    slurm = {"SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": str(restarts)} if job else {}
    clock = clock or Clock()
    return begin(store, f"t{number}-x", "generate", slurm, clock=clock, wall=clock)


def live(
    store: LifeStore, before: int | None, after: int | None, job: str = "81", restarts: int = 0, *,
    work_s: float | None = 5.0, seconds: float = 60.0, code: int | None = EXIT_AGAIN, noun: str = "shard",
) -> None:  # fmt: skip
    """One life from its start to its end; `code` None: killed, `work_s` None: it never began a unit."""
    clock = Clock()
    file = start(store, restarts, job, restarts, clock)
    if before is not None:
        file.there(before, noun)
    if work_s is not None:
        clock.now += work_s
        file.at_work()
    clock.now = Clock().now + seconds
    if after is not None:
        file.there(after, noun)
    if code is not None:
        file.ended(code, "SIGUSR1")
        file.__exit__(None, None, None)


def test_a_life_says_who_it_was_what_it_found_how_far_it_came_and_why_it_ended(store: LifeStore) -> None:
    clock = Clock()
    with start(store, clock=clock) as life:
        life.there(12, "shard")
        clock.now += 7.5
        life.at_work()
        clock.now += 30
        life.at_work()
        life.there(15, "shard")
        life.ended(EXIT_AGAIN, "stopped on request: SIGUSR1")
    [found] = lives_of(store)
    assert (found.number, found.verb, found.process.pid) == (1, "generate", os.getpid())
    assert (str(found.before), found.start_s, found.slurm) == ("12 shards", 7.5, None)
    assert found.began.timestamp() == Clock().now
    end = found.end
    assert end is not None
    assert (end.exit_code, end.seconds, str(end.there)) == (EXIT_AGAIN, 37.5, "15 shards")
    assert end.at.timestamp() == Clock().now + 37.5
    [line] = told([found])
    assert line.endswith("from 12 shards to 15 shards, ended after 38 s with 75: stopped on request: SIGUSR1")


def test_a_life_that_says_nothing_at_its_end_is_complete(store: LifeStore) -> None:
    with start(store):
        assert lives_of(store)[0].end is None
    end = lives_of(store)[0].end
    assert end is not None
    assert (end.exit_code, end.reason) == (EXIT_COMPLETE, "complete")


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (ValueError("found 3, expected 4"), EXIT_MISTAKE, "found 3, expected 4"),
        (OSError(28, "No space left on device"), EXIT_MISTAKE, "No space left on device"),
        (Draining("stopped on request (SIGTERM)"), EXIT_AGAIN, "stopped on request (SIGTERM)"),
        (RunFailed("the search failed", 3), 3, "the search failed"),
        (ZeroDivisionError("division"), EXIT_FAILED, "ZeroDivisionError: division"),
        (KeyboardInterrupt(), EXIT_FAILED, "KeyboardInterrupt"),
        (ValueError("see s3://me:secretpassword@host/x\n\x1b[31mred"), EXIT_MISTAKE, "see s3://host/x red"),
    ],
)
def test_an_exception_is_the_reason_with_the_exit_code_of_the_command_line(
    store: LifeStore, error: BaseException, code: int, reason: str
) -> None:
    with pytest.raises(type(error)), start(store):
        raise error
    end = lives_of(store)[0].end
    assert end is not None
    assert end.exit_code == code
    assert reason in end.reason


def test_a_life_that_is_killed_has_no_end_and_the_next_one_says_what_it_left(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=home()) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "at work\n"
        assert told(lives_of(store))[0].endswith("12 shards there, at work")
        child.send_signal(signal.SIGKILL)
        child.wait(30)
    [killed] = lives_of(store)
    assert killed.end is None
    assert killed.start_s is not None
    assert told([killed])[0].endswith("12 shards there, killed, it could not say why")
    with start(store) as life:
        life.there(13, "shard")
        assert [one.number for one in lives_of(store)] == [1, 2]


def test_a_life_on_another_machine_is_at_work_while_it_holds_the_folder(store: LifeStore) -> None:
    start(store)
    away = lives_of(store)[0].model_copy(update={"process": lives_of(store)[0].process.__class__("else", 1, 1)})
    assert told([away], at_work={"t0-x"})[0].endswith("at work")
    assert "killed" in told([away])[0]


def test_c3_under_slurm_a_life_names_its_job_its_restart_and_its_task(store: LifeStore) -> None:
    slurm = {"SLURM_JOB_ID": "81234", "SLURM_RESTART_COUNT": "2", "SLURM_ARRAY_TASK_ID": "5"}
    with begin(store, "s81234-2-x", "generate", slurm):
        pass
    found = lives_of(store)[0].slurm
    assert found is not None
    assert (found.job, found.restarts, found.array_task) == ("81234", 2, 5)
    assert "job 81234 restart 2 task 5" in told(lives_of(store))[0]
    with begin(store, "t2", "generate", {"SLURM_JOB_ID": "; rm", "SLURM_RESTART_COUNT": "x"}):
        pass
    assert lives_of(store)[1].slurm is None


def test_lives_are_in_the_order_of_their_starts_also_if_the_clock_goes_back(store: LifeStore) -> None:
    for number, now in enumerate([5e8, 4e8, 6e8]):
        clock = Clock()
        clock.now = now
        start(store, 9 - number, clock=clock)
    assert [one.life for one in lives_of(store)] == ["t9-x", "t8-x", "t7-x"]


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"{}", b'{"number": 1}', b"x" * (MAX_BYTES + 1), b'{"a":' * 5_000, b"\xff\xfe"],
)
def test_a_damaged_file_is_passed_over(store: LifeStore, damage: bytes) -> None:
    for number in range(3):
        start(store, number)
    store.replace(f"{LIVES}/000002-t1-x.json", damage)
    assert [one.life for one in lives_of(store)] == ["t0-x", "t2-x"]
    store.replace(f"{LIVES}/000003-t2-x.json", damage)
    start(store, 3)
    assert [one.number for one in lives_of(store)] == [1, 4], "the number of a damaged file is not given again"


def test_a_file_that_was_changed_is_passed_over(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    start(store)
    path = tmp_path / LIVES / "000001-t0-x.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "verb": "other"}))
    assert lives_of(store) == []


def test_only_the_newest_lives_are_kept_and_only_as_many_read_as_asked_for(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    folder = tmp_path / LIVES
    folder.mkdir(parents=True)
    start(store)
    template = (folder / "000001-t0-x.json").read_bytes()
    for number in range(2, KEPT + 3):
        (folder / f"{number:06d}-t0-x.json").write_bytes(template)
    (folder / "notes.txt").write_text("mine")
    start(store)
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == KEPT + 1
    assert names[0] == "000004-t0-x.json"
    assert "notes.txt" in names
    assert [one.number for one in lives_of(store, newest=2)] == [KEPT + 2, KEPT + 3]
    assert lives_of(store, newest=0) == []


def test_a_folder_without_a_history_has_no_lives(store: LifeStore) -> None:
    assert lives_of(store) == []
    assert told([]) == []


class Full:
    """A store whose disk takes nothing."""

    def read_bytes(self, name: str, at_most: int = 0) -> bytes:
        raise FileNotFoundError(name)

    def replace(self, name: str, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    def delete(self, name: str) -> None:
        raise OSError(28, "No space left on device")

    def list(self, prefix: str = "") -> list[str]:
        raise ConnectionError("the store is away")


def test_a_history_that_cannot_be_written_does_not_harm_the_run() -> None:
    with start(Full()) as life:
        life.there(1, "shard")
        life.at_work()
        life.ended(EXIT_COMPLETE, "complete")
    assert life.life.end is not None


# stuck


def is_stuck(store: LifeStore, k: int = 3) -> bool:
    return stuck(lives_of(store), {"81"}, k)


def test_c7_a_job_is_stuck_when_its_last_three_starts_got_no_further(store: LifeStore) -> None:
    live(store, 3, 4)
    for restarts in (1, 2):
        live(store, 4, 4, restarts=restarts)
        assert not is_stuck(store)
    live(store, 4, 4, restarts=3)
    assert is_stuck(store)
    assert not is_stuck(store, k=4)


def test_tasks_of_an_array_that_are_at_work_do_not_count_as_stuck(store: LifeStore) -> None:
    tasks = [str(job) for job in range(81, 89)]
    for job in tasks:
        live(store, 4, 40 if job == "81" else None, job=job, code=EXIT_AGAIN if job == "81" else None)
    lives = lives_of(store)
    assert stuck(lives, tasks), "as they look to one who does not know that they are at work"
    assert not stuck(lives, tasks, at_work={life.life for life in lives})
    for restarts in range(1, 4):
        live(store, 40, 40, job="81", restarts=restarts)
    assert stuck(lives_of(store), tasks, at_work={life.life for life in lives})


def test_one_start_that_got_further_among_the_last_three_is_enough(store: LifeStore) -> None:
    for restarts, after in enumerate([4, 4, 5, 5, 5]):
        live(store, 4 if restarts < 3 else 5, after, restarts=restarts)
    assert not is_stuck(store)
    assert is_stuck(store, k=2)


def test_a_killed_start_is_judged_by_what_the_next_one_finds(store: LifeStore) -> None:
    for restarts in range(3):
        live(store, 4, None, restarts=restarts, code=None)
    assert not is_stuck(store), "the last one may be at work"
    live(store, 4, None, restarts=3, code=None)
    assert is_stuck(store)


def test_a_killed_start_that_left_more_than_it_found_got_further(store: LifeStore) -> None:
    for restarts, before in enumerate([4, 5, 6, 7]):
        live(store, before, None, restarts=restarts, code=None)
    assert not is_stuck(store)


def test_an_end_that_did_not_hear_of_the_last_unit_is_corrected_by_the_next_start(store: LifeStore) -> None:
    for restarts in range(4):
        live(store, 4 + restarts, 4 + restarts, restarts=restarts)
    assert not is_stuck(store)


def test_c6_lives_that_were_preempted_before_they_began_anything_do_not_count(store: LifeStore) -> None:
    for restarts in range(200):
        live(store, 4, 4, restarts=restarts, work_s=None)
    assert not is_stuck(store)


def test_a_life_that_began_nothing_counts_if_it_lived_longer_than_the_longest_start(store: LifeStore) -> None:
    live(store, 3, 4, work_s=100.0, seconds=120.0)
    for restarts in range(1, 4):
        live(store, 4, 4, restarts=restarts, work_s=None, seconds=100.0)
    assert not is_stuck(store)
    for restarts in range(4, 7):
        live(store, 4, 4, restarts=restarts, work_s=None, seconds=101.0)
    assert is_stuck(store)


def test_preempted_starts_between_do_not_hide_that_a_job_is_stuck(store: LifeStore) -> None:
    for restarts in range(6):
        live(store, 4, 4, restarts=restarts, work_s=None if restarts % 2 else 5.0)
    assert is_stuck(store)


def test_other_jobs_and_calls_outside_of_slurm_do_not_count(store: LifeStore) -> None:
    for restarts in range(3):
        live(store, 4, 4, job="" if restarts == 1 else "82", restarts=restarts)
    assert not is_stuck(store)


def test_several_calls_in_one_start_of_a_job_count_once(store: LifeStore) -> None:
    for _ in range(3):
        live(store, 4, 4, restarts=0)
    assert not is_stuck(store)
    live(store, 4, 4, restarts=1)
    live(store, 4, 5, restarts=1)
    live(store, 5, 5, restarts=2)
    live(store, 5, 5, restarts=3)
    assert not is_stuck(store), "one call of the second start got further"


def test_a_call_that_is_complete_got_further_whatever_it_counts(store: LifeStore) -> None:
    for restarts in range(3):
        live(store, 4, 4, restarts=restarts, code=EXIT_COMPLETE if restarts == 1 else EXIT_AGAIN)
    assert not is_stuck(store)


def test_shards_after_parts_of_a_search_are_further(store: LifeStore) -> None:
    live(store, 40, 40, restarts=0, noun="search part")
    live(store, 40, 40, restarts=1, noun="search part")
    live(store, 0, 0, restarts=2, noun="shard")
    assert not is_stuck(store)


def test_a_start_that_never_knew_what_was_there_says_nothing(store: LifeStore) -> None:
    for restarts in range(4):
        live(store, None, None, restarts=restarts)
    assert not is_stuck(store)


def test_a_history_is_read_back_as_it_was_written(store: LifeStore) -> None:
    live(store, 1, 2)
    [found] = lives_of(store)
    assert Life.model_validate(found.model_dump(mode="json")) == found
