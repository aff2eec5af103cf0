"""A data set in Python, for notebooks: open it, look at samples, take its table, draw a grid.

In: a folder or URL of a data set of ours. Out: samples as they are needed, decoded; a pyarrow table; a picture of many
samples. On disk: nothing is written.

    import shards
    data = shards.open("out/sandbox", subset="6x")
    data[0].image, data[0].caption          # also: for sample in data
    data.table(["class_name", "style"])     # data.table().to_pandas() with pandas
    data.grid(8, 4)                         # a notebook shows it
"""

import bisect
import functools
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from shards.disk.data_set import open_data_set
from shards.disk.jpeg import decode_jpeg
from shards.disk.layout import EDITED_SCHEMA, SUCCESS, TABLE_SCHEMA
from shards.disk.safe_text import quoted
from shards.set.manifest import read_member, read_table, scan_records
from shards.set.status import refuse_missing
from shards.set.subset import chosen_rows, named_subset, refuse_lost

MAX_GRID = 64  # pictures on a side


@dataclass(frozen=True)
class Sample:
    """One image with its label and its row of the table."""

    key: str
    label: int  # the class id
    class_name: str
    caption: str  # the prompt as the generator saw it
    image: Image.Image  # RGB
    row: Mapping[str, Any]  # every column, such as style, seed, licence


class DataSet(Sequence[Sample]):
    """The samples of a data set in the order of its shards. Tables and pictures are read when they are asked for, and
    compared with their hashes."""

    def __init__(self, url: str | os.PathLike[str], subset: str | None = None) -> None:
        """Raises ValueError for a place that is no data set of ours, a damaged one, one that is not finished if no
        subset is named, or a subset that is not all there."""
        if not isinstance(url, str | os.PathLike):
            raise ValueError(f"url: found {quoted(url, 60)}, expected the folder or URL of a data set, as a text")
        if subset is not None and not isinstance(subset, str):
            raise ValueError(f'subset: found {quoted(subset, 60)}, expected a name in quotes, such as "2x"')
        self._store = open_data_set(os.fspath(url))
        self._records = scan_records(self._store)
        self._subset = chosen = named_subset(self._store, subset)
        if chosen is None:
            refuse_missing(self._store, "shards.open", "name a subset (`sixfold show` pages what is there)")
        refuse_lost(f"{self._store.url}: subset {subset}", chosen or (), self._records)
        counts = {
            shard: record.successes if chosen is None else len(chosen.get(shard, ()))
            for shard, record in sorted(self._records.items())
        }
        self._shards = [shard for shard, count in counts.items() if count]
        self._ends = list(accumulate(counts[shard] for shard in self._shards))
        self._rows = functools.lru_cache(maxsize=8)(self._rows_of)  # tables near the last one that was asked for

    def __repr__(self) -> str:
        return f"<{len(self):,} samples of {self._store.url}>"

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, at: int) -> Sample: ...
    @overload
    def __getitem__(self, at: slice) -> list[Sample]: ...
    def __getitem__(self, at: int | slice) -> Sample | list[Sample]:
        """Raises IndexError beyond the end, ValueError for a damaged shard or picture."""
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        number = range(len(self))[at]  # negative numbers count from the end
        place = bisect.bisect_right(self._ends, number)
        shard = self._shards[place]
        before = self._ends[place - 1] if place else 0
        return self._sample(self._rows(shard).slice(number - before, 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Sample]:
        for shard in self._shards:
            for row in self._rows(shard).to_pylist():
                yield self._sample(row)

    @property
    def classes(self) -> dict[int, str]:
        """Class id -> name, ids ascending."""
        pairs = self.table(["class_id", "class_name"]).group_by(["class_id", "class_name"]).aggregate([])
        return dict(sorted(zip(pairs["class_id"].to_pylist(), pairs["class_name"].to_pylist(), strict=True)))

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """A row for each sample, in the same order; the columns are those of docs/FORMATS.md, by default all there are.
        Pictures are not read."""
        if unknown := sorted(set(columns or ()) - set(EDITED_SCHEMA.names)):
            raise ValueError(f"found the column {unknown[0][:60]!r}, expected some of {', '.join(EDITED_SCHEMA.names)}")
        if self._subset is not None:
            parts = [(TABLE_SCHEMA if columns is None else EDITED_SCHEMA).empty_table()]
            found = pa.concat_tables([*parts, *map(self._rows_of, self._shards)], promote_options="default")
        else:
            read = {shard: self._records[shard] for shard in self._shards}
            more = None if columns is None else [*columns, *(["status"] if "status" not in columns else [])]
            found = read_table(self._store, read, more)
            found = found.filter(pc.equal(found["status"], SUCCESS))
        return found if columns is None else found.select(list(columns))

    def grid(self, columns: int = 8, rows: int = 4, side_px: int = 128, seed: int = 0) -> Image.Image:
        """One RGB picture of samples that were drawn by `seed`, of which each class has about as many, class by class.

        Each keeps its shape in a white square of `side_px`. Raises ValueError for an empty data set or too many.
        """
        if not len(self):
            raise ValueError(f"{self._store.url}: found no samples, expected some to draw")
        if not (1 <= columns <= MAX_GRID and 1 <= rows <= MAX_GRID and 8 <= side_px <= 1024):
            raise ValueError(
                f"found {columns} x {rows} pictures of {side_px} px, expected 1 to {MAX_GRID} x 1 to {MAX_GRID} "
                "of 8 to 1024 px"
            )
        sheet = Image.new("RGB", (columns * side_px, rows * side_px), "white")
        for place, number in enumerate(self._spread(columns * rows, seed)):
            picture = self[number].image
            picture.thumbnail((side_px, side_px))
            if max(picture.size) < side_px:
                scale = side_px / max(picture.size)
                size = (round(picture.width * scale), round(picture.height * scale))
                picture = picture.resize((max(1, size[0]), max(1, size[1])))
            left, top = place % columns * side_px, place // columns * side_px
            sheet.paste(picture, (left + (side_px - picture.width) // 2, top + (side_px - picture.height) // 2))
        return sheet

    def _spread(self, wanted: int, seed: int) -> list[int]:
        """Numbers of samples: one of each class in turn until there are enough; then sorted by class."""
        by_class: dict[int, list[int]] = {}
        for number, label in enumerate(self.table(["class_id"])["class_id"].to_pylist()):
            by_class.setdefault(label, []).append(number)
        draw = random.Random(seed)
        queues = {label: draw.sample(numbers, min(wanted, len(numbers))) for label, numbers in sorted(by_class.items())}
        turns = [(label, queue[turn]) for turn in range(wanted) for label, queue in queues.items() if turn < len(queue)]
        return [number for _, number in sorted(turns[:wanted])]

    def _rows_of(self, shard: int) -> pa.Table:
        table = chosen_rows(read_table(self._store, {shard: self._records[shard]}), shard, self._subset)
        return table.filter(pc.equal(table["status"], SUCCESS))

    def _sample(self, row: dict[str, Any]) -> Sample:
        pixels: np.ndarray = decode_jpeg(read_member(self._store, row))
        return Sample(row["key"], row["class_id"], row["class_name"], row["caption"], Image.fromarray(pixels), row)
