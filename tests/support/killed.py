"""A run that ends at its n-th step, as if the process had been killed there: nothing but `finally` runs."""

import os
from collections.abc import Callable
from typing import Any

import pytest


class Killed(BaseException):
    """Stands for the end of the process."""


def killed_at(monkeypatch: pytest.MonkeyPatch, number: int, *steps: tuple[Any, str]) -> None:
    """The `number`-th call of one of `steps` (owner, name), or of fsync or rename of a file replaced whole, ends it."""
    left = [number]

    def counting(what: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return what(*arguments, **named)

        return step

    monkeypatch.setattr("shards.disk.replace.os.fsync", counting(os.fsync))
    monkeypatch.setattr("shards.disk.replace.os.replace", counting(os.replace))
    for owner, name in steps:
        monkeypatch.setattr(owner, name, counting(getattr(owner, name)))
