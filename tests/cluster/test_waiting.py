"""Nobody looks at a silent screen: what a command waits for is told, with the seconds, and not too often."""

import io
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from cluster import waiting as told
from cluster.console import bar, warn
from cluster.waiting import MARK, instead_of_waiting, waited_for, waiting
from shards.disk.home import home

Hear = Callable[[io.StringIO], io.StringIO]


class Terminal(io.StringIO):
    """A text stream that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines at 0.05 and 0.1 seconds, then after twice the time."""
    monkeypatch.setattr(told, "LIVE_S", 0.05)
    monkeypatch.setattr(told, "LINES_S", (0.05, 0.1))
    monkeypatch.setattr(told, "LONG_S", 0.7)
    monkeypatch.setattr(told, "LOOK_S", 0.005)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def hear(monkeypatch: pytest.MonkeyPatch) -> Hear:
    """What goes to standard error from now on; pytest takes the stream before a test, so each says when."""

    def here(stream: io.StringIO) -> io.StringIO:
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return here


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_wait_that_is_over_at_once_is_not_told(hear: Hear) -> None:
    said = hear(io.StringIO())
    with waiting("starting Ray"):
        pass
    time.sleep(0.1)
    assert said.getvalue() == ""
    assert waited_for() == ""


def test_elsewhere_than_on_a_terminal_lines_come_after_twice_the_time(hear: Hear) -> None:
    """At 0.05, 0.1, 0.2, 0.4 and 0.8 seconds: five, however long the machine sleeps between them fewer."""
    said = hear(io.StringIO())
    with waiting("starting Ray"):
        time.sleep(1.1)
    *lines, last = said.getvalue().splitlines()
    assert lines[0] == f"{MARK} starting Ray"
    assert 2 <= len(lines) <= 5
    assert last == f"{MARK} starting Ray: done after 1 s"
    assert "\x1b" not in said.getvalue()


def test_a_short_wait_in_a_log_is_one_line_and_one_that_fails_has_no_end(
    hear: Hear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told, "LINES_S", (0.05, 10.0))
    said = hear(io.StringIO())
    with waiting("loading the program"):
        time.sleep(0.4)
    assert said.getvalue() == f"{MARK} loading the program\n"

    def fail_late() -> None:
        time.sleep(0.8)
        raise ValueError("no model")

    with pytest.raises(ValueError, match="no model"), waiting("loading the model"):
        fail_late()
    assert said.getvalue() == f"{MARK} loading the program\n{MARK} loading the model\n"


def test_the_innermost_wait_is_told_with_its_words_of_that_moment(hear: Hear) -> None:
    said = hear(io.StringIO())
    done = 0
    with waiting("making a data set"):
        with waiting(lambda: f"reading {done} of 9 files"):
            until(lambda: "reading 0 of 9 files" in said.getvalue())
            done = 7
            until(lambda: "reading 7 of 9 files" in said.getvalue())
            assert waited_for().startswith("reading 7 of 9 files")
        until(lambda: "making a data set" in said.getvalue())


def test_seconds_are_told_as_they_pass(hear: Hear) -> None:
    hear(io.StringIO())
    with waiting("starting Ray"):
        until(lambda: waited_for() == "starting Ray (1 s)")


def test_words_from_data_are_shown_and_never_obeyed(hear: Hear) -> None:
    said = hear(io.StringIO())
    with waiting("reading \x1b[2Ja\nb"):
        until(said.getvalue)
    assert said.getvalue().splitlines()[0] == f"{MARK} reading ⟨U+001B⟩[2Ja b"


def test_an_error_ends_the_wait(hear: Hear) -> None:
    hear(io.StringIO())
    with pytest.raises(ValueError, match="no model"), waiting("loading the model"):
        raise ValueError("no model")
    assert waited_for() == ""


def test_a_standard_error_that_is_closed_ends_nothing(hear: Hear) -> None:
    said = hear(io.StringIO())
    said.close()
    with waiting("starting Ray"):
        time.sleep(0.15)
    assert not [thread for thread in threading.enumerate() if thread.name == "waiting" and not thread.daemon]


def test_on_a_terminal_one_line_lives_until_the_wait_is_over_and_lines_stand_above_it(hear: Hear) -> None:
    screen = hear(Terminal())
    with waiting("starting Ray"):
        until(lambda: "starting Ray" in screen.getvalue())
        warn("the disk is nearly full")
    assert "sixfold: the disk is nearly full" in screen.getvalue()
    assert MARK not in screen.getvalue()
    assert screen.getvalue().rstrip().endswith(("\x1b[2K", "\x1b[?25h", "\x1b[1A\x1b[2K")), "the line is gone"


def test_a_display_of_its_own_takes_the_place_of_the_live_line(hear: Hear) -> None:
    screen = hear(Terminal())
    with waiting("making images"), instead_of_waiting():
        time.sleep(0.2)
        assert screen.getvalue() == ""
        assert waited_for() == "making images"


def test_a_bar_is_lines_where_there_is_no_terminal(hear: Hear) -> None:
    said = hear(io.StringIO())
    with bar("verify") as advance:
        advance(3, 7_692)
        until(lambda: f"{MARK} verify: 3 of 7,692" in said.getvalue())


def test_a_long_verb_says_something_within_seconds_of_its_start() -> None:
    """One second on a quiet machine; here others may work beside the test."""
    command = [sys.executable, "-m", "sixfold", "prompts", "recipes/none.yaml"]
    began = time.monotonic()
    running = subprocess.Popen(command, cwd=home(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    first, seconds = running.stderr.readline(), time.monotonic() - began
    running.communicate(timeout=120)
    assert first.startswith((MARK, "sixfold: recipes/none.yaml: no such recipe")), first
    assert seconds < 10
