"""How a cluster that is there is joined; a stand-in answers for Ray."""

from pathlib import Path

import pytest
import ray

from cluster.fan_out import ray_session
from cluster.fan_out.work import FanOutSpec
from cluster.process.stop_flag import StopFlag


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The token of a cluster whose head answers, readable for a group."""
    file = tmp_path / "token"
    file.write_text("0" * 64)
    file.chmod(0o640)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(ray_session, "tame_ray", lambda: None)
    monkeypatch.setattr(ray_session, "prepare_environment", lambda _: None)
    monkeypatch.setattr(ray_session, "why_no_head", lambda *_: "")
    monkeypatch.setattr(ray_session, "runtime_env", lambda _: {})
    monkeypatch.setattr(ray, "init", lambda **_: None)
    return file


def test_a_token_that_others_may_read_is_made_private(token: Path) -> None:
    with ray_session.ray_session(FanOutSpec(), 1, StopFlag()) as session:
        assert not session.ours
    assert token.stat().st_mode & 0o777 == 0o600


def test_a_token_whose_rights_we_may_not_change_serves_all_the_same(
    token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refused)
    with ray_session.ray_session(FanOutSpec(), 1, StopFlag()) as session:
        assert not session.ours
