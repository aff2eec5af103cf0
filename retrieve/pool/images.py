"""The images of a pool: members of its tars, found by shard and key.

In: a pool, rows. Out: the bytes of pictures as they lie in the tars. On disk: only reads; a tar's headers are read when
its first picture is asked for, and kept for as many tars as `PoolImages` may hold.
"""

import bisect
import itertools
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from retrieve.pool.pool import ROW, Pool
from shards.disk.regular import open_regular
from shards.disk.store import FolderStore
from shards.stream.foreign_tars import Member, pictures_of

PLACE_ROLES = ("key", "shard")  # the columns that say where a picture is
MAX_OPEN = 64  # tars whose members are remembered
SHARD_DIGITS = 5  # of the beginning of a key, as img2dataset writes it


@dataclass(frozen=True)
class Place:
    """Where a row's picture lies."""

    row: int
    shard: str  # stem of the tar
    key: str  # of the member


@dataclass(frozen=True)
class Stretch:
    """The bytes of a picture in its tar."""

    tar: Path
    offset: int
    size: int


class NoPicture(ValueError):
    """The pool says of a row that it has a picture, and it has none; one line."""


class BlockedPicture(ValueError):
    """The picture is on a block list, by the hash of its bytes; one line."""


def read_stretches(stretches: Sequence[Stretch]) -> Iterator[bytes]:
    """In their order; a tar is opened once for all that follow each other, and any thread may read. Raises ValueError
    for a tar that was cut, OSError."""
    for tar, mine in itertools.groupby(stretches, key=lambda one: one.tar):
        with open(open_regular(tar), "rb", buffering=0) as file:
            for one in mine:
                data = os.pread(file.fileno(), one.size, one.offset)
                if len(data) != one.size:
                    raise ValueError(f"{tar}: was cut while it was read; fetch or write it again")
                yield data


class PoolImages:
    """Used by one thread at a time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._members: OrderedDict[str, dict[str, Member]] = OrderedDict()
        self._starts = [part.first_row for part in pool.parts]

    def places(self, rows: Sequence[int]) -> list[Place]:
        """In the order of `rows`. Raises ValueError if the tables do not say where the pictures are."""
        return self.places_of(self._pool.take(rows, PLACE_ROLES))

    def places_of(self, table: pa.Table) -> list[Place]:
        """The same of rows that were read already: `row`, `key` and, if the pool has it, `shard`, by role."""
        columns, rows = self._pool.columns, table[ROW].to_pylist()
        if columns.key is None:
            raise ValueError(
                f"{self._pool.spec.source}: found tars and no column of keys, expected `key` (and `shard`); images "
                "cannot be found in them"
            )
        keys = [str(key) for key in table["key"].to_pylist()]
        if columns.shard is not None:
            shards = [str(shard) for shard in table["shard"].to_pylist()]
        else:
            shards = [self._shard_of(row, key) for row, key in zip(rows, keys, strict=True)]
        return [Place(row, shard, key) for row, shard, key in zip(rows, shards, keys, strict=True)]

    def read(self, place: Place) -> bytes:
        """The picture as it lies there. Raises BlockedPicture if it may not leave, ValueError or OSError if it does not
        lie there."""
        data = next(read_stretches([self.find(place)]))
        if self._pool.blocks.holds(data):
            raise BlockedPicture(f"{place.shard}.tar: the picture {place.key} is on a block list")
        return data

    def find(self, place: Place) -> Stretch:
        """Where its bytes are. Raises NoPicture if the pool has no such tar or the tar no such picture, ValueError or
        OSError for a tar that cannot be read."""
        tar = self._pool.tars.get(place.shard)
        if tar is None:
            raise NoPicture(f"found no {place.shard}.tar in the pool, expected it for {place.key}")
        member = self._of_tar(place.shard).get(place.key)
        if member is None:
            raise NoPicture(f"{tar}: found no picture {place.key}; the table is that of another tar")
        return Stretch(tar, member.offset, member.size)

    def _shard_of(self, row: int, key: str) -> str:
        """A table beside its tar has the tar's name; img2dataset's keys begin with the number of the shard."""
        stem = self._pool.parts[bisect.bisect_right(self._starts, row) - 1].path.stem
        return stem if stem in self._pool.tars else key[:SHARD_DIGITS]

    def _of_tar(self, shard: str) -> dict[str, Member]:
        known = self._members.get(shard)
        if known is None:
            tar = self._pool.tars[shard]
            known = pictures_of(FolderStore(tar.parent, read_only=True), tar.name, tar.stat().st_size)
            self._members[shard] = known
            while len(self._members) > MAX_OPEN:
                self._members.popitem(last=False)
        else:
            self._members.move_to_end(shard)
        return known
