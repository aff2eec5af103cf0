"""A table of an edited set is lost: what its tar says is written again, and what a language model judged is never
replaced by other edits unless a person gives it up."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import sixfold
from shards.disk.store import open_for_reading
from shards.set.manifest import scan_records
from shards.set.verify import verify
from tests.gen.edit.judge.test_judge import seen
from tests.support.scripted_server import Reply, ScriptedServer
from tests.support.small_edits import all_bytes, edit, judged_by

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Mood:
    """What the judge's model says: no to the first `dislikes` images that it sees, yes to all others."""

    def __init__(self) -> None:
        self.dislikes = 0
        self._images: list[bytes] = []

    def __call__(self, request: dict[str, Any]) -> Reply:
        pixels = seen(request)[0].tobytes()
        if pixels not in self._images:
            self._images.append(pixels)
        return Reply(json.dumps({"answer": "no" if pixels in self._images[: self.dislikes] else "yes"}))


@pytest.fixture
def mood() -> Mood:
    return Mood()


@pytest.fixture
def body(tmp_path: Path, mood: Mood) -> Iterator[dict[str, Any]]:
    with ScriptedServer(mood) as server:
        recipe = judged_by(server.base_url, tmp_path)
        recipe["source"] |= {"per_class": 1}
        recipe["sampler"] |= {"steps": 2, "batch": 3}
        recipe["shards"] |= {"samples_per_shard": 2}
        yield recipe


def with_rejected_draws(out: Path) -> int:
    """A shard that has some."""
    records = scan_records(open_for_reading(str(out)))
    return next(shard for shard, record in records.items() if record.count > record.successes)


def forget(tmp_path: Path) -> None:
    """The answers so far."""
    for path in tmp_path.glob("llm.*"):
        path.unlink()


def test_a_table_without_rejected_draws_is_written_again_and_no_edit_is_made(
    body: dict[str, Any], mood: Mood, tmp_path: Path
) -> None:
    assert edit(body, tmp_path / "out").exit_code == 0
    before = all_bytes(tmp_path / "out")
    (tmp_path / "out" / "00001.parquet").unlink()
    forget(tmp_path)
    mood.dislikes = 1000
    assert edit(body, tmp_path / "out").made_units == 0
    assert all_bytes(tmp_path / "out") == before
    assert verify(open_for_reading(str(tmp_path / "out"))).damages == ()


def test_other_tables_stop_the_run_until_a_person_gives_the_shard_up(
    body: dict[str, Any], mood: Mood, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    mood.dislikes = 1
    assert edit(body, out).exit_code == 0
    shard = with_rejected_draws(out)
    (out / f"{shard:05d}.parquet").unlink()
    before = all_bytes(out)
    forget(tmp_path)
    mood.dislikes = 0
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"{shard:05d}.parquet: found no such file, .*; a language model judged"):
            edit(body, out)
        assert all_bytes(out) == before
        assert not (out / "_meta" / "quarantine").exists()
    said = CliRunner().invoke(sixfold.command_line(), ["repair", str(out)])
    assert f"shard {shard:05d}: moved to _meta/quarantine/000001" in said.output
    assert "may come out otherwise; the old ones are in _meta/quarantine" in said.output
    assert edit(body, out).made_units == 1
    kept = out / "_meta" / "quarantine" / "000001" / f"{shard:05d}.tar"
    assert kept.read_bytes() == before[kept.name] != all_bytes(out)[kept.name]
    assert verify(open_for_reading(str(out))).damages == ()


def test_edits_that_come_out_the_same_are_made_again(body: dict[str, Any], tmp_path: Path) -> None:
    how = {**body["edit"], "masks": {"order": ["otsu"], "greatest_area": 0.25}, "judge": {"kind": "none"}}
    shards = {"samples_per_shard": 3}
    assert edit(body, tmp_path / "out", edit=how, shards=shards).exit_code == 3, "one picture has no mask"
    before = all_bytes(tmp_path / "out")
    shard = with_rejected_draws(tmp_path / "out")
    (tmp_path / "out" / f"{shard:05d}.parquet").unlink()
    assert edit(body, tmp_path / "out", edit=how, shards=shards).made_units == 1
    assert all_bytes(tmp_path / "out") == before
