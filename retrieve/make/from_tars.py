"""The Maker of `sixfold retrieve` where the pool holds the images: candidates in, members of the pool's tars out.

In: a `RetrieveJob`. Out: a worker of `fan_out` that makes shards of retrieved images (`gen.make.refill`). On disk:
reads the candidates of the data set and the pool's tars, writes nothing of its own.
"""

from collections.abc import Callable, Mapping, Sequence

from gen.make.maker import Made, Picture
from gen.make.plan import Sample
from gen.make.refill import UnitWorker
from retrieve.make.candidates import CANDIDATES, Candidate, CandidateTable
from retrieve.make.pictures import as_picture
from retrieve.make.rows import BLOCKED, NO_CANDIDATE, CandidateRows, RetrieveJob, is_listed
from retrieve.pool.images import BlockedPicture, Place, PoolImages
from retrieve.pool.pool import Pool, open_pool
from shards.disk.jpeg import SourceType
from shards.disk.store import open_store

CALL_SIZE = 32  # pictures read at once


def make_from_tars_worker(job: Mapping[str, object]) -> UnitWorker[Sample]:
    """A worker from plain data (`RetrieveJob.model_dump(mode="json")`). Raises ValueError in one line."""
    checked = RetrieveJob.model_validate(job)
    store = open_store(checked.unit.out, checked.unit.single_writer)
    rows = CandidateRows(checked, CandidateTable.load(store.read_bytes(CANDIDATES)))
    pool = open_pool(checked.pool)
    if checked.tars_digest not in (None, pool.tars_digest):
        raise ValueError(
            f"{checked.pool.images or checked.pool.source}: found other tars here than the run was planned with; give "
            "every node the same files"
        )
    return UnitWorker(checked.unit, FromTars(rows, pool), store)


class FromTars:
    """A Maker. Draw k of a sample is its k-th candidate."""

    source_type: SourceType | None = None  # photographs of others: we know nothing of how they were made
    call_size = CALL_SIZE
    advice_on_memory = "expected room for 32 pictures; take the largest ones out of the pool"
    advice_on_failure = "check the pool's tars, and the candidates with `sixfold retrieve --dry-run`"

    def __init__(self, rows: CandidateRows, pool: Pool) -> None:
        self.rows = rows
        self.blocks = pool.blocks
        self.images = PoolImages(pool)

    def samples(self, unit: int) -> Sequence[Sample]:
        """Those of the plan."""
        return self.rows.samples(unit)

    def prepare(self, samples: Sequence[Sample]) -> None:
        """Nothing to do beforehand."""

    def num_draws(self, sample: Sample) -> int:
        """The candidates that are the sample's alone."""
        return self.rows.num_draws(sample)

    def make(self, pairs: Sequence[tuple[Sample, int]], alive: Callable[[float], None]) -> Made:
        """Read from the tars; a picture that cannot be read, or is on a block list, is a row with its reason."""
        read: list[bytes | Picture] = []
        for number, (sample, draw) in enumerate(pairs):
            read.append(self._read(self.rows.candidate(sample, draw)))
            alive((number + 1) / len(pairs))

        def picture(place: int) -> Picture:
            found = read[place]
            return found if isinstance(found, Picture) else as_picture(found, self.rows.job.size_px)

        return Made(lambda seconds: None, picture)

    def row(self, sample: Sample, draw: int) -> Mapping[str, object]:
        """What the pool says of the picture; the domain is retrieved."""
        return self.rows.row(sample, draw)

    def _read(self, candidate: Candidate | None) -> bytes | Picture:
        if candidate is None:
            return NO_CANDIDATE
        if is_listed(candidate, self.blocks):
            return BLOCKED
        if candidate.shard is None or candidate.key is None:
            return Picture(None, "failed_to_read", "the pool does not say where the picture lies")
        try:
            return self.images.read(Place(candidate.row, candidate.shard, candidate.key))
        except BlockedPicture:
            return BLOCKED
        except ValueError as error:  # what is no picture of this tar; a disk that fails ends the attempt
            return Picture(None, "failed_to_read", str(error)[:300])
