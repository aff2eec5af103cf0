"""The routes of a server: clip-retrieval's API, pictures, the page.

In: a `Search`. Out: an application for uvicorn. On disk: what `retrieve.serve.search` reads and writes.

    POST /knn-service      a text, a picture or a vector -> the nearest rows, as clip-retrieval answers
    POST /metadata         rows -> what the tables say of them
    GET  /indices-list     the name of the pool, in a list
    GET  /metrics          for Prometheus;  /metrics-summary  for people
    GET  /image?row=ROW    a small picture of a row, encoded anew
    GET  /about            what the page asks first
    POST /block            rows -> the list of what never leaves; needs the header `X-Sixfold: block`
    GET  /                 the page, /page.css, /page.js, /mark.svg

An error is `{"error": "one line"}`. Nothing is fetched from anywhere.
"""

import base64
import json
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from retrieve.serve.body import (
    IDS_BYTES,
    KNN_BYTES,
    BlockBody,
    KnnBody,
    MetadataBody,
    TooLarge,
    TooSlow,
    parse,
    read_body,
)
from retrieve.serve.gate import OUR_HEADER, Gate
from retrieve.serve.metrics import Metrics
from retrieve.serve.search import MOST_ROWS, MOST_TEXT, Hit, Mistake, Search
from retrieve.serve.work import Busy, Workers
from shards.views.page import STYLE, page_environment

PAGES = Path(__file__).parent / "pages"
SEARCH_THREADS, SEARCHES_WAITING, SEARCH_S = 8, 64, 60.0
PICTURE_THREADS, PICTURES_WAITING, PICTURE_S = 2, 512, 30.0
ROW_NUMBER = re.compile(r"[0-9]{1,18}")
EMBEDDED = 100  # pictures at most that stand in an answer
JSON = "application/json"

Body = TypeVar("Body", bound=BaseModel)


