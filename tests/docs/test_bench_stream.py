"""The streaming benchmark runs in miniature, and what it prints is what it writes. No speed is judged here."""

import contextlib
import io
import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

from docs.bench import page
from docs.bench.stream import HOME, NUMBERS, main
from docs.bench.streaming import FAST, OURS, TORCHVISION, TORCHVISION_UINT8
from docs.bench.tiles import HEIGHT_PX, WIDTH_PX, tile


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("docs")
    shutil.copy(HOME / page.PAGE, out)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["--quick", "--pictures", str(out / "pictures"), "--out", str(out)]) == 0
    return printed.getvalue(), out


def test_every_side_is_measured_and_what_did_not_run_is_named(whole_run: tuple[str, Path]) -> None:
    printed, out = whole_run
    row = json.loads((out / NUMBERS).read_text())["S1"]
    figures = {line["what"]: line["figures"] for line in row["lines"]}
    for side in (OURS, FAST, TORCHVISION, TORCHVISION_UINT8):
        assert all(sample > 0 for samples in figures[side].values() for sample in samples)
        assert f"| {side} |" in printed
    assert all(verdict["met"] is None for verdict in row["verdicts"])
    assert "litData: not run: not installed" in printed
    assert socket.gethostname() not in printed
    assert str(out) not in printed


def test_the_page_holds_what_was_printed(whole_run: tuple[str, Path]) -> None:
    printed, out = whole_run
    begin, end = "<!-- S1: written by `make bench-stream` -->\n", "\n<!-- /S1 -->"
    written = (out / page.PAGE).read_text()
    assert printed.rstrip("\n") == written.partition(begin)[2].partition(end)[0]
    untouched = (HOME / page.PAGE).read_text()
    assert written.partition(begin)[0] == untouched.partition(begin)[0]
    assert written.partition(end)[2] == untouched.partition(end)[2]


def test_the_pictures_are_all_different_and_the_same_each_time() -> None:
    pictures = [tile(number) for number in range(12)]
    assert {picture.shape for picture in pictures} == {(HEIGHT_PX, WIDTH_PX, 3)}
    assert len({picture.tobytes() for picture in pictures}) == 12
    assert all(np.array_equal(picture, tile(number)) for number, picture in enumerate(pictures))
