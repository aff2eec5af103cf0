"""The search behind the server finds what a plain comparison finds, and nothing that is flagged or blocked."""

import hashlib
import re
import time

import numpy as np
import pytest

from cluster.process.stop_flag import StopFlag
from retrieve.index.build import plan, run
from retrieve.index.spec import IndexSpec
from retrieve.pool.spec import PoolSpec
from retrieve.serve.metrics import Metrics
from retrieve.serve.route import open_indexes
from retrieve.serve.search import MOST_PICTURE_BYTES, SAME_ABOVE, Mistake, Query, Search
from shards.disk.checked_json import to_checked
from shards.disk.jpeg import decode_jpeg, encode_jpeg
from tests.support.served_pool import (
    CLIP,
    COPIES,
    FLAGGED,
    ROWS,
    brute_force,
    open_search,
    pictures_of_pool,
    write_served_pool,
)
from tests.support.small_pool import write_table, write_vectors


def until():
    return time.monotonic() + 60


def vectors(search, modality="image"):
    return search.pool.embeddings(modality).take(np.arange(ROWS))


@pytest.fixture(scope="module")
def search(pool, clip):
    return open_search(pool, clip)


def test_an_index_beside_the_vectors_is_searched_and_finds_what_the_scan_finds(clip, tmp_path):
    write_served_pool(tmp_path, clip)
    scan = open_search(tmp_path, clip, tmp_path / "blocked.txt")
    spec = {"pool": {"source": str(tmp_path)}, "cluster": {"in_process": True}, "factory": "HNSW16"}
    with StopFlag() as stop:
        run(plan(IndexSpec.model_validate(spec), None), stop, print)
    search = open_search(tmp_path, clip, tmp_path / "blocked.txt")
    assert scan.routes == {"image": "the exact scan", "text": "the exact scan"}
    assert re.fullmatch(r"an index \(.*HNSW16.*, recall@10 [01]\.\d{3}\)", search.routes["image"])
    assert search.routes["text"] == "the exact scan"
    for text in ("a red digit", "a digit in black ink"):
        query = Query(text=text, num_rows=6, num_told=6, deduplicate=True)
        assert search.find(query, until()) == scan.find(query, until())
    query = Query(text="a red digit", num_rows=6, num_told=6)
    blocked = [hit.row for hit in search.find(query, until())][:3]
    search.block(blocked)
    found = [hit.row for hit in search.find(query, until())]
    assert found == [hit.row for hit in scan.find(query, until())]
    assert not set(found) & {*blocked, *FLAGGED}
    pool = search.pool
    assert open_indexes(pool, "none", clip.digest) == {}
    assert list(open_indexes(pool, tmp_path / "index", clip.digest)) == ["image"]
    with pytest.raises(ValueError, match="found no index of `sixfold index`"):
        open_indexes(pool, tmp_path / "nowhere", clip.digest)
    damaged = tmp_path / "index" / "image.index"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"image\.index"):
        open_indexes(pool, "auto", clip.digest)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_text_a_picture_and_a_vector_find_what_a_plain_comparison_finds(search, clip, modality):
    picture = encode_jpeg(decode_jpeg(pictures_of_pool()[7])[8:, 8:])
    given = {
        "text": ("a red digit", clip.embed_texts(["a red digit"])[0]),
        "image": (picture, clip.embed_images([decode_jpeg(picture)])[0]),
        "vector": ((5 * vectors(search)[3]).tolist(), vectors(search)[3]),
    }
    for name, (value, row) in given.items():
        query = Query(**{name: value}, modality=modality, num_rows=7, num_told=3)
        unit = row / np.linalg.norm(row)
        expected = brute_force(vectors(search, modality), unit, lambda one: one not in FLAGGED, 7)
        hits = search.find(query, until())
        assert [hit.row for hit in hits] == [row for row, _ in expected], name
        assert np.allclose([hit.similarity for hit in hits], [score for _, score in expected], atol=1e-5)
        assert [hit.about is not None for hit in hits] == [True] * 3 + [False] * 4


