"""HTTP as far as pictures need it: the head of a message, an answer with its whole body.

In: the bytes of a host that may lie. Out: an `Answer` whose body is whole and no longer than a limit, or `Stopped` with
a status and a reason of our own. On disk: nothing.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from shards.disk.safe_text import one_line

MAX_HEAD = 1 << 16  # bytes
MAX_INTERIM = 5  # answers 1xx before the real one
PASSED_ON = ("content-type", "location", "x-robots-tag", "retry-after")  # headers; no cookies, no others
LONGEST_RETRY_AFTER_S = 3600.0
MAX_REASON = 200


class Stopped(Exception):
    """An answer of our own takes the place of the host's."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words


@dataclass(frozen=True)
class Head:
    """The first line, and the header fields in their order; names in lower case."""

    first: str
    fields: tuple[tuple[str, str], ...]

    def values(self, name: str) -> list[str]:
        """All of a name."""
        return [value for key, value in self.fields if key == name]

    def value(self, name: str) -> str | None:
        """The first one of a name."""
        return next(iter(self.values(name)), None)


@dataclass(frozen=True)
class Answer:
    """As the gate hands it on."""

    status: int
    reason: str
    fields: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    @property
    def retry_after_s(self) -> float:
        """Seconds that the host asks for; 0 if it says none, or a date."""
        text = next((value.strip() for name, value in self.fields if name == "retry-after"), "")
        is_number = text.isascii() and text.isdecimal() and len(text) <= 9
        return min(float(text), LONGEST_RETRY_AFTER_S) if is_number else 0.0

    def as_bytes(self) -> bytes:
        """With its true length; the connection ends behind it."""
        words = one_line(self.reason, MAX_REASON).encode("ascii", "replace").decode()
        lines = [f"HTTP/1.1 {self.status} {words}", *(f"{name}: {value}" for name, value in self.fields)]
        lines += [f"content-length: {len(self.body)}", "connection: close", "", ""]
        return "\r\n".join(lines).encode("latin-1", "replace") + self.body


def parse_head(data: bytes) -> Head:
    """Raises Stopped for what is no head of HTTP."""
    lines = data.decode("latin-1").split("\r\n")
    fields = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon and name and not name[0].isspace() and name.isprintable() and value.isprintable():
            fields.append((name.lower(), value.strip()))
    if " " not in lines[0]:
        raise Stopped(502, "found bytes that are no HTTP")
    return Head(lines[0], tuple(fields))


async def read_answer(reader: asyncio.StreamReader, most_bytes: int) -> Answer:
    """The host's answer; only one that says success has its body read. Raises Stopped, OSError."""
    try:
        head, status = await _head(reader)
        fields = tuple((name, value) for name, value in head.fields if name in PASSED_ON)
        body = await _body(reader, head, most_bytes) if 200 <= status < 300 and status != 204 else b""
    except asyncio.LimitOverrunError:
        raise Stopped(502, f"found a header of more than {MAX_HEAD:,} bytes") from None
    except asyncio.IncompleteReadError as error:
        raise Stopped(
            502, "cut short" if error.partial else "the host ended the connection without an answer"
        ) from None
    return Answer(status, _words(status), fields, body)


async def _head(reader: asyncio.StreamReader) -> tuple[Head, int]:
    for _ in range(MAX_INTERIM):
        head = parse_head(await reader.readuntil(b"\r\n\r\n"))
        version, _, rest = head.first.partition(" ")
        number = rest[:3]
        if not version.startswith("HTTP/1.") or not (number.isascii() and number.isdecimal() and len(number) == 3):
            break
        if int(number) >= 200:
            return head, int(number)
    raise Stopped(502, "found bytes that are no HTTP")


async def _body(reader: asyncio.StreamReader, head: Head, most: int) -> bytes:
    coding, lengths = head.values("transfer-encoding"), set(head.values("content-length"))
    if coding:
        if [one.lower() for one in coding] != ["chunked"]:
            raise Stopped(502, "found a transfer encoding other than chunked")
        return await _chunks(reader, most)
    if lengths:
        length = _number(lengths.pop(), int)
        if lengths or length is None:
            raise Stopped(502, "found a Content-Length that is no number")
        if length > most:
            raise Stopped(502, f"too large: says it has {length:,} bytes, expected at most {most:,}")
        try:
            return await reader.readexactly(length)
        except asyncio.IncompleteReadError as error:
            raise Stopped(502, f"cut short: {len(error.partial):,} of {length:,} bytes") from None
    body = bytearray()
    while data := await reader.read(1 << 16):
        body += data
        _check_size(len(body), most)
    return bytes(body)


async def _chunks(reader: asyncio.StreamReader, most: int) -> bytes:
    body = bytearray()  # a list of a million chunks of one byte would take a hundred times their size
    while True:
        line = (await reader.readuntil(b"\r\n"))[:-2].decode("latin-1").partition(";")[0].strip()
        size = _number(line, lambda text: int(text, 16))
        if size is None:
            raise Stopped(502, "found a chunk without a length")
        if size == 0:
            return bytes(body)
        _check_size(len(body) + size, most)
        body += await reader.readexactly(size)
        await reader.readexactly(2)


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise Stopped(502, f"too large: more than {most:,} bytes")


def _number(text: str, read: Callable[[str], int]) -> int | None:
    """None for what is no plain number of at most 15 digits."""
    text = text.strip()
    if not text.isascii() or not text.isalnum() or len(text) > 15:
        return None
    try:
        return read(text)
    except ValueError:
        return None


def _words(status: int) -> str:
    """Our own words for a status: those of the host would stand in our tables."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "unknown status"
