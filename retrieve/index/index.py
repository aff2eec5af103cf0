"""An index that is there, and what is asked of it.

In: a folder with an index and its record (`retrieve.index.output`), or an index of others; the vectors that it was made
of; queries. Out: `Nearest`, as the exact scan gives it: rows that the index finds, ordered by their true scores, which
are computed from the pool's own vectors and have the bits that the scan gives. On disk: only reads. Shapes: Q queries,
K results, F candidates that are fetched for each query.

Nothing of a file reaches FAISS before its size and hash are those of the record, and the record names these vectors. An
index without a record is read only if the caller says its hash, or that it is trusted; even then a process of its own,
with little memory, looks at it first (`retrieve.index.probe`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieve.index.output import INNER_PRODUCT, IndexFile, Output, Record, Setting, check_file
from retrieve.index.probe import foreign_flags, probed
from retrieve.index.spec import vectors_digest
from retrieve.pool.embeddings import Embeddings, Modality
from retrieve.scan.nearest import NO_ROW, NO_SCORE, Nearest
from retrieve.scan.scan import Kept, checked_queries, true_scores
from shards.disk.regular import sha256_of

QUERIES_AT_ONCE = 256
LEAST_EF = 16
GROWTH = 4  # of lists or candidates, when too few are found
MOST_FETCHED = 1 << 16  # candidates of a query
LISTS_EF = 2  # candidates that a graph over lists follows, for each list that is looked at
OTHERS = ("{modality}.index/populated.index", "{modality}.index", "knn.index", "populated.index")


@dataclass(frozen=True, eq=False)
class Part:
    """One file of an index, open."""

    faiss: Any
    first_row: int


@dataclass(frozen=True, eq=False)
class Index:
    """An index and the vectors that it was made of. Used by one thread."""

    parts: tuple[Part, ...]
    embeddings: Embeddings
    count: int  # vectors that can be found
    unusable: int  # that are in no index
    setting: Setting
    record: Record | None = None  # None: an index of others
    threads: int = 1

    def search(
        self,
        queries_QD: np.ndarray,
        k: int,
        kept: Kept | None = None,
        setting: Setting | None = None,
        go_on: Callable[[], None] = lambda: None,
    ) -> Nearest:
        """The k nearest of each query (rows of length 1) that the index finds. `kept` says which rows may be found, as
        for the exact scan. Where lists have too few, more of them are looked at: fewer than `k` come only if the pool
        has fewer, if `kept` leaves few, or if a graph leads to no more. `go_on` is called before every few queries, and
        ends the search by what it raises.

        Raises ValueError for queries of another width or length, and k < 1.
        """
        queries_QD = checked_queries(queries_QD, self.embeddings.dim, k, str(self.embeddings.files[0].path))
        width = min(k, self.embeddings.num_rows)
        scores = np.full((len(queries_QD), width), NO_SCORE, np.float32)
        rows = np.full((len(queries_QD), width), NO_ROW, np.int64)
        with _threads(self.threads):
            for start in range(0, len(queries_QD), QUERIES_AT_ONCE):
                go_on()
                some = slice(start, start + QUERIES_AT_ONCE)
                found = self._enough(queries_QD[some], width, kept, setting or self.setting)
                scores[some], rows[some] = self._ranked(queries_QD[some], found, width)
        return Nearest(k, scores, rows, self.embeddings.num_rows, self.unusable)

    def _enough(self, queries_QD: np.ndarray, width: int, kept: Kept | None, setting: Setting) -> np.ndarray:
        """Candidates (Q, F), -1 for none: at least `width` of each query if there are so many."""
        wanted = min(width, self.count)
        while True:
            fetch = min(max(1, width * setting.over), max(1, self.count))
            found = self.candidates(queries_QD, fetch, setting)
            if kept is not None:
                found = _left(found, kept)
            is_enough = int((found >= 0).sum(axis=1).min(initial=wanted)) >= wanted
            looks_everywhere = setting.nprobe >= self.num_lists and setting.ef >= self.count
            if is_enough or (looks_everywhere and (kept is None or fetch >= self.count)):
                return found
            if kept is not None and fetch >= max(MOST_FETCHED, width):
                return found
            setting = replace_setting(
                setting,
                nprobe=min(max(1, setting.nprobe) * GROWTH, self.num_lists),
                ef=min(max(LEAST_EF, setting.ef) * GROWTH, self.count),
                over=setting.over * GROWTH if kept is not None else setting.over,
            )

    def candidates(self, queries_QD: np.ndarray, fetch: int, setting: Setting) -> np.ndarray:
        """int64 (Q, fetch), rows of the pool, -1 for none: what FAISS finds. Of several parts the best by its scores,
        which parts of one index have in common."""
        scores, rows = (np.empty((len(queries_QD), 0), kind) for kind in (np.float32, np.int64))
        for part in self.parts:
            found, ids = part.faiss.search(queries_QD, fetch, params=_params(part.faiss, fetch, setting))
            scores = np.concatenate([scores, np.where(ids < 0, NO_SCORE, found)], axis=1)
            rows = np.concatenate([rows, np.where(ids < 0, NO_ROW, ids + part.first_row)], axis=1)
            if rows.shape[1] > fetch:
                best = np.argsort(-scores, axis=1, kind="stable")[:, :fetch]
                scores, rows = np.take_along_axis(scores, best, axis=1), np.take_along_axis(rows, best, axis=1)
        return rows

    @property
    def num_lists(self) -> int:
        """0 if it has none."""
        return max((_lists(part.faiss) for part in self.parts), default=0)

    def _ranked(self, queries_QD: np.ndarray, found_QF: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """(scores, rows), each (Q, width), by true scores; of equal ones the lower row first."""
        queries, places = np.nonzero((found_QF >= 0) & (found_QF < self.embeddings.num_rows))
        rows = found_QF[queries, places]
        scores = true_scores(self.embeddings, queries_QD, queries, rows)
        order = np.lexsort((rows, -scores, queries))
        queries, rows, scores = queries[order], rows[order], scores[order]
        is_new = np.ones(len(rows), bool)
        is_new[1:] = (np.diff(rows) != 0) | (np.diff(queries) != 0)
        is_new &= np.isfinite(scores)
        queries, rows, scores = queries[is_new], rows[is_new], scores[is_new]
        place = np.arange(len(queries)) - np.searchsorted(queries, queries)
        best_scores = np.full((len(queries_QD), width), NO_SCORE, np.float32)
        best_rows = np.full((len(queries_QD), width), NO_ROW, np.int64)
        fits = place < width
        best_scores[queries[fits], place[fits]] = scores[fits]
        best_rows[queries[fits], place[fits]] = rows[fits]
        return best_scores, best_rows


def open_index(
    folder: Path,
    modality: Modality,
    embeddings: Embeddings,
    *,
    model_digest: str | None = None,
    sha256: str | None = None,
    trusted: bool = False,
    threads: int = 1,
    go_on: Callable[[], None] = lambda: None,
) -> Index:
    """The index of a modality in a folder. `model_digest`: of the model that queries come from; `sha256`: of a file
    without a record of ours. `go_on` is called while bytes are checked, and ends it by what it raises.

    Raises ValueError in one line: no index, a damaged or cut one, one of other vectors, of another width, model or
    metric, of half a pool; one without a record that nobody vouches for.
    """
    records = Output(folder, modality).records()
    if records:
        return _open_ours(folder, records, embeddings, model_digest, threads, go_on)
    return _open_others(folder, modality, embeddings, sha256, trusted, threads)


def has_index(folder: Path, modality: Modality) -> bool:
    """Whether the folder has an index with a record of ours."""
    return Output(folder, modality).record_path.exists()


def opened(files: Sequence[tuple[Path, int]], dim: int, flags: int | None = None) -> tuple[Part, ...]:
    """(path, first row of the pool) of files that were checked -> open parts. Raises ValueError for what FAISS cannot
    read, for another width or metric."""
    import faiss

    parts = []
    for path, first_row in files:
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if flags is None else flags)
        except RuntimeError as error:
            raise ValueError(f"{path}: FAISS cannot read it ({_last_line(error)}); build it again") from None
        _check_kind(path, index.d, dim, index.metric_type == faiss.METRIC_INNER_PRODUCT)
        parts.append(Part(index, first_row))
    return tuple(parts)


def _check_kind(path: Path, found_dim: int, dim: int, inner_product: bool) -> None:
    if found_dim != dim:
        raise ValueError(
            f"{path}: found an index of vectors of {found_dim} numbers, expected {dim}; give the index of these"
        )
    if not inner_product:
        raise ValueError(f"{path}: found an index of another metric, expected inner products; build it again")


def replace_setting(setting: Setting, **changed: float) -> Setting:
    """The same with other numbers."""
    return Setting.model_validate({**setting.model_dump(), **changed})


def _open_ours(
    folder: Path,
    records: Sequence[Record],
    embeddings: Embeddings,
    model_digest: str | None,
    threads: int,
    go_on: Callable[[], None],
) -> Index:
    wrong: list[ValueError] = []
    for record in records:
        try:
            paths = _checked(folder, record, embeddings, model_digest, go_on)
        except ValueError as error:
            wrong.append(error)
            continue
        parts = opened([(path, one.first_row) for path, one in zip(paths, record.files, strict=True)], embeddings.dim)
        _check_counts(paths, parts, record.files)
        return Index(parts, embeddings, record.count, record.unusable, record.measured.setting, record, threads)
    raise wrong[0]


def _checked(
    folder: Path, record: Record, embeddings: Embeddings, model_digest: str | None, go_on: Callable[[], None]
) -> list[Path]:
    """The files of an index that was made of these vectors, whole."""
    decides, where = record.decides, folder / f"{record.decides.modality}.index"
    again = "build it again with `sixfold index --replace`"
    if decides.modality != embeddings.modality:
        raise ValueError(f"{where}: found an index of {decides.modality} vectors, expected {embeddings.modality}")
    if record.metric != INNER_PRODUCT:
        raise ValueError(f"{where}: found an index by {record.metric[:40]}, expected {INNER_PRODUCT}; {again}")
    if decides.dim != embeddings.dim:
        raise ValueError(
            f"{where}: found an index of vectors of {decides.dim} numbers, expected {embeddings.dim} as the pool's "
            f"are; {again}"
        )
    if decides.rows != embeddings.num_rows:
        raise ValueError(
            f"{where}: found an index of {decides.rows:,} rows for a pool of {embeddings.num_rows:,}: half a pool; "
            f"{again}"
        )
    if decides.vectors != vectors_digest(embeddings):
        raise ValueError(
            f"{where}: found an index of other vectors than the pool's, whose rows it would mix up; {again}"
        )
    if model_digest is not None and record.model_digest not in (None, model_digest):
        raise ValueError(
            f"{where}: found an index of vectors by the model {str(record.model)[:80]} (digest "
            f"{str(record.model_digest)[:12]}), expected the model of the queries (digest {model_digest[:12]}); name "
            "that model in pool.clip"
        )
    return [check_file(folder, one, go_on) for one in record.files]


def _check_counts(paths: Sequence[Path], parts: Sequence[Part], files: Sequence[IndexFile]) -> None:
    for path, part, file in zip(paths, parts, files, strict=True):
        if inner_count(part.faiss) != file.count:
            raise ValueError(
                f"{path}: found {inner_count(part.faiss):,} vectors, expected {file.count:,}; build it again"
            )


def _open_others(
    folder: Path, modality: Modality, embeddings: Embeddings, sha256: str | None, trusted: bool, threads: int
) -> Index:
    names = [name.format(modality=modality) for name in OTHERS]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise ValueError(f"{folder}: found no {modality} index; build one with `sixfold index --modality {modality}`")
    if sha256 is None and not trusted:
        raise ValueError(
            f"{path}: found an index without a record of ours; give its sha256, or say that it is trusted: a made-up "
            "index can harm the program that reads it"
        )
    if sha256 is not None and (found := sha256_of(path)) != sha256.lower():
        raise ValueError(f"{path}: found sha256 {found[:12]}, expected {sha256[:12]}; fetch the index again")
    told = probed(path)
    if told.count != embeddings.num_rows:
        raise ValueError(
            f"{path}: found an index of {told.count:,} vectors for a pool of {embeddings.num_rows:,} rows, expected as "
            "many; give the index of this pool"
        )
    _check_kind(path, told.dim, embeddings.dim, told.inner_product)
    parts = opened([(path, 0)], embeddings.dim, foreign_flags())
    return Index(parts, embeddings, told.count, 0, _own_setting(parts[0].faiss), None, threads)


def inner_count(index: Any) -> int:
    """Vectors that can be found: where codes are refined, the index says how many rows there are."""
    import faiss

    base = index.base_index if isinstance(index, faiss.IndexRefine) else index
    return int(faiss.downcast_index(base).ntotal)


def _lists(index: Any) -> int:
    import faiss

    ivf = faiss.try_extract_index_ivf(index)
    return int(ivf.nlist) if ivf is not None else 0


def _own_setting(index: Any) -> Setting:
    """What its maker set; of an index of others."""
    import faiss

    ivf, graph = faiss.try_extract_index_ivf(index), _graph(index)
    over = GROWTH if ivf is not None and not isinstance(index, faiss.IndexRefine) else 1
    return Setting(
        nprobe=int(ivf.nprobe) if ivf is not None else 0, ef=int(graph.hnsw.efSearch) if graph else 0, over=over
    )


def _graph(index: Any) -> Any:
    """The graph over all vectors; None if it has none."""
    import faiss

    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else index
    return inner if isinstance(inner, faiss.IndexHNSW) else None


def _params(index: Any, fetch: int, setting: Setting) -> Any:
    """FAISS' own parameters of a search; None where an index has none."""
    import faiss

    make: Any = faiss  # whose types do not know what its classes take

    if _graph(index) is not None:
        return make.SearchParametersHNSW(efSearch=max(setting.ef, fetch, LEAST_EF))
    ivf = faiss.try_extract_index_ivf(index)
    if ivf is None:
        return None
    nprobe = max(1, min(setting.nprobe, int(ivf.nlist)))
    params = make.SearchParametersIVF(nprobe=nprobe)
    if isinstance(faiss.downcast_index(ivf.quantizer), faiss.IndexHNSW):
        lists = make.SearchParametersHNSW(efSearch=LISTS_EF * nprobe)
        params = make.SearchParametersIVF(nprobe=nprobe, quantizer_params=lists)
    if isinstance(index, faiss.IndexRefine):
        if isinstance(faiss.downcast_index(index.base_index), faiss.IndexPreTransform):
            params = make.SearchParametersPreTransform(index_params=params)
        return make.IndexRefineSearchParameters(k_factor=max(1.0, setting.k_factor), base_index_params=params)
    return (
        make.SearchParametersPreTransform(index_params=params) if isinstance(index, faiss.IndexPreTransform) else params
    )


def _left(found_QF: np.ndarray, kept: Kept) -> np.ndarray:
    """The candidates that may be found; -1 for the others."""
    rows = np.unique(found_QF[found_QF >= 0])
    if not len(rows):
        return found_QF
    is_kept = np.array([bool(kept(int(row), 1)[0]) for row in rows])
    at = np.minimum(np.searchsorted(rows, found_QF), len(rows) - 1)
    return np.where((found_QF >= 0) & is_kept[at], found_QF, NO_ROW)


@contextmanager
def _threads(num: int) -> Iterator[None]:
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(num)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].rpartition("' failed: ")[2][-200:]
