"""Runs that share an output: each unit is made by one of them, what a dead one has left is taken over, all end."""

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.fan_out.claims import CLAIMS, Claims
from cluster.fan_out.work import Quarantined, Summary
from cluster.process.identity import ProcessId
from cluster.process.lease import Lease, last_holder
from cluster.process.stop_flag import StopFlag
from cluster.process.writers import SHARED
from gen.make.shared import make_beside_others
from shards.disk.home import home
from shards.disk.layout import record_name
from shards.disk.store import FolderStore, ObjectStore, open_store

Store = FolderStore | ObjectStore
ATTEMPTS = 3


@pytest.fixture(params=["folder", "objects"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(str(tmp_path) if request.param == "folder" else f"memory://claims{tmp_path}")


def claims_of(store: Store, life: str, submission: str = "", **more: float) -> Claims:
    return Claims(store, life, submission or life, ATTEMPTS, lambda unit: store.exists(record_name(unit)), **more)


def beside_others(
    units: Sequence[int],
    work: Callable[[Iterable[int]], Summary],
    store: Store,
    life: str,
    stop: StopFlag | None = None,
    submission: str = "",
) -> Summary:
    claims, stop = claims_of(store, life, submission), stop or StopFlag()
    with claims.joined(stop.request):
        return make_beside_others(units, work, claims, stop)


def finish(store: Store, unit: int) -> None:
    store.write_exclusive(record_name(unit), b"{}")


def ignore(reason: str) -> None:
    """No run loses its lease here."""


def a_dead_run(store: Store, life: str, units: Iterable[int], begun: int = 99, submission: str = "") -> None:
    """What a run leaves that was killed on this machine while it made the first `begun` of the units that it had."""
    code = (
        "import os, sys; from shards.disk.store import open_store; from cluster.fan_out.claims import Claims\n"
        "store = open_store(sys.argv[1])\n"
        "claims = Claims(store, sys.argv[2], sys.argv[3], 3, lambda unit: False)\n"
        "joined = claims.joined(print); joined.__enter__(); units = [int(one) for one in sys.argv[5:]]\n"
        "taken = list(claims.take(units)); assert len(taken) == len(units)\n"
        "for one in taken[:int(sys.argv[4])]: claims.begun(one)\n"
        "os._exit(9)"
    )
    assert isinstance(store, FolderStore), "another process sees no memory"
    words = [sys.executable, "-c", code, str(store.root), life, submission or life, str(begun), *map(str, units)]
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

        summaries.append(beside_others(range(40), work, store, f"life-{number}"))

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


def test_b8_a_unit_that_kills_every_run_of_a_submission_is_left_by_name(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for number in range(ATTEMPTS):
        a_dead_run(store, f"life-{number}", [1], submission="s81")
    summary = beside_others([0, 1], lambda units: _made(store, units), store, "life-9", submission="s81")
    assert summary.done == 1
    told = "3 runs failed at it, or were killed while they made it"
    assert summary.quarantined == (Quarantined(1, 3, told),)
    assert summary.exit_code == 3


def test_b8_the_same_command_again_tries_a_unit_once_more_that_was_left(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for number in range(ATTEMPTS):
        a_dead_run(store, f"life-{number}", [1], submission="s81")
    assert beside_others([1], lambda units: _made(store, units), store, "life-9", submission="s82").exit_code == 0
    assert store.list(f"{CLAIMS}/") == []


def test_b8_a_unit_that_kills_runs_while_another_waits_is_left_whatever_they_were_submitted_with(
    tmp_path: Path,
) -> None:
    store = open_store(str(tmp_path))
    watcher = claims_of(store, "life-9")
    with watcher.joined(ignore):
        assert list(watcher.take([])) == [], "its first look"
        for number in range(ATTEMPTS):
            a_dead_run(store, f"life-{number}", [1])
        assert watcher.wait([1], StopFlag()) == []
        assert watcher.left == {1: 3}


def test_c6_runs_that_are_stopped_on_request_count_as_no_try_however_often(store: Store) -> None:
    """Three warned lives and more: each claims a unit, begins it, is asked to stop, and leaves."""
    for number in range(2 * ATTEMPTS):
        claims = claims_of(store, f"life-{number}", "s81")

        def drained(units: Iterable[int], claims: Claims = claims) -> Summary:
            claims.begun(next(iter(units)))
            assert len(store.list(f"{CLAIMS}/")) == 1
            return Summary(0, (), 0, 0, 1, 0, 0, 0, 0.0, drained=True)

        with claims.joined(ignore):
            assert make_beside_others([0, 1], drained, claims, StopFlag()).exit_code == 75
            assert store.list(f"{CLAIMS}/") == [], "others need not wait for its end"
    assert beside_others([0, 1], lambda units: _made(store, units), store, "last", submission="s81").exit_code == 0


def test_c6_what_a_run_had_claimed_ahead_and_not_begun_is_no_try_when_it_is_killed(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for number in range(ATTEMPTS):
        a_dead_run(store, f"life-{number}", [0, 1], begun=0, submission="s81")
    summary = beside_others([0, 1], lambda units: _made(store, units), store, "last", submission="s81")
    assert (summary.done, summary.exit_code) == (2, 0)


def test_c6_an_output_whose_claims_an_earlier_version_has_left_goes_on(tmp_path: Path) -> None:
    """Its claims hold the life alone, and tell nobody whether the life was asked to stop."""
    store = open_store(str(tmp_path))
    for number in range(1, ATTEMPTS + 1):
        store.write_exclusive(f"{CLAIMS}/00000.{number}", f"life-{number}".encode())
        Lease.take(store, f"life-{number}", ignore, folder=f"{SHARED}/life-{number}").release()
    assert beside_others([0], lambda units: _made(store, units), store, "last").exit_code == 0


def test_b8_units_that_fail_in_every_run_are_tried_by_as_many_runs_as_asked(store: Store) -> None:
    tried: list[str] = []
    for number in range(ATTEMPTS + 2):

        def work(units: Iterable[int], number: int = number) -> Summary:
            failed = tuple(Quarantined(unit, 3, "no luck") for unit in units)
            tried.append(f"life-{number}")
            return Summary(0, failed, 3, 0, 1, 0, 0, 0, 0.0)

        assert beside_others([0], work, store, f"life-{number}", submission="s81").exit_code == 3
    assert tried == [f"life-{number}" for number in range(ATTEMPTS)]


def test_a_unit_that_another_run_failed_at_is_taken_while_that_one_lives(store: Store) -> None:
    first, second = claims_of(store, "life-1", "s81"), claims_of(store, "life-2", "s81")
    with first.joined(ignore), second.joined(ignore):
        assert list(first.take([0])) == [0]
        first.begun(0)
        assert list(second.take([0])) == []
        first.failed(0)
        assert list(first.take([0])) == []
        assert list(second.take([0])) == [0]


def test_c4_a_unit_of_a_run_whose_heart_stands_still_is_taken_over_on_this_machine_too(tmp_path: Path) -> None:
    """Of a process that hangs in a dead mount, not even a kill ends the first thread."""
    store = open_store(str(tmp_path))
    first, second = claims_of(store, "life-1"), claims_of(store, "life-2", patience_s=0.3)
    with first.joined(ignore), second.joined(ignore):
        assert list(first.take([0])) == [0]
        assert list(second.take([0])) == []
        time.sleep(0.4)
        assert list(second.take([0])) == [0]


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

        other = threading.Thread(target=lambda: beside_others([0, 1], work, store, "life-2"), daemon=True)
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
        summary = beside_others([0], lambda units: _made(store, units), store, "life-2", stop)
    assert summary.exit_code == 75


def test_a_unit_that_failed_here_is_not_waited_for(store: Store) -> None:
    def work(units: Iterable[int]) -> Summary:
        return Summary(0, tuple(Quarantined(unit, 3, "no luck") for unit in units), 0, 0, 1, 0, 0, 0, 0.0)

    summary = beside_others([0, 1], work, store, "life-1")
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
