"""The search behind a server: a text, a picture or a vector in, rows of a pool out.

In: a `PoolSpec` with its CLIP; a `Query`. Out: `Hit`s, the nearest first; what the tables say of rows; small pictures.
On disk: reads the pool and the lists of blocked rows, and adds to one of them.

Rows that are flagged or blocked never leave. At the start all rows are asked (a byte of memory a row); a list that
grows later is held against what each search has found, before it is answered (another byte a row).
"""

import shlex
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gen.model.clip import Clip, clip_digest
from gen.prompts.real_images import decode_picture
from retrieve.dedup.near import near_groups
from retrieve.index.index import Index
from retrieve.pool.blocks import HASH_DIGITS
from retrieve.pool.embeddings import FOLDERS, MODALITIES, Modality, refuse_other_model
from retrieve.pool.images import PLACE_ROLES, PoolImages
from retrieve.pool.pool import KEPT, ROW, Pool, open_pool
from retrieve.pool.spec import PoolSpec
from retrieve.scan.nearest import Nearest
from retrieve.serve.block_list import BlockList
from retrieve.serve.metrics import Metrics
from retrieve.serve.route import Named, nearest_rows, open_indexes, route_text
from retrieve.serve.together import Tick, Together
from shards.disk.address import file_path
from shards.disk.jpeg import SOURCE_TYPES, read_source_type
from shards.disk.safe_text import is_hidden
from shards.views.thumbnail import small_jpeg

MOST_ROWS = 10_000  # of one answer
MOST_TEXT = 1_000  # characters of a query; a CLIP reads 77 tokens
MOST_PICTURE_BYTES = 8 << 20  # of a query
SAME_ABOVE = 0.94  # cosine of two vectors that are one, as in clip-retrieval's server
ROUNDS = 4  # searches for one query, if rows that were found are blocked by now
THUMB_PX = 256
# role -> name in an answer: what clip-retrieval's server tells of a row, and the licence
TOLD = {"url": "url", "caption": "caption", "key": "image_path", "nsfw": "NSFW", "licence": "licence"}


class Mistake(ValueError):
    """What was asked cannot be answered; one line that says why."""


@dataclass(frozen=True, eq=False)
class Query:
    """Exactly one of `text`, `image` and `vector` is given."""

    text: str | None = None
    image: bytes | None = None  # a picture's file
    vector: Sequence[float] | None = None  # of any length but 0
    modality: Modality = "image"  # what is searched: pictures or captions
    num_rows: int = 40  # that are looked for
    num_told: int = 40  # of them so many are told what the tables say
    deduplicate: bool = False  # leave out rows that are near-duplicates of better ones


@dataclass(frozen=True)
class Hit:
    """A row that was found."""

    row: int
    similarity: float  # cosine
    about: Mapping[str, Any] | None  # names as in `TOLD`; None beyond the rows that are told


