"""The stream: exact quotas, an order and pixels that nothing but (seed, step) changes, bad samples, growth, bounds."""

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.disk.jpeg import encode_jpeg
from shards.disk.layout import record_name, table_name, tar_name
from shards.disk.regular import open_regular
from shards.disk.store import open_store
from shards.set import manifest
from shards.set.writer import ShardWriter
from shards.stream.augment import AugmentSpec, planted_shift
from shards.stream.index import load_index
from shards.stream.mix import MixSpec
from shards.stream.pixels import eval_pixels
from shards.stream.read_all import read_all
from shards.stream.spec import CacheSpec, DomainSpec, EvalSpec, StreamSpec
from shards.stream.stream import Batch, Replaced, Stream
from tests.support.small_data_set import FINGERPRINT, picture, sample, write_data_set, write_foreign
from tests.support.stream_child import groups_of

EPOCH = 5
GROUPS = 4
RANDOM = AugmentSpec(policy="rand", erase=0.3)
MIXED = MixSpec(mixup_alpha=0.4, cutmix_alpha=1.0)


def synthetic_row(shard: int, index: int, row: dict[str, object]) -> dict[str, object]:
    """Ids of its own: `sample` gives every data set the same."""
    return {**row, "uid": hashlib.sha256(f"synthetic {shard}/{index}".encode()).hexdigest()[:32]}


def write_both(root: Path) -> dict[str, Path]:
    """14 real samples in 2 shards; 33 synthetic ones in 3."""
    write_data_set(root / "real", num_shards=2, num_slots=7)
    write_data_set(root / "synthetic", num_shards=3, num_slots=11, change=synthetic_row)
    return {name: root / name for name in ("real", "synthetic")}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_both(tmp_path_factory.mktemp("data"))


def make_spec(folders: Mapping[str, Path | str], **changes: Any) -> StreamSpec:
    domains = (
        DomainSpec(name="real", source=str(folders["real"]), quota=3),
        DomainSpec(name="synthetic", source=str(folders["synthetic"]), quota=2),
    )
    fields = {"domains": domains, "size_px": 16, "window_shards": 2, "threads": 2, "prefetch_steps": 2}
    return StreamSpec.model_validate({**fields, **changes})


def same_everywhere(numbers: Sequence[int]) -> Sequence[int]:
    """`agree` of ranks that found the same: the smallest of equal numbers."""
    return numbers


def open_stream(spec: StreamSpec, **changes: Any) -> Stream:
    return Stream(spec, **{"groups": GROUPS, "seed": 7, "epoch_steps": EPOCH, "agree": same_everywhere, **changes})


Kept = tuple[int, bytes, bytes, bytes, bytes, bytes, bytes]


def kept(batch: Batch, part: slice = slice(None)) -> Kept:
    """All that a step trains on, as bytes that stay when the buffers are used again."""
    plan = [b""] * 3
    if batch.mix is not None:
        inside = batch.mix.partner - np.arange(len(batch.labels))  # the same for each number of ranks
        plan = [array[part].tobytes() for array in (inside, batch.mix.share, batch.mix.box)]
    return (
        batch.step,
        batch.images[part].tobytes(),
        batch.labels[part].tobytes(),
        batch.uids[part].tobytes(),
        plan[0],
        plan[1],
        plan[2],
    )


def take(stream: Stream, steps: int) -> list[Batch]:
    return [next(stream) for _ in range(steps)]


def run(spec: StreamSpec, steps: int, **changes: Any) -> list[Kept]:
    with open_stream(spec, **changes) as stream:
        return [kept(next(stream)) for _ in range(steps)]


@pytest.fixture(scope="module")
def reference(folders: dict[str, Path]) -> list[Kept]:
    """Three epochs of one rank without threads."""
    return run(make_spec(folders, augment=RANDOM, mix=MIXED, threads=0), 3 * EPOCH)


def test_a_group_has_exactly_its_quota_of_each_domain_in_order(folders: dict[str, Path]) -> None:
    known = {name: set(load_index(str(folder)).uid.tolist()) for name, folder in folders.items()}
    with open_stream(make_spec(folders)) as stream:
        for _ in range(2 * EPOCH):
            batch = next(stream)
            assert (batch.groups, batch.quotas) == (GROUPS, (3, 2))
            for group in batch.uids.reshape(GROUPS, 5).tolist():
                assert set(group[:3]) <= known["real"]
                assert set(group[3:]) <= known["synthetic"]


def test_a_planted_shift_changes_the_pictures_of_its_domain_alone(folders: dict[str, Path]) -> None:
    plain = make_spec(folders, augment=RANDOM)
    real, synthetic = plain.domains
    shifted = make_spec(folders, augment=RANDOM, domains=(real, synthetic.model_copy(update={"planted_shift": 0.5})))
    with open_stream(plain) as one, open_stream(shifted) as other:
        for _ in range(3):
            before, after = next(one), next(other)
            assert np.array_equal(before.uids, after.uids)
            images = before.images.reshape(GROUPS, 5, *before.images.shape[1:])
            changed = after.images.reshape(images.shape)
            assert np.array_equal(images[:, :3], changed[:, :3])
            pairs = zip(images[:, 3:].reshape(-1, 16, 16, 3), changed[:, 3:].reshape(-1, 16, 16, 3), strict=True)
            for image, found in pairs:
                assert np.array_equal(found, planted_shift(image, 0.5))
                assert not np.array_equal(found, image)


