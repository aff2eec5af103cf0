"""Runs docs/quickstart.ipynb and stores what its cells show: `python -m docs.bench.quickstart`. A test runs it too.

In: the notebook. Out: what each cell prints and the value of its last line, as Jupyter shows them. On disk: the
notebook, with these outputs; what its cells make, in the folder that is given.

A cell that begins with `!` is a command, as in Jupyter; all others are Python.
"""

import ast
import base64
import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shards.disk.home import home

NOTEBOOK = home() / "docs" / "quickstart.ipynb"
DEADLINE_S = 300  # of one command


def run_notebook(
    notebook: Mapping[str, Any], folder: Path, command: Callable[[Sequence[str]], str] | None = None
) -> list[list[dict[str, Any]]]:
    """The outputs of each cell of code. `command` runs a command and returns what it printed, by default as a process.

    Raises what a cell raises, CalledProcessError for a command that fails.
    """
    names: dict[str, Any] = {}
    before = Path.cwd()
    os.chdir(folder)
    try:
        cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
        return [_run_cell(source, names, command or _process) for source in cells]
    finally:
        os.chdir(before)


def _process(words: Sequence[str]) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=DEADLINE_S, env=environment)
    return done.stdout


def _run_cell(source: str, names: dict[str, Any], command: Callable[[Sequence[str]], str]) -> list[dict[str, Any]]:
    printed = io.StringIO()
    value: Any = None
    if source.startswith("!"):
        printed.write(command(shlex.split(source[1:])).replace(f"{Path.cwd()}/", ""))  # a place of this machine
    else:
        body = ast.parse(source).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        with contextlib.redirect_stdout(printed):
            exec(compile(ast.Module(body, []), "cell", "exec"), names)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)})
    if value is not None:
        outputs.append(
            {"data": _shown(value), "execution_count": None, "metadata": {}, "output_type": "execute_result"}
        )
    return outputs


def _shown(value: Any) -> dict[str, Any]:
    data = {"text/plain": [repr(value)]}
    if hasattr(value, "_repr_png_"):
        data["image/png"] = base64.b64encode(value._repr_png_()).decode()
    return data


def main() -> None:
    """Run the notebook in an empty folder and write its outputs into it."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        outputs = iter(run_notebook(notebook, Path(folder)))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = next(outputs)
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
