"""An index is built part by part, goes on after kills to the same bytes, and says what it finds."""

import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import retrieve.index.build as build_module
import retrieve.index.index as index_module
import retrieve.index.measure as measure_module
import retrieve.index.unit as unit_module
import sixfold
from cluster.process.exit import Draining
from cluster.process.stop_flag import StopFlag
from retrieve.index.build import IndexOutcome, plan, run
from retrieve.index.index import open_index
from retrieve.index.measure import K, queries_for, recall_of
from retrieve.index.output import Output
from retrieve.index.unit import IndexJob, make_index_worker
from retrieve.pool.embeddings import open_embeddings
from retrieve.scan.scan import exact_scan
from tests.support.clustered_pool import DIM, MODEL_DIGEST, clustered, index_spec, unit, write_pool
from tests.support.killed import Killed, killed_at

ROWS = 3000
USUAL = "IVF16,RaBitQfs,Refine(SQ8)"
ZERO_EVERY = 7

STEPS = ((unit_module, "_add"), (Output, "write_done"), (Output, "clear"))


@pytest.fixture(scope="module")
def vectors():
    return clustered(np.random.default_rng(11), ROWS)


@pytest.fixture
def pool(tmp_path, vectors):
    return write_pool(tmp_path / "pool", vectors[:1000], vectors[1000:1001], vectors[1001:], zero_every=ZERO_EVERY)


def built(pool: Path, out: Path | None = None, again: bool = False, **fields: object) -> IndexOutcome:
    said: list[str] = []
    return run(plan(index_spec(pool, **fields), out, again), StopFlag(), said.append)


def files_of(outcome: IndexOutcome) -> dict[str, bytes]:
    assert outcome.record is not None
    root = outcome.output.root
    return {one.name[-11:]: (root / one.name).read_bytes() for one in outcome.record.files}


def opened(pool: Path, out: Path):
    return open_index(out, "image", open_embeddings(pool, "image"))


def asked(vectors):
    return unit(vectors[:50] + 0.05 * np.random.default_rng(3).normal(size=(50, DIM)))


@pytest.mark.parametrize("factory", ["Flat", "HNSW8", "IVF16,SQ8", "IVF16,RaBitQfs", USUAL, "IVF16_HNSW8,Flat"])
@pytest.mark.parametrize("parts", ["merge", "keep"])
def test_any_kind_in_parts_finds_what_the_scan_finds_with_the_scan_s_bits(pool, tmp_path, vectors, factory, parts):
    outcome = built(pool, tmp_path / "out", factory=factory, part_rows=800, parts=parts)
    assert outcome.exit_code == 0
    is_one = parts == "merge" and factory != "HNSW8"  # FAISS cannot merge graphs
    assert len(outcome.record.files) == (1 if is_one else 4)
    assert outcome.record.count == ROWS - len(range(0, ROWS, ZERO_EVERY))
    queries = asked(vectors)
    embeddings = open_embeddings(pool, "image")
    found = open_index(tmp_path / "out", "image", embeddings).search(queries, K)
    truth, whole = exact_scan(embeddings, queries, K), exact_scan(embeddings, queries, ROWS)
    assert recall_of(found, truth) >= 0.85  # queries of another kind than those that it was tuned for
    for query in range(len(queries)):
        score_of = dict(zip(whole.rows[query].tolist(), whole.scores[query].tolist(), strict=True))
        assert [score_of[row] for row in found.rows[query].tolist()] == found.scores[query].tolist()
    assert (np.diff(found.scores, axis=1) <= 0).all()
    if factory == "Flat":
        assert np.array_equal(found.rows, truth.rows)
        assert np.array_equal(found.scores, truth.scores)


