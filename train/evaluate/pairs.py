"""How like edits are to the pictures that they were made from: means over pairs of an edit and its source.

In: a network, a data set that `sixfold edit` made, the set of its sources. Out: `Figure`s. On disk: only reads.

A pair is found by the hash of the source's bytes, which the edit's row has in `url`: the source has the pixels that the
edit began with, wherever its set lies now. It is brought to the edit's size in the way that it was edited (`fit` of the
row's settings), so that what is measured is the edit.

Edits of one source are alike, so an interval is over sources: the spread of the sums of each source's deviations from
the mean. LPIPS itself is not offered. Its weights come as pickles, from addresses outside; `perceptual_distance` is its
formula without them, on the layers of any network.

Shapes: N pairs, C channels of a layer, P places in the picture.
"""

import hashlib
import io
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from shards.disk.checked_json import plain_json
from shards.disk.data_set import is_data_set
from shards.disk.safe_text import quoted
from shards.disk.store import open_for_reading
from shards.set.manifest import read_table, scan_records
from shards.stream.foreign_tars import short_id
from shards.stream.index import load_index
from shards.stream.index_arrays import Index
from shards.stream.pixels import Pixels, whole_pixels
from train.evaluate.features import Network, Picture, Read, Rows, Set, reading
from train.evaluate.measure_sets import Comparison, Figure, How, around

BATCH = 32  # pairs
MARK = "#sha256="  # in the `url` of an edit, between its source's key and hash
Doubles = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pairs:
    """The edits of a set with their sources; N of each."""

    edits: Index
    sources: Index
    edit: Int64  # rows of `edits`
    source: Int64  # rows of `sources`
    fit: tuple[str, ...]  # crop, squash or pad


def pairs_of(edited: str, index: Index, sources: str, chosen: Sequence[int]) -> Pairs:
    """The pairs of the chosen rows of `index`, the index of `edited`, in the order of their sources.

    Raises ValueError for a set that `sixfold edit` did not make, for no edit at all, and for an edit whose source
    `sources` has not.
    """
    told = _told(edited)
    found = load_index(sources)
    row_of = _rows_by_hash(sources, found)
    pairs, lost = [], []
    for row in chosen:
        key, sha256, fit = told[int(index.uid[row])]
        source = row_of.get(int(sha256[:16], 16))
        if source is None:
            lost.append(key)
        else:
            pairs.append((source, row, fit))
    if lost:
        raise ValueError(
            f"--sources {sources}: found no source of {len(lost):,} of {len(chosen):,} edits, such as "
            f"{quoted(lost[0], 80)}, expected the pictures that {edited} was made from, with the bytes that they had"
        )
    if not pairs:
        raise ValueError(f"DATASET ({edited}): found no edit to compare with its source, expected one or more")
    pairs.sort()
    source_N, edit_N, fits = zip(*pairs, strict=True)
    return Pairs(index, found, np.array(edit_N, np.int64), np.array(source_N, np.int64), fits)


def _told(edited: str) -> dict[int, tuple[str, str, str]]:
    """Short id of an edit -> key and sha256 of its source, how it became a square. Raises ValueError."""
    store = open_for_reading(edited)
    mistake = f"DATASET ({edited}): found pictures that are no edits, expected a data set that `sixfold edit` made"
    if not is_data_set(store):
        raise ValueError(mistake)
    table = read_table(store, scan_records(store), ["uid", "url", "sampler"])
    found = {}
    for uid, url, sampler in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
        key, _, sha256 = (url or "").rpartition(MARK)
        if len(sha256) != 64:
            raise ValueError(f"{mistake}; take --sources out")
        found[short_id(uid)] = (key, sha256, str(plain_json(sampler)["edit"]["fit"]))
    return found


def _rows_by_hash(sources: str, index: Index) -> dict[int, int]:
    """The first 64 bits of a picture's sha256 -> its first row. Reads the pictures of a set that does not say them."""
    hashes = index.picture_hash
    if not hashes.all():
        with reading(sources, index) as read, ThreadPoolExecutor(os.cpu_count() or 1) as threads:
            hashes = np.array(list(threads.map(lambda row: read(row, _first_bits), range(len(index)))), np.uint64)
    return {int(one): row for row, one in reversed(list(enumerate(hashes.tolist())))}


