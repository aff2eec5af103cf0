"""A question with a deadline: its answer, its error, or that there was none in time."""

import threading

import pytest

from cluster.submit.deadline import within


def test_an_answer_and_an_error_are_those_of_the_question() -> None:
    assert within(60.0, lambda: 7) == 7
    assert within(60.0, lambda: None) is None
    with pytest.raises(ZeroDivisionError):
        within(60.0, lambda: 1 / 0)


def test_a_question_without_an_answer_is_not_waited_for() -> None:
    forever = threading.Event()
    with pytest.raises(TimeoutError, match="found no answer within 0 s"):
        within(0.2, lambda: forever.wait(60))
    forever.set()
