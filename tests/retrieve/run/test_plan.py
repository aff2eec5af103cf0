"""What a pool of a size costs: the arithmetic is that of its lines, and the advice follows from it."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieve.run.plan import PoolSize

LAION = PoolSize(rows=2_300_000_000, dim=768, queries=80_000, cores=16, gpus=8, memory_bytes=128e9)


def test_each_line_shows_how_it_comes_about() -> None:
    lines = dict(line.split(maxsplit=1) for line in LAION.describe().splitlines() if not line.startswith(" "))
    assert lines["vectors"].startswith("3.5 TB")  # 2.3e9 x 768 x 2
    assert "2.8e+17 FLOP / 70 GFLOP/s" in lines["scan"]
    assert "70.1 hours on 16 cores" in lines["scan"]
    assert "258.8 hours of a GPU" in lines["embed"]
    assert "58.9 min on 8 GPUs" in LAION.describe()
    assert lines["so"].startswith("the exact scan: it is done (58.9 min) before an index is built")


def test_many_queries_without_a_gpu_are_worth_an_index_and_without_memory_there_is_none() -> None:
    plain = replace(LAION, gpus=0)
    assert "so        an index if recall below 1 will do" in plain.describe()
    assert "so        the exact scan: it is done" in replace(plain, queries=1000).describe()
    assert "so        the exact scan: no index fits" in replace(plain, memory_bytes=1e9).describe()
    assert "embed" not in plain.describe()


@given(st.integers(1, 10**10), st.integers(1, 10), st.integers(1, 64))
def test_more_cores_do_not_make_more_work(rows: int, queries: int, cores: int) -> None:
    one, two = (replace(LAION, rows=rows, queries=queries, gpus=0, cores=n).describe() for n in (cores, 2 * cores))
    of_a_core = [re.search(r"^scan +(.*) of a core", text, re.MULTILINE) for text in (one, two)]
    found = [one[1] for one in of_a_core if one is not None]
    assert len(found) == 2
    assert found[0] == found[1]


@pytest.mark.parametrize(("name", "value"), [("rows", 0), ("dim", 0), ("queries", 0), ("cores", 0), ("gpus", -1)])
def test_sizes_that_nothing_has_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name}: found {value}, expected"):
        replace(LAION, **{name: value}).describe()