def test_a_pass_shows_every_sample_once_while_the_smaller_domain_begins_again(folders: dict[str, Path]) -> None:
    spec = make_spec(folders)
    with open_stream(spec, groups=7, epoch_steps=2) as stream:
        shown: dict[str, list[int]] = {"real": [], "synthetic": []}
        for _ in range(33):
            uids = next(stream).uids.reshape(7, 5)
            shown["real"] += uids[:, :3].ravel().tolist()
            shown["synthetic"] += uids[:, 3:].ravel().tolist()
    for name, folder in folders.items():
        known = sorted(load_index(str(folder)).uid.tolist())
        for first in range(0, len(shown[name]) - len(known) + 1, len(known)):
            assert sorted(shown[name][first : first + len(known)]) == known


def test_labels_belong_to_their_pictures(folders: dict[str, Path]) -> None:
    labels = {
        int(uid): int(label)
        for folder in folders.values()
        for index in [load_index(str(folder))]
        for uid, label in zip(index.uid, index.label, strict=True)
    }
    with open_stream(make_spec(folders)) as stream:
        for _ in range(EPOCH):
            batch = next(stream)
            assert [labels[int(uid)] for uid in batch.uids] == batch.labels.tolist()


@pytest.mark.parametrize("threads", [0, 1, 2, 3, 4])
def test_d3_the_number_of_threads_changes_no_byte(
    folders: dict[str, Path], reference: list[Kept], threads: int
) -> None:
    spec = make_spec(folders, augment=RANDOM, mix=MIXED, threads=threads, prefetch_steps=1 + threads)
    assert run(spec, len(reference)) == reference


@pytest.mark.parametrize("world", [2, 4])
def test_d3_the_number_of_ranks_changes_no_byte(folders: dict[str, Path], reference: list[Kept], world: int) -> None:
    spec = make_spec(folders, augment=RANDOM, mix=MIXED)
    ranks = [run(spec, len(reference), rank=rank, world=world) for rank in range(world)]
    for step, whole in enumerate(reference):
        parts = [rank[step] for rank in ranks]
        assert all(part[0] == step for part in parts)
        assert tuple(b"".join(column) for column in zip(*(part[1:] for part in parts), strict=True)) == whole[1:]


@pytest.mark.parametrize("threads", [0, 2])
def test_d1_resuming_at_every_step_gives_the_same_bytes(
    folders: dict[str, Path], reference: list[Kept], threads: int
) -> None:
    spec = make_spec(folders, augment=RANDOM, mix=MIXED, threads=threads)
    for step in range(2 * EPOCH + 1):
        with open_stream(spec) as stream:
            for _ in range(step):
                next(stream)
            state = json.loads(json.dumps(stream.state()))
        assert run(spec, 3, state=state) == reference[step : step + 3], step
        assert run(spec, 2, start_step=step) == reference[step : step + 2], step


def test_d2_two_resumes_and_another_number_of_ranks_in_between(folders: dict[str, Path], reference: list[Kept]) -> None:
    spec = make_spec(folders, augment=RANDOM, mix=MIXED)
    with open_stream(spec) as stream:
        next(stream)
        first = stream.state()
    states = []
    for rank in range(2):
        with open_stream(spec, state=first, rank=rank, world=2) as stream:
            for _ in range(EPOCH - 1):
                next(stream)
            states.append(stream.state())
    assert states[0] == states[1], "the state is the same on all ranks"
    assert states[0]["step"] == EPOCH, "the last step of an epoch has been handed out"
    assert run(spec, 2 * EPOCH, state=states[0]) == reference[EPOCH:]


def life(
    folder: Path, spec: StreamSpec, world: int, state: Any, least_steps: int, rng: random.Random
) -> tuple[list[list[str]], Any]:
    """Start a process for each rank, kill all at a random moment after the slowest was handed `least_steps`.

    Returns the hashes of all groups of each step that every rank was handed, and the state after the last of them."""
    outs = [folder / f"rank-{rank}" for rank in range(world)]
    for out in outs:
        out.unlink(missing_ok=True)
    told = {"spec": spec.model_dump(mode="json"), "world": world, "groups": GROUPS, "seed": 7, "epoch_steps": EPOCH}
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.support.stream_child",
                json.dumps({**told, "rank": rank, "state": state, "out": str(out)}),
            ]
        )
        for rank, out in enumerate(outs)
    ]
    ends = time.monotonic() + 200
    while min(len(lines_of(out)) for out in outs) < least_steps:
        assert time.monotonic() < ends, f"fewer than {least_steps} steps in 200 s"
        assert all(process.poll() is None for process in processes), "a rank ended by itself"
        time.sleep(0.002)
    time.sleep(rng.random() * 0.2)
    for process in rng.sample(processes, world):
        process.send_signal(signal.SIGKILL)
    assert [process.wait(60) for process in processes] == [-signal.SIGKILL] * world
    lines = [lines_of(out) for out in outs]
    common = min(len(of_rank) for of_rank in lines)
    steps = []
    for at_step in zip(*(of_rank[:common] for of_rank in lines), strict=True):
        assert len({json.dumps([line["step"], line["state"]]) for line in at_step}) == 1, "all ranks are as far"
        steps.append([group for line in at_step for group in line["groups"]])
    return steps, lines[0][common - 1]["state"] if common else state


def lines_of(file: Path) -> list[dict[str, Any]]:
    """The lines that were written whole."""
    text = file.read_text("ascii") if file.is_file() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def uninterrupted(spec: StreamSpec, steps: int) -> list[list[str]]:
    with open_stream(spec) as stream:
        return [groups_of(next(stream)) for _ in range(steps)]


