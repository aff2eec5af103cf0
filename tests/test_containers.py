"""The two definitions of a container, for Docker and for apptainer, install the same things from the same lock."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import ray.autoscaler

from shards.disk.home import home

DOCKER = (home() / "Dockerfile").read_text()
APPTAINER = (home() / "sixfold.def").read_text()


def section(name: str) -> list[str]:
    """The lines of a section of apptainer's definition."""
    (found,) = re.findall(rf"^%{name}\n((?:    .*\n|\n)*)", APPTAINER, re.MULTILINE)
    return [line.strip() for line in found.splitlines() if line.strip()]


def commands() -> list[str]:
    """What Docker runs, a command a line."""
    joined = DOCKER.replace("\\\n", " ")
    runs = re.findall(r"^RUN (.*)$", joined, re.MULTILINE)
    return [" ".join(command.split()) for run in runs for command in run.split("&&")]


def built(folder: Path, out: Path) -> dict[str, bytes]:
    """The files of a wheel that is built from a folder."""
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(words, cwd=folder, check=True, capture_output=True, timeout=200)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        return {name: opened.read(name) for name in opened.namelist() if not name.endswith("/RECORD")}


def test_both_begin_with_the_same_image_and_lock() -> None:
    assert re.findall(r"^FROM (.*)$", DOCKER, re.MULTILINE) == re.findall(r"^From: (.*)$", APPTAINER, re.MULTILINE)
    assert re.findall(r"^ARG (.*)$", DOCKER, re.MULTILINE) == section("arguments") == ["LOCK=requirements-gpu.lock"]


def test_both_run_the_same_commands() -> None:
    ours = [line for line in section("post") if line not in ("set -e", "cd /opt/sixfold")]
    assert ours == [command for command in commands() if not command.startswith("useradd")]
    assert "uv pip sync --system --no-cache --compile-bytecode requirements.lock" in ours


def test_the_image_has_what_rays_launcher_calls_in_it() -> None:
    """It copies into the container with rsync; the head's part of it, inside, calls ssh, and rsync over ssh."""
    source = (Path(ray.autoscaler.__file__).parent / "_private" / "command_runner.py").read_text()
    for call in ("rsync -e '{} exec -i' -avz", '["rsync"]', '"--rsh",', '["ssh"]'):
        assert call in source
    [install] = [command for command in commands() if command.startswith("apt-get install")]
    assert {"openssh-client", "rsync"} <= set(install.split())


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-gpu.lock"])
def test_what_is_copied_for_apptainer_gives_the_same_program(lock: str, tmp_path: Path) -> None:
    """Docker copies the whole folder; the wheel that is built from either is the same, file by file."""
    root = tmp_path / "root"
    for line in section("files"):
        source, target = (word.replace("{{ LOCK }}", lock) for word in line.rsplit(" ", 1))
        there = root / Path(target).relative_to("/opt/sixfold")
        there.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (home() / source).is_dir() else shutil.copy
        copy(home() / source, there)
    assert (root / "requirements.lock").read_bytes() == (home() / lock).read_bytes()
    assert built(root, tmp_path / "one") == built(home(), tmp_path / "two")


def test_docker_leaves_out_nothing_that_is_copied_for_apptainer() -> None:
    left_out = (home() / ".dockerignore").read_text().split("\n")
    copied = {line.split()[0] for line in section("files") if "{{" not in line}
    assert not copied & set(left_out)
