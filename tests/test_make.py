"""What `make` does to a machine: it sets up the environment of the checkout, wherever that lies, and no other."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from shards.disk.home import home

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed here")
# where packages would go instead, for pip and for uv
ELSEWHERE = {
    **dict.fromkeys(("VIRTUAL_ENV", "CONDA_PREFIX", "UV_PYTHON", "UV_PROJECT_ENVIRONMENT", "UV_TARGET"), "/elsewhere"),
    **dict.fromkeys(("UV_PREFIX", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PYTHONHOME"), "/elsewhere"),
    **dict.fromkeys(("UV_SYSTEM_PYTHON", "UV_BREAK_SYSTEM_PACKAGES", "PIP_USER", "PIP_REQUIRE_VIRTUALENV"), "1"),
}
TOOLS = ("img2dataset", "clip-client")
LOCKS = ("requirements.lock", "requirements-gpu.lock", *(f"requirements-{tool}.lock" for tool in TOOLS))
FILES = ("Makefile", "pyproject.toml", *LOCKS)  # that `make` reads
SET_UP = [["pip", "sync"], ["pip", "install"], *2 * [["venv", "--quiet"], ["pip", "sync"]]]  # what uv is asked for
# Simulated: a Python and a uv that write down how they were called, since a real set-up takes gigabytes.
RECORDER = """#!{python} -I
import json, os, shutil, sys
from pathlib import Path
with open({log!r}, "a") as log:
    log.write(json.dumps([sys.argv, dict(os.environ)]) + "\\n")
if sys.argv[1:3] == ["-m", "venv"]:
    Path(".venv/bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(__file__, ".venv/bin/python")
if sys.argv[1:4] == ["-m", "pip", "install"]:
    shutil.copy(__file__, ".venv/bin/uv")
if sys.argv[1] == "venv":
    Path(sys.argv[-1]).mkdir(parents=True, exist_ok=True)
"""


class Checkout:
    """A folder with our Makefile and locks, and what was called there."""

    def __init__(self, folder: Path, tools: Path) -> None:
        folder.mkdir(parents=True)
        tools.mkdir()
        for name in FILES:
            shutil.copy(home() / name, folder)
        self.folder = folder
        self.log = tools / "calls.jsonl"
        self.python = tools / "python"
        python = os.path.realpath("/proc/self/exe")
        self.python.write_text(RECORDER.format(python=python, log=str(self.log)))
        self.python.chmod(0o755)

    def make(self, **environment: str) -> list[list[str]]:
        """The words of each call during `make test`. None of them may have heard of an environment elsewhere."""
        self.log.unlink(missing_ok=True)
        said = subprocess.run(
            ["make", "test", f"PYTHON={self.python}"],
            cwd=self.folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert said.returncode == 0, said.stdout + said.stderr
        calls = [json.loads(line) for line in self.log.read_text().splitlines()]
        assert not {name for _, heard in calls for name in heard} & ELSEWHERE.keys()
        return [words for words, _ in calls]


def set_ups(calls: list[list[str]]) -> int:
    return sum(words[1:3] == ["-m", "venv"] for words in calls)


@pytest.mark.parametrize("name", ["plain", "with a blank", "Übung 'one' $HOME \"two\""])
def test_set_up_touches_the_environment_of_the_checkout_alone_wherever_it_lies(tmp_path: Path, name: str) -> None:
    calls = Checkout(tmp_path / name, tmp_path / "tools").make(**ELSEWHERE)
    assert set_ups(calls) == 1
    installs = [words for words in calls if words[0].endswith("/uv")]
    assert [words[1:3] for words in installs] == SET_UP
    pythons = [words[words.index("--python") + 1] for words in installs]
    own = [[".venv/bin/python", f".tools/{tool}/bin/python"] for tool in TOOLS]
    assert pythons == [".venv/bin/python", ".venv/bin/python", *own[0], *own[1]]
    assert [words[-1] for words in installs[2::2]] == [f".tools/{tool}" for tool in TOOLS]
    assert [words[-1] for words in installs[3::2]] == [f"requirements-{tool}.lock" for tool in TOOLS]
    assert calls[-1][:3] == [".venv/bin/python", "-m", "pytest"]


def test_what_is_set_up_is_not_set_up_again(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "here", tmp_path / "tools")
    checkout.make()
    assert [words[1:3] for words in checkout.make()] == [["-m", "pytest"]]


def test_an_environment_without_pip_is_completed(tmp_path: Path) -> None:
    """It was left by a set-up that was interrupted."""
    checkout = Checkout(tmp_path / "here", tmp_path / "tools")
    half = checkout.folder / ".venv" / "bin" / "python"
    half.parent.mkdir(parents=True)
    half.write_text("#!/bin/sh\nexit 1\n")
    half.chmod(0o755)
    assert set_ups(checkout.make()) == 1


def test_a_checkout_that_was_moved_is_set_up_again(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "old", tmp_path / "tools")
    checkout.make()
    checkout.folder = checkout.folder.rename(tmp_path / "new")
    assert [words[1:3] for words in checkout.make() if words[0].endswith("/uv")] == SET_UP


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder with our Makefile, recipes of ours and one of somebody's own."""
    for name in FILES:
        shutil.copy(home() / name, tmp_path)
    shutil.copytree(home() / "recipes", tmp_path / "recipes")
    (tmp_path / "mine.yaml").write_text('seed: 0\nname: "my-birds"  # of the garden\nbase: other.yaml\n')
    return tmp_path


def would_run(folder: Path, *words: str) -> list[str]:
    """The programs of ours that `make` would call, or why it would not."""
    said = subprocess.run(["make", "-n", *words], cwd=folder, capture_output=True, text=True, timeout=100)
    lines = [line.removeprefix(".venv/bin/") for line in (said.stdout + said.stderr).splitlines()]
    return [
        " ".join(line.split()) for line in lines if line.startswith(("sixfold ", "python -m sandbox")) or "***" in line
    ]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("generate", "sixfold generate recipes/sandbox.yaml --scale 6x"),
        ("generate RECIPE=mine.yaml OUT=/a", "sixfold generate mine.yaml --scale 6x --out /a"),
        ("generate RECIPE=none.yaml", "sixfold generate none.yaml --scale 6x"),
        ("train RECIPE=mine.yaml OUT=/a", "sixfold train mine.yaml --out /a"),
        ("sweep SWEEP=mine.yaml OUT=/a", "sixfold sweep mine.yaml --out /a"),
        ("train RECIPE=mine.yaml OUT=/a CLUSTER=slurm", "sixfold submit train mine.yaml --to slurm --out /a"),
        ("edit RECIPE=mine.yaml OUT=/a", "sixfold edit mine.yaml --scale 1x --out /a"),
        ("retrieve RECIPE=mine.yaml", "sixfold retrieve mine.yaml --scale 6x"),
        ("show RECIPE=mine.yaml", "sixfold show out/my-birds"),
        ("verify", "sixfold verify out/sandbox"),
        ("verify OUT=/a", "sixfold verify /a"),
    ],
)
def test_a_target_is_one_call_with_the_folder_that_was_given_or_none(written: Path, words: str, line: str) -> None:
    assert would_run(written, *words.split()) == [line]


