"""A bad day of an object store: a proxy before a real S3 server that refuses, forgets to answer, and comes back.

In: the server's address, how often what happens, a seed. Out: the proxy's address, and a count of what happened.
"""

import asyncio
import random
import threading
from collections import Counter
from types import TracebackType
from typing import Self

from aiohttp import ClientSession, web

START_S = 60


class Storm:
    """Use as a context manager. `refused`: the share of requests that get 503 or 500 and are not carried out;
    `unanswered`: the share of puts that are carried out and whose answer is lost."""

    def __init__(self, server: str, refused: float, unanswered: float, seed: int) -> None:
        self.happened: Counter[str] = Counter()
        self.address = ""
        self._server, self._refused, self._unanswered = server, refused, unanswered
        self._random = random.Random(seed)
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(START_S), "the proxy did not start"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_S)

    async def _run(self) -> None:
        app = web.Application(client_max_size=2**28)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with ClientSession(auto_decompress=False) as self._client:
            self._ready.set()
            await self._stop.wait()
        await runner.cleanup()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        chance = self._random.random()
        body = await request.read()
        if chance < self._refused:
            status = self._random.choice((500, 503))
            self.happened[str(status)] += 1
            return web.Response(status=status, body=b"<Error><Code>SlowDown</Code></Error>", content_type="text/xml")
        headers = {name: value for name, value in request.headers.items() if name.lower() != "transfer-encoding"}
        async with self._client.request(
            request.method, f"{self._server}{request.raw_path}", data=body, headers=headers, skip_auto_headers=headers
        ) as answer:
            data = await answer.read()
            if request.method == "PUT" and answer.status == 200 and chance > 1 - self._unanswered:
                self.happened["unanswered"] += 1
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            self.happened["passed on"] += 1
            kept = {
                name: value
                for name, value in answer.headers.items()
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server")
            }
            response = web.Response(status=answer.status, body=None if request.method == "HEAD" else data, headers=kept)
            if request.method == "HEAD":
                response.headers["Content-Length"] = answer.headers.get("Content-Length", "0")
            return response
