"""What stands before every route: who may ask, and the headers of every answer.

In: requests. Out: they go on, or are refused in one line. On disk: nothing.

    Host      on loopback only names of this machine: a page from elsewhere whose name was pointed here is refused
    Origin    a request that a page of another origin makes is refused; programs send none
    token     where there is one, all but the page itself asks for `Authorization: Bearer TOKEN`

No answer may be framed, kept, or read by another origin, and no page of ours runs a script that stands in it.
"""

import hmac
import ipaddress
import json
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shards.disk.safe_text import one_line, quoted

OPEN = frozenset({"/", "/page.css", "/page.js", "/mark.svg"})  # they say nothing of the pool
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
OUR_HEADER = "x-sixfold"  # no page of another origin may send it without being asked about it first
MOST_PATH = 100  # characters; ours are shorter
MOST_HEADER = 4096  # bytes of a Host, Origin or Authorization


class Gate:
    """Around an application. `count` is told the path and the status of every answer, `warn` of faults of ours."""

    def __init__(
        self,
        app: ASGIApp,
        token: str | None,
        is_loopback: bool,
        count: Callable[[str, int], None],
        warn: Callable[[str], None],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._app, self._token, self._is_loopback = app, token, is_loopback
        self._count, self._warn = count, warn
        self.close = close  # ends what goes on behind it

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def told(message: MutableMapping[str, Any]) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                self._count(scope["path"], message["status"])
                ours = {name for name, _ in HEADERS}
                kept = [(name, value) for name, value in message.get("headers", []) if name.lower() not in ours]
                message = {**message, "headers": [*kept, *HEADERS]}
            await send(message)

        refused = self._refusal(scope)
        if refused is not None:
            await answer_error(told, *refused)
            return
        try:
            await self._app(scope, receive, told)
        except Exception as error:  # a fault of ours: one line for each side, and the server goes on
            self._warn(one_line(f"{scope['path'][:80]}: {type(error).__name__}: {error}", 300))
            if not has_begun:
                await answer_error(told, 500, "the server could not answer this; its output says why")

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        if len(scope["path"]) > MOST_PATH:
            return 404, "found no such page"
        headers = scope["headers"]
        hosts, origins, tokens, sites = (
            [value for key, value in headers if key == name]
            for name in (b"host", b"origin", b"authorization", b"sec-fetch-site")
        )
        if any(len(value) > MOST_HEADER for value in (*hosts, *origins, *tokens)):
            return 400, "found a header that is too long"
        if len(hosts) != 1:
            return 400, f"Host: found {len(hosts)} headers, expected one"
        host = hosts[0].decode("latin-1").lower()
        if self._is_loopback and not is_own_name(host):
            return 421, f"Host: found {quoted(host, 80)}, expected localhost or a loopback address"
        own = {f"{scheme}://{host}".encode("latin-1") for scheme in ("http", "https")}
        if any(origin.lower() not in own for origin in origins):
            return 403, "Origin: found a page of another origin, expected our own or a program"
        if scope["path"] not in OPEN and any(site not in (b"same-origin", b"none") for site in sites):
            return 403, "Sec-Fetch-Site: found a page of another origin, expected our own or a program"
        if self._token is not None and scope["path"] not in OPEN:
            expected = f"Bearer {self._token}".encode()
            if len(tokens) != 1 or not hmac.compare_digest(tokens[0], expected):
                return 401, "Authorization: found no token or a wrong one, expected `Bearer` and the server's token"
        return None


def is_own_name(host: str) -> bool:
    """Whether a Host header names this machine itself: localhost or a loopback address, with any port."""
    name, _, port = host.rpartition(":")
    if not name or not port.isdecimal():
        name = host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


async def answer_error(send: Send, status: int, text: str) -> None:
    """One line as JSON."""
    body = json.dumps({"error": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    start: Message = {"type": "http.response.start", "status": status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": body})
