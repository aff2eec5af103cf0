"""The page on large runs is what its program writes, and the program runs in miniature."""

import json
import shutil
from pathlib import Path

import pytest

from docs.bench.scaling import COMMAND, HOME, NUMBERS, PAGE, PARTS, PICTURE, main, section

COMPUTED = ("large", "units", "faults", "limits")


def test_every_part_runs_in_miniature_and_is_written_as_it_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(HOME / PAGE, tmp_path)
    assert main(["--quick", "--parts", ",".join(COMPUTED), "--out", str(tmp_path)]) == 0
    printed, page = capsys.readouterr().out, (tmp_path / PAGE).read_text()
    known = json.loads((tmp_path / NUMBERS).read_text())
    assert set(known) == set(COMPUTED)
    for part in COMPUTED:
        begin, end = f"<!-- {part}: written by `{COMMAND}` -->\n", f"\n<!-- /{part} -->"
        assert page.partition(begin)[2].partition(end)[0] in printed


@pytest.mark.torture  # starts Ray twice: a minute
def test_the_driver_and_real_runs_are_measured_in_miniature(tmp_path: Path) -> None:
    shutil.copy(HOME / PAGE, tmp_path)
    assert main(["--quick", "--parts", "driver,real", "--out", str(tmp_path)]) == 0
    known = json.loads((tmp_path / NUMBERS).read_text())
    assert abs(known["real"]["rows"][0]["error"]) < 0.3
    assert known["driver"]["rows"][0]["unit_s"] > 0


def test_the_page_has_all_parts_as_their_numbers_tell_them() -> None:
    page, known = (HOME / PAGE).read_text(), json.loads((HOME / NUMBERS).read_text())
    assert set(known) == set(PARTS)
    assert f"({PICTURE})" in page
    assert (HOME / PICTURE).stat().st_size > 10_000
    for part in PARTS:
        assert section(part, known[part]["rows"], known[part]) in page, f"run `{COMMAND} --again`"
