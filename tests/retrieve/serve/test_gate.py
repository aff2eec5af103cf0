"""Who may ask: programs and our own page on this machine; from elsewhere only who knows the token."""

import json

import pytest

from retrieve.serve.gate import OPEN, is_own_name
from retrieve.serve.run import bind, token_of
from tests.support.served_pool import open_search, served

TOKEN = "0123456789abcdef-token"
PRIVATE = ("/about", "/metrics", "/metrics-summary", "/indices-list", "/image?row=1", "/knn-service", "/nothing")


def error_of(answer):
    status, headers, data = answer
    said = json.loads(data)["error"]
    assert said.isprintable()
    assert headers["x-content-type-options"] == "nosniff"
    return status, said


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:9000",
        "127.0.0.1",
        "127.0.0.1:80",
        "127.1.2.3:1234",
        "[::1]",
        "[::1]:1234",
        "LOCALHOST:1",
    ],
)
def test_names_of_this_machine_are_let_pass(server, host):
    assert server.ask("GET", "/about", None, {"Host": host})[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:1234", "localhost.evil.example", "127.0.0.1.evil.example", "localhost."),
        *("192.168.0.1", "0.0.0.0", "[::]", "2130706433", "0x7f000001", "127.1", "localhost@evil.example", ""),
        *("localhost:80:80", "[::1", "::1]:80x", "xn--localhost", "localhost/evil", "%6cocalhost"),
    ],
)
def test_j5_a_foreign_host_header_is_refused(server, host):
    assert not is_own_name(host)
    status, _ = error_of(server.ask("GET", "/", None, {"Host": host}))
    assert status in (400, 421)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Origin": "file://"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_j5_a_page_of_another_origin_may_ask_nothing(server, headers):
    for method, path, body in (
        ("POST", "/knn-service", {"text": "a"}),
        ("POST", "/block", {"ids": [1]}),
        ("GET", "/image?row=1", None),
        ("GET", "/about", None),
    ):
        status, said = error_of(server.ask(method, path, body, {"X-Sixfold": "block", **headers}))
        assert (status, "another origin" in said) == (403, True)


def test_our_own_page_and_a_link_to_it_are_let_pass(server):
    own = {"Origin": server.address.rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    assert server.ask("POST", "/knn-service", {"text": "a"}, own)[0] == 200
    assert server.ask("GET", "/", None, {"Sec-Fetch-Site": "cross-site"})[0] == 200
    assert server.ask("GET", "/about", None, {"Sec-Fetch-Site": "none"})[0] == 200


def test_j5_what_changes_something_needs_a_header_that_no_form_can_send(server):
    for headers in ({}, {"X-Sixfold": "1"}, {"Content-Type": "text/plain"}):
        status, said = error_of(server.ask("POST", "/block", {"ids": [1]}, headers))
        assert (status, "X-Sixfold" in said) == (403, True)


def test_with_a_token_all_but_the_empty_page_asks_for_it(pool, clip):
    with served(open_search(pool, clip), TOKEN) as server:
        for path in PRIVATE:
            for headers in (
                *({}, {"Authorization": "Bearer "}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": TOKEN}),
                *({"Authorization": f"bearer {TOKEN}"}, {"Authorization": f"Basic {TOKEN}"}),
            ):
                answer = server.ask("GET", path, None, headers)
                assert error_of(answer)[0] == 401
                assert answer[1]["www-authenticate"] == "Bearer"
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert server.ask("GET", "/about", None, right)[0] == 200
        assert server.ask("POST", "/knn-service", {"text": "a"}, right)[0] == 200
        for path in OPEN:
            status, _, data = server.ask("GET", path)
            assert status == 200
            assert b"digits" not in data  # the pool's name
            assert TOKEN.encode() not in data


def test_j5_other_addresses_than_loopback_need_a_token():
    for host in ("0.0.0.0", "::"):
        with pytest.raises(ValueError, match="found no token, expected one in SIXFOLD_SERVE_TOKEN"):
            bind(host, 0, None)
    place = bind("0.0.0.0", 0, TOKEN)
    place.socket.close()
    assert (place.is_loopback, place.port > 0) == (False, True)
    place = bind("localhost", 0, None)
    place.socket.close()
    assert place.is_loopback
    with pytest.raises(ValueError, match=r"--host: found 'no\.such\.host\.invalid'"):
        bind("no.such.host.invalid", 0, TOKEN)
    with pytest.raises(ValueError, match="cannot be bound"):
        bind("192.0.2.1", 0, TOKEN)  # of no machine


def test_a_token_is_long_and_fits_into_a_header():
    assert token_of({}) is None
    assert token_of({"SIXFOLD_SERVE_TOKEN": ""}) is None
    assert token_of({"SIXFOLD_SERVE_TOKEN": TOKEN}) == TOKEN
    for token in ("short", "with a blank in the middle", "umläute-umläute-umläute", "line\nline-line-line-line"):
        with pytest.raises(ValueError, match="SIXFOLD_SERVE_TOKEN: found") as told:
            token_of({"SIXFOLD_SERVE_TOKEN": token})
        assert token not in str(told.value)
