"""Embeddings of a pool: files of half-precision vectors, mapped into memory, seen as one matrix.

In: a folder in clip-retrieval's layout. Out: `Embeddings`. On disk, read only:

    img_emb/img_emb_00.npy    float16 (N, D), one row a picture, of length 1
    text_emb/text_emb_00.npy  the same of the captions
    embeddings.json           which model made them, beside ours; clip-retrieval writes none

Row i of the files in the order of their names, one after the other, is row i of the pool. Shapes: N rows of a file, D
numbers of a vector.
"""

import mmap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy

from shards.disk.checked_json import parse_checked
from shards.disk.regular import open_regular, read_regular
from shards.disk.safe_text import quoted

Modality = Literal["image", "text"]
MODALITIES: tuple[Modality, ...] = ("image", "text")
FOLDERS: dict[Modality, str] = {"image": "img_emb", "text": "text_emb"}
SUMMARY = "embeddings.json"
DTYPES = (np.dtype("<f2"), np.dtype("<f4"))  # clip-retrieval writes halves; others write singles
MAX_HEADER_BYTES = 1 << 16


@dataclass(frozen=True, eq=False)
class EmbeddingFile:
    """One file. `rows` maps it anew, so a file takes no memory while nobody looks."""

    path: Path
    first_row: int  # in the pool
    num_rows: int
    dim: int
    dtype: "np.dtype[Any]"
    offset: int  # of the first number in the file

    def rows(self, start: int, end: int) -> np.ndarray:
        """Rows `start` to before `end` of this file, (end - start, D); only these are read."""
        if not 0 <= start <= end <= self.num_rows:
            raise IndexError(f"{self.path}: found rows {start}..{end}, expected 0..{self.num_rows}")
        width = self.dim * self.dtype.itemsize
        if start == end:
            return np.empty((0, self.dim), self.dtype)
        begin = self.offset + start * width
        skip = begin % mmap.ALLOCATIONGRANULARITY
        with open(open_regular(self.path), "rb") as file:
            mapped = mmap.mmap(
                file.fileno(), skip + (end - start) * width, access=mmap.ACCESS_READ, offset=begin - skip
            )
        return np.frombuffer(mapped, self.dtype, (end - start) * self.dim, skip).reshape(-1, self.dim)


@dataclass(frozen=True, eq=False)
class Embeddings:
    """All files of one modality."""

    modality: Modality
    files: tuple[EmbeddingFile, ...]

    @property
    def num_rows(self) -> int:
        """Vectors in all files."""
        return self.files[-1].first_row + self.files[-1].num_rows

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return self.files[0].dim

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.array([one.first_row for one in self.files], np.int64)

    def blocks(self, num_rows: int, start: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """(first row in the pool, vectors), at most `num_rows` at a time, from row `start` of the pool on. No block
        crosses a file's end."""
        for file in self.files:
            for at in range(max(0, start - file.first_row), file.num_rows, num_rows):
                yield file.first_row + at, file.rows(at, min(at + num_rows, file.num_rows))

    def take(self, rows: np.ndarray) -> np.ndarray:
        """float32 (len(rows), D): the vectors of these rows of the pool, in the order asked for."""
        out = np.empty((len(rows), self.dim), np.float32)
        order = np.argsort(rows, kind="stable")
        places = np.searchsorted(self._starts, rows[order], side="right") - 1
        for number in np.unique(places):
            file, mine = self.files[number], order[places == number]
            whole = file.rows(0, file.num_rows)
            out[mine] = whole[rows[mine] - file.first_row]
        return out


def open_embeddings(folder: Path, modality: Modality) -> Embeddings | None:
    """None if the folder holds none of this modality. Raises ValueError for a file that is no matrix of half or single
    precision, for vectors of two widths, and for what would need Python objects."""
    names = sorted((folder / FOLDERS[modality]).glob("*.npy"))
    files: list[EmbeddingFile] = []
    first_row = 0
    for path in names:
        file = _open(path, first_row)
        if files and file.dim != files[0].dim:
            raise ValueError(
                f"{path}: found vectors of {file.dim} numbers, expected {files[0].dim} as in {files[0].path.name}; "
                "all files of a pool come from one model"
            )
        files.append(file)
        first_row += file.num_rows
    return Embeddings(modality, tuple(files)) if first_row else None


def read_summary(folder: Path) -> dict[str, Any] | None:
    """What `embeddings.json` says; None if the vectors are not ours. Raises ValueError if it was changed."""
    path = folder / SUMMARY
    try:
        return parse_checked(read_regular(path), str(path))
    except FileNotFoundError:
        return None


def refuse_other_model(folder: Path, modalities: Iterable[Modality], what: str, digest: Callable[[], str]) -> None:
    """Raises ValueError if `embeddings.json` says that another model made the vectors of one of these modalities.

    `what` names the model that is asked, for people; `digest` hashes it, and is called only if the file says something.
    """
    summary = read_summary(folder)
    told = [] if summary is None else [one for one in modalities if one in summary["modalities"]]
    if summary is not None and told and str(summary.get("model_digest")) != digest():
        raise ValueError(
            f"{what}: found another model than the one that made the {told[0]} vectors in {folder}, expected "
            f"{quoted(str(summary.get('model')), 200)} (digest {str(summary.get('model_digest'))[:12]})"
        )


def _open(path: Path, first_row: int) -> EmbeddingFile:
    with open(open_regular(path), "rb") as file:
        size = path.stat().st_size
        try:
            version = npy.read_magic(file)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, is_fortran, dtype = read(file, max_header_size=MAX_HEADER_BYTES)
        except ValueError as error:
            raise ValueError(f"{path}: found no .npy file ({error}), expected a matrix of float16") from None
        offset = file.tell()
    if len(shape) != 2 or is_fortran or dtype not in DTYPES:
        order = " in Fortran's order" if is_fortran else ""
        raise ValueError(f"{path}: found {dtype} {list(shape)}{order}, expected float16 or float32 (rows, numbers)")
    need = offset + shape[0] * shape[1] * dtype.itemsize
    if size != need:
        raise ValueError(f"{path}: found {size:,} bytes, expected {need:,} for {list(shape)}; write it again")
    return EmbeddingFile(path, first_row, shape[0], shape[1], dtype, offset)
