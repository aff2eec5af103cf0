"""A pool: captioned images to search in, as the tables, vectors and tars that lie in its folder.

In: a `PoolSpec`. Out: a `Pool`, whose rows have numbers: the place of a row in all tables, one after the other in the
order of their names (clip-retrieval counts the same way). On disk, read only: *.parquet or metadata/*.parquet, *.tar
beside them, img_emb/ and text_emb/ (`retrieve.pool.embeddings`).

Rows that are flagged or blocked never leave (`retrieve.pool.blocks`): `scan` and `take` say of each row whether it may.
"""

import hashlib
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrieve.pool.blocks import Blocks
from retrieve.pool.columns import Columns, find_columns, in_one_type
from retrieve.pool.embeddings import MODALITIES, Embeddings, Modality, open_embeddings
from retrieve.pool.spec import PoolSpec
from shards.disk.address import file_path
from shards.disk.amounts import counted
from shards.disk.parquet import iter_rows, take_rows, types_of_others
from shards.disk.regular import size_and_ends
from shards.disk.safe_text import one_line, quoted

METADATA = "metadata"
BATCH_ROWS = 65_536
KEPT = "kept"  # the column that `scan` and `take` add: whether the row may leave
ROW = "row"  # and the row's number in the pool


@dataclass(frozen=True)
class Part:
    """One table of the pool."""

    number: int
    path: Path
    first_row: int
    num_rows: int


