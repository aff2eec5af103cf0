"""Laws of the simulated cluster: what must hold in every world, whatever dies and whoever shares the storage."""

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.fan_out.scheduler import Action, Schedule, StartWorker, Submit
from cluster.fan_out.simulate import CRAWL, simulate
from cluster.fan_out.simulated_storage import SimulatedStorage
from cluster.fan_out.work import LOOK_EVERY_S, MAX_LOOKS_PER_S, FanOutSpec, look_every_s
from cluster.fan_out.world import World

SPEC = FanOutSpec(attempts=1000, give_up_after=10_000, start_deadline_s=1e9)
FAR_S = 1e-6  # seconds that rounding may add


def worlds() -> st.SearchStrategy[World]:
    """Small worlds in which processes and nodes vanish and storage and driver take time."""
    return st.builds(
        World,
        num_units=st.integers(0, 60),
        num_workers=st.integers(1, 9),
        workers_per_node=st.integers(1, 4),
        unit_s=st.sampled_from([5.0, 20.0]),
        start_s=st.sampled_from([0.0, 15.0]),
        slow_workers=st.sampled_from([0.0, 0.3]),
        crawling=st.sampled_from([0.0, 0.05]),
        num_kills=st.integers(0, 4),
        mtbf_s=st.sampled_from([0.0, 300.0]),
        preempt_s=st.sampled_from([0.0, 500.0]),
        away_s=st.just(50.0),
        life_s=st.sampled_from([0.0, 400.0]),
        queue_s=st.just(30.0),
        unit_bytes=st.sampled_from([0.0, 3e7]),
        model_bytes=st.sampled_from([0.0, 1e8]),
        storage_bytes_per_s=st.sampled_from([0.0, 3e7]),
        link_bytes_per_s=st.sampled_from([0.0, 1e7]),
        driver_unit_s=st.sampled_from([0.0, 0.01]),
        driver_look_s=st.sampled_from([0.0, 0.001]),
        driver_turn_s=st.sampled_from([0.0, 1e-5]),
        driver_start_s=st.sampled_from([0.0, 0.02]),
        beat_s=st.just(1.0),
        seed=st.integers(0, 10_000),
    )


@settings(max_examples=150, deadline=None)
@given(world=worlds())
def test_equal_seeds_give_equal_outcomes_and_every_unit_is_done(world: World) -> None:
    first, second = simulate(world, SPEC), simulate(world, SPEC)
    assert first == second
    if first.summary.error is None:
        assert first.summary.done == world.num_units
        assert {event.unit for event in first.events if event.kind == "unit_done"} == set(range(world.num_units))
    else:  # an allocation that ends before a unit does is named
        assert world.life_s
        assert "make smaller units" in first.summary.error


@settings(max_examples=150, deadline=None)
@given(world=worlds())
def test_seconds_of_workers_are_told_once_and_never_more_than_there_were(world: World) -> None:
    run = simulate(world, SPEC)
    told = run.spent
    sums = (told.starting_s, told.making_s, told.storing_s, told.hearing_s, told.lost_s, told.doubled_s)
    assert all(seconds >= 0 for seconds in sums)
    lived = run.makespan_s - run.queued_s
    assert sum(sums) <= world.num_workers * lived + FAR_S * (1 + lived)
    assert run.spent.lost_s == pytest.approx(sum(run.lost_work_s))
    assert run.most_in_flight <= world.num_workers


@settings(max_examples=100, deadline=None)
@given(
    num_units=st.integers(1, 80), num_workers=st.integers(1, 12), kills=st.integers(0, 20),
    mtbf_s=st.sampled_from([0.0, 200.0]), seed=st.integers(0, 10_000),
)  # fmt: skip
def test_a_kill_loses_at_most_the_unit_at_hand(
    num_units: int, num_workers: int, kills: int, mtbf_s: float, seed: int
) -> None:
    world = World(
        num_units=num_units, num_workers=num_workers, unit_s=10, start_s=5, num_kills=kills, mtbf_s=mtbf_s, seed=seed,
        slow_workers=0.0, speed_spread=0.0,
    )  # fmt: skip
    run = simulate(world, SPEC)
    assert len(run.lost_work_s) <= run.summary.workers_lost
    assert all(0 <= seconds <= world.unit_s + FAR_S for seconds in run.lost_work_s)


