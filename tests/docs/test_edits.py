"""The table of edits: what it says of a set does not depend on the call that made the set."""

from pathlib import Path

import pytest

from docs.bench.edits import draws_per_s
from tests.support.small_data_set import write_data_set


def test_draws_a_second_are_those_of_the_shards_and_not_of_the_call_that_found_them_there(tmp_path: Path) -> None:
    write_data_set(tmp_path, num_shards=2, num_slots=10, num_rejected=2)  # each shard took a second
    assert draws_per_s(tmp_path) == pytest.approx(12)
