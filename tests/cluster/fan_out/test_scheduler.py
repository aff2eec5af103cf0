"""What the schedule promises, without any cluster: time and faults are arguments."""

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cluster.fan_out.scheduler import AVOID_S, MAX_NODE_LOSSES, Action, Drop, KillWorker, Schedule, StartWorker, Submit
from cluster.fan_out.simulate import simulate
from cluster.fan_out.work import FanOutSpec
from cluster.fan_out.world import World

SLOW = "lower sampler.batch or raise cluster.stall_deadline_s"  # as `sixfold generate` advises


class Hands:
    """Carries out actions in the simplest way: workers are ready at once; attempts are ended by the test."""

    def __init__(self, units: object, nodes: dict[str, int] | None = None, **spec: object) -> None:
        self.schedule = Schedule(units, FanOutSpec.model_validate(spec), "life", 0.0, SLOW)  # type: ignore[arg-type]
        self.running: dict[int, Submit] = {}
        self.nodes: dict[int, str] = {}
        self.dropped: list[Drop] = []
        self.killed: list[KillWorker] = []
        self.do(self.schedule.nodes({"a": 2} if nodes is None else nodes, 0.0), 0.0)

    def do(self, actions: list[Action], now: float) -> None:
        for action in actions:
            match action:
                case StartWorker(worker, node):
                    self.nodes[worker] = node
                    self.do(self.schedule.placed(worker, now), now)
                    self.do(self.schedule.ready(worker, now), now)
                case Submit(worker, _, _):
                    assert worker not in self.running, "one attempt per worker at a time"
                    self.running[worker] = action
                case KillWorker(worker, _):
                    self.killed.append(action)
                    self.running.pop(worker, None)
                case Drop():
                    self.dropped.append(action)

    def finish(self, worker: int, now: float) -> None:
        submit = self.running.pop(worker)
        self.do(self.schedule.finished(worker, submit.attempt, {}, 10, 1, now), now)

    def raise_in(self, worker: int, now: float, cause: str = "ValueError: bad") -> None:
        submit = self.running.pop(worker)
        self.do(self.schedule.raised(worker, submit.attempt, cause, now), now)

    def die(self, worker: int, now: float, node_lost: bool = False) -> None:
        self.do(self.schedule.lost(worker, "SIGKILL", now, node_lost), now)

    def finish_all(self, now: float) -> None:
        while self.running:
            self.finish(min(self.running), now)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.schedule.take_events()]


def test_no_units_end_at_once_and_start_no_worker():
    hands = Hands(range(0))
    assert hands.schedule.over
    assert hands.nodes == {}
    assert hands.schedule.summary().exit_code == 0


def test_on_a_node_that_is_to_go_no_unit_is_begun_and_what_it_makes_may_be_finished():
    hands = Hands(range(6), {"a": 2, "b": 1})
    on_a = [worker for worker, node in hands.nodes.items() if node == "a"]
    [on_b] = [worker for worker, node in hands.nodes.items() if node == "b"]
    hands.do(hands.schedule.nodes({"a": 2, "b": 1}, 1.0, leaving=["a"]), 1.0)
    assert hands.killed == [], "both are at work"
    hands.finish(on_a[0], 2.0)
    assert [kill.worker for kill in hands.killed] == [on_a[0]]
    assert hands.running.keys() == {on_a[1], on_b}
    hands.do(hands.schedule.nodes({"b": 1}, 3.0), 3.0)  # the other one was not ready in time
    while hands.running:
        hands.finish(on_b, 4.0)
    assert hands.nodes.keys() == {*on_a, on_b}, "no worker was begun there again"
    summary = hands.schedule.summary()
    assert (summary.done, summary.exit_code, summary.workers_lost) == (6, 0, 1)


def test_a_node_that_comes_for_one_that_is_to_go_is_used_at_once_and_the_notice_is_told_once():
    hands = Hands(range(6), {"a": 2})
    for second in (1.0, 2.0):
        hands.do(hands.schedule.nodes({"a": 2, "c": 2}, second, leaving=["a"]), second)
    assert sorted(hands.nodes.values()) == ["a", "a", "c", "c"]
    told = [event.message for event in hands.schedule.take_events() if event.kind == "warning"]
    assert told == ["node a is to go: no unit is begun there any more"]