def test_a_folder_of_a_recipe_that_is_not_there_is_never_guessed(written: Path) -> None:
    (told,) = would_run(written, "show", "RECIPE=none.yaml")
    assert "none.yaml: found no name of a recipe; give OUT=FOLDER" in told


@pytest.mark.parametrize(
    ("words", "before"),
    [
        ("train", ["python -m sandbox.build --data out/real"]),
        ("train RECIPE=recipes/sandbox-vit.yaml", ["python -m sandbox.build --data out/real"]),
        ("sweep", ["python -m sandbox.build --data out/real"]),
        ("edit", ["python -m sandbox.build --data out/real"]),
        (
            "retrieve",
            [
                "python -m sandbox.build --data out/real",
                "python -m sandbox.build --pool out/pool",
                "sixfold embed out/pool --clip sandbox/models/clip --images",
            ],
        ),
    ],
)
def test_what_the_sandboxs_recipes_read_is_made_before(written: Path, words: str, before: list[str]) -> None:
    assert would_run(written, *words.split())[:-1] == before


def test_real_sets_and_pool_are_looked_at_again_once_the_sandbox_is_newer(written: Path) -> None:
    (written / "sandbox").mkdir()
    (written / "sandbox" / "sets.py").touch()
    made = [written / "out" / name for name in ("real/real-train/00000_stats.json", "pool/embeddings.json")]
    for file in made:
        file.parent.mkdir(parents=True)
        file.touch()
    assert len(would_run(written, "retrieve")) == 1
    os.utime(written / "sandbox" / "sets.py", (2e9, 2e9))
    assert [line.split()[-1] for line in would_run(written, "retrieve")[:2]] == ["out/real", "out/pool"]
