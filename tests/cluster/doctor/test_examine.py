"""The doctor says what is here, what is missing and what to do."""

from pathlib import Path

import pytest

from cluster.doctor.examine import examine
from cluster.doctor.switches import clear_unsafe_switches


def test_every_check_that_is_not_ok_says_what_to_do(tmp_path: Path) -> None:
    checks = list(
        examine({"RAY_ADDRESS": "x", "HF_TRUST_REMOTE_CODE": "1", "PATH": str(tmp_path)}, str(tmp_path / "new" / "out"))
    )
    assert {"python", "ray", "torch", "cores", "memory", "disk", "GPUs", "clock"} <= {check.name for check in checks}
    assert all(check.advice for check in checks if check.verdict != "ok")
    assert list(tmp_path.iterdir()) == [], "what was tried is removed"


@pytest.mark.parametrize(
    "name",
    [
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
        "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA",
        "RAY_DATA_READ_UNSAFE_PICKLE",
    ],
)
def test_i7_switches_that_turn_safety_off_are_named_and_cleared(name: str, tmp_path: Path) -> None:
    environ = {name: "1", "HOME": "/tmp", "PATH": str(tmp_path)}
    verdict = {check.name: check for check in examine(environ, str(tmp_path))}["safety switches"]
    assert verdict.verdict == "bad"
    assert name in verdict.found
    assert clear_unsafe_switches(environ) == [name]
    assert environ == {"HOME": "/tmp", "PATH": str(tmp_path)}