def test_a_notice_that_is_taken_back_gives_the_node_its_workers_back():
    hands = Hands(range(6), {"a": 1})
    hands.do(hands.schedule.nodes({"a": 1}, 1.0, leaving=["a"]), 1.0)
    hands.finish(0, 2.0)
    assert not hands.running
    assert not hands.schedule.over
    hands.do(hands.schedule.nodes({"a": 1}, 3.0), 3.0)
    assert list(hands.running) == [1]


def test_workers_are_no_more_than_units():
    assert len(Hands(range(1), {"a": 8}).nodes) == 1


def test_b20_units_are_pulled_only_a_few_ahead_of_the_workers():
    pulled = 0

    def units() -> Iterator[int]:
        nonlocal pulled
        for unit in range(10_000):
            pulled += 1
            yield unit

    hands = Hands(units())
    assert pulled <= 5
    for step in range(1000):
        hands.finish(min(hands.running), step)
        assert len(hands.running) == 2
    assert pulled <= 1000 + 5


def test_b8_a_unit_that_always_kills_its_process_is_quarantined_after_k_attempts_and_named():
    hands = Hands(range(5), {"a": 1}, attempts=3)
    now = 0.0
    while not hands.schedule.over:
        now += 1
        worker = min(hands.running)
        if hands.running[worker].unit == 3:
            hands.die(worker, now)
        else:
            hands.finish(worker, now)
    summary = hands.schedule.summary()
    assert [(bad.unit, bad.failures) for bad in summary.quarantined] == [(3, 3)]
    assert "SIGKILL" in summary.quarantined[0].cause
    assert summary.done == 4
    assert summary.exit_code == 3


def test_a_failed_unit_goes_to_another_worker():
    hands = Hands(range(10))
    assert hands.running[0].unit == 0
    hands.raise_in(0, 1.0)
    assert hands.running[0].unit != 0, "its own worker takes a fresh unit"
    hands.finish(1, 2.0)
    assert hands.running[1].unit == 0


def test_b2_losing_nodes_is_not_the_units_fault_up_to_a_bound():
    hands = Hands(range(1), {"a": 1}, attempts=1)
    for number in range(MAX_NODE_LOSSES - 1):
        hands.die(number, float(number), node_lost=True)
        assert not hands.schedule.over
    hands.die(MAX_NODE_LOSSES - 1, 1e3, node_lost=True)
    assert hands.schedule.summary().quarantined[0].unit == 0


def test_a_node_that_vanishes_takes_its_workers_and_their_units_go_elsewhere():
    hands = Hands(range(4), {"a": 1, "b": 1}, attempts=1)
    on_a = next(worker for worker, node in hands.nodes.items() if node == "a")
    lost_unit = hands.running[on_a].unit
    hands.do(hands.schedule.nodes({"b": 1}, 1.0), 1.0)
    assert on_a not in hands.running
    seen = []
    while hands.running:
        seen.append(hands.running[min(hands.running)].unit)
        hands.finish(min(hands.running), 2.0)
    assert lost_unit in seen
    assert hands.schedule.summary().exit_code == 0


def test_b19_new_room_is_used_as_it_comes():
    hands = Hands(range(100), {"a": 1})
    assert len(hands.running) == 1
    hands.do(hands.schedule.nodes({"a": 1, "b": 3}, 1.0), 1.0)
    assert len(hands.running) == 4
    assert sorted(hands.nodes.values()) == ["a", "b", "b", "b"]


def test_b7_a_worker_without_a_beat_is_killed_and_its_unit_retried():
    hands = Hands(range(2), stall_deadline_s=5)
    first = hands.running[0]
    hands.do(hands.schedule.heard(1, hands.running[1].attempt, 1, 4, 0, 4.0), 4.0)
    hands.do(hands.schedule.tick(6.0), 6.0)
    assert [killed.worker for killed in hands.killed] == [0]
    assert hands.killed[0].reason == (
        "no progress for 6 s (stall_deadline_s is 5); if the machine is that slow, lower sampler.batch or raise "
        "cluster.stall_deadline_s"
    )
    again = next(submit for submit in hands.running.values() if submit.unit == first.unit)
    assert again.attempt != first.attempt
    hands.finish_all(7.0)
    assert hands.schedule.summary().exit_code == 0


