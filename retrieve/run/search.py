"""The search of a pool: which rows may become images of a class, and in which order.

In: a recipe, its classes, its pool. Out: candidates.parquet as bytes, and how many rows each step left. On disk: reads
the pool and the test sets; features of test sets are kept in this user's cache.

    routes       rows whose caption says the class, whose caption or image is near its text; joined
    one class    a row that several classes found goes to the one whose text its image is nearer to; where nothing
                 tells them apart, to one of them at random, so classes of one name share their rows
    threshold    `retrieve.filter.rule`: by the score of the image with the text of its class
    test sets    what shows a picture of a test set goes, whatever its light (`retrieve.dedup`)
    duplicates   of the same bytes, and of near-duplicates, one stays
    order        at random, or the nearest first

Rows that are flagged or blocked take no part and nobody's place: no route finds them, none of their pictures is
decoded.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cluster.process.machine import usable_cores
from cluster.process.stop_flag import StopFlag
from cluster.waiting import waiting
from gen.make.scale import Store
from gen.make.work import Held
from gen.model.clip import Clip
from gen.model.nearest import nearest
from gen.prompts.meanings import choose_meanings, refuse_strangers
from gen.prompts.real_images import decode_picture
from gen.wording.lexicon import load_lexicon
from retrieve.captions.queries import clauses_of
from retrieve.captions.search import CLASS_ID
from retrieve.dedup.descriptor import SCALES, Descriptor, picture_descriptor
from retrieve.dedup.near import groups_of, near_groups
from retrieve.filter.filter import rows_of_set
from retrieve.filter.rule import KEPT, Candidates, decide
from retrieve.filter.score import SLOT, class_rows, scores_of
from retrieve.make.candidates import SCHEMA, table_bytes
from retrieve.pool.embeddings import MODALITIES, Embeddings, Modality
from retrieve.pool.images import PoolImages
from retrieve.pool.pool import KEPT as MAY_LEAVE
from retrieve.pool.pool import ROW, Pool
from retrieve.run.parts import Asked, pairs_of, search_parts
from retrieve.run.recipe import RetrieveRecipe
from retrieve.run.route import index_folder, index_rows, scan_told
from shards.disk.amounts import counted
from shards.labels.classes import Class, whole_list
from shards.labels.task import usual_queries

ROLES = ("caption", "url", "shard", "key", "licence", "punsafe", "sha256")
BATCH = 256  # pictures decoded and described at once
STEP = 65_536  # hits whose vectors are in memory at once

Say = Callable[[str], None]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Hits:
    """Pairs (class, row), each once, ordered by row, then by class."""

    class_ids: Ints
    rows: Ints

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, mask: NDArray[np.bool_]) -> "_Hits":
        return _Hits(self.class_ids[mask], self.rows[mask])


def search_pool(
    recipe: RetrieveRecipe,
    classes: Sequence[Class],
    pool: Pool,
    store: Store,
    hold: Held | None,
    stop: StopFlag,
    say: Say,
) -> tuple[bytes, dict[str, Any]]:
    """`store` keeps what was found in a file of the pool until all have been searched.

    Raises ValueError in one line: a class that nothing can be searched for, a CLIP of another width, a test set that is
    none; Draining on a stop.
    """
    meanings = _meanings(recipe, classes)
    names = {one.id: meanings.get(one.id) or one.name for one in classes}
    clip = None if recipe.pool.clip is None else Clip.load(recipe.pool.clip)
    texts = None if clip is None else class_rows(clip, names, recipe.search.templates)
    counts: dict[str, Any] = {"rows of the pool": pool.num_rows}
    with waiting("searching the pool"):
        asked = _asked(recipe, classes, names, meanings, pool, clip)
    by_index = {route: folder for route in MODALITIES if (folder := _index_of(recipe, route)) is not None}
    scanned = [route for route in recipe.search.routes if route not in by_index]
    parts = list(search_parts(pool, scanned, asked, recipe.cluster, store, stop, hold, say).values()) if scanned else []
    counts["routes"] = {route: scan_told(recipe, route) for route in MODALITIES if route in scanned}
    for route, folder in by_index.items():
        rows, counts["routes"][route] = index_rows(recipe, folder, pool, route, asked.queries_QD, stop.go_on)
        parts.append(pairs_of(rows, asked.class_ids))
    hits = _joined(parts)
    counts["found"] = len(hits)
    hits = _at_most(hits, recipe.search.most_per_class, recipe.seed)
    counts["looked at"] = len(hits)
    about = pool.take(np.unique(hits.rows), ROLES)
    assert about[MAY_LEAVE].to_numpy().all(), "no route finds others"
    scores = None
    if texts is not None and pool.image is not None:
        with waiting(f"comparing {counted(len(hits), 'image')} with the texts of their classes"):
            scores = _scores(pool.image, hits, texts)
    best = best_of_each_row(hits.rows, hits.class_ids, scores, names, recipe.seed)
    hits, scores = hits.where(best), None if scores is None else scores[best]
    counts["of one class each"] = len(hits)
    if not len(hits):
        raise ValueError(f"{pool.spec.source}: found no image of any class; look at search.captions and pool.columns")
    reasons = _decided(recipe, pool, hits, scores, about, stop, say)
    counts["reasons"] = dict(sorted(Counter(reasons.tolist()).items()))
    kept = hits.where(reasons == KEPT)
    table = _table(recipe, pool, kept, None if scores is None else scores[reasons == KEPT], about)
    counts["kept of each class"] = _by_class(classes, table)
    return table_bytes(table), counts


def _meanings(recipe: RetrieveRecipe, classes: Sequence[Class]) -> dict[int, str]:
    """Class id -> its meaning; without those for which none was chosen."""
    with waiting(f"choosing meanings of {counted(len(classes), 'name')} ({recipe.meanings.choose})"):
        whole = whole_list(recipe.classes, classes)
        refuse_strangers(whole, recipe.meanings)
        lexicon = load_lexicon(recipe.lexicon)
        chosen = choose_meanings(classes, recipe.meanings, lexicon, None, recipe.seed, among=whole)
    return {one.class_id: one.phrase for one in chosen if one.phrase}


# what is found


def _asked(
    recipe: RetrieveRecipe,
    classes: Sequence[Class],
    names: Mapping[int, str],
    meanings: Mapping[int, str],
    pool: Pool,
    clip: Clip | None,
) -> Asked:
    """The captions' queries, and a vector for each class and template."""
    search, clauses, vectors = recipe.search, [], np.empty((0, 0), np.float32)
    class_ids: list[int] = []
    if "captions" in search.routes:
        usual = usual_queries(recipe.classes.source, [one.name for one in classes])
        clauses = clauses_of(classes, search.captions, usual, meanings)
    if set(search.routes) - {"captions"}:
        assert clip is not None, "the recipe has a CLIP for this route"
        class_ids = [one for one in names for _ in search.templates]
        vectors = clip.embed_texts([text.replace(SLOT, name) for name in names.values() for text in search.templates])
    return Asked(tuple(clauses), search.captions.match, vectors, tuple(class_ids), search.per_query)


