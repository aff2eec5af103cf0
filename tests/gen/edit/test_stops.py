"""A stop is carried out soon, whoever an edit waits for: the store of its sources, or the server of its judge."""

import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from cluster.fan_out.work import FanOutSpec
from cluster.process.exit import Draining
from cluster.process.stop_flag import StopFlag
from gen.edit.judge.held import HeldJudge
from gen.edit.recipe import EditRecipe
from gen.edit.run import run
from gen.edit.sources import SourceReader
from gen.make.outcome import MakeOutcome
from gen.make.refill import ShardSpec, UnitJob, UnitWorker
from shards.disk.home import home
from shards.disk.store import open_store
from shards.set.manifest import scan_records
from tests.gen.edit.judge.test_beats import LateEdits, vlm
from tests.support.painter import FINGERPRINT, no_beat
from tests.support.scripted_server import Reply, ScriptedServer
from tests.support.small_edits import judged_by, recipe_of, write_classes, write_real

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

DRAIN_S = FanOutSpec().drain_s
SLOW_S = 4 * DRAIN_S


def made_with(body: dict[str, Any], out: Path, stop: StopFlag) -> MakeOutcome:
    return run(EditRecipe.model_validate(body), Fraction(1), str(out), home(), stop, say=lambda line: None)


def test_a_run_whose_sources_are_slow_stops_before_they_are_all_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before the one that is being read has come: its store may not answer for minutes."""
    stop, over, asked = StopFlag(), threading.Event(), []
    body = recipe_of(write_real(tmp_path / "real"), write_classes(tmp_path / "c.csv"), {"kind": "perturb", "gamma": 0})

    def slow(reader: SourceReader, row: int) -> bytes:
        asked.append(time.monotonic())
        stop.request("test")
        over.wait(SLOW_S)
        raise ValueError("too late")

    monkeypatch.setattr(SourceReader, "bytes_of", slow)
    with pytest.raises(Draining, match=r"stopped on request \(test\)"):
        made_with(body, tmp_path / "out", stop)
    assert time.monotonic() - asked[0] < DRAIN_S
    over.set()


def test_a_run_whose_judge_is_slow_stops_before_it_has_answered(tmp_path: Path) -> None:
    stop, asked = StopFlag(), []

    def late(request: dict[str, Any]) -> Reply:
        asked.append(time.monotonic())
        stop.request("test")
        return Reply('{"answer": "yes"}', delay_s=SLOW_S)

    with ScriptedServer(late) as server:
        body = judged_by(server.base_url, tmp_path)
        body |= {"source": {**body["source"], "per_class": 1}, "sampler": {**body["sampler"], "steps": 2, "batch": 2}}
        outcome = made_with(body, tmp_path / "out", stop)
        took_s = time.monotonic() - asked[0]
    assert outcome.work is not None
    assert outcome.work.drained
    assert took_s < DRAIN_S


def test_a_worker_whose_unit_was_given_up_asks_the_judge_again_for_the_next_one(tmp_path: Path) -> None:
    """Of two attempts at a unit the slower one is dropped, and its worker goes on."""
    calls: list[float] = []

    def first_one_late(request: dict[str, Any]) -> Reply:
        calls.append(time.monotonic())
        return Reply('{"answer": "yes"}', delay_s=SLOW_S if len(calls) <= 16 else 0)

    def drop(done: int, rejected: int, under_way: float = 0.0) -> None:
        if calls:
            raise Draining

    with ScriptedServer(first_one_late) as server:
        judge = HeldJudge(vlm(tmp_path, server))
        job = UnitJob(out=str(tmp_path / "set"), fingerprint=FINGERPRINT, shards=ShardSpec())
        store = open_store(str(tmp_path / "set"))
        edits = LateEdits(judge.spec, judge)
        worker = UnitWorker(job, edits, store, is_waiting=lambda: judge.is_waiting, stopping=judge.stopped)
        with pytest.raises(Draining):
            worker(0, "t-1", drop)
        assert time.monotonic() - calls[0] < DRAIN_S
        calls += [0.0] * 16
        assert worker(0, "t-2", no_beat)["images"] == 2
        judge.close()
    assert len(scan_records(store)) == 1
