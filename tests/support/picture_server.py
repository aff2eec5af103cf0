"""A web server on loopback that gives the answers which pictures on the web give: good, gone, slow, huge, lying.

    with PictureServer({"/good/1.jpg": jpeg}) as server:
        ...  # fetch f"{server.url}/good/1.jpg"
    assert server.requests == ["/good/1.jpg"]

The first part of a path says what becomes of a request: see `ANSWERS`. `heads` holds the head of each request.
"""

import contextlib
import datetime
import gzip
import ipaddress
import select
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

OK = "200 OK"


class PictureServer:
    """Use as a context manager. `pictures`: path -> bytes."""

    def __init__(
        self, pictures: Mapping[str, bytes] | None = None, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> None:
        self.pictures = dict(pictures or {})
        self.requests: list[str] = []
        self.heads: list[str] = []
        self.tunnels_to: tuple[str, int] | None = None  # where CONNECT leads: then it is a proxy
        self.redirects: dict[str, str] = {}  # path -> Location
        self.over = threading.Event()
        self.open = threading.Event()  # while it is not set, requests wait for their answers
        self.open.set()
        served = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    served.serve(self.request if tls is None else tls.wrap_socket(self.request, server_side=True))

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 128

        self._server = Server((host, 0), Handler)
        self.port = self._server.server_address[1]
        self.place = f"{host}:{self.port}"
        self.url = f"{'http' if tls is None else 'https'}://{self.place}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        self.open.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def serve(self, connection: socket.socket) -> None:
        """One request, one answer."""
        connection.settimeout(10)
        head = b""
        while b"\r\n\r\n" not in head and (more := connection.recv(4096)):
            head += more
        if not head:
            return
        path = head.split(b" ", 2)[1].decode()
        self.requests.append(path)
        self.heads.append(head.decode("latin-1"))
        self.open.wait(60)
        if head.startswith(b"CONNECT ") and self.tunnels_to is not None:
            _relay(connection, self.tunnels_to)
            return
        if path in self.redirects:
            _send(connection, "302 Found", b"", {"Location": self.redirects[path]})
            return
        ANSWERS.get("".join(path.split("/")[1:2]), _good)(self, connection, self.pictures.get(path, b""))


def _relay(connection: socket.socket, place: tuple[str, int]) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    with socket.create_connection(place, timeout=10) as other:
        both = {connection: other, other: connection}
        while True:
            for one in select.select(list(both), [], [], 10)[0]:
                data = one.recv(1 << 16)
                if not data:
                    return
                both[one].sendall(data)


def _send(connection: socket.socket, status: str, body: bytes, headers: Mapping[str, str] = {}) -> None:
    fields = {"Content-Type": "image/jpeg", "Content-Length": str(len(body)), "Set-Cookie": "a=b", **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    connection.sendall(f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body)


def _good(server: PictureServer, connection: socket.socket, body: bytes) -> None:
    _send(connection, OK if body else "404 Not Found", body)


def _with_status(status: str, **headers: str) -> Callable[[PictureServer, socket.socket, bytes], None]:
    def answer(server: PictureServer, connection: socket.socket, body: bytes) -> None:
        _send(connection, status, b"gone", {name.replace("_", "-"): value for name, value in headers.items()})

    return answer


def _slow(server: PictureServer, connection: socket.socket, body: bytes) -> None:
    _send(connection, OK, b"", {"Content-Length": "1000"})
    while not server.over.wait(0.5):
        connection.sendall(b"x")


def _silent(server: PictureServer, connection: socket.socket, body: bytes) -> None:
    server.over.wait(60)


def _endless(server: PictureServer, connection: socket.socket, body: bytes) -> None:
    _send(connection, OK, body, {"Content-Length": ""})
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not server.over.is_set():
        connection.sendall(bytes(1 << 16))


def _claims(server: PictureServer, connection: socket.socket, body: bytes) -> None:
    _send(connection, OK, body, {"Content-Length": str(10 << 30)})


def _cut(server: PictureServer, connection: socket.socket, body: bytes) -> None:
    _send(connection, OK, body[: len(body) // 2], {"Content-Length": str(len(body))})


def _more(server: PictureServer, connection: socket.socket, body: bytes) -> None:
    _send(connection, OK, body + b"more" * 100, {"Content-Length": str(len(body))})


def _chunked(server: PictureServer, connection: socket.socket, body: bytes) -> None:
    parts = [body[at : at + 999] for at in range(0, len(body), 999)]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    _send(connection, OK, framed, {"Transfer-Encoding": "chunked", "Content-Length": ""})


def _bomb(server: PictureServer, connection: socket.socket, body: bytes) -> None:
    _send(connection, OK, gzip.compress(bytes(50 << 20)), {"Content-Encoding": "gzip"})


def _garbage(server: PictureServer, connection: socket.socket, body: bytes) -> None:
    connection.sendall(b"\x00\x01\x02 no http at all\r\n\r\n")


def _closed(server: PictureServer, connection: socket.socket, body: bytes) -> None:
    """No answer at all."""


def _noai(server: PictureServer, connection: socket.socket, body: bytes) -> None:
    _send(connection, OK, body, {"X-Robots-Tag": "noai"})


def _named(server: PictureServer, connection: socket.socket, body: bytes) -> None:
    _send(connection, OK, body, {"X-Robots-Tag": "img2dataset: noimageai, nofollow"})


ANSWERS: Mapping[str, Callable[[PictureServer, socket.socket, bytes], None]] = {
    "good": _good,
    "missing": _with_status("404 Not Found"),
    "forbidden": _with_status("403 Forbidden"),
    "busy": _with_status("429 Too Many Requests", Retry_After="60"),
    "down": _with_status("503 Service Unavailable"),
    "broken": _with_status("500 \x1b[31mred"),
    "slow": _slow,
    "silent": _silent,
    "endless": _endless,
    "claims": _claims,
    "cut": _cut,
    "more": _more,
    "chunked": _chunked,
    "bomb": _bomb,
    "garbage": _garbage,
    "closed": _closed,
    "noai": _noai,
    "named": _named,
}


def certificate(folder: Path, host: str = "127.0.0.1") -> tuple[ssl.SSLContext, Path]:
    """A server's context for the host, and the file that a client must trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    alone = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = built.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
    built = built.not_valid_after(now + datetime.timedelta(days=2)).add_extension(alone, critical=False)
    built = built.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    trusted = folder / "trusted.pem"
    trusted.write_bytes(built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    secret = folder / "key.pem"
    plain = serialization.NoEncryption()
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, secret)
    return context, trusted
