"""Whether a head answers is known without Ray, in time, and a stop request ends the wait."""

import http.server
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from cluster.process.reach import OPENING, TRY_S, why_no_head
from cluster.process.stop_flag import StopFlag

NO_HEAD = "what answers there is no head of a Ray cluster"


def ask(address: str, within_s: float = 0.0, stop: StopFlag | None = None, **environment: str) -> str:
    return why_no_head(address, within_s, environment, stop or StopFlag())


@pytest.fixture
def web_page() -> Iterator[str]:
    """Where a web server listens, as the dashboard of Ray is one."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "head:x", "head:65536", "ray://head:٣"])
def test_an_address_without_host_and_port_is_told_without_a_wait(address: str) -> None:
    assert ask(address, 60) == "expected host:port"


def test_another_server_is_told_from_a_head(web_page: str) -> None:
    assert ask(web_page, 60) == NO_HEAD
    assert ask(web_page, 60, RAY_USE_TLS="1") == "", "a head that encrypts cannot be asked in plain words"


def test_a_head_that_starts_within_the_time_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

    def begin() -> None:
        time.sleep(0.5)
        with socket.create_server(("127.0.0.1", port)) as head, head.accept()[0] as connection:
            assert connection.recv(1000) == OPENING
            connection.sendall(bytes((0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100)))

    thread = threading.Thread(target=begin)
    thread.start()
    assert ask(f"127.0.0.1:{port}", 60) == ""
    thread.join()


def test_nobody_is_named_with_what_the_system_says_and_a_stop_request_ends_the_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        nobody = f"127.0.0.1:{listening.getsockname()[1]}"
        stop = StopFlag()
        stop.request("SIGTERM")
        assert ask(nobody, 600, stop) == "nobody answers: timed out", "it takes connections and says nothing"
    begun = time.monotonic()
    assert "refused" in ask(nobody, 1.0)
    assert 1.0 < time.monotonic() - begun < 1.0 + TRY_S
