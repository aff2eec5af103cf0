"""A unit becomes a shard: which draws are made, what each leaves behind, and that nothing else decides the bytes.

The model is a painter: any object with `prepare` and `sample` will do, and a picture is a function of its request. One
test at the end runs a real (tiny) pipeline.
"""

import gc
import json
import random
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.process.exit import Draining, WorkerBroken
from cluster.process.failure import is_broken
from gen.make.plan import sample_seed, sample_uid
from gen.make.regenerate import compare, regenerate, regenerate_some
from gen.make.slots import Draw, Slots
from gen.make.unit import ShardSpec, UnitWorker, make_unit_worker
from gen.sampler.sampler import Request, Sampled
from gen.sampler.spec import SamplerSpec, sampler_digest
from shards.disk.home import home
from shards.disk.jpeg import decode_jpeg, read_source_type
from shards.disk.layout import SUCCESS, sample_key
from shards.disk.record import read_record
from shards.set.manifest import read_member, read_table
from tests.support.painter import SIDE, Painter, job, no_beat, paint, sometimes, worker
from tests.support.tiny_pipelines import tiny_pipeline

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CHECKOUT = home()


def rows_of(one: UnitWorker, unit: int) -> list[dict[str, Any]]:
    return read_table(one.store, [unit]).to_pylist()


def tar_of(one: UnitWorker, unit: int) -> bytes:
    return one.store.read_bytes(f"{unit:05d}.tar")


def table_of(one: UnitWorker, unit: int) -> bytes:
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
    for row, sample in zip(rows, one.plan.unit(0), strict=True):
        assert (row["class_id"], row["prompt_id"], row["replicate"]) == (
            sample.class_id,
            sample.prompt_id,
            sample.replicate,
        )
        assert np.abs(decode_jpeg(read_member(one.store, row)).astype(int) - paint(row["seed"])).mean() < 3


def test_k5_every_row_says_what_made_it(tmp_path: Path) -> None:
    """Model, hash of its weights, licence, settings, prompt and seed for every draw; XMP in every image."""
    one = worker(tmp_path, Painter(sometimes(0.3)))
    one(1, "t-1", no_beat)
    rows = rows_of(one, 1)
    assert any(row["status"] != SUCCESS for row in rows)
    for row in rows:
        identity = (11, row["class_id"], row["prompt_id"], row["replicate"], row["draw"])
        assert row["seed"] == sample_seed(*identity)
        assert row["uid"] == sample_uid(*identity)
        prompt = one.prompts.prompt(row["class_id"], row["prompt_id"])
        assert row["caption"] == prompt.text
        assert row["class_name"] == prompt.class_name
        assert row["negative"] == "blurry"
        assert row["domain"] == "synthetic"
        assert (row["model"], row["revision"], row["licence"]) == ("painter", f"sha256:{'d' * 64}", "CC0-1.0")
        assert json.loads(row["sampler"])["size_px"] == SIDE
        if row["status"] == SUCCESS:
            assert (row["width"], row["height"]) == (SIDE, SIDE)
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


def test_r12_1000_injected_accidents_none_is_published(tmp_path: Path) -> None:
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
            expected = fault(Request("", "", row["seed"])) or SUCCESS
            assert row["status"] == expected
        unit += 1
    assert statuses[SUCCESS] == 175 * unit
    assert set(statuses) == {SUCCESS, "nan", "black", "flagged", "blank", "flat"}


def test_a_slot_that_never_succeeds_is_short_and_says_so(tmp_path: Path) -> None:
    one = worker(tmp_path)
    doomed = one.plan.unit(0).samples[3]
    seeds = {sample_seed(11, doomed.class_id, doomed.prompt_id, doomed.replicate, draw) for draw in range(4)}
    one.model = Painter(lambda request: "black" if request.seed in seeds else None)
    result = one(0, "t-1", no_beat)
    assert (result["images"], result["short"], result["rejected"]) == (19, 1, {"black": 4})
    record = read_record(one.store, 0)
    assert record is not None
    assert record.short == 1
    rows = {row["key"]: row for row in rows_of(one, 0)}
    assert (rows[sample_key(0, 3)]["status"], rows[sample_key(0, 3)]["draw"]) == ("black", 3)
    assert [rows[sample_key(0, 20 + place)]["draw"] for place in range(3)] == [0, 1, 2]