def test_a_stalled_worker_is_told_of_in_words_that_hold_for_any_work():
    schedule = Schedule(range(1), FanOutSpec(stall_deadline_s=5), "life", 0.0)
    schedule.nodes({"a": 1}, 0.0)
    schedule.placed(0, 0.0)
    schedule.ready(0, 0.0)
    (killed,) = [action for action in schedule.tick(6.0) if isinstance(action, KillWorker)]
    assert killed.reason.endswith("; if the machine is that slow, raise cluster.stall_deadline_s")


def test_beats_of_images_under_way_are_at_most_an_event_a_second():
    hands = Hands(range(1), {"a": 1})
    hands.kinds()
    attempt = hands.running[0].attempt
    for beat in range(1, 101):  # ten seconds, with a beat each tenth of one
        hands.do(hands.schedule.heard(0, attempt, beat, 0, 0, beat / 10, under_way=beat / 10), beat / 10)
    events = hands.schedule.take_events()
    assert 9 <= len(events) <= 11
    assert events[-1].under_way > 9
    hands.do(hands.schedule.heard(0, attempt, 101, 4, 0, 10.1, under_way=0.0), 10.1)
    assert [event.done for event in hands.schedule.take_events()] == [4], "images that are done are told at once"


def test_what_it_takes_to_start_is_told_apart_from_the_work():
    schedule = Schedule(range(1), FanOutSpec(), "life", 0.0)
    schedule.nodes({"a": 1}, 5.0)
    assert schedule.starting() == (1, 0)
    schedule.placed(0, 10.0)
    assert schedule.starting() == (0, 1)
    (submit,) = schedule.ready(0, 40.0)
    assert isinstance(submit, Submit)
    assert schedule.starting() == (0, 0)
    schedule.finished(0, submit.attempt, {}, 10, 0, 60.0)
    assert (schedule.summary().start_s, schedule.summary().seconds) == (40.0, 60.0)


def test_another_thread_may_ask_what_starts_while_workers_come_and_go():
    schedule = Schedule(range(10_000), FanOutSpec(), "life", 0.0)
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            schedule.starting()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    with ThreadPoolExecutor(1) as others:
        asking = others.submit(ask)
        try:
            for turn in range(20):
                schedule.nodes({f"n{turn}": 300}, float(turn))
        finally:
            stop.set()
            sys.setswitchinterval(before)
        asking.result()


def test_a_unit_that_would_fail_again_is_left_out_at_once():
    hands = Hands(range(5), {"a": 1}, attempts=3)
    hands.finish(0, 1.0)
    submit = hands.running.pop(0)
    hands.do(hands.schedule.raised(0, submit.attempt, "no such model", 2.0, again=False), 2.0)
    while hands.running:
        hands.finish(0, 3.0)
    summary = hands.schedule.summary()
    assert [(bad.unit, bad.failures, bad.cause) for bad in summary.quarantined] == [(1, 1, "no such model")]
    assert (summary.done, summary.exit_code, hands.killed) == (4, 3, [])


def test_a_run_whose_first_units_would_all_fail_again_ends_with_their_cause():
    hands = Hands(range(100), {"a": 1})
    for number in range(3):
        assert not hands.schedule.over
        submit = hands.running.pop(0)
        hands.do(hands.schedule.raised(0, submit.attempt, f"no data {number}", 1.0, again=False), 1.0)
    assert hands.schedule.over
    summary = hands.schedule.summary()
    assert summary.error == "the first 3 units failed, and would fail again; the last cause: no data 2"
    assert summary.exit_code == 1


def test_b7_an_answer_without_a_new_beat_is_no_progress():
    hands = Hands(range(1), {"a": 1}, stall_deadline_s=5)
    attempt = hands.running[0].attempt
    for now in range(1, 6):
        hands.do(hands.schedule.heard(0, attempt, 0, 0, 0, float(now)), float(now))
    hands.do(hands.schedule.tick(5.5), 5.5)
    assert [killed.worker for killed in hands.killed] == [0]


