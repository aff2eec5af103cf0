"""The gate: a forward proxy on loopback through which img2dataset fetches, so that our limits hold and not its own.

In: GET of http addresses and CONNECT to hosts of https, from programs that know the gate's password. Out: the answer of
the host, or one of our own whose reason phrase says why (`HTTP Error 403: refused: ...` in img2dataset's table). On
disk: nothing.

    which address   every request is judged, so each hop of a redirect is (`retrieve.download.address`)
    which machine   the host is resolved once, all its addresses must be public, and the connection goes to one of these
    how much        a body that is longer than the limit is cut off, whatever its header claims
    how long        one deadline for the whole answer, however slowly it drips
    how often       at most `PER_HOST` requests to a host at once, unless a recipe allows it by name; none for a while
                    after it answered 429 or 503

An http answer is read to its end here and handed on with its true length, so half an answer is never taken for a whole
one. Of https only bytes pass: their number and their time are limited, their meaning is not seen. An https answer
without a length that is cut here looks whole to the program (Python's ssl takes every end for an end of file): the
Maker refuses it for its size, or as half a picture.
"""

import asyncio
import base64
import contextlib
import hmac
import secrets
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeAlias

from retrieve.download.address import Allowed, Refused, Target, check_address, is_allowed, target_of
from retrieve.download.http_answer import MAX_HEAD, Answer, Stopped, parse_head, read_answer

PER_HOST = 16  # requests to one host at once
MAX_AT_ONCE = 1 << 16
LONGEST_PAUSE_S = 60.0  # that a host may ask for
NAMES_KEPT_S = 60.0  # for which what a name resolved to is used again
MAX_KEPT = 100_000  # names and notes
CONNECT_TRIES = 3  # addresses of a host
MAX_UP = 1 << 17  # bytes that a program may send through a tunnel: a handshake and a request
TUNNEL_EXTRA = 1 << 17  # bytes of a tunnel beside the picture: certificates, headers
USER = "fetch"
BUSY = frozenset({429, 503})

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Resolve: TypeAlias = Callable[[str, int], list[str]]  # host, port -> IP addresses; raises OSError
Connect: TypeAlias = Callable[[str, int], Awaitable[Streams]]  # IP address, port


