"""A question with a deadline, for libraries whose calls have none.

In: seconds, a question as a function. Out: its answer. On disk: nothing.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


def within(seconds: float, ask: Callable[[], Answer]) -> Answer:
    """The answer. Raises TimeoutError if there is none in time, and whatever `ask` raises; then its thread is left to
    itself, and ends with the program."""
    answers: list[Answer] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # for the thread that waits
            errors.append(error)

    thread = threading.Thread(target=run, name="within", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"found no answer within {seconds:.0f} s")
    return answers[0]
