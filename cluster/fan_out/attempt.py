"""Names of lives and attempts.

In: the environment, the clock, random bytes. Out: a *life* id, unique per start of the program; attempts are
``<life>-<n>``. On disk: attempt ids appear in the names of temporaries and in records.
SLURM restarts a requeued job under its old job id, so the restart count is part of the name.
"""

import re
from collections.abc import Mapping

ATTEMPT_PATTERN = re.compile(r"[0-9a-z-]{1,40}")
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def base36(number: int) -> str:
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
    return f"t{base36(int(seconds))}-{tail}"


def attempt_id(life: str, number: int) -> str:
    attempt = f"{life}-{base36(number)}"
    assert ATTEMPT_PATTERN.fullmatch(attempt), attempt
    return attempt