def test_a_row_is_told_with_the_names_of_clip_retrieval(search):
    (hit,) = search.find(Query(vector=vectors(search)[3].tolist(), num_rows=1, num_told=1), until())
    assert hit.row == 3
    assert hit.about == {
        "caption": "a digit in black ink, number 3",
        "url": "https://example.com/3.jpg",
        "image_path": "000000003",
        "NSFW": "UNLIKELY",
    }
    assert hit.similarity == pytest.approx(1, abs=1e-3)


def test_f7_more_rows_than_there_are_give_all_that_may_leave(search):
    hits = search.find(Query(text="a digit", num_rows=10_000, num_told=10_000), until())
    assert sorted(hit.row for hit in hits) == [row for row in range(ROWS) if row not in FLAGGED]
    for number in (0, -1, 10_001):
        with pytest.raises(Mistake, match="rows: found"):
            search.find(Query(text="a digit", num_rows=number), until())


def test_of_near_duplicates_the_best_is_answered(search):
    copied = next(iter(COPIES))
    query = Query(vector=vectors(search)[copied].tolist(), num_rows=ROWS, num_told=ROWS)
    rows = [hit.row for hit in search.find(query, until())]
    alone = [hit.row for hit in search.find(Query(**{**query.__dict__, "deduplicate": True}), until())]
    assert alone == [row for row in rows if row in alone]
    near = vectors(search) @ vectors(search).T > SAME_ABOVE
    group = {row: row for row in rows}  # connected components, the straight way
    for _ in rows:
        group = {row: min((group[one] for one in rows if near[row, one]), key=rows.index) for row in rows}
    assert alone == [row for row in rows if group[row] == row]
    assert copied in alone
    assert COPIES[copied] not in alone


def test_j9_a_row_that_is_blocked_while_the_server_runs_is_never_found_again(pool, clip, tmp_path):
    own = tmp_path / "blocked.txt"
    search = open_search(pool, clip, own)
    query = Query(vector=vectors(search)[3].tolist(), num_rows=6, num_told=6)
    before = [hit.row for hit in search.find(query, until())]
    assert search.block(before[:2]) == 2
    assert [hit.row for hit in search.find(query, until())][:4] == before[2:]
    assert len(search.find(query, until())) == 6  # others take their place
    own.write_text(own.read_text() + f"https://example.com/{before[2]}.jpg\n")  # by another program
    after = [hit.row for hit in search.find(query, until())]
    assert not set(after) & set(before[:3])
    assert [row for row, _ in search.about(before)] == before[3:]
    assert search.picture(before[0]) is None
    assert search.picture(before[3]) is not None
    again = open_search(pool, clip, own)  # the next server reads the same list
    assert [hit.row for hit in again.find(query, until())] == after


def test_tables_are_asked_again_only_for_rows_that_were_not_since_a_list_grew(pool, clip, tmp_path, monkeypatch):
    search = open_search(pool, clip, tmp_path / "blocked.txt")
    query = Query(text="a digit", num_rows=8, num_told=1)
    asked = []
    take = type(search.pool).take
    monkeypatch.setattr(
        type(search.pool), "take", lambda self, rows, roles: asked.append(len(rows)) or take(self, rows, roles)
    )
    search.find(query, until())
    assert asked == [1]  # the row that is told
    search.block_list.add(["https://example.com/no-row-of-this-pool.jpg"])
    asked.clear()
    search.find(query, until())
    search.find(query, until())
    assert asked == [8, 1, 1]


def test_j9_a_list_that_cannot_be_read_any_more_lets_nothing_leave(pool, clip, tmp_path):
    own = tmp_path / "blocked.txt"
    search = open_search(pool, clip, own)
    own.write_text("what is this\n")
    for ask in (lambda: search.find(Query(text="a"), until()), lambda: search.about([1]), lambda: search.picture(1)):
        with pytest.raises(ValueError, match="what is this"):
            ask()


