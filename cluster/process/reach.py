"""Whether the head of a Ray cluster answers. Ray's own wait for it takes minutes and hears no signal.

In: an address, a deadline. Out: why there is no head, or "". On disk: nothing.
"""

import socket
import time
from collections.abc import Mapping

from cluster.process.stop_flag import StopFlag
from shards.disk.safe_text import one_line

TRY_S = 3.0  # for one connection, hence the reaction time to a signal
PAUSE_S = 0.2
# A head speaks gRPC, thus HTTP/2, whose server answers this opening with its settings (RFC 9113, section 3.4).
OPENING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
HEADER_BYTES, SETTINGS = 9, 4


def why_no_head(address: str, within_s: float, environ: Mapping[str, str], stop: StopFlag) -> str:
    """Why no head answers at `address`, host:port, within the time or until a stop is requested; "" if one does."""
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal() and int(port) < 65_536):
        return "expected host:port"
    encrypted = environ.get("RAY_USE_TLS", "0").lower() not in ("", "0", "false")
    deadline = time.monotonic() + within_s
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=TRY_S) as connection:
                return "" if encrypted or _is_head(connection) else "what answers there is no head of a Ray cluster"
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that cannot be looked up
            why = one_line(f"nobody answers: {error}", 120)
        if stop.requested or time.monotonic() > deadline:
            return why
        time.sleep(PAUSE_S)


def _is_head(connection: socket.socket) -> bool:
    connection.sendall(OPENING)
    answer = b""
    while len(answer) < HEADER_BYTES and (more := connection.recv(HEADER_BYTES)):
        answer += more
    return len(answer) >= HEADER_BYTES and answer[3] == SETTINGS
