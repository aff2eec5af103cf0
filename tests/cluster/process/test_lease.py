"""One driver per output, whatever the clocks say."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.process.identity import ProcessId, alive, kill_here, start_ticks, this_process
from cluster.process.lease import LEASE, Holder, Lease, LeaseHeld
from shards.disk.home import home
from shards.disk.lock import is_held


class Folder:
    """The four methods the lease asks of a store."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read_bytes(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def exists(self, name: str) -> bool:
        return (self.root / name).exists()

    def write_exclusive(self, name: str, data: bytes) -> bool:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            with (self.root / name).open("xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        return True

    def replace(self, name: str, data: bytes) -> None:
        temp = self.root / f"{name}.{os.getpid()}"
        temp.write_bytes(data)
        temp.rename(self.root / name)


def take(folder: Path, life: str = "me", sleep: Callable[[float], None] = lambda s: None, lock: bool = True) -> Lease:
    return Lease.take(
        Folder(folder), life, lost.append, lock_folder=folder if lock else None, patience_s=30, sleep=sleep
    )


lost: list[str] = []


def holder_of(folder: Path) -> Holder:
    found = Holder.from_json((folder / LEASE).read_bytes())
    assert found is not None
    return found


def from_elsewhere(folder: Path, **changes: object) -> Holder:
    """Leave the lease of a driver on another machine."""
    stranger = Holder(3, "node17", ProcessId("another-boot/pid:[1]", 4242, 99), "s812-0-abc", heartbeat=7)
    stranger = dataclasses.replace(stranger, **changes)  # type: ignore[arg-type]
    (folder / "_meta").mkdir(exist_ok=True)
    (folder / LEASE).write_bytes(stranger.to_json())
    return stranger


DRIVER = """
import sys, time
from pathlib import Path
from cluster.process.lease import Lease
from tests.cluster.process.test_lease import Folder
folder = Path(sys.argv[1])
with Lease.take(Folder(folder), "child", print, lock_folder=folder if sys.argv[2] == "lock" else None):
    print("held", flush=True)
    time.sleep(60)
"""


def other_driver(folder: Path, lock: str) -> "subprocess.Popen[str]":
    child = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder), lock], cwd=home(), stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


@pytest.mark.parametrize("lock", ["lock", "no lock"])
def test_a17_a_second_driver_on_this_machine_is_refused_and_told_who_holds_it(tmp_path, lock):
    child = other_driver(tmp_path, lock)
    try:
        with pytest.raises(LeaseHeld, match=f"pid {child.pid}, life child, generation 1") as refusal:
            take(tmp_path, lock=lock == "lock")
        assert "\n" not in str(refusal.value)
        child.send_signal(signal.SIGSTOP)  # C4: a stopped driver still holds it
        with pytest.raises(LeaseHeld):
            take(tmp_path, lock=lock == "lock")
    finally:
        child.kill()
        child.wait(timeout=200)
    with take(tmp_path, lock=lock == "lock") as lease:
        assert lease.generation == 2, "a dead driver's lease is taken over at once"


def test_a_released_lease_is_free_and_generations_only_grow(tmp_path):
    for generation in (1, 2, 3):
        with take(tmp_path) as lease:
            assert lease.generation == generation
            assert not holder_of(tmp_path).released
        assert holder_of(tmp_path).released


class Away(Exception):
    """As botocore's EndpointConnectionError: no OSError."""


def test_a_lease_is_released_without_a_word_if_the_store_is_away_and_its_lock_is_free(tmp_path):
    class Store(Folder):
        is_away = False

        def read_bytes(self, name: str) -> bytes:
            if self.is_away:
                raise Away("Could not connect to the endpoint URL")
            return super().read_bytes(name)

    store = Store(tmp_path)
    with Lease.take(store, "me", lost.append, lock_folder=tmp_path):
        store.is_away = True
    assert not is_held(tmp_path / "_meta/lease.lock")
    assert not holder_of(tmp_path).released
    store.is_away = False
    take(tmp_path).release()


def test_each_heartbeat_says_how_far_the_holder_is_and_a_free_lease_says_nothing(tmp_path):
    with take(tmp_path) as lease:
        assert holder_of(tmp_path).doing == ""
        lease.doing = lambda: "20/80 images" + "x" * 1_000
        lease.beat()
        assert holder_of(tmp_path).doing.startswith("20/80 images")
        assert len(holder_of(tmp_path).doing) == 300
    assert holder_of(tmp_path).doing == ""


def test_the_lease_of_an_earlier_version_says_nothing_of_how_far_it_is(tmp_path):
    from_elsewhere(tmp_path)
    row = json.loads((tmp_path / LEASE).read_text())
    del row["doing"]
    (tmp_path / LEASE).write_text(json.dumps(row))
    found = holder_of(tmp_path)
    assert (found.doing, found.heartbeat, found.is_here) == ("", 7, False)


def test_a18_a_holder_elsewhere_whose_heart_beats_is_refused_whatever_the_clock_says(tmp_path):
    stranger = from_elsewhere(tmp_path)
    os.utime(tmp_path / LEASE, (1.0, 1.0))  # as if written in 1970

    def beat(seconds: float) -> None:
        (tmp_path / LEASE).write_bytes(dataclasses.replace(stranger, heartbeat=8).to_json())

    with pytest.raises(LeaseHeld, match="host node17, pid 4242"):
        take(tmp_path, sleep=beat)


