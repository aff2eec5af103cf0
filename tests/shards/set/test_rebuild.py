"""A lost table: written again, byte for byte, where the tar says all that it said; else nothing is touched."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import sixfold
from shards.disk.store import FolderStore
from shards.set.manifest import read_table, scan, scan_records
from shards.set.rebuild import rebuild_tables
from shards.set.verify import verify
from tests.support.small_data_set import write_data_set

TABLE = "00001.parquet"


def varied(shard: int, index: int, row: dict[str, object]) -> dict[str, object]:
    """Values of every kind, some of them null."""
    more = {"context": json.dumps({"ink": "ä\u2028"}), "aesthetic": 1 / 3, "seed": 2**62} if index % 2 else {}
    told = {"domain": "edited", "edit": json.dumps({"side": "feasible"})} if shard else {}
    return {**row, **more, **told}


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return write_data_set(tmp_path / "set", num_rejected=0, change=varied)


def gone(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def altered(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])


@pytest.mark.parametrize("lose", [gone, cut, altered])
def test_a_lost_table_is_written_again_byte_for_byte(store: FolderStore, lose: Callable[[Path], None]) -> None:
    path = store.root / TABLE
    before = path.read_bytes()
    lose(path)
    said = CliRunner().invoke(sixfold.command_line(), ["repair", str(store.root)])
    assert "shard 00001: its table is written again from its tar\nnothing else to repair" in said.output
    assert path.read_bytes() == before
    assert verify(store).damages == ()
    kept = list((store.root / "_meta" / "quarantine").rglob(TABLE))
    assert len(kept) == (lose is not gone), "what was damaged is kept for people"


def test_a_dry_run_says_so_and_writes_nothing(store: FolderStore) -> None:
    (store.root / TABLE).unlink()
    said = CliRunner().invoke(sixfold.command_line(), ["repair", str(store.root), "--dry-run"])
    assert "shard 00001: its table could be written again from its tar" in said.output
    assert not (store.root / TABLE).exists()


def test_a_table_with_rejected_draws_is_more_than_its_tar_and_is_not_written(tmp_path: Path) -> None:
    store = write_data_set(tmp_path / "set", num_rejected=1)
    tars = {path.name: path.read_bytes() for path in store.root.glob("*.tar")}
    (store.root / TABLE).unlink()
    assert rebuild_tables(store, [0, 1]) == ()
    assert not (store.root / TABLE).exists()
    assert {path.name: path.read_bytes() for path in store.root.glob("*.tar")} == tars


def test_a_damaged_tar_gives_no_table(store: FolderStore) -> None:
    altered(store.root / "00001.tar")
    (store.root / TABLE).unlink()
    assert rebuild_tables(store, scan(store).problems) == ()
    said = CliRunner().invoke(sixfold.command_line(), ["repair", str(store.root)])
    assert "shard 00001: moved to _meta/quarantine/" in said.output


def test_subsets_and_other_shards_stay_as_they_are(store: FolderStore) -> None:
    before = read_table(store, scan_records(store)).to_pylist()
    CliRunner().invoke(sixfold.command_line(), ["subset", str(store.root), "tail", "--long-tail", "2"])
    (store.root / TABLE).unlink()
    assert rebuild_tables(store, scan(store).problems) == (1,)
    assert read_table(store, scan_records(store)).to_pylist() == before
    assert verify(store).damages == ()