def test_a_unit_without_any_success_fails_with_the_reasons(tmp_path: Path) -> None:
    one = worker(tmp_path, Painter(lambda request: "nan"))
    with pytest.raises(ValueError, match=r"no image among 80 draws \(nan 80; the last one: NaN or Inf") as error:
        one(0, "t-1", no_beat)
    assert "\n" not in str(error.value)
    assert left_behind(tmp_path) == []


def test_a_broken_model_is_given_up_after_a_hundred_draws_not_after_all(tmp_path: Path) -> None:
    one = worker(
        tmp_path, num_per_class={0: 500, 1: 300, 7: 200}, shards=ShardSpec(samples_per_shard=1000, max_draws=10)
    )
    one.model = painter = Painter(lambda request: "raises")
    with pytest.raises(ValueError, match=r"the last one: ValueError: cannot draw\\n"):
        one(0, "t-1", no_beat)
    assert len(painter.batches) < 150


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
        delays = {"sample": rng.random() * 0.01, "develop": rng.random() * 0.004}
        slow_down(hasty, delays, rng)
        with pytest.raises(Draining):
            hasty(0, "t-first", drain_after(rng.randrange(1, 4)))
        hasty(0, f"t-{number}", no_beat)
        assert tar_of(hasty, 0) == tar_of(calm, 0)
        assert table_of(hasty, 0) == table_of(calm, 0)


def slow_down(one: UnitWorker, delays: Mapping[str, float], rng: random.Random) -> None:
    sample, develop = one.model.sample, one.develop

    def slow_sample(requests: Sequence[Request]) -> Sampled:
        time.sleep(delays["sample"] * rng.random())
        return sample(requests)

    def slow_develop(*args: Any) -> Any:
        time.sleep(delays["develop"] * rng.random())
        return develop(*args)

    one.model.sample = slow_sample  # type: ignore[method-assign]
    one.develop = slow_develop  # type: ignore[method-assign]


def drain_after(calls: int) -> Callable[[int, int], None]:
    left = [calls]

    def beat(done: int, rejected: int) -> None:
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
    one = worker(tmp_path)
    first = one.plan.unit(0).samples[0]
    bad = sample_seed(11, first.class_id, first.prompt_id, first.replicate, 0)
    painter = Painter(lambda request: "black" if request.seed == bad else None)
    one.model = painter
    one(0, "t-1", no_beat)
    again = sample_seed(11, first.class_id, first.prompt_id, first.replicate, 1)
    assert [[request.seed for request in batch].index(again) for batch in painter.batches[2:3]] == [0]
    assert [len(batch) for batch in painter.batches] == [8, 8, 5]


def test_encoding_overlaps_with_the_next_model_call(tmp_path: Path) -> None:
    """The model's second call waits for the first batch to be developed: in one thread this would hang."""
    developed = threading.Event()

    class Waiting(Painter):
        def sample(self, requests: Sequence[Request]) -> Sampled:
            if len(self.batches) == 1:
                assert developed.wait(timeout=60), "nothing is developed while the model runs"
            return super().sample(requests)

    one = worker(tmp_path, Waiting())
    develop = one.develop

    def watched(sampled: Sampled, place: int) -> Any:
        developed.set()
        return develop(sampled, place)

    one.develop = watched  # type: ignore[method-assign]
    one(0, "t-1", no_beat)


