"""The gate, asked by a plain HTTP client: which machine it reaches, how much and how long, and who may ask."""

import base64
import concurrent.futures
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from retrieve.download import address, gate
from retrieve.download.gate import Gate
from tests.retrieve.download.test_address import REFUSED_HOSTS, USERS
from tests.support.picture_server import PictureServer, certificate
from tests.support.traced import peak_bytes

PICTURE = bytes(range(256)) * 40
LIMITS = {"timeout_s": 1.0, "most_bytes": 50_000, "threads": 8}


@pytest.fixture
def server() -> Iterator[PictureServer]:
    with PictureServer() as one:
        one.pictures = {f"/{kind}/1": PICTURE for kind in ("good", "endless", "claims", "cut", "more", "chunked")}
        yield one


def ask(opened: Gate, url: str, password: str | None = None) -> tuple[int, str, bytes]:
    """Status, reason, body."""
    right = urlsplit(opened.url)
    text = f"{right.username}:{right.password if password is None else password}"
    connection = http.client.HTTPConnection("127.0.0.1", opened.port, timeout=20)
    try:
        connection.putrequest("GET", "http://x/", skip_host=True, skip_accept_encoding=True)
        connection._buffer[0] = f"GET {url} HTTP/1.1".encode()  # http.client itself refuses what the gate must refuse
        connection.putheader("Proxy-Authorization", f"Basic {base64.b64encode(text.encode()).decode()}")
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.reason, answer.read()
    finally:
        connection.close()


def test_an_answer_comes_back_whole_however_it_is_framed(server):
    with Gate(**LIMITS, allowed=address.allowed_hosts([server.place])) as opened:
        for kind in ("good", "chunked", "more"):
            assert ask(opened, f"{server.url}/{kind}/1") == (200, "OK", PICTURE)
    assert "Accept-Encoding: identity" in server.heads[0]


def test_g2_no_spelling_of_this_machine_reaches_a_server_on_it(server, monkeypatch):
    """The port is one that may be asked for, so that the host alone is judged."""
    monkeypatch.setattr(address, "PORTS", frozenset({80, server.port}))
    answers = {}
    with Gate(**LIMITS) as opened:
        for host in (*REFUSED_HOSTS, *USERS):
            if host.isascii() and " " not in host:
                answers[host] = ask(opened, f"http://{host}:{server.port}/good/1")[0]
    assert set(answers.values()) == {403}
    assert len(answers) >= 30
    assert server.requests == []
    with Gate(**LIMITS, allowed=address.allowed_hosts(["127.0.0.1"])) as opened:
        assert ask(opened, f"{server.url}/good/1")[0] == 200  # so the server can be reached


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["93.184.216.34", "10.0.0.1"], ["::1"], ["fe80::1%lo"], ["::ffff:127.0.0.1"], ["0.0.0.0"]],
)
def test_g2_a_public_name_that_leads_to_a_private_address_is_refused(addresses):
    reached = []

    async def connect(where: str, port: int) -> gate.Streams:
        reached.append(where)
        raise OSError

    with Gate(**LIMITS, resolve=lambda host, port: addresses, connect=connect) as opened:
        status, reason, _ = ask(opened, "http://example.org/a.jpg")
    assert status == 403
    assert reason.startswith("refused: ")
    assert reached == []


def test_g4_the_connection_goes_to_the_very_address_that_was_judged(server):
    """A name server that says a public address first, and this machine ever after."""
    answers = iter([["93.184.216.34"], ["127.0.0.1"], ["127.0.0.1"]])
    reached = []

    async def connect(where: str, port: int) -> gate.Streams:
        reached.append((where, port))
        return await gate.connect("127.0.0.1", server.port)  # stands for the machine at that address

    with Gate(**LIMITS, resolve=lambda host, port: next(answers), connect=connect) as opened:
        assert [ask(opened, "http://example.org/good/1")[0] for _ in range(3)] == [200, 200, 200]
    assert reached == [("93.184.216.34", 80)] * 3
    assert next(answers) == ["127.0.0.1"]  # it was asked once: what it said then holds


def test_g5_a_body_that_is_too_large_is_cut_off_whatever_its_header_says(server):
    with Gate(**LIMITS, allowed=address.allowed_hosts([server.place])) as opened:
        assert ask(opened, f"{server.url}/endless/1")[:2] == (502, "too large: more than 50,000 bytes")
        claimed = ask(opened, f"{server.url}/claims/1")[:2]
    assert claimed == (502, "too large: says it has 10,737,418,240 bytes, expected at most 50,000")


def test_g5_an_answer_that_ends_too_soon_is_no_answer(server):
    with Gate(**LIMITS, allowed=address.allowed_hosts([server.place])) as opened:
        assert ask(opened, f"{server.url}/cut/1")[:2] == (502, "cut short: 5,120 of 10,240 bytes")
        assert ask(opened, f"{server.url}/closed/1")[0] == 502
        assert ask(opened, f"{server.url}/garbage/1")[:2] == (502, "found bytes that are no HTTP")


