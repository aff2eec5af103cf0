"""A Maker of another kind gets what the refill loop gives, without a line in the loop: here, images that are retrieved.

Its draws are the candidates of a class, best first, and they end. What does not come, or is no JPEG, is a row.
"""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.process.exit import Draining
from gen.make.maker import Made, Picture
from gen.make.plan import sample_uid
from gen.make.refill import ShardSpec, UnitJob, UnitWorker
from gen.make.regenerate import regenerate_some
from shards.disk.home import home
from shards.disk.jpeg import SourceType, decode_jpeg, encode_jpeg, read_source_type
from shards.disk.layout import SUCCESS, sample_key
from shards.disk.record import read_record
from shards.disk.store import open_store
from shards.set.manifest import read_member, read_table, scan_records
from shards.set.verify import verify
from tests.support.painter import no_beat, paint

Found = bytes | np.ndarray | None  # what is at an address: a file, pixels in memory, nothing


@dataclass(frozen=True)
class Wanted:
    """The number-th image of a class."""

    class_id: int
    number: int


class Retriever:
    """A Maker: draw k of the number-th of n images is candidate number + k * n of its class."""

    call_size = 6
    source_type: SourceType | None = None  # photographs say nothing
    advice_on_memory = "expected room for 6 files; fetch fewer at once"
    advice_on_failure = "check the network"

    def __init__(self, candidates: Mapping[int, Sequence[str]], web: Mapping[str, Found], per_class: int) -> None:
        self.candidates, self.web, self.per_class = candidates, web, per_class
        self.calls = 0

    def samples(self, unit: int) -> Sequence[Wanted]:
        return [Wanted(class_id, number) for number in range(self.per_class) for class_id in sorted(self.candidates)]

    def prepare(self, samples: Sequence[Wanted]) -> None:
        pass

    def num_draws(self, sample: Wanted) -> int:
        return len(self.candidates[sample.class_id][sample.number :: self.per_class])

    def _url(self, sample: Wanted, draw: int) -> str | None:
        mine = self.candidates[sample.class_id][sample.number :: self.per_class]
        return mine[draw] if draw < len(mine) else None

    def make(self, pairs: Sequence[tuple[Wanted, int]], alive: Callable[[float], None]) -> Made:
        self.calls += 1
        urls = [self._url(*pair) for pair in pairs]  # a true one starts its downloads here
        return Made(lambda timeout_s: None, lambda place: self._picture(urls[place]))

    def _picture(self, url: str | None) -> Picture:
        if url is None:
            return Picture(None, "no_candidate", "the pool has no picture for it")
        found = self.web.get(url)
        if found is None:
            return Picture(None, "failed_to_download", f"HTTP 404 of {url}")
        if isinstance(found, np.ndarray):
            return Picture(found)
        try:
            image = decode_jpeg(found)
        except ValueError as error:
            return Picture(None, "failed_to_decode", str(error))
        height, width = image.shape[:2]
        seen = {"original_width": width, "original_height": height}
        if image.mean() > 200:
            return Picture(image, "low_score", "not what was looked for", {**seen, "similarity": 0.125})
        return Picture(image, columns={**seen, "exif": "{}"}, jpeg=found)

    def row(self, sample: Wanted, draw: int) -> Mapping[str, object]:
        about = {"uid": sample_uid(0, sample.class_id, sample.number, 0, draw), "url": self._url(sample, draw)}
        names = {"class_id": sample.class_id, "class_name": f"class {sample.class_id}", "caption": "a photo"}
        return {**names, **about, "domain": "retrieved", "licence": "CC-BY-4.0"}


def jpeg(seed: int, quality: int = 70) -> bytes:
    return encode_jpeg(paint(seed), quality, "420", None)


def retriever() -> Retriever:
    """Class 0 has more than enough, class 1 ends early, class 2 has one picture; 8 of each are wanted."""
    web: dict[str, Found] = {f"0/{place}": jpeg(place) for place in range(40)}
    web |= {f"0/{place}": None for place in (0, 8, 16, 3)}  # the first sample needs its fourth candidate
    web["0/1"] = b"\xff\xd8 torn"
    web["0/2"] = np.zeros((50, 70, 3), np.uint8)
    web["0/5"] = encode_jpeg(np.full((32, 32, 3), 255, np.uint8), 70, "420", None)
    web["0/4"] = np.ascontiguousarray(paint(4)[:, :20])
    web |= {f"1/{place}": jpeg(100 + place) if place % 3 else None for place in range(12)}
    web["2/0"] = jpeg(200)
    pools = {class_id: [url for url in web if url.startswith(f"{class_id}/")] for class_id in range(3)}
    return Retriever(pools, web, per_class=8)