def test_a18_a_holder_elsewhere_without_heartbeat_is_taken_over_after_our_patience(tmp_path):
    from_elsewhere(tmp_path)
    os.utime(tmp_path / LEASE, (9e9, 9e9))  # as if written in 2255
    slept: list[float] = []
    with take(tmp_path, sleep=slept.append) as lease:
        assert lease.generation == 4
        assert 29 < sum(slept) < 32


@pytest.mark.parametrize("released", [False, True])
def test_an_output_whose_last_taker_died_before_it_wrote_its_lease_is_taken_after_our_patience(tmp_path, released):
    before = from_elsewhere(tmp_path, released=released)
    died = dataclasses.replace(before, generation=4, life="s813-0-def", heartbeat=0, released=False)
    (tmp_path / "_meta" / "leases").mkdir()
    (tmp_path / "_meta" / "leases" / "000004.json").write_bytes(died.to_json())
    waits: list[float] = []
    with take(tmp_path, sleep=waits.append) as lease:
        assert lease.generation == 5
    assert sum(waits) == pytest.approx(30 if released else 60), "for who is named last, too"


def test_a_taker_elsewhere_that_was_between_its_two_files_is_refused_when_it_has_written_both(tmp_path):
    before = from_elsewhere(tmp_path, released=True)
    other = dataclasses.replace(before, generation=4, life="s813-0-def", heartbeat=0, released=False)
    (tmp_path / "_meta" / "leases").mkdir()
    (tmp_path / "_meta" / "leases" / "000004.json").write_bytes(other.to_json())

    def sleep(seconds: float) -> None:
        (tmp_path / LEASE).write_bytes(dataclasses.replace(other, heartbeat=1).to_json())

    with pytest.raises(LeaseHeld, match="life s813-0-def"):
        take(tmp_path, sleep=sleep)


def test_a_holder_that_comes_back_sees_the_newer_generation_and_stops(tmp_path):
    lost.clear()
    first = take(tmp_path, "first", lock=False)
    (tmp_path / LEASE).write_bytes(
        dataclasses.replace(holder_of(tmp_path), process=ProcessId("elsewhere/pid:[1]", 1, 1)).to_json()
    )  # as the second one sees it from another machine, while the first is stopped
    second = take(tmp_path, "second", lock=False)
    first.beat()
    first.beat()
    assert first.lost
    assert len(lost) == 1
    assert "life second, generation 2" in lost[0]
    first.release()
    assert holder_of(tmp_path).life == "second", "who lost it does not release it"
    assert not holder_of(tmp_path).released
    second.release()


def test_of_two_takers_of_one_dead_lease_one_wins(tmp_path):
    from_elsewhere(tmp_path)
    winner: list[Lease] = []

    def overtaken(seconds: float) -> None:
        if not winner:
            winner.append(Lease.take(Folder(tmp_path), "fast", lost.append, patience_s=0, sleep=lambda s: None))
            raced = dataclasses.replace(holder_of(tmp_path), process=ProcessId("elsewhere/pid:[1]", 1, 1))
            (tmp_path / LEASE).write_bytes(raced.to_json())

    with pytest.raises(LeaseHeld, match="life fast, generation 4"):
        take(tmp_path, "slow", sleep=overtaken, lock=False)


@pytest.mark.parametrize("torn", [b"", b"{", b"[]", b'{"generation": "x"}', b"\xff"])
def test_a_torn_lease_file_is_nobodys_and_generations_still_exclude(tmp_path, torn):
    take(tmp_path, lock=False).release()
    (tmp_path / LEASE).write_bytes(torn)
    with take(tmp_path, lock=False) as lease:
        assert lease.generation == 2


def test_beats_change_the_heartbeat_and_nothing_else(tmp_path):
    with take(tmp_path) as lease:
        before = json.loads((tmp_path / LEASE).read_text())
        lease.beat()
        after = json.loads((tmp_path / LEASE).read_text())
    assert after.pop("heartbeat") == before.pop("heartbeat") + 1
    assert after == before


def test_a_process_is_known_by_its_start_so_a_reused_pid_is_a_stranger():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    started = start_ticks(child.pid)
    assert started is not None
    me = this_process()
    real = ProcessId(me.place, child.pid, started)
    reused = ProcessId(me.place, child.pid, started - 1)
    foreign = ProcessId("another-boot/pid:[1]", child.pid, started)
    assert [alive(process) for process in (real, reused, foreign)] == [True, False, False]
    assert [kill_here(process) for process in (reused, foreign)] == [False, False]
    assert child.poll() is None
    assert kill_here(real)
    assert child.wait(timeout=200) == -signal.SIGKILL
    assert not alive(real)


@pytest.mark.parametrize(
    "content", ["[" * 200_000, '{"generation": Infinity}', '{"generation": 1e999}', "null", "\xff"]
)
def test_a_lease_that_is_no_json_of_a_holder_is_damaged_and_can_be_taken(tmp_path: Path, content: str) -> None:
    store = Folder(tmp_path)
    (tmp_path / LEASE).parent.mkdir()
    store.replace(LEASE, content.encode("latin-1"))
    with Lease.take(store, "life", print):
        assert Holder.from_json(store.read_bytes(LEASE)) is not None
