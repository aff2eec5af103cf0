"""A small pool with real vectors, and a server of it that listens on loopback."""

import contextlib
import hashlib
import http.client
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gen.model.clip import Clip, ClipSpec
from gen.prompts.real_images import decode_picture
from retrieve.pool.pool import open_pool
from retrieve.pool.spec import PoolSpec
from retrieve.serve.block_list import BlockList
from retrieve.serve.metrics import Metrics
from retrieve.serve.route import open_indexes
from retrieve.serve.run import bind, serving
from retrieve.serve.search import Search
from sandbox.sets import set_scenes
from sandbox.world import render
from shards.disk.home import home
from shards.disk.jpeg import encode_jpeg
from tests.support.small_pool import write_table, write_tar_of, write_vectors

CLIP = str(home() / "sandbox" / "models" / "clip")
ROWS = 24
FLAGGED = (5, 13)  # copies of the picture before
COPIES = {9: 8, 10: 8, 17: 16}  # rows with the picture of another row, encoded worse
INKS = ("red", "blue", "green", "black")


def load_clip() -> Clip:
    return Clip.load(ClipSpec(model=CLIP))


def pictures_of_pool() -> list[bytes]:
    """JPEGs of the real digits, row by row."""
    scenes = list(itertools.islice(set_scenes("real-train"), ROWS))
    plain = [render(scene) for scene in scenes]
    found = [encode_jpeg(pixels, source_type=None) for pixels in plain]
    for row in FLAGGED:
        found[row] = encode_jpeg(plain[row - 1], 94, source_type=None)
    for row, of in COPIES.items():
        found[row] = encode_jpeg(plain[of], 90 - row, source_type=None)
    return found


def write_served_pool(
    folder: Path, clip: Clip, captions: Sequence[str] | None = None, leave_out: Sequence[str] = ()
) -> list[bytes]:
    """Two tables, two tars, vectors of both kinds; the pictures, row by row."""
    pictures = pictures_of_pool()
    captions = captions or [f"a digit in {INKS[row % 4]} ink, number {row}" for row in range(ROWS)]
    half = ROWS // 2
    for number in range(2):
        rows = range(number * half, (number + 1) * half)
        keys = [f"{number:05d}{row - rows.start:04d}" for row in rows]
        columns: dict[str, list[object]] = {
            "TEXT": [captions[row] for row in rows],
            "URL": [f"https://example.com/{row}.jpg" for row in rows],
            "sha256": [hashlib.sha256(pictures[row]).hexdigest() for row in rows],
            "NSFW": ["NSFW" if row in FLAGGED else "UNLIKELY" for row in rows],
            "key": list(keys),
        }
        write_table(
            folder / f"{number:05d}.parquet", **{name: one for name, one in columns.items() if name not in leave_out}
        )
        write_tar_of(folder / f"{number:05d}.tar", {key: pictures[row] for key, row in zip(keys, rows, strict=True)})
        seen = [decode_picture(pictures[row]) for row in rows]
        write_vectors(folder / "img_emb" / f"img_emb_{number}.npy", clip.embed_images(seen))
        write_vectors(folder / "text_emb" / f"text_emb_{number}.npy", clip.embed_texts([captions[row] for row in rows]))
    return pictures


def open_search(folder: Path, clip: Clip, own_list: Path | None = None, **fields: object) -> Search:
    """As `Search.open`, with a CLIP that is loaded already."""
    pool = open_pool(PoolSpec.model_validate({"source": str(folder), "clip": {"model": CLIP}, **fields}))
    lists = BlockList(pool.spec.block, own_list, 0.5)
    return Search(pool, clip, lists, Metrics(), open_indexes(pool, "auto", clip.digest))


@dataclass
class Served:
    """A server, asked over HTTP."""

    port: int
    search: Search
    warned: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def ask(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """(status, headers by lower-case name, body). A body that is no bytes is sent as JSON."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, data, dict(headers or {}))
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, told, answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """The JSON of a page that is there."""
        status, _, body = self.ask("GET", path)
        assert status == 200, body
        return json.loads(body)

    def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Any:
        """The JSON of an answer that is none of a mistake."""
        status, _, answer = self.ask("POST", path, body, headers)
        assert status == 200, answer
        return json.loads(answer)

    def mistake(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        """(status, what is wrong): an answer that says so in one line."""
        status, told, answer = self.ask("POST", path, body, headers)
        said = json.loads(answer)
        assert told["content-type"] == "application/json"
        assert list(said) == ["error"], said
        assert said["error"].isprintable(), said
        assert 400 <= status < 600, status
        return status, said["error"]


@contextlib.contextmanager
def served(search: Search, token: str | None = None, host: str = "127.0.0.1") -> Iterator[Served]:
    """The server listens in the block, on a free port."""
    metrics = search._metrics = Metrics()
    place = bind(host, 0, token)
    one = Served(place.port, search)
    with serving(search, metrics, place, token, one.warned.append):
        yield one


def brute_force(
    vectors: np.ndarray, query: np.ndarray, may_leave: Callable[[int], bool], number: int
) -> list[tuple[int, float]]:
    """(row, cosine) of the nearest rows, the straight way."""
    scores = vectors.astype(np.float64) @ query.astype(np.float64)
    order = sorted((row for row in range(len(vectors)) if may_leave(row)), key=lambda row: (-scores[row], row))
    return [(row, float(scores[row])) for row in order[:number]]
