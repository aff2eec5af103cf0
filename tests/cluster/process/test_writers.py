"""Who writes to an output: one run alone, or runs that share it; everybody sees them, and nobody works among them."""

import contextlib
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from typer.testing import CliRunner

import sixfold
from cluster.console import warn
from cluster.fan_out.claims import Claims
from cluster.process.identity import ProcessId
from cluster.process.lease import Holder, Lease, LeaseHeld, last_holder
from cluster.process.writers import lease_folder, sharers, take_alone, told_writers, writers_of
from shards.disk.home import home
from shards.disk.store import FolderStore, ObjectStore, open_store
from tests.support.s3_server import s3_environment, s3_server
from tests.support.small_data_set import write_data_set

Store = FolderStore | ObjectStore
APP = sixfold.command_line()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture(params=["folder", "objects", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param != "s3":
        return open_store(str(tmp_path) if request.param == "folder" else f"memory://writers{tmp_path}")
    for name, value in s3_environment(request.getfixturevalue("address")).items():
        monkeypatch.setenv(name, value)
    bucket = hashlib.sha256(str(tmp_path).encode()).hexdigest()[:20]
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(bucket)
    return open_store(f"s3://{bucket}/out")


def joined(store: Store, life: str) -> Any:
    return Claims(store, life, life, 3, lambda unit: False).joined(warn)


def send_elsewhere(store: Store, life: str) -> Holder:
    """As if the run were one of another machine."""
    here = last_holder(store, lease_folder(life))
    assert here is not None
    away = replace(here, process=ProcessId("another boot/pid:[1]", 4242, 99), host="node17")
    store.replace(f"{lease_folder(life)}/lease.json", away.to_json())
    return away


def lives(store: Store) -> set[str]:
    return {one.life for one in writers_of(store)}


def test_runs_that_share_an_output_are_its_writers_until_they_leave(store: Store) -> None:
    with Lease.take(store, "opens", warn):
        with joined(store, "one"), joined(store, "two"):
            assert lives(store) == {"opens", "one", "two"}
            assert f"pid {os.getpid()}, life opens, generation 1, and 2 runs beside it" in str(
                told_writers(writers_of(store))
            )
        assert lives(store) == {"opens"}
    assert told_writers(writers_of(store)) is None
    assert store.folders("_meta/shared/") == [], "what showed that they lived is gone"


def test_nobody_takes_an_output_that_others_share(store: Store) -> None:
    with joined(store, "one"), pytest.raises(LeaseHeld, match=r"^runs that share .*life one,.* wait for them") as held:
        take_alone(store, "me", warn)
    assert "\n" not in str(held.value)
    take_alone(store, "me", warn).release()


def test_a_run_that_begins_to_share_while_the_lease_is_taken_is_seen(store: Store) -> None:
    """Its lease appears between the first look and the take."""

    def came(seconds: float) -> None:
        if not sharers(store):
            shown.enter_context(joined(store, "late"))

    stranger = Holder(1, "node17", ProcessId("another boot/pid:[1]", 4242, 99), "away")
    store.replace("_meta/lease.json", stranger.to_json())
    with contextlib.ExitStack() as shown:
        with pytest.raises(LeaseHeld, match="life late"):
            take_alone(store, "me", warn, patience_s=1.0, sleep=came)
        found = last_holder(store)
        assert found is not None
        assert found.released, "who did not get the output does not keep it"


def test_a18_a_run_elsewhere_that_shares_is_refused_while_its_heart_beats(store: Store) -> None:
    Lease.take(store, "one", warn, folder=lease_folder("one"))
    away = send_elsewhere(store, "one")

    def beat(seconds: float) -> None:
        store.replace(f"{lease_folder('one')}/lease.json", replace(away, heartbeat=8).to_json())

    with pytest.raises(LeaseHeld, match="host node17, pid 4242, life one"):
        take_alone(store, "me", warn, patience_s=30, sleep=beat)


def test_a18_runs_elsewhere_that_show_no_sign_of_life_are_watched_once_and_stop_if_they_were_only_frozen(
    store: Store,
) -> None:
    lost: list[str] = []
    slept: list[float] = []
    leases = [Lease.take(store, name, lost.append, folder=lease_folder(name)) for name in ("one", "two", "three")]
    for name in ("one", "two", "three"):
        send_elsewhere(store, name)
    with take_alone(store, "me", warn, patience_s=30, sleep=slept.append):
        assert 29 < sum(slept) < 32, "all at once"
        assert lives(store) == {"me"}
        leases[0].beat()
        assert ["life me" in line for line in lost] == [True]
    assert lives(store) == set()


def test_c1_a_killed_run_that_shared_is_no_writer(tmp_path: Path) -> None:
    code = (
        "import os, sys; from shards.disk.store import open_store; from cluster.fan_out.claims import Claims\n"
        "joined = Claims(open_store(sys.argv[1]), 'one', 'one', 3, lambda unit: False).joined(print)\n"
        "joined.__enter__(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=home(), timeout=120).returncode == 9
    store = open_store(str(tmp_path))
    assert writers_of(store) == []
    with take_alone(store, "me", warn):
        assert lives(store) == {"me"}


@pytest.fixture
def shared_set(tmp_path: Path) -> Iterator[FolderStore]:
    """A data set whose last shard is not published yet, while a run that shares it works."""
    store = write_data_set(tmp_path / "set")
    (store.root / "00001_stats.json").rename(store.root / "held back")
    with joined(store, "one"):
        yield store


@pytest.mark.parametrize(
    "words", [("repair",), ("subset", "tail", "--long-tail", "2"), ("filter", "--name", "all", "--near", "0.9")]
)
def test_b7_a_verb_that_writes_is_refused_while_runs_share_the_output(
    shared_set: FolderStore, words: tuple[str, ...]
) -> None:
    before = sorted(path.name for path in shared_set.root.iterdir())
    said = CliRunner().invoke(APP, [words[0], str(shared_set.root), *words[1:]])
    assert isinstance(said.exception, LeaseHeld), said.output
    assert sorted(path.name for path in shared_set.root.iterdir()) == before
    assert not (shared_set.root / "_meta/quarantine").exists()


def test_verify_takes_a_shard_that_a_sharing_run_has_not_published_for_work_and_no_damage(
    shared_set: FolderStore,
) -> None:
    said = CliRunner().invoke(APP, ["verify", str(shared_set.root)])
    assert "a run is going on here (host" in said.stdout
    assert "no damage" in said.stdout


def test_a_run_that_shares_is_watched_until_it_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.watch.WATCH_S", 0.05)
    store = write_data_set(tmp_path / "set")
    seen: list[Any] = []
    words = ["status", str(store.root), "--watch"]
    watching = threading.Thread(target=lambda: seen.append(CliRunner().invoke(APP, words)))
    with Claims(store, "one", "one", 3, lambda unit: False).joined(warn) as lease:
        lease.doing = lambda: "5/20 images"
        lease.beat()
        assert "life one" in CliRunner().invoke(APP, words[:-1]).stdout
        watching.start()
        time.sleep(1.5)
        assert not seen, "it waits for the run"
    watching.join(60)
    assert "5/20 images" in seen[0].stderr
    assert "writer    nobody now" in seen[0].stdout