@pytest.mark.parametrize("factory", ["IVF16,RaBitQfs", "IVF16,SQ8"])
def test_an_index_in_ten_parts_ranks_no_more_candidates_than_one_of_one_file(pool, tmp_path, vectors, factory):
    whole = built(pool, tmp_path / "one", factory=factory)
    built(pool, tmp_path / "ten", factory=factory, part_rows=300, parts="keep")
    queries, setting = asked(vectors), whole.record.measured.setting
    truth, ranked, real = exact_scan(open_embeddings(pool, "image"), queries, K), [], index_module.true_scores

    def counted(embeddings, queries_QD, queries, rows):
        ranked.append(len(rows))
        return real(embeddings, queries_QD, queries, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "true_scores", counted)
        one, ten = (opened(pool, tmp_path / name).search(queries, K, setting=setting) for name in ("one", "ten"))
    assert len(opened(pool, tmp_path / "ten").parts) == 10
    assert max(ranked) <= len(queries) * K * setting.over
    assert abs(recall_of(one, truth) - recall_of(ten, truth)) <= 0.01


def test_rotated_and_product_quantised_parts_are_merged_too(tmp_path, vectors):
    pool = write_pool(tmp_path / "pool", vectors[:600], zero_every=ZERO_EVERY)
    outcome = built(pool, tmp_path / "out", factory="OPQ4_16,IVF4_HNSW4,PQ4x4", part_rows=250, recall=0.9)
    assert len(outcome.record.files) == 1
    assert outcome.record.measured.recall >= 0.9  # of what is fetched the pool's own vectors decide
    found = opened(pool, tmp_path / "out").search(vectors[1:6], 5)
    assert found.rows[:, 0].tolist() == [1, 2, 3, 4, 5]


