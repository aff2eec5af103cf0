"""A unit whose judge is slow beats as long as the judge is within its own deadline, and no longer."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gen.edit.judge.judge import Judge, JudgeLost, VlmJudge, longest_s, open_judge
from gen.edit.judge.spec import JudgeSpec
from gen.llm.ask import Answer, Ask, LlmUse
from gen.llm.spec import LlmSpec
from gen.make.maker import Made, Picture
from gen.make.plan import Sample
from gen.make.refill import ShardSpec, UnitJob, UnitWorker
from shards.disk.layout import SUCCESS
from shards.disk.store import FolderStore, open_store
from shards.set.manifest import scan_records
from tests.gen.edit.judge.test_budget import QUESTIONS, Edits, picture_of
from tests.support.painter import FINGERPRINT
from tests.support.scripted_server import Reply, ScriptedServer
from tests.support.small_edits import edit, judged_by, rows

SLOW_S = 3.0
LOOK_S = 0.1


class LateEdits(Edits):
    """The judge is asked where the pixels are waited for, as `gen.edit.alter` does."""

    call_size = 2

    def samples(self, unit: int) -> Sequence[Sample]:
        return super().samples(unit)[:2]

    def make(self, pairs: Sequence[tuple[Sample, int]], alive: Callable[[float], None]) -> Made:
        images = [picture_of(*pair) for pair in pairs]

        def wait(seconds: float) -> None:
            self.judge.verdicts([(image, QUESTIONS) for image in images])

        return Made(wait, lambda place: Picture(images[place], SUCCESS))


class Silent:
    """A model that does not answer, and does not keep its own deadline either."""

    def __init__(self) -> None:
        self.told = threading.Event()

    def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        self.told.wait(SLOW_S)
        raise RuntimeError("gone")

    @property
    def use(self) -> LlmUse:
        return LlmUse(1, 0, 0, {}, 1, {}, 0, 0)


def make_one(out: Path, spec: JudgeSpec, judge: Judge, beats: list[float]) -> None:
    """A unit of two edits; `beats` gets when it beat, in seconds from its start."""
    store = open_store(str(out))
    assert isinstance(store, FolderStore)
    job = UnitJob(out=str(out), fingerprint=FINGERPRINT, shards=ShardSpec())
    worker = UnitWorker(job, LateEdits(spec, judge), store, is_waiting=lambda: judge.is_waiting)
    begun = time.monotonic()
    worker(0, "t-1", lambda *told: beats.append(time.monotonic() - begun))


def vlm(tmp_path: Path, server: ScriptedServer, **llm: Any) -> JudgeSpec:
    fields = {"provider": "openai", "model": "m", "base_url": server.base_url, "cache": str(tmp_path / "llm.sqlite")}
    return JudgeSpec.model_validate({"kind": "vlm", "llm": fields | llm})


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gen.make.refill.LOOK_S", LOOK_S)


def test_a_unit_beats_while_its_judge_takes_long(tmp_path: Path) -> None:
    beats: list[float] = []
    with ScriptedServer(lambda request: Reply('{"answer": "yes"}', delay_s=SLOW_S)) as server:
        spec = vlm(tmp_path, server)
        with open_judge(spec) as judge:
            make_one(tmp_path / "set", spec, judge, beats)
    assert sum(0.5 < beat < SLOW_S for beat in beats) >= 5, "before any answer can have come"
    assert len(scan_records(open_store(str(tmp_path / "set")))) == 1


def test_a_judge_that_never_answers_is_lost_by_its_own_deadline_and_the_unit_beats_until_then(tmp_path: Path) -> None:
    beats: list[float] = []
    with ScriptedServer(lambda request: Reply(hangs=True)) as server:
        spec = vlm(tmp_path, server, timeout_s=2, tries=2, backoff_s=0.1, give_up_after=1)
        with open_judge(spec) as judge:
            with pytest.raises(JudgeLost):
                make_one(tmp_path / "set", spec, judge, beats)
            assert not judge.is_waiting
    assert any(beat > 2 for beat in beats), "in the second try"


def test_a_judge_that_does_not_keep_its_deadline_is_silent_after_it(tmp_path: Path) -> None:
    llm = LlmSpec(provider="openai", model="m", base_url="http://127.0.0.1:9/v1", timeout_s=0.5, tries=1)
    assert longest_s(llm, 8) == 0.5
    spec, beats = JudgeSpec(kind="vlm", llm=llm), list[float]()
    with pytest.raises(RuntimeError, match="gone"):
        make_one(tmp_path / "set", spec, VlmJudge(spec, Silent()), beats)
    assert beats[-1] < SLOW_S - 1, "it was silent for twice as long as it may be"


def test_the_longest_time_counts_rounds_tries_and_waits() -> None:
    llm = LlmSpec(provider="openai", model="m", max_in_flight=4, timeout_s=10, tries=3, max_wait_s=5)
    assert longest_s(llm, 4) == 40
    assert longest_s(llm, 5) == 80
    local = LlmSpec(provider="transformers", model="m", max_in_flight=4, timeout_s=10, tries=1)
    assert longest_s(local, 5) == 50


# diffusers' own, under NumPy 2
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_run_whose_judge_is_slower_than_the_stall_deadline_comes_through(tmp_path: Path) -> None:
    stall_s = 2.0
    with ScriptedServer(lambda request: Reply('{"answer": "yes"}', delay_s=2 * stall_s)) as server:
        body = judged_by(server.base_url, tmp_path)
        cluster = {**body["cluster"], "stall_deadline_s": stall_s}
        sampler = {"steps": 2, "batch": 2}
        outcome = edit(body, tmp_path / "out", 1, source={"per_class": 1}, sampler=sampler, cluster=cluster)
    assert outcome.exit_code == 0
    assert outcome.work is not None
    assert outcome.work.retried == 0
    assert [row["status"] for row in rows(tmp_path / "out")] == ["success"] * 3