def test_b15_a_slow_constructor_is_measured_by_the_start_deadline_only():
    schedule = Schedule(range(3), FanOutSpec(start_deadline_s=600, stall_deadline_s=5), "life", 0.0)
    (start,) = [action for action in schedule.nodes({"a": 1}, 0.0) if isinstance(action, StartWorker)]
    schedule.placed(start.worker, 1.0)
    assert schedule.tick(599.0) == []
    actions = schedule.tick(602.0)
    assert any(isinstance(action, KillWorker) and "start_deadline_s" in action.reason for action in actions)


def test_b14_a_constructor_that_fails_everywhere_ends_the_run_with_the_cause():
    schedule = Schedule(range(3), FanOutSpec(), "life", 0.0)
    actions = schedule.nodes({"a": 2, "b": 2}, 0.0)
    starts = 0
    while not schedule.over:
        start = next(action for action in actions if isinstance(action, StartWorker))
        starts += 1
        actions = [action for action in actions if action is not start]
        actions += schedule.refused(start.worker, "no weights at /models/x", float(starts))
    assert starts <= 6
    assert "no weights at /models/x" in str(schedule.summary().error)
    assert schedule.summary().exit_code == 1


def test_b14_a_node_where_constructors_fail_is_avoided_and_tried_again_later():
    schedule = Schedule(range(100), FanOutSpec(), "life", 0.0)
    nodes = {"bad": 2, "good": 1}
    todo = schedule.nodes(nodes, 0.0)
    ready, started_on_bad = 0, 0
    while todo:
        action = todo.pop(0)
        if isinstance(action, StartWorker) and action.node == "bad":
            started_on_bad += 1
            todo += schedule.refused(action.worker, "no GPU driver", 1.0)
        elif isinstance(action, StartWorker):
            ready += 1
            todo += schedule.ready(action.worker, 1.0)
    assert ready == 1
    assert started_on_bad <= 3
    assert not schedule.over
    assert not any(isinstance(action, StartWorker) for action in schedule.nodes(nodes, AVOID_S - 5))
    assert any(isinstance(action, StartWorker) for action in schedule.nodes(nodes, AVOID_S + 5))


