"""What a kill leaves: a run that ends at its n-th step, where nothing but `finally` runs, and a folder as such a run
left it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shards.disk.layout import record_name, shard_name, table_name, tar_name
from shards.disk.store import CLAIMS, TMP, open_for_reading
from shards.set.manifest import scan_records


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


def leave_claims_alone(folder: Path) -> None:
    """Takes every shard back to the moment behind its claim: tar and table are temporaries, no record is published."""
    for shard, record in scan_records(open_for_reading(str(folder))).items():
        stem = folder / TMP / f"{shard_name(shard)}.{record.attempt}"
        (folder / tar_name(shard)).rename(f"{stem}.tar")
        (folder / table_name(shard)).rename(f"{stem}.parquet")
        (folder / record_name(shard)).rename(folder / CLAIMS / f"{shard_name(shard)}.json")
