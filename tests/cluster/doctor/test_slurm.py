"""SLURM as a person finds it: whole, in part, slow, failing, and not there. Its commands are small scripts."""

import contextlib
import os
import time
from pathlib import Path

import psutil
import pytest

from cluster.doctor.check import Check
from cluster.doctor.slurm import COMMANDS, MOST_PARTITIONS, slurm

UP = "echo 'Slurmctld(primary) at head is UP'"
CONFIG = """cat <<'END'
Configuration data as of 2026-11-30T07:00:00
JobRequeue              = 1
KillWait                = 30 sec
MailDomain              =
PreemptMode             = REQUEUE
SLURM_VERSION           = 24.05.3
END"""
SCONTROL = f"if [ $1 = ping ]; then {UP}; else {CONFIG}\nfi"
SINFO = "echo 'gpu*|up|2-00:00:00|12|gpu:h100:8'; echo 'debug|down|30:00|1|(null)'"
WHOLE = {**dict.fromkeys(COMMANDS, "exit 0"), "scontrol": SCONTROL, "sinfo": SINFO}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The only folder on PATH, but for those of the shell's own programs."""
    (tmp_path / "bin").mkdir()
    for name in ("cat", "sleep"):
        (tmp_path / "bin" / name).symlink_to(f"/bin/{name}")
    return tmp_path / "bin"


def checks(folder: Path, scripts: dict[str, str], within_s: float = 10.0, **environ: str) -> dict[str, Check]:
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return {check.name: check for check in slurm({"PATH": str(folder), **environ}, within_s)}


def alive_in(group: int) -> list[int]:
    """The processes of a group that are no zombies."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def test_a_slurm_that_answers_is_described(folder: Path) -> None:
    found = checks(folder, WHOLE)
    assert {check.verdict for check in found.values()} == {"ok"}
    assert found["SLURM controller"].found == "Slurmctld(primary) at head is UP"
    assert found["SLURM settings"].found == "SLURM_VERSION 24.05.3, JobRequeue 1, KillWait 30 sec, PreemptMode REQUEUE"
    partitions = found["SLURM partitions"].found
    assert partitions == "gpu* (up, 2-00:00:00, 12 nodes, gpu:h100:8), debug (down, 30:00, 1 node)"


def test_a_machine_without_slurm_is_fine_unless_this_is_a_job(folder: Path) -> None:
    assert checks(folder, {})["SLURM"].verdict == "ok"
    inside = checks(folder, {}, SLURM_JOB_ID="81")["SLURM"]
    assert inside.verdict == "bad"
    assert "module" in inside.advice


@pytest.mark.parametrize(("environ", "verdict"), [({}, "note"), ({"SLURM_JOB_ID": "81"}, "bad")])
def test_c5_commands_that_are_missing_are_named(folder: Path, environ: dict[str, str], verdict: str) -> None:
    some = {name: script for name, script in WHOLE.items() if name not in ("sbatch", "scontrol")}
    found = checks(folder, some, **environ)
    assert (found["SLURM commands"].verdict, found["SLURM commands"].found) == (verdict, "no sbatch, no scontrol")
    assert "SLURM controller" not in found
    assert found["SLURM partitions"].verdict == "ok"


@pytest.mark.parametrize("ending", ["sleep 30", "sleep 30 & sleep 30 & wait", "trap '' TERM; sleep 30"])
def test_c5_a_slow_controller_is_a_line_at_the_deadline_and_nothing_goes_on_behind_it(
    folder: Path, ending: str
) -> None:
    began = time.monotonic()
    mark = folder / "pids"
    script = f"echo $$ >> {mark}\n{ending}"
    found = checks(folder, {**WHOLE, "scontrol": script}, within_s=0.5, SLURM_JOB_ID="81")
    assert time.monotonic() - began < 5
    assert found["SLURM controller"].found == "no answer within 0.5 s"
    assert (found["SLURM controller"].verdict, "SLURM partitions" in found) == ("bad", False)
    [leader] = map(int, mark.read_text().split())
    deadline = time.monotonic() + 5
    while alive_in(leader):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'slurm_load_jobs error: Unable to contact' >&2; exit 1", "ended with 1: slurm_load_jobs error"),
        ("echo 'Slurmctld(primary) at head is DOWN'", "Slurmctld(primary) at head is DOWN"),
        ("kill -9 $$", "was ended by signal 9: it says nothing"),
        ("printf '\\033[31mred\\n\\377' >&2; exit 3", "ended with 3: "),
    ],
)
def test_c5_a_controller_that_fails_is_told_in_one_line(folder: Path, script: str, said: str) -> None:
    found = checks(folder, {**WHOLE, "scontrol": script})["SLURM controller"]
    assert (found.verdict, found.found.startswith(said)) == ("note", True), found
    assert found.found.isprintable()
    assert found.advice


def test_settings_that_end_long_runs_come_with_what_to_submit(folder: Path) -> None:
    config = CONFIG.replace("JobRequeue              = 1", "JobRequeue = 0").replace("= 30 sec", "= 5 sec")
    found = checks(folder, {**WHOLE, "scontrol": f"if [ $1 = ping ]; then {UP}; else {config}\nfi"})["SLURM settings"]
    assert found.verdict == "note"
    assert "--requeue" in found.advice
    assert "--signal=B:USR1@120" in found.advice


def test_settings_and_partitions_that_cannot_be_had_are_notes(folder: Path) -> None:
    found = checks(folder, {**WHOLE, "scontrol": f"[ $1 = ping ] && {UP}", "sinfo": "exit 7"})
    for name in ("SLURM settings", "SLURM partitions"):
        assert found[name].verdict == "note"
        assert "ended with" in found[name].found


def test_partitions_are_a_bounded_line_and_none_that_is_up_is_worth_a_note(folder: Path) -> None:
    many = "; ".join(f"echo 'p{number}|down|1:00|2|(null)'" for number in range(500))
    found = checks(folder, {**WHOLE, "sinfo": f"{many}; echo nonsense"})["SLURM partitions"]
    assert found.verdict == "note"
    assert found.found.endswith(f"and {500 - MOST_PARTITIONS} more")
    assert len(found.found) < 1500
