"""How far a set of pictures is from another, and how varied it is: metrics with intervals, beside what chance gives.

In: the features of one set, and of another to compare it with. Out: `Figure`s. On disk: `figures.json`, of a call.

Distances between sets shrink with the number of pictures. So both sets are drawn to the same number n, and beside each
distance stands its floor: the same distance between two disjoint draws of n pictures of the other set. A distance near
its floor is no difference. An interval is that of the delete-d jackknife: the metric of random draws of three quarters
of the n pictures, whose spread is scaled to n (Shao and Wu 1989), with Student's quantile, for the draws are few. The
plain bootstrap would put pictures in twice, and raise every distance that looks at neighbours or at the rank of a
covariance.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gen.model.nearest import nearest
from shards.disk.replace import replace_file
from shards.disk.safe_text import clip
from train.evaluate.features import Network, Rows, Set
from train.evaluate.set_metrics import (
    clip_mean_discrepancy,
    frechet_distance,
    gaussian,
    kernel_inception_distance,
    neighbourhoods,
    vendi_score,
)
from train.evaluate.student import NORMAL_QUANTILE, t_quantile

FIGURES = "figures.json"
KEPT_SHARE = 0.75  # of the pictures, in a draw of the jackknife
KID_SUBSETS, KID_SIZE = 50, 1000
MAX_PAIRS = 20

Metric = Callable[[Rows, Rows], Mapping[str, float]]  # of (made, real)


@dataclass(frozen=True)
class Figure:
    """One metric of a set, or of two; None where it has no value, and `why` says so."""

    name: str
    better: str  # "lower", "higher", or "" where neither is meant
    value: float | None
    low: float | None = None  # of the 95 % interval
    high: float | None = None
    floor: float | None = None  # the other set against itself
    why: str = ""

    def text(self) -> str:
        """One line: ``"KID 0.021 [0.018, 0.024], real against real 0.0001"``."""
        if self.value is None:
            return f"{self.name}: none ({self.why})"
        between = "" if self.low is None or self.high is None else f" [{_shown(self.low)}, {_shown(self.high)}]"
        floor = "" if self.floor is None else f", the other set against itself {_shown(self.floor)}"
        better = f" ({self.better} is better)" if self.better else ""
        return f"{self.name} {_shown(self.value)}{between}{floor}{better}"


@dataclass(frozen=True)
class Pair:
    """Two pictures of different sets that are alike."""

    place: str  # tar or file of the first
    uid: str  # 16 hex digits
    other_place: str
    other_uid: str
    cosine: float


@dataclass(frozen=True)
class Comparison:
    """What was measured, for people and for `figures.json`."""

    source: str
    against: str | None
    network: str
    network_digest: str
    digests: tuple[str, ...]  # of the sets' indexes
    pictures: tuple[int, ...]  # in each set
    n: int  # of each, that distances are over
    seed: int
    figures: tuple[Figure, ...]
    alike: tuple[Pair, ...] = ()
    num_alike: int = 0  # pictures with one of the other set above the threshold
    sources: str | None = None  # of the set, whose edits were compared with their own
    num_pairs: int = 0


@dataclass(frozen=True)
class How:
    """What a person may choose."""

    limit: int = 10_000  # pictures of a set, at most
    draws: int = 10  # of the jackknife
    k: int = 5  # neighbours
    seed: int = 0
    alike: float = 0.95  # cosine from which on two pictures count as alike


def compare_sets(network: Network, one: Set, other: Set, how: How) -> Comparison:
    """All distances of `one` from `other`, and how varied `one` is.

    Raises ValueError if a set has too few pictures to draw from: 8, and twice as many in the other.
    """
    n = min(len(one.rows), len(other.rows) // 2, how.limit)
    if n < 8:
        raise ValueError(
            f"DATASET: found {len(one.rows):,} pictures against {len(other.rows):,}, expected at least 8 and twice as "
            "many in the other set, which is also compared with itself; give larger sets"
        )
    random = np.random.default_rng(how.seed)
    made = _rows(one, network)[random.permutation(len(one.rows))[:n]]
    order = random.permutation(len(other.rows))
    real, rest = (_rows(other, network)[part] for part in (order[:n], order[n : 2 * n]))
    figures: list[Figure] = []
    for metric, better in _metrics(network, how):
        figures += _figures(metric, better, made, real, rest, how, random)
    pairs, count = _alike(one, other, how.alike)
    twins = f"share with a twin, a cosine of {how.alike:g} or more"
    share, floor = (float((nearest(_unit(rows), _unit(real))[1] >= how.alike).mean()) for rows in (made, rest))
    figures.append(Figure(twins, "lower", share, floor=floor))
    return Comparison(
        one.source,
        other.source,
        network.shown,
        network.digest,
        (one.index.digest, other.index.digest),
        (len(one.rows), len(other.rows)),
        n,
        how.seed,
        (*figures, *_of_one(network, one, how)),
        pairs,
        count,
    )


def describe_set(network: Network, one: Set, how: How) -> Comparison:
    """How varied a set is, and how well its pictures fit their captions."""
    n = min(len(one.rows), how.limit)
    of_one = _of_one(network, one, how)
    digests = (one.index.digest,)
    return Comparison(
        one.source, None, network.shown, network.digest, digests, (len(one.rows),), n, how.seed, tuple(of_one)
    )


def write_figures(folder: Path, found: Comparison) -> Path:
    """Write `figures.json`, replaced as a whole; its path."""
    body = json.dumps(dataclasses.asdict(found), indent=1, allow_nan=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / FIGURES, body.encode())
    return folder / FIGURES


def _metrics(network: Network, how: How) -> list[tuple[Metric, str]]:
    """Each with what is better of its numbers."""
    found: list[tuple[Metric, str]] = [(_frechet, "lower")]
    if network.is_clip:
        found.append((_cmmd, "lower"))
    return [*found, (functools.partial(_kid, how.seed), "lower"), (functools.partial(_neighbours, how.k), "higher")]


def _frechet(made: Rows, real: Rows) -> Mapping[str, float]:
    return {"Frechet distance": frechet_distance(gaussian(made), gaussian(real))}


def _cmmd(made: Rows, real: Rows) -> Mapping[str, float]:
    return {"CMMD": clip_mean_discrepancy(made, real)}


def _kid(seed: int, made: Rows, real: Rows) -> Mapping[str, float]:
    size = min(KID_SIZE, len(made))  # of each set, which are equally large; below that all subsets are the whole set
    subsets = KID_SUBSETS if size < len(made) else 1
    return {"KID": float(kernel_inception_distance(made, real, subsets, size, seed).mean())}


def _neighbours(k: int, made: Rows, real: Rows) -> Mapping[str, float]:
    found = neighbourhoods(real, made, k)
    return {
        "precision": float(found.precise.mean()),
        "recall": float(found.recalled.mean()),
        "density": float(found.density.mean()),
        "coverage": float(found.covered.mean()),
    }


def _figures(
    metric: Metric, better: str, made: Rows, real: Rows, rest: Rows, how: How, random: np.random.Generator
) -> list[Figure]:
    try:
        values = metric(made, real)
    except ValueError as error:  # too few pictures for this one
        what, _, why = str(error).partition(": ")
        return [Figure(what, better, None, why=why)]
    floor = metric(rest, real)
    errors = errors_of(metric, made, real, how, random)
    return [
        Figure(name, better, value, *around(value, errors.get(name)), floor=floor[name])
        for name, value in values.items()
    ]


def errors_of(metric: Metric, made: Rows, real: Rows, how: How, random: np.random.Generator) -> Mapping[str, float]:
    """The standard error of each number, larger for fewer draws, so that `around` gives 95 %; {} if the draws are too
    small for the metric. Raises ValueError for a single draw."""
    kept = math.ceil(KEPT_SHARE * len(made))
    found: dict[str, list[float]] = {}
    for _ in range(how.draws):
        parts = [rows[random.permutation(len(rows))[:kept]] for rows in (made, real)]
        try:
            for name, value in metric(*parts).items():
                found.setdefault(name, []).append(value)
        except ValueError:
            return {}
    scale = math.sqrt(kept / (len(made) - kept)) if len(made) > kept else 0.0
    scale *= t_quantile(how.draws - 1) / NORMAL_QUANTILE
    return {name: scale * float(np.std(values, ddof=1)) for name, values in found.items()}


def around(value: float, error: float | None) -> tuple[float | None, float | None]:
    """The 95 % interval of a value with this standard error; none without one."""
    return (None, None) if error is None else (value - NORMAL_QUANTILE * error, value + NORMAL_QUANTILE * error)


def _of_one(network: Network, one: Set, how: How) -> list[Figure]:
    random = np.random.default_rng(how.seed)
    chosen = random.permutation(len(one.rows))[: how.limit]
    unit = _unit(one.rows)
    found = [Figure(f"Vendi score of {len(chosen):,} pictures", "higher", vendi_score(unit[chosen]))]
    labels = one.index.label[chosen]
    of_classes = [vendi_score(unit[chosen][labels == label]) for label in np.unique(labels)]
    found.append(Figure("Vendi score inside a class, mean", "higher", *_mean_interval(np.array(of_classes))))
    if network.texts is not None:
        scores = _caption_cosines(network, one, chosen)
        if not len(scores):
            found.append(Figure("CLIP score", "higher", None, why="the set has no captions"))
        else:
            found.append(Figure("CLIP score", "higher", *_mean_interval(100 * scores.clip(0))))
    return found


def _caption_cosines(network: Network, one: Set, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each chosen picture that has a caption, with it. Source of the score: Hessel et al. 2021, without its factor
    2.5, as torchmetrics has it."""
    assert network.texts is not None
    rows = [row for row in chosen.tolist() if int(one.index.uid[row]) in one.captions]
    texts = [one.captions[int(one.index.uid[row])] for row in rows]
    different = sorted(set(texts))
    if not different:
        return np.zeros(0)
    vectors = network.texts(different)
    at = {text: number for number, text in enumerate(different)}
    theirs = vectors[[at[text] for text in texts]]
    return np.einsum("nd,nd->n", one.rows[rows].astype(np.float64), theirs.astype(np.float64))


