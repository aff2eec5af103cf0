"""Subsets of so many samples of each class: out of another subset, nested, and a class that has fewer is told."""

from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

import sixfold
from shards.disk.store import FolderStore
from shards.set.drawn import write_per_class
from shards.set.long_tail import write_long_tail
from shards.set.manifest import read_subset, read_table, scan_records, subset_names, write_subset
from shards.set.verify import verify
from shards.stream.index import load_index
from tests.support.small_data_set import write_data_set

EDITED = {"domain": "edited", "edit": '{"side": "feasible"}'}


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """40 samples, 8 of each of 5 classes, and 4 rejected draws; `filtered` has all 8 of class 0 and 2 of class 1."""
    made = write_data_set(tmp_path / "set", num_slots=20)
    table = read_table(made, scan_records(made), ["uid", "key", "shard", "status", "class_id"]).to_pylist()
    kept = [row["status"] == "success" and row["class_id"] < 2 for row in table]
    ones = [index for index, row in enumerate(table) if kept[index] and row["class_id"] == 1]
    kept = [one and index not in ones[2:] for index, one in enumerate(kept)]
    write_subset(made, "filtered", read_table(made, scan_records(made)).filter(kept), {"score": 0.2})
    return made


def chosen(store: FolderStore, name: str) -> list[str]:
    return [str(uid) for uid in read_subset(store, name)[0]["uid"].to_pylist()]


def test_every_class_has_so_many_samples_and_no_rejected_one(store: FolderStore) -> None:
    assert write_per_class(store, "three", 3, 0) == dict.fromkeys(range(5), 3)
    rows = {row["uid"]: row for row in read_table(store, scan_records(store)).to_pylist()}
    assert Counter(rows[uid]["class_id"] for uid in chosen(store, "three")) == dict.fromkeys(range(5), 3)
    assert {rows[uid]["status"] for uid in chosen(store, "three")} == {"success"}
    assert Counter(load_index(str(store.root), "three").label.tolist()) == dict.fromkeys(range(5), 3)
    assert not verify(store).damages


def test_samples_are_drawn_from_another_subset_and_a_class_with_fewer_keeps_what_it_has(store: FolderStore) -> None:
    assert write_per_class(store, "filtered-4", 4, 0, "filtered") == {0: 4, 1: 2}
    assert set(chosen(store, "filtered-4")) < set(chosen(store, "filtered"))
    assert read_subset(store, "filtered-4")[1] == {"per_class": 4, "seed": 0, "of": "filtered"}
    assert write_long_tail(store, "filtered-tail", 2, 0, "filtered") == {0: 4, 1: 2}
    assert read_subset(store, "filtered-tail")[1]["of"] == "filtered"
    with pytest.raises(ValueError, match="found no such subset, expected one of: filtered"):
        write_per_class(store, "other", 4, 0, "filterd")


def test_fewer_of_each_class_are_among_more_and_another_seed_draws_others(store: FolderStore) -> None:
    for name, per_class, seed in (("one", 1, 0), ("three", 3, 0), ("seven", 7, 0), ("other", 3, 1)):
        write_per_class(store, name, per_class, seed)
    assert set(chosen(store, "one")) < set(chosen(store, "three")) < set(chosen(store, "seven"))
    assert chosen(store, "other") != chosen(store, "three")


def test_a_subset_without_a_sample_and_a_count_below_one_are_refused(store: FolderStore) -> None:
    write_subset(store, "none", read_table(store, scan_records(store)).slice(0, 0), {"score": 0.9})
    with pytest.raises(ValueError, match="found no sample of the subset 'none', expected some"):
        write_per_class(store, "few", 3, 0, "none")
    with pytest.raises(ValueError, match="--per-class: found 0, expected 1 or more"):
        write_per_class(store, "few", 0, 0)
    assert subset_names(store) == ["filtered", "none"]


@pytest.mark.parametrize("name", ["2x", "0.5x", "10x"])
@pytest.mark.parametrize("words", [["--per-class", "1"], ["--long-tail", "2"], ["--where", "side=feasible"]])
def test_a_subset_is_not_called_like_a_scale(tmp_path: Path, name: str, words: list[str]) -> None:
    store = write_data_set(tmp_path / "set", change=lambda shard, index, row: {**row, **EDITED})
    said = CliRunner().invoke(sixfold.command_line(), ["subset", str(store.root), name, *words])
    assert said.exit_code != 0
    assert f"found the name '{name}', which is that of a scale" in f"{said.output}{said.exception}"
    assert subset_names(store) == []
    assert write_per_class(store, f"max-{name}", 1, 0)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--per-class", "3"], "some: 15 samples of 5 classes; read it with data.domains.N.subset=some"),
        (
            ["--per-class", "4", "--of", "filtered"],
            "some: 6 samples of 2 classes, of which 1 had fewer than 4, the least 2; read it with",
        ),
    ],
)
def test_the_command_says_what_it_drew(store: FolderStore, words: list[str], told: str) -> None:
    said = CliRunner().invoke(sixfold.command_line(), ["subset", str(store.root), "some", *words])
    assert said.exit_code == 0, said.output
    assert told in " ".join(said.output.split())
