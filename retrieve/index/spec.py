"""What is asked of an index of a pool, and which part of it decides what is built."""

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cluster.fan_out.work import FanOutSpec
from retrieve.index.choice import Kind, Purpose, parse_factory
from retrieve.pool.embeddings import Embeddings, Modality
from retrieve.pool.spec import PoolSpec
from shards.disk.regular import size_and_ends

VERSION = 1  # of what the same vectors and the same factory give
PART_ROWS = 1_000_000
MOST_PARTS = 1_000
MOST_TRAIN_BYTES = 8_000_000_000  # of the vectors that lists are learned from


class IndexSpec(BaseModel):
    """The pool, which of its vectors, and what the index is for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pool: PoolSpec
    modality: Modality = Field("image", description="of which vectors: image, or text (captions)")
    memory_gb: float = Field(4.0, gt=0, description="the most that the index may weigh, in units of 10^9 bytes")
    purpose: Purpose = Field("auto", description="exact, speed (a graph), or auto: recall .95 in little memory")
    factory: str | None = Field(
        None, description="FAISS' factory string; null = chosen", examples=["IVF1024,RaBitQfs,Refine(SQ8)"]
    )
    recall: float = Field(0.95, gt=0, le=1, description="recall@10 that searches shall have, against the exact scan")
    queries: int = Field(200, ge=1, le=10_000, description="that the recall is measured with")
    parts: Literal["auto", "merge", "keep"] = Field(
        "auto", description="parts become one file, or are kept and searched one by one; auto: one if memory allows"
    )
    part_rows: int | Literal["auto"] = Field("auto", description="rows that are indexed at once; auto: a million")
    threads: int = Field(1, ge=1, description="of FAISS in each worker; a graph made by more than one varies")
    cluster: FanOutSpec = FanOutSpec()

    @property
    def memory_bytes(self) -> float:
        """The most that the index may weigh."""
        return self.memory_gb * 1e9

    def at_home(self) -> "IndexSpec":
        """The same with absolute paths, for workers of other working folders."""
        return self.model_copy(update={"pool": self.pool.at_home()})


class Decides(BaseModel):
    """All that decides what an index finds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = VERSION
    modality: Modality
    factory: str
    rows: int
    dim: int
    vectors: str = Field(description="digest of the files of vectors, in their order")
    part_rows: int
    train_rows: int
    threads: int

    @staticmethod
    def of(spec: IndexSpec, embeddings: Embeddings, kind: Kind) -> "Decides":
        """Raises ValueError for parts of no size."""
        return Decides(
            modality=spec.modality,
            factory=kind.factory,
            rows=embeddings.num_rows,
            dim=embeddings.dim,
            vectors=vectors_digest(embeddings),
            part_rows=_part_rows(spec, embeddings.num_rows),
            train_rows=min(kind.train_rows, max(kind.least_rows, MOST_TRAIN_BYTES // (4 * embeddings.dim))),
            threads=spec.threads,
        )

    @property
    def kind(self) -> Kind:
        """The factory, taken apart."""
        return parse_factory(self.factory, self.dim)

    @property
    def num_parts(self) -> int:
        """Units of work, the learning of the lists aside."""
        return -(-self.rows // self.part_rows)

    def part(self, number: int) -> tuple[int, int]:
        """(first row, the row after the last one) of a part."""
        return number * self.part_rows, min((number + 1) * self.part_rows, self.rows)


def vectors_digest(embeddings: Embeddings) -> str:
    """Of each file its name, its rows, its size and its two ends, in order; wherever they lie. Hex sha256."""
    about: list[list[object]] = []
    for file in embeddings.files:
        about.append([file.path.name, file.num_rows, *size_and_ends(file.path)])
    return hashlib.sha256(json.dumps([embeddings.modality, embeddings.dim, about]).encode()).hexdigest()


def _part_rows(spec: IndexSpec, num_rows: int) -> int:
    if spec.part_rows == "auto":
        return max(PART_ROWS, -(-num_rows // MOST_PARTS))
    if spec.part_rows < 1 or num_rows / spec.part_rows > MOST_PARTS:
        raise ValueError(
            f"part_rows: found {spec.part_rows:,} for {num_rows:,} rows, expected at most {MOST_PARTS:,} parts"
        )
    return spec.part_rows