def test_d1_two_killed_processes_and_one_give_the_order_of_one_that_was_not(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    spec = make_spec(folders, augment=RANDOM, mix=MIXED)
    rng = random.Random(1)
    first, state = life(tmp_path, spec, 2, None, 3, rng)
    second, _ = life(tmp_path, spec, 1, state, 3, rng)
    assert min(len(first), len(second)) >= 3
    assert first + second == uninterrupted(spec, len(first) + len(second))


@pytest.mark.torture
def test_d1_after_20_kills_at_random_moments_and_other_ranks_the_order_is_the_same(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    seed = int(os.environ.get("SIXFOLD_KILL_SEED", random.SystemRandom().randrange(2**32)))
    print(f"SIXFOLD_KILL_SEED={seed}")
    rng = random.Random(seed)
    spec = make_spec(folders, augment=RANDOM, mix=MIXED)
    state, seen, lives = None, [], []
    for _ in range(20):
        world = rng.choice((1, 2, 4))
        least_steps = rng.randrange(5)  # 0: a kill that may come before the first batch
        steps, state = life(tmp_path, spec, world, state, least_steps, rng)
        lives.append((world, len(steps)))
        seen += steps
    print(f"(ranks, steps) of each life: {lives}")
    assert len(seen) > 20
    assert seen == uninterrupted(spec, len(seen))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    slots=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    quota=st.integers(1, 5),
    share=st.integers(1, 3),
    world=st.sampled_from([1, 2, 4]),
)
def test_d4_ragged_shards_fewer_than_ranks_and_an_empty_one_give_all_ranks_equal_steps(
    tmp_path_factory: pytest.TempPathFactory, slots: list[int], quota: int, share: int, world: int
) -> None:
    folder = tmp_path_factory.mktemp("ragged")

    for shard, count in enumerate(slots):
        write_shard_of(folder, shard, count)
    write_shard_of(folder, len(slots), 0)
    total = sum(slots)
    spec = StreamSpec(
        domains=(DomainSpec(name="real", source=str(folder), quota=quota),), size_px=8, threads=0, window_shards=2
    )
    shown: list[list[int]] = []
    for rank in range(world):
        with Stream(
            spec, groups=share * world, seed=1, epoch_steps=3, rank=rank, world=world, agree=same_everywhere
        ) as stream:
            shown.append([uid for _ in range(4) for uid in next(stream).uids.tolist()])
    assert {len(uids) for uids in shown} == {4 * share * quota}
    per_step = share * quota
    order = [uid for step in range(4) for uids in shown for uid in uids[step * per_step : (step + 1) * per_step]]
    counts = Counter(order)
    assert max(counts.values()) - (min(counts.values()) if len(counts) == total else 0) <= 1


def write_shard_of(folder: Path, shard: int, count: int) -> None:
    """One more shard with `count` samples and one rejected draw, by the real writer."""
    store = open_store(str(folder))
    with ShardWriter(store, shard, f"try-{shard}", FINGERPRINT) as writer:
        for index in range(count):
            row = synthetic_row(shard, index, sample(shard, index, index % 3))
            writer.add(row, encode_jpeg(picture(index % 3, index)))
        failed = sample(shard, count, 0, status="blank", error_message="one flat colour")
        writer.add(synthetic_row(shard, count, failed), None)
        writer.commit(1.0, 2.0, {"device": "cpu"}, slots=count, allow_empty=True)


def damage(folder: Path, rows: list[int]) -> set[int]:
    """Overwrite the start of these samples in their tars; returns their ids."""
    index = load_index(str(folder))
    for row in rows:
        tar = folder / index.tars[int(index.tar_of(np.array([row]))[0])]
        data = bytearray(tar.read_bytes())
        at = int(index.offset[row])
        data[at] ^= 0xFF
        tar.write_bytes(data)
    return {int(index.uid[row]) for row in rows}


@pytest.mark.parametrize(("threads", "verify", "reason"), [(0, "never", "no picture"), (3, "first", "other bytes")])
def test_d6_a_bad_sample_keeps_its_slot_and_another_of_its_domain_takes_it(
    tmp_path: Path, threads: int, verify: str, reason: str
) -> None:
    folders = write_both(tmp_path)
    spec = make_spec(folders, threads=threads, verify=verify)
    with open_stream(spec) as stream:
        sound = [next(stream).uids.copy() for _ in range(EPOCH)]
    (bad,) = damage(folders["synthetic"], [13])
    known = set(load_index(str(folders["synthetic"])).uid.tolist())
    with open_stream(spec) as stream:
        names: list[Replaced] = []
        for step in range(EPOCH):
            batch = next(stream)
            changed = np.flatnonzero(batch.uids != sound[step])
            assert changed.tolist() == np.flatnonzero(sound[step] == bad).tolist()
            assert set(batch.uids[changed].tolist()) <= known - {bad}
            assert [(item.slot, item.uid, item.domain) for item in batch.replaced] == [
                (slot, f"{bad:016x}", "synthetic") for slot in changed.tolist()
            ]
            names += batch.replaced
        assert names
        assert {(item.tar, item.reason) for item in names} == {(tar_name(1), reason)}
        assert stream.counters.replaced == {reason: len(names)}


def test_d6_a_missing_tar_is_replaced_with_equal_steps_and_stops_the_run_above_the_rate(tmp_path: Path) -> None:
    write_data_set(tmp_path, num_shards=4, num_slots=12)
    load_index(str(tmp_path))
    spec = StreamSpec(
        domains=(DomainSpec(name="real", source=str(tmp_path), quota=4),), size_px=8, threads=2, bad_rate=1.0
    )
    with Stream(spec, groups=2, seed=3, epoch_steps=6) as stream:
        tar = tmp_path / tar_name(2)
        data = tar.read_bytes()
        tar.unlink()
        batches = [next(stream) for _ in range(6)]
        assert len(batches) == 6
        assert sum(len(batch.replaced) for batch in batches) >= 12
        assert set(stream.counters.replaced) == {"missing shard"}
    tar.write_bytes(data)
    strict = spec.model_copy(update={"bad_rate": 0.05})
    with Stream(strict, groups=2, seed=3, epoch_steps=6) as stream:
        tar.unlink()
        with pytest.raises(
            ValueError, match=r"unreadable of .* up to step .*expected a part of at most 0.05"
        ) as caught:
            take(stream, 20)
        assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match="unreadable"):
            next(stream)


