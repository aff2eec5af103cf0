"""The commands of the README, run one after the other as they are printed, in a checkout of their own."""

import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from PIL import Image

from shards.disk.home import home
from shards.labels.classes import KINDS

# What cannot run here, each with its reason; everything else runs.
LEFT_OUT = {
    r"^make test": "it is the run that this test is a part of",
    r"^make sweep|^sixfold report": "35 trainings, half an hour; tests/train shows them in small",
    r"imagenet|s3://": "weights of the hub, a bucket, GPUs",
    r"^RAY_ADDRESS|CLUSTER=|^sixfold submit|/shared/": "a cluster or a site",
}


def commands() -> list[str]:
    """The lines of the README's blocks that call `make` or `sixfold`, without their remarks."""
    text = (home() / "README.md").read_text(encoding="utf-8")
    blocks = [
        block for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.M | re.S) if not language
    ]
    lines = [re.sub(r"\s+#.*", "", line).strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.match(r"(make|sixfold) ", line)]


def run_here() -> list[str]:
    return [line for line in commands() if not any(re.search(pattern, line) for pattern in LEFT_OUT)]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of this checkout, with an environment that has our libraries, so that `make` sets up nothing."""
    folder = tmp_path_factory.mktemp("clone") / "sixfold"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=home(), capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (home() / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(home() / name, folder / name)
    environment = folder / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=200)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n{folder}\n")
    program = environment / "bin" / "sixfold"
    program.write_text(f"#!{environment}/bin/python\nimport sys\nfrom sixfold import main\nsys.exit(main())\n")
    program.chmod(0o755)
    mark = subprocess.run(
        "pwd | cksum | cut -d ' ' -f 1", shell=True, cwd=folder, capture_output=True, text=True, check=True
    )
    (environment / f".ready-requirements.lock-{mark.stdout.strip()}").touch()
    for name in ("crane", "seal", "jaguar"):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (80, 60), (20 * number, 90, 40)).save(folder / "photos" / name / f"{number}.jpg")
    shutil.copytree(home() / "sandbox" / "models" / "generator", folder / "models" / "my-sd")
    return folder


def test_every_reason_to_leave_a_command_out_is_needed() -> None:
    for pattern in LEFT_OUT:
        text = (home() / "README.md").read_text(encoding="utf-8")
        assert re.search(pattern, text, flags=re.M) or any(re.search(pattern, line) for line in commands()), pattern
    assert {"make generate SCALE=6x", "make train"} <= set(run_here())


@pytest.mark.torture
@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="make would take the other lock")
def test_the_commands_of_the_readme_run_one_after_the_other(checkout: Path) -> None:
    for line in run_here():
        done = subprocess.run(
            ["bash", "-c", f"export PATH={shlex.quote(str(checkout / '.venv' / 'bin'))}:$PATH; {line}"],
            cwd=checkout, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode in ((0, 3) if line == "sixfold doctor" else (0,)), (
            f"{line}\n{done.stdout}\n{done.stderr}"
        )


def test_the_readme_counts_the_kinds_of_classes_that_there_are() -> None:
    text = (home() / "README.md").read_text(encoding="utf-8")
    assert f"`landscape`, {len(KINDS)} in all" in text
