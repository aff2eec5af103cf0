"""A connection that nobody uses is closed: one that sends no request, or half of one.

In: bytes of a client. Out: requests for the application (uvicorn does all of it). On disk: nothing. uvicorn itself
waits for the first request, and for the rest of one that has begun, without end.
"""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

IDLE_S = 20.0  # without a request at work; headers come in this time, bodies have a deadline of their own


class Connection(H11Protocol):
    """uvicorn's, with a deadline."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._idle_since, self._seen = self.loop.time(), self.cycle
        self._look = self.loop.call_later(IDLE_S, self._close_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._look.cancel()
        super().connection_lost(exc)

    def _close_if_idle(self) -> None:
        now = self.loop.time()
        if self.cycle is not None and (self.cycle is not self._seen or not self.cycle.response_complete):
            self._idle_since, self._seen = now, self.cycle
        if now - self._idle_since >= IDLE_S:
            self.transport.close()
        else:
            self._look = self.loop.call_later(IDLE_S / 4, self._close_if_idle)