def test_the_rate_stops_all_thread_counts_at_the_same_step(tmp_path: Path) -> None:
    write_data_set(tmp_path, num_shards=3, num_slots=10)
    damage(tmp_path, [1, 4, 5, 12, 20, 21, 22, 29])
    stopped = []
    for threads in (0, 1, 4):
        spec = StreamSpec(
            domains=(DomainSpec(name="real", source=str(tmp_path), quota=5),), size_px=8, threads=threads, bad_rate=0.1
        )
        with Stream(spec, groups=1, seed=3, epoch_steps=6) as stream:
            with pytest.raises(ValueError, match="unreadable"):
                take(stream, 30)
            stopped.append((stream.counters.steps, stream.counters.replaced.total(), stream.state()["step"]))
    assert len(set(stopped)) == 1


@pytest.mark.parametrize("earlier", [0, 5, 64])
def test_d6_sound_batches_are_handed_out_whatever_earlier_lives_replaced(tmp_path: Path, earlier: int) -> None:
    """A training that goes on with fewer ranks tells each of them of more bad samples than one rank may have; the next
    one that is bad ends it."""
    write_data_set(tmp_path, num_shards=2, num_slots=10)
    spec = StreamSpec(domains=(DomainSpec(name="real", source=str(tmp_path), quota=5),), size_px=8, bad_rate=0.0)
    with Stream(spec, groups=1, seed=3, epoch_steps=6) as stream:
        stream.counters.replaced.update({"no picture": earlier})
        assert not any(batch.replaced for batch in take(stream, 4)), "sound batches are handed out"
    damage(tmp_path, [1, 4, 12])
    with Stream(spec, groups=1, seed=3, epoch_steps=6) as stream:
        stream.counters.replaced.update({"no picture": earlier})
        seen, said = until_it_stops(stream)
        assert seen <= max(0, 8 - earlier) < stream.counters.replaced.total() - earlier
        assert f"found {stream.counters.replaced.total()} unreadable of" in said


def until_it_stops(stream: Stream) -> tuple[int, str]:
    """(samples replaced in the batches that were handed out, the error)."""
    seen = 0
    try:
        for batch in stream:
            seen += len(batch.replaced)
    except ValueError as error:
        return seen, str(error)
    raise AssertionError("a stream has no end")


def test_nothing_readable_at_all_is_an_error_with_its_cause(tmp_path: Path) -> None:
    write_data_set(tmp_path, num_shards=1, num_slots=5)
    damage(tmp_path, list(range(5)))
    spec = StreamSpec(
        domains=(DomainSpec(name="real", source=str(tmp_path), quota=1),), size_px=8, threads=2, bad_rate=1.0
    )
    with Stream(spec, groups=1, seed=3, epoch_steps=6) as stream, pytest.raises(ValueError, match="no readable sample"):
        next(stream)


def test_a_batch_stays_until_the_next_but_one(folders: dict[str, Path], reference: list[Kept]) -> None:
    spec = make_spec(folders, augment=RANDOM, mix=MIXED, threads=4, prefetch_steps=3)
    with open_stream(spec) as stream:
        before = next(stream)
        for step in range(1, 3 * EPOCH):
            batch = next(stream)
            time.sleep(0.005)  # the threads are as far ahead as they may be
            assert kept(before) == reference[step - 1]
            before = batch


def test_buffers_are_used_again(folders: dict[str, Path]) -> None:
    with open_stream(make_spec(folders, prefetch_steps=3)) as stream:
        places = [next(stream).images.ctypes.data for _ in range(40)]
    assert len(set(places)) == 5


def test_threads_are_no_further_ahead_than_asked(tmp_path: Path) -> None:
    """Counted by what they read: batch t is handed out when at most t + prefetch_steps are begun."""
    write_data_set(tmp_path, num_shards=2, num_slots=10)
    spec = StreamSpec(
        domains=(DomainSpec(name="real", source=str(tmp_path), quota=4),), size_px=8, threads=2, prefetch_steps=2
    )
    with Stream(spec, groups=1, seed=3, epoch_steps=6) as stream:
        for step in range(6):
            next(stream)
            time.sleep(0.05)
            sizes = load_index(str(tmp_path)).size
            read = stream.fetched()["real"]["bytes_local"]
            assert read <= (step + 3) * 4 * sizes.max()