class Search:
    """Opened once, asked by any thread."""

    def __init__(
        self, pool: Pool, clip: Clip, block_list: BlockList, metrics: Metrics, indexes: Mapping[Modality, Index]
    ) -> None:
        self.clip = clip
        self.block_list = block_list
        self._pool = pool
        self._metrics = metrics
        self._indexes = indexes
        self.has_pictures = pool.has_pictures
        self._images = PoolImages(pool)
        self._images_lock = threading.Lock()
        self._clip_lock = threading.Lock()  # and of decoding: one large picture in memory at a time
        first = self.pool
        self._may_leave = first.may_leave(0, first.num_rows)
        self._asked = np.ones(len(self._may_leave), bool)  # rows that were asked with these lists
        self._asked_with = first.blocks
        self._asked_lock = threading.Lock()
        self._together = {
            one: Together(partial(self._scan, one)) for one in MODALITIES if pool.embeddings(one) is not None
        }

    @staticmethod
    def open(spec: PoolSpec, own_list: Path | None, metrics: Metrics, index: Named = "auto") -> "Search":
        """Raises ValueError with one line: no pool, no vectors, vectors or an index of another model, damage."""
        assert spec.clip is not None, "the caller names the CLIP"
        pool = open_pool(spec)
        if pool.image is None and pool.text is None:
            raise ValueError(
                f"{spec.source}: found no vectors in {FOLDERS['image']}/ or {FOLDERS['text']}/, expected those of its "
                f"pictures or captions; make them with `sixfold embed {shlex.quote(str(spec.source))} --clip "
                f"{shlex.quote(spec.clip.model)}`"
            )
        indexes = open_indexes(pool, index, clip_digest(spec.clip))
        lists = BlockList([file_path(path) for path in spec.block], own_list, spec.unsafe_above)
        clip = Clip.load(spec.clip)
        _check_model(pool, clip)
        return Search(pool, clip, lists, metrics, indexes)

    @property
    def pool(self) -> Pool:
        """With the lists of now. Raises ValueError for a list that was changed to one that cannot be read."""
        blocks, pool = self.block_list.current(), self._pool
        if blocks is not pool.blocks:
            self._pool = pool = replace(pool, blocks=blocks)
        return pool

    @property
    def name(self) -> str:
        """Of the pool, as `indice_name` says it."""
        return file_path(self._pool.spec.source).absolute().name or "pool"

    @property
    def num_rows(self) -> int:
        """Rows of the pool."""
        return self._pool.num_rows

    @property
    def num_kept(self) -> int:
        """Rows that may leave, as far as was asked."""
        return int(self._may_leave.sum())

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What can be searched."""
        return tuple(self._together)

    @property
    def routes(self) -> dict[Modality, str]:
        """How each is searched, for people."""
        return {one: route_text(self._indexes.get(one)) for one in self._together}

    def find(self, query: Query, until: float) -> list[Hit]:
        """The nearest rows, at most `num_rows`; fewer if rows were left out. Raises Mistake, TimeoutError at `until`
        (time.monotonic())."""
        together = self._together.get(query.modality)
        if together is None:
            others = " or ".join(self._together)
            raise Mistake(
                f"modality: found {query.modality}, expected {others}: the pool has no {query.modality} vectors"
            )
        if not 1 <= query.num_rows <= MOST_ROWS:
            raise Mistake(f"rows: found {query.num_rows:,}, expected 1..{MOST_ROWS:,}")
        query_D = self._vector(query, until)
        for _ in range(ROUNDS):
            with self._metrics.times["search"].time():
                rows, scores = together.nearest(query_D, query.num_rows, until)
            with self._metrics.times["rows"].time():
                kept = self._still_kept(rows)
            if kept.all():
                break
        rows, scores = rows[kept], scores[kept]
        if query.deduplicate and len(rows):
            alone = self._alone(query.modality, rows)
            rows, scores = rows[alone], scores[alone]
        with self._metrics.times["rows"].time():
            about = dict(self.about(rows[: query.num_told].tolist()))
        gone = set(rows[: query.num_told].tolist()) - about.keys()  # blocked in this moment
        return [
            Hit(row, float(score), about.get(row))
            for row, score in zip(rows.tolist(), scores, strict=True)
            if row not in gone
        ]

    def about(self, rows: Sequence[int]) -> list[tuple[int, dict[str, Any]]]:
        """(row, what the tables say) of these rows, in their order; flagged and blocked ones are left out. Raises
        Mistake for rows that the pool does not have."""
        self._check_rows(rows)
        table = self.pool.take(rows, list(TOLD))
        table = table.filter(table[KEPT])
        return list(zip(table[ROW].to_pylist(), _told(table), strict=True))

    def block(self, rows: Sequence[int]) -> int:
        """Put the hash of each row's picture, or its address if there is none, in the server's list; how many lines
        are new. Raises Mistake, TimeoutError if another process holds the list."""
        self._check_rows(rows)
        if self.block_list.own is None:
            raise Mistake("found no list to write to, expected the server to be started with --block-list FILE")
        table = self.pool.take(rows, ["sha256", "url"])
        lines = []
        for row in table.to_pylist():
            line = _mark_of(row.get("sha256"), row.get("url"))
            if line is None:
                raise Mistake(f"row {row[ROW]}: found neither a sha256 nor an address in the pool's table; block none")
            lines.append(line)
        return self.block_list.add(lines)

    def picture(self, row: int) -> bytes | None:
        """A small JPEG, encoded anew; None for a row that may not leave or has no picture that can be read."""
        if not 0 <= row < self.num_rows:
            return None
        table = self.pool.take([row], PLACE_ROLES)
        if not table[KEPT][0].as_py() or not self.has_pictures:
            return None
        with self._metrics.times["picture"].time():
            try:
                with self._images_lock:
                    data = self._images.read(self._images.places_of(table)[0])
            except (ValueError, OSError):
                return None
            pixels = "blocked" if self.pool.blocks.holds(data) else decode_picture(data)  # by the lists of now
            if isinstance(pixels, str):
                return None
            found = read_source_type(data) if data[:2] == b"\xff\xd8" else None
            source = next((one for one in SOURCE_TYPES if one == found), None)
            return small_jpeg(pixels, THUMB_PX, 88, "420", source)

    def close(self) -> None:
        """Searches that are going on end at the next block."""
        for one in self._together.values():
            one.is_closed = True

    def _scan(self, modality: Modality, queries_QD: np.ndarray, k: int, tick: Tick) -> Nearest:
        index = self._indexes.get(modality)
        return nearest_rows(
            self._pool, modality, index, queries_QD, k, lambda first, num: self._may_leave[first : first + num], tick
        )

    def _still_kept(self, rows: np.ndarray) -> np.ndarray:
        """bool, a value a row: whether it may leave by the lists of now. Tables are read only of rows that were not
        asked since a list grew."""
        pool = self.pool
        with self._asked_lock:
            if pool.blocks is not self._asked_with:
                self._asked[:] = False
                self._asked_with = pool.blocks
            new = rows[~self._asked[rows]]
        if len(new):
            gone = new[~pool.take(new, [])[KEPT].to_numpy()]
            with self._asked_lock:
                self._may_leave[gone] = False
                if pool.blocks is self._asked_with:
                    self._asked[new] = True
        return self._may_leave[rows]

    def _alone(self, modality: Modality, rows: np.ndarray) -> np.ndarray:
        """bool, a value a row: whether it is the best of its near-duplicates."""
        embeddings = self._pool.embeddings(modality)
        assert embeddings is not None
        with self._metrics.times["dedup"].time():
            vectors = embeddings.take(rows)
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
            return near_groups(vectors, SAME_ABOVE) == np.arange(len(rows))

    def _vector(self, query: Query, until: float) -> np.ndarray:
        """float32 D, of length 1."""
        given = [one for one in (query.text, query.image, query.vector) if one is not None]
        if len(given) != 1:
            raise Mistake(f"found {len(given)} of text, image and embedding_input, expected one of them")
        if query.vector is not None:
            return self._of_numbers(query.vector)
        if query.text is not None and len(query.text) > MOST_TEXT:
            raise Mistake(f"text: found {len(query.text):,} characters, expected at most {MOST_TEXT:,}")
        if query.image is not None and len(query.image) > MOST_PICTURE_BYTES:
            raise Mistake(f"image: found {len(query.image):,} bytes, expected at most {MOST_PICTURE_BYTES:,}")
        if not self._clip_lock.acquire(timeout=max(0.0, until - time.monotonic())):
            raise TimeoutError("waited for the CLIP")
        try:
            if query.text is not None:
                with self._metrics.times["text"].time():
                    return self.clip.embed_texts([query.text])[0]
            assert query.image is not None
            with self._metrics.times["decode"].time():
                pixels = decode_picture(query.image)
            if isinstance(pixels, str):
                raise Mistake(f"image: found no picture that is read here ({pixels}), expected a JPEG, PNG or WebP")
            with self._metrics.times["image"].time():
                return self.clip.embed_images([pixels])[0]
        finally:
            self._clip_lock.release()

    def _of_numbers(self, numbers: Sequence[float]) -> np.ndarray:
        dim = next(found.dim for one in MODALITIES if (found := self._pool.embeddings(one)) is not None)
        if len(numbers) != dim:
            raise Mistake(f"embedding_input: found {len(numbers):,} numbers, expected {dim} as the pool's vectors have")
        with np.errstate(over="ignore"):
            vector = np.asarray(numbers, np.float64)
            length = np.linalg.norm(vector)
        if not (np.isfinite(length) and length > 0):
            raise Mistake(
                "embedding_input: found zeros, or numbers that are too large, expected a vector with a length"
            )
        return np.asarray(vector / length, np.float32)

    def _check_rows(self, rows: Sequence[int]) -> None:
        if len(rows) > MOST_ROWS:
            raise Mistake(f"ids: found {len(rows):,}, expected at most {MOST_ROWS:,}")
        strange = [row for row in rows if not 0 <= row < self.num_rows]
        if strange:
            raise Mistake(f"ids: found {str(strange[0])[:30]}, expected rows 0..{self.num_rows - 1}")


def _check_model(pool: Pool, clip: Clip) -> None:
    """Raises ValueError if the pool's vectors are of another width, or say that another model made them."""
    spec = pool.spec
    width = clip.embed_texts([]).shape[1]
    for modality in MODALITIES:
        embeddings = pool.embeddings(modality)
        if embeddings is not None and embeddings.dim != width:
            raise ValueError(
                f"--clip {clip.spec.model}: found vectors of {width} numbers, expected {embeddings.dim} as in "
                f"{embeddings.files[0].path}; give the CLIP that made them"
            )
    there = [one for one in MODALITIES if pool.embeddings(one) is not None]
    folder = file_path(spec.embeddings or spec.source)
    refuse_other_model(folder, there, f"--clip {clip.spec.model}", lambda: clip.digest)


def _told(table: pa.Table) -> list[dict[str, Any]]:
    """What an answer says of each row; url and caption are always there."""
    columns = {name: table[role].to_pylist() for role, name in TOLD.items() if role in table.column_names}
    nothing = [None] * len(table)
    columns.setdefault("url", nothing)
    captions = columns.pop("caption", nothing)
    return [
        {
            "caption": "" if caption is None else str(caption),
            **{name: _plain(values[place]) for name, values in columns.items()},
        }
        for place, caption in enumerate(captions)
    ]


def _plain(value: object) -> object:
    """As JSON has it."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return str(value)


def _mark_of(sha256: object, url: object) -> str | None:
    """What blocks a row, as a line of a list; None if nothing does."""
    if (
        isinstance(sha256, str)
        and len(sha256) == HASH_DIGITS
        and all(one in "0123456789abcdefABCDEF" for one in sha256)
    ):
        return sha256.lower()
    if isinstance(url, str) and "://" in url and url.strip() == url and not url.startswith("#"):
        return None if any(map(is_hidden, url)) else url
    return None
