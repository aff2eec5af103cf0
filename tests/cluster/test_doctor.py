"""The doctor says what is here, what is missing and what to do."""

import importlib.metadata
import socket
from pathlib import Path

import pytest

from cluster.doctor import FLOORS, clear_unsafe_switches, examine, missing_build_tools


def test_every_check_that_is_not_ok_says_what_to_do(tmp_path: Path) -> None:
    checks = list(examine({"RAY_ADDRESS": "x", "HF_TRUST_REMOTE_CODE": "1"}, tmp_path / "new" / "out"))
    assert {"python", "ray", "torch", "cores", "memory", "disk", "GPUs"} <= {check.name for check in checks}
    assert all(check.advice for check in checks if check.verdict != "ok")


def test_a_cluster_that_was_named_is_asked_and_local_is_none(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        nobody = f"127.0.0.1:{listening.getsockname()[1]}"
    for address, verdict, said in [
        ("local", "ok", "runs start Ray on this machine"),
        (nobody, "bad", "nobody answers: "),
        ("ray://head:10001", "bad", "nobody answers: "),
        ("head", "bad", "expected host:port"),
    ]:
        [check] = [check for check in examine({"RAY_ADDRESS": address}, tmp_path) if check.name == "RAY_ADDRESS"]
        assert check.verdict == verdict
        assert said in check.found


def test_installed_versions_are_above_the_floors() -> None:
    for package, floor in FLOORS.items():
        numbers = tuple(int(part) for part in importlib.metadata.version(package).split(".")[:2])
        assert numbers >= floor, package


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "afile").write_text("")
    for out in (tmp_path / "afile", tmp_path / "afile" / "x" / "y"):
        check = {check.name: check for check in examine({}, out)}["disk"]
        assert (check.verdict, check.advice) == ("bad", "give another folder as --out")
        assert f"{tmp_path / 'afile'} is a file" in check.found


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


def test_a_missing_compiler_is_named_and_one_that_was_chosen_counts(tmp_path: Path) -> None:
    assert missing_build_tools({"PATH": str(tmp_path)})[0] == "C compiler (gcc or clang)"
    for name in ("gcc", "mine"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    found = {"PATH": str(tmp_path)}
    assert not any("compiler" in name for name in missing_build_tools(found))
    assert not any("compiler" in name for name in missing_build_tools({**found, "CC": "mine -O2"}))
    assert missing_build_tools({**found, "CC": "other"})[0] == "C compiler (CC=other)"


def test_missing_headers_of_python_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_paths", lambda scheme: {"include": str(tmp_path)})
    assert "Python.h" in missing_build_tools({})
    (tmp_path / "Python.h").write_text("")
    assert "Python.h" not in missing_build_tools({})


def test_a_gpu_without_a_compiler_is_bad_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU is simulated: an nvidia-smi that names one."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'a GPU, 8 GB, 600'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    check = {check.name: check for check in examine({"PATH": str(tmp_path)}, tmp_path)}["torch.compile"]
    assert check.verdict == "bad"
    assert "C compiler" in check.found
    assert "sampler.compile=none" in check.advice
