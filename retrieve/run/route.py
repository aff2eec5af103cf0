"""By which way vectors are searched: the exact scan, or an index that is there.

In: a recipe, the vectors of a route, queries. Out: the rows that are found, and for people what was done and why. On
disk: only reads. Shapes: Q queries, K rows that each may find.

An index is built for ten neighbours, a recipe may ask for hundreds: how well it finds these is measured with some of
the run's own queries on a part of the pool, and more of the index is looked at until it has the recall that it was
built for.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cluster.waiting import waiting
from gen.model.clip import clip_digest
from retrieve.index.index import Index, has_index, open_index, replace_setting
from retrieve.index.output import FOLDER, Output, Setting
from retrieve.pool.embeddings import MODALITIES, Embeddings, Modality, refuse_other_model
from retrieve.pool.pool import Pool
from retrieve.run.recipe import RetrieveRecipe
from retrieve.scan.nearest import Nearest
from retrieve.scan.scan import exact_scan
from shards.disk.address import file_path

SAMPLE = 20  # of the queries
SAMPLE_ROWS = 2_000_000  # of the pool, that the sample is scanned for; a file at least
SEED = 0x5A
GROWTH = 2


def index_folder(recipe: RetrieveRecipe, modality: Modality) -> Path | None:
    """Where the index is that the recipe means; None for the exact scan. `auto` is the place where `sixfold index`
    writes, if an index of this modality is there."""
    named = recipe.search.index
    if named is None:
        return None
    if str(named) != "auto":
        return Path(named)
    folder = Path(recipe.pool.embeddings or recipe.pool.source) / FOLDER
    return folder if has_index(folder, modality) else None


def indexes_of(recipe: RetrieveRecipe) -> dict[str, str] | None:
    """Modality -> what the index is that a search would use, by the hashes of its files; None if it would use none.
    Raises ValueError for a folder without an index that has a record."""
    used: dict[str, str] = {}
    for modality in MODALITIES:
        folder = index_folder(recipe, modality) if modality in recipe.search.routes else None
        if folder is not None:
            records = Output(folder, modality).records()
            if not records:
                raise ValueError(
                    f"{folder}: found no {modality} index of `sixfold index`; build it, or set search.index to null"
                )
            used[modality] = ",".join(one.sha256 for one in records[0].files)
    return used or None


def check_routes(recipe: RetrieveRecipe, pool: Pool) -> None:
    """Raises ValueError for a route, a filter, an order or duplicates whose vectors or index are not there, and for
    vectors of another model than `pool.clip`; nothing is loaded yet."""
    routes = [one for one in MODALITIES if one in recipe.search.routes]
    asked = [(one, f"route {one}", "take it out of search.routes") for one in routes]
    if recipe.filter.needs_scores:
        instead = "set filter.top=null without lowest scores, and `sixfold filter` chooses afterwards"
        asked.append(("image", "filter", instead))
    if recipe.order == "score":
        asked.append(("image", "order: score", "set order=random"))
    if recipe.dedup.near_vectors is not None:
        asked.append(("image", "dedup.near_vectors", "take it out of the recipe"))
    for modality, what, instead in asked:
        if pool.embeddings(modality) is None:
            flag = "--images" if modality == "image" else "--texts"
            raise ValueError(
                f"{pool.spec.source}: found no {modality} vectors, expected those of {what}; make them with `sixfold "
                f"embed {flag}`, or {instead}"
            )
    clip = recipe.pool.clip
    if clip is not None:
        used = [one for one in MODALITIES if one in routes or (one == "image" and pool.image is not None)]
        folder = file_path(pool.spec.embeddings or pool.spec.source)
        refuse_other_model(folder, used, f"pool.clip {clip.model}", lambda: clip_digest(clip))
    indexes_of(recipe)


def scan_told(recipe: RetrieveRecipe, modality: Modality) -> dict[str, Any]:
    """That all vectors are looked at, and why."""
    why = "search.index is null" if recipe.search.index is None else f"no {modality} index is there"
    return {"by": "exact scan", "why": why, "recall": 1.0}


def index_rows(
    recipe: RetrieveRecipe,
    folder: Path,
    pool: Pool,
    modality: Modality,
    queries_QD: np.ndarray,
    go_on: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, dict[str, Any]]:
    """(int64 (Q, K) of rows that may leave, -1 for none; what was done and why). Raises ValueError for an index that
    does not belong to the pool's vectors, or is damaged. `go_on` is called again and again, and ends the search by what
    it raises."""
    k, embeddings = recipe.search.per_query, pool.embeddings(modality)
    assert embeddings is not None, "`check_routes` has looked"
    digest = None if recipe.pool.clip is None else clip_digest(recipe.pool.clip)
    with waiting(f"opening the {modality} index, whose bytes are checked"):
        index = open_index(folder, modality, embeddings, model_digest=digest, go_on=go_on)
    assert index.record is not None
    wanted = index.record.measured.wanted
    with waiting("measuring what the index finds of this run's queries"):
        setting, recall, num = _tuned(index, queries_QD, k, wanted, go_on)
    with waiting(f"searching {embeddings.num_rows:,} {modality} vectors by their index"):
        kept = []
        for part in pool.parts:
            go_on()
            kept.append(pool.may_leave(part.first_row, part.num_rows))
        may_leave = np.concatenate(kept)
        rows = index.search(queries_QD, k, lambda first, num: may_leave[first : first + num], setting, go_on).rows
    told = {
        "by": "index",
        "why": f"search.index is {recipe.search.index}",
        "factory": index.record.decides.factory,
        "setting": setting.model_dump(),
        "recall": round(recall, 4),
        "recall_of": f"the {k} nearest, for {num} of this run's queries, against the exact scan",
        "wanted": wanted,
        "recall_when_built": round(index.record.measured.recall, 4),
    }
    return rows, told


def route_text(told: dict[str, Any]) -> str:
    """What `scan_told` and `index_rows` tell, as a line for people."""
    if told["by"] == "index":
        return f"by an index, {told['factory']}: recall {told['recall']:.3f} of {told['recall_of']}"
    return f"by the exact scan ({told['why']})"


def _tuned(
    index: Index, queries_QD: np.ndarray, k: int, wanted: float, go_on: Callable[[], None]
) -> tuple[Setting, float, int]:
    """(setting, recall with it, queries that it was measured with)."""
    num = min(SAMPLE, len(queries_QD))
    chosen = np.sort(np.random.default_rng(SEED).permutation(len(queries_QD))[:num])
    part = _part(index.embeddings)
    truth = exact_scan(part, queries_QD[chosen], k, progress=lambda done, of: go_on())
    setting = index.setting
    while True:
        recall = _recall(index.search(queries_QD[chosen], k, setting=setting, go_on=go_on), truth, part)
        is_all = setting.nprobe >= index.num_lists and setting.ef >= index.count * bool(setting.ef)
        if recall >= wanted or is_all:
            return setting, recall, num
        setting = replace_setting(
            setting,
            nprobe=min(setting.nprobe * GROWTH, index.num_lists),
            ef=min(setting.ef * GROWTH, index.count),
        )


def _part(embeddings: Embeddings) -> Embeddings:
    """Some of its files, spread over all."""
    share = -(-embeddings.num_rows // SAMPLE_ROWS)
    return Embeddings(embeddings.modality, embeddings.files[::share])


def _recall(found: Nearest, truth: Nearest, part: Embeddings) -> float:
    """Of a part of the pool: a row that is nearer than the last one found, and was not found, is a miss."""
    first = np.array([file.first_row for file in part.files])
    end = first + np.array([file.num_rows for file in part.files])
    num_found = num_missed = 0
    for rows, scores, true_rows, true in zip(found.rows, found.scores, truth.rows, truth.scores, strict=True):
        at = np.searchsorted(first, rows, side="right") - 1
        num_found += int(((rows >= 0) & (at >= 0) & (rows < end[at])).sum())
        num_missed += int((~np.isin(true_rows, rows) & (true > scores[-1])).sum())
    return max(0.0, 1 - num_missed / max(1, num_found))
