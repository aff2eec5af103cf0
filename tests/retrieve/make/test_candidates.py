"""Candidates: which rows of a pool a sample may become, shared out so that no two samples have one in common."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen.make.plan import Sample
from retrieve.make.candidates import SCHEMA, CandidateTable, table_bytes
from retrieve.make.rows import CandidateRows
from tests.support.small_pool import retrieve_job


def candidates_of(num_per_class: dict[int, int]) -> CandidateTable:
    rows = [(class_id, rank) for class_id, num in sorted(num_per_class.items()) for rank in range(num)]
    empty = {name: [None] * len(rows) for name in SCHEMA.names}
    told = {
        "class_id": [class_id for class_id, _ in rows],
        "rank": [rank for _, rank in rows],
        "row": list(range(100, 100 + len(rows))),
        "caption": [f"{class_id}/{rank}" for class_id, rank in rows],
    }
    return CandidateTable.load(table_bytes(pa.table({**empty, **told}, schema=SCHEMA)))


def test_a_candidate_is_found_by_class_and_rank():
    candidates = candidates_of({3: 2, 8: 1})
    assert candidates.num_per_class() == {3: 2, 8: 1}
    assert (candidates.at(3, 1).row, candidates.at(8, 0).caption) == (101, "8/0")
    assert candidates.num_of(5) == 0
    with pytest.raises(IndexError):
        candidates.at(3, 2)


def test_the_same_candidates_give_the_same_bytes():
    table = candidates_of({3: 2, 8: 1}).table
    assert table_bytes(table) == table_bytes(CandidateTable.load(table_bytes(table)).table)
    with pytest.raises(ValueError, match="found no parquet file"):
        CandidateTable.load(b"PAR1")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 60), st.integers(1, 10))
def test_each_candidate_belongs_to_one_sample_and_the_samples_of_all_folds_have_them_all(count, folds, there, draws):
    rows = CandidateRows(retrieve_job({7: count}, folds, max_draws=draws), candidates_of({7: there}))
    taken = []
    for number in range(count * folds):
        sample = Sample(0, 7, number, 0)
        for draw in range(rows.num_draws(sample)):
            taken.append(rows.row(sample, draw)["caption"])
    assert len(taken) == len(set(taken))
    assert set(taken) == {f"7/{rank}" for rank in range(there)}