def test_b14_workers_that_never_load_in_time_end_the_run_also_where_a_node_is_always_open_again():
    """Each is killed long after the one before, so that never all nodes are avoided at once."""
    schedule = Schedule(range(100), FanOutSpec(start_deadline_s=1200), "life", 0.0)
    nodes = {f"node{number}": 1 for number in range(4)}
    began: dict[int, float] = {}
    now, todo = 0.0, schedule.nodes(dict(list(nodes.items())[:1]), 0.0)
    while not schedule.over and now < 1e6:
        for action in todo:
            if isinstance(action, StartWorker):
                began[action.worker] = now
                schedule.placed(action.worker, now)
        now += 100.0
        todo = schedule.nodes(dict(list(nodes.items())[: 1 + int(now // 400)]), now) + schedule.tick(now)
    assert len(began) <= 3 * 4 + 4
    said = str(schedule.summary().error)
    assert said.startswith(
        "12 workers could not start, and none could; the last cause: its model was not loaded within"
    )
    assert said.endswith("mend that, then run the same command again")


def test_when_every_unit_fails_the_run_ends_early_with_the_cause():
    hands = Hands(range(10_000), {"a": 1}, attempts=2, give_up_after=3)
    tries = 0
    while not hands.schedule.over:
        tries += 1
        hands.raise_in(min(hands.running), float(tries), "OSError: no space left on device")
    assert tries <= 3 * 2 + 1
    assert "no space left" in str(hands.schedule.summary().error)


def test_a_worker_on_which_two_different_units_fail_is_replaced():
    hands = Hands(range(10), {"a": 1})
    hands.raise_in(0, 1.0)
    assert hands.killed == []
    hands.raise_in(0, 2.0)
    assert [killed.worker for killed in hands.killed] == [0]
    assert 1 in hands.running


def test_b18_a_straggler_is_run_again_elsewhere_and_the_first_to_finish_wins():
    hands = Hands(range(8), straggler_factor=3)
    slow = hands.running[0]
    for now in range(1, 8):
        if hands.running[1].unit != slow.unit:
            hands.finish(1, float(now))
        hands.do(hands.schedule.tick(now + 0.1), now + 0.1)
    again = hands.running[1]
    assert again.unit == slow.unit
    assert again.attempt != slow.attempt
    hands.finish(1, 9.0)
    assert hands.dropped == [Drop(0, slow.attempt)]
    hands.finish_all(10.0)
    assert hands.schedule.over
    assert hands.schedule.summary().rerun == 1
    assert hands.schedule.summary().done == 8


def test_b18_when_nothing_is_left_to_hand_out_an_idle_worker_gets_the_oldest_late_unit_sooner():
    hands = Hands(range(9), {"a": 3}, straggler_factor=4)
    for now in (10.0, 20.0):
        for worker in (0, 1, 2):
            hands.finish(worker, now)
    hands.finish(0, 30.0)
    hands.do(hands.schedule.tick(34.0), 34.0)
    assert set(hands.running) == {1, 2}, "14 s are no more than 1.5 medians of 10 s"
    oldest = hands.running[1]
    hands.do(hands.schedule.tick(36.0), 36.0)
    assert hands.running[0].unit == oldest.unit, "one idle worker, one second try"
    hands.do(hands.schedule.tick(37.0), 37.0)
    hands.finish(0, 38.0)
    assert hands.dropped == [Drop(1, oldest.attempt)]
    hands.finish(2, 39.0)
    assert hands.schedule.over
    assert hands.schedule.summary().rerun == 1


def test_while_units_are_left_a_late_one_is_no_straggler_yet():
    hands = Hands(range(100), {"a": 3}, straggler_factor=4)
    for now in (10.0, 20.0, 30.0, 38.0):
        hands.finish(0, now)
        hands.finish(1, now)
    hands.do(hands.schedule.tick(39.0), 39.0)
    assert hands.schedule.summary().rerun == 0
    hands.do(hands.schedule.tick(41.0), 41.0)
    assert hands.schedule.summary().rerun == 1, "4 medians of 10 s"


def test_c1_a_drain_hands_out_nothing_then_asks_then_gives_up_all_within_drain_s():
    hands = Hands(range(10), drain_s=10)
    hands.do(hands.schedule.drain("SIGTERM", 1.0), 1.0)
    hands.finish(0, 2.0)
    assert 0 not in hands.running
    hands.do(hands.schedule.tick(5.9), 5.9)
    assert hands.dropped == []
    hands.do(hands.schedule.tick(6.1), 6.1)
    assert [drop.worker for drop in hands.dropped] == [1]
    assert not hands.schedule.over
    hands.do(hands.schedule.tick(9.1), 9.1)
    assert hands.schedule.over
    assert hands.schedule.summary().exit_code == 75


def test_a_drain_that_comes_when_all_is_done_changes_nothing():
    hands = Hands(range(2))
    hands.finish(0, 1.0)
    hands.do(hands.schedule.drain("SIGTERM", 1.5), 1.5)
    hands.finish(1, 2.0)
    assert hands.schedule.over
    assert hands.schedule.summary().exit_code == 0


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ({"a": 0}, "no node has room for a worker of 1 cores and 1.0 GPUs"),
        ({}, "the cluster has no living node"),
    ],
)
def test_missing_room_is_said_after_a_minute_and_waited_for_until_the_start_deadline(nodes: dict[str, int], said: str):
    schedule = Schedule(range(3), FanOutSpec(start_deadline_s=600, gpus_per_worker=1), "life", 0.0)
    schedule.nodes(nodes, 0.0)
    schedule.tick(59.0)
    assert not schedule.take_events()
    schedule.tick(61.0)
    schedule.tick(599.0)
    [event] = schedule.take_events()
    assert (event.kind, event.at_s) == ("warning", 61.0)
    assert event.message.startswith(f"{said}; this run waits 600 s for one; ")
    assert not schedule.over
    schedule.tick(601.0)
    assert str(schedule.summary().error).startswith(f"{said} since 600 s; ")


def test_a_worker_whose_process_does_not_begin_is_named_after_a_minute_and_one_that_loads_is_not():
    schedule = Schedule(range(3), FanOutSpec(workers=2), "life", 0.0)
    schedule.nodes({"a": 2}, 0.0)
    schedule.placed(0, 1.0)
    schedule.tick(59.0)
    schedule.take_events()
    schedule.tick(61.0)
    schedule.tick(200.0)
    [event] = schedule.take_events()
    assert (event.kind, event.worker) == ("warning", 1)
    assert "worker 1: no process of it has begun for 60 s; `ray status`" in event.message


def test_two_processes_that_end_before_they_have_begun_end_the_run_with_the_cause():
    schedule = Schedule(range(3), FanOutSpec(workers=1), "life", 0.0)
    schedule.nodes({"a": 1}, 0.0)
    schedule.refused(0, "its process (pid 7) ended before it had begun (bash: no such file)", 1.0)
    assert not schedule.over
    schedule.refused(1, "its process (pid 8) ended before it had begun (bash: no such file)", 2.0)
    assert "(pid 8) ended before it had begun (bash: no such file)" in str(schedule.summary().error)


def test_a_node_where_no_worker_can_ever_start_is_avoided_at_once():
    hands = Hands(range(9), {"a": 1, "b": 1})
    hands.die(1, 1.0)  # a new one starts on b
    hands.do(hands.schedule.refused(2, "Ray tried five times", 2.0, for_good=True), 2.0)
    assert [node for _, node in sorted(hands.nodes.items())] == ["a", "b", "b"]
    assert not hands.schedule.over
    hands.finish_all(3.0)
    assert hands.schedule.summary().exit_code == 0


def test_the_events_of_a_unit_tell_its_whole_story():
    hands = Hands(range(1), {"a": 1}, attempts=2)
    hands.raise_in(0, 1.0)
    hands.finish(0, 2.0)
    assert [kind for kind in hands.kinds() if kind.startswith("unit")] == [
        "unit_started",
        "unit_failed",
        "unit_started",
        "unit_done",
    ]


@pytest.mark.parametrize("kills", [0, 32])
def test_c4_64_simulated_workers_end_within_3_percent_of_the_ideal(kills):
    """Benchmark C4 in small: half-speed and crawling workers, kills; a kill loses at most the unit at hand."""
    world = World(num_units=64 * 110, num_kills=kills, crawling=0.001)
    outcome = simulate(world, FanOutSpec(stall_deadline_s=1e6))
    assert outcome.makespan_s / outcome.ideal_s <= 1.03
    assert outcome.summary.done == world.num_units
    assert outcome.most_in_flight <= 64


# a poisoned unit that also crawls: both of its tries die
@example(
    num_units=66, num_workers=11, kills=0, node_losses=0, crawling=0.05, poison=frozenset({65}), attempts=1, seed=1
)
@settings(max_examples=60, deadline=None)
@given(
    num_units=st.integers(0, 120),
    num_workers=st.integers(1, 12),
    kills=st.integers(0, 30),
    node_losses=st.integers(0, 5),
    crawling=st.sampled_from([0.0, 0.05]),
    poison=st.frozensets(st.integers(0, 119), max_size=4),
    attempts=st.integers(1, 4),
    seed=st.integers(0, 10_000),
)
def test_b1_whatever_dies_every_unit_is_done_or_named(
    num_units, num_workers, kills, node_losses, crawling, poison, attempts, seed
):
    """Nothing is lost, nothing is done and quarantined at once, attempts are bounded, the run ends."""
    world = World(
        num_units=num_units, num_workers=num_workers, unit_s=10, start_s=20, crawling=crawling, num_kills=kills,
        num_node_losses=node_losses, workers_per_node=4, poison=poison, beat_s=1, seed=seed,
    )  # fmt: skip
    spec = FanOutSpec(attempts=attempts, stall_deadline_s=1e6, give_up_after=10_000)
    outcome = simulate(world, spec)
    assert outcome.summary.error is None
    bad = {unit.unit for unit in outcome.summary.quarantined}
    done = {event.unit for event in outcome.events if event.kind == "unit_done"}
    assert done | bad == set(range(num_units))
    assert not done & bad
    assert poison & set(range(num_units)) <= bad
    assert len(done) == outcome.summary.done
    # one more when the second try of a straggler was running at the last failure
    assert all(attempts <= unit.failures <= attempts + 1 for unit in outcome.summary.quarantined)
    ids = [event.attempt for event in outcome.events if event.kind == "unit_started"]
    assert len(ids) == len(set(ids))
    assert outcome.most_in_flight <= num_workers
