"""Sampling by class: exact shares over passes, rows of a class equally often, one order for any ranks and resumes."""

import itertools
import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.stream.augment import AugmentSpec
from shards.stream.class_shares import ClassShares, Sampling
from shards.stream.index_arrays import Index
from shards.stream.mix import MixSpec
from shards.stream.order import Domain, Order, SampleOrder
from shards.stream.spec import DomainSpec, StreamSpec
from shards.stream.stream import Stream
from tests.shards.stream.test_order import global_step, index_of, mixed, shuffled
from tests.support.small_data_set import write_data_set
from tests.support.stream_child import groups_of

POWERS: dict[Sampling, float] = {"natural": 1.0, "sqrt": 0.5, "balanced": 0.0}
samplings = st.sampled_from(list(POWERS))
# the class of each row, shard by shard: few classes, some of one row
shards_of_labels = st.lists(st.lists(st.integers(0, 6), max_size=9), min_size=1, max_size=8).filter(any)


def order_of(shards: list[list[int]], sampling: Sampling, seed: int = 0, window: int = 2) -> Order:
    labels = np.array([label for shard in shards for label in shard], np.int32)
    return Order([len(shard) for shard in shards], seed, window, ClassShares(labels, sampling, seed))


def flat(shards: list[list[int]]) -> list[int]:
    return [label for shard in shards for label in shard]


def share_of(labels: list[int], sampling: Sampling) -> dict[int, float]:
    """Kang et al. 2020, equation 1."""
    counts = Counter(labels)
    total = sum(count ** POWERS[sampling] for count in counts.values())
    return {one: count ** POWERS[sampling] / total for one, count in counts.items()}


def endless(labels: list[int], one: int, seed: int) -> Iterator[int]:
    """The rows of a class, shuffled anew each time round, in plain Python."""
    for turn in itertools.count():
        key = mixed(seed, one, turn)
        rank = {row: place for place, row in enumerate(shuffled(list(range(len(labels))), key))}
        yield from sorted((row for row, label in enumerate(labels) if label == one), key=lambda row: rank[row])


