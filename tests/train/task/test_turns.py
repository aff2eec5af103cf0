"""Pictures that stand for a whole set: evenly over its classes, whatever the order in which it was written."""

import random
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shards.stream.index_arrays import Index, make_index
from shards.stream.spec import EvalSpec
from tests.support.small_data_set import write_data_set
from train.evaluate.evaluate import SetSpec, open_set
from train.task.turns import first_pictures, in_turns, spread


def index_of(samples: list[tuple[int, int]]) -> Index:
    """An index of (class id, uid) in one tar."""
    num = len(samples)
    arrays = {
        "first": np.array([0, num], np.int64),
        "tar_bytes": np.array([512 * num], np.int64),
        "left_out": np.zeros(1, np.int64),
        "offset": 512 * np.arange(num, dtype=np.int64),
        "size": np.ones(num, np.int64),
        "label": np.array([label for label, _ in samples], np.int32),
        "uid": np.array([uid for _, uid in samples], np.uint64),
        "picture_hash": np.zeros(num, np.uint64),
    }
    return make_index("nowhere", ["00000.tar"], [""], arrays)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 9))
def test_classes_have_equally_many_as_far_as_they_have_them_in_any_order_of_the_set(
    labels: list[int], most: int, seed: int
) -> None:
    samples = [(label, 7919 * number + 3) for number, label in enumerate(labels)]
    index, known = index_of(samples), [label for label in sorted(set(labels)) if label != 6]
    rows = spread(index, known, most)
    assert (np.diff(rows) > 0).all()
    chosen = [samples[row] for row in rows]
    assert len(chosen) == min(most, sum(label != 6 for label in labels))
    taken = {label: sum(one == label for one, _ in chosen) for label in known}
    least = min((num for label, num in taken.items() if num < labels.count(label)), default=most)
    assert all(num <= least + 1 for num in taken.values())
    random.Random(seed).shuffle(samples)
    again = index_of(samples)
    assert {samples[row] for row in spread(again, known, most)} == set(chosen)
    assert [samples[row] for row in in_turns(again, known)[: len(known)]] == [
        next(one for one in (samples[row] for row in in_turns(again, [label]))) for label in known
    ]


def test_a_picture_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    write_data_set(tmp_path / "set", num_shards=1, num_rejected=0)
    index = open_set("one", "test", SetSpec(source=str(tmp_path / "set")), 5).opened.index
    shown = EvalSpec(source=str(tmp_path / "set"), size_px=32)
    whole = first_pictures(shown, index, [0, 1], 3)
    assert [label for label, _ in whole] == [0, 1, 0]
    lost = int(in_turns(index, [0, 1])[0])
    tar = tmp_path / "set" / "00000.tar"
    data = bytearray(tar.read_bytes())
    data[index.offset[lost] : index.offset[lost] + 20] = bytes(20)
    tar.write_bytes(data)
    left = first_pictures(shown, index, [0, 1], 9)
    assert [label for label, _ in left] == [1, 0, 1]
    assert all(image.shape == (32, 32, 3) for _, image in left)
