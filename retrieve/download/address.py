"""Addresses on the web: which pictures may be asked for, judged by how an address is written and where it leads.

In: a URL from a pool or a redirect; an IP address that a name stands for. Out: a `Target`, or `Refused` with the reason
in one line. On disk: nothing.

Refused are: other schemes than http and https; users and passwords; hosts that are no plain name, such as numbers in
any spelling, names without a dot and names that end with one; ports other than `PORTS`; addresses of machines that are
not on the public internet. Hosts that a recipe allows by name may have any address.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import quote

from shards.disk.safe_text import quoted

PORTS = frozenset({80, 443, 8080, 8443})
DEFAULT_PORT = {"http": 80, "https": 443}
MAX_URL = 4096  # characters
Allowed: TypeAlias = frozenset[tuple[str, int | None]]  # host in lower case, port; None: any of `PORTS`

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30}):(//)?([^/?#]*)([^#]*)", re.S)
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)+[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])?")
_OF_MACHINES = frozenset(
    ("localhost", "local", "localdomain", "internal", "intranet", "lan", "home", "corp", "private", "arpa", "onion")
)
_PLAIN = "".join(chr(code) for code in range(0x21, 0x7F))  # what an address keeps; the rest is percent-encoded
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(text)
    for text in (
        # of v4: what `is_global` of some versions of Python lets pass
        *("192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4"),
        # of v6: addresses that hold one of v4 (Teredo, 6to4), and examples
        *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
    )
)


class Refused(ValueError):
    """An address that nothing is asked for; one line that says why, without the address itself."""


@dataclass(frozen=True)
class Target:
    """An address that may be asked for, as far as its spelling tells."""

    scheme: str  # http or https
    host: str  # in lower case; v6 without brackets
    port: int
    path: str  # with the query; begins with "/"; printable ASCII

    @property
    def authority(self) -> str:
        """Host and, if it is not the scheme's own, port, as in a `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORT[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The one spelling that is asked for; no fragment."""
        return f"{self.scheme}://{self.authority}{self.path}"


def target_of(url: str, allowed: Allowed = frozenset()) -> Target:
    """Raises Refused. Blanks and characters of other scripts in the path are percent-encoded."""
    if len(url) > MAX_URL:
        raise Refused(f"refused: found {len(url):,} characters, expected an address of at most {MAX_URL:,}")
    found = _URL.fullmatch(url.partition("#")[0])
    if found is None:
        raise Refused("refused: found no scheme, expected http:// or https://")
    scheme, slashes, place, path = found[1].lower(), found[2], found[3], found[4]
    if scheme not in DEFAULT_PORT or slashes is None:
        raise Refused(f"refused: found the scheme {quoted(scheme, 40)}, expected http:// or https://")
    if any(ord(one) < 0x20 or ord(one) == 0x7F for one in url) or "\\" in place:
        raise Refused("refused: found control characters or backslashes in the address")
    if "@" in place:
        raise Refused("refused: found a user in the address, expected a host alone")
    host, port = _host_and_port(place, scheme)
    _check_host(host, port, allowed)
    path = path if path.startswith("/") else f"/{path}"
    try:
        return Target(scheme, host, port, quote(path, safe=_PLAIN))
    except UnicodeEncodeError:  # half a pair of surrogates
        raise Refused("refused: found characters that are no text") from None


def check_address(text: str) -> None:
    """Raises Refused for an IP address of a machine that is not on the public internet."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:  # with a zone, such as fe80::1%eth0
        raise Refused(f"refused: found {quoted(text, 60)}, expected a public IP address") from None
    is_public = address.is_global and not address.is_multicast and not address.is_reserved
    if address.version == 6:
        is_public = is_public and address in _PUBLIC_V6
    if not is_public or any(address.version == one.version and address in one for one in _NOT_PUBLIC):
        raise Refused(f"refused: {address} is no public address; a mirror is allowed with download.allow_hosts")


def is_allowed(host: str, port: int, allowed: Allowed) -> bool:
    """Whether a recipe allows the host by name, whatever its address."""
    return (host, port) in allowed or ((host, None) in allowed and port in PORTS)


def allowed_hosts(texts: Iterable[str], field: str = "download.allow_hosts") -> Allowed:
    """``["mirror.lan:8080", "[fd00::1]"]`` read. Raises ValueError for what is neither HOST nor HOST:PORT."""
    found: set[tuple[str, int | None]] = set()
    for text in texts:
        try:
            host, port = _host_and_port(text.lower(), "http")
        except Refused:
            host = ""
        if not re.fullmatch(r"[a-z0-9_.:-]+", host):
            raise ValueError(f"{field}: found {quoted(text, 80)}, expected HOST or HOST:PORT such as mirror.lan:8080")
        has_port = text.endswith(f":{port}") and not text.endswith("]")
        found.add((host, port if has_port else None))
    return frozenset(found)


def _host_and_port(place: str, scheme: str) -> tuple[str, int]:
    """``"[::1]:80"`` -> ``("::1", 80)``; nothing is known of the host yet."""
    if place.startswith("["):
        host, bracket, rest = place[1:].partition("]")
        port = rest.removeprefix(":")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            raise Refused("refused: found a host in brackets that is no address")
    else:
        host, colon, port = place.partition(":")
        rest = colon + port
    if rest and not _PORT.fullmatch(port):
        raise Refused("refused: found a port that is no number from 1 to 65535")
    number = int(port) if rest else DEFAULT_PORT[scheme]
    if number > 65535:
        raise Refused("refused: found a port that is no number from 1 to 65535")
    return host.lower(), number


def _check_host(host: str, port: int, allowed: Allowed) -> None:
    if is_allowed(host, port, allowed):
        return
    if port not in PORTS:
        raise Refused(f"refused: found port {port}, expected one of {', '.join(map(str, sorted(PORTS)))}")
    if ":" in host or re.fullmatch(r"[0-9.]+", host):
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise Refused(
                f"refused: found the host {quoted(host, 60)}, expected a name or a plain IP address"
            ) from None
        check_address(host)
        return
    if not _NAME.fullmatch(host) or len(host) > 253:
        raise Refused(f"refused: found the host {quoted(host, 60)}, expected a name such as example.org")
    if host.rpartition(".")[2] in _OF_MACHINES:
        raise Refused(
            f"refused: found the host {quoted(host, 60)}, a name of private networks; a mirror is allowed with "
            "download.allow_hosts"
        )