def resolve(host: str, port: int) -> list[str]:
    """As the system resolves names; v4 first."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(one[4][0]) for one in sorted(found, key=lambda one: one[0] != socket.AF_INET)))


async def connect(address: str, port: int) -> Streams:
    """To an IP address: no name is looked up again."""
    return await asyncio.open_connection(address, port, limit=MAX_HEAD)


@dataclass
class _Host:
    """What the gate remembers of a host."""

    turns: asyncio.Semaphore
    not_before: float = 0.0  # of `time.monotonic`
    times_busy: int = 0  # answers of `BUSY`, one after the other


class Gate:
    """A context manager: the gate is open inside. Its thread ends with it; other threads may read its counts."""

    def __init__(
        self,
        *,
        timeout_s: float,
        most_bytes: int,
        threads: int,
        allowed: Allowed = frozenset(),
        blocked: frozenset[str] = frozenset(),
        proxy: tuple[str, int] | None = None,
        resolve: Resolve = resolve,
        connect: Connect = connect,
    ) -> None:
        """`allowed`: hosts whose addresses are not judged. `blocked`: URLs that are not asked for. `proxy`: host and
        port of the site's own, for all but `allowed`: it resolves names, so that only their spelling is judged here."""
        self.timeout_s, self.most_bytes = timeout_s, most_bytes
        self.allowed, self.blocked, self.proxy = allowed, blocked, proxy
        self.num_done = 0  # requests that were answered or refused
        self.num_answers = 0  # of them, by a host
        self.num_unresolved = 0  # of them, to hosts whose name server did not answer
        self.notes: dict[str, str] = {}  # "host:port" of a tunnel -> why it was cut; the latest
        self._resolve, self._connect = resolve, connect
        self._password = secrets.token_urlsafe(32)
        self._pass = f"Basic {base64.b64encode(f'{USER}:{self._password}'.encode()).decode()}"
        self._names: dict[str, tuple[float, list[str]]] = {}
        self._hosts: dict[str, _Host] = {}
        self._resolvers = ThreadPoolExecutor(threads, "resolve")
        self._port = 0
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Future[None] | None = None
        self._thread = threading.Thread(target=self._run, name="gate", daemon=True)

    @property
    def url(self) -> str:
        """What a program needs as its proxy; holds the password."""
        return f"http://{USER}:{self._password}@127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        """On 127.0.0.1."""
        return self._port

    def open(self) -> None:
        """Once. Raises RuntimeError if no port can be had."""
        self._thread.start()
        if not self._ready.wait(30) or not self._port:
            raise RuntimeError("found no port on 127.0.0.1 for the gate of downloads, expected one within 30 s")

    def close(self) -> None:
        """Ends what is under way; may be called again."""
        if self._loop is not None and self._over is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._end)
        self._thread.join(10)
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._open())
        finally:
            self._ready.set()

    def _end(self) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    async def _open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = self._loop.create_future()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=MAX_HEAD)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        while not self._over.done():
            await asyncio.wait([self._over], timeout=3600)
        server.close()

    # one request

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection carries one request. Nothing of it ends the gate."""
        try:
            async with asyncio.timeout(30):  # a program that says nothing
                head = parse_head(await reader.readuntil(b"\r\n\r\n"))
            await self._answer(head.first, head.values("proxy-authorization"), head.value("user-agent"), reader, writer)
        except (Stopped, TimeoutError, OSError, EOFError, asyncio.LimitOverrunError):
            pass  # the program has gone, or speaks no HTTP
        finally:
            with contextlib.suppress(OSError):
                writer.close()

    async def _answer(
        self,
        first: str,
        passes: list[str],
        agent: str | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        method, _, rest = first.partition(" ")
        address = rest.rpartition(" ")[0]
        if len(passes) != 1 or not hmac.compare_digest(passes[0].encode(), self._pass.encode()):
            await _send(writer, Answer(407, "this gate is another program's"))
            return
        try:
            if not first.isprintable():
                raise Stopped(400, "found bytes that are no HTTP")
            if method == "CONNECT":
                await self._tunnel(self._judged(f"https://{address}/"), reader, writer)
            elif method == "GET":
                await _send(writer, await self._fetch(self._judged(address), agent))
            else:
                raise Stopped(405, f"found {method[:20]}, expected GET")
        except Refused as error:
            await _send(writer, Answer(403, str(error)))
        except Stopped as stopped:
            await _send(writer, Answer(stopped.status, stopped.words))
        finally:
            self.num_done += 1

    def _judged(self, address: str) -> Target:
        target = target_of(address, self.allowed)
        if target.url in self.blocked or address in self.blocked:
            raise Refused("refused: the address is on the block list")
        return target

    async def _fetch(self, target: Target, agent: str | None) -> Answer:
        if target.scheme != "http":
            raise Refused(f"refused: found {target.scheme} without a tunnel")
        async with self._turn(target) as host, self._deadline():
            upstream, up = await self._reach(target)
            try:
                path = target.path if self._proxy_of(target) is None else target.url
                asked = [f"GET {path} HTTP/1.1", f"Host: {target.authority}", "Accept-Encoding: identity"]
                asked += [f"User-Agent: {agent}"] if agent else []
                up.write("\r\n".join([*asked, "Connection: close", "", ""]).encode("latin-1"))
                answer = await read_answer(upstream, self.most_bytes)
            except OSError as error:
                raise Stopped(502, f"the connection broke off: {error.strerror or type(error).__name__}") from None
            finally:
                up.transport.abort()
            self.num_answers += 1
            _remember(host, answer)
            return answer

    async def _tunnel(self, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with self._turn(target):
            async with self._deadline():
                upstream, up = await self._reach(target)
                if self._proxy_of(target) is not None:
                    await _tunnel_of(upstream, up, target)
            place = f"{target.host}:{target.port}"
            try:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                async with asyncio.timeout(self.timeout_s):
                    await self._pass_bytes(reader, writer, upstream, up)
            except TimeoutError:
                self._note(place, f"slow: not done in {self.timeout_s:g} s")
                writer.transport.abort()
            except Stopped as stopped:  # what came goes on to the program: it is more than a picture may have
                self._note(place, stopped.words)
            except OSError:
                self._note(place, "the connection broke off")
            finally:
                up.transport.abort()

    def _note(self, place: str, why: str) -> None:
        if place in self.notes or len(self.notes) < MAX_KEPT:
            self.notes[place] = why

    async def _pass_bytes(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        upstream: asyncio.StreamReader,
        up: asyncio.StreamWriter,
    ) -> None:
        """Both ways, until the host has said all."""
        sending = asyncio.create_task(_pipe(reader, up, MAX_UP))
        try:
            num = await _pipe(upstream, writer, self.most_bytes + TUNNEL_EXTRA + self.most_bytes // 16)
            self.num_answers += num > 0
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError, Stopped):
                await sending

    @contextlib.asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.timeout_s):
                yield
        except TimeoutError:
            raise Stopped(504, f"slow: not done in {self.timeout_s:g} s") from None

    @contextlib.asynccontextmanager
    async def _turn(self, target: Target) -> AsyncIterator[_Host]:
        """Wait for a place among the requests to a host, and until it may be asked again."""
        at_once = MAX_AT_ONCE if is_allowed(target.host, target.port, self.allowed) else PER_HOST
        host = self._hosts.setdefault(target.host, _Host(asyncio.Semaphore(at_once)))
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self.timeout_s):
                await host.turns.acquire()
        except TimeoutError:
            raise Stopped(504, f"the host is asked for {PER_HOST} other pictures") from None
        try:
            while (pause := host.not_before - time.monotonic()) > 0:
                if time.monotonic() + pause > begun + self.timeout_s:
                    raise Stopped(429, f"the host asks for a pause, of which {pause:.0f} s are left")
                await asyncio.sleep(pause)
            yield host
        finally:
            host.turns.release()
            if len(self._hosts) > MAX_KEPT and not host.times_busy:
                self._hosts.pop(target.host, None)

    async def _reach(self, target: Target) -> Streams:
        """A connection to one of the addresses that were judged, and to no other; or to the site's proxy."""
        proxy = self._proxy_of(target)
        if proxy is None:
            addresses, port, name = await self._addresses(target), target.port, "host"
        else:
            addresses, port, name = await self._resolved(*proxy), proxy[1], "site's proxy"
        for address in addresses[:CONNECT_TRIES]:
            try:
                async with asyncio.timeout(self.timeout_s / CONNECT_TRIES):
                    return await self._connect(address, port)
            except (OSError, TimeoutError):
                continue
        raise Stopped(502, f"the {name} does not answer")

    def _proxy_of(self, target: Target) -> tuple[str, int] | None:
        return None if is_allowed(target.host, target.port, self.allowed) else self.proxy

    async def _addresses(self, target: Target) -> list[str]:
        kept = self._names.get(target.host)
        if kept is not None and kept[0] > time.monotonic():
            return kept[1]
        found = await self._resolved(target.host, target.port)
        if is_allowed(target.host, target.port, self.allowed):
            return found  # not kept: of such a host another port may be refused
        for address in found:
            check_address(address)
        if len(self._names) >= MAX_KEPT:
            self._names.clear()
        self._names[target.host] = (time.monotonic() + NAMES_KEPT_S, found)
        return found

    async def _resolved(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._resolvers, self._resolve, host, port)
        except socket.gaierror as error:
            if error.errno != socket.EAI_AGAIN:
                raise Stopped(502, "the host has no address") from None
            self.num_unresolved += 1
            raise Stopped(502, "the name server does not answer") from None
        except (OSError, UnicodeError):  # UnicodeError: a label that is too long
            raise Stopped(502, "the host has no address") from None


