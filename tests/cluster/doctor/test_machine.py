"""What a machine has for a run, and what compiles kernels for its GPU."""

from pathlib import Path

import pytest

from cluster.doctor.machine import machine, missing_build_tools


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
    check = {check.name: check for check in machine({"PATH": str(tmp_path)})}["torch.compile"]
    assert check.verdict == "bad"
    assert "C compiler" in check.found
    assert "sampler.compile=none" in check.advice


@pytest.mark.parametrize(
    ("script", "said"), [("echo no driver >&2; exit 9", "nvidia-smi fails: ended with 9: no driver")]
)
def test_an_nvidia_smi_that_fails_is_bad_news_with_its_own_words(
    script: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\n{script}\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    check = {check.name: check for check in machine({})}["GPUs"]
    assert (check.verdict, check.found) == ("bad", said)