@settings(max_examples=100, deadline=None)
@given(num_units=st.integers(0, 200), num_workers=st.integers(1, 40), unit_s=st.sampled_from([1.0, 30.0]))
def test_more_workers_never_take_longer_where_nothing_fails(num_units: int, num_workers: int, unit_s: float) -> None:
    world = World(
        num_units=num_units, num_workers=num_workers, unit_s=unit_s, start_s=20, speed_spread=0, slow_workers=0
    )
    fewer, more = simulate(world, SPEC), simulate(replace(world, num_workers=num_workers + 1), SPEC)
    assert more.makespan_s <= fewer.makespan_s + FAR_S
    waves = -(-num_units // num_workers)
    assert fewer.makespan_s == pytest.approx(20 + waves * unit_s if num_units else 0)


@settings(max_examples=100, deadline=None)
@given(world=worlds())
def test_no_run_is_shorter_than_its_bytes_take(world: World) -> None:
    run = simulate(world, SPEC)
    if world.storage_bytes_per_s and run.summary.error is None:
        assert run.bytes_moved >= world.num_units * world.unit_bytes - 1
        assert run.makespan_s - run.queued_s >= run.bytes_moved / world.storage_bytes_per_s * (1 - 1e-9) - FAR_S


def test_a_storage_that_is_too_slow_decides_how_long_a_run_takes() -> None:
    world = World(num_units=640, unit_s=20, unit_bytes=1e9, storage_bytes_per_s=1e9, link_bytes_per_s=1e9)
    run = simulate(world, SPEC)
    assert 640 <= run.makespan_s <= 640 + world.start_s + 3 * world.unit_s
    assert run.most_transfers > 30, "all write at once, and each waits for the others"
    fast = simulate(replace(world, storage_bytes_per_s=1e12), SPEC)
    assert fast.makespan_s < run.makespan_s
    assert fast.spent.storing_s == pytest.approx(640, rel=0.01), "a second each, over its own link"


def test_workers_that_read_their_model_at_once_wait_for_each_other() -> None:
    world = World(num_units=64, unit_s=10, start_s=0, model_bytes=1e9, storage_bytes_per_s=2e9, slow_workers=0)
    run = simulate(world, SPEC)
    assert run.summary.start_s == pytest.approx(32)
    assert run.spent.starting_s == pytest.approx(64 * 32)


def test_a_model_that_is_not_read_within_the_start_deadline_ends_the_run_with_that_cause() -> None:
    world = World(num_units=1000, model_bytes=5e9, storage_bytes_per_s=1e8)
    run = simulate(world, FanOutSpec())
    assert run.summary.done == 0
    assert "its model was not loaded within 1200 s (start_deadline_s)" in str(run.summary.error)


def test_c4_failures_preemption_stragglers_storage_and_driver_leave_64_workers_within_3_percent() -> None:
    """The reference run of benchmark C4, with all that this world adds at usual rates; the median of five worlds."""
    ratios = []
    for seed in range(5):
        world = World(
            num_units=7692, crawling=0.0005, mtbf_s=5000 * 3600, unit_bytes=35e6, model_bytes=5e9,
            storage_bytes_per_s=5e9, link_bytes_per_s=1e9, driver_unit_s=0.005, driver_look_s=0.0003,
            driver_turn_s=4e-6, driver_start_s=0.02, seed=seed,
        )  # fmt: skip
        run = simulate(world, SPEC, keep_events=False)
        assert run.summary.done == world.num_units
        ratios.append(run.makespan_s / run.ideal_s)
    assert sorted(ratios)[2] <= 1.03, ratios


def test_an_allocation_that_ends_is_followed_by_one_that_makes_the_rest() -> None:
    world = World(num_units=100, num_workers=4, unit_s=10, start_s=20, life_s=100, queue_s=60, beat_s=1)
    run = simulate(world, SPEC)
    assert run.summary.done == 100
    assert run.num_lives > 3
    assert run.queued_s == 60 * (run.num_lives - 1)
    assert len(run.lost_work_s) <= 4 * (run.num_lives - 1), "at most the units at hand"
    assert run.makespan_s <= run.num_lives * 100 + run.queued_s


def test_an_allocation_in_which_no_unit_can_be_done_ends_the_run_in_one_line() -> None:
    run = simulate(World(num_units=10, unit_s=500, life_s=400), SPEC)
    assert run.summary.error == "no unit was done within an allocation of 400 s; make smaller units"
    assert run.summary.done == 0


def test_a_node_that_is_taken_away_comes_back() -> None:
    world = World(num_units=400, num_workers=8, workers_per_node=4, unit_s=10, preempt_s=300, away_s=60, start_s=5)
    run = simulate(world, SPEC)
    assert run.summary.done == 400
    assert run.summary.workers_lost >= 4
    assert run.summary.workers_started == run.summary.workers_lost + 8
    assert run.makespan_s > simulate(replace(world, preempt_s=0), SPEC).makespan_s


def test_a_driver_that_needs_longer_for_a_unit_than_the_workers_is_what_a_run_waits_for() -> None:
    world = World(num_units=2000, num_workers=100, unit_s=1, start_s=0, speed_spread=0, slow_workers=0)
    slow = simulate(replace(world, driver_unit_s=0.1), SPEC)
    assert slow.makespan_s >= 200
    assert slow.driver_load == pytest.approx(1, abs=0.05)
    assert simulate(replace(world, driver_unit_s=0.001), SPEC).makespan_s < 25


def test_a_crawling_try_is_doubled_and_the_loser_counts_as_done_twice_not_as_lost() -> None:
    world = World(num_units=300, num_workers=8, unit_s=10, crawling=0.02, speed_spread=0, slow_workers=0, seed=3)
    run = simulate(world, SPEC)
    assert run.summary.rerun > 0
    assert run.spent.doubled_s > 0
    assert run.lost_work_s == []
    assert run.makespan_s < CRAWL * world.unit_s * 3


def test_a_run_without_its_events_is_the_same_run() -> None:
    world = World(num_units=200, num_kills=3, mtbf_s=1e5)
    told: list[tuple[int, int]] = []
    whole = simulate(world, SPEC)
    short = simulate(world, SPEC, keep_events=False, on_done=lambda done, total: told.append((done, total)))
    assert short.events == []
    assert (short.makespan_s, short.summary, short.spent) == (whole.makespan_s, whole.summary, whole.spent)
    assert told[-1] == (200, 200)


# ---------------------------------------------------------------------- the storage


def test_transfers_share_the_bandwidth_equally_and_the_rest_get_what_one_leaves() -> None:
    storage = SimulatedStorage(100.0, 60.0)
    storage.begin(1, 60.0, 0.0)
    assert storage.next_end() == 1.0, "alone it has all that one link can take"
    storage.begin(2, 120.0, 0.5)
    assert storage.next_end() == pytest.approx(1.1), "30 bytes are left, at 50 a second"
    assert storage.take_ended(1.1) == [1]
    assert storage.next_end() == pytest.approx(2.6), "of 120 bytes 30 are there, the others come at 60 a second"
    storage.give_up(2, 1.6)
    assert storage.next_end() is None
    assert storage.bytes_moved == pytest.approx(60 + 60)
    assert storage.most_at_once == 2


@settings(max_examples=200, deadline=None)
@given(
    transfers=st.lists(st.tuples(st.floats(0, 100), st.floats(1, 1000)), min_size=1, max_size=20),
    link=st.sampled_from([0.0, 7.0]),
)
def test_a_storage_moves_what_a_step_by_step_count_of_shares_moves(
    transfers: list[tuple[float, float]], link: float
) -> None:
    """The reference holds the bytes left of each transfer, and lowers all of them from one event to the next."""
    arrivals = sorted((when, number, num_bytes) for number, (when, num_bytes) in enumerate(transfers))
    expected = _shared_out(arrivals, 20.0, link)
    storage, ended = SimulatedStorage(20.0, link), {}
    for when, number, num_bytes in [*arrivals, (1e9, -1, 0.0)]:
        while (at := storage.next_end()) is not None and at <= when:
            ended |= dict.fromkeys(storage.take_ended(at), at)
        if number >= 0:
            storage.begin(number, num_bytes, when)
    assert ended == pytest.approx(expected, abs=1e-3)


def _shared_out(arrivals: list[tuple[float, int, float]], all_together: float, link: float) -> dict[int, float]:
    left: dict[int, float] = {}
    ended: dict[int, float] = {}
    now, waiting = 0.0, list(arrivals)
    while left or waiting:
        rate = min(link or 1e9, all_together / len(left)) if left else 0.0
        first_end = now + min(left.values()) / rate if left else 1e18
        if waiting and waiting[0][0] <= first_end:
            when, number, num_bytes = waiting.pop(0)
        else:
            when, number, num_bytes = first_end, -1, 0.0
        left = {key: num - rate * (when - now) for key, num in left.items()}
        now = when
        for key in [key for key, num in left.items() if num <= 1e-6]:
            ended[key] = now
            del left[key]
        if number >= 0:
            left[number] = num_bytes
    return ended


# ---------------------------------------------------------------------- what thousands of workers cost


def test_thousands_of_workers_are_looked_at_more_rarely() -> None:
    assert look_every_s(1) == look_every_s(500) == LOOK_EVERY_S
    assert look_every_s(16_384) == pytest.approx(16.4, abs=0.1)
    for num in (1, 64, 1000, 100_000):
        assert num / look_every_s(num) <= MAX_LOOKS_PER_S


def test_an_event_of_the_schedule_costs_the_same_for_any_number_of_workers() -> None:
    """A look at all workers for each event would take a hundred times as long for a hundred times as many."""
    few, many = (min(_seconds_a_unit(num) for _ in range(3)) for num in (80, 8000))
    assert many < 20 * few


def _seconds_a_unit(num_workers: int) -> float:
    schedule = Schedule(range(10**6), FanOutSpec(), "life", 0.0)
    todo: list[Action] = schedule.nodes({f"node{number}": 8 for number in range(num_workers // 8)}, 0.0)
    attempts: dict[int, str] = {}
    while todo:
        match todo.pop():
            case StartWorker(worker, _):
                todo += schedule.placed(worker, 0.0) + schedule.ready(worker, 0.0)
            case Submit(worker, _, attempt):
                attempts[worker] = attempt
    assert len(attempts) == num_workers
    schedule.take_events()
    begun = time.process_time()
    for number in range(400):
        worker = number % 80
        [action] = schedule.finished(worker, attempts[worker], {}, 1, 0, 1.0)
        assert isinstance(action, Submit)
        attempts[worker] = action.attempt
    return (time.process_time() - begun) / 400
