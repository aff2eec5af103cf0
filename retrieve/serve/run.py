"""A server from its first byte to its last: the socket, the loop in a thread, the end.

In: a pool, an address, a token from the environment. Out: a `Server` that listens. On disk: nothing of its own.

The main thread waits for a stop signal, so that the handlers are the house's own; requests that are at work then have
`GRACE_S` to end.
"""

import contextlib
import errno
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import uvicorn

from cluster.process.stop_flag import StopFlag
from retrieve.serve.app import application
from retrieve.serve.connection import Connection
from retrieve.serve.metrics import Metrics
from retrieve.serve.search import Search
from shards.disk.safe_text import one_line, quoted

TOKEN = "SIXFOLD_SERVE_TOKEN"
LEAST_TOKEN = 16  # characters
MOST_CONNECTIONS = 256
KEEP_ALIVE_S = 15
GRACE_S = 5
START_S = 30.0
LOOK_S = 0.1

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """A socket that is bound, and what its address is."""

    socket: socket.socket
    host: str
    port: int
    is_loopback: bool

    @property
    def address(self) -> str:
        """As a browser takes it; for a bind to all addresses the machine's name stands in it."""
        shown = f"[{self.host}]" if ":" in self.host else self.host
        if ipaddress.ip_address(self.host).is_unspecified:
            shown = socket.gethostname()
        return f"http://{shown}:{self.port}/"


def token_of(environ: Mapping[str, str]) -> str | None:
    """The token of the environment. Raises ValueError for one that is short or cannot stand in a header."""
    token = environ.get(TOKEN)
    if not token:
        return None
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"{TOKEN}: found {len(token)} characters, expected at least {LEAST_TOKEN} letters, digits or signs without "
            "blanks; make one with `openssl rand -hex 16`"
        )
    return token


def bind(host: str, port: int, token: str | None) -> Place:
    """A socket that listens nowhere yet. Raises ValueError: no such address, the port is taken, or another bind than
    loopback without a token."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (socket.gaierror, UnicodeError):
        raise ValueError(f"--host: found {quoted(host, 80)}, expected an address of this machine") from None
    family, kind, protocol, _, address = found
    name = str(address[0]).partition("%")[0]
    is_loopback = ipaddress.ip_address(name).is_loopback
    if not is_loopback and token is None:
        raise ValueError(
            f"--host {host}: found no token, expected one in {TOKEN} where others can connect; set it, or leave --host "
            "away and come through `ssh -L`"
        )
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise ValueError(
                f"--port {port}: found another program that listens there, expected a free port; give another, or 0 "
                "for any"
            ) from None
        raise ValueError(f"--host {host} --port {port}: cannot be bound ({error.strerror}); give others") from None
    return Place(listening, name, int(listening.getsockname()[1]), is_loopback)


@contextlib.contextmanager
def serving(search: Search, metrics: Metrics, place: Place, token: str | None, warn: Warn) -> Iterator[uvicorn.Server]:
    """The server listens in the block. Raises RuntimeError if it does not begin."""
    gate = application(search, metrics, token, place.is_loopback, warn)
    _say_of_uvicorn(warn)
    config = uvicorn.Config(
        gate,
        http=Connection,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place.socket]}, name="server", daemon=True)
    thread.start()
    try:
        end = time.monotonic() + START_S
        while not server.started:
            if not thread.is_alive() or time.monotonic() > end:
                raise RuntimeError(f"{place.address}: the server did not begin")
            time.sleep(0.01)
        yield server
    finally:
        server.should_exit = True
        gate.close()
        thread.join(GRACE_S + 5.0)
        place.socket.close()


def wait_for_stop(server: uvicorn.Server, stop: StopFlag) -> None:
    """Until a stop is requested or the server ends by itself."""
    while not stop.requested and not server.should_exit:
        time.sleep(LOOK_S)


class _OneLine(logging.Handler):
    """Hands over each record as one line that a terminal may show."""

    def __init__(self, warn: Warn) -> None:
        super().__init__(logging.WARNING)
        self._warn = warn

    def emit(self, record: logging.LogRecord) -> None:
        """The record's message, without a traceback."""
        self._warn(one_line(record.getMessage(), 300))


def _say_of_uvicorn(warn: Warn) -> None:
    logger = logging.getLogger("uvicorn")
    logger.handlers[:] = [_OneLine(warn)]
    logger.propagate = False
