"""A finding of the doctor. In and on disk: nothing."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, whether it is good enough, what was found, and what to do about it."""

    name: str
    verdict: Literal["ok", "note", "bad"]
    found: str
    advice: str = ""


def check(name: str, is_good: bool, found: str, advice: str, otherwise: Literal["note", "bad"] = "bad") -> Check:
    """Ok, or `otherwise` with the advice."""
    return Check(name, "ok", found) if is_good else Check(name, otherwise, found, advice)