def application(
    search: Search, metrics: Metrics, token: str | None, is_loopback: bool, warn: Callable[[str], None]
) -> Gate:
    """Everything that listens, behind its gate."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    searches = Workers(SEARCH_THREADS, SEARCHES_WAITING, SEARCH_S, "search")
    pictures = Workers(PICTURE_THREADS, PICTURES_WAITING, PICTURE_S, "picture")
    metrics.gauge("searches_open", "Searches that wait or run", lambda: searches.num_open)
    metrics.gauge("pool_rows", "Rows of the pool", lambda: search.num_rows)
    metrics.gauge("pool_rows_kept", "Rows that are neither flagged nor blocked", lambda: search.num_kept)
    static = {"/": (_page(), "text/html; charset=utf-8"), "/page.js": (_script(), "text/javascript; charset=utf-8")}
    static["/page.css"] = (_style(), "text/css; charset=utf-8")
    static["/mark.svg"] = ((PAGES / "mark.svg").read_bytes(), "image/svg+xml")

    @app.post("/knn-service")
    async def knn(request: Request) -> Response:
        data = await _body(request, KNN_BYTES)
        until = time.monotonic() + SEARCH_S

        def answered() -> bytes:
            body = parse(data, KnnBody)
            _check_name(search, body.indice_name)
            return _json(_hits(search, search.find(body.query(), until)))

        with metrics.times["full"].time():
            return Response(await searches.run(answered), media_type=JSON)

    @app.post("/metadata")
    async def metadata(request: Request) -> Response:
        data = await _body(request, IDS_BYTES)

        def answered() -> bytes:
            body = parse(data, MetadataBody)
            _check_name(search, body.indice_name)
            return _json([{"id": row, "metadata": about} for row, about in search.about(body.ids)])

        return Response(await searches.run(answered), media_type=JSON)

    @app.post("/block")
    async def block(request: Request) -> Response:
        if request.headers.get(OUR_HEADER) != "block":
            raise HTTPException(403, "X-Sixfold: found no such header, expected `block`")
        data = await _body(request, IDS_BYTES)

        def answered() -> bytes:
            ids = parse(data, BlockBody).ids
            return _json({"rows": len(ids), "new_lines": search.block(ids), "list": str(search.block_list.own)})

        return Response(await searches.run(answered), media_type=JSON)

    @app.get("/indices-list")
    async def indices() -> Response:
        return Response(_json([search.name]), media_type=JSON)

    @app.get("/about")
    async def about() -> Response:
        own = search.block_list.own
        return Response(
            _json(
                {
                    "name": search.name,
                    "rows": search.num_rows,
                    "kept": search.num_kept,
                    "model": search.clip.spec.model,
                    "modalities": search.modalities,
                    "routes": search.routes,
                    "has_pictures": search.has_pictures,
                    "block_list": None if own is None else str(own),
                    "most_rows": MOST_ROWS,
                    "most_text": MOST_TEXT,
                }
            ),
            media_type=JSON,
        )

    @app.get("/image")
    async def image(row: str = "") -> Response:
        jpeg = await pictures.run(lambda: search.picture(int(row))) if ROW_NUMBER.fullmatch(row) else None
        if jpeg is None:
            raise HTTPException(404, "found no picture of this row")
        return Response(jpeg, media_type="image/jpeg")

    @app.get("/metrics")
    async def numbers() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/metrics-summary")
    async def summary() -> Response:
        return Response(metrics.summary(), media_type="text/plain; charset=utf-8")

    async def page(request: Request) -> Response:
        text, kind = static[request.url.path]
        return Response(text, media_type=kind)

    for path in static:
        app.get(path)(page)

    _answer_errors(app)
    known = {getattr(route, "path", "") for route in app.routes}

    def count(path: str, status: int) -> None:
        first = "/" + path.lstrip("/").partition("/")[0]
        metrics.requests.labels(first if first in known else "other", str(status)).inc()

    def closed() -> None:
        search.close()
        searches.close()
        pictures.close()

    return Gate(app, token, is_loopback, count, warn, closed)


def _answer_errors(app: FastAPI) -> None:
    """One line as JSON for each kind of error; what is not here is a fault of ours (`Gate`)."""

    def handler(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
        async def answer(request: Request, error: Exception) -> Response:
            return _error(status, str(error) or "the answer took too long; ask for less, or again in a moment")

        return answer

    for kind, status in ((Mistake, 400), (TooLarge, 413), (TooSlow, 408), (Busy, 503), (TimeoutError, 504)):
        app.add_exception_handler(kind, handler(status))

    @app.exception_handler(Exception)  # it is raised again, and told by the gate
    async def of_ours(request: Request, error: Exception) -> Response:
        return _error(500, "the server could not answer this; its output says why")

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        texts = {404: "found no such page", 405: "found another method, expected GET for pages and POST for queries"}
        is_ours = error.detail not in ("Not Found", "Method Not Allowed")
        return _error(error.status_code, error.detail if is_ours else texts.get(error.status_code, error.detail))


def _error(status: int, text: str) -> Response:
    headers = {"Retry-After": "2"} if status == 503 else {"Connection": "close"} if status in (408, 413) else None
    return Response(_json({"error": text}), status, headers, media_type=JSON)


async def _body(request: Request, at_most: int) -> bytes:
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(415, "Content-Encoding: found a compressed body, expected a plain one")
    told = request.headers.get("content-length")
    return await read_body(request.stream(), int(told) if told is not None and told.isdecimal() else None, at_most)


def _check_name(search: Search, name: str | None) -> None:
    if name is not None and name != search.name:
        raise Mistake(f"indice_name: found another name, expected {search.name!r}; GET /indices-list tells it")


def _hits(search: Search, hits: list[Hit]) -> list[dict[str, Any]]:
    """As clip-retrieval answers. A row without an address has its picture in the answer, as clip-retrieval has it of
    files; of at most `EMBEDDED` rows."""
    answer: list[dict[str, Any]] = []
    left = EMBEDDED if search.has_pictures else 0
    for hit in hits:
        about = dict(hit.about or {})
        if left and hit.about is not None and not about.get("url"):
            left -= 1
            picture = search.picture(hit.row)
            if picture is not None:
                about["image"] = base64.b64encode(picture).decode()
        answer.append({"id": hit.row, "similarity": hit.similarity, **about})
    return answer


def _json(value: object) -> bytes:
    return json.dumps(value, allow_nan=False).encode()


def _page() -> bytes:
    """The same of every pool, so it may be read before a token is given."""
    return page_environment(PAGES).get_template("serve.html").render().encode()


def _style() -> bytes:
    return STYLE.read_bytes() + (PAGES / "serve.css").read_bytes()  # our own two files


def _script() -> bytes:
    return (PAGES / "serve.js").read_bytes()
