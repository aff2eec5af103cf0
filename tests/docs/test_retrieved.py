"""What a retrieved data set shows is told by what was planted in the rows of the pool, and in the rows they copy."""

from dataclasses import replace
from pathlib import Path

from docs.bench.retrieved import table, truth_of
from sandbox import captions, pool, sets
from tests.support.small_data_set import write_data_set


def test_an_image_from_a_duplicate_of_a_near_duplicate_counts_as_a_copy_of_a_test_image(tmp_path: Path) -> None:
    other, _, _ = captions.pool_rows(3)
    copy = replace(other, scene=sets.set_scenes("real-test")[5], kind="near_duplicate", near_test=5)
    rows = [other, copy, *(replace(copy, kind="duplicate", duplicate_of=row, near_test=-1) for row in (1, 2))]
    (tmp_path / "pool").mkdir()
    pool.write_shard(tmp_path / "pool", 0, rows)
    write_data_set(
        tmp_path / "set", 1, 4, 0, lambda shard, index, row: {**row, "url": f"sandbox://pool/{index:06d}.jpg"}
    )
    truth = truth_of(str(tmp_path / "set"), tmp_path / "pool")
    assert [row["shows"] for row in truth] == [-1, 5, 5, 5]
    assert "| a copy of a test image | 3 of 4 |" in table(truth)
