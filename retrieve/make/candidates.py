"""The candidates of a retrieved data set: for each class the rows of a pool that may become its images, in their order.

In: rows of a pool by class. Out: a `CandidateTable`. On disk: candidates.parquet, one row a candidate, sorted by class
and rank; the same candidates give the same bytes.

Sample number q of a class has candidate q, then, if that one cannot be had, q + N, q + 2 N and so on, where N is the
number of samples that a class can have at most: no two samples have a candidate in common, and which ones a sample has
depends on nothing but its number.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.disk.layout import META

CANDIDATES = f"{META}/candidates.parquet"  # where a data set keeps its own
ROWS_PER_GROUP = 65_536
SCHEMA = pa.schema(
    [
        pa.field("class_id", pa.int32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # 0.. within the class
        pa.field("row", pa.int64(), nullable=False),  # of the pool
        pa.field("score", pa.float32()),  # cosine of the image and its class's text
        pa.field("caption", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("shard", pa.string()),  # stem of the pool's tar
        pa.field("key", pa.string()),  # of its member
        pa.field("licence", pa.string()),
        pa.field("punsafe", pa.float32()),
        pa.field("sha256", pa.string()),  # of the picture, as the pool's list says
    ]
)


@dataclass(frozen=True)
class Candidate:
    """One row of the table."""

    class_id: int
    rank: int
    row: int
    score: float | None
    caption: str
    url: str | None
    shard: str | None
    key: str | None
    licence: str | None
    punsafe: float | None
    sha256: str | None


@dataclass(frozen=True, eq=False)
class CandidateTable:
    """The whole table, in memory as arrow columns: 150 bytes a row or so."""

    table: pa.Table

    @staticmethod
    def load(source: bytes | Path) -> "CandidateTable":
        """Raises ValueError if it is not such a table."""
        try:
            table = pq.read_table(io.BytesIO(source) if isinstance(source, bytes) else source)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"candidates: found no parquet file ({str(error)[:120]}), expected one") from None
        if table.schema.names != SCHEMA.names:
            raise ValueError(f"candidates: found columns {table.schema.names}, expected {SCHEMA.names}")
        return CandidateTable(table.cast(SCHEMA))

    @cached_property
    def _starts(self) -> Mapping[int, tuple[int, int]]:
        """Class id -> (first place, number)."""
        ids, first, count = np.unique(self.table["class_id"].to_numpy(), return_index=True, return_counts=True)
        return {int(one): (int(at), int(num)) for one, at, num in zip(ids, first, count, strict=True)}

    def num_per_class(self) -> dict[int, int]:
        """Class id -> candidates; a class without any is not there."""
        return {class_id: num for class_id, (_, num) in self._starts.items()}

    def num_of(self, class_id: int) -> int:
        """How many the class has."""
        return self._starts.get(class_id, (0, 0))[1]

    def at(self, class_id: int, rank: int) -> Candidate:
        """Raises IndexError for a rank that the class does not have."""
        first, num = self._starts.get(class_id, (0, 0))
        if not 0 <= rank < num:
            raise IndexError(f"class {class_id}: found rank {rank}, expected 0..{num - 1}")
        return Candidate(**{name: self.table[name][first + rank].as_py() for name in SCHEMA.names})


def table_bytes(table: pa.Table) -> bytes:
    """The bytes of candidates.parquet; `table` has the columns of `SCHEMA`, sorted."""
    sink = io.BytesIO()
    pq.write_table(table.select(SCHEMA.names).cast(SCHEMA), sink, compression="zstd", row_group_size=ROWS_PER_GROUP)
    return sink.getvalue()