def test_f5_rows_without_a_direction_are_in_no_index_and_ids_are_rows_of_the_pool(pool, tmp_path, vectors):
    """Also for those who read the file without us, as clip-retrieval does."""
    import faiss

    for factory in ("Flat", "HNSW8", "IVF16,SQ8", USUAL):
        outcome = built(pool, tmp_path / factory, factory=factory, part_rows=1700 if factory != "HNSW8" else "auto")
        assert (outcome.record.files[0].name, len(outcome.record.files)) == ("image.index", 1)
        assert outcome.record.unusable == len(range(0, ROWS, ZERO_EVERY))
        index = faiss.read_index(str(tmp_path / factory / "image.index"), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        if faiss.try_extract_index_ivf(index):
            faiss.extract_index_ivf(index).nprobe = 16
        rows = np.array([row for row in range(0, ROWS, 13) if row % ZERO_EVERY])
        _, ids, again = index.search_and_reconstruct(vectors[rows], 5)
        assert (ids[:, 0] == rows).mean() > 0.99
        assert not (ids % ZERO_EVERY == 0).any()
        assert (np.einsum("qd,qd->q", again[:, 0], vectors[rows])[ids[:, 0] == rows] > 0.9).all()
        _, ids = index.search(-vectors[:5], ROWS)  # zeros would be nearer than most
        assert not ((ids >= 0) & (ids % ZERO_EVERY == 0)).any()


def test_f5_vectors_that_are_no_numbers_or_far_too_long_are_left_out_and_equal_ones_are_all_found(tmp_path, vectors):
    bad = vectors[:200].copy()
    bad[3, 5], bad[4], bad[5], bad[6, 0] = np.nan, 0, 3e4, np.inf
    bad[100:120] = bad[100]
    pool = write_pool(tmp_path / "pool", bad)
    for factory in ("Flat", "HNSW8", "IVF4,SQ8", "IVF4,RaBitQfs,Refine(SQ8)"):
        outcome = built(pool, tmp_path / factory, factory=factory)
        assert (outcome.exit_code, outcome.record.count, outcome.record.unusable) == (0, 196, 4)
        found = opened(pool, tmp_path / factory).search(unit(bad[100:101]), 20)
        some = found.rows[0][found.rows[0] >= 0].tolist()
        assert some == sorted(some)  # of equal scores the lower row first
        if factory != "HNSW8":  # a graph may lead past some of them
            assert found.rows[0].tolist() == list(range(100, 120))
        assert not np.isin(opened(pool, tmp_path / factory).search(bad[:3], 300).rows, [3, 4, 5, 6]).any()


def test_f5_fewer_vectors_than_lists_are_refused_before_or_when_they_are_counted(tmp_path, vectors):
    pool = write_pool(tmp_path / "pool", vectors[:40], zero_every=2)
    with pytest.raises(ValueError, match=r"found 40 rows, expected at least 64 to learn it from; give --factory Flat"):
        plan(index_spec(pool, factory="IVF64,SQ8"), None)
    outcome = built(pool, factory="IVF32,SQ8")
    assert (outcome.exit_code, outcome.record) == (3, None)
    assert "found 20 vectors with a direction, expected at least 32 to learn IVF32,SQ8 from" in outcome.sentence()
    assert built(pool, factory="Flat").record.count == 20


def test_a_pool_of_zeros_has_an_index_that_finds_nothing(tmp_path):
    pool = write_pool(tmp_path / "pool", np.zeros((10, DIM)))
    outcome = built(pool)
    assert (outcome.exit_code, outcome.record.count, outcome.record.unusable) == (0, 0, 10)
    found = open_index(pool / "index", "image", open_embeddings(pool, "image")).search(np.eye(DIM, dtype="f4")[:2], 5)
    assert (found.rows == -1).all()
    assert found.rows.shape == (2, 5)


@pytest.mark.parametrize(("factory", "parts"), [(USUAL, "merge"), ("IVF16,RaBitQfs", "keep"), ("HNSW8", "auto")])
def test_f1_f6_a_build_that_ends_anywhere_goes_on_to_the_same_bytes_and_the_old_index_is_served(
    pool, tmp_path, vectors, factory, parts
):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    asks = {"factory": factory, "parts": parts, "part_rows": 800, "queries": 10}
    whole = built(pool, tmp_path / "whole", **asks)
    ended = Counter()
    for number in range(4):
        out = tmp_path / str(number)
        old = built(pool, out, factory="Flat", queries=5)
        before = opened(pool, out).search(asked(vectors)[:5], 5)
        for _ in range(3):
            with pytest.MonkeyPatch.context() as patch:
                killed_at(patch, rng.randint(1, 60), *STEPS)
                try:
                    built(pool, out, again=True, **asks)
                except Killed:
                    ended["killed"] += 1
            served = opened(pool, out)  # whole, and one of the two
            assert served.record.mark in (old.record.mark, whole.record.mark)
            if served.record.mark == old.record.mark:
                assert np.array_equal(served.search(asked(vectors)[:5], 5).rows, before.rows)
        last = built(pool, out, again=True, **asks)
        assert last.exit_code == 0
        assert files_of(last) == files_of(whole)
        assert last.record.measured.setting == whole.record.measured.setting
        assert not (out / "_meta" / "index_image").exists()
        assert not (out / "_meta" / "index_image.next.json").exists()
        assert not list(out.rglob("*.tmp"))
        names = {path.relative_to(out).as_posix() for path in out.rglob("*.index")}
        assert names == {one.name for one in last.record.files}
    assert ended["killed"] > 3


def build_in_child(pool, out):
    """A process that builds; its id."""
    pid = os.fork()
    if pid == 0:
        try:
            built(pool, out, factory=USUAL, part_rows=300, queries=20)
        finally:
            os._exit(0)
    return pid


@pytest.mark.torture
def test_f1_twenty_kills_of_the_process_change_no_byte(pool, tmp_path):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    whole = built(pool, tmp_path / "whole", factory=USUAL, part_rows=300, queries=20)
    started = time.monotonic()  # with all that is loaded by now
    built(pool, tmp_path / "again", factory=USUAL, part_rows=300, queries=20)
    took_s = time.monotonic() - started
    out, num_killed, places = tmp_path / "out", 0, Counter()
    for _ in range(20):
        for path in [*out.glob("_meta/index_image/*.json"), out / "_meta" / "index_image.json"]:
            if rng.random() < 0.7:  # so that there is always something to make
                path.unlink(missing_ok=True)
        (out / "image.index").unlink(missing_ok=True)
        pid = build_in_child(pool, out)
        time.sleep(rng.uniform(0.05, 1.0) * took_s)
        os.kill(pid, signal.SIGKILL)
        num_killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        places[len(list(out.glob("_meta/index_image/*.json")))] += 1
    assert num_killed >= 10
    assert len(places) > 1, "they ended at different places"
    last = built(pool, out, factory=USUAL, part_rows=300, queries=20)
    assert files_of(last) == files_of(whole)


def test_the_recall_of_the_record_is_what_a_search_finds(pool, tmp_path):
    outcome = built(pool, tmp_path / "out", factory=USUAL, recall=0.9)
    measured = outcome.record.measured
    embeddings = open_embeddings(pool, "image")
    queries, what = queries_for(embeddings, None, 50)
    assert (len(queries), what) == (50, "vectors of the pool, moved by 0.5")
    index = opened(pool, tmp_path / "out")
    assert index.setting == measured.setting
    assert recall_of(index.search(queries, K), exact_scan(embeddings, queries, K)) == measured.recall >= 0.9
    better = built(pool, tmp_path / "better", factory=USUAL, recall=0.99).record.measured
    assert better.recall >= 0.99
    assert (better.setting.nprobe, better.setting.k_factor) > (measured.setting.nprobe, 0)


def test_an_index_that_cannot_reach_the_wished_recall_says_so(pool, tmp_path):
    outcome = built(pool, tmp_path / "out", factory="IVF2,PQ2x4", recall=1.0)
    assert outcome.exit_code == 0
    assert outcome.record.measured.recall < 1
    assert not outcome.record.measured.is_reached
    assert ": less than 1, which no setting reaches; give more --memory" in outcome.sentence()


def test_captions_are_the_queries_of_pictures_where_both_have_vectors(pool, vectors):
    about = (pool / "embeddings.json").read_bytes()
    write_pool(pool, vectors[::-1], modality="text")
    (pool / "embeddings.json").write_bytes(about)
    assert built(pool).record.measured.queries == "captions of the pool"
    assert built(pool, modality="text").record.measured.queries == "vectors of the pool, moved by 0.5"
    assert sorted(path.name for path in (pool / "index").glob("*.index")) == ["image.index", "text.index"]


def test_the_same_call_again_does_nothing_and_another_recall_is_only_measured(pool):
    first = built(pool, factory=USUAL)
    path = pool / "index" / "image.index"
    before = path.stat().st_mtime_ns
    again = built(pool, factory=USUAL)
    assert (again.made_units, again.record) == (0, first.record)
    assert "nothing was missing" in again.sentence()
    other = built(pool, factory=USUAL, recall=0.6)
    assert (other.made_units, other.record.measured.wanted) == (0, 0.6)
    assert other.record.files == first.record.files
    assert path.stat().st_mtime_ns == before


def killed(*_: object) -> None:
    raise Killed


def test_a_killed_build_of_another_index_does_not_take_the_place_of_one_that_is_measured_again(pool):
    flat = files_of(built(pool, factory="Flat"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_module, "measure", killed)
        with pytest.raises(Killed):
            built(pool, again=True, factory="IVF16,SQ8")
    assert (pool / "index" / "_meta" / "index_image" / "whole.index").exists()
    other = built(pool, factory="Flat", recall=0.6)
    assert (other.exit_code, other.record.measured.wanted) == (0, 0.6)
    assert files_of(other) == flat
    assert opened(pool, pool / "index").record.decides.factory == "IDMap2,Flat"


def stopped(pool: Path, owner: object, name: str) -> int:
    """A build that is asked to stop when `name` begins, or at the first progress that it tells; how often that was."""
    stop, real, times = StopFlag(), getattr(owner, name), []

    def step(*arguments, progress=None, **named):
        if progress is None:
            times.append(1)
            stop.request("SIGTERM")
            return real(*arguments, **named)

        def told(done, of):
            times.append(1)
            stop.request("SIGTERM")
            progress(done, of)

        return real(*arguments, progress=told, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, step)
        with pytest.raises(Draining, match=r"stopped on request \(SIGTERM\)"):
            run(plan(index_spec(pool, factory="Flat", part_rows=800), None), stop, [].append)
    return len(times)


def test_a_stop_is_heard_while_parts_are_joined_and_while_the_index_is_measured(pool):
    work = pool / "index" / "_meta" / "index_image"
    assert stopped(pool, build_module, "merge_into") == 1  # of four parts
    assert not (work / "whole.json").exists()
    assert stopped(pool, measure_module, "exact_scan") == 1  # of three files
    before = (work / "whole.index").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_module, "merge_into", killed)
        last = built(pool, factory="Flat", part_rows=800)
    assert (last.exit_code, last.made_units) == (0, 0)
    assert (pool / "index" / "image.index").read_bytes() == before


def test_another_index_is_only_replaced_if_one_says_so(pool, vectors):
    built(pool, factory=USUAL)
    with pytest.raises(ValueError, match=r'another image index \(factory: "IVF16,RaBitQfs.* before, "IDMap2,Flat" now'):
        built(pool, factory="Flat")
    assert built(pool, factory="Flat", again=True).exit_code == 0
    assert opened(pool, pool / "index").record.decides.factory == "IDMap2,Flat"
    write_pool(pool, vectors[:100], vectors[100:101], vectors[101:])
    with pytest.raises(ValueError, match=r"another image index \(vectors: .* say --replace to build this one"):
        built(pool, factory="Flat")


def test_an_index_of_others_is_not_written_over(pool, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "image.index").write_bytes(b"of another")
    with pytest.raises(ValueError, match="found an index that `sixfold index` did not write; say --replace"):
        built(pool, tmp_path / "out")
    assert built(pool, tmp_path / "out", again=True).exit_code == 0


def test_what_is_asked_for_and_cannot_be_is_one_line(pool, tmp_path):
    for fields, line in (
        ({"modality": "text"}, r"found no text vectors, expected text_emb/; make them with `sixfold embed"),
        ({"memory_gb": 1e-6}, r"memory: None fits: the smallest index of 3,000 vectors .* Give more --memory"),
        ({"factory": "IVF16,PQ5"}, "found 5 pieces of 32 numbers"),
        ({"part_rows": 1}, "part_rows: found 1 for 3,000 rows, expected at most 1,000 parts"),
    ):
        with pytest.raises(ValueError, match=line) as error:
            plan(index_spec(pool, **fields), tmp_path / "out")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_worker_with_other_vectors_than_the_plan_s_refuses(pool, tmp_path, vectors):
    planned = plan(index_spec(pool), tmp_path / "out")
    other = write_pool(tmp_path / "other", vectors)
    job = IndexJob(vectors=other, out=tmp_path / "out", decides=planned.decides)
    with pytest.raises(ValueError, match="other vectors here than the run was planned with"):
        make_index_worker(job.model_dump(mode="json"))


def test_the_record_says_what_the_index_is(pool):
    outcome = built(pool, factory=USUAL, part_rows=800)
    told = json.loads((pool / "index" / "_meta" / "index_image.json").read_text())
    assert (told["model"], told["model_digest"], told["metric"]) == ("a made-up model", MODEL_DIGEST, "inner_product")
    assert told["decides"]["factory"] == USUAL
    assert (told["decides"]["rows"], told["decides"]["dim"]) == (ROWS, DIM)
    assert (told["count"] + told["unusable"], told["unusable"]) == (ROWS, len(range(0, ROWS, ZERO_EVERY)))
    assert told["files"][0]["bytes"] == (pool / "index" / "image.index").stat().st_size
    assert outcome.record.measured.recall >= 0.95


def verb(*arguments):
    return CliRunner().invoke(sixfold.command_line(), [str(one) for one in arguments])


def test_the_verb_tells_what_it_would_build_builds_it_and_has_nothing_to_do_then(pool):
    line = ["index", pool, "--in-process", "--memory", "100kB", "queries=20"]
    said = verb(*line, "--dry-run")
    assert said.exit_code == 0, said.output
    for words in ("3,000 rows of 32 numbers, by 'a made-up model'", "IVF64,RaBitQfs", "why      Of 3,000 vectors"):
        assert words in said.stdout
    assert "bytes a vector" in said.stdout
    assert "of one core" in said.stdout
    assert not (pool / "index").exists()
    said = verb(*line)
    assert said.exit_code == 0, said.output
    assert "2,571 vectors, 429 rows without a direction left out" in said.stdout
    assert "recall@10 is" in said.stdout
    assert "there" in verb(*line, "--dry-run").stdout
    assert "nothing was missing" in verb(*line).stdout
    assert "expected a number with kB, MB, GB or TB" in str(verb("index", pool, "--memory", "much").exception)
