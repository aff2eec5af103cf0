"""The notice that a machine is taken back: whose words count, and what is no notice. A real cluster that is told of one
is in tests/cluster/fan_out/test_ray.py."""

import http.server
import threading
from collections.abc import Iterator

import pytest

from cluster.submit.drain import DrainError, drain, notice, wait_for_notice

ACTION = '{"action": "terminate", "time": "2026-01-01T00:00:00Z"}'


class Metadata(http.server.BaseHTTPRequestHandler):
    """The address in each machine of Amazon's and Google's. `asked`: how often it says nothing before its notice."""

    asked = 0

    def do_PUT(self) -> None:
        assert self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.reply(200, "a key\n" if self.path == "/latest/api/token" else "")

    def do_GET(self) -> None:
        type(self).asked -= 1
        is_known = "a key" in (self.headers["X-aws-ec2-metadata-token"], self.headers["Metadata-Flavor"] and "a key")
        if self.path == "/computeMetadata/v1/instance/preempted" and is_known:
            self.reply(200, "FALSE" if self.asked >= 0 else "TRUE")
        elif self.path == "/latest/meta-data/spot/instance-action" and is_known:
            self.reply(*((404, "no notice") if self.asked >= 0 else (200, ACTION)))
        else:
            self.reply(401, "")

    def reply(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # the machine itself answers, no proxy
    monkeypatch.setattr(Metadata, "asked", 0)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_amazons_notice_is_asked_for_with_a_key_and_told_with_its_time(metadata: str) -> None:
    assert notice("aws", metadata) == f"the spot machine is taken back: {ACTION}"


def test_googles_notice_is_a_word(metadata: str) -> None:
    assert notice("gcp", metadata) == "the machine is preempted"


@pytest.mark.parametrize("provider", ["aws", "gcp"])
def test_it_is_asked_again_until_there_is_a_notice(
    metadata: str, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    monkeypatch.setattr(Metadata, "asked", 3)
    pauses: list[float] = []
    assert wait_for_notice(provider, metadata, pauses.append)  # type: ignore[arg-type]
    assert len(pauses) == 3


def test_where_nobody_answers_there_is_no_notice() -> None:
    assert notice("aws", "http://127.0.0.1:9") == ""


def test_a_machine_without_ray_cannot_be_drained() -> None:
    with pytest.raises(DrainError, match="found no node of Ray on this machine, expected one; run this where"):
        drain("a test", 1.0, "no such node")