def _mean_interval(values: NDArray[np.float64]) -> tuple[float, float | None, float | None]:
    mean = float(values.mean())
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return (mean, *around(mean, error))


def _alike(one: Set, other: Set, threshold: float) -> tuple[tuple[Pair, ...], int]:
    """The closest pairs, and how many pictures have a twin: of all pictures, drawn ones or not."""
    at, cosine = nearest(_unit(one.rows), _unit(other.rows))
    above = np.flatnonzero(cosine >= threshold)
    first = above[np.argsort(-cosine[above], kind="stable")][:MAX_PAIRS]
    pairs = [
        Pair(
            clip(one.index.place_of(int(row)), 200),
            f"{int(one.index.uid[row]):016x}",
            clip(other.index.place_of(int(at[row])), 200),
            f"{int(other.index.uid[at[row]]):016x}",
            float(cosine[row]),
        )
        for row in first
    ]
    return tuple(pairs), len(above)


def _rows(one: Set, network: Network) -> Rows:
    return _unit(one.rows) if network.is_clip else one.rows


def _unit(rows: Rows) -> Rows:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)


def _shown(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def lines(found: Comparison) -> Sequence[str]:
    """For a terminal."""
    said = [f"network: {found.network}"]
    if found.against is not None:
        said.append(f"distances are over {found.n:,} pictures of each set, drawn with the seed {found.seed}")
    if found.sources is not None:
        said.append(f"{found.num_pairs:,} edits beside their sources in {found.sources}; intervals are over sources")
    said += [figure.text() for figure in found.figures]
    if found.num_alike:
        said.append(f"{found.num_alike:,} pictures have a twin in {found.against}; the closest:")
        said += [f"  {one.cosine:.4f}  {one.place} {one.uid}  {one.other_place} {one.other_uid}" for one in found.alike]
    return said