@pytest.mark.parametrize("kind", ["slow", "silent"])
def test_g6_an_answer_has_a_deadline_as_a_whole(server, kind):
    began = time.monotonic()
    with Gate(**LIMITS, allowed=address.allowed_hosts([server.place])) as opened:
        assert ask(opened, f"{server.url}/{kind}/1")[:2] == (504, "slow: not done in 1 s")
    assert time.monotonic() - began < 10


def test_g7_a_packed_answer_is_not_unpacked(server):
    """50 MB of zeros come as 51 kB and stay so."""
    with Gate(**{**LIMITS, "most_bytes": 60_000}, allowed=address.allowed_hosts([server.place])) as opened:
        sizes = []
        peak = peak_bytes(lambda turn: sizes.append(len(ask(opened, f"{server.url}/bomb/1")[2])), tries=1)
    assert sizes[0] < 60_000
    assert peak < 160 << 20  # of which the server, in this process, takes 50 MB for the zeros


def test_g10_a_host_that_is_busy_is_left_alone_for_as_long_as_it_asks(server):
    """Forty requests at once: each knows what became of it, few of them reach the host."""

    async def connect(where: str, port: int) -> gate.Streams:
        return await gate.connect("127.0.0.1", server.port)

    with (
        Gate(**{**LIMITS, "timeout_s": 10.0}, resolve=lambda host, port: ["93.184.216.34"], connect=connect) as opened,
        concurrent.futures.ThreadPoolExecutor(40) as threads,
    ):
        ask(opened, "http://example.org/down/1")
        assert ask(opened, "http://example.org/good/1")[0] == 200  # after half a second
        answers = list(threads.map(lambda number: ask(opened, f"http://example.org/busy/{number}"), range(40)))
    assert {status for status, _, _ in answers} == {429}
    assert sum(path.startswith("/busy/") for path in server.requests) <= gate.PER_HOST
    assert any("asks for a pause" in reason for _, reason, _ in answers)


@pytest.mark.parametrize(
    ("error", "reason", "num"),
    [
        (socket.gaierror(socket.EAI_NONAME, "none"), "the host has no address", 0),
        (socket.gaierror(socket.EAI_AGAIN, "later"), "the name server does not answer", 1),
        (UnicodeError("label too long"), "the host has no address", 0),
    ],
    ids=["unknown", "later", "label"],
)
def test_a_name_that_leads_nowhere_is_told_from_a_name_server_that_is_silent(error, reason, num):
    def resolve(host: str, port: int) -> list[str]:
        raise error

    with Gate(**LIMITS, resolve=resolve) as opened:
        assert ask(opened, "http://example.org/a.jpg")[:2] == (502, reason)
        assert opened.num_unresolved == num


def test_only_a_program_that_knows_the_password_passes(server):
    with Gate(**LIMITS, allowed=address.allowed_hosts([server.place])) as opened:
        assert ask(opened, f"{server.url}/good/1", password="guess")[0] == 407
        with Gate(**LIMITS) as other:
            assert urlsplit(other.url).password != urlsplit(opened.url).password
    assert server.requests == []


def test_g12_what_a_server_gives_and_a_program_says_passes_only_as_far_as_pictures_need_it(server):
    """No cookie reaches the program; no header of the program but its name reaches the server."""
    with Gate(**LIMITS, allowed=address.allowed_hosts([server.place])) as opened:
        right = urlsplit(opened.url)
        text = base64.b64encode(f"{right.username}:{right.password}".encode()).decode()
        headers = {"Proxy-Authorization": f"Basic {text}", "Cookie": "secret=1", "Authorization": "Basic abc"}
        connection = http.client.HTTPConnection("127.0.0.1", opened.port, timeout=20)
        connection.request("GET", f"{server.url}/good/1", headers={**headers, "User-Agent": "me"})
        answer = connection.getresponse()
        names = {name.lower() for name, _ in answer.getheaders()}
        connection.close()
    assert "set-cookie" not in names
    sent = server.heads[0].lower()
    assert "user-agent: me" in sent
    assert not [word for word in ("cookie", "authorization", "proxy", "basic") if word in sent]


def test_an_address_on_the_block_list_is_not_asked_for(server):
    url = f"{server.url}/good/1"
    with Gate(**LIMITS, allowed=address.allowed_hosts([server.place]), blocked=frozenset({url})) as opened:
        assert ask(opened, url)[0] == 403
    assert server.requests == []


# tunnels


