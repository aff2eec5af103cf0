"""The order of samples: every row once a pass, exact quotas, the same for any number of ranks, found again at once."""

import json
import os
import random
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.stream.index_arrays import Index, make_index
from shards.stream.keyed_random import hashed
from shards.stream.order import Domain, Order, SampleOrder, Segment

MASK = 2**64 - 1
SEED = int(os.environ.get("SIXFOLD_ORDER_SEED", random.SystemRandom().randrange(2**32)))

ragged = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any)


def index_of(sizes: list[int], salt: int = 0) -> Index:
    """An index of shards of these sizes; another salt stands for other data."""
    num = sum(sizes)
    return make_index(
        "memory://somewhere",
        [f"{shard:05d}.tar" for shard in range(len(sizes))],
        [f"{shard + salt:064x}" for shard in range(len(sizes))],
        {
            "first": np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64),
            "tar_bytes": np.full(len(sizes), 10_240, np.int64),
            "left_out": np.zeros(len(sizes), np.int64),
            "offset": np.arange(num, dtype=np.int64) * 1024 + 512,
            "size": np.full(num, 100, np.int64),
            "label": np.zeros(num, np.int32),
            "uid": np.arange(num, dtype=np.uint64),
            "picture_hash": np.zeros(num, np.uint64),
        },
    )


def schedule_of(
    sizes: list[list[int]], quotas: list[int], groups: int = 4, seed: int = 0, window: int = 2, epoch: int = 5
) -> SampleOrder:
    names = ("real", "synthetic", "retrieved", "edited")
    domains = [
        Domain(name=name, quota=quota, index=index_of(counts))
        for name, quota, counts in zip(names, quotas, sizes, strict=False)
    ]
    return SampleOrder(domains, groups=groups, seed=seed, window_shards=window, epoch_steps=epoch)


def global_step(schedule: SampleOrder, step: int, world: int = 1) -> list[list[list[int]]]:
    """[domain][group][slot]: all rows of a step, gathered from all ranks in rank order."""
    dealt = [schedule.takes(step, rank, world) for rank in range(world)]
    return [
        [group for takes in dealt for group in takes[number].rows().tolist()] for number in range(len(schedule.domains))
    ]


def hash64(value: int) -> int:
    """splitmix64 in whole numbers, the reference for the vectorised one."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def mixed(*numbers: int) -> int:
    state = 0
    for number in numbers:
        state = hash64(state ^ (number & MASK))
    return state


def shuffled(items: list[int], key: int) -> list[int]:
    keys = [hash64(hash64((place + key) & MASK) ^ key) for place in range(len(items))]
    return [items[place] for place in sorted(range(len(items)), key=lambda place: keys[place])]


def pass_of(sizes: list[int], seed: int, window_shards: int, number: int) -> list[int]:
    """The order of one pass, as the docstring of the module states it, in plain Python."""
    first = [sum(sizes[:shard]) for shard in range(len(sizes))]
    shards = shuffled([shard for shard, size in enumerate(sizes) if size], mixed(seed, 0, number))
    order = []
    for window in range(0, len(shards), window_shards):
        rows = [first[s] + row for s in shards[window : window + window_shards] for row in range(sizes[s])]
        order += shuffled(rows, mixed(seed, 1, number, window // window_shards))
    return order


# one domain


@given(ragged, st.integers(-(2**70), 2**70), st.integers(1, 14), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_every_pass_visits_every_row_once(sizes: list[int], seed: int, window: int, number: int) -> None:
    """For any sizes, empty shards included, and any window."""
    num_rows = sum(sizes)
    rows = Order(sizes, seed, window).rows(number * num_rows, num_rows)
    assert sorted(rows.tolist()) == list(range(num_rows))


@given(ragged, st.integers(0, 2**64), st.integers(1, 14))
@settings(max_examples=100, deadline=None)
def test_the_order_is_the_stated_one_in_whole_numbers(sizes: list[int], seed: int, window: int) -> None:
    """So it depends on no library's random numbers, and a checkpoint outlives a new version of numpy."""
    two_passes = pass_of(sizes, seed, window, 0) + pass_of(sizes, seed, window, 1)
    assert Order(sizes, seed, window).rows(0, 2 * sum(sizes)).tolist() == two_passes


def test_the_order_of_a_known_seed_stays_what_it_was() -> None:
    assert hashed(1, 2, 3) == mixed(1, 2, 3) == 0xD0734750FDE362B3
    assert Order([3, 0, 4, 2, 5], seed=42, window_shards=2).rows(0, 16).tolist() == [
        0,
        7,
        8,
        2,
        1,
        9,
        11,
        13,
        6,
        4,
        12,
        3,
        5,
        10,
        2,
        4,
    ]


