"""What is asked of an embedding of a pool, and which part of it decides the bytes that come out."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.fan_out.work import FanOutSpec
from cluster.process.machine import usable_cores
from retrieve.pool.embeddings import MODALITIES, Modality
from retrieve.pool.pool import Pool
from retrieve.pool.spec import PoolSpec

VERSION = 1  # of the bytes that the same pool and model give
MOST_DECODERS = 16

Precision = Literal["fp32", "fp16", "bf16"]


class EmbedSpec(BaseModel):
    """The pool, the CLIP, and how the work is spread."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pool: PoolSpec = Field(description="the pool, with the CLIP in `pool.clip`")
    modalities: tuple[Modality, ...] = Field(MODALITIES, min_length=1, description="image, text, or both")
    precision: Literal["auto", "fp32", "fp16", "bf16"] = Field(
        "auto", description="of the model on a GPU; auto: fp16. A CPU always computes in fp32"
    )
    threads: int = Field(1, ge=1, description="of numerical libraries; bytes made on a CPU depend on it")
    decode_threads: int | Literal["auto"] = Field(
        "auto", description="that decode pictures ahead of the model; auto: 1 on a CPU, up to 16 on a GPU"
    )
    cluster: FanOutSpec = FanOutSpec()

    @model_validator(mode="after")
    def _has_a_clip(self) -> "EmbedSpec":
        if self.pool.clip is None:
            raise ValueError("pool.clip: found none, expected the CLIP that makes the vectors")
        if self.decode_threads != "auto" and self.decode_threads < 1:
            raise ValueError(f"decode_threads: found {self.decode_threads}, expected auto or at least 1")
        return self

    def at_home(self) -> "EmbedSpec":
        """The same with absolute paths, for workers of other working folders."""
        return self.model_copy(update={"pool": self.pool.at_home()})

    def decoders(self, is_cuda: bool) -> int:
        """How many threads decode."""
        if self.decode_threads != "auto":
            return self.decode_threads
        return min(MOST_DECODERS, usable_cores()) if is_cuda else 1


class Decides(BaseModel):
    """All that decides what the vectors of a folder are; what is not here may change from run to run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = VERSION
    model_digest: str
    pool_digest: str = Field(description="of the tables, of their columns, and of what is blocked")
    rows: int
    units: int
    unsafe_above: float
    blocked: int = Field(description="lines of the block lists")
    batch: int
    precision: str
    threads: int

    @staticmethod
    def of(spec: EmbedSpec, pool: Pool, model_digest: str) -> "Decides":
        """`pool` is opened without vectors."""
        assert spec.pool.clip is not None
        return Decides(
            model_digest=model_digest,
            pool_digest=pool.digest,
            rows=pool.num_rows,
            units=len(pool.parts),
            unsafe_above=spec.pool.unsafe_above,
            blocked=len(pool.blocks.urls) + len(pool.blocks.hashes),
            batch=spec.pool.clip.batch,
            precision=spec.precision,
            threads=spec.threads,
        )


class Begun(BaseModel):
    """What `_meta/embed.yaml` says: whose folder it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="as it was named; its digest counts")
    modalities: tuple[Modality, ...] = Field(description="those that were begun")
    decides: Decides
