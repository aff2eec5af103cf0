"""A search in units: what was found is kept until all is, and is what one scan of all would find."""

import errno
import json
import sys
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sixfold
from cluster.fan_out.work import FanOutSpec
from cluster.process.exit import Draining
from cluster.process.stop_flag import StopFlag
from gen.model.clip import ClipSpec
from retrieve.captions.queries import clauses_of
from retrieve.captions.spec import CaptionSpec
from retrieve.pool.pool import Pool
from retrieve.run import parts
from retrieve.run.parts import Asked, best_of, clear_parts, search_parts
from retrieve.run.recipe import Route
from retrieve.scan.scan import exact_scan
from shards.disk.home import home
from shards.disk.store import FolderStore
from shards.labels.classes import Class
from tests.support.small_pool import pool_of, write_table, write_vectors

FILES, ROWS, DIM = 4, 30, 8
NAMES = ("crane", "kite")
CLIP = ClipSpec(model=str(home() / "sandbox" / "models" / "clip"), device="cpu")
ROUTES: tuple[Route, ...] = ("captions", "text", "image")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Four tables of 30 captions, which name a crane, a kite or nothing; vectors of both kinds."""
    folder, rng = tmp_path_factory.mktemp("pool"), np.random.default_rng(5)
    for number in range(FILES):
        said = [f"a {NAMES[row % 3]} in the sky" if row % 3 < 2 else "clouds" for row in range(ROWS)]
        write_table(
            folder / f"{number}.parquet",
            caption=said,
            url=[f"https://example.org/{number}/{row}" for row in range(ROWS)],
        )
        for kind in ("img_emb", "text_emb"):
            write_vectors(folder / kind / f"{kind}_{number}.npy", rng.standard_normal((ROWS, DIM)))
    return pool_of(folder, clip=CLIP.model_dump())


def asked() -> Asked:
    classes = [Class(number, name, None, 1) for number, name in enumerate(NAMES)]
    queries = np.random.default_rng(6).standard_normal((4, DIM))
    unit = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    clauses = tuple(clauses_of(classes, CaptionSpec()))
    return Asked(clauses, "phrase", unit, class_ids=(0, 0, 1, 1), k=5)


def found(
    pool: Pool, folder: Path, what: Asked | None = None, spec: FanOutSpec | None = None, stop: StopFlag | None = None,
    routes: Sequence[Route] = ROUTES,
) -> dict[Route, pa.Table]:  # fmt: skip
    spec = spec or FanOutSpec(in_process=True)
    folder.mkdir(exist_ok=True)
    return search_parts(pool, routes, what or asked(), spec, FolderStore(folder), stop or StopFlag(), None)


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted((folder / "_meta" / "search").glob("*.parquet"))}


def test_the_units_together_find_what_one_scan_of_all_finds(pool: Pool, tmp_path: Path) -> None:
    tables = found(pool, tmp_path)
    for route in ("text", "image"):
        embeddings = pool.embeddings(route)
        assert embeddings is not None
        whole = exact_scan(embeddings, asked().queries_QD, 5)
        pairs = list(zip(tables[route]["class_id"].to_pylist(), tables[route]["row"].to_pylist(), strict=True))
        assert pairs == [(place // 2, row) for place, rows in enumerate(whole.rows.tolist()) for row in rows]
    pairs = zip(tables["captions"]["class_id"].to_pylist(), tables["captions"]["row"].to_pylist(), strict=True)
    assert sorted(pairs) == sorted((row % ROWS % 3, row) for row in range(FILES * ROWS) if row % ROWS % 3 < 2)


def test_rows_that_may_not_leave_take_the_place_of_no_other(tmp_path: Path) -> None:
    """Files of vectors and tables begin at other rows; the nearest rows of a query are flagged."""
    rng = np.random.default_rng(7)
    vectors = rng.standard_normal((60, DIM))
    queries = asked().queries_QD
    nearest = np.argsort(-(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)) @ queries[0])
    flagged = np.zeros(60, bool)
    flagged[nearest[:20]] = True
    for number, rows in enumerate((range(25), range(25, 60))):
        write_table(
            tmp_path / "pool" / f"{number}.parquet",
            caption=["clouds" for _ in rows],
            NSFW=["NSFW" if flagged[row] else "UNSURE" for row in rows],
        )
    for number, part in enumerate((vectors[:10], vectors[10:])):
        write_vectors(tmp_path / "pool" / "img_emb" / f"{number}.npy", part)
    pool = pool_of(tmp_path / "pool", clip=CLIP.model_dump())
    table = found(pool, tmp_path / "out", routes=("image",))["image"]
    assert not flagged[table["row"].to_numpy()].any()
    assert pool.image is not None
    whole = exact_scan(pool.image, queries, 5, kept=lambda first, num: ~flagged[first : first + num])
    pairs = list(zip(table["class_id"].to_pylist(), table["row"].to_pylist(), strict=True))
    assert pairs == [(place // 2, row) for place, rows in enumerate(whole.rows.tolist()) for row in rows]


def test_a_search_goes_on_with_what_it_had_found_and_mends_what_is_damaged(pool: Pool, tmp_path: Path) -> None:
    whole = found(pool, tmp_path)
    before, folder = stamps(tmp_path), tmp_path / "_meta" / "search"
    assert len(before) == 3 * FILES
    (folder / "image-00002.parquet").unlink()
    damaged = bytearray((folder / "captions-00001.parquet").read_bytes())
    damaged[len(damaged) // 3] ^= 0xFF
    (folder / "captions-00001.parquet").write_bytes(damaged)
    assert found(pool, tmp_path) == whole
    after = stamps(tmp_path)
    assert {name for name in before if after[name] != before[name]} == {"image-00002.parquet", "captions-00001.parquet"}
    (folder / "image-00002 (copy).parquet").write_bytes(b"put there by a person")
    clear_parts(FolderStore(tmp_path))
    assert [path.name for path in folder.glob("*")] == ["image-00002 (copy).parquet"]


def test_a_search_for_something_else_takes_nothing_of_an_earlier_one(pool: Pool, tmp_path: Path) -> None:
    found(pool, tmp_path)
    before, what = stamps(tmp_path), asked()
    other = Asked(what.clauses[:1], what.match, what.queries_QD, what.class_ids, what.k)
    assert set(found(pool, tmp_path, other)["captions"]["class_id"].to_pylist()) == {0}
    assert all(now != before[name] for name, now in stamps(tmp_path).items())


def test_a_search_that_is_stopped_keeps_what_it_has_and_says_so(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = StopFlag()
    once, really = [], parts.find_in_part

    def then_stop(*arguments: object) -> pa.Table:
        once.append(1)
        if len(once) == 2:
            stop.request("a test")
        return really(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(parts, "find_in_part", then_stop)
    with pytest.raises(Draining, match="stopped on request"):
        found(pool, tmp_path, stop=stop)
    assert 1 <= len(stamps(tmp_path)) <= 2
    monkeypatch.undo()
    assert found(pool, tmp_path) == found(pool, tmp_path / "other")


def test_joining_what_many_files_gave_needs_memory_for_a_few_of_them() -> None:
    num_queries, k, num_files = 50, 100, 60
    rng = np.random.default_rng(8)
    before, held = pa.total_allocated_bytes(), []

    def table(number: int) -> pa.Table:
        rows = number * k + np.tile(np.arange(k), num_queries)
        scores = rng.integers(0, 500, len(rows)).astype(np.float32)  # many are equal
        query = np.repeat(np.arange(num_queries, dtype=np.int32), k)
        return pa.table([pa.array(query), pa.array(rows), pa.array(scores)], schema=parts.PART_SCHEMA)

    whole = pa.concat_tables([table(number) for number in range(num_files)])
    size = whole.nbytes // num_files

    def files() -> Iterator[pa.Table]:
        for number in range(num_files):
            sink = pa.BufferOutputStream()
            pq.write_table(whole[number * num_queries * k :][: num_queries * k], sink)
            yield pq.read_table(pa.BufferReader(sink.getvalue()))
            held.append(pa.total_allocated_bytes() - before)

    before = pa.total_allocated_bytes()
    tracemalloc.start()
    found = best_of(files(), range(num_queries), k)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(held) < 12 * size
    assert peak < 24 * size
    wanted = best_of([whole], range(num_queries), k)
    assert found == wanted
    assert len(wanted) == num_queries * k


def test_a_worker_with_another_pool_than_the_driver_s_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        write_table(tmp_path / "pool" / f"{number}.parquet", caption=["a crane", "a kite"])
    jobs, really = [], parts.make_search_worker

    def noted(job: Mapping[str, object]) -> parts.SearchWorker:
        jobs.append(job)
        return really(job)

    monkeypatch.setattr(parts, "make_search_worker", noted)
    assert len(found(pool_of(tmp_path / "pool"), tmp_path / "out", routes=("captions",))["captions"]) == 4
    assert really(jobs[0]).units
    write_table(tmp_path / "pool" / "1.parquet", caption=["a crane", "a kite", "a crane"])
    with pytest.raises(ValueError, match=r"pool: found another pool here than the run was planned with; give every"):
        really(jobs[0])


def test_a_search_that_fails_is_no_mistake_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        write_table(tmp_path / "pool" / f"{number}.parquet", caption=["one", "two"], url=["https://a.b/1"] * 2)
    classes = tmp_path / "classes.csv"
    classes.write_text("id,name\n0,one\n1,two\n")
    recipe = tmp_path / "recipe.yaml"
    plain = {
        "name": "small",
        "classes": {"source": str(classes), "per_class": 1},
        "meanings": {"choose": "none"},
        "pool": {"source": str(tmp_path / "pool")},
        "filter": {"top": None},
        "dedup": {"near": None},
    }
    recipe.write_text(json.dumps(plain))

    def ended(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["sixfold", "retrieve", str(recipe), "--dry-run", *words])
        with pytest.raises(SystemExit) as end:
            sixfold.main()
        assert isinstance(end.value.code, int)
        return end.value.code, capsys.readouterr().err

    def full(*_: object) -> pa.Table:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert ended()[0] == 0
    monkeypatch.setattr(parts, "find_in_part", full)
    code, line = ended("cluster.attempts=1", "cluster.give_up_after=9")
    assert code == 3
    assert "the search of captions 0 failed: OSError: [Errno 28]" in line
    assert "run the same command again to try once more" in line
    code, line = ended("cluster.attempts=1", "cluster.give_up_after=2")
    assert code == 1
    assert "the search could not go on: " in line
    assert ended("search.routes=[words]")[0] == 2


def test_workers_on_ray_find_the_same(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "SMALL_ROWS", 0)
    spec = FanOutSpec(workers=1, gpus_per_worker=0)
    assert found(pool, tmp_path / "ray", spec=spec) == found(pool, tmp_path / "here")


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 40), st.sampled_from([0.1, 0.2, 0.3])),
        unique_by=lambda one: one[:2],
        max_size=40,
    ),
    st.integers(1, 4),
)
def test_the_best_rows_of_a_query_are_those_with_the_highest_scores_and_of_equal_ones_the_first(
    hits: list[tuple[int, int, float]], k: int
) -> None:
    query, row, score = zip(*hits, strict=True) if hits else ((), (), ())
    table = pa.table(
        {"query": pa.array(query, pa.int32()), "row": pa.array(row, pa.int64()), "score": pa.array(score, pa.float32())}
    )
    best = best_of([table[:7], table[7:8], table[8:]], (7, 7, 8, 9), k)
    wanted = []
    for one in range(4):
        mine = sorted((-value, place) for which, place, value in hits if which == one)[:k]
        wanted += [((7, 7, 8, 9)[one], place) for _, place in mine]
    assert list(zip(best["class_id"].to_pylist(), best["row"].to_pylist(), strict=True)) == wanted
