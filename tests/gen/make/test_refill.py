"""A unit becomes a shard: which draws are made, what each leaves behind, and that nothing else decides the bytes.

The Maker is a painter, whose picture is a function of the seed. That any other Maker gets the same is in
test_another_maker.py, text-to-image in tests/gen/sampler/test_text_to_image.py.
"""

import gc
import random
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.fan_out.work import Beat
from cluster.process.exit import Draining, WorkerBroken
from cluster.process.failure import is_broken
from gen.make.maker import Made, Picture
from gen.make.plan import Sample
from gen.make.refill import ShardSpec, UnitWorker
from gen.make.regenerate import compare, regenerate, regenerate_some
from gen.make.slots import Draw, Slots
from shards.disk.home import home
from shards.disk.jpeg import decode_jpeg, read_source_type
from shards.disk.layout import SUCCESS, sample_key
from shards.disk.record import read_record
from shards.set.manifest import read_member, read_rejected, read_table, scan_records
from shards.set.verify import verify
from tests.support.painter import SIDE, Painter, no_beat, paint, seed_of, sometimes, worker

CHECKOUT = home()
Pairs = Sequence[tuple[Sample, int]]


def rows_of(one: UnitWorker[Sample], unit: int) -> list[dict[str, Any]]:
    return read_table(one.store, [unit]).to_pylist()


def tar_of(one: UnitWorker[Sample], unit: int) -> bytes:
    return one.store.read_bytes(f"{unit:05d}.tar")


def table_of(one: UnitWorker[Sample], unit: int) -> bytes:
    return one.store.read_bytes(f"{unit:05d}.parquet")


# a shard and its rows


def test_a_unit_becomes_a_shard_with_one_success_for_every_slot(tmp_path: Path) -> None:
    one = worker(tmp_path)
    result = one(0, "t-1", no_beat)
    assert result["images"] == 20
    assert (result["short"], result["rejected"], result["batches"]) == (0, {}, 3)
    rows = rows_of(one, 0)
    assert [row["key"] for row in rows] == [sample_key(0, slot) for slot in range(20)]
    assert [row["batch"] for row in rows] == [0] * 8 + [1] * 8 + [2] * 4
    record = read_record(one.store, 0)
    assert record is not None
    assert (record.slots, record.successes, record.short) == (20, 20, 0)
    for row, sample in zip(rows, one.maker.samples(0), strict=True):
        assert (row["class_id"], row["prompt_id"], row["replicate"]) == (
            sample.class_id,
            sample.prompt_id,
            sample.replicate,
        )
        assert np.abs(decode_jpeg(read_member(one.store, row)).astype(int) - paint(row["seed"])).mean() < 3


def test_a_row_has_what_the_maker_says_and_what_the_loop_saw(tmp_path: Path) -> None:
    one = worker(tmp_path, Painter(sometimes(0.3)))
    one(1, "t-1", no_beat)
    rows = rows_of(one, 1)
    assert any(row["status"] != SUCCESS for row in rows)
    said = {one.maker.row(sample, draw)["uid"]: (sample, draw) for sample in one.maker.samples(1) for draw in range(4)}
    for row in rows:
        sample, draw = said[row["uid"]]
        assert row["draw"] == draw
        assert {name: row[name] for name in one.maker.row(sample, draw)} == one.maker.row(sample, draw)
        size = SIDE if row["status"] == SUCCESS else None
        assert {row[name] for name in ("width", "height", "original_width", "original_height")} == {size}
        if row["status"] == SUCCESS:
            assert read_source_type(read_member(one.store, row)) == "trainedAlgorithmicMedia"
        else:
            assert row["sha256"] is None


def test_a_rejected_slot_is_drawn_again_with_a_new_seed_and_every_draw_has_a_row(tmp_path: Path) -> None:
    one = worker(tmp_path, Painter(sometimes(0.4)), shards=ShardSpec(samples_per_shard=20, max_draws=30))
    result = one(0, "t-1", no_beat)
    rows = rows_of(one, 0)
    assert result["images"] == 20
    assert result["rejected"] == dict(Counter(row["status"] for row in rows if row["status"] != SUCCESS))
    rejected = [row for row in rows if row["status"] != SUCCESS]
    assert rejected
    assert [row["key"] for row in rejected] == [sample_key(0, 20 + place) for place in range(len(rejected))]
    assert all(row["error_message"] for row in rejected)
    by_slot: dict[tuple[int, int, int], list[int]] = {}
    for row in rows:
        by_slot.setdefault((row["class_id"], row["prompt_id"], row["replicate"]), []).append(row["draw"])
    assert all(sorted(draws) == list(range(len(draws))) for draws in by_slot.values())
    assert len({row["seed"] for row in rows}) == len(rows)