def tunnel(opened: Gate, place: str, trusted: Path, path: str) -> bytes:
    """What a client of https reads through the gate. Raises OSError."""
    right = urlsplit(opened.url)
    text = base64.b64encode(f"{right.username}:{right.password}".encode()).decode()
    host, port = place.rsplit(":", 1)
    context = ssl.create_default_context(cafile=str(trusted))
    connection = http.client.HTTPSConnection("127.0.0.1", opened.port, timeout=20, context=context)
    connection.set_tunnel(host, int(port), {"Proxy-Authorization": f"Basic {text}"})
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PictureServer, Path]]:
    context, trusted = certificate(tmp_path_factory.mktemp("tls"))
    with PictureServer(tls=context) as one:
        one.pictures = {"/good/1": PICTURE, "/endless/1": PICTURE}
        yield one, trusted


def test_https_passes_and_has_the_same_limits(secure):
    server, trusted = secure
    with Gate(**LIMITS, allowed=address.allowed_hosts([server.place])) as opened:
        assert tunnel(opened, server.place, trusted, "/good/1") == PICTURE
        endless = len(tunnel(opened, server.place, trusted, "/endless/1"))
        assert opened.notes[server.place].startswith("too large: more than")
        with pytest.raises((OSError, http.client.HTTPException)):
            tunnel(opened, server.place, trusted, "/slow/1")
        assert opened.notes[server.place] == "slow: not done in 1 s"
    assert LIMITS["most_bytes"] < endless < 2 * LIMITS["most_bytes"] + gate.TUNNEL_EXTRA


@pytest.mark.parametrize(
    "place", ["127.0.0.1:443", "169.254.169.254:443", "[::1]:443", "localhost:443", "example.org:22"]
)
def test_g2_a_tunnel_to_what_is_refused_is_refused(place, tmp_path):
    _, trusted = certificate(tmp_path)
    with Gate(**LIMITS) as opened, pytest.raises(OSError, match="403 refused: "):
        tunnel(opened, place, trusted, "/")


# behind a proxy of the site


def test_g12_a_proxy_is_used_where_a_recipe_asks_for_it_and_gets_what_was_judged_by_its_spelling(server, tmp_path):
    """Names are left to the proxy: here nobody but it knows them. A mirror is asked without it."""
    asked_for: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked_for.append(host)
        return ["127.0.0.1"]

    context, trusted = certificate(tmp_path, "93.184.216.34")
    with (
        PictureServer({"/good/1": PICTURE}, tls=context) as secure,
        PictureServer({"http://example.org/1.jpg": PICTURE}) as proxy,
        Gate(
            **LIMITS,
            proxy=("proxy.lan", proxy.port),
            allowed=address.allowed_hosts([f"mirror.lan:{server.port}"]),
            resolve=resolve,
        ) as opened,
    ):
        proxy.tunnels_to = ("127.0.0.1", secure.port)
        assert ask(opened, "http://example.org/1.jpg") == (200, "OK", PICTURE)
        assert tunnel(opened, "93.184.216.34:443", trusted, "/good/1") == PICTURE
        assert ask(opened, "http://localhost/1.jpg")[0] == ask(opened, "http://10.0.0.1/1.jpg")[0] == 403
        with pytest.raises(OSError, match="403 refused"):
            tunnel(opened, "169.254.169.254:443", trusted, "/")
        assert ask(opened, f"http://mirror.lan:{server.port}/good/1")[2] == PICTURE
        assert proxy.requests == ["http://example.org/1.jpg", "93.184.216.34:443"]
        assert "authorization" not in "".join(proxy.heads).lower()
    assert set(asked_for) == {"proxy.lan", "mirror.lan"}


def test_a_proxy_that_gives_no_tunnel_or_is_not_there_is_named(server, tmp_path):
    _, trusted = certificate(tmp_path)
    with Gate(**LIMITS, proxy=("127.0.0.1", server.port)) as opened, pytest.raises(OSError, match="proxy answers 404"):
        tunnel(opened, "example.org:443", trusted, "/")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        with Gate(**LIMITS, proxy=taken.getsockname()) as opened:
            assert ask(opened, "http://example.org/1.jpg")[:2] == (502, "the site's proxy does not answer")


# faults of the gate itself


def test_a_client_that_says_nothing_or_nonsense_ends_nobody_else(server):
    with Gate(**LIMITS, allowed=address.allowed_hosts([server.place])) as opened:
        silent = socket.create_connection(("127.0.0.1", opened.port), timeout=5)
        for nonsense in (b"\x00\r\n\r\n", b"GET\r\n\r\n", b"A" * 100_000, b"GET http://a.b/ HTTP/1.1\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", opened.port), timeout=5) as one:
                one.sendall(nonsense)
        assert ask(opened, f"{server.url}/good/1")[0] == 200
        silent.close()


def test_a_closed_gate_leaves_no_thread_and_no_port():
    before = threading.active_count()
    with Gate(**LIMITS) as opened:
        port = opened.port
    assert threading.active_count() == before
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
