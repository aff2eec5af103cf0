"""The doctor says what is here, what is missing and what to do."""

import importlib.metadata
from pathlib import Path

import pytest

from cluster.doctor import FLOORS, clear_unsafe_switches, examine


def test_every_check_that_is_not_ok_says_what_to_do(tmp_path: Path) -> None:
    checks = list(examine({"RAY_ADDRESS": "x:1", "HF_TRUST_REMOTE_CODE": "1"}, tmp_path / "new" / "out"))
    assert {"python", "ray", "torch", "cores", "memory", "disk", "GPUs"} <= {check.name for check in checks}
    assert all(check.advice for check in checks if check.verdict != "ok")


def test_r21_installed_versions_are_above_the_floors() -> None:
    for package, floor in FLOORS.items():
        numbers = tuple(int(part) for part in importlib.metadata.version(package).split(".")[:2])
        assert numbers >= floor, package


@pytest.mark.parametrize(
    "name",
    [
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
        "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA",
        "RAY_DATA_READ_UNSAFE_PICKLE",
    ],
)
def test_i7_switches_that_turn_safety_off_are_named_and_cleared(name: str, tmp_path: Path) -> None:
    environ = {name: "1", "HOME": "/tmp"}
    verdict = {check.name: check for check in examine(environ, tmp_path)}["safety switches"]
    assert verdict.verdict == "bad"
    assert name in verdict.found
    assert clear_unsafe_switches(environ) == [name]
    assert environ == {"HOME": "/tmp"}


def test_i8_a_token_file_that_others_can_read_is_named(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t")
    token.chmod(0o644)
    checks = {check.name: check for check in examine({"RAY_AUTH_TOKEN_PATH": str(token)}, tmp_path)}
    assert checks["Ray token file"].verdict == "bad"
    assert "chmod 600" in checks["Ray token file"].advice
