"""The notebook runs from an empty folder as it is printed."""

import json
from collections.abc import Sequence
from pathlib import Path

from docs.bench.quickstart import NOTEBOOK, run_notebook
from tests.support import warm


def test_the_quickstart_notebook_runs_and_shows_what_it_says(tmp_path: Path) -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))

    def command(words: Sequence[str]) -> str:
        assert words[0] == "sixfold"
        child = warm.start(["-m", *words], tmp_path)
        out, err = child.communicate(200)
        assert child.returncode == 0, err
        return out

    outputs = run_notebook(notebook, tmp_path, command)
    printed = "".join(line for cell in outputs for output in cell for line in output.get("text", ()))
    assert "100 images of zero, one, two" in printed
    assert "3 images made again: 3 with the same bytes" in printed
    shown = [output["data"] for cell in outputs for output in cell if "data" in output]
    assert ["image/png" in data for data in shown] == [True, True], "the grid and one sample"
    stored = [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(stored), "run `python -m docs.bench.quickstart`, so that the page shows its pictures"