async def _tunnel_of(upstream: asyncio.StreamReader, up: asyncio.StreamWriter, target: Target) -> None:
    """Ask the site's proxy for a tunnel. Raises Stopped if it gives none."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    up.write(f"CONNECT {host}:{target.port} HTTP/1.1\r\nHost: {host}:{target.port}\r\n\r\n".encode())
    try:
        status = parse_head(await upstream.readuntil(b"\r\n\r\n")).first.partition(" ")[2][:3]
    except (OSError, EOFError, asyncio.LimitOverrunError):
        status = "nothing"
    if status != "200":
        up.transport.abort()
        raise Stopped(502, f"the site's proxy answers {status}, expected a tunnel")


def _remember(host: _Host, answer: Answer) -> None:
    """After 429 or 503 a host is left alone: for as long as it asks, or for twice the last time."""
    if answer.status not in BUSY:
        host.times_busy = 0
        return
    host.times_busy += 1
    pause = max(answer.retry_after_s, 0.25 * 2.0 ** min(host.times_busy, 10))
    host.not_before = max(host.not_before, time.monotonic() + min(pause, LONGEST_PAUSE_S))


async def _pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter, most: int) -> int:
    """How many bytes went through. Raises Stopped above `most`."""
    num = 0
    while data := await source.read(1 << 16):
        num += len(data)
        sink.write(data)
        await sink.drain()
        if num > most:
            raise Stopped(502, f"too large: more than {most:,} bytes")
    return num


async def _send(writer: asyncio.StreamWriter, answer: Answer) -> None:
    writer.write(answer.as_bytes())
    async with asyncio.timeout(30):
        await writer.drain()