@dataclass(frozen=True, eq=False)
class Pool:
    """What lies in the folder, looked at once; nothing is held open."""

    spec: PoolSpec
    parts: tuple[Part, ...]
    columns: Columns
    blocks: Blocks
    image: Embeddings | None
    text: Embeddings | None

    @property
    def num_rows(self) -> int:
        """Captioned images, the flagged ones included."""
        return self.parts[-1].first_row + self.parts[-1].num_rows

    @cached_property
    def tars(self) -> dict[str, Path]:
        """Stem -> tar, such as 00042; empty if the pool holds no images."""
        folder = file_path(self.spec.images or self.spec.source)
        return {path.stem: path for path in sorted(folder.glob("*.tar"))}

    @property
    def has_pictures(self) -> bool:
        """Whether it says of rows where in its tars their pictures are."""
        return self.columns.key is not None and bool(self.tars)

    @cached_property
    def tars_digest(self) -> str:
        """Of the tars, wherever they lie: of each its name, its size and its two ends. Hex sha256."""
        about = [[path.name, *size_and_ends(path)] for path in self.tars.values()]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()

    @cached_property
    def digest(self) -> str:
        """Of what a search depends on: tables and vectors, columns and blocks, wherever they lie. Hex sha256.

        Of each file its name, its size and its two ends: a table has the statistics of its columns at its end.
        """
        return self._digest_with(sorted(self.blocks.urls), sorted(self.blocks.hashes))

    @cached_property
    def digest_without_lists(self) -> str:
        """The same, whatever the block lists say: they may grow while a data set is made of the pool."""
        return self._digest_with([], [])

    def _digest_with(self, urls: list[str], hashes: list[str]) -> str:
        rules = [urls, hashes, self.blocks.unsafe_above, self.columns.names]
        return hashlib.sha256(json.dumps([self._files, rules], sort_keys=True).encode()).hexdigest()

    @cached_property
    def _files(self) -> list[list[object]]:
        files = [part.path for part in self.parts]
        files += [file.path for one in (self.image, self.text) if one is not None for file in one.files]
        return [[path.name, *size_and_ends(path)] for path in files]

    def embeddings(self, modality: Modality) -> Embeddings | None:
        """Of pictures or of captions; None if the pool has none."""
        return self.image if modality == "image" else self.text

    def scan(self, part: Part, roles: Sequence[str], num_rows: int = BATCH_ROWS) -> Iterator[pa.Table]:
        """The rows of a part in order, at most `num_rows` at a time: `roles` the pool has, `row` and `kept`."""
        at = part.first_row
        for table in iter_rows(part.path, self._names(roles), num_rows):
            yield self._told(part, table, roles, np.arange(at, at + len(table), dtype=np.int64))
            at += len(table)

    def take(self, rows: Sequence[int] | np.ndarray, roles: Sequence[str]) -> pa.Table:
        """The rows of these numbers, in the order asked for: `roles` the pool has, `row` and `kept`."""
        wanted = np.asarray(rows, np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < self.num_rows:
            raise IndexError(f"pool: found rows {wanted.min()}..{wanted.max()}, expected 0..{self.num_rows - 1}")
        order = np.argsort(wanted, kind="stable")
        ascending = wanted[order]
        places = np.searchsorted([part.first_row for part in self.parts], ascending, side="right") - 1
        found = [self._of_part(self.parts[number], ascending[places == number], roles) for number in np.unique(places)]
        if not found:
            empty = pq.read_schema(self.parts[0].path).empty_table().select(self._names(roles))
            return self._told(self.parts[0], empty, roles, wanted)
        return pa.concat_tables(found, promote_options="permissive").take(np.argsort(order, kind="stable"))

    def may_leave(self, first: int, num: int) -> np.ndarray:
        """bool, a value a row of `num` from row `first` on: whether it may leave. Of the tables that hold them it reads
        the columns that decide."""
        kept = np.ones(num, bool)
        for part in self.parts if self._names([]) else ():
            if part.first_row < first + num and first < part.first_row + part.num_rows:
                for table in self.scan(part, []):
                    at = table[ROW].to_numpy() - first
                    is_asked = (at >= 0) & (at < num)
                    kept[at[is_asked]] = table[KEPT].to_numpy()[is_asked]
        return kept

    def _of_part(self, part: Part, rows: np.ndarray, roles: Sequence[str]) -> pa.Table:
        """Of ascending rows of a part."""
        table = take_rows(part.path, self._names(roles), rows - part.first_row, BATCH_ROWS)
        return self._told(part, table, roles, rows)

    def _names(self, roles: Sequence[str]) -> list[str]:
        """The columns of the roles and those that decide whether a row may leave, each once."""
        known = self.columns.names
        return list(dict.fromkeys(known[role] for role in (*roles, *self.blocks.deciding) if role in known))

    def _told(self, part: Part, table: pa.Table, roles: Sequence[str], rows: np.ndarray) -> pa.Table:
        known, columns = self.columns.names, {}
        for role in dict.fromkeys((*roles, *self.blocks.deciding)):
            if role in known:
                where = f"{part.path}: column {quoted(known[role], 60)}"
                columns[role] = in_one_type(table[known[role]], role, where)
        deciding = {role: values for role, values in columns.items() if role in self.blocks.deciding}
        kept = self.blocks.kept(pa.table(deciding)) if deciding else np.ones(len(table), bool)
        asked = {role: values for role, values in columns.items() if role in roles}
        return pa.table({ROW: pa.array(rows), **asked, KEPT: pa.array(kept)})


def open_pool(spec: PoolSpec, with_vectors: bool = True) -> Pool:
    """Raises ValueError with one line for a folder that is no pool or not there, tables without captions, half a pool.
    Without vectors it is opened as if it had none: so their files may be in the making."""
    source = file_path(spec.source)
    for name, place in (("images", spec.images), ("embeddings", spec.embeddings if with_vectors else None)):
        if place is not None and not file_path(place).is_dir():
            raise ValueError(f"pool.{name}: {place}: found no folder, expected the pool's {name}; correct the path")
    folder = file_path(spec.metadata) if spec.metadata is not None else source
    inner = folder / METADATA
    tables = sorted((inner if inner.is_dir() else folder).glob("*.parquet"))
    if not tables:
        what = "no folder" if not folder.is_dir() else "no *.parquet and no metadata/*.parquet"
        num_tars = sum(1 for _ in folder.glob("*.tar"))
        todo = "see `sixfold pool --help`"
        if num_tars:
            what = f"{counted(num_tars, 'tar')} and {what}"
            todo = (
                f"`sixfold pool {shlex.quote(str(folder))} --write-tables` makes them of the .txt and .json in the tars"
            )
        raise ValueError(f"{folder}: found {what}, expected the tables of a pool; {todo}")
    parts: list[Part] = []
    first_row = 0
    columns: Columns | None = None
    for number, path in enumerate(tables):
        try:
            with types_of_others(), pq.ParquetFile(path) as file:
                names, num_rows = file.schema_arrow.names, file.metadata.num_rows
        except (pa.ArrowException, OSError) as error:
            why = one_line(str(error), 120)
            raise ValueError(f"{path}: found no parquet file ({why}); fetch or write it again") from None
        mine = find_columns(names, spec.columns, str(path))
        if columns is not None and mine != columns:
            raise ValueError(
                f"{path}: found columns {mine.names}, expected {columns.names} as in {tables[0].name}; give tables of "
                "one kind"
            )
        columns = mine
        parts.append(Part(number, path, first_row, num_rows))
        first_row += num_rows
    if columns is None or not first_row:
        raise ValueError(f"{folder}: found tables without rows, expected at least one captioned image")
    vectors = file_path(spec.embeddings or source)
    found = {modality: open_embeddings(vectors, modality) if with_vectors else None for modality in MODALITIES}
    for modality, embeddings in found.items():
        if embeddings is not None and embeddings.num_rows != first_row:
            raise ValueError(
                f"{vectors}: found {embeddings.num_rows:,} {modality} vectors for {first_row:,} rows, expected as "
                "many: half a pool; bring the missing files, run `sixfold embed` to its end, or remove the others"
            )
    blocks = Blocks.read([file_path(path) for path in spec.block], spec.unsafe_above)
    return Pool(spec, tuple(parts), columns, blocks, found["image"], found["text"])