def _first_bits(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


# numbers of pairs


def perceptual_distance(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """Of N pairs, from N C P of each layer: the squared distance of the unit vectors at a place, its mean over places,
    the mean of that over layers. 0 = alike, 2 = nothing in common, 4 at most.

    Source: Zhang et al. 2018, equation 1, with weights of 1, and the mean over layers for their sum.
    """
    by_layer = []
    for one_NCP, other_NCP in zip(one, other, strict=True):
        apart_NCP = functional.normalize(one_NCP, dim=1) - functional.normalize(other_NCP, dim=1)
        by_layer.append(apart_NCP.square().sum(1).mean(1))
    return torch.stack(by_layer).mean(0)


def mean_by_group(values_N: Doubles, group_N: Int64) -> tuple[float, float | None, float | None]:
    """The mean over pairs and its 95 % interval, where pairs of one group are alike; no interval of one group.

    Source: the variance of a mean with clusters, Liang and Zeger 1986, with G / (G - 1) for G groups.
    """
    mean = float(values_N.mean())
    _, of_pair_N = np.unique(group_N, return_inverse=True)
    sums_G = np.bincount(of_pair_N, values_N - mean)
    if len(sums_G) < 2:
        return mean, None, None
    error = math.sqrt(len(sums_G) / (len(sums_G) - 1) * float(np.square(sums_G).sum())) / len(values_N)
    return (mean, *around(mean, error))


def likeness(
    network: Network, edited: str, sources: str, pairs: Pairs, tell: Callable[[int, int], None]
) -> list[Figure]:
    """Means over the pairs; `tell` hears how many of how many are there. Raises ValueError for a picture that cannot be
    read."""
    of_edits, of_sources, distances = [], [], []
    with (
        reading(edited, pairs.edits) as read_edit,
        reading(sources, pairs.sources) as read_source,
        ThreadPoolExecutor(os.cpu_count() or 1) as threads,
    ):
        for start in range(0, len(pairs.edit), BATCH):
            numbers = range(start, min(start + BATCH, len(pairs.edit)))
            shown = list(threads.map(lambda number: _shown(network, pairs, number, read_edit, read_source), numbers))
            edits, originals = ([one[side] for one in shown] for side in (0, 1))
            of_edits.append(_unit(network.rows(edits)))
            of_sources.append(_unit(network.rows(originals)))
            if network.maps is not None:
                apart_N = perceptual_distance(network.maps(edits), network.maps(originals))
                distances.append(apart_N.double().cpu().numpy())
            tell(numbers.stop, len(pairs.edit))
    edit_ND, source_ND = np.concatenate(of_edits), np.concatenate(of_sources)
    perceptual = f"perceptual distance of {network.shown} features to the source"
    return [
        Figure("cosine to the source", "", *mean_by_group((edit_ND * source_ND).sum(1), pairs.source)),
        _to_another(pairs, edit_ND, source_ND),
        Figure(perceptual, "", *mean_by_group(np.concatenate(distances), pairs.source))
        if distances
        else Figure(perceptual, "", None, why="nothing says what its layers are"),
    ]


def with_likeness(
    found: Comparison, network: Network, edits: Set, sources: str, how: How, tell: Callable[[int, int], None]
) -> Comparison:
    """What was measured of a set of edits, and before it how like these are to their sources; of more than `how.limit`
    edits that many are drawn. Raises ValueError as `pairs_of`."""
    chosen = np.random.default_rng(how.seed).permutation(len(edits.index))[: how.limit].tolist()
    pairs = pairs_of(edits.source, edits.index, sources, chosen)
    figures = likeness(network, edits.source, sources, pairs, tell)
    return replace(
        found,
        digests=(*found.digests, pairs.sources.digest),
        figures=(*figures, *found.figures),
        sources=sources,
        num_pairs=len(chosen),
    )


def _to_another(pairs: Pairs, edit_ND: Doubles, source_ND: Doubles) -> Figure:
    """What chance gives: each edit beside the next source of its class, the first after the last."""
    label_N = pairs.edits.label[pairs.edit]
    cosine_N = np.full(len(label_N), np.nan)
    for label in np.unique(label_N):
        of_class = np.flatnonzero(label_N == label)
        _, first, number = np.unique(pairs.source[of_class], return_index=True, return_inverse=True)
        if len(first) > 1:
            others = of_class[first[(number + 1) % len(first)]]
            cosine_N[of_class] = (edit_ND[of_class] * source_ND[others]).sum(1)
    name, has = "cosine to another source of the class", ~np.isnan(cosine_N)
    if not has.any():
        return Figure(name, "", None, why="no class has two sources")
    return Figure(name, "", *mean_by_group(cosine_N[has], pairs.source[has]))


def _shown(network: Network, pairs: Pairs, number: int, read_edit: Read, read_source: Read) -> tuple[Picture, Picture]:
    """An edit and its source, as the network takes them."""

    def edit(data: bytes) -> tuple[Picture, tuple[int, int]]:
        height, width = whole_pixels(data).shape[:2]
        return network.prepare(data), (height, width)

    picture, size = read_edit(int(pairs.edit[number]), edit)

    def source(data: bytes) -> Picture:
        return network.prepare(_as_edited(data, size, pairs.fit[number]))

    return picture, read_source(int(pairs.source[number]), source)


def _as_edited(data: bytes, size: tuple[int, int], fit: str) -> bytes:
    """A source in the size (height, width) of its edit: of `crop` its central square, else all of it. Bytes of that
    size stay, others become a PNG."""
    from PIL import Image

    image_HWC: Pixels = whole_pixels(data)
    high, wide = image_HWC.shape[:2]
    if (high, wide) == size:
        return data
    short = min(high, wide)
    left, top, across, down = (
        ((wide - short) / 2, (high - short) / 2, short, short) if fit == "crop" else (0, 0, wide, high)
    )
    picture = Image.fromarray(image_HWC)
    held = io.BytesIO()
    resized = picture.resize(size[::-1], Image.Resampling.BICUBIC, (left, top, left + across, top + down))
    resized.save(held, "PNG", compress_level=1)
    return held.getvalue()


def _unit(rows_ND: Rows) -> Doubles:
    wide = rows_ND.astype(np.float64)
    unit: Doubles = wide / np.linalg.norm(wide, axis=1, keepdims=True).clip(1e-12)
    return unit