@settings(deadline=None)  # shared machines stutter
@given(num_slots=st.integers(1, 40), max_draws=st.integers(1, 5), size=st.integers(1, 9), data=st.data())
def test_slots_every_slot_ends_once_and_rows_are_distinct(
    num_slots: int, max_draws: int, size: int, data: st.DataObject
) -> None:
    slots = Slots(num_slots, max_draws)
    rows: dict[int, tuple[Draw, str]] = {}
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
            for draw, status, row in zip(draws, statuses, slots.settle(draws, statuses), strict=True):
                assert row not in rows
                rows[row] = (draw, status)
    assert slots.num_filled + slots.num_short == num_slots
    assert slots.num_rejected == sum(status != SUCCESS for _, status in rows.values())
    assert sorted(rows) == list(range(len(rows)))
    for row, (draw, status) in rows.items():
        assert (row == draw.slot) == (status == SUCCESS or draw.draw == max_draws - 1)


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
    assert errors == ["RuntimeError: codec\\nfell over \\x1b[31m"] * 2


def test_b9_a_text_that_the_model_cannot_take_costs_only_its_own_image(tmp_path: Path) -> None:
    one = worker(tmp_path)
    doomed = one.plan.unit(0).samples[5]
    seeds = {sample_seed(11, doomed.class_id, doomed.prompt_id, doomed.replicate, draw) for draw in range(4)}
    one.model = Painter(lambda request: "raises" if request.seed in seeds else None)
    result = one(0, "t-1", no_beat)
    assert (result["images"], result["short"], result["rejected"]) == (19, 1, {"error": 4})
    rows = {row["key"]: row for row in rows_of(one, 0)}
    assert rows[sample_key(0, 5)]["error_message"].startswith("ValueError: cannot draw\\n")
    batches = Counter(row["batch"] for row in rows.values())
    assert [batches[number] for number in range(9)] == [0, 1, 1, 1, 1, 1, 1, 1, 1]  # call 0 failed, each alone then


@pytest.mark.parametrize("error", [OSError("disk"), MemoryError("full"), RuntimeError("device"), KeyboardInterrupt()])
def test_an_error_of_the_machine_ends_the_attempt_and_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    class Failing(Painter):
        def sample(self, requests: Sequence[Request]) -> Sampled:
            if len(self.batches) == 2:
                raise error
            return super().sample(requests)

    one = worker(tmp_path, Failing())
    with pytest.raises(type(error)):
        one(0, "t-1", no_beat)
    assert left_behind(tmp_path) == []
    one.model = Painter()
    assert one(0, "t-2", no_beat)["images"] == 20


def test_a_lost_device_breaks_the_worker_not_the_unit(tmp_path: Path) -> None:
    class Lost(Painter):
        def sample(self, requests: Sequence[Request]) -> Sampled:
            def wait(timeout_s: float) -> None:
                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

            sampled = super().sample(requests)
            return Sampled(sampled.image_NHWC, sampled.finite_N, sampled.flagged_N, wait)

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
def test_a_full_memory_says_what_to_lower_and_nothing_of_the_failed_call_is_held_when_the_next_one_begins(
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
        def sample(self, requests: Sequence[Request]) -> Sampled:
            if held:
                alive.append(held[0]() is not None)
                return super().sample(requests)
            if where == "call":
                fail()
            sampled = super().sample(requests)
            return Sampled(sampled.image_NHWC, sampled.finite_N, sampled.flagged_N, lambda timeout_s: fail())

    one = worker(tmp_path, Full())
    gc.disable()
    try:
        with pytest.raises(RuntimeError, match=r"sampler\.batch = 8 and sampler\.vae_batch = 8; lower") as raised:
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
        def sample(self, requests: Sequence[Request]) -> Sampled:
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
    worker(tmp_path, Painter(sometimes(0.3)))(0, "t-1", lambda done, rejected: seen.append((done, rejected)))
    assert seen == sorted(seen)
    assert seen[-1][0] == 20


def left_behind(out: Path) -> list[str]:
    """Everything on disk but the prompt table."""
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and path.suffix != ".parquet")


# published already, or by another


def test_a_unit_that_is_published_is_not_made_again(tmp_path: Path) -> None:
    one = worker(tmp_path)
    made = one(0, "t-1", no_beat)
    before = tar_of(one, 0)
    again = worker(tmp_path, Painter())
    told = again(0, "t-2", no_beat)
    assert again.model.batches == []  # type: ignore[attr-defined]
    assert (told["images"], told["short"]) == (made["images"], made["short"])
    assert tar_of(one, 0) == before


