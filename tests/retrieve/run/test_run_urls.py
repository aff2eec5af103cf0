"""A retrieved data set of a pool that holds addresses alone, through the real img2dataset and a local web server."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.process.stop_flag import StopFlag
from gen.make.outcome import MakeOutcome
from retrieve.download.fetch import Fetched
from retrieve.download.gate import Gate
from retrieve.download.spec import DownloadSpec
from retrieve.make import from_urls
from retrieve.make.candidates import CANDIDATES, CandidateTable
from retrieve.pool.describe import describe
from retrieve.pool.images import PoolImages
from retrieve.pool.pool import open_pool
from retrieve.pool.spec import PoolSpec
from retrieve.run import run as running
from retrieve.run.recipe import RetrieveRecipe, identity
from retrieve.run.run import look, run
from sandbox import captions, pool
from sandbox.world import CLASS_NAMES
from shards.disk.home import home
from shards.disk.store import FolderStore, open_for_reading
from shards.set.manifest import read_table, scan_records
from shards.set.repair import repair
from shards.set.verify import verify
from tests.support.img2dataset import needs_img2dataset, started_by
from tests.support.picture_server import PictureServer

ROWS = 200


@dataclass(frozen=True)
class World:
    """The same pool twice, with images and without, and the server that has them."""

    folder: Path
    server: PictureServer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    (folder / "tars").mkdir()
    (folder / "urls").mkdir()
    pool.write_shard(folder / "tars", 0, list(captions.pool_rows(ROWS)))
    images = PoolImages(open_pool(PoolSpec(source=folder / "tars")))
    pictures = {f"/good/{place.row}.jpg": images.read(place) for place in images.places(range(ROWS))}
    with PictureServer(pictures) as server:
        table = pq.read_table(folder / "tars" / "00000.parquet")
        urls = pa.array([f"{server.url}{path}" for path in pictures])
        table = table.set_column(table.column_names.index("URL"), "URL", urls)
        for name in ("tars", "urls"):
            pq.write_table(table, folder / name / "00000.parquet")
        yield World(folder, server)


def recipe_of(world: World, source: str, **changes: object) -> RetrieveRecipe:
    """Two images a class; the search is the same for both pools."""
    plain = {
        "name": "small",
        "classes": {"source": "sandbox", "per_class": 2},
        "lexicon": "sandbox",
        "meanings": {"choose": "given", "given": {name: f"{name}, the handwritten numeral" for name in CLASS_NAMES}},
        "pool": {"source": str(world.folder / source)},
        "search": {"captions": {"match": "word"}},
        "filter": {"top": None},
        "dedup": {"near": None},
        "most": 1,
        "size_px": 48,
        "shards": {"samples_per_shard": 20},
        "cluster": {"in_process": True},
        "download": {"timeout_s": 20, "allow_hosts": [world.server.place]},
    }
    return RetrieveRecipe.model_validate({**plain, **changes})


def tars_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


@pytest.fixture(scope="module")
def from_tars(world: World) -> dict[str, bytes]:
    out = world.folder / "from_tars"
    assert run(recipe_of(world, "tars"), Fraction(1), str(out), home(), StopFlag(), say=[].append).exit_code == 0
    return tars_of(out)


def start(world: World, out: Path) -> "subprocess.Popen[bytes]":
    recipe = world.folder / "recipe.yaml"
    recipe.write_text(recipe_of(world, "urls").model_dump_json())
    words = ["retrieve", str(recipe), "--scale", "1x", "--out", str(out), "--no-gallery"]
    environment = {**os.environ, "PYTHONPATH": str(home())}
    with (world.folder / "said.txt").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "sixfold", *words], cwd=world.folder, env=environment, stdout=said, stderr=said
        )


def wait_until(is_so: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@needs_img2dataset
def test_a_fetch_that_was_killed_leaves_no_process_and_the_next_run_gives_the_shards_of_the_tars(world, from_tars):
    """Whether a picture is fetched or read from a tar, it is stored with the same bytes."""
    out = world.folder / "killed"
    before = len(world.server.requests)
    world.server.open.clear()
    child = start(world, out)
    try:
        wait_until(lambda: len(world.server.requests) > before, 300)
        assert len(started_by(child.pid)) >= 3  # the program, its logger, its worker
    finally:
        child.kill()
        child.wait(timeout=30)
    wait_until(lambda: not started_by(child.pid), 60)
    world.server.open.set()
    assert tars_of(out) == {}
    outcome = run(recipe_of(world, "urls"), Fraction(1), str(out), home(), StopFlag(), say=[].append)
    assert (outcome.exit_code, outcome.images) == (0, 20)
    assert tars_of(out) == from_tars
    rows = read_table(open_for_reading(str(out)), scan_records(open_for_reading(str(out)))).to_pylist()
    assert {row["domain"] for row in rows} == {"retrieved"}
    again = run(recipe_of(world, "urls", download={"threads": 3}), Fraction(1), str(out), home(), StopFlag())
    assert (again.made_units, again.exit_code) == (0, 0)  # how pictures are fetched is no part of what the set is


@needs_img2dataset
@pytest.mark.torture
def test_twenty_kills_of_a_fetch_end_with_the_same_shards(world, from_tars, tmp_path):
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    moments = random.Random(seed)
    for _ in range(20):
        child = start(world, tmp_path / "out")
        time.sleep(moments.uniform(1, 14))
        os.kill(child.pid, signal.SIGKILL)
        child.wait(timeout=30)
        wait_until(lambda pid=child.pid: not started_by(pid), 20)
    child = start(world, tmp_path / "out")
    assert child.wait(timeout=120) == 0
    assert tars_of(tmp_path / "out") == from_tars


def test_a_dry_run_says_what_would_be_fetched_by_what(world):
    told = look(recipe_of(world, "urls"), Fraction(1), StopFlag(), print)
    assert "addresses, of which 20 are asked first; about 4.0 MB if none fails (200 kB each)" in told
    assert "program: " in told
    missing = {"program": str(world.folder / "nowhere" / "img2dataset")}
    told = look(recipe_of(world, "urls", download=missing), Fraction(1), StopFlag(), print)
    assert "found no img2dataset, expected 1.47.0; give download.program" in told
    assert "sixfold retrieve` fetches pictures by their addresses" in describe(PoolSpec(source=world.folder / "urls"))


def test_a_run_without_the_program_ends_before_anything_is_written(world, tmp_path):
    missing = {"program": str(world.folder / "nowhere" / "img2dataset")}
    with pytest.raises(ValueError, match=r"found no img2dataset, expected 1\.47\.0"):
        run(recipe_of(world, "urls", download=missing), Fraction(1), str(tmp_path / "out"), home(), StopFlag())
    assert not (tmp_path / "out").exists()


def test_a_search_that_looks_at_pictures_is_refused_where_there_are_none_yet(world, tmp_path):
    with pytest.raises(ValueError, match=r"dedup looks at pictures before they are fetched; set dedup\.near=null"):
        run(recipe_of(world, "urls", dedup={"near": 0.9}), Fraction(1), str(tmp_path), home(), StopFlag())


def test_the_way_pictures_are_fetched_is_no_part_of_the_identity(world):
    one, two = (
        identity(recipe_of(world, "urls", download=given), "digest") for given in ({}, {"threads": 7, "retries": 0})
    )
    assert json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)


@dataclass
class Scripted:
    """Stands for a call of img2dataset: what is in `down` is not answered."""

    server: PictureServer
    down: set[str]
    asked: list[str]
    calls: int = 0
    silent: int = 0  # hosts whose name server does not answer

    def __call__(self, urls: Sequence[str], spec: DownloadSpec, program: Path, gate: Gate, *rest: object) -> "Scripted":
        self.calls += 1
        self.urls = list(urls)
        self.asked += self.urls
        self.rows = [
            Fetched("failed_to_download", "504") if url in self.down else Fetched("success", None) for url in urls
        ]
        gate.num_answers += sum(row.status == "success" for row in self.rows)
        gate.num_unresolved += self.silent
        return self

    def read(self, place: int) -> bytes:
        return self.server.pictures[self.urls[place].removeprefix(self.server.url)]


@pytest.fixture
def scripted(world: World, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    one = Scripted(world.server, set(), [])
    monkeypatch.setattr(from_urls, "fetch", one)
    monkeypatch.setattr(from_urls, "find_program", lambda spec: Path("img2dataset"))
    monkeypatch.setattr(running, "with_program", lambda spec: spec)
    return one


def fetched(world: World, out: Path, **changes: object) -> MakeOutcome:
    return run(recipe_of(world, "urls", **changes), Fraction(1), str(out), home(), StopFlag(), say=[].append)


def test_a_shard_that_was_short_is_fetched_again_when_it_is_removed(world, from_tars, tmp_path, scripted):
    changes = {"shards": {"samples_per_shard": 20, "max_draws": 1}}
    assert fetched(world, tmp_path / "out", **changes).exit_code == 0
    scripted.down = set(scripted.asked[:5])
    outcome = fetched(world, tmp_path / "short", **changes)
    assert (outcome.exit_code, outcome.images, outcome.rejected) == (3, 15, {"failed_to_download": 5})
    assert "remove these shards and run the same command again to ask their addresses once more" in outcome.sentence()
    scripted.down = set()
    assert fetched(world, tmp_path / "short", **changes).exit_code == 3  # what is published stays as it is
    for path in (tmp_path / "short").glob("00000*"):
        path.unlink()
    assert fetched(world, tmp_path / "short", **changes).exit_code == 0
    assert tars_of(tmp_path / "short") == tars_of(tmp_path / "out") == from_tars


def set_aside_damaged(folder: Path, at: int) -> None:
    """One byte of the first shard changes, is found, and the shard is put aside."""
    tar = folder / "00000.tar"
    data = bytearray(tar.read_bytes())
    data[at] ^= 1
    tar.write_bytes(data)
    store = FolderStore(folder)
    assert repair(store, verify(store)).keys() == {0}
    assert not tar.exists()


def test_of_a_damaged_shard_only_the_damaged_picture_is_fetched_again(world, from_tars, tmp_path, scripted):
    changes = {"shards": {"samples_per_shard": 20, "max_draws": 1}}
    out = tmp_path / "out"
    assert fetched(world, out, **changes).exit_code == 0
    victim = read_table(open_for_reading(str(out)), [0]).to_pylist()[7]
    set_aside_damaged(out, victim["jpg_offset"] + 100)
    scripted.asked.clear()
    scripted.down = {victim["url"]}  # the web has lost it
    outcome = fetched(world, out, **changes)
    assert (outcome.exit_code, outcome.images, outcome.rejected) == (3, 19, {"failed_to_download": 1})
    assert scripted.asked == [victim["url"]]
    set_aside_damaged(out, 100)  # the first member's header: every picture is whole
    scripted.down = set()
    assert fetched(world, out, **changes).exit_code == 0
    assert scripted.asked == [victim["url"]] * 2
    assert tars_of(out) == from_tars


@pytest.mark.parametrize("lost", ["00000.tar", "00000.parquet"])
def test_of_a_shard_that_has_lost_its_tar_or_table_all_is_fetched_again(world, from_tars, tmp_path, scripted, lost):
    out = tmp_path / "out"
    assert fetched(world, out).exit_code == 0
    set_aside_damaged(out, 1000)
    (folder,) = (out / "_meta" / "quarantine").iterdir()
    (out / "_meta" / "quarantine" / "a copy (1)").mkdir()  # of a person: no incident of ours
    (folder / lost).write_bytes((folder / lost).read_bytes()[:1000])
    scripted.asked.clear()
    assert fetched(world, out).exit_code == 0
    assert len(scripted.asked) == 20
    assert tars_of(out) == from_tars


def test_while_the_network_is_down_nothing_is_published_and_the_next_run_fetches_all(
    world, from_tars, tmp_path, scripted
):
    """A name server that does not answer would otherwise make a shard of what it had answered before."""
    scripted.silent = 8
    outcome = fetched(world, tmp_path / "out")
    assert outcome.exit_code != 0
    assert "the name server did not answer for 8 of 20 addresses" in outcome.sentence()
    assert tars_of(tmp_path / "out") == {}
    scripted.silent = 0
    assert fetched(world, tmp_path / "out").exit_code == 0
    assert tars_of(tmp_path / "out") == from_tars


def test_further_candidates_of_few_that_failed_are_fetched_in_one_call_and_change_no_shard(
    world, tmp_path, scripted, monkeypatch
):
    changes = {"filter": {"top": None, "cap": 6}, "most": 1}
    fetched(world, tmp_path / "first", **changes)
    table = CandidateTable.load(tmp_path / "first" / CANDIDATES).table
    scripted.down = {row["url"] for row in table.to_pylist() if row["class_id"] < 3 and row["rank"] < 4}
    scripted.calls = 0
    fetched(world, tmp_path / "together", **changes)
    together, scripted.calls = scripted.calls, 0
    monkeypatch.setattr(from_urls, "FEW", 0)
    fetched(world, tmp_path / "alone", **changes)
    assert (together, scripted.calls) == (2, 3)
    for name in ("00000.tar", "00000.parquet"):
        assert (tmp_path / "together" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