@given(shards_of_labels, samplings, st.integers(0, 99), st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_after_every_pass_each_class_had_its_share_within_one(
    shards: list[list[int]], sampling: Sampling, seed: int, passes: int
) -> None:
    labels = flat(shards)
    order, shown = order_of(shards, sampling, seed), Counter[int]()
    for number in range(passes):
        rows = order.rows(number * len(labels), len(labels))
        shown.update(labels[row] for row in rows.tolist())
        for one, share in share_of(labels, sampling).items():
            due = (number + 1) * len(labels) * share
            assert abs(shown[one] - due) < 1 + 1e-3 * (number + 1)  # the root is taken to 16 binary places


@given(shards_of_labels, samplings, st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_rows_of_a_class_come_equally_often_within_one(shards: list[list[int]], sampling: Sampling, seed: int) -> None:
    labels = flat(shards)
    order, shown = order_of(shards, sampling, seed), Counter[int]()
    for number in range(4):
        shown.update(order.rows(number * len(labels), len(labels)).tolist())
        for one in set(labels):
            times = [shown[row] for row, label in enumerate(labels) if label == one]
            assert max(times) - min(times) <= 1


@given(shards_of_labels, samplings, st.integers(0, 99), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_a_pass_has_the_visits_of_a_plain_walk_from_the_beginning(
    shards: list[list[int]], sampling: Sampling, seed: int, window: int
) -> None:
    """Though a pass is found without a walk. How often a row came before counts its visits one by one."""
    labels = flat(shards)
    order = order_of(shards, sampling, seed, window)
    classes = sorted(set(labels))
    weights = [
        {"natural": n, "sqrt": int((n << 32) ** 0.5), "balanced": 1}[sampling] for n in map(labels.count, classes)
    ]
    ends = list(itertools.accumulate(weights, initial=0))
    walks = {one: endless(labels, one, seed) for one in classes}
    seen = Counter[int]()
    taken = [0] * len(ends)
    for number in range(3):
        upto = [(number + 1) * len(labels) * end // ends[-1] for end in ends]
        expected = []
        for place, one in enumerate(classes):
            for row in itertools.islice(walks[one], upto[place + 1] - upto[place] - taken[place + 1] + taken[place]):
                expected.append((row, seen[row]))
                seen[row] += 1
        taken = upto
        first = number * len(labels)
        found = zip(order.rows(first, len(labels)).tolist(), order.earlier(first, len(labels)).tolist(), strict=True)
        assert sorted(found) == sorted(expected)


@given(shards_of_labels, samplings, st.integers(0, 99), st.lists(st.tuples(st.integers(0, 150), st.integers(0, 40))))
@settings(max_examples=60, deadline=None)
def test_a_position_holds_the_same_visit_however_it_is_asked_for(
    shards: list[list[int]], sampling: Sampling, seed: int, cuts: list[tuple[int, int]]
) -> None:
    whole = order_of(shards, sampling, seed)
    rows, earlier = whole.rows(0, 200).tolist(), whole.earlier(0, 200).tolist()
    order = order_of(shards, sampling, seed)
    for first, count in cuts:
        assert order.earlier(first, count).tolist() == earlier[first : first + count]
        assert order.rows(first, count).tolist() == rows[first : first + count]


@given(shards_of_labels, samplings, st.integers(0, 99), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_only_the_shards_of_one_window_are_open_at_a_time(
    shards: list[list[int]], sampling: Sampling, seed: int, window: int
) -> None:
    labels = flat(shards)
    first = np.cumsum([0] + [len(shard) for shard in shards])
    rows = order_of(shards, sampling, seed, window).rows(len(labels), len(labels))
    visited = (np.searchsorted(first, rows, side="right") - 1).tolist()
    remaining, is_open = Counter(visited), set[int]()
    for shard in visited:
        is_open.add(shard)
        assert len(is_open) <= window
        remaining[shard] -= 1
        if all(remaining[one] == 0 for one in is_open):
            is_open.clear()


@given(shards_of_labels)
@settings(max_examples=50, deadline=None)
def test_natural_shares_are_each_row_once_a_pass(shards: list[list[int]]) -> None:
    labels = np.array(flat(shards), np.int32)
    for number in (0, 1, 7):
        visits = ClassShares(labels, "natural", 3).visits(number)
        assert set(visits.times.tolist()) == {1}
        assert set(visits.before.tolist()) == {number}


def test_shares_of_a_long_tail_are_those_of_the_paper() -> None:
    """1,000, 100, 10 and 1 rows: by class a quarter each; by the root 1 / (1 + 0.316 + 0.1 + 0.0316) of the first."""
    labels = [0] * 1000 + [1] * 100 + [2] * 10 + [3]
    shown = {
        sampling: Counter(labels[row] for row in order_of([labels], sampling).rows(0, 10 * len(labels)).tolist())
        for sampling in POWERS
    }
    assert shown["natural"] == {0: 10_000, 1: 1_000, 2: 100, 3: 10}
    assert max(abs(count - 11_110 / 4) for count in shown["balanced"].values()) < 1
    for one, root in enumerate((31.623, 10, 3.162, 1)):
        assert abs(shown["sqrt"][one] - 11_110 * root / 45.785) < 1.2


def test_the_order_of_a_known_seed_stays_what_it_was() -> None:
    order = order_of([[0, 0, 0], [0, 1, 0], [2, 0]], "balanced", seed=42)
    assert order.rows(0, 16).tolist() == [0, 6, 6, 6, 2, 4, 4, 4, 4, 5, 1, 4, 3, 6, 6, 6]
    assert order.earlier(0, 16).tolist() == [0, 1, 2, 0, 0, 1, 0, 2, 3, 0, 0, 4, 0, 5, 4, 3]


# steps, ranks, checkpoints


def long_tailed(sizes: list[int]) -> Index:
    """Class 0 has most rows, class 3 few."""
    index = index_of(sizes)
    return replace(index, label=np.array([min(3, row % 17 // 5) for row in range(len(index))], np.int32))


def schedule_of(sampling: Sampling, sizes: list[int], other: Sampling = "natural") -> SampleOrder:
    domains = [
        Domain(name="real", quota=3, index=long_tailed(sizes), sampling=sampling),
        Domain(name="synthetic", quota=2, index=long_tailed([9, 20]), sampling=other),
    ]
    return SampleOrder(domains, groups=8, seed=5, window_shards=2, epoch_steps=5)


@pytest.mark.parametrize("sampling", ["sqrt", "balanced"])
def test_the_order_over_all_ranks_does_not_depend_on_their_number(sampling: Sampling) -> None:
    schedule = schedule_of(sampling, [12, 0, 30, 7], "balanced")
    for step in (0, 1, 6, 40):
        one = global_step(schedule, step)
        for world in (2, 4, 8):
            assert global_step(schedule, step, world) == one
            together = [
                group for rank in range(world) for group in schedule.takes(step, rank, world)[0].passes().tolist()
            ]
            assert together == schedule.takes(step)[0].passes().tolist()


def test_a_run_resumed_at_any_step_goes_on_with_the_same_visits() -> None:
    whole = schedule_of("balanced", [12, 0, 30, 7])
    for step in range(0, 30, 3):
        state = json.loads(json.dumps(whole.state(step)))
        again, at = schedule_of("balanced", [12, 0, 30, 7]).resume(state)
        assert at == step
        for mine, its in zip(again.takes(at, 1, 2), whole.takes(step, 1, 2), strict=True):
            assert mine.rows().tolist() == its.rows().tolist()
            assert mine.passes().tolist() == its.passes().tolist()


def test_another_sampling_than_the_checkpoints_is_refused() -> None:
    state = schedule_of("balanced", [12, 30]).state(3)
    with pytest.raises(ValueError, match=r"samplings: found .*'natural'.* the checkpoint was made with .*'balanced'"):
        schedule_of("natural", [12, 30]).resume(state)


def test_a_state_from_before_there_were_samplings_is_a_natural_one() -> None:
    state = schedule_of("natural", [12, 30]).state(3)
    for entry in state["domains"]:
        del entry["sampling"]
    assert schedule_of("natural", [12, 30]).resume(state)[1] == 3
    with pytest.raises(ValueError, match="samplings: found"):
        schedule_of("sqrt", [12, 30]).resume(state)


def test_shares_are_those_of_the_grown_set_after_growth() -> None:
    """A shard with two more classes comes."""
    labels = np.array([0] * 35 + [1] * 5 + [2] * 4 + [3] * 36, np.int32)
    index = replace(index_of([30, 10, 40]), label=labels)
    schedule = SampleOrder(
        [Domain(name="real", quota=4, index=index.prefix(2), sampling="balanced")],
        groups=2,
        seed=1,
        window_shards=2,
        epoch_steps=5,
    ).grow("real", 5, index)
    shown = [
        Counter(labels[row] for step in steps for group in schedule.takes(step)[0].rows().tolist() for row in group)
        for steps in (range(5), range(5, 15))
    ]
    assert shown[0] == {0: 20, 1: 20}
    assert shown[1] == {0: 20, 1: 20, 2: 20, 3: 20}


# pictures


def a_spec(folder: Path, **changes: Any) -> StreamSpec:
    domain = DomainSpec(name="real", source=str(folder), quota=4, sampling="balanced")
    fields = {"domains": (domain,), "size_px": 16, "window_shards": 2, "threads": 2, "prefetch_steps": 2}
    noisy = {"augment": AugmentSpec(policy="rand", erase=0.3), "mix": MixSpec(mixup_alpha=0.4)}
    return StreamSpec.model_validate({**fields, **noisy, **changes})


def a_stream(spec: StreamSpec, rank: int = 0, world: int = 1, state: Any = None) -> Stream:
    return Stream(
        spec, groups=4, seed=7, epoch_steps=5, rank=rank, world=world, state=state, agree=lambda numbers: numbers
    )


@pytest.fixture(scope="module")
def tail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 pictures: 19 of class 0, one each of class 1 and 2."""

    def change(shard: int, index: int, row: dict[str, object]) -> dict[str, object]:
        return {**row, "class_id": {(0, 0): 1, (2, 3): 2}.get((shard, index), 0)}

    folder = tmp_path_factory.mktemp("tail") / "real"
    write_data_set(folder, num_shards=3, num_slots=7, change=change)
    return folder


def test_a_rare_picture_that_comes_again_in_a_pass_is_changed_anew(tail: Path) -> None:
    shown: dict[int, list[bytes]] = {}
    with a_stream(a_spec(tail, mix=MixSpec())) as stream:
        labels = Counter[int]()
        for _ in range(21):
            batch = next(stream)
            labels.update(batch.labels.tolist())
            for uid, image in zip(batch.uids.tolist(), batch.images, strict=True):
                shown.setdefault(uid, []).append(image.tobytes())
    assert labels == dict.fromkeys(range(3), 21 * 16 // 3)
    for images in shown.values():
        assert len(set(images)) > 0.9 * len(images)  # by chance two may be equal: few pixels, mild changes


def test_ranks_and_resumes_change_no_byte_of_balanced_batches(tail: Path) -> None:
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(2**32)))
    print(f"SEED={seed}")
    rng = random.Random(seed)
    with a_stream(a_spec(tail)) as stream:
        whole = [groups_of(next(stream)) for _ in range(16)]
    state, step = None, 0
    while step < len(whole):
        world, steps = (1, 2, 4)[int(rng.random() * 3)], 1 + int(rng.random() * 4)
        steps = min(steps, len(whole) - step)
        states, dealt = [], []
        for rank in range(world):
            with a_stream(a_spec(tail, threads=int(rng.random() * 3)), rank, world, state) as stream:
                dealt.append([groups_of(next(stream)) for _ in range(steps)])
                states.append(stream.state())
        for number in range(steps):
            assert [group for own in dealt for group in own[number]] == whole[step + number]
        assert states == [states[0]] * world
        state, step = states[0], step + steps
