"""The Maker of `sixfold retrieve` where the pool holds the images: candidates in, members of the pool's tars out.

In: a `FromTarsJob`. Out: a worker of `fan_out` that makes shards of retrieved images (`gen.make.refill`). On disk:
reads the candidates of the data set and the pool's tars, writes nothing of its own.
"""

from collections.abc import Callable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from gen.make.maker import Made, Picture
from gen.make.plan import MAX_INT32, Plan, Sample, sample_uid
from gen.make.refill import UnitJob, UnitWorker
from retrieve.make.candidates import CANDIDATES, Candidate, CandidateTable
from retrieve.make.pictures import as_picture
from retrieve.pool.images import Place, PoolImages
from retrieve.pool.pool import open_pool
from retrieve.pool.spec import PoolSpec
from shards.disk.jpeg import SourceType
from shards.disk.store import open_store

CALL_SIZE = 32  # pictures read at once
NO_CANDIDATE = "no_candidate"


class FromTarsJob(BaseModel):
    """All a worker needs to make any unit of a run, as plain data that may travel to another machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: UnitJob
    num_per_class: dict[int, int] = Field(description="class id -> images of one fold")
    class_names: dict[int, str]
    most_folds: int = Field(description="folds that the data set may have: what N of the candidates counts")
    seed: int
    pool: PoolSpec
    size_px: int | None
    licence: str | None


def make_from_tars_worker(job: Mapping[str, object]) -> UnitWorker[Sample]:
    """A worker from plain data (`FromTarsJob.model_dump(mode="json")`). Raises ValueError in one line."""
    checked = FromTarsJob.model_validate(job)
    store = open_store(checked.unit.out, checked.unit.single_writer)
    candidates = CandidateTable.load(store.read_bytes(CANDIDATES))
    return UnitWorker(checked.unit, FromTars(checked, candidates, PoolImages(open_pool(checked.pool))), store)


class FromTars:
    """A Maker. Draw k of a sample is its k-th candidate."""

    source_type: SourceType | None = None  # photographs of others: we know nothing of how they were made
    call_size = CALL_SIZE
    advice_on_memory = "expected room for 32 pictures; take the largest ones out of the pool"
    advice_on_failure = "check the pool's tars, and the candidates with `sixfold retrieve --dry-run`"

    def __init__(self, job: FromTarsJob, candidates: CandidateTable, images: PoolImages) -> None:
        self.job = job
        self.candidates = candidates
        self.images = images
        shards = job.unit.shards
        self.plan = Plan(
            job.num_per_class,
            dict.fromkeys(job.num_per_class, MAX_INT32),  # so a sample's prompt_id is its number in the class
            job.seed,
            shards.samples_per_shard,
            shards.max_draws,
        )

    def samples(self, unit: int) -> Sequence[Sample]:
        """Those of the plan."""
        return self.plan.unit(unit).samples

    def prepare(self, samples: Sequence[Sample]) -> None:
        """Nothing to do beforehand."""

    def num_draws(self, sample: Sample) -> int:
        """The candidates that are the sample's alone."""
        behind = self.candidates.num_of(sample.class_id) - sample.prompt_id
        return max(0, -(-behind // self._stride(sample)))

    def make(self, pairs: Sequence[tuple[Sample, int]], alive: Callable[[float], None]) -> Made:
        """Read from the tars; a picture that cannot be read is a row with its reason."""
        read: list[bytes | Picture] = []
        for number, (sample, draw) in enumerate(pairs):
            read.append(self._read(self._candidate(sample, draw)))
            alive((number + 1) / len(pairs))

        def picture(place: int) -> Picture:
            found = read[place]
            return found if isinstance(found, Picture) else as_picture(found, self.job.size_px)

        return Made(lambda seconds: None, picture)

    def row(self, sample: Sample, draw: int) -> Mapping[str, object]:
        """What the pool says of the picture; the domain is retrieved."""
        candidate = self._candidate(sample, draw)
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
            "uid": sample_uid(self.job.seed, sample.class_id, sample.prompt_id, 0, draw),
            "domain": "retrieved",
            "class_id": sample.class_id,
            "class_name": self.job.class_names[sample.class_id],
            **known,
        }

    def _stride(self, sample: Sample) -> int:
        return self.job.num_per_class[sample.class_id] * self.job.most_folds

    def _candidate(self, sample: Sample, draw: int) -> Candidate | None:
        rank = sample.prompt_id + draw * self._stride(sample)
        there = self.candidates.num_of(sample.class_id)
        return self.candidates.at(sample.class_id, rank) if rank < there else None

    def _read(self, candidate: Candidate | None) -> bytes | Picture:
        if candidate is None:
            return Picture(None, NO_CANDIDATE, "the search found no more images of this class")
        if candidate.shard is None or candidate.key is None:
            return Picture(None, "failed_to_read", "the pool does not say where the picture lies")
        try:
            return self.images.read(Place(candidate.row, candidate.shard, candidate.key))
        except ValueError as error:  # what is no picture of this tar; a disk that fails ends the attempt
            return Picture(None, "failed_to_read", str(error)[:300])
