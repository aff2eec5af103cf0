"""The arrays of an index: where every sample's picture lies, by number.

In: names and hashes of tars, arrays. Out: an `Index` with its digest. On disk: nothing; see shards.stream.saved_index.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from shards.disk.layout import TAR, shard_of

Int64: TypeAlias = npt.NDArray[np.int64]
Int32: TypeAlias = npt.NDArray[np.int32]
UInt64: TypeAlias = npt.NDArray[np.uint64]

VERSION = 1  # of the digest
ARRAYS: dict[str, type[np.generic]] = {
    "first": np.int64,
    "tar_bytes": np.int64,
    "left_out": np.int64,
    "offset": np.int64,
    "size": np.int64,
    "label": np.int32,
    "uid": np.uint64,
    "picture_hash": np.uint64,
}
_DIGESTED = tuple(name for name in ARRAYS if name != "picture_hash")  # as checkpoints of earlier versions have it
ROWS = ("offset", "size", "label", "uid", "picture_hash")  # those with one value for each sample


@dataclass(frozen=True, eq=False)
class Index:
    """The n samples of S tars, ordered by tar, then by row. An index of fewer tars is a prefix of a longer one."""

    url: str  # redacted; for people and messages
    tars: tuple[str, ...]  # S names
    tar_sha256: tuple[str, ...]  # S; "" where nobody has read the whole tar yet
    tar_bytes: Int64  # (S,)
    left_out: Int64  # (S,) rows that are no sample here: rejected, not in the subset, without a picture
    first: Int64  # (S + 1,) rows of tar s are first[s] .. first[s + 1]
    offset: Int64  # (n,) of the picture's bytes in its tar
    size: Int64  # (n,)
    label: Int32  # (n,)
    uid: UInt64  # (n,) 64 bits of the sample id
    picture_hash: UInt64  # (n,) the first 64 bits of the sha256 of the picture's bytes; 0: nobody has said it
    digest: str  # sha256 of the arrays and names, without the pictures' hashes, which follow from those of the tars
    root: str = ""  # the folder of the files, where that is not the address itself
    files: tuple[str, ...] = ()  # (n,) below the root: of an image folder, whose pictures are files of their own
    class_names: Mapping[int, str] | None = None  # what the set calls its classes; None: see its tables, if it has some

    def __len__(self) -> int:
        return len(self.offset)

    def tar_of(self, rows: Int64) -> Int64:
        """For each row the number of its tar."""
        return np.searchsorted(self.first, rows, side="right").astype(np.int64) - 1

    def place_of(self, row: int) -> str:
        """The file that a picture lies in."""
        return self.files[row] if self.files else self.tars[int(self.tar_of(np.array([row], np.int64))[0])]

    @property
    def mend(self) -> str:
        """What helps where a picture of the set cannot be read."""
        if self.files:
            return "replace that file by a whole picture, or remove it"
        if all(self.tar_sha256) and all(shard_of(name, TAR) is not None for name in self.tars):
            return f"run `sixfold verify {self.url}`"
        return "get that file again from where it came, or remove it"

    def prefix(self, num_tars: int) -> "Index":
        """The index of the first `num_tars` tars: the one that was loaded when there were no more."""
        if not 0 <= num_tars <= len(self.tars):
            raise ValueError(f"{self.url}: found {len(self.tars)} tars, expected at least {num_tars}")
        if num_tars == len(self.tars):
            return self
        rows = int(self.first[num_tars])
        return make_index(
            self.url,
            self.tars[:num_tars],
            self.tar_sha256[:num_tars],
            {
                name: array[: {"first": num_tars + 1, "tar_bytes": num_tars, "left_out": num_tars}.get(name, rows)]
                for name, array in arrays_of(self).items()
            },
            self.root,
            self.files[:rows],
            self.class_names,
        )

    def unbroken(self) -> int:
        """How many shards of ours there are before the first number that is missing: what a run over a data set that
        is still growing may use, because only more can come behind it."""
        found = enumerate(shard_of(name, TAR) for name in self.tars)
        return next((number for number, shard in found if shard != number), len(self.tars))


def make_index(
    url: str,
    tars: Sequence[str],
    tar_sha256: Sequence[str],
    arrays: dict[str, npt.NDArray[Any]],
    root: str = "",
    files: Sequence[str] = (),
    class_names: Mapping[int, str] | None = None,
) -> Index:
    """An index with its digest. Raises ValueError if the arrays do not fit each other."""
    for name, kind in ARRAYS.items():
        if arrays[name].dtype != kind or arrays[name].ndim != 1:
            raise ValueError(f"{url}: found {name} of {arrays[name].dtype}, expected a list of {kind.__name__}")
    first = arrays["first"]
    num = len(tars)
    per_tar = {len(tar_sha256), len(arrays["tar_bytes"]), len(arrays["left_out"]), len(first) - 1}
    per_row = {len(arrays[name]) for name in ROWS}
    if per_tar != {num} or per_row != {int(first[-1])} or int(first[0]) or (np.diff(first) < 0).any():
        raise ValueError(f"{url}: found arrays of different lengths, expected {num} tars and {int(first[-1])} rows")
    return Index(
        url=url,
        tars=tuple(tars),
        tar_sha256=tuple(tar_sha256),
        digest=_digest(tars, tar_sha256, arrays),
        root=root,
        files=tuple(files),
        class_names=class_names,
        **arrays,
    )


def arrays_of(index: Index) -> dict[str, npt.NDArray[Any]]:
    """The arrays by the names of `ARRAYS`."""
    return {name: getattr(index, name) for name in ARRAYS}


def _digest(tars: Sequence[str], tar_sha256: Sequence[str], arrays: dict[str, npt.NDArray[Any]]) -> str:
    names = {"version": VERSION, "tars": list(tars), "tar_sha256": list(tar_sha256)}
    return hash_of({**names, "arrays": [[name, hash_of_arrays(arrays[name])] for name in _DIGESTED]})


def hash_of(body: object) -> str:
    """Hex sha256 of what JSON can carry."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


def hash_of_arrays(*arrays: npt.NDArray[Any]) -> str:
    """Of the arrays' values, little-endian."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
    return digest.hexdigest()
