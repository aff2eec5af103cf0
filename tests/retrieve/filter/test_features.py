"""Rows of pictures are kept by content: what has the same bytes is read once, what has others is read."""

import shutil

import numpy as np
import pytest

from retrieve.dedup.descriptor import Descriptor
from retrieve.filter.features import iter_features
from shards.disk.layout import tar_name
from shards.disk.store import open_for_reading
from shards.set.manifest import scan_records
from tests.support.picture_set import scenes, write_pictures


class Counting:
    """A descriptor that counts what it sees: the mean colour."""

    def __init__(self, digest="counting-1"):
        self.seen = 0
        self.descriptor = Descriptor(digest, self.rows_of, batch=3)

    def rows_of(self, images):
        self.seen += len(images)
        means = np.array([image.reshape(-1, 3).mean(axis=0) for image in images], np.float32)
        return means / np.linalg.norm(means, axis=1, keepdims=True)


def features(folder, counting, cache):
    store = open_for_reading(str(folder))
    said = []
    found = dict(iter_features(store, scan_records(store), counting.descriptor, said.append, cache=cache))
    return {shard: one.rows for shard, one in found.items()}, {s: dict(one.unreadable) for s, one in found.items()}


@pytest.fixture
def folder(tmp_path):
    write_pictures(tmp_path / "set", scenes(13))
    return tmp_path / "set"


def test_each_sample_has_its_row_in_the_order_of_the_table(folder, tmp_path):
    rows, _ = features(folder, Counting(), tmp_path / "cache")
    expected = Counting().rows_of(scenes(13))
    assert [len(rows[shard]) for shard in (0, 1)] == [8, 5]
    np.testing.assert_allclose(np.concatenate([rows[0], rows[1]]), expected, atol=2e-3)


def test_a_second_run_and_a_copy_of_the_set_read_no_picture_and_see_the_same_numbers(folder, tmp_path):
    counting = Counting()
    first, _ = features(folder, counting, tmp_path / "cache")
    shutil.copytree(folder, tmp_path / "another name")
    again, _ = features(tmp_path / "another name", counting, tmp_path / "cache")
    assert counting.seen == 13
    assert all(np.array_equal(first[shard], again[shard]) for shard in first)


def test_a_folder_of_the_same_name_with_other_pictures_gets_rows_of_its_own(folder, tmp_path):
    """The published program keys its cache by the folder's name, and so serves rows of pictures that are gone."""
    counting = Counting()
    features(folder, counting, tmp_path / "cache")
    shutil.rmtree(folder)
    write_pictures(folder, scenes(13, seed=1))
    rows, _ = features(folder, counting, tmp_path / "cache")
    assert counting.seen == 26
    np.testing.assert_allclose(rows[0], Counting().rows_of(scenes(13, seed=1)[:8]), atol=2e-3)


def test_another_model_has_rows_of_its_own(folder, tmp_path):
    features(folder, Counting(), tmp_path / "cache")
    other = Counting("counting-2")
    features(folder, other, tmp_path / "cache")
    assert other.seen == 13


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY nothing", "short", "long rows"])
def test_rows_that_are_damaged_are_made_again(folder, tmp_path, damage):
    counting = Counting()
    first, _ = features(folder, counting, tmp_path / "cache")
    for path in (tmp_path / "cache").rglob("*.npy"):
        if isinstance(damage, bytes):
            path.write_bytes(damage)
        else:
            np.save(path, np.load(path)[1:] if damage == "short" else 3 * np.load(path))
    again, _ = features(folder, counting, tmp_path / "cache")
    assert counting.seen == 26
    assert all(np.array_equal(first[shard], again[shard]) for shard in first)


def test_a_picture_that_cannot_be_read_has_zeros_and_a_reason_until_it_is_brought_back(folder, tmp_path):
    tar = folder / tar_name(0)
    whole = tar.read_bytes()
    at = whole.index(b"\xff\xd8\xff") + 300
    tar.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    counting = Counting()
    rows, unreadable = features(folder, counting, tmp_path / "cache")
    assert list(unreadable[0]) == [0]
    assert "other bytes" in unreadable[0][0]
    assert not rows[0][0].any()
    assert rows[0][1:].any(axis=1).all()
    tar.write_bytes(whole)
    rows, unreadable = features(folder, counting, tmp_path / "cache")
    assert unreadable == {0: {}, 1: {}}
    assert rows[0].any(axis=1).all()


def test_where_nothing_can_be_kept_the_rows_come_nevertheless(folder, tmp_path):
    (tmp_path / "cache").write_text("a file in the way")
    counting = Counting()
    rows, _ = features(folder, counting, tmp_path / "cache")
    assert len(rows[0]) == 8
