"""Child processes that are killed, stopped and raced over the commit protocol; run as `python -m
tests.support.shard_children`.

One process imports everything once and forks the workers, so a kill costs milliseconds. Prints what it did; any broken
promise is an AssertionError and exit code 1.
"""

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from shards.disk.record import read_record
from shards.disk.store import FolderStore, open_store
from shards.set.commit import recover, settle
from shards.set.verify import verify
from tests.support.faulty_disk import FaultyDisk
from tests.support.shard_rows import leftovers, published, write_shard

NUM_UNITS = 40


def fork(work: Callable[[], None]) -> int:
    """The process id of a child that does `work` and is gone afterwards."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException as error:
        print(f"child: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def make_units(root: Path, attempt: str, salt: str = "") -> None:
    store = FolderStore(root)
    recover(store)
    for unit in range(NUM_UNITS):
        if settle(store, unit) is None:
            write_shard(store, unit, attempt, salt=salt)


def kills(root: Path, times: int, rng: random.Random) -> None:
    """A1: SIGKILL at random moments, until all units are done; then over in a fresh folder."""
    open_store(str(root / "reference"))
    warm_up(root)
    start = time.monotonic()
    make_units(root / "reference", "undisturbed")
    unit_s = (time.monotonic() - start) / NUM_UNITS  # kills are spread over a few units, however busy the machine
    reference = published(root / "reference")
    killed = rounds = in_the_middle = 0
    while killed < times:
        folder = root / f"round{rounds}"
        open_store(str(folder))
        rounds += 1
        while killed < times:
            pid = fork(partial(make_units, folder, f"k{killed}"))
            time.sleep(rng.uniform(0.0, 4 * unit_s))
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if os.WIFEXITED(status):
                assert os.WEXITSTATUS(status) == 0, "a child failed by itself"
                break
            killed += 1
            in_the_middle += leftovers(folder) != []
            if killed % 20 == 0:
                assert {damage.kind for damage in verify(FolderStore(folder)).damages} <= {"unpublished", "gap"}
        make_units(folder, "last")
        assert published(folder) == reference, "the tree differs from that of an uninterrupted run"
        assert verify(FolderStore(folder)).damages == ()
        recover(FolderStore(folder))
        assert leftovers(folder) == []
        shutil.rmtree(folder)
    assert in_the_middle > times // 10
    print(
        f"{killed} kills, {in_the_middle} of them in the middle of a shard, in {rounds} rounds of {NUM_UNITS} units: "
        "nothing lost, nothing twice, the same bytes"
    )


def warm_up(root: Path) -> None:
    """The first shard of a process costs about a second (pyarrow imports pandas); pay it before the forks."""
    open_store(str(root / "warm"))
    write_shard(FolderStore(root / "warm"), 0)


def compete(root: Path, race: int, runner: int, gate: tuple[int, int]) -> None:
    os.close(gate[1])
    os.read(gate[0], 1)  # both go when the parent closes its end
    record = write_shard(FolderStore(root), race, f"runner-{runner}", salt=f"device {runner}")
    (root / "_meta" / f"{race}.{runner}.seen").write_text(json.dumps([record.attempt, record.tar.sha256]))


def races(root: Path, times: int, rng: random.Random) -> None:
    """A13: two attempts with different bytes publish one unit at the same moment."""
    store = open_store(str(root))
    wins = [0, 0]
    warm_up(root)
    for race in range(times):
        gate = os.pipe()
        pids = [fork(partial(compete, root, race, runner, gate)) for runner in (0, 1)]
        os.close(gate[0])
        time.sleep(rng.uniform(0.0, 0.002))
        os.close(gate[1])
        for pid in pids:
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        done = read_record(store, race)
        assert done is not None
        for runner in (0, 1):
            seen = json.loads((root / "_meta" / f"{race}.{runner}.seen").read_text())
            assert seen == [done.attempt, done.tar.sha256], "both attempts must know the same winner"
        wins[int(done.attempt[-1])] += 1
    assert verify(store).damages == ()
    assert leftovers(root) == []
    print(f"{times} races, wins {wins[0]} : {wins[1]}")


def zombies(root: Path, times: int, rng: random.Random) -> None:
    """A14: an attempt is stopped at some call, a replacement with other bytes runs, the attempt wakes up."""
    disk = FaultyDisk(-1, "none")
    open_store(str(root / "calls"))
    write_shard(FolderStore(root / "calls", disk=disk), 0)
    num_calls = len(disk.calls)
    stopped_at = [at * num_calls // times % num_calls if times < num_calls else at % num_calls for at in range(times)]
    for turn, at in enumerate(stopped_at):
        folder = root / str(turn)
        store = open_store(str(folder))

        def sleep_at(at: int = at, folder: Path = folder) -> None:
            write_shard(FolderStore(folder, disk=FaultyDisk(at, "stop")), 0, "zombie", salt="another device")

        pid = fork(sleep_at)
        _, status = os.waitpid(pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), f"the attempt did not stop at call {at}"
        found = recover(store)
        assert found.collected == (), "temporaries of a live attempt were collected"
        record = settle(store, 0) or write_shard(store, 0, "replacement")
        before = published(folder)
        record_before = (folder / "00000_stats.json").read_bytes()
        os.kill(pid, signal.SIGCONT)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the stale attempt sees that it lost and goes on"
        assert published(folder) == before
        assert (folder / "00000_stats.json").read_bytes() == record_before
        assert read_record(store, 0) == record
        assert verify(store).damages == ()
        recover(store)
        assert leftovers(folder) == []
    print(f"{times} stale attempts, stopped at {len(set(stopped_at))} of {num_calls} calls: nothing changed")


def descriptors(root: Path, times: int, rng: random.Random) -> None:
    """A27: RLIMIT_NOFILE 64 and many units in one process."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    store = open_store(str(root))
    write_shard(store, 0)
    before = len(os.listdir("/proc/self/fd"))
    for unit in range(1, times):
        write_shard(store, unit, num_samples=1)
    assert len(os.listdir("/proc/self/fd")) == before
    print(f"{times} units with at most 64 descriptors, {before} in use before and after")


if __name__ == "__main__":
    mode, path, count, seed = sys.argv[1:]
    {"kills": kills, "races": races, "zombies": zombies, "descriptors": descriptors}[mode](
        Path(path), int(count), random.Random(int(seed))
    )