@given(ragged, st.integers(0, 99), st.integers(1, 5), st.lists(st.tuples(st.integers(0, 300), st.integers(0, 40))))
@settings(max_examples=100, deadline=None)
def test_a_position_holds_the_same_row_however_it_is_asked_for(
    sizes: list[int], seed: int, window: int, cuts: list[tuple[int, int]]
) -> None:
    whole = Order(sizes, seed, window).rows(0, 340)
    order = Order(sizes, seed, window)
    for first, count in cuts:
        assert order.rows(first, count).tolist() == whole[first : first + count].tolist()


@given(ragged, st.integers(0, 99), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_only_the_shards_of_one_window_are_open_at_a_time(sizes: list[int], seed: int, window: int) -> None:
    """Reading a pass in order touches window_shards shards, finishes them, and goes on to the next ones."""
    first = np.concatenate([[0], np.cumsum(sizes)])
    shards = np.searchsorted(first, Order(sizes, seed, window).rows(0, sum(sizes)), side="right") - 1
    remaining = Counter(shards.tolist())
    is_open: set[int] = set()
    for shard in shards.tolist():
        is_open.add(shard)
        assert len(is_open) <= window
        remaining[shard] -= 1
        if all(remaining[one] == 0 for one in is_open):
            is_open.clear()
    assert not is_open


def test_passes_and_seeds_differ() -> None:
    sizes = [50] * 8
    orders = [tuple(Order(sizes, seed, 3).rows(number * 400, 400)) for seed in (0, 1, 2**63) for number in (0, 1, 2)]
    assert len(set(orders)) == len(orders)


def test_every_row_comes_first_equally_often() -> None:
    """Chi-square over 6,000 fixed seeds; 28.4 would be exceeded by chance once in 1,000 for 9 degrees of freedom."""
    firsts = Counter(int(Order([4, 0, 3, 3], seed, 4).rows(0, 1)[0]) for seed in range(6_000))
    chi_square = sum((firsts[row] - 600) ** 2 / 600 for row in range(10))
    assert chi_square < 28.4


def test_a_spare_is_another_row_and_depends_on_position_and_attempt_only() -> None:
    order, again = Order([5, 0, 7], 3, 2), Order([5, 0, 7], 3, 2)
    again.rows(500, 10)
    spares = {}
    for position in range(200):
        for attempt in range(4):
            spares[position, attempt] = order.spare(position, attempt)
            assert spares[position, attempt] != order.rows(position, 1)[0]
    assert {key: again.spare(*key) for key in reversed(spares)} == spares
    assert set(spares.values()) == set(range(12))
    assert Order([0, 1], 3, 2).spare(17, 0) == 0


@pytest.mark.parametrize("sizes", [[], [0], [0, 0, 0]])
def test_a_domain_without_a_sample_is_refused(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match=f"no sample in {len(sizes)} shards"):
        Order(sizes, 0, 1)


def test_senseless_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="window_shards: found 0"):
        Order([1], 0, 0)
    with pytest.raises(ValueError, match="negative number of samples"):
        Order([3, -1], 0, 1)
    with pytest.raises(ValueError, match="positions: found first -1"):
        Order([3], 0, 1).rows(-1, 2)


def test_the_first_rows_after_a_resume_cost_the_same_anywhere() -> None:
    """10,000 shards of 1,000 rows: a sort of the shards and one of a window's rows, wherever the position lies."""
    sizes = [1_000] * 10_000
    cpu_s = {}
    for share in (0.0, 0.9, 5.9):
        runs = []
        for _ in range(3):
            order = Order(sizes, 7, 16)
            start = time.process_time()
            order.rows(int(share * 10_000_000), 256)
            runs.append(time.process_time() - start)
        cpu_s[share] = min(runs)
    print({f"first rows at pass {share}": f"{1e3 * seconds:.2f} ms" for share, seconds in cpu_s.items()})
    assert max(cpu_s.values()) < 2 * cpu_s[0.0] + 0.005


def test_the_whole_data_set_is_never_shuffled_at_once() -> None:
    """A walk over 30 windows of 100 touches the memory of one window."""
    order = Order([1_000] * 1_600, 7, 16)
    for position in range(0, 480_000, 4_000):
        order.rows(position, 64)
    kept = [value for value in vars(order).values() if value is not None]
    arrays = [part for value in kept for part in (value if isinstance(value, tuple) else (value,))]
    assert max(part.size for part in arrays if isinstance(part, np.ndarray)) <= 16_000


