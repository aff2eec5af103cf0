"""Runs that share an output: each unit is made by one of them, what a dead one has left is taken over, all end."""

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.fan_out.claims import CLAIMS, SHARED, Claims
from cluster.fan_out.work import Quarantined, Summary
from cluster.process.identity import ProcessId
from cluster.process.lease import last_holder
from cluster.process.stop_flag import StopFlag
from gen.make.shared import make_beside_others
from shards.disk.home import home
from shards.disk.layout import record_name
from shards.disk.store import FolderStore, ObjectStore, open_store

Store = FolderStore | ObjectStore
ATTEMPTS = 3


@pytest.fixture(params=["folder", "objects"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(str(tmp_path) if request.param == "folder" else f"memory://claims{tmp_path}")


def claims_of(store: Store, life: str, **more: float) -> Claims:
    return Claims(store, life, ATTEMPTS, lambda unit: store.exists(record_name(unit)), **more)


def finish(store: Store, unit: int) -> None:
    store.write_exclusive(record_name(unit), b"{}")


def ignore(reason: str) -> None:
    """No run loses its lease here."""


def a_dead_run(store: Store, life: str, units: Iterable[int]) -> None:
    """What a run leaves that was killed on this machine while it made the units."""
    code = (
        "import os, sys; from shards.disk.store import open_store; from cluster.fan_out.claims import Claims\n"
        "store = open_store(sys.argv[1])\n"
        "claims = Claims(store, sys.argv[2], 3, lambda unit: False)\n"
        "claims.joined(print).__enter__(); units = [int(one) for one in sys.argv[3:]]\n"
        "assert len(list(claims.take(units))) == len(units); os._exit(9)"
    )
    assert isinstance(store, FolderStore), "another process sees no memory"
    words = [sys.executable, "-c", code, str(store.root), life, *map(str, units)]
    assert subprocess.run(words, cwd=home(), timeout=60).returncode == 9


def test_each_of_many_units_is_made_once_by_runs_that_come_at_different_times(store: Store) -> None:
    seed = random.randrange(10**9)
    print(f"seed {seed}")
    made: list[int] = []
    summaries: list[Summary] = []

    def run(number: int) -> None:
        rng = random.Random(seed + number)
        time.sleep(rng.random() * 0.2)

        def work(units: Iterable[int]) -> Summary:
            num = 0
            for unit in units:
                time.sleep(rng.random() * 0.01)
                made.append(unit)
                finish(store, unit)
                num += 1
            return Summary(num, (), 0, 0, 1, 0, num, 0, 0.0)

        summaries.append(make_beside_others(range(40), work, store, f"life-{number}", ATTEMPTS, StopFlag()))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(made) == list(range(40))
    assert sum(one.done for one in summaries) == 40
    assert {one.exit_code for one in summaries} == {0}
    assert store.list(f"{CLAIMS}/") == []


def test_a_run_passes_over_what_another_makes(store: Store) -> None:
    first, second = claims_of(store, "life-1"), claims_of(store, "life-2")
    with first.joined(ignore), second.joined(ignore):
        assert len([next(first.take(range(3))), *second.take(range(3))]) == 3
        assert list(second.take(range(3))) == []


def test_c2_what_a_killed_run_has_left_is_taken_over(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    a_dead_run(store, "life-1", [0, 1])
    second = claims_of(store, "life-2")
    with second.joined(ignore):
        assert sorted(second.take(range(3))) == [0, 1, 2]
        assert sorted(name.rpartition("/")[2] for name in store.list(f"{CLAIMS}/")) == [
            *("00000.1", "00000.2", "00001.1", "00001.2", "00002.1"),
        ]
        for unit in range(3):
            finish(store, unit)
        assert second.missing(range(3)) == []
    assert store.list(f"{CLAIMS}/") == []


def test_b8_a_unit_that_kills_every_run_is_left_by_name(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for number in range(ATTEMPTS):
        a_dead_run(store, f"life-{number}", [1])
    summary = make_beside_others([0, 1], lambda units: _made(store, units), store, "life-9", ATTEMPTS, StopFlag())
    assert summary.done == 1
    assert summary.quarantined == (Quarantined(1, 3, "3 runs ended while they made it"),)
    assert summary.exit_code == 3


def _made(store: Store, units: Iterable[int]) -> Summary:
    num = 0
    for unit in units:
        finish(store, unit)
        num += 1
    return Summary(num, (), 0, 0, 1, 0, num, 0, 0.0)


def test_a18_a_run_elsewhere_is_dead_when_its_heart_has_not_beaten_for_a_while_of_our_clock(store: Store) -> None:
    first = claims_of(store, "life-1")
    with first.joined(ignore):
        assert list(first.take([0])) == [0]
        name = f"{SHARED}/life-1/lease.json"
        here = last_holder(store, f"{SHARED}/life-1")
        assert here is not None
        elsewhere = replace(here, process=ProcessId("another boot/pid:[1]", 1, 1))
        store.replace(name, elsewhere.to_json())
        second = claims_of(store, "life-2", patience_s=0.3)
        with second.joined(ignore):
            assert list(second.take([0])) == []
            time.sleep(0.2)
            store.replace(name, replace(elsewhere, heartbeat=here.heartbeat + 1).to_json())
            assert list(second.take([0])) == []
            time.sleep(0.2)
            assert list(second.take([0])) == [], "it has beaten"
            time.sleep(0.2)
            assert list(second.take([0])) == [0]


def test_a_run_waits_for_the_others_and_makes_what_one_of_them_gives_back(store: Store) -> None:
    first = claims_of(store, "life-1")
    done: list[int] = []
    with first.joined(ignore):
        assert list(first.take([0, 1])) != []

        def work(units: Iterable[int]) -> Summary:
            taken = list(units)
            done.extend(taken)
            for unit in taken:
                finish(store, unit)
            return Summary(len(taken), (), 0, 0, 1, 0, 0, 0, 0.0)

        other = threading.Thread(
            target=lambda: make_beside_others([0, 1], work, store, "life-2", ATTEMPTS, StopFlag()), daemon=True
        )
        other.start()
        time.sleep(0.5)
        assert done == []
        finish(store, 0)
    other.join(30)
    assert not other.is_alive()
    assert done == [1]


def test_a_stop_request_ends_the_wait_with_the_exit_code_that_means_again(store: Store) -> None:
    first = claims_of(store, "life-1")
    stop = StopFlag()
    with first.joined(ignore):
        assert list(first.take([0])) == [0]
        threading.Timer(0.3, stop.request, ["SIGUSR1"]).start()
        summary = make_beside_others([0], lambda units: _made(store, units), store, "life-2", ATTEMPTS, stop)
    assert summary.exit_code == 75


def test_a_unit_that_failed_here_is_not_waited_for(store: Store) -> None:
    def work(units: Iterable[int]) -> Summary:
        return Summary(0, tuple(Quarantined(unit, 3, "no luck") for unit in units), 0, 0, 1, 0, 0, 0, 0.0)

    summary = make_beside_others([0, 1], work, store, "life-1", ATTEMPTS, StopFlag())
    assert sorted(one.unit for one in summary.quarantined) == [0, 1]


@pytest.mark.parametrize("content", [b"", b"../../lease", b"\xff\xfe", b"x" * 5000, json.dumps({"a": 1}).encode()])
def test_a_damaged_claim_is_of_nobody(store: Store, content: bytes) -> None:
    store.write_exclusive(f"{CLAIMS}/00000.1", content)
    first = claims_of(store, "life-1")
    with first.joined(ignore):
        assert list(first.take([0])) == [0]


def test_the_units_of_runs_begin_at_different_places() -> None:
    firsts: Counter[int] = Counter()
    for number in range(200):
        store = open_store(f"memory://places-{number}")
        firsts[next(claims_of(store, f"life-{number}").take(range(50)))] += 1
    assert len(firsts) > 30