def test_a_shard_of_another_recipe_is_refused(tmp_path: Path) -> None:
    worker(tmp_path)(0, "t-1", no_beat)
    with pytest.raises(ValueError, match="was made by another recipe"):
        worker(tmp_path, fingerprint="e" * 64)(0, "t-2", no_beat)


def test_of_two_attempts_at_once_one_wins_and_both_tell_the_same(tmp_path: Path) -> None:
    barrier = threading.Barrier(2)
    results: list[Any] = []

    def attempt(one: UnitWorker, name: str) -> None:
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


# text is only ever text


def test_j1_hostile_prompts_reach_the_row_and_the_caption_only(tmp_path: Path) -> None:
    hostile = ("../../x {name}", "/etc/passwd {name}", "%s {name}\n$(reboot)", "{name}\r\x1b]0;x\x07", '"; DROP {name}')
    one = worker(tmp_path, templates=hostile)
    one(0, "t-1", no_beat)
    rows = rows_of(one, 0)
    assert {row["status"] for row in rows} == {SUCCESS}
    captions = {read_member(one.store, row, "txt").decode() for row in rows}
    assert captions == {row["caption"] for row in rows}
    assert any("$(reboot)" in caption for caption in captions)
    names = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert names == ["00000.parquet", "00000.tar", "00000_stats.json", "prompts.parquet"]


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
    assert len(painter.batches) == len(batches)  # only the batches that hold them
    comparisons = regenerate_some(other, [0, 1], 12, seed=5)
    assert len(comparisons) == 12
    assert {comparison.key[:5] for comparison in comparisons} == {"00000", "00001"}
    assert all(comparison.same_bytes and comparison.mean_difference == 0 for comparison in comparisons)


def test_a_model_that_draws_otherwise_is_found_out(tmp_path: Path) -> None:
    one = worker(tmp_path)
    one(0, "t-1", no_beat)

    class Other(Painter):
        def sample(self, requests: Sequence[Request]) -> Sampled:
            return super().sample([Request(request.prompt, "", request.seed + 1) for request in requests])

    comparisons = regenerate_some(worker(tmp_path, Other()), [0], 5, seed=1)
    assert not any(comparison.same_bytes for comparison in comparisons)
    assert min(comparison.mean_difference for comparison in comparisons) > 5


def test_only_successes_of_the_shard_can_be_made_again(tmp_path: Path) -> None:
    one = worker(tmp_path)
    one(0, "t-1", no_beat)
    with pytest.raises(ValueError, match="found no success with key '000000999'"):
        regenerate(one, 0, ["000000999"])


# the real thing


def test_a_worker_made_from_plain_data_runs_a_real_pipeline_and_remakes_its_images(tmp_path: Path) -> None:
    model = tiny_pipeline("sd", tmp_path / "model")
    spec = SamplerSpec(model=str(model), steps=2, size_px=64, saved_px=SIDE, batch=8, device="cpu")
    tars = []
    for name in ("one", "two"):
        out = tmp_path / name
        worker(out)  # writes the prompts
        plain = job(out, sampler=spec, model_digest=sampler_digest(spec)).model_dump(mode="json")
        made = make_unit_worker(json.loads(json.dumps(plain)))
        assert made(0, "t-1", no_beat)["images"] == 20
        assert all(comparison.same_bytes for comparison in regenerate_some(made, [0], 3, seed=0))
        tars.append(tar_of(made, 0))
    assert tars[0] == tars[1]


def test_a_node_with_other_weights_is_refused(tmp_path: Path) -> None:
    worker(tmp_path / "out")
    spec = SamplerSpec(model=str(tiny_pipeline("sd", tmp_path / "model")), size_px=64)
    with pytest.raises(ValueError, match="found other weights here") as error:
        make_unit_worker(job(tmp_path / "out", sampler=spec).model_dump(mode="json"))
    assert "\n" not in str(error.value)
