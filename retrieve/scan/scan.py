"""The exact scan: all queries against all vectors, as they lie on the disk, a block at a time.

In: embeddings of a pool, queries. Out: `Nearest`: of each query the k rows with the greatest inner products. On disk:
only reads. Shapes: Q queries, B vectors of a block, D numbers of a vector.

Two steps make it fast and exact. A block's scores are computed roughly, in the number format that the machine
multiplies fastest, and what cannot be among the k best is left away: how far a rough score may be off is known from the
lengths of what rounding took away (Cauchy-Schwarz). Then the true scores of what remains are computed one by one: the
inner product of the stored vector and the query as given, in double precision, rounded to float32. So neither the size
of the blocks nor the device nor the other queries change a score or a row.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from retrieve.pool.embeddings import EmbeddingFile, Embeddings
from retrieve.scan.nearest import NO_ROW, Nearest, merge, pack, unpack
from retrieve.scan.running import Running

if TYPE_CHECKING:
    import torch

Rough: TypeAlias = Literal["bfloat16", "float16", "float32"]
Kept: TypeAlias = Callable[[int, int], np.ndarray]  # first row of the pool, number of rows -> bool, a value a row
BLOCK_ROWS = 8192
QUERIES_AT_ONCE = 1024
GROUP = 64  # scores whose greatest decides whether they are looked at
GROUPS_AT_ONCE = 65_536  # that are looked at
PAIRS_AT_ONCE = 1024  # whose true scores are computed
MAX_LENGTH = 1000.0  # of a vector; embeddings have length 1
UNIT = 1e-3  # how far from 1 the length of a query may be
SINGLE = 2.0**-24  # relative error of one operation of float32
TINY = 1e-30  # processors may take smaller numbers for 0
ROUNDING: dict[Rough, float] = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 0.0}  # of a rough score


def exact_scan(
    embeddings: Embeddings,
    queries_QD: np.ndarray,
    k: int,
    *,
    block_rows: int = BLOCK_ROWS,
    kept: Kept | None = None,
    device: str = "cpu",
    rough: Rough | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Nearest:
    """The k nearest of each query, rows of length 1. `kept` says which rows may be found; `rough` None is what this
    machine is fastest at; `progress` is told after each block the rows done and of how many, and ends the scan by what
    it raises.

    The same as `merge` of `scan_part` of all files. It uses as many threads as torch was told to. Memory grows with
    Q x (2 k + D) numbers of 8 bytes and `block_rows`, not with the pool. Raises ValueError for queries of another
    width or length, k < 1.
    """
    found: Nearest | None = None
    for file in embeddings.files:
        floor = found.scores[:, -1] if found is not None and found.scores.shape[1] == k else None
        part = scan_part(
            file,
            queries_QD,
            k,
            block_rows=block_rows,
            kept=kept,
            device=device,
            rough=rough,
            at_least_Q=floor,
            tell=partial(_tell_of_all, progress, file.first_row, embeddings.num_rows),
        )
        found = part if found is None else merge([found, part])
    if found is None:
        raise ValueError("found no embeddings, expected at least one file")
    return found


def _tell_of_all(progress: Callable[[int, int], None], first_row: int, num_rows: int, done: int) -> None:
    progress(first_row + done, num_rows)


def scan_part(
    file: EmbeddingFile,
    queries_QD: np.ndarray,
    k: int,
    *,
    block_rows: int = BLOCK_ROWS,
    kept: Kept | None = None,
    device: str = "cpu",
    rough: Rough | None = None,
    at_least_Q: np.ndarray | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> Nearest:
    """The k nearest of one file: a unit of work. `at_least_Q`: scores below are of no interest, and need not be found.
    `tell` hears after each block how many rows are done. Raises what `exact_scan` and `tell` raise."""
    import torch

    queries_QD = checked_queries(queries_QD, file.dim, k, str(file.path))
    if block_rows < 1:
        raise ValueError(f"block_rows: found {block_rows}, expected at least 1")
    rough = rough or _fastest(device)
    if device == "cpu" and rough == "float16":
        raise ValueError("rough: found float16 on a CPU, which may add up in halves; expected bfloat16 or float32")
    dtype = getattr(torch, rough)
    width = min(k, file.num_rows)
    wide_QD = queries_QD.astype(np.float64)
    given_QD = torch.from_numpy(queries_QD)
    rough_QD = given_QD.to(dtype)
    off_Q = torch.linalg.vector_norm((given_QD.double() - rough_QD.double()), dim=1).numpy()
    placed_QD = rough_QD.to(device)
    num_unusable = 0
    told = partial(_true_scores, file, wide_QD)
    running = Running(len(queries_QD), width, ROUNDING[rough] if device == "cpu" else 0.0, told)
    for start in range(0, file.num_rows, block_rows):
        end = min(start + block_rows, file.num_rows)
        block_BD = torch.from_numpy(file.rows(start, end).astype(np.float32))
        length_B = torch.linalg.vector_norm(block_BD, dim=1)
        usable_B = ((length_B > 0) & (length_B <= MAX_LENGTH)).numpy()
        num_unusable += int((~usable_B).sum())
        if kept is not None:
            usable_B &= kept(file.first_row + start, end - start)
        rows_B = start + np.flatnonzero(usable_B)
        if not len(rows_B):
            tell(end)
            continue
        if len(rows_B) < end - start:
            block_BD = block_BD[torch.from_numpy(usable_B)]
        rough_BD = block_BD.to(dtype)
        lost = float(torch.linalg.vector_norm(block_BD - rough_BD.float(), dim=1).max()) if rough != "float32" else 0.0
        longest = float(length_B[torch.from_numpy(usable_B)].max()) + lost
        margin = off_Q * longest + (1 + UNIT + off_Q) * (lost + (file.dim + 1) * SINGLE * longest) + TINY
        running.margin = np.maximum(running.margin, margin)
        if at_least_Q is not None:
            running.start_at(at_least_Q)
        padded_BD = torch.nn.functional.pad(rough_BD, (0, 0, 0, -len(rows_B) % GROUP)).to(device)
        for first in range(0, len(queries_QD), QUERIES_AT_ONCE):
            _look(placed_QD[first : first + QUERIES_AT_ONCE], padded_BD, rows_B, first, running, width)
        tell(end)
    queries, rows = running.pairs()
    scores, rows = _best(queries, told(queries, rows), rows, len(queries_QD), width)
    return Nearest(k, scores, np.where(rows < 0, NO_ROW, rows + file.first_row), file.num_rows, num_unusable)


def _look(
    queries_QD: "torch.Tensor", block_BD: "torch.Tensor", rows_B: np.ndarray, first: int, running: Running, k: int
) -> None:
    """Hands over all whose rough score reaches the floor. `first`: number of the first of these queries; the block's
    last rows beyond `rows_B` fill a group and are none."""
    import torch

    if queries_QD.device.type == "cpu":
        scores_QB = queries_QD @ block_BD.T
    else:
        scores_QB = torch.mm(queries_QD, block_BD.T, out_dtype=torch.float32)  # unrounded
    floor_Q = running.floor[first : first + len(queries_QD)]
    new = np.flatnonzero(np.isneginf(floor_Q))
    if len(new) and len(rows_B) >= k:
        places = torch.from_numpy(new).to(scores_QB.device)
        kth = scores_QB[places, : len(rows_B)].topk(k, dim=1).values[:, -1]
        running.told(first + new, kth.float().cpu().numpy())
    groups_QGI = scores_QB.view(len(queries_QD), -1, GROUP)
    queries, groups = np.nonzero(groups_QGI.amax(2).float().cpu().numpy() >= floor_Q[:, None])
    for begin in range(0, len(queries), GROUPS_AT_ONCE):
        which, group = queries[begin : begin + GROUPS_AT_ONCE], groups[begin : begin + GROUPS_AT_ONCE]
        looked = groups_QGI[torch.from_numpy(which), torch.from_numpy(group)].float().cpu().numpy()
        number, place = np.nonzero(looked >= floor_Q[which, None])
        column = group[number] * GROUP + place
        real = column < len(rows_B)
        number, place, column = number[real], place[real], column[real]
        running.add(first + which[number], looked[number, place], rows_B[column])


def _true_scores(file: EmbeddingFile, queries_QD: np.ndarray, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """float32, one a pair (query, row of the file), of queries in double precision; only these rows are read."""
    scores = np.empty(len(rows), np.float32)
    order = np.argsort(rows, kind="stable")
    for begin in range(0, len(rows), PAIRS_AT_ONCE):
        pairs = order[begin : begin + PAIRS_AT_ONCE]
        first = int(rows[pairs[0]])
        vectors = file.rows(first, int(rows[pairs[-1]]) + 1)[rows[pairs] - first].astype(np.float64)
        scores[pairs] = np.einsum("pd,pd->p", vectors, queries_QD[queries[pairs]])
    return scores


def _best(
    queries: np.ndarray, scores: np.ndarray, rows: np.ndarray, num_queries: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """(scores, rows), each (Q, k), of the pairs' k best a query."""
    packed = pack(scores, rows)
    order = np.lexsort((~packed, queries))
    queries, packed = queries[order], packed[order]
    place = np.arange(len(queries)) - np.searchsorted(queries, queries)
    best = np.zeros((num_queries, k), np.uint64)
    best[queries[place < k], place[place < k]] = packed[place < k]
    return unpack(best)


