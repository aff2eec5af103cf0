"""Which pictures of a set stand for all of it, and what they look like.

In: the index of a set. Out: rows of it, class after class in turns; pixels. On disk: reads the pictures.

A picture's place in its class is the rank of a hash of its id, so the choice does not depend on the order in which the
set was written, on ranks, or on what a training has seen of it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shards.stream.fetch import FetchError
from shards.stream.index_arrays import Index, Int64
from shards.stream.keyed_random import hashed
from shards.stream.pixels import UnreadablePicture, eval_pixels
from shards.stream.spec import EvalSpec

_ORDER, _CLASS = 0x7475726E, 0x636C6173


def in_turns(index: Index, class_ids: Sequence[int]) -> Int64:
    """The rows of these classes: a picture of each class in the order given, then a second one of each, and so on. A
    class that has no more loses its turn."""
    place_of = {class_id: place for place, class_id in enumerate(class_ids)}
    rows = np.flatnonzero(np.isin(index.label, list(place_of)))
    keys = np.array([hashed(_ORDER, int(uid)) for uid in index.uid[rows]], np.uint64)
    places = np.array([place_of[int(label)] for label in index.label[rows]], np.int64)
    by_class = np.lexsort((keys, places))
    rows, places = rows[by_class], places[by_class]
    turns = np.arange(len(rows)) - np.searchsorted(places, places)
    found: Int64 = rows[np.lexsort((places, turns))].astype(np.int64)
    return found


def spread(index: Index, class_ids: Sequence[int], most: int) -> Int64:
    """At most so many rows of these classes, rising, of each class equally many as far as it has them; where not each
    class can have one more, a hash of the class id decides."""
    turns = sorted(class_ids, key=lambda class_id: hashed(_CLASS, class_id))
    found: Int64 = np.sort(in_turns(index, turns)[:most])
    return found


def first_pictures(
    shown: EvalSpec, index: Index, class_ids: Sequence[int], most: int
) -> list[tuple[int, NDArray[np.uint8]]]:
    """(class id, pixels HWC) of the first so many pictures in turns. One that cannot be read is passed over, as a
    training passes it over. Raises TimeoutError if the storage does not answer."""
    found: list[tuple[int, NDArray[np.uint8]]] = []
    fetcher = shown.cache.fetcher(shown.source, index, shown.deadline_s, 1, shown.verify)
    try:
        for row in in_turns(index, class_ids).tolist():
            if len(found) == most:
                break
            try:
                pixels_HWC = eval_pixels(fetcher.read(row), shown.size_px, shown.crop_pct)
            except (UnreadablePicture, FetchError):
                continue
            found.append((int(index.label[row]), pixels_HWC))
    finally:
        fetcher.close()
    return found
