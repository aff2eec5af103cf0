"""The wheel: what is installed with it works in any folder, also in one full of files with our packages' names."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from shards.disk.home import home
from sixfold import PACKAGES


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment below a path with blanks and umlauts, with the wheel and nothing else of
    ours; the libraries are those of this environment, since an installation of its own would take gigabytes."""
    folder = tmp_path_factory.mktemp("a wähl of our own")
    for command in (
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        [sys.executable, "-m", "venv", "--without-pip", str(folder / "env")],
    ):
        subprocess.run(command, cwd=home(), check=True, capture_output=True, timeout=200)
    programs = folder / "env" / "bin"
    (wheel,) = folder.glob("*.whl")
    install = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", "--no-index", "--no-deps"]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, timeout=200)
    (packages,) = (folder / "env").glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(
        sysconfig.get_paths()["purelib"]
    )  # a path alone: no editable install of ours
    return programs


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A working folder whose modules have the names of our packages; whoever imports one ends."""
    folder = tmp_path / "my wörk"
    (folder / "recipes").mkdir(parents=True)
    for name in (*PACKAGES, "sandbox"):
        (folder / f"{name}.py").write_text("raise SystemExit('the stranger was imported')")
    return folder


def said(command: list[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    "where", [["--in-process"], pytest.param([], marks=pytest.mark.torture)], ids=["here", "over Ray"]
)
def test_a_wheel_makes_images_in_a_folder_with_files_of_our_names(
    where: list[str], installed: Path, hostile: Path
) -> None:
    small = ["sampler.steps=1", "shards.samples_per_shard=10", "classes.limit=2", *where]
    made = said(
        [installed / "sixfold", "generate", "recipes/sandbox.yaml", "--scale", "0.5x", "--out", "out/x", *small],
        hostile,
    )
    assert made.returncode == 0, made.stderr
    assert "not used" not in made.stderr, "a program looks beside itself and not into the working folder"
    checked = said([installed / "python", "-m", "sixfold", "verify", "out/x"], hostile)
    assert checked.returncode == 0, checked.stderr
    assert [line for line in checked.stderr.splitlines() if line.startswith("sixfold: ")] == [
        f"sixfold: {hostile / name}.py has the name of a package of sixfold and is not used; sixfold goes on with its "
        "own"
        for name in PACKAGES
    ]
    assert (hostile / "out" / "x" / "_meta" / "gallery" / "index.html").is_file()


def test_a_wheel_has_recipes_models_schemas_and_pages_for_all_verbs(installed: Path, tmp_path: Path) -> None:
    for words in (
        ["doctor"],
        ["sweep", "recipes/sweeps/scale.yaml", "--dry-run"],
    ):
        done = said([installed / "sixfold", *words], tmp_path)
        assert done.returncode == 0, done.stderr
    tried = said([installed / "sixfold", "train", "recipes/sandbox-train.yaml", "--dry-run"], tmp_path)
    assert tried.returncode == 2, "its data are not made yet"
    refused = [line.removeprefix("sixfold: ") for line in tried.stderr.splitlines() if ": found no folder" in line]
    assert len(refused) == 8, tried.stderr
    assert all(line.startswith(("data.domains.", "evaluate.")) for line in refused)
    begun = said([installed / "sixfold", "init", "sandbox", "--model", "sandbox/models/generator"], tmp_path)
    assert begun.returncode == 0, begun.stderr
    schema = (tmp_path / "sandbox.yaml").read_text().splitlines()[0].partition("$schema=")[2]
    assert Path(schema).is_file()
    assert (installed.parent / "lib").resolve() in Path(schema).resolve().parents


def test_a_wheel_makes_the_real_sets_that_the_recipes_of_the_sandbox_read(installed: Path, tmp_path: Path) -> None:
    """What the error about a missing one advises: `python -m sandbox.build`; here one set of six."""
    missing = said([installed / "sixfold", "status", "out/real/real-val"], tmp_path)
    assert f"'{installed / 'python'}' -m sandbox.build --data {tmp_path / 'out' / 'real'}`" in missing.stderr
    helped = said([installed / "python", "-m", "sandbox.build", "--help"], tmp_path)
    assert "python -m sandbox.build --data out/real" in " ".join(helped.stdout.split())
    one = "from pathlib import Path; from sandbox.build import *; write_set('real-val', Path('out/real/real-val'))"
    made = said([installed / "python", "-c", one], tmp_path)
    assert made.returncode == 0, made.stderr
    there = said([installed / "sixfold", "status", "out/real/real-val"], tmp_path)
    assert "480, in shards that are done" in there.stdout
