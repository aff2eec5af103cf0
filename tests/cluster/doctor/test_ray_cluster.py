"""The Ray cluster that runs would use, its ports and its token."""

import socket
from pathlib import Path

import pytest

from cluster.doctor.check import Check
from cluster.doctor.ray_cluster import HEAD_PORT, PORTS, ray_cluster
from tests.support.ray_head import ray_head


def checks(environ: dict[str, str], ports: dict[int, str] | None = None) -> dict[str, Check]:
    return {check.name: check for check in ray_cluster(environ, ports or {})}


def test_a_cluster_that_was_named_is_asked_and_local_is_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        nobody = f"127.0.0.1:{listening.getsockname()[1]}"
    for address, verdict, said in [
        ("local", "ok", "runs start Ray on this machine"),
        (nobody, "bad", "nobody answers: "),
        ("ray://head:10001", "bad", "nobody answers: "),
        ("head", "bad", "expected host:port"),
    ]:
        check = checks({"RAY_ADDRESS": address})["RAY_ADDRESS"]
        assert check.verdict == verdict
        assert said in check.found


def test_i8_a_token_file_that_others_can_read_is_named(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t")
    token.chmod(0o644)
    found = checks({"RAY_AUTH_TOKEN_PATH": str(token)})["Ray token file"]
    assert found.verdict == "bad"
    assert "chmod 600" in found.advice


def test_a_port_that_another_program_has_is_named_with_the_option_that_gives_another(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    with socket.create_server(("", 0)) as listening:
        port = listening.getsockname()[1]
        for option in ("--port", "--dashboard-port"):
            taken = checks(home, {port: option})[f"port {port}"]
            assert taken.verdict == "note"
            assert "taken" in taken.found
            assert f"{option}=N" in taken.advice
    assert checks(home, {port: "--port"})[f"port {port}"] == Check(f"port {port}", "ok", "free")
    assert f"port {port}" not in checks({"RAY_ADDRESS": "head:1"}, {port: "--port"}), "another machine's head"


@pytest.mark.timeout(300)
def test_a_port_that_a_head_of_ray_has_is_one_to_join() -> None:
    with ray_head() as head:
        port = int(head.environment["RAY_ADDRESS"].partition(":")[2])
        found = checks({}, {port: "--port"})[f"port {port}"]
        assert (found.verdict, found.found) == ("note", "taken by the head of a Ray cluster")
        assert f"RAY_ADDRESS=127.0.0.1:{port}" in found.advice
        joined = checks(head.environment)
        assert joined["RAY_ADDRESS"].verdict == "ok"
        assert joined["Ray token file"].verdict == "ok"
        assert "Ray token mode" not in joined
        without = checks({**head.environment, "RAY_AUTH_MODE": "disabled"})["Ray token mode"]
        assert without.verdict == "note"
    assert PORTS[HEAD_PORT] == "--port"
