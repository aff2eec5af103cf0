"""The budget of tries counts at each output: in the refill loop, with judges that do as the test says."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gen.edit.judge.judge import Judge, JudgeLost, draws_of, open_judge
from gen.edit.judge.question import Question
from gen.edit.judge.spec import JudgeSpec
from gen.make.maker import Made, Picture
from gen.make.plan import Sample, sample_uid
from gen.make.refill import ShardSpec, UnitJob, UnitWorker
from shards.disk.jpeg import SourceType
from shards.disk.record import read_record
from shards.disk.store import FolderStore, open_store
from shards.set.manifest import read_table
from tests.gen.edit.judge.test_judge import seen
from tests.support.painter import FINGERPRINT, RUN_SEED, no_beat, paint
from tests.support.scripted_server import Reply, ScriptedServer

QUESTIONS = [Question(f"Question {number}?", "visible" if number < 2 else "plausible", True) for number in range(4)]
NUM_SOURCES, PER_SOURCE = 3, 5  # five outputs of each real image, as in the paper


class Edits:
    """A Maker of edited images: output r of source s, accepted or not by a judge."""

    call_size = 4
    source_type: SourceType | None = "trainedAlgorithmicMedia"
    advice_on_memory = "expected room for 4 pictures; edit fewer"
    advice_on_failure = "look at the answers"

    def __init__(self, spec: JudgeSpec, judge: Judge) -> None:
        self.spec, self.judge = spec, judge

    def samples(self, unit: int) -> Sequence[Sample]:
        places = [(source, output) for source in range(NUM_SOURCES) for output in range(PER_SOURCE)]
        return [Sample(slot, 0, source, output) for slot, (source, output) in enumerate(places)]

    def prepare(self, samples: Sequence[Sample]) -> None:
        pass

    def num_draws(self, sample: Sample) -> int | None:
        return draws_of(self.spec)

    def make(self, pairs: Sequence[tuple[Sample, int]], alive: Callable[[float], None]) -> Made:
        images = [picture_of(*pair) for pair in pairs]
        verdicts = self.judge.verdicts([(image, QUESTIONS) for image in images])

        def picture(place: int) -> Picture:
            verdict = verdicts[place]
            return Picture(images[place], verdict.status, verdict.error, {"sampler": verdict.json_text()})

        return Made(lambda timeout_s: None, picture)

    def row(self, sample: Sample, draw: int) -> Mapping[str, object]:
        identity = (sample.class_id, sample.prompt_id, sample.replicate)
        names = dict(zip(("class_id", "prompt_id", "replicate"), identity, strict=True))
        return {
            **names,
            "uid": sample_uid(RUN_SEED, *identity, draw),
            "domain": "edited",
            "class_name": "zero",
            "caption": "zero, edited",
        }


def picture_of(sample: Sample, draw: int) -> NDArray[np.uint8]:
    """Another picture for each draw; the first three pixels say which."""
    image = paint(1000 * sample.prompt_id + 100 * sample.replicate + draw)
    image[0, :3, 0] = (sample.prompt_id, sample.replicate, draw)
    return image


class Script:
    """A judge's server: `rights(source, output, draw)` of the four questions are answered as expected."""

    def __init__(self, rights: Callable[[int, int, int], int]) -> None:
        self.rights = rights

    def __call__(self, request: dict[str, Any]) -> Reply:
        image, question = seen(request)
        number = int(question.split()[1].rstrip("?"))
        return Reply(json.dumps({"answer": "yes" if number < self.rights(*map(int, image[0, :3, 0])) else "no"}))


def made(
    rights: Callable[[int, int, int], int], out: Path, budget: int = 3, max_draws: int = 100
) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
    """The summary of one unit, its rows, and how many slots are short."""
    with ScriptedServer(Script(rights)) as server:
        llm = {"provider": "openai", "model": "m", "base_url": server.base_url, "cache": str(out / "llm.sqlite")}
        spec = JudgeSpec(kind="vlm", llm=llm, budget=budget)
        store = open_store(str(out / "set"))
        assert isinstance(store, FolderStore)
        job = UnitJob(out=str(out / "set"), fingerprint=FINGERPRINT, shards=ShardSpec(max_draws=max_draws))
        with open_judge(spec) as judge:
            summary = UnitWorker(job, Edits(spec, judge), store)(0, "t-1", no_beat)
    record = read_record(store, 0)
    assert record is not None
    return summary, read_table(store, [0]).to_pylist(), record.short