def worker(out: Path) -> UnitWorker[Wanted]:
    job = UnitJob(out=str(out), fingerprint="a" * 64, shards=ShardSpec(max_draws=5))
    return UnitWorker(job, retriever(), open_store(str(out)))


def files_of(out: Path) -> list[bytes]:
    return [(out / f"00000.{kind}").read_bytes() for kind in ("tar", "parquet")]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("calm")
    worker(out)(0, "t-calm", no_beat)
    return out


def rows_of(out: Path) -> list[dict[str, Any]]:
    return read_table(open_store(str(out)), [0]).to_pylist()


def test_a_rejected_candidate_is_followed_by_the_next_and_every_one_has_a_row(calm: Path) -> None:
    rows = {row["key"]: row for row in rows_of(calm)}
    first = [row for row in rows.values() if row["class_id"] == 0 and row["url"] in ("0/0", "0/8", "0/16", "0/24")]
    assert [(row["draw"], row["status"]) for row in sorted(first, key=lambda row: row["draw"])] == [
        *((draw, "failed_to_download") for draw in range(3)),
        (3, SUCCESS),
    ]
    assert rows[sample_key(0, 0)]["url"] == "0/24"
    reasons = {row["url"]: (row["status"], row["error_message"]) for row in rows.values()}
    assert reasons["0/0"] == ("failed_to_download", "HTTP 404 of 0/0")
    assert reasons["0/1"][0] == "failed_to_decode"
    assert reasons["0/2"] == ("black", "dark and without structure"), "the loop's own screen"
    low = next(row for row in rows.values() if row["url"] == "0/5")
    assert (low["status"], low["similarity"], low["original_width"], low["width"]) == ("low_score", 0.125, 32, None)
    assert {row["domain"] for row in rows.values()} == {"retrieved"}


def test_a_sample_whose_candidates_end_is_short_and_one_without_any_says_so(calm: Path) -> None:
    rows = rows_of(calm)
    images = Counter(row["class_id"] for row in rows if row["status"] == SUCCESS)
    tried = Counter(row["class_id"] for row in rows)
    assert images == {0: 8, 1: 7, 2: 1}, "of class 1, numbers 0 and 3 have a second candidate, number 6 has none"
    assert (tried[1], tried[2]) == (10, 8)
    assert [row["status"] for row in rows if row["class_id"] == 2 and row["status"] != SUCCESS] == ["no_candidate"] * 7
    record = read_record(open_store(str(calm)), 0)
    assert record is not None
    assert (record.slots, record.successes, record.short) == (24, 16, 8)
    assert not verify(open_store(str(calm))).damages


def test_a_file_is_stored_as_it_came_and_pixels_are_encoded_without_a_claim_to_be_synthetic(calm: Path) -> None:
    store = open_store(str(calm))
    stored = {row["url"]: (row, read_member(store, row)) for row in rows_of(calm) if row["status"] == SUCCESS}
    row, data = stored["0/24"]
    assert data == jpeg(24)
    assert (row["original_width"], row["exif"]) == (32, "{}")
    row, data = stored["0/4"]
    assert (row["width"], row["height"], row["original_width"]) == (20, 32, None)
    assert np.abs(decode_jpeg(data).astype(int) - paint(4)[:, :20]).mean() < 3
    assert {read_source_type(data) for _, data in stored.values()} == {None}
    assert json.loads(read_member(store, row, "json"))["domain"] == "retrieved"


def test_a_stop_a_kill_and_another_process_leave_the_same_bytes(calm: Path, tmp_path: Path) -> None:
    def stop(done: int, rejected: int, under_way: float = 0.0) -> None:
        raise Draining

    with pytest.raises(Draining):
        worker(tmp_path)(0, "t-stopped", stop)
    code = (
        "import os, signal, sys; from pathlib import Path; from tests.gen.make.test_another_maker import *\n"
        "calls = [0]\n"
        "def die(done, rejected, under_way=0.0):\n"
        "    calls[0] += 1\n"
        "    if calls[0] == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "worker(Path(sys.argv[1]))(0, 't-killed', die)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=home(), timeout=300, env=dict(os.environ))
    assert ended.returncode == -signal.SIGKILL
    assert not list(tmp_path.glob("*_stats.json"))
    worker(tmp_path)(0, "t-again", no_beat)
    assert files_of(tmp_path) == files_of(calm)


def test_what_is_published_is_not_fetched_again_and_can_be_made_again(calm: Path) -> None:
    again = worker(calm)
    maker = again.maker
    assert isinstance(maker, Retriever)
    assert again(0, "t-late", no_beat)["images"] == 16
    assert maker.calls == 0
    compared = regenerate_some(again, scan_records(again.store), 16, seed=3)
    assert len(compared) == 16
    assert all(one.same_bytes for one in compared)