def _index_of(recipe: RetrieveRecipe, modality: Modality) -> Path | None:
    return index_folder(recipe, modality) if modality in recipe.search.routes else None


def _scores(image: Embeddings, hits: _Hits, texts: Mapping[int, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Of each hit the cosine of its picture with the text of its class; NaN without a vector."""
    scores = np.empty(len(hits), np.float32)
    for start in range(0, len(hits), STEP):
        mine = slice(start, start + STEP)
        scores[mine] = scores_of(_unit(image.take(hits.rows[mine])), hits.class_ids[mine], texts)
    return scores


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same vectors, made of length 1 in place; zeros stay zeros. A pool of others may have any lengths."""
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors


def _joined(parts: Iterable[pa.Table]) -> _Hits:
    """Each pair once, whatever found it."""
    whole = pa.concat_tables(parts)
    class_ids, rows = whole[CLASS_ID].to_numpy().astype(np.int64), whole[ROW].to_numpy()
    order = np.lexsort((class_ids, rows))
    class_ids, rows = class_ids[order], rows[order]
    starts = _starts(rows, class_ids)
    return _Hits(class_ids[starts], rows[starts])


def _at_most(hits: _Hits, most: int, seed: int) -> _Hits:
    """At most so many rows of a class, drawn by a hash of seed and row."""
    ids, sizes = np.unique(hits.class_ids, return_counts=True)
    large = ids[sizes > most]
    if not len(large):
        return hits
    stays = np.ones(len(hits), bool)
    for one in large:
        mine = np.flatnonzero(hits.class_ids == one)
        stays[mine[np.argsort(_hashed(seed, hits.rows[mine]), kind="stable")[most:]]] = False
    return hits.where(stays)


def best_of_each_row(
    rows: Ints, class_ids: Ints, scores: NDArray[np.float32] | None, names: Mapping[int, str], seed: int
) -> NDArray[np.bool_]:
    """Of the pairs (class, row) of a row the one with the best score. Classes of one name have the same score, and
    between equal ones a hash of seed and row decides, so that each of them has its share.

    Pairs are there once, ordered by row. `names`: class id -> what stands in its texts. NaN is the worst score.
    """
    best = np.zeros(len(rows), bool)
    if not len(rows):
        return best
    first = {name: one for one, name in sorted(names.items(), reverse=True)}
    called = np.array([first[names[one]] for one in class_ids.tolist()], np.int64)
    strength = np.zeros(len(rows)) if scores is None else np.nan_to_num(scores.astype(np.float64), nan=-2.0)
    order = np.lexsort((-strength, called, rows))
    starts = _starts(rows[order], called[order])
    strength[order] = np.repeat(strength[order][starts], np.diff([*starts, len(rows)]))
    order = np.lexsort((class_ids, -strength, rows))
    starts = _starts(rows[order])
    sizes = np.diff([*starts, len(rows)])
    num_equal = np.add.reduceat(strength[order] == np.repeat(strength[order][starts], sizes), starts, dtype=np.int64)
    drawn = (_hashed(seed, rows[order][starts]) % num_equal.astype(np.uint64)).astype(np.int64)
    best[order[starts + drawn]] = True
    return best


def _starts(*columns: Ints) -> Ints:
    """Where one of the sorted columns changes."""
    is_new = np.ones(len(columns[0]), bool)
    is_new[1:] = np.any([np.diff(column) != 0 for column in columns], axis=0)
    return np.flatnonzero(is_new)


# what is kept


def _decided(
    recipe: RetrieveRecipe,
    pool: Pool,
    hits: _Hits,
    scores: NDArray[np.float32] | None,
    about: pa.Table,
    stop: StopFlag,
    say: Say,
) -> NDArray[np.str_]:
    """Pictures are described only of rows that pass the threshold: a pool may hold billions."""
    rule = recipe.filter.rule(SCALES["picture"].test_above if recipe.dedup.against else None)
    same = _same_bytes(hits, about)
    told = Candidates(ids=hits.rows, classes=hits.class_ids, scores=scores, same=same)
    dedup = recipe.dedup
    if not dedup.against and dedup.near is None and dedup.near_vectors is None:
        return decide(told, rule).reasons
    # copies too: where the first of them is in a test set, so are the others
    before = decide(replace(told, same=None), replace(rule, cap=None)).kept
    alike: list[Ints] = []  # group numbers among those, by each kind of likeness
    if dedup.near_vectors is not None and pool.image is not None:
        alike.append(near_groups(_unit(pool.image.take(hits.rows[before])), dedup.near_vectors))
    descriptor = picture_descriptor()
    looks = bool(dedup.against) or dedup.near is not None
    pictures = _described(pool, hits.rows[before], descriptor, stop) if looks else np.empty((0, 0), np.float16)
    similarity, groups = None, None
    if recipe.dedup.against:
        similarity = np.full(len(hits), -1, np.float32)
        for source in recipe.dedup.against:
            tests = rows_of_set(source, descriptor, say)
            similarity[before] = np.maximum(similarity[before], nearest(pictures, tests)[1])
    if dedup.near is not None:
        alike.append(near_groups(pictures, dedup.near))
    if alike:
        num = int(before.sum())
        groups = np.arange(len(hits), dtype=np.int64)
        groups[before] = np.flatnonzero(before)[groups_of(num, iter([(one, np.arange(num)) for one in alike]))]
    return decide(replace(told, test_similarity=similarity, near=groups), rule).reasons


def _described(pool: Pool, rows: Ints, descriptor: Descriptor, stop: StopFlag) -> NDArray[np.float16]:
    """A row for each picture; zeros for one that cannot be read or is on a block list, which the Maker will name."""
    images = PoolImages(pool)
    places = images.places(rows.tolist())
    found: list[NDArray[np.float16]] = []
    done = 0
    with (
        ThreadPoolExecutor(usable_cores()) as threads,
        waiting(lambda: f"looking at pictures of the pool: {done:,} of {len(rows):,}"),
    ):
        for start in range(0, len(places), BATCH):
            stop.go_on()
            read = [_read(images, place) for place in places[start : start + BATCH]]
            pictures = list(threads.map(_decoded, read))
            found.append(descriptor.rows_of(pictures).astype(np.float16))
            done += len(read)
    return np.concatenate(found)


def _read(images: PoolImages, place: Any) -> bytes:
    try:
        return images.read(place)
    except ValueError:
        return b""


def _decoded(data: bytes) -> np.ndarray:
    """One black pixel, which every descriptor sees nothing in, for what is no picture."""
    pixels = decode_picture(data) if data else "failed_to_read"
    return np.zeros((1, 1, 3), np.uint8) if isinstance(pixels, str) else pixels


def _same_bytes(hits: _Hits, about: pa.Table) -> Ints | None:
    """Equal numbers for equal hashes; None if the pool says none."""
    if "sha256" not in about.column_names:
        return None
    at = np.searchsorted(about[ROW].to_numpy(), hits.rows)
    hashes = about["sha256"].take(pa.array(at)).to_pylist()
    first: dict[str, int] = {}
    return np.array(
        [place if one is None else first.setdefault(one, place) for place, one in enumerate(hashes)], np.int64
    )


# the table


def _table(
    recipe: RetrieveRecipe, pool: Pool, hits: _Hits, scores: NDArray[np.float32] | None, about: pa.Table
) -> pa.Table:
    by = _hashed(recipe.seed, hits.rows).astype(np.float64)
    if recipe.order == "score" and scores is not None:
        by = -scores.astype(np.float64)
    order = np.lexsort((hits.rows, by, hits.class_ids))
    class_ids, rows = hits.class_ids[order], hits.rows[order]
    first = np.searchsorted(class_ids, class_ids, side="left")
    told = about.take(pa.array(np.searchsorted(about[ROW].to_numpy(), rows)))
    nothing = pa.nulls(len(rows))
    columns = {name: told[name] if name in told.column_names else nothing for name in SCHEMA.names}
    columns |= {
        "class_id": pa.array(class_ids),
        "rank": pa.array(np.arange(len(rows)) - first),
        "row": pa.array(rows),
        "score": nothing if scores is None else pa.array(scores[order]),
        "caption": _texts(told["caption"]),
    }
    if pool.has_pictures:
        places = PoolImages(pool).places(rows.tolist())
        columns |= {"shard": pa.array([one.shard for one in places]), "key": pa.array([one.key for one in places])}
    return pa.table({name: pa.chunked_array([_plain(columns[name])]) for name in SCHEMA.names}).cast(SCHEMA)


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A caption that is missing is an empty one: a row is found by its vector, too."""
    return column.cast(pa.string()).fill_null("")


def _plain(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _by_class(classes: Sequence[Class], table: pa.Table) -> dict[str, int]:
    number = Counter(table["class_id"].to_pylist())
    return {f"{one.id} {one.name}": number[one.id] for one in classes}


def _hashed(seed: int, rows: Ints) -> NDArray[np.uint64]:
    """A number for each row that looks random and is the same everywhere (splitmix64 of seed and row)."""
    key = int.from_bytes(hashlib.blake2b(f"retrieve {seed}".encode(), digest_size=8).digest(), "little")
    with np.errstate(over="ignore"):
        x = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