def test_a_row_is_blocked_by_its_hash_or_by_its_address_or_not_at_all(clip, tmp_path):
    for leave_out, begin in (([], None), (["sha256"], "https://example.com/4"), (["sha256", "URL"], "")):
        folder = tmp_path / f"without-{len(leave_out)}"
        write_served_pool(folder, clip, leave_out=leave_out)
        search = open_search(folder, clip, folder / "blocked.txt")
        if begin == "":
            with pytest.raises(Mistake, match="row 4: found neither a sha256 nor an address"):
                search.block([4])
            assert not (folder / "blocked.txt").exists()
        else:
            search.block([4])
            (line,) = (folder / "blocked.txt").read_text().splitlines()
            assert len(line) == 64 if begin is None else line.startswith(begin)
            assert search.about([4]) == []


def test_j9_a_picture_whose_hash_is_on_a_list_is_not_shown_though_the_table_says_no_hash(clip, tmp_path):
    pictures = write_served_pool(tmp_path, clip, leave_out=["sha256"])
    search = open_search(tmp_path, clip, tmp_path / "blocked.txt")
    assert search.picture(4) is not None
    search.block_list.add([hashlib.sha256(pictures[4]).hexdigest()])
    assert search.picture(4) is None
    assert search.picture(3) is not None


def test_what_cannot_be_answered_is_one_line(search):
    row = vectors(search)[0].tolist()
    for query, line in (
        (Query(), "found 0 of text, image and embedding_input"),
        (Query(text="a", vector=row), "found 2 of text, image and embedding_input"),
        (Query(text="a" * 1001), "text: found 1,001 characters"),
        (Query(vector=row[:-1]), rf"found {len(row) - 1} numbers, expected {len(row)}"),
        (Query(vector=[0.0] * len(row)), "found zeros"),
        (Query(vector=[1e308] * len(row)), "too large"),
        (Query(image=b"no picture"), "failed_to_decode"),
        (Query(image=bytes(MOST_PICTURE_BYTES + 1)), "expected at most 8,388,608"),
    ):
        with pytest.raises(Mistake, match=line):
            search.find(query, until())
    for rows in ([-1], [ROWS], [10**30]):
        with pytest.raises(Mistake, match=r"expected rows 0\.\.23"):
            search.about(rows)
    with pytest.raises(TimeoutError):
        search.find(Query(text="a"), time.monotonic() - 1)


def test_f4_vectors_of_another_model_are_refused(pool, clip, tmp_path):
    write_table(tmp_path / "a.parquet", caption=["a", "b"])
    open_spec = PoolSpec.model_validate({"source": str(tmp_path), "clip": {"model": CLIP}})
    with pytest.raises(ValueError, match=r"found no vectors in img_emb/ or text_emb/.*`sixfold embed .* --clip "):
        Search.open(open_spec, None, Metrics())
    write_vectors(tmp_path / "img_emb" / "img_emb_0.npy", np.ones((2, 3)))
    with pytest.raises(ValueError, match="expected 3 as in"):
        Search.open(open_spec, None, Metrics())
    write_vectors(tmp_path / "img_emb" / "img_emb_0.npy", np.ones((2, clip.embed_texts([]).shape[1])))
    about = {"model": "another", "dim": 3, "modalities": {"image": {}}, "model_digest": "ab" * 32}
    (tmp_path / "embeddings.json").write_bytes(to_checked(about))
    with pytest.raises(ValueError, match=r"found another model .* expected 'another' \(digest abababababab\)"):
        Search.open(open_spec, None, Metrics())
    (tmp_path / "embeddings.json").write_bytes(to_checked({**about, "model_digest": clip.digest}))
    opened = Search.open(open_spec, None, Metrics())
    assert opened.modalities == ("image",)
    with pytest.raises(Mistake, match="modality: found text, expected image"):
        opened.find(Query(text="a", modality="text"), until())