def test_a_few_rejected_draws_leave_a_small_picture_and_flagged_ones_none(tmp_path: Path) -> None:
    one = worker(tmp_path, Painter(sometimes(0.5)), shards=ShardSpec(samples_per_shard=20, max_draws=30))
    one(0, "t-1", no_beat)
    record = read_record(one.store, 0)
    assert record is not None
    rows = {row["key"]: row for row in rows_of(one, 0)}
    pictures = read_rejected(one.store, record)
    assert {rows[key]["status"] for key in pictures} == {"black", "blank", "flat"}
    assert {row["status"] for row in rows.values()} > {"flagged", "nan"}
    for key, jpeg in pictures.items():
        seen = decode_jpeg(jpeg).astype(int)
        assert seen.shape == (SIDE, SIDE, 3)
        expected = {"black": 0, "blank": (200, 180, 90), "flat": 128}[rows[key]["status"]]
        assert np.abs(seen[SIDE // 2 + 4 :] - expected).mean() < 3


def test_1000_injected_accidents_none_is_published(tmp_path: Path) -> None:
    """Half of all draws go wrong, until a thousand have; every stored image is one that the painter painted well."""
    fault = sometimes(0.5)
    one = worker(
        tmp_path,
        Painter(fault),
        num_per_class={0: 120, 1: 120, 7: 110},
        shards=ShardSpec(samples_per_shard=175, max_draws=40),
    )
    statuses: Counter[str] = Counter()
    unit = 0
    while sum(count for status, count in statuses.items() if status != SUCCESS) < 1000:
        one(unit, "t-1", no_beat)
        for row in rows_of(one, unit):
            statuses[row["status"]] += 1
            expected = fault(row["seed"]) or SUCCESS
            assert row["status"] == expected
        unit += 1
    assert statuses[SUCCESS] == 175 * unit
    assert set(statuses) == {SUCCESS, "nan", "black", "flagged", "blank", "flat"}


def doom(sample: Sample, fault: str, draws: range = range(4)) -> Callable[[int], str | None]:
    """This accident in these draws of a sample, none elsewhere."""
    seeds = {seed_of(sample, draw) for draw in draws}
    return lambda seed: fault if seed in seeds else None


def test_a_slot_that_never_succeeds_is_short_and_says_so(tmp_path: Path) -> None:
    one = worker(tmp_path)
    doomed = one.maker.samples(0)[3]
    one.maker.fault = doom(doomed, "black")
    result = one(0, "t-1", no_beat)
    assert (result["images"], result["short"], result["rejected"]) == (19, 1, {"black": 4})
    record = read_record(one.store, 0)
    assert record is not None
    assert record.short == 1
    rows = {row["key"]: row for row in rows_of(one, 0)}
    assert (rows[sample_key(0, 3)]["status"], rows[sample_key(0, 3)]["draw"]) == ("black", 3)
    assert [rows[sample_key(0, 20 + place)]["draw"] for place in range(3)] == [0, 1, 2]


def test_a_unit_without_any_success_fails_with_the_reasons(tmp_path: Path) -> None:
    one = worker(tmp_path, Painter(lambda seed: "nan"))
    with pytest.raises(
        ValueError, match=r"no image among 80 draws \(nan 80; the last one: NaN or Inf.*; buy other paint"
    ) as error:
        one(0, "t-1", no_beat)
    assert "\n" not in str(error.value)
    assert left_behind(tmp_path) == []


def test_a_broken_model_is_given_up_after_a_hundred_draws_not_after_all(tmp_path: Path) -> None:
    painter = Painter(lambda seed: "raises")
    shards = ShardSpec(samples_per_shard=1000, max_draws=10)
    one = worker(tmp_path, painter, num_per_class={0: 500, 1: 300, 7: 200}, shards=shards)
    with pytest.raises(ValueError, match=r"the last one: ValueError: cannot draw [0-9]"):
        one(0, "t-1", no_beat)
    assert len(painter.calls) < 150


class Choosy(Painter):
    """Cannot paint the samples at some places of a unit, however often it tries."""

    def __init__(self, places: range, fault: Callable[[int], str | None] = lambda seed: None) -> None:
        super().__init__(fault)
        self.places = places

    def make(self, pairs: Pairs, alive: Callable[[float], None]) -> Made:
        made, samples = super().make(pairs, alive), list(self.samples(0))
        nothing = Picture(None, "no_mask", "no object in its source", is_final=True)
        return replace(
            made,
            picture=lambda place: nothing if samples.index(pairs[place][0]) in self.places else made.picture(place),
        )


def test_a_sample_that_no_draw_can_make_is_drawn_once_and_its_slot_is_short(tmp_path: Path) -> None:
    one = worker(tmp_path, Choosy(range(3, 5)))
    result = one(0, "t-1", no_beat)
    assert (result["images"], result["short"], result["rejected"]) == (18, 2, {"no_mask": 2})
    rows = {row["key"]: row for row in rows_of(one, 0)}
    assert len(rows) == 20
    for slot in (3, 4):
        row = rows[sample_key(0, slot)]
        assert (row["status"], row["error_message"], row["draw"]) == ("no_mask", "no object in its source", 0)


def test_a_unit_of_samples_that_no_draw_can_make_is_published_and_is_not_made_again(tmp_path: Path) -> None:
    """Also where some of them are, and the few others were unlucky."""
    for name, one in (
        ("all", worker(tmp_path / "all", Choosy(range(20)))),
        ("some", worker(tmp_path / "some", Choosy(range(5), lambda seed: "nan"))),
    ):
        assert one(0, "t-1", no_beat)["short"] == 20
        record = read_record(one.store, 0)
        assert record is not None
        assert (record.slots, record.successes, record.short) == (20, 0, 20)
        assert record.count == (20 if name == "all" else 5 + 15 * 4)
        assert verify(one.store).damages == ()
        calls = len(one.maker.calls)  # type: ignore[attr-defined]
        assert one(0, "t-2", no_beat)["short"] == 20
        assert len(one.maker.calls) == calls  # type: ignore[attr-defined]


def test_a_small_last_unit_whose_draws_are_all_rejected_is_short_where_others_have_images(tmp_path: Path) -> None:
    """Its seeds are fixed, so it would have none at any try; alone, it may be the model that is broken."""
    small = ShardSpec(samples_per_shard=20, max_draws=5)
    for name, units in (("alone", [1]), ("beside", [0, 1])):
        one = worker(tmp_path / name, num_per_class={0: 21}, shards=small)
        assert isinstance(one.maker, Painter)
        [last] = one.maker.samples(1)
        one.maker.fault = doom(last, "flagged", range(5))
        for unit in units[:-1]:
            assert one(unit, "t-1", no_beat)["images"] == 20
        if name == "alone":
            with pytest.raises(ValueError, match=r"found no image among 5 draws \(flagged 5; .*nothing was published"):
                one(1, "t-1", no_beat)
        else:
            assert one(1, "t-1", no_beat)["short"] == 1
            assert verify(one.store).damages == ()


def test_samples_that_no_draw_can_make_are_no_sign_of_a_broken_model(tmp_path: Path) -> None:
    """150 of them come first; but 100 others that were rejected are one."""
    shards, counts = ShardSpec(samples_per_shard=300, max_draws=4), {0: 100, 1: 100, 7: 100}
    one = worker(tmp_path / "fine", Choosy(range(150)), counts, shards)
    assert one(0, "t-1", no_beat)["images"] == 150
    broken = worker(tmp_path / "broken", Choosy(range(150), lambda seed: "nan"), counts, shards)
    with pytest.raises(ValueError, match=r"found no image among .* draws \(nan [0-9]+, no_mask 150; the last one: NaN"):
        broken(0, "t-1", no_beat)
    assert len(broken.maker.calls) < 45  # type: ignore[attr-defined]


# what decides the bytes


def test_e5_timing_attempts_and_retries_do_not_change_a_byte(tmp_path: Path) -> None:
    """The threads are pushed about at random: the composition of batches must not notice."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    calm = worker(tmp_path / "calm", Painter(sometimes(0.35)))
    calm(0, "t-calm", no_beat)
    for number in range(6):
        hasty = worker(tmp_path / f"hasty{number}", Painter(sometimes(0.35)))
        delays = {"make": rng.random() * 0.01, "develop": rng.random() * 0.004}
        slow_down(hasty, delays, rng)
        with pytest.raises(Draining):
            hasty(0, "t-first", drain_after(rng.randrange(1, 4)))
        hasty(0, f"t-{number}", no_beat)
        assert tar_of(hasty, 0) == tar_of(calm, 0)
        assert table_of(hasty, 0) == table_of(calm, 0)


def slow_down(one: UnitWorker[Sample], delays: Mapping[str, float], rng: random.Random) -> None:
    make, develop = one.maker.make, one.develop

    def slow_make(pairs: Pairs, alive: Callable[[float], None]) -> Made:
        time.sleep(delays["make"] * rng.random())
        return make(pairs, alive)

    def slow_develop(*args: Any) -> Any:
        time.sleep(delays["develop"] * rng.random())
        return develop(*args)

    one.maker.make = slow_make  # type: ignore[method-assign]
    one.develop = slow_develop  # type: ignore[method-assign]


def drain_after(calls: int) -> Beat:
    left = [calls]

    def beat(done: int, rejected: int, under_way: float = 0.0) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Draining

    return beat


def test_e6_neither_the_process_nor_its_hash_seed_changes_a_byte(tmp_path: Path) -> None:
    """Two other processes with other hash seeds make the shard that this one makes."""
    here = worker(tmp_path / "here", Painter(sometimes(0.3)))
    here(0, "t-1", no_beat)
    code = (
        "import sys; from pathlib import Path; from tests.support.painter import *\n"
        "one = worker(Path(sys.argv[1]), Painter(sometimes(0.3))); one(0, 't-2', no_beat)"
    )
    for hash_seed in ("1", "4242"):
        out = tmp_path / hash_seed
        subprocess.run(
            [sys.executable, "-c", code, str(out)],
            cwd=CHECKOUT,
            env={"PYTHONHASHSEED": hash_seed, "PATH": "", "OMP_NUM_THREADS": "1"},
            check=True,
            timeout=120,
        )
        assert (out / "00000.tar").read_bytes() == tar_of(here, 0)
        assert (out / "00000.parquet").read_bytes() == table_of(here, 0)


def test_a_batch_is_formed_before_the_one_ahead_of_it_is_screened(tmp_path: Path) -> None:
    """Fixed lag: a slot rejected in batch 0 comes back in batch 2, never in batch 1, however quick the screen was."""
    painter = Painter()
    one = worker(tmp_path, painter)
    first = one.maker.samples(0)[0]
    painter.fault = doom(first, "black", range(1))
    one(0, "t-1", no_beat)
    assert [seeds.index(seed_of(first, 1)) for seeds in painter.calls[2:3]] == [0]
    assert [len(seeds) for seeds in painter.calls] == [8, 8, 5]


def test_b15_a_call_that_gets_on_is_a_beat(tmp_path: Path) -> None:
    """It tells images that are done, and how much of the next ones is: of a call of 8 a quarter is 2."""
    beats: list[tuple[int, int, float]] = []

    class Slow(Painter):
        def make(self, pairs: Pairs, alive: Callable[[float], None]) -> Made:
            before = len(beats)
            alive(0.25)
            alive(0.75)
            assert len(beats) == before + 2
            return super().make(pairs, alive)

    one = worker(tmp_path, Slow())
    one(0, "t-1", lambda done, rejected, under_way=0.0: beats.append((done, rejected, under_way)))
    assert [done for done, _, _ in beats] == sorted(done for done, _, _ in beats)
    assert [under_way for _, _, under_way in beats[:4]] == [2, 6, 8, 8 + 2]
    assert all(done + under_way <= 20 for done, _, under_way in beats)
    reached = [done + under_way for done, _, under_way in beats]
    assert reached == sorted(reached)
    assert reached[-1] == 20


def test_encoding_overlaps_with_the_next_model_call(tmp_path: Path) -> None:
    """The Maker's second call waits for the first batch to be developed: in one thread this would hang."""
    developed = threading.Event()

    class Waiting(Painter):
        def make(self, pairs: Pairs, alive: Callable[[float], None]) -> Made:
            if len(self.calls) == 1:
                assert developed.wait(timeout=60), "nothing is developed while the Maker runs"
            return super().make(pairs, alive)

    one = worker(tmp_path, Waiting())
    develop = one.develop

    def watched(made: Made, place: int) -> Any:
        developed.set()
        return develop(made, place)

    one.develop = watched  # type: ignore[method-assign]
    one(0, "t-1", no_beat)


@settings(deadline=None)  # shared machines stutter
@given(num_slots=st.integers(1, 40), max_draws=st.integers(1, 5), size=st.integers(1, 9), data=st.data())
def test_slots_every_slot_ends_once_and_rows_are_distinct(
    num_slots: int, max_draws: int, size: int, data: st.DataObject
) -> None:
    num_draws = data.draw(st.lists(st.integers(1, max_draws), min_size=num_slots, max_size=num_slots))
    slots = Slots(num_draws)
    rows: dict[int, tuple[Draw, str]] = {}
    over: set[int] = set()
    late: list[list[Draw]] = []
    while late or not slots.exhausted:
        batch = slots.take(size)
        assert batch == sorted(set(batch))
        assert len({draw.slot for draw in batch}) == len(batch)
        if batch:
            late.append(batch)
        if late and (not batch or data.draw(st.booleans())):
            draws = late.pop(0)
            statuses = data.draw(
                st.lists(st.sampled_from([SUCCESS, "black"]), min_size=len(draws), max_size=len(draws))
            )
            finals = data.draw(st.lists(st.booleans(), min_size=len(draws), max_size=len(draws)))
            ended = [status == SUCCESS or is_final for status, is_final in zip(statuses, finals, strict=True)]
            for draw, status, is_end, row in zip(
                draws, statuses, ended, slots.settle(draws, statuses, finals), strict=True
            ):
                assert row not in rows
                assert draw.slot not in over
                rows[row] = (draw, status)
                if is_end or draw.draw == num_draws[draw.slot] - 1:
                    over.add(draw.slot)
                assert (row == draw.slot) == (draw.slot in over)
    assert over == set(range(num_slots))
    assert slots.num_filled + slots.num_short == num_slots
    assert slots.num_rejected == sum(status != SUCCESS for _, status in rows.values())
    assert sorted(rows) == list(range(len(rows)))


# errors


def test_b9_a_python_error_in_one_image_rejects_that_image_only(tmp_path: Path) -> None:
    """1 % of encodings raise; their slots are drawn again, the reason is in the row, on one line."""
    one = worker(tmp_path, num_per_class={0: 70, 1: 70, 7: 60}, shards=ShardSpec(samples_per_shard=200, max_draws=3))
    encode, count = one.encode, [0]

    def failing(image: np.ndarray) -> bytes:
        count[0] += 1
        if count[0] % 100 == 50:
            raise RuntimeError("codec\nfell over \x1b[31m")
        return encode(image)

    one.encode = failing  # type: ignore[method-assign]
    result = one(0, "t-1", no_beat)
    assert (result["images"], result["short"], result["rejected"]) == (200, 0, {"error": 2})
    errors = [row["error_message"] for row in rows_of(one, 0) if row["status"] == "error"]
    assert errors == ["RuntimeError: codec fell over"] * 2


def test_b9_what_the_maker_cannot_make_costs_only_its_own_image(tmp_path: Path) -> None:
    one = worker(tmp_path)
    doomed = one.maker.samples(0)[5]
    one.maker.fault = doom(doomed, "raises")
    result = one(0, "t-1", no_beat)
    assert (result["images"], result["short"], result["rejected"]) == (19, 1, {"error": 4})
    rows = {row["key"]: row for row in rows_of(one, 0)}
    assert rows[sample_key(0, 5)]["error_message"].startswith("ValueError: cannot draw ")
    batches = Counter(row["batch"] for row in rows.values())
    assert [batches[number] for number in range(9)] == [0, 1, 1, 1, 1, 1, 1, 1, 1]  # call 0 failed, each alone then


@pytest.mark.parametrize("error", [OSError("disk"), MemoryError("full"), RuntimeError("device"), KeyboardInterrupt()])
def test_an_error_of_the_machine_ends_the_attempt_and_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    class Failing(Painter):
        def make(self, pairs: Pairs, alive: Callable[[float], None]) -> Made:
            if len(self.calls) == 2:
                raise error
            return super().make(pairs, alive)

    one = worker(tmp_path, Failing())
    with pytest.raises(type(error)):
        one(0, "t-1", no_beat)
    assert left_behind(tmp_path) == []
    assert worker(tmp_path)(0, "t-2", no_beat)["images"] == 20


def test_a_lost_device_breaks_the_worker_not_the_unit(tmp_path: Path) -> None:
    class Lost(Painter):
        def make(self, pairs: Pairs, alive: Callable[[float], None]) -> Made:
            def wait(timeout_s: float) -> None:
                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

            return replace(super().make(pairs, alive), wait=wait)

    with pytest.raises(WorkerBroken, match="the device failed"):
        worker(tmp_path, Lost())(0, "t-1", no_beat)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("where", ["call", "pixels"])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_b17_a_full_memory_says_what_to_lower_and_nothing_of_the_failed_call_is_held_when_the_next_one_begins(
    tmp_path: Path, where: str, error: RuntimeError
) -> None:
    """A simulated device: tensors of a call are objects in its frames, and Python's own collection is off."""
    held: list[weakref.ref[np.ndarray]] = []
    alive: list[bool] = []

    def fail() -> None:
        tensor = np.zeros(1000)
        held.append(weakref.ref(tensor))
        raise type(error)(*error.args)

    class Full(Painter):
        def make(self, pairs: Pairs, get_on: Callable[[float], None]) -> Made:
            if held:
                alive.append(held[0]() is not None)
                return super().make(pairs, get_on)
            if where == "call":
                fail()
            return replace(super().make(pairs, get_on), wait=lambda timeout_s: fail())

    one = worker(tmp_path, Full())
    gc.disable()
    try:
        with pytest.raises(RuntimeError, match=r"found no memory for a call \(.*\), expected room for 8 pic") as raised:
            one(0, "t-1", no_beat)
        assert "\n" not in str(raised.value)
        assert not is_broken(raised.value), "the process may be used again"
        del raised
        assert one(0, "t-2", no_beat)["images"] == 20
    finally:
        gc.enable()
    assert not any(alive)


def test_an_error_of_the_device_that_is_neither_loss_nor_memory_is_raised_as_it_is(tmp_path: Path) -> None:
    class Failing(Painter):
        def make(self, pairs: Pairs, alive: Callable[[float], None]) -> Made:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2") as raised:
        worker(tmp_path, Failing())(0, "t-1", no_beat)
    assert raised.value.__cause__ is None


def test_draining_leaves_nothing_and_the_next_attempt_starts_over(tmp_path: Path) -> None:
    one = worker(tmp_path)
    with pytest.raises(Draining):
        one(0, "t-1", drain_after(1))
    assert left_behind(tmp_path) == []
    assert one(0, "t-2", no_beat)["images"] == 20


def test_the_beat_counts_up(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    worker(tmp_path, Painter(sometimes(0.3)))(0, "t-1", lambda done, rejected, _=0.0: seen.append((done, rejected)))
    assert seen == sorted(seen)
    assert seen[-1][0] == 20


def left_behind(out: Path) -> list[str]:
    """Everything on disk but a table that has been published."""
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and path.suffix != ".parquet")


# published already, or by another


def test_a_unit_that_is_published_is_not_made_again(tmp_path: Path) -> None:
    one = worker(tmp_path)
    made = one(0, "t-1", no_beat)
    before = tar_of(one, 0)
    painter = Painter()
    told = worker(tmp_path, painter)(0, "t-2", no_beat)
    assert painter.calls == []
    assert (told["images"], told["short"]) == (made["images"], made["short"])
    assert tar_of(one, 0) == before


def test_a_shard_of_another_recipe_is_refused(tmp_path: Path) -> None:
    worker(tmp_path)(0, "t-1", no_beat)
    with pytest.raises(ValueError, match="was made by another recipe"):
        worker(tmp_path, fingerprint="e" * 64)(0, "t-2", no_beat)


def test_of_two_attempts_at_once_one_wins_and_both_tell_the_same(tmp_path: Path) -> None:
    barrier = threading.Barrier(2)
    results: list[Any] = []

    def attempt(one: UnitWorker[Sample], name: str) -> None:
        barrier.wait(timeout=60)
        results.append(one(0, name, no_beat))

    workers = [worker(tmp_path, Painter(sometimes(0.2))) for _ in range(2)]
    threads = [threading.Thread(target=attempt, args=pair) for pair in zip(workers, ("t-a", "t-b"), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert len(results) == 2
    assert results[0]["images"] == results[1]["images"] == 20
    assert [path for path in left_behind(tmp_path) if "/tmp/" in path or "/claims/" in path] == []


# made again


def test_images_made_again_are_equal_byte_for_byte_after_redraws_too(tmp_path: Path) -> None:
    one = worker(tmp_path, Painter(sometimes(0.4)), shards=ShardSpec(samples_per_shard=20, max_draws=30))
    one(0, "t-1", no_beat)
    one(1, "t-1", no_beat)
    painter = Painter(sometimes(0.4))
    other = worker(tmp_path, painter, shards=ShardSpec(samples_per_shard=20, max_draws=30))
    redrawn = [row["key"] for row in rows_of(one, 0) if row["status"] == SUCCESS and row["draw"] > 0]
    assert redrawn
    made = regenerate(other, 0, redrawn)
    assert sorted(made) == sorted(redrawn)
    assert all(comparison.same_bytes for comparison in compare(other, 0, made))
    batches = {row["batch"] for row in rows_of(one, 0) if row["key"] in redrawn}
    assert len(painter.calls) == len(batches)  # only the batches that hold them
    comparisons = regenerate_some(other, scan_records(other.store), 12, seed=5)
    assert len(comparisons) == 12
    assert {comparison.key[:5] for comparison in comparisons} == {"00000", "00001"}
    assert all(comparison.same_bytes and comparison.mean_difference == 0 for comparison in comparisons)


def test_images_are_drawn_evenly_and_only_the_tables_of_their_shards_are_read(tmp_path: Path) -> None:
    one = worker(tmp_path, Painter(sometimes(0.2)), num_per_class={0: 21}, shards=ShardSpec(samples_per_shard=10))
    for unit in range(3):
        one(unit, "t-1", no_beat)
    records = scan_records(one.store)
    keys = [row["key"] for unit in range(3) for row in rows_of(one, unit) if row["status"] == SUCCESS]
    drawn = [regenerate_some(one, records, 1, seed)[0].key for seed in range(40)]
    assert drawn == [random.Random(seed).sample(sorted(keys), 1)[0] for seed in range(40)]
    assert [comparison.key for comparison in regenerate_some(one, records, 99, seed=0)] == sorted(keys)
    for unit in range(3):
        if unit != int(drawn[0][:5]):
            (tmp_path / f"{unit:05d}.parquet").unlink()
    assert regenerate_some(one, records, 1, seed=0)[0].same_bytes


def test_a_maker_that_draws_otherwise_is_found_out(tmp_path: Path) -> None:
    one = worker(tmp_path)
    one(0, "t-1", no_beat)

    class Other(Painter):
        def make(self, pairs: Pairs, alive: Callable[[float], None]) -> Made:
            return super().make([(replace(sample, replicate=9), draw) for sample, draw in pairs], alive)

    comparisons = regenerate_some(worker(tmp_path, Other()), scan_records(one.store), 5, seed=1)
    assert not any(comparison.same_bytes for comparison in comparisons)
    assert min(comparison.mean_difference for comparison in comparisons) > 5


@pytest.mark.parametrize(
    ("made_on", "here", "is_exact"),
    [
        ("cpu, A, AVX2", "cpu, A, AVX2", True),
        ("cpu, A, AVX2", "cpu, A, AVX512", False),
        ("cuda, G", "cuda, G", False),
        ("cpu", "cpu", False),  # nobody knows which
    ],
)
def test_the_same_bytes_are_a_must_on_the_kind_of_cpu_that_made_them(
    tmp_path: Path, made_on: str, here: str, is_exact: bool
) -> None:
    one = worker(tmp_path)
    one.job = one.job.on(made_on)
    one(0, "t-1", no_beat)
    again = worker(tmp_path)
    again.job = again.job.on(here)
    assert {found.is_exact for found in regenerate_some(again, scan_records(one.store), 5, seed=1)} == {is_exact}
    assert not regenerate_some(worker(tmp_path), scan_records(one.store), 1, seed=1)[0].is_exact, "no device is known"


def test_only_successes_of_the_shard_can_be_made_again(tmp_path: Path) -> None:
    one = worker(tmp_path)
    one(0, "t-1", no_beat)
    with pytest.raises(ValueError, match="found no success with key '000000999'"):
        regenerate(one, 0, ["000000999"])
