"""A short question to a program: an answer, or why there is none, within the deadline."""

import os
import sys
import time
from pathlib import Path

import pytest

from cluster.process.ask import MAX_BYTES, Answer, ask


def python(program: str, within_s: float = 30.0, **environ: str) -> Answer:
    return ask([sys.executable, "-c", program], within_s, {**os.environ, **environ})


def test_an_answer_is_what_the_program_printed() -> None:
    assert python("print('fine')") == Answer("fine\n")


def test_the_program_has_the_environment_that_it_is_given_and_no_input() -> None:
    assert python("import os; print(os.environ['MINE'], os.read(0, 9))", MINE="7").said == ("7 b''\n")


@pytest.mark.parametrize(
    ("program", "trouble"),
    [
        ("import sys; sys.exit('no\\x1b[31m\\nway')", "ended with 1: way"),
        ("import sys; sys.exit(9)", "ended with 9: it says nothing"),
        ("import os; os.kill(os.getpid(), 15)", "was ended by signal 15: it says nothing"),
        ("import sys; sys.exit('key=x token=abcdefgh')", "ended with 1: key=x token=[secret]"),
    ],
)
def test_trouble_is_told_in_one_line(program: str, trouble: str) -> None:
    assert python(program).trouble == trouble


def test_a_program_that_is_not_there_or_is_none_is_trouble(tmp_path: Path) -> None:
    assert "No such file" in ask([str(tmp_path / "none")], 5, {}).trouble
    (tmp_path / "text").write_text("hello")
    assert "Permission denied" in ask([str(tmp_path / "text")], 5, {}).trouble


def test_the_deadline_holds_though_what_it_started_keeps_the_output_open() -> None:
    began = time.monotonic()
    program = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).wait()"
    assert python(program, 1.0).trouble == "no answer within 1 s"
    assert time.monotonic() - began < 10


def test_of_a_long_answer_the_beginning_is_kept() -> None:
    assert len(python(f"print('x' * {3 * MAX_BYTES})").said) == MAX_BYTES
