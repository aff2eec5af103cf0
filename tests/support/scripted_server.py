"""A chat server that says what the test tells it to, on 127.0.0.1 and a free port.

`reply` gets the request's JSON body and returns a `Reply`; it is called in the order in which requests arrive, one call
at a time. `answering({...})` is the short way to a server that always gives the same JSON.

    with ScriptedServer(answering({"meanings": ["crane, the bird"]})) as server:
        with open_llm(LlmSpec(provider="openai", model="m", base_url=server.base_url, cache=str(cache))) as llm: ...
    assert server.num_calls == 1
"""

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web

START_S = 200


@dataclass(frozen=True)
class Reply:
    """One answer. `body` stands for the whole body where the answer is no completion at all."""

    content: str | None = None  # what the model says
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    finish_reason: str = "stop"
    refusal: str | None = None
    delay_s: float = 0.0  # before the first byte
    drip_s: float = 0.0  # between the bytes of the body
    hangs: bool = False  # never answers
    hangs_up: bool = False  # closes the connection in the middle of the body


def answering(value: object) -> Callable[[dict[str, Any]], Reply]:
    """A script that always answers with this JSON value."""
    return lambda request: Reply(json.dumps(value))


class ScriptedServer:
    """Use as a context manager. What it saw can be read at any time from the test's thread."""

    def __init__(self, reply: Callable[[dict[str, Any]], Reply]) -> None:
        self.requests: list[dict[str, Any]] = []  # bodies, in the order of arrival
        self.headers: list[dict[str, str]] = []
        self.most_in_flight = 0
        self.base_url = ""
        self._reply = reply
        self._in_flight = 0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, name="scripted-server", daemon=True)

    @property
    def num_calls(self) -> int:
        return len(self.requests)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(timeout=START_S), "the scripted server did not start"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=START_S)
        assert not self._thread.is_alive(), "the scripted server did not stop"

    def _serve(self) -> None:
        self._loop.run_until_complete(self._run())
        self._loop.close()

    async def _run(self) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", self._answer)
        runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            asked = await request.json()
            self.headers.append(dict(request.headers))
            self.requests.append(asked)
            return await self._send(request, asked, self._reply(asked))
        finally:
            self._in_flight -= 1

    async def _send(self, request: web.Request, asked: dict[str, Any], reply: Reply) -> web.StreamResponse:
        if reply.hangs:
            await self._stop.wait()
        await asyncio.sleep(reply.delay_s)
        body = reply.body if reply.body is not None else _completion(asked, reply)
        headers = {"Content-Type": "application/json"} | dict(reply.headers)
        response = web.StreamResponse(status=reply.status, headers=headers)
        response.content_length = len(body)
        await response.prepare(request)
        if reply.hangs_up:
            await response.write(body[: len(body) // 2])
            assert request.transport is not None
            request.transport.close()
        elif reply.drip_s:
            for at in range(len(body)):
                await response.write(body[at : at + 1])
                await asyncio.sleep(reply.drip_s)
        else:
            await response.write(body)
        return response


def _completion(asked: Mapping[str, Any], reply: Reply) -> bytes:
    message = {"role": "assistant", "content": reply.content, "refusal": reply.refusal}
    completion = {
        "id": "scripted",
        "object": "chat.completion",
        "created": 0,
        "model": asked.get("model"),
        "choices": [{"index": 0, "message": message, "finish_reason": reply.finish_reason}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
    }
    return json.dumps(completion).encode()
