"""How much of what is there an index finds, and how it must be asked to find as much as was wished for.

In: an open index. Out: `Measured`: recall@10 against the exact scan, and the cheapest setting that reaches it. On disk:
only reads; the exact scan reads all vectors once. Shapes: Q queries, K results.

Queries are captions of the pool where an index of pictures is measured and captions have vectors of the same width,
because texts are what pictures are searched by; otherwise vectors of the pool that are moved a little. Which setting is
chosen depends on recall and on how many vectors are compared, not on a clock: the same index gets the same setting.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from retrieve.index.choice import Kind
from retrieve.index.index import Index
from retrieve.index.output import Measured, Setting
from retrieve.index.unit import sample
from retrieve.pool.embeddings import Embeddings
from retrieve.scan.nearest import Nearest
from retrieve.scan.scan import exact_scan

K = 10
SEED = 0xC11
MOVED = 0.5  # length of what is added to a vector of length 1
NEARLY = 0.005  # of the best recall, where the wished one is not reached
Factor = tuple[int, int]  # candidates of the codes for each one that the index gives, of these for each result
REFINED: tuple[Factor, ...] = ((1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (32, 1), (16, 2), (32, 2), (32, 4))
COARSE: tuple[Factor, ...] = tuple((1, 2**power) for power in range(7))
FINE: tuple[Factor, ...] = ((1, 1), (1, 2), (1, 4))  # where a byte a number ranks them
READ = 4.0  # comparisons that reading a vector of the pool costs
CODES = {"Flat": 1.0, "SQfp16": 0.5, "SQ8": 0.5, "RaBitQ": 0.2, "RaBitQfs": 0.04}  # of one comparison; PQ: 0.1

Say = Callable[[str], None]
T = TypeVar("T")


def queries_for(embeddings: Embeddings, captions: Embeddings | None, num: int) -> tuple[np.ndarray, str]:
    """(float32 (Q, D) of length 1, what they are, in words). Fewer than `num` if the pool has fewer."""
    if embeddings.modality == "image" and captions is not None and captions.dim == embeddings.dim:
        found = sample(captions, num, SEED)
        if len(found):
            return _unit(found), "captions of the pool"
    found = _unit(sample(embeddings, num, SEED))
    noise = np.random.default_rng(SEED).standard_normal(found.shape, np.float32)
    return _unit(found + MOVED * _unit(noise)), f"vectors of the pool, moved by {MOVED}"


def measure(
    index: Index, kind: Kind, queries_QD: np.ndarray, what: str, wanted: float, go_on: Callable[[], None]
) -> Measured:
    """Tune the index and say what it finds. Without queries (a pool without vectors that have a direction) it finds
    all there is. `go_on` is called again and again, and ends the measuring by what it raises."""
    if not len(queries_QD):
        return Measured(
            k=K, wanted=wanted, recall=1.0, num_queries=0, queries=what, setting=Setting(), queries_per_s=0.0
        )
    truth = exact_scan(index.embeddings, queries_QD, K, progress=lambda done, of: go_on())

    def recall(setting: Setting) -> float:
        return recall_of(index.search(queries_QD, K, setting=setting, go_on=go_on), truth)

    setting, reached = tuned(kind, index.count / max(1, kind.lists), wanted, recall)
    begun = time.perf_counter()
    index.search(queries_QD, K, setting=setting, go_on=go_on)
    rate = len(queries_QD) / max(1e-9, time.perf_counter() - begun)
    return Measured(
        k=K,
        wanted=wanted,
        recall=reached,
        num_queries=len(queries_QD),
        queries=what,
        setting=setting,
        queries_per_s=rate,
    )


def recall_of(found: Nearest, truth: Nearest) -> float:
    """Share of the true neighbours that were found; of rows with the same score each counts as the other."""
    real = np.isfinite(truth.scores)
    if not real.any():
        return 1.0
    last = np.where(real, truth.scores, np.inf).min(axis=1)
    hits = np.minimum((found.scores >= last[:, None]).sum(axis=1), real.sum(axis=1))
    return float(hits.sum() / real.sum())


def tuned(kind: Kind, per_list: float, wanted: float, recall: Callable[[Setting], float]) -> tuple[Setting, float]:
    """The cheapest setting that has the wished recall, and its recall; if none has, the cheapest that is nearly as good
    as any. `per_list`: vectors of a list."""
    known: dict[Setting, float] = {}

    def ask(setting: Setting) -> float:
        if setting not in known:
            known[setting] = recall(setting)
        return known[setting]

    reach, factors = _reaches(kind), _factors(kind)
    most = ask(_setting(kind, reach[-1], factors[-1]))
    goal = wanted if most >= wanted else most - NEARLY

    def holds(one: int, factor: Factor) -> bool:
        return ask(_setting(kind, one, factor)) >= goal

    best: tuple[float, Setting] | None = None
    low = _first(reach, lambda one: holds(one, factors[-1]))
    for one in reach[low : low + 3]:
        factor = factors[_first(factors, partial(holds, one))]
        setting = _setting(kind, one, factor)
        cost = _cost(kind, setting, per_list)
        if best is None or cost < best[0]:
            best = cost, setting
    assert best is not None, "the last reach has the goal"
    return best[1], ask(best[1])


def _reaches(kind: Kind) -> list[int]:
    """How far a search may look: lists, or candidates that a graph follows; ascending."""
    if kind.links:
        return [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048]
    return list(_ladder(kind.lists)) if kind.lists else [0]


def _ladder(last: int) -> Iterator[int]:
    """1, 2, 3, 4, 6, 8, 12, …, last."""
    step = 1
    while step < last:
        yield step
        if step > 1 and step * 3 // 2 < last:
            yield step * 3 // 2
        step *= 2
    yield last


def _factors(kind: Kind) -> Sequence[Factor]:
    """Each finds what the one before it finds, and more."""
    if kind.refine:
        return REFINED
    if kind.is_coarse:
        return COARSE
    return FINE if kind.codes == "SQ8" else FINE[:1]


def _setting(kind: Kind, reach: int, factor: Factor) -> Setting:
    if kind.links:
        return Setting(ef=reach)
    return Setting(nprobe=reach, k_factor=factor[0], over=factor[1])


def _cost(kind: Kind, setting: Setting, per_list: float) -> float:
    """In comparisons of whole vectors."""
    looked = setting.nprobe * per_list * CODES.get(kind.codes, 0.1) if kind.lists else float(setting.ef)
    return looked + K * setting.over * (READ + (setting.k_factor if kind.refine else 0.0))


def _first(values: Sequence[T], holds: Callable[[T], bool]) -> int:
    """Place of the first value that it holds for, the last one if for none; for a law that holds from some value on."""
    return min(bisect_left(values, True, key=holds), len(values) - 1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    return unit.astype(np.float32)
