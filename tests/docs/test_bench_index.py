"""The benchmark of indexes runs in miniature; autofaiss writes what we read."""

from pathlib import Path

import numpy as np
import pytest

from docs.bench import index, page
from docs.bench.index import BUILD, RATE, WEIGHT, _run, _write, measure
from docs.bench.machine import facts
from docs.bench.measure import Size
from retrieve.index.index import open_index
from retrieve.index.measure import recall_of
from retrieve.pool.embeddings import open_embeddings
from retrieve.scan.scan import exact_scan


def test_the_row_of_indexes_measures_our_side_in_miniature(tmp_path: Path) -> None:
    result = measure(Size(quick=True, scratch=tmp_path), sides=("sixfold",))
    (line,) = result.lines
    assert line.what == "sixfold, IVF32,RaBitQfs,Refine(SQ8)"
    assert line.figures[WEIGHT][0] <= 700
    assert line.figures[BUILD][0] > 0
    assert line.figures[RATE][0] > 0
    assert [verdict.met for verdict in result.verdicts] == [None]
    told = page.section("C11", result, {"quick": True, **facts(tmp_path)})
    assert "recall@10 of at least .95 in at most 700 bytes a vector" in told


def test_a_side_that_takes_too_long_is_stopped_and_the_row_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index of ours stands for a peer that tunes for hours."""
    monkeypatch.setattr(index, "PATIENCE_S", 0.01)
    (line,) = measure(Size(quick=True, scratch=tmp_path), sides=("sixfold",)).lines
    assert (line.what, line.figures) == ("sixfold, stopped: not done", {BUILD: (0.01,)})


@pytest.mark.torture
@pytest.mark.parametrize("side", ["autofaiss", "autofaiss-free"])
def test_an_index_that_autofaiss_built_is_read_and_searched(tmp_path: Path, side: str) -> None:
    """In an environment of its own, which is made the first time."""
    _write(tmp_path, 1500, None, 50)
    told = _run(side, tmp_path, 0.01)
    embeddings = open_embeddings(tmp_path, "image")
    assert embeddings is not None
    queries = np.load(tmp_path / "queries.npy")
    found = open_index(tmp_path / side, "image", embeddings, trusted=True).search(queries, 10)
    assert recall_of(found, exact_scan(embeddings, queries, 10)) >= told["points"][0]["recall"] - 0.05