@pytest.fixture
def dead_mount(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Opening a local file hangs, as on a dead network mount, until the event is set."""
    answers = threading.Event()

    def hang(path: Path) -> int:
        answers.wait(120)
        return open_regular(path)

    monkeypatch.setattr("shards.stream.fetch.open_regular", hang)
    yield answers
    answers.set()


def test_d16_storage_that_does_not_answer_is_an_error_within_the_deadline(
    tmp_path: Path, dead_mount: threading.Event
) -> None:
    write_data_set(tmp_path, num_shards=1, num_slots=5)
    load_index(str(tmp_path))
    spec = StreamSpec(
        domains=(DomainSpec(name="real", source=str(tmp_path), quota=2),), size_px=8, threads=1, deadline_s=0.3
    )
    stream = Stream(spec, groups=1, seed=3, epoch_steps=6)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"found 0 of 2 pictures of step 0 after 0.3 s"):
        next(stream)
    stream.close()
    assert time.monotonic() - began < 20


def test_closing_with_batches_in_flight_ends_all_threads_within_seconds(folders: dict[str, Path]) -> None:
    before = set(threading.enumerate())
    for _ in range(10):
        stream = open_stream(make_spec(folders, threads=4, prefetch_steps=8), groups=64)
        next(stream)
        began = time.monotonic()
        stream.close()
        for thread in set(threading.enumerate()) - before:
            thread.join(max(0.0, began + 5 - time.monotonic()))
        assert time.monotonic() - began < 5
        assert not set(threading.enumerate()) - before
        with pytest.raises(ValueError, match="closed"):
            next(stream)


def test_a_stop_during_a_stall_is_heard_within_seconds(tmp_path: Path, dead_mount: threading.Event) -> None:
    """As a SIGTERM while the storage does not answer; the state is that before the batch that did not come."""
    write_data_set(tmp_path, num_shards=1, num_slots=5)
    load_index(str(tmp_path))
    spec = StreamSpec(
        domains=(DomainSpec(name="real", source=str(tmp_path), quota=2),), size_px=8, threads=1, prefetch_steps=1
    )
    asked: list[float] = []

    def is_stopped() -> bool:
        asked.append(time.monotonic())
        return asked[-1] - asked[0] > 0.2

    with Stream(spec, groups=1, seed=3, epoch_steps=6, start_step=4) as stream:
        before = stream.state()
        began = time.monotonic()
        assert not stream.wait(is_stopped)
        assert time.monotonic() - began < 20
        assert stream.state() == before
        assert 0.1 < stream.counters.wait_s < 20
    dead_mount.set()
    with Stream(spec, groups=1, seed=3, epoch_steps=6, state=before) as stream:
        assert stream.wait(is_stopped), "a batch that is there is given even then"
        assert next(stream).step == 4


@pytest.mark.parametrize("threads", [0, 2])
def test_waiting_for_a_batch_first_changes_nothing(
    folders: dict[str, Path], reference: list[Kept], threads: int
) -> None:
    seen = []
    with open_stream(make_spec(folders, augment=RANDOM, mix=MIXED, threads=threads)) as stream:
        for _ in range(len(reference)):
            assert stream.wait(lambda: False)
            assert stream.wait(lambda: False)
            seen.append(kept(next(stream)))
        assert stream.counters.steps == len(reference)
    assert seen == reference


def test_ctrl_c_ends_a_waiting_program(tmp_path: Path) -> None:
    write_data_set(tmp_path, num_shards=1, num_slots=5)
    load_index(str(tmp_path))
    program = (
        "import sys, signal, time\n"
        "import shards.stream.fetch\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job's children would ignore it
        "from shards.stream.spec import *\nfrom shards.stream.stream import *\n"
        "folder = sys.argv[1]\n"
        "spec = StreamSpec(domains=(DomainSpec(name='real', source=folder, quota=2),), size_px=8)\n"
        "with Stream(spec, groups=1, seed=3, epoch_steps=6) as stream:\n"
        "    shards.stream.fetch.open_regular = lambda path: time.sleep(100)\n"
        "    print('waiting', flush=True)\n"
        "    next(stream)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors


def _first_step(stream: Stream, queue: Any) -> None:
    try:
        queue.put(kept(next(stream)))
    except ValueError as error:
        queue.put(str(error))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("used", [False, True])
def test_a_stream_survives_a_fork_if_it_was_not_used_before(
    folders: dict[str, Path], reference: list[Kept], used: bool
) -> None:
    spec = make_spec(folders, augment=RANDOM, mix=MIXED)
    context = multiprocessing.get_context("fork")
    with open_stream(spec) as stream:
        if used:
            next(stream)
        queue = context.Queue()
        child = context.Process(target=_first_step, args=(stream, queue))
        child.start()
        answer = queue.get(timeout=120)
        child.join(60)
    assert ("forked" in answer) if used else (answer == reference[0])


def grown_spec(folder: Path, other: Path) -> StreamSpec:
    return StreamSpec(
        domains=(
            DomainSpec(name="real", source=str(other), quota=2),
            DomainSpec(name="synthetic", source=str(folder), quota=2, grow=True),
        ),
        size_px=8,
        threads=2,
        prefetch_steps=2,
    )


def test_shards_that_come_while_training_are_taken_in_at_the_end_of_an_epoch(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    for shard in range(2):
        write_shard_of(tmp_path, shard, 4)
    first = set(load_index(str(tmp_path)).uid.tolist())
    spec = grown_spec(tmp_path, folders["real"])
    with Stream(spec, groups=2, seed=5, epoch_steps=6) as stream:
        shown = [next(stream) for _ in range(2)]
        write_shard_of(tmp_path, 3, 4)  # shard 2 is not there yet, so 3 waits too
        shown += [next(stream) for _ in range(4)]
        early = {uid for batch in shown for uid in batch.uids.reshape(2, 4)[:, 2:].ravel().tolist()}
        assert early == first
        for _ in range(2):
            next(stream)
        write_shard_of(tmp_path, 2, 4)
        for _ in range(4):
            next(stream)
        state = json.loads(json.dumps(stream.state()))
        late = [next(stream).uids.copy() for _ in range(12)]
    assert [part[:2] for part in state["domains"][1]["segments"]] == [[0, 2], [12, 4]]
    everything = set(load_index(str(tmp_path)).uid.tolist())
    assert len(everything) == 16
    assert {uid for uids in late for uid in uids.reshape(2, 4)[:, 2:].ravel().tolist()} == everything
    write_shard_of(tmp_path, 4, 4)
    with Stream(spec, groups=2, seed=5, epoch_steps=6, state=state) as stream:
        again = [next(stream).uids.copy() for _ in range(6)]
    assert np.array_equal(again, late[:6]), "what came later still begins at the end of an epoch"


def together(*ranks: Callable[[Callable[[Sequence[int]], Sequence[int]]], Any]) -> list[Any]:
    """What each gave or raised, run in threads that share an `agree`: the minimum over them."""
    meeting = threading.Barrier(len(ranks), timeout=120)
    said: list[Sequence[int]] = [()] * len(ranks)
    results: list[Any] = [None] * len(ranks)

    def run_one(number: int) -> None:
        def agree(numbers: Sequence[int]) -> Sequence[int]:
            said[number] = list(numbers)
            meeting.wait()
            least = [min(column) for column in zip(*said, strict=True)]
            meeting.wait()
            return least

        try:
            results[number] = ranks[number](agree)
        except (ValueError, threading.BrokenBarrierError) as error:
            results[number] = error

    threads = [threading.Thread(target=run_one, args=(number,)) for number in range(len(ranks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_ranks_that_see_different_shards_take_what_all_have(tmp_path: Path, folders: dict[str, Path]) -> None:
    """One rank starts from a copy with two shards; a third comes there later, and is then taken in by both."""
    for shard in range(2):
        write_shard_of(tmp_path / "early", shard, 4)
    shutil.copytree(tmp_path / "early", tmp_path / "late")
    for folder in ("early", "late"):
        write_shard_of(tmp_path / folder, 2, 4)
    hidden = [tmp_path / "late" / name for name in (record_name(2), tar_name(2), table_name(2))]
    kept_aside = {path: path.read_bytes() for path in hidden}
    for path in hidden:
        path.unlink()

    def rank(number: int, folder: Path) -> Callable[[Any], Any]:
        def read(agree: Any) -> Any:
            spec = grown_spec(folder, folders["real"])
            with Stream(spec, groups=2, seed=5, epoch_steps=4, rank=number, world=2, agree=agree) as stream:
                uids = [next(stream).uids.tolist()]
                agree([0])
                if number == 0:
                    for path in reversed(hidden):
                        path.write_bytes(kept_aside[path])
                agree([0])
                uids += [next(stream).uids.tolist() for _ in range(7)]
                return uids, stream.state()["domains"][1]["segments"]

        return read

    (here, segments), (there, others) = together(rank(0, tmp_path / "early"), rank(1, tmp_path / "late"))
    assert segments == others
    assert [part[:2] for part in segments] == [[0, 2], [4, 3]]
    shown = [uid for uids in (here, there) for step in uids[4:7] for uid in step[2:]]
    assert len(set(shown)) == 12, "a pass over three shards of four, each once over both ranks"


@pytest.mark.parametrize("grow", [False, True])
def test_ranks_that_found_different_data_are_refused_before_the_first_batch(
    tmp_path: Path, folders: dict[str, Path], grow: bool
) -> None:
    """A shard was published between the starts of two ranks; or, where that is allowed, the shards are not the same."""
    for folder, num in (("one", 4), ("two", 5)):
        write_shard_of(tmp_path / folder, 0, 4)
        write_shard_of(tmp_path / folder, 1, num if grow else 4)
    if not grow:
        write_shard_of(tmp_path / "two", 2, 4)

    def rank(number: int, folder: str) -> Callable[[Any], Any]:
        def read(agree: Any) -> Any:
            spec = make_spec({"real": folders["real"], "synthetic": tmp_path / folder})
            if grow:
                spec = grown_spec(tmp_path / folder, folders["real"])
            return open_stream(spec, rank=number, world=2, agree=agree)

        return read

    errors = together(rank(0, "one"), rank(1, "two"))
    for number, (error, folder) in enumerate(zip(errors, ("one", "two"), strict=True)):
        text = str(error)
        assert isinstance(error, ValueError), error
        assert text.startswith(f"{tmp_path / folder}: found {2 if grow or number == 0 else 3} shards on rank {number}")
        assert ("let all ranks see one data set" if grow else "set grow of domain synthetic to true") in text
        assert "\n" not in text


def test_several_ranks_without_a_way_to_agree_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="found 2 ranks, expected `agree`"):
        open_stream(make_spec(folders), world=2, agree=None)


def test_taking_in_new_shards_counts_as_waiting_for_data(
    tmp_path: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard_of(tmp_path, 0, 4)
    spec = grown_spec(tmp_path, folders["real"])
    with Stream(spec, groups=2, seed=5, epoch_steps=6) as stream:
        next(stream)
        before = stream.counters.wait_s
        read = manifest._read_one

        def slowly(*told: Any) -> Any:
            time.sleep(0.5)
            return read(*told)

        monkeypatch.setattr(manifest, "_read_one", slowly)
        write_shard_of(tmp_path, 1, 4)
        take(stream, 6)
        assert stream.counters.wait_s - before >= 0.5


def test_other_data_than_before_are_refused_by_name(tmp_path: Path, folders: dict[str, Path]) -> None:
    spec = make_spec(folders)
    with open_stream(spec) as stream:
        next(stream)
        state = stream.state()
    write_data_set(tmp_path / "other", num_shards=3, num_slots=10)
    other = make_spec({**folders, "synthetic": tmp_path / "other"})
    with pytest.raises(ValueError, match=r"domain synthetic: .* has the digest"):
        open_stream(other, state=state)
    with pytest.raises(ValueError, match="multiple of 3"):
        open_stream(spec, world=3)


def test_d14_resuming_counts_steps_and_not_what_was_readable(tmp_path: Path) -> None:
    write_data_set(tmp_path, num_shards=2, num_slots=10)
    damage(tmp_path, [3, 15])
    spec = StreamSpec(domains=(DomainSpec(name="real", source=str(tmp_path), quota=5),), size_px=8, bad_rate=1.0)
    with Stream(spec, groups=1, seed=3, epoch_steps=6) as stream:
        whole = [next(stream).uids.copy() for _ in range(8)]
    for step in range(8):
        with Stream(spec, groups=1, seed=3, epoch_steps=6, start_step=step) as stream:
            assert np.array_equal(next(stream).uids, whole[step])


def test_counters_say_what_was_read(folders: dict[str, Path]) -> None:
    sizes = {
        int(uid): int(size)
        for folder in folders.values()
        for index in [load_index(str(folder))]
        for uid, size in zip(index.uid, index.size, strict=True)
    }
    with open_stream(make_spec(folders)) as stream:
        total = sum(sizes[int(uid)] for _ in range(EPOCH) for uid in next(stream).uids)
        assert stream.counters.steps == EPOCH
        assert stream.counters.samples == EPOCH * GROUPS * 5
        assert stream.counters.bytes == total
        assert stream.counters.by_pillow == 0
        assert stream.counters.wait_s > 0


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_shows_every_sample_once_and_pads_to_equal_batches(
    folders: dict[str, Path], threads: int, world: int
) -> None:
    index = load_index(str(folders["synthetic"]))
    tars = [(folders["synthetic"] / name).read_bytes() for name in index.tars]
    spec = EvalSpec(source=str(folders["synthetic"]), size_px=16, crop_pct=0.9, threads=threads)
    seen: list[tuple[int, int]] = []
    counts = set()
    for rank in range(world):
        number = 0
        for batch in read_all(spec, index, 4, rank, world):
            number += 1
            assert batch.images.shape == (4, 16, 16, 3)
            assert not batch.images[~batch.valid].any()
            for slot in np.flatnonzero(batch.valid):
                row = int(np.flatnonzero(index.uid == batch.uids[slot])[0])
                at = int(index.offset[row])
                data = tars[int(index.tar_of(np.array([row]))[0])][at : at + int(index.size[row])]
                assert np.array_equal(batch.images[slot], eval_pixels(data, 16, 0.9))
                seen.append((row, int(batch.labels[slot])))
        counts.add(number)
    assert sorted(seen) == list(enumerate(index.label.tolist()))
    assert len(counts) == 1


def test_evaluation_refuses_a_set_with_an_unreadable_sample(tmp_path: Path) -> None:
    write_data_set(tmp_path, num_shards=1, num_slots=9)
    (bad,) = damage(tmp_path, [6])
    with pytest.raises(ValueError, match=f"{bad:016x}.*every sample of a test set is needed"):
        list(read_all(EvalSpec(source=str(tmp_path), size_px=8), load_index(str(tmp_path)), 4))


def test_advice_about_a_picture_that_cannot_be_read_fits_the_kind_of_the_set(tmp_path: Path) -> None:
    """`sixfold verify` reads data sets of ours only."""
    ours = write_data_set(tmp_path / "ours", num_shards=1, num_slots=9)
    damage(tmp_path / "ours", [6])
    write_foreign(tmp_path / "tars", [0, 1])
    tar = tmp_path / "tars" / "test-0000.tar"
    tar.write_bytes(tar.read_bytes().replace(b"\xff\xd8\xff", b"\x00\x00\x00"))
    for name in ("one", "two"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        (tmp_path / "pictures" / name / "1.jpg").write_bytes(encode_jpeg(picture(1, 2)))
    (tmp_path / "pictures" / "two" / "1.jpg").write_bytes(b"\xff\xd8\xff torn")
    advice = {
        "ours": f"run `sixfold verify {ours.url}`$",
        "tars": "needed; get that file again from where it came, or remove it$",
        "pictures": r"two/1\.jpg, .* needed; replace that file by a whole picture, or remove it$",
    }
    for name, words in advice.items():
        source = str(tmp_path / name)
        with pytest.raises(ValueError, match=words):
            list(read_all(EvalSpec(source=source, size_px=8), load_index(source), 4))


def test_evaluation_of_nothing_is_refused(tmp_path: Path) -> None:
    write_shard_of(tmp_path, 0, 0)
    with pytest.raises(ValueError, match="found no sample"):
        next(read_all(EvalSpec(source=str(tmp_path), size_px=8), load_index(str(tmp_path)), 4))


@pytest.fixture
def remote(folders: dict[str, Path]) -> Iterator[dict[str, str]]:
    """The two data sets on a store that is no folder."""
    store = fsspec.filesystem("memory")
    urls = {}
    for name, folder in folders.items():
        urls[name] = f"memory://{uuid.uuid4().hex}"
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                store.pipe_file(f"{urls[name]}/{path.relative_to(folder)}", path.read_bytes())
    yield urls
    for url in urls.values():
        store.rm(url, recursive=True)


@pytest.mark.parametrize("cached", [False, True])
def test_remote_shards_give_the_bytes_of_local_ones(
    remote: dict[str, str], reference: list[Kept], tmp_path: Path, cached: bool
) -> None:
    cache = CacheSpec(folder=tmp_path if cached else None)
    spec = make_spec(remote, augment=RANDOM, mix=MIXED, cache=cache)
    assert run(spec, len(reference)) == reference
    assert any(tmp_path.iterdir()) == cached


def test_the_next_window_is_fetched_while_the_first_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six shards, a window of two: when the first step is done, no more than four shards are on their way."""
    write_data_set(tmp_path / "ours", num_shards=6, num_slots=8, num_rejected=0)
    store, url = fsspec.filesystem("memory"), f"memory://{uuid.uuid4().hex}"
    for path in (tmp_path / "ours").glob("0*"):
        store.pipe_file(f"{url}/{path.name}", path.read_bytes())
    answer, ranged = MemoryFileSystem.cat_file, []

    def noted(
        files: MemoryFileSystem, path: str, start: int | None = None, end: int | None = None, **more: Any
    ) -> bytes:
        if path.endswith(".tar") and start:
            ranged.append(path)
        return bytes(answer(files, path, start=start, end=end, **more))

    monkeypatch.setattr(MemoryFileSystem, "cat_file", noted)
    spec = StreamSpec(
        domains=(DomainSpec(name="real", source=url, quota=4),),
        size_px=8,
        window_shards=2,
        prefetch_steps=1,
        cache=CacheSpec(folder=tmp_path / "cache"),
    )
    with Stream(spec, groups=1, seed=2, epoch_steps=12) as stream:
        next(stream)
        wait_for_tars(stream, tmp_path / "cache", 4)
        time.sleep(0.1)
        assert len(list((tmp_path / "cache").glob("*.tar"))) == 4
        del ranged[:]
        for _ in range(11):
            next(stream)
            wait_for_tars(stream, tmp_path / "cache", 4)
        assert not ranged, "no picture was asked for by itself"


def wait_for_tars(stream: Stream, cache: Path, at_least: int) -> None:
    """Until so many are in the cache, none is on its way, and each can be read."""
    ends = time.monotonic() + 60
    while len(list(cache.glob("*.tar"))) < at_least or any(source.fetcher._coming for source in stream._sources):
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_d16_a_remote_store_that_stalls_stops_the_stream_and_replaces_nothing(
    remote: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled, release, answer = threading.Event(), threading.Event(), MemoryFileSystem.cat_file

    def stall(store: MemoryFileSystem, path: str, *place: Any, **options: Any) -> bytes:
        if path.endswith(".tar") and stalled.is_set():
            release.wait(60)
        return bytes(answer(store, path, *place, **options))

    monkeypatch.setattr(MemoryFileSystem, "cat_file", stall)
    spec = make_spec(remote, deadline_s=3.0)
    try:
        with open_stream(spec) as stream:
            next(stream)
            stalled.set()
            began = time.monotonic()
            with pytest.raises(OSError, match=r"no answer in 3 s|after 3 s, expected all"):
                take(stream, 20)
            assert time.monotonic() - began < 30
            assert not stream.counters.replaced
    finally:
        release.set()


def test_an_outage_of_a_remote_store_changes_no_sample_and_no_evaluation(
    remote: dict[str, str], reference: list[Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.stream.fetch.FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("shards.stream.fetch.LONGEST_PAUSE_S", 0.01)
    answer, ends = MemoryFileSystem.cat_file, [0.0]

    def away(store: MemoryFileSystem, path: str, *place: Any, **options: Any) -> bytes:
        if path.endswith(".tar") and time.monotonic() < ends[0]:
            raise ConnectionResetError("reset by peer")
        return bytes(answer(store, path, *place, **options))

    monkeypatch.setattr(MemoryFileSystem, "cat_file", away)
    found = []
    with open_stream(make_spec(remote, augment=RANDOM, mix=MIXED)) as stream:
        for step in range(len(reference)):
            if step % EPOCH == 1:
                ends[0] = time.monotonic() + 0.3
            batch = next(stream)
            assert not batch.replaced
            found.append(kept(batch))
        assert sum(counts.get("retries", 0) for counts in stream.fetched().values()) > 100
    assert found == reference

    spec, index = EvalSpec(source=remote["real"], size_px=16), load_index(remote["real"])
    ends[0] = time.monotonic() + 0.3
    uids = [uid for batch in read_all(spec, index, 4) for uid in batch.uids[batch.valid].tolist()]
    assert uids == index.uid.tolist()
    ends[0] = time.monotonic() + 60
    with pytest.raises(TimeoutError, match=r"\.tar: failed for 0\.2 s \(reset by peer\); check the store, or"):
        list(read_all(spec.model_copy(update={"deadline_s": 0.2, "threads": 0}), index, 4))


def test_pinned_buffers_are_plain_ones_where_there_is_no_cuda(folders: dict[str, Path], reference: list[Kept]) -> None:
    spec = make_spec(folders, augment=RANDOM, mix=MIXED)
    assert run(spec, len(reference), pin=True) == reference


@pytest.mark.gpu
def test_buffers_are_pinned_where_there_is_cuda(folders: dict[str, Path]) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    with open_stream(make_spec(folders), pin=True) as stream:
        assert torch.from_numpy(next(stream).images).is_pinned()


def test_the_stream_needs_no_torch() -> None:
    program = "import sys, shards.stream.stream; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout == "False\n"