# steps, ranks, groups


def plain_positions(sizes: list[int], seed: int, number: int, window: int, first: int, count: int) -> list[int]:
    """Rows at `first` .. `first` + `count` of domain `number`'s endless sequence, from `pass_of` alone."""
    num_rows = sum(sizes)
    passes = range(first // num_rows, (first + count - 1) // num_rows + 1)
    order = [row for one in passes for row in pass_of(sizes, mixed(seed, 3, number, 0), window, one)]
    start = first - passes[0] * num_rows
    return order[start : start + count]


def check_quotas(sizes: list[list[int]], quotas: list[int], share: int, world: int, seed: int, step: int) -> None:
    """What each rank is dealt at three steps: `quota` rows of each domain in each of its groups, group by group those
    that plain arithmetic gives; all ranks together, the step of one rank; and no row twice in a pass."""
    groups = share * world
    schedule = schedule_of(sizes, quotas, groups=groups, seed=seed, window=3)
    plain = [
        plain_positions(counts, seed, number, 3, step * groups * quota, 3 * groups * quota)
        for number, (counts, quota) in enumerate(zip(sizes, quotas, strict=True))
    ]
    shown: Counter[tuple[int, int, int]] = Counter()
    for at in range(step, step + 3):
        dealt = [schedule.takes(at, rank, world) for rank in range(world)]
        alone = schedule.takes(at)
        for number, quota in enumerate(quotas):
            together: list[int] = []
            for rank, takes in enumerate(dealt):
                rows, passes = takes[number].rows().tolist(), takes[number].passes().tolist()
                assert [len(group) for group in rows] == [quota] * share
                first = ((at - step) * groups + rank * share) * quota
                flat = [row for group in rows for row in group]
                assert flat == plain[number][first : first + share * quota]
                together += flat
                shown.update(
                    (number, one, row) for one, row in zip([n for group in passes for n in group], flat, strict=True)
                )
            assert together == [row for group in alone[number].rows().tolist() for row in group]
    assert set(shown.values()) == {1}
    num_shown = Counter(number for number, _, _ in shown.elements())
    assert [num_shown[number] for number in range(len(quotas))] == [3 * groups * quota for quota in quotas]


def random_layout(rng: random.Random) -> tuple[list[list[int]], list[int], int, int, int, int]:
    num_domains = 1 + int(rng.random() * 4)
    sizes = []
    for _ in range(num_domains):
        counts = [int(rng.random() * 12) for _ in range(1 + int(rng.random() * 10))]
        sizes.append(counts if any(counts) else [*counts, 1])
    quotas = [1 + int(rng.random() * 16) for _ in range(num_domains)]
    return (
        sizes,
        quotas,
        1 + int(rng.random() * 4),
        1 + int(rng.random() * 8),
        int(rng.random() * 2**32),
        (int(rng.random() * 50)),
    )


def test_d4_quotas_are_exact_in_every_group_of_every_rank() -> None:
    """Uneven and empty shards, fewer shards than ranks: 300 random layouts."""
    print(f"SIXFOLD_ORDER_SEED={SEED}")
    rng = random.Random(SEED)
    for _ in range(300):
        check_quotas(*random_layout(rng))


@pytest.mark.torture
def test_d4_quotas_are_exact_for_10_000_random_layouts() -> None:
    print(f"SIXFOLD_ORDER_SEED={SEED}")
    rng = random.Random(SEED)
    for _ in range(10_000):
        check_quotas(*random_layout(rng))


@given(ragged, ragged, st.integers(1, 5), st.integers(1, 5), st.integers(0, 30))
@settings(max_examples=100, deadline=None)
def test_d3_the_order_over_all_ranks_does_not_depend_on_their_number(
    real: list[int], synthetic: list[int], q_real: int, q_synthetic: int, step: int
) -> None:
    schedule = schedule_of([real, synthetic], [q_real, q_synthetic], groups=8)
    one = global_step(schedule, step, world=1)
    for world in (2, 4, 8):
        assert global_step(schedule, step, world) == one


def test_d3_each_sample_comes_once_a_pass_while_the_number_of_ranks_changes() -> None:
    schedule = schedule_of([[5, 3, 0, 8]], [2], groups=4)
    rows = [
        row
        for step, world in enumerate([1, 2, 4, 2])
        for group in global_step(schedule, step, world)[0]
        for row in group
    ]
    assert len(rows) == 32
    assert sorted(rows[:16]) == sorted(rows[16:]) == list(range(16))


def test_d1_a_run_resumed_at_any_step_goes_on_with_the_same_samples() -> None:
    uninterrupted = [global_step(schedule_of([[5, 3], [7, 0, 9]], [2, 3]), step) for step in range(12)]
    for stop in range(12):
        state = json.loads(json.dumps(schedule_of([[5, 3], [7, 0, 9]], [2, 3]).state(stop)))
        schedule, step = schedule_of([[5, 3], [7, 0, 9]], [2, 3]).resume(state)
        assert step == stop
        assert [global_step(schedule, later) for later in range(step, 12)] == uninterrupted[stop:]


@pytest.mark.parametrize("stops", [(1, 3), (4, 4), (4, 5), (5, 10), (2, 9, 14)])
def test_d2_two_resumes_at_the_last_step_and_over_epochs_change_nothing(stops: tuple[int, ...]) -> None:
    """An epoch is 5 steps; step 4 is its last one."""
    uninterrupted = [global_step(schedule_of([[5, 3], [7, 0, 9]], [2, 3]), step) for step in range(16)]
    seen = []
    step, state = 0, schedule_of([[5, 3], [7, 0, 9]], [2, 3]).state(0)
    for stop in (*stops, 16):
        schedule, step = schedule_of([[5, 3], [7, 0, 9]], [2, 3]).resume(json.loads(json.dumps(state)))
        seen += [global_step(schedule, at) for at in range(step, stop)]
        state = schedule.state(stop)
    assert seen == uninterrupted


def test_a_small_domain_goes_round_while_a_large_one_passes_once() -> None:
    """8 real samples against 48 synthetic ones, one to one: six passes against one."""
    schedule = schedule_of([[8], [16, 16, 16]], [2, 2], groups=2)
    takes = [schedule.takes(step) for step in range(12)]
    real, synthetic = (Counter(row for step in takes for row in step[n].rows().ravel().tolist()) for n in (0, 1))
    assert real == dict.fromkeys(range(8), 6)
    assert synthetic == dict.fromkeys(range(48), 1)
    assert [int(step[0].passes().max()) for step in takes] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert {int(step[1].passes().max()) for step in takes} == {0}


def test_two_domains_of_the_same_data_have_orders_of_their_own() -> None:
    real, synthetic = schedule_of([[40, 40], [40, 40]], [8, 8]).takes(0)
    assert real.rows().tolist() != synthetic.rows().tolist()


def test_a_spare_of_a_take_is_that_of_its_position() -> None:
    take = schedule_of([[5, 9]], [3], groups=4).takes(6, rank=1, world=2)[0]
    assert take.first == 6 * 12 + 6
    assert [take.spare(slot, 2) for slot in range(take.count)] == [
        take.order.spare(take.first + slot, 2) for slot in range(6)
    ]


# a data set that grows


def test_a_larger_index_is_taken_in_at_the_end_of_an_epoch() -> None:
    small, large = index_of([4, 4]), index_of([4, 4, 8])
    before = SampleOrder(
        [Domain(name="synthetic", quota=2, index=small)], groups=2, seed=1, window_shards=2, epoch_steps=4
    )
    after = before.grow("synthetic", 8, large)
    assert [global_step(after, step) for step in range(8)] == [global_step(before, step) for step in range(8)]
    rows = [row for step in range(8, 12) for group in global_step(after, step)[0] for row in group]
    assert sorted(rows) == list(range(16)), "a new pass begins with the segment"
    assert after.takes(7)[0].passes().max() < after.takes(8)[0].passes().min()
    assert after.state(9)["domains"][0]["segments"] == [[0, 2, small.digest], [8, 3, large.digest]]


def test_a_run_that_grew_is_resumed_in_either_segment_and_while_more_comes() -> None:
    small, large, larger = index_of([4, 4]), index_of([4, 4, 8]), index_of([4, 4, 8, 5])

    def fresh(index: Index) -> SampleOrder:
        domain = Domain(name="synthetic", quota=2, index=index)
        return SampleOrder([domain], groups=2, seed=1, window_shards=2, epoch_steps=4)

    grown = fresh(small).grow("synthetic", 4, large)
    for stop in (0, 3, 4, 7):
        schedule, step = fresh(larger).resume(json.loads(json.dumps(grown.state(stop))))
        assert [global_step(schedule, at) for at in range(step, 9)] == [global_step(grown, at) for at in range(stop, 9)]
    assert fresh(larger).resume(grown.state(4))[0].grow("synthetic", 8, larger).state(8)["domains"][0]["segments"] == [
        [0, 2, small.digest],
        [4, 3, large.digest],
        [8, 4, larger.digest],
    ]


@pytest.mark.parametrize(
    ("name", "step", "sizes", "salt", "message"),
    [
        ("synthetic", 6, [4, 4, 8], 0, "growth at step 6, expected the end of an epoch"),
        ("synthetic", 0, [4, 4, 8], 0, "growth at step 0, expected the end of an epoch"),
        ("real", 4, [4, 4, 8], 0, "found 'real', expected one of"),
        ("synthetic", 4, [4], 0, "found 1 shards in .*, the run was at 2 already"),
        ("synthetic", 4, [4, 5, 8], 0, "has the digest"),
        ("synthetic", 4, [4, 4, 8], 1, "has the digest"),
    ],
)
def test_growth_that_would_change_what_was_planned_is_refused(
    name: str, step: int, sizes: list[int], salt: int, message: str
) -> None:
    schedule = SampleOrder(
        [Domain(name="synthetic", quota=2, index=index_of([4, 4]))], groups=2, seed=1, window_shards=2, epoch_steps=4
    )
    with pytest.raises(ValueError, match=message):
        schedule.grow(name, step, index_of(sizes, salt))


# what is refused


def test_groups_that_cannot_be_dealt_out_evenly_are_refused() -> None:
    schedule = schedule_of([[9]], [1], groups=6)
    assert [take.groups for take in schedule.takes(0, 2, 3)] == [2]
    with pytest.raises(ValueError, match="found 6 groups for 4 ranks, expected a multiple of 4"):
        schedule.takes(0, 0, 4)
    for rank, world in ((3, 3), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="rank: found"):
            schedule.takes(0, rank, world)
    with pytest.raises(ValueError, match="step: found -1"):
        schedule.takes(-1)


def test_a_quota_of_nothing_and_an_empty_domain_are_refused() -> None:
    with pytest.raises(ValueError, match="quota of domain synthetic: found 0"):
        schedule_of([[3], [3]], [1, 0])
    with pytest.raises(ValueError, match="domain synthetic: found no sample in memory://somewhere"):
        schedule_of([[3], [0, 0]], [1, 1])
    for word, values in {"groups": {"groups": 0}, "epoch_steps": {"epoch": 0}, "window_shards": {"window": 0}}.items():
        with pytest.raises(ValueError, match=f"{word}: found 0"):
            schedule_of([[3]], [1], **values)


def test_domains_without_names_of_their_own_are_refused() -> None:
    twice = [Domain(name="real", quota=1, index=index_of([2]))] * 2
    for domains in ([], twice):
        with pytest.raises(ValueError, match="domains: found the names"):
            SampleOrder(domains, groups=1, seed=0, window_shards=1, epoch_steps=1)
    late = Domain(name="real", quota=1, index=index_of([2]), segments=(Segment(4, 1, "x"),))
    with pytest.raises(ValueError, match="first segment begins at step 4"):
        SampleOrder([late], groups=1, seed=0, window_shards=1, epoch_steps=4)


@pytest.mark.parametrize(
    ("word", "value", "message"),
    [
        ("version", 2, "found version 2, expected 1"),
        ("seed", 5, "seed: found 0, the checkpoint was made with 5"),
        ("groups", 8, "groups: found 4, the checkpoint was made with 8"),
        ("window_shards", 3, "window_shards: found 2"),
        ("epoch_steps", 3, "epoch_steps: found 5"),
        ("step", None, "bad or missing field"),
        ("domains", [], "domains, quotas and samplings: found"),
        ("domains", [{"name": "real", "quota": 3, "segments": []}], "domains, quotas and samplings: found"),
        ("domains", [{"name": "real", "quota": 2, "segments": []}], "has no segment"),
        ("domains", [{"name": "real", "quota": 2, "segments": [[0, 2, "ab" * 32]]}], "domain real: .* has the digest"),
        ("domains", [{"name": "real", "quota": 2, "segments": [[0, 3, "ab" * 32]]}], "the run was at 3 already"),
    ],
)
def test_a_state_of_another_run_is_refused_by_what_differs(word: str, value: object, message: str) -> None:
    state = schedule_of([[3, 4]], [2]).state(3)
    with pytest.raises(ValueError, match=message):
        schedule_of([[3, 4]], [2]).resume({**state, word: value})


def test_a_state_names_the_domain_whose_data_changed() -> None:
    state = schedule_of([[3, 4], [5]], [2, 1]).state(3)
    other = schedule_of([[3, 4], [6]], [2, 1])
    with pytest.raises(
        ValueError, match=f"domain synthetic: .*{index_of([6]).digest[:16]}.*{index_of([5]).digest[:16]}"
    ):
        other.resume(state)