def tries(rows: list[dict[str, Any]]) -> dict[tuple[int, int], list[str]]:
    """(source, output) -> statuses of its draws, in order."""
    found: dict[tuple[int, int], list[str]] = {}
    for row in sorted(rows, key=lambda row: row["draw"]):
        found.setdefault((row["prompt_id"], row["replicate"]), []).append(row["status"])
    return found


def test_two_of_four_are_accepted_at_the_first_try(tmp_path: Path) -> None:
    _, rows, short = made(lambda source, output, draw: 2, tmp_path)
    assert {status for statuses in tries(rows).values() for status in statuses} == {"success"}
    assert (len(rows), short) == (15, 0)
    assert {json.loads(row["sampler"])["score"] for row in rows} == {0.5}


def test_an_output_is_short_when_its_tries_are_spent_and_is_never_accepted(tmp_path: Path) -> None:
    """One output of each source never becomes good; the code of the paper would accept it at the third try."""
    _, rows, short = made(lambda source, output, draw: 1 if output == 4 else 4, tmp_path)
    assert short == NUM_SOURCES
    for (_, output), statuses in tries(rows).items():
        assert statuses == (["rejected"] * 3 if output == 4 else ["success"])
    rejected = [row for row in rows if row["status"] == "rejected"]
    assert len(rejected) == 3 * NUM_SOURCES
    for row in rejected:
        told = json.loads(row["sampler"])
        assert told["score"] == 0.25
        assert [one["answer"] for one in told["answers"]] == ["yes", "no", "no", "no"]
        assert row["error_message"] == "1 of 4 questions answered as expected, fewer than 0.5 of them"


def test_tries_count_at_each_output_and_not_at_each_source(tmp_path: Path) -> None:
    """Every output of a source is rejected twice and good at its third try: ten rejections of a source, none short."""
    _, rows, short = made(lambda source, output, draw: 3 if draw == 2 else 0, tmp_path)
    assert short == 0
    assert set(map(tuple, tries(rows).values())) == {("rejected", "rejected", "success")}
    assert len(rows) == 3 * NUM_SOURCES * PER_SOURCE


@pytest.mark.parametrize(("budget", "max_draws", "least"), [(1, 100, 1), (4, 100, 4), (100, 2, 2)])
def test_no_more_tries_are_made_than_the_budget_and_the_shards_allow(
    budget: int, max_draws: int, least: int, tmp_path: Path
) -> None:
    _, rows, short = made(lambda source, output, draw: 0 if output else 4, tmp_path, budget, max_draws)
    assert short == 4 * NUM_SOURCES
    assert {len(statuses) for (_, output), statuses in tries(rows).items() if output} == {least}


def test_which_outputs_are_tried_again_is_a_matter_of_each_alone(tmp_path: Path) -> None:
    def luck(source: int, output: int, draw: int) -> int:
        return hashlib.sha256(f"{source}/{output}/{draw}".encode()).digest()[0] % 5

    _, rows, short = made(luck, tmp_path)
    expected: dict[tuple[int, int], list[str]] = {}
    for source in range(NUM_SOURCES):
        for output in range(PER_SOURCE):
            good = [luck(source, output, draw) >= 2 for draw in range(3)]
            num_bad = good.index(True) if any(good) else 3
            expected[source, output] = ["rejected"] * num_bad + ["success"] * (num_bad < 3)
    assert tries(rows) == expected
    assert short == sum(statuses[-1] != "success" for statuses in expected.values())


def test_a_judge_that_is_lost_ends_the_attempt_and_publishes_nothing(tmp_path: Path) -> None:
    with ScriptedServer(lambda request: Reply(status=503)) as server:
        llm = {"provider": "openai", "model": "m", "base_url": server.base_url, "cache": str(tmp_path / "llm.sqlite")}
        spec = JudgeSpec(kind="vlm", llm=llm | {"tries": 1})
        store = open_store(str(tmp_path / "set"))
        assert isinstance(store, FolderStore)
        job = UnitJob(out=str(tmp_path / "set"), fingerprint=FINGERPRINT)
        with open_judge(spec) as judge, pytest.raises(JudgeLost):
            UnitWorker(job, Edits(spec, judge), store)(0, "t-1", no_beat)
    assert read_record(store, 0) is None
    assert not list((tmp_path / "set").glob("*.tar"))
