"""Searches that wait for each other are done in one scan, and each gets its own result."""

import threading
import time

import numpy as np
import pytest

from retrieve.scan.nearest import Nearest
from retrieve.serve.together import MOST, Together

VECTORS = np.eye(8, dtype=np.float32)


def scan(queries_QD, k, tick):
    scores = queries_QD @ VECTORS.T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return Nearest(k, np.take_along_axis(scores, rows, axis=1), rows.astype(np.int64), 8, 0)


def until():
    return time.monotonic() + 60


def in_threads(number, ask):
    found = {}

    def run(place):
        try:
            found[place] = ask(place)
        except Exception as error:
            found[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(number)]
    for one in threads:
        one.start()
    return threads, found


def test_all_that_wait_are_searched_in_one_scan_and_get_what_they_get_alone():
    begun, go_on, sizes = threading.Event(), threading.Event(), []

    def slow(queries_QD, k, tick):
        sizes.append(len(queries_QD))
        begun.set()
        assert go_on.wait(60)
        return scan(queries_QD, k, tick)

    together = Together(slow)
    first, one = in_threads(1, lambda place: together.nearest(VECTORS[7], 2, until()))
    assert begun.wait(60)
    others, found = in_threads(6, lambda place: together.nearest(VECTORS[place], place + 1, until()))
    while len(together._waiting) < 6:
        time.sleep(0.001)
    go_on.set()
    for thread in [*first, *others]:
        thread.join(60)
    assert sizes == [1, 6]
    for place, (rows, scores) in found.items():
        alone = scan(VECTORS[place][None], place + 1, None)
        assert rows.tolist() == alone.rows[0].tolist()
        assert scores.tolist() == alone.scores[0].tolist()
    assert one[0][0].tolist() == [7, 0]


def test_more_than_one_scan_may_hold_are_searched_in_several():
    sizes = []

    def counted(queries_QD, k, tick):
        sizes.append(len(queries_QD))
        time.sleep(0.05)
        return scan(queries_QD, k, tick)

    together = Together(counted)
    threads, found = in_threads(MOST + 20, lambda place: together.nearest(VECTORS[place % 8], 1, until()))
    for thread in threads:
        thread.join(60)
    assert max(sizes) <= MOST
    assert sum(sizes) == MOST + 20
    assert all(found[place][0].tolist() == [place % 8] for place in found)


def test_rows_that_are_none_are_left_out():
    together = Together(
        lambda queries, k, tick: Nearest(k, np.array([[0.5, -np.inf]], np.float32), np.array([[3, -1]]), 8, 0)
    )
    rows, scores = together.nearest(VECTORS[0], 2, until())
    assert (rows.tolist(), scores.tolist()) == ([3], [0.5])


def test_a_scan_that_fails_fails_for_all_of_it_and_the_next_goes_on():
    def broken(queries_QD, k, tick):
        raise OSError("the disk is gone")

    together = Together(broken)
    threads, found = in_threads(3, lambda place: together.nearest(VECTORS[0], 1, until()))
    for thread in threads:
        thread.join(60)
    assert [str(one) for one in found.values()] == ["the disk is gone"] * 3
    together._scan = scan
    assert together.nearest(VECTORS[2], 1, until())[0].tolist() == [2]


def test_a_scan_ends_when_nobody_waits_for_it_any_more_and_when_the_server_ends():
    def endless(queries_QD, k, tick):
        while True:
            tick()
            time.sleep(0.001)

    together = Together(endless)
    with pytest.raises(TimeoutError, match="too long"):
        together.nearest(VECTORS[0], 1, time.monotonic() + 0.05)
    threads, found = in_threads(1, lambda place: together.nearest(VECTORS[0], 1, until()))
    together.is_closed = True
    threads[0].join(60)
    assert isinstance(found[0], TimeoutError)


def test_who_waits_for_the_scan_of_another_has_a_deadline_too():
    go_on = threading.Event()
    together = Together(lambda *asked: go_on.wait(60) and scan(*asked))
    threads, _ = in_threads(1, lambda place: together.nearest(VECTORS[0], 1, until()))
    while not together._turn.locked():
        time.sleep(0.001)
    with pytest.raises(TimeoutError, match="other searches"):
        together.nearest(VECTORS[1], 1, time.monotonic() + 0.05)
    assert not together._waiting
    go_on.set()
    threads[0].join(60)
