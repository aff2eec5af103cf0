"""Ids of lives and attempts. A *life* is one start of the program; an *attempt* is one try at a unit, ``<life>-<n>``.

In: the environment, the clock, random bytes. Out: ids. On disk: attempt ids are in the names of temporary files and in
records. SLURM restarts a requeued job under its old job id, so the restart count is part of a life's id.
"""

from collections.abc import Mapping

from shards.disk.record import ATTEMPT_PATTERN

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def base36(number: int) -> str:
    """The number in digits 0-9 and a-z; it must not be negative."""
    text = DIGITS[number % 36]
    while number := number // 36:
        text = DIGITS[number % 36] + text
    return text


def life_id(environ: Mapping[str, str], seconds: float, noise: bytes) -> str:
    """``"s81234-1-x3k9f2ab"`` under SLURM, ``"t9wz1c0-x3k9f2ab"`` elsewhere; ``noise`` is at least 5 random bytes."""
    tail = base36(int.from_bytes(noise[:5], "big"))
    job = environ.get("SLURM_JOB_ID", "")
    if job.isdecimal() and len(job) <= 12:
        restarts = environ.get("SLURM_RESTART_COUNT", "0")
        return f"s{job}-{restarts if restarts.isdecimal() and len(restarts) <= 5 else '0'}-{tail}"
    return f"t{base36(max(0, int(seconds)))}-{tail}"  # a clock may be set before 1970


def submission_id(environ: Mapping[str, str], life: str) -> str:
    """What a person submitted once and this life is a part of: under SLURM the job, all tasks of an array and all
    restarts of it; elsewhere the life itself."""
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_JOB_ID"):
        job = environ.get(name, "")
        if job.isascii() and job.isdecimal() and len(job) <= 12:
            return f"s{job}"
    return life


def attempt_id(life: str, number: int) -> str:
    """The id of a life's attempt ``number``; `ATTEMPT_PATTERN` matches it, so it is safe in file names."""
    attempt = f"{life}-{base36(number)}"
    assert ATTEMPT_PATTERN.fullmatch(attempt), attempt
    return attempt
