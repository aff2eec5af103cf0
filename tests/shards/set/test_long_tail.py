"""Long-tailed subsets: the numbers of the published sets, nested choices, and a rule that is kept."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import sixfold
from shards.disk.store import FolderStore, open_store
from shards.set.long_tail import tail_counts, write_long_tail
from shards.set.manifest import read_subset, read_table, scan_records, subset_names
from shards.set.verify import verify
from shards.stream.index import load_index
from tests.support.small_data_set import write_data_set

ratios = st.floats(1, 1000)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 samples, 16 of each of 5 classes, and 8 rejected draws."""
    folder = tmp_path_factory.mktemp("tail") / "set"
    write_data_set(folder, num_shards=4, num_slots=20)
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> FolderStore:
    shutil.copytree(made, tmp_path / "set")
    opened = open_store(str(tmp_path / "set"))
    assert isinstance(opened, FolderStore)
    return opened


def chosen(store: FolderStore, name: str) -> set[str]:
    return set(read_subset(store, name)[0]["uid"].to_pylist())


@pytest.mark.parametrize(
    ("classes", "each", "ratio", "total"),
    [(10, 5000, 100, 12_406), (10, 5000, 10, 20_431), (100, 500, 100, 10_847), (100, 500, 10, 19_573)],
)
def test_the_numbers_are_those_of_the_published_long_tailed_cifar(
    classes: int, each: int, ratio: float, total: int
) -> None:
    counts = tail_counts([each] * classes, ratio)
    assert (counts[0], counts[-1], sum(counts)) == (each, each // ratio, total)


@given(st.lists(st.integers(1, 500), min_size=2, max_size=30), ratios)
@settings(max_examples=200, deadline=None)
def test_every_class_has_what_it_keeps_and_falls_as_the_power_does(counts: list[int], ratio: float) -> None:
    keeps = tail_counts(counts, ratio)
    last = len(counts) - 1
    assert all(1 <= keep <= has for keep, has in zip(keeps, counts, strict=True))
    assert keeps == sorted(keeps, reverse=True)
    assert all(abs(keep - max(1, keeps[0] * ratio ** (-place / last))) <= 1 for place, keep in enumerate(keeps))
    more = [(keeps[0] + 1) * ratio ** (-place / last) for place in range(len(counts))]
    assert any(int(one + 1e-6) > has - 1e-6 for one, has in zip(more, counts, strict=True))  # no more would fit


def test_a_subset_has_so_many_samples_of_each_class_and_no_rejected_one(store: FolderStore) -> None:
    keeps = write_long_tail(store, "tail", 4, 0)
    assert keeps == {0: 16, 1: 11, 2: 8, 3: 5, 4: 4}
    rows = {row["uid"]: row for row in read_table(store, scan_records(store)).to_pylist()}
    assert Counter(rows[uid]["class_id"] for uid in chosen(store, "tail")) == keeps
    assert {rows[uid]["status"] for uid in chosen(store, "tail")} == {"success"}
    assert read_subset(store, "tail")[1] == {"long_tail": 4, "seed": 0, "classes": 5}
    assert Counter(load_index(str(store.root), "tail").label.tolist()) == keeps
    assert not verify(store).damages


def test_a_longer_tail_is_a_part_of_a_shorter_one_and_another_seed_another_choice(store: FolderStore) -> None:
    for name, ratio, seed in (("four", 4, 0), ("eight", 8, 0), ("other", 8, 1)):
        write_long_tail(store, name, ratio, seed)
    assert chosen(store, "eight") < chosen(store, "four")
    assert chosen(store, "other") != chosen(store, "eight")


def test_a_name_is_used_once(store: FolderStore) -> None:
    write_long_tail(store, "tail", 4, 0)
    before = chosen(store, "tail")
    assert write_long_tail(store, "tail", 4, 0) == {0: 16, 1: 11, 2: 8, 3: 5, 4: 4}
    with pytest.raises(
        ValueError, match=r"found a subset 'tail' with other samples, .*expected none; take another name"
    ):
        write_long_tail(store, "tail", 8, 0)
    assert chosen(store, "tail") == before


@pytest.mark.parametrize(
    ("counts", "ratio", "told"),
    [
        ([5], 10, "found 1 classes with samples, expected at least two"),
        ([5, 5], 0.5, "found the ratio 0.5, expected 1 or more"),
        ([5, 5], float("nan"), "found the ratio nan, expected 1 or more"),
        ([5, 5], float("inf"), "found the ratio inf, expected 1 or more"),
    ],
)
def test_a_senseless_tail_is_refused(counts: list[int], ratio: float, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        tail_counts(counts, ratio)


def test_the_command_says_what_it_chose(store: FolderStore) -> None:
    said = CliRunner().invoke(sixfold.command_line(), ["subset", str(store.root), "tail-4", "--long-tail", "4"])
    assert said.exit_code == 0, said.output
    assert (
        "tail-4: 44 samples of 5 classes, from 16 down to 4; read it with data.domains.N.subset=tail-4" in said.output
    )
    assert subset_names(store) == ["tail-4"]


def test_the_command_leaves_a_folder_of_something_else_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    said = CliRunner().invoke(sixfold.command_line(), ["subset", str(tmp_path), "tail", "--long-tail", "4"])
    assert isinstance(said.exception, ValueError)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
