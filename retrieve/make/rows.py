"""What all Makers of retrieved images share: which candidate a draw is, and what its row says.

In: a `RetrieveJob`, the candidates of the data set. Out: samples, candidates, rows. On disk: nothing.

Draw k of a sample is its k-th candidate: sample number q of a class has the ranks q, q + N, q + 2 N, where N is the
number of samples that a class can have at most (`retrieve.make.candidates`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pydantic import BaseModel, ConfigDict, Field

from gen.make.maker import Picture
from gen.make.plan import MAX_INT32, Plan, Sample, sample_uid
from gen.make.refill import UnitJob
from retrieve.download.spec import DownloadSpec
from retrieve.make.candidates import Candidate, CandidateTable
from retrieve.pool.blocks import Blocks
from retrieve.pool.spec import PoolSpec

NO_CANDIDATE = Picture(None, "no_candidate", "the search found no more images of this class")
BLOCKED = Picture(
    None,
    "blocked",
    "on a block list",
    {"caption": "", "url": None, "similarity": None, "punsafe": None, "licence": None},
)


class RetrieveJob(BaseModel):
    """All a worker needs to make any unit of a run, as plain data that may travel to another machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: UnitJob
    num_per_class: dict[int, int] = Field(description="class id -> images of one fold")
    class_names: dict[int, str]
    most_folds: int = Field(description="folds that the data set may have: what N of the candidates counts")
    seed: int
    pool: PoolSpec
    tars_digest: str | None = Field(None, description="of the tars that the driver has seen; None: images are fetched")
    size_px: int | None
    licence: str | None
    download: DownloadSpec = Field(default_factory=DownloadSpec, description="of a pool without images")


def is_listed(candidate: Candidate, blocks: Blocks) -> bool:
    """Whether its address or the hash that the pool says is on a list, which may have grown since the search."""
    return candidate.url in blocks.urls or (candidate.sha256 or "").lower() in blocks.hashes


@dataclass(frozen=True, eq=False)
class CandidateRows:
    """The candidates of a data set, by sample and draw."""

    job: RetrieveJob
    table: CandidateTable

    @cached_property
    def _plan(self) -> Plan:
        shards = self.job.unit.shards
        return Plan(
            self.job.num_per_class,
            dict.fromkeys(self.job.num_per_class, MAX_INT32),  # so a sample's prompt_id is its number in the class
            self.job.seed,
            shards.samples_per_shard,
            shards.max_draws,
        )

    def samples(self, unit: int) -> Sequence[Sample]:
        """Those of the plan."""
        return self._plan.unit(unit).samples

    def num_draws(self, sample: Sample) -> int:
        """The candidates that are the sample's alone."""
        behind = self.table.num_of(sample.class_id) - sample.prompt_id
        return max(0, -(-behind // self._stride(sample)))

    def candidate(self, sample: Sample, draw: int) -> Candidate | None:
        """None if the search did not find so many."""
        rank = sample.prompt_id + draw * self._stride(sample)
        there = self.table.num_of(sample.class_id)
        return self.table.at(sample.class_id, rank) if rank < there else None

    def uid(self, sample: Sample, draw: int) -> str:
        """Of the draw, in its row."""
        return sample_uid(self.job.seed, sample.class_id, sample.prompt_id, 0, draw)

    def row(self, sample: Sample, draw: int) -> Mapping[str, object]:
        """What the pool says of the picture; the domain is retrieved."""
        candidate = self.candidate(sample, draw)
        known: dict[str, object] = {"caption": ""}
        if candidate is not None:
            known = {
                "caption": candidate.caption,
                "url": candidate.url,
                "similarity": candidate.score,
                "punsafe": candidate.punsafe,
                "licence": candidate.licence or self.job.licence,
            }
        return {
            "uid": self.uid(sample, draw),
            "domain": "retrieved",
            "class_id": sample.class_id,
            "class_name": self.job.class_names[sample.class_id],
            **known,
        }

    def _stride(self, sample: Sample) -> int:
        return self.job.num_per_class[sample.class_id] * self.job.most_folds