def true_scores(embeddings: Embeddings, queries_QD: np.ndarray, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """float32, one a pair (query, row of the pool), with the bits that the scan gives; only these rows are read."""
    scores = np.empty(len(rows), np.float32)
    wide_QD = queries_QD.astype(np.float64)
    places = np.searchsorted([file.first_row for file in embeddings.files], rows, side="right") - 1
    for number in np.unique(places):
        file, mine = embeddings.files[number], np.flatnonzero(places == number)
        scores[mine] = _true_scores(file, wide_QD, queries[mine], rows[mine] - file.first_row)
    return scores


def checked_queries(queries_QD: np.ndarray, dim: int, k: int, where: str) -> np.ndarray:
    """float32 queries of length 1, as wide as the vectors in `where`. Raises ValueError in one line for others, and for
    k < 1."""
    if queries_QD.ndim != 2 or queries_QD.shape[1] != dim:
        raise ValueError(
            f"{where}: found vectors of {dim} numbers for queries {list(queries_QD.shape)}, expected queries "
            f"(any, {dim}); both come from one model"
        )
    if k < 1:
        raise ValueError(f"k: found {k}, expected at least 1")
    lengths = np.linalg.norm(queries_QD.astype(np.float64), axis=1)
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= UNIT))
    if len(wrong):
        raise ValueError(
            f"query {wrong[0]}: found a vector of length {lengths[wrong[0]]:.4g}, expected 1; divide it by its length"
        )
    return np.ascontiguousarray(queries_QD, np.float32)


def _fastest(device: str) -> Rough:
    """What a matrix multiplication is fastest in: tensor cores, AMX, or the plain vector unit."""
    import torch

    if device != "cpu":
        return "float16"
    return "bfloat16" if torch.cpu.get_capabilities().get("amx_bf16", False) else "float32"
