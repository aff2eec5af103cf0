"""Subsets by what was edited: exactly the samples with these values, out of another subset, under their rule."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import sixfold
from shards.disk.store import FolderStore
from shards.set.edited import parse_where, write_edited
from shards.set.manifest import read_subset, read_table, scan_records, subset_names, write_subset
from shards.set.verify import verify
from shards.stream.index import load_index
from tests.support.small_data_set import write_data_set

KINDS = ("background", "colour", "texture")


def told(index: int) -> dict[str, str]:
    return {
        "attribute": f"moss {index % 4}",
        "kind": KINDS[index % 3],
        "side": "feasible" if index % 2 else "infeasible",
    }


def as_edited(shard: int, index: int, row: dict[str, object]) -> dict[str, object]:
    return {**row, "domain": "edited", "edit": json.dumps(told(index))}


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """40 edits in 2 shards, and rejected draws that were tried for the same attributes."""
    return write_data_set(tmp_path / "set", num_slots=20, num_rejected=6, change=as_edited)


def chosen(store: FolderStore, name: str) -> list[str]:
    return [str(key) for key in read_subset(store, name)[0]["key"].to_pylist()]


def keys(store: FolderStore, *indices: int) -> list[str]:
    return [f"{shard:05d}{index:04d}" for shard in range(2) for index in indices]


@pytest.mark.parametrize(
    ("where", "fits"),
    [
        (["side=feasible"], lambda one: one["side"] == "feasible"),
        (["side=infeasible", "kind=colour"], lambda one: one["side"] == "infeasible" and one["kind"] == "colour"),
        (["kind=colour", "kind=texture"], lambda one: one["kind"] != "background"),
        (["attribute=moss 3"], lambda one: one["attribute"] == "moss 3"),
    ],
)
def test_a_subset_has_exactly_the_edits_with_these_values(store: FolderStore, where: list[str], fits) -> None:  # type: ignore[no-untyped-def]
    wanted = keys(store, *(index for index in range(20) if fits(told(index))))
    assert write_edited(store, "some", parse_where(where)) == len(wanted)
    assert chosen(store, "some") == wanted
    assert len(load_index(str(store.root), "some").label) == len(wanted)
    assert verify(store).damages == ()


def test_edits_can_be_chosen_out_of_another_subset(store: FolderStore) -> None:
    table = read_table(store, scan_records(store), ["uid", "key", "shard"])
    write_subset(store, "1x", table.slice(0, 7), {"scale": "1x"})
    assert write_edited(store, "some", {"side": ("feasible",)}, "1x") == 3
    assert chosen(store, "some") == ["000000001", "000000003", "000000005"]
    assert read_subset(store, "some")[1] == {"where": {"side": ["feasible"]}, "of": "1x"}


def test_a_name_is_used_once(store: FolderStore) -> None:
    for _ in range(2):
        assert write_edited(store, "some", {"side": ("feasible",)}) == 20
    with pytest.raises(ValueError, match="found a subset 'some' with other samples"):
        write_edited(store, "some", {"side": ("infeasible",)})


@pytest.mark.parametrize("lost", [".json", ".parquet"])
def test_a_subset_of_which_a_killed_call_left_one_file_is_written_anew(store: FolderStore, lost: str) -> None:
    write_edited(store, "whole", {"side": ("infeasible",)})
    write_edited(store, "some", {"side": ("feasible",)})
    folder = store.root / "_meta/subsets"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / f"some{lost}").unlink()
    with pytest.raises(ValueError, match=r"subsets/some: found one of its two files, .*then the `sixfold generate` or"):
        read_subset(store, "some")
    with pytest.raises(ValueError, match="found no such subset, expected one of: whole; that"):
        read_subset(store, "other")
    assert write_edited(store, "some", {"side": ("feasible",)}) == 20
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_values_that_no_edit_has_are_refused_with_those_that_are_there(store: FolderStore, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"found no sample with side 'feasble', expected some; there is side: 'infeasible', 'feasible'"
    ):
        write_edited(store, "some", {"side": ("feasble",)})
    plain = write_data_set(tmp_path / "plain")
    with pytest.raises(ValueError, match="expected some; there is no edit at all"):
        write_edited(plain, "some", {"side": ("feasible",)})
    assert subset_names(store) == subset_names(plain) == []


@pytest.mark.parametrize("word", ["side", "=feasible", "side=", "style=ink"])
def test_a_word_that_is_no_key_and_value_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"--where: found .*, expected side=..., kind=..., attribute=..."):
        parse_where([word])


def test_the_command_says_how_many_it_chose(store: FolderStore) -> None:
    call = ["subset", str(store.root), "odd", "--where", "side=feasible", "--where", "kind=colour"]
    said = CliRunner().invoke(sixfold.command_line(), call)
    assert said.exit_code == 0, said.output
    assert "odd: 8 samples; read it with data.domains.N.subset=odd" in said.output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "found none, expected one of --long-tail, --per-class, --where"),
        (["--where", "side=feasible", "--long-tail", "4"], "found --long-tail and --where, expected one of"),
        (["--where", "side=feasible", "--of", "1x"], "found no such subset, expected one of: none yet"),
    ],
)
def test_calls_that_cannot_be_meant_are_refused(store: FolderStore, more: list[str], message: str) -> None:
    said = CliRunner().invoke(sixfold.command_line(), ["subset", str(store.root), "some", *more])
    assert message in str(said.exception)
