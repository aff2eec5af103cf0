"""The Maker of `sixfold retrieve` where the pool holds addresses alone: candidates in, fetched pictures out.

In: a `RetrieveJob`. Out: a worker of `fan_out` that makes shards of retrieved images (`gen.make.refill`). On disk:
reads the candidates of the data set and the pool's block lists; what img2dataset writes lies in a temporary folder; the
log of a call that failed is kept in `_meta/logs` of a local data set, else in the system's temporary folder.

A call of `make` is one call of img2dataset: of the whole unit first, then of the next candidates of those that failed.
If few failed, all their candidates are fetched at once and used in their order: what a draw is stays the same.
A picture that lies whole in a shard that was set aside is not asked for again (`retrieve.make.kept`).
What becomes of an address stands in its row:

    refused_address     it is none that may be asked for (`retrieve.download.address`)
    failed_to_download  nobody answered, in time, with success; the error says how it went
    opted_out           the site says with X-Robots-Tag that it shall not be used
    blocked             address or bytes are on a block list: nothing of it is stored, shown or decoded
    hash_mismatch       the bytes are not those that the pool's list was made from
    failed_to_decode    the bytes are no picture (`retrieve.make.pictures`); too_small, too_narrow, too_large
"""

import hashlib
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from urllib.parse import urlsplit

from gen.make.maker import Made, Picture
from gen.make.plan import Sample
from gen.make.refill import UnitWorker
from retrieve.download.address import Refused, target_of
from retrieve.download.fetch import Fetched, Slice, fetch
from retrieve.download.gate import Gate
from retrieve.download.program import find_program
from retrieve.make.candidates import CANDIDATES, Candidate, CandidateTable
from retrieve.make.kept import KeptPictures
from retrieve.make.pictures import as_picture
from retrieve.make.rows import BLOCKED, NO_CANDIDATE, CandidateRows, RetrieveJob, is_listed
from retrieve.pool.blocks import Blocks
from shards.disk.address import file_path
from shards.disk.jpeg import SourceType
from shards.disk.layout import META, SUCCESS
from shards.disk.store import FolderStore, open_store

MOST_IN_CALL = 1000  # pictures of a call are decoded and held as JPEG before the first is written
FEW = 64  # draws of samples that failed, whose later draws are fetched along with them
SILENT_HOSTS = 8  # where none of so many answers, it is our network that does not
UNRESOLVED = 0.2  # share of the addresses for which the name server may not answer
OPTED_OUT = "disallowed by X-Robots-Tag"  # img2dataset's words


def make_from_urls_worker(job: Mapping[str, object]) -> UnitWorker[Sample]:
    """A worker from plain data (`RetrieveJob.model_dump(mode="json")`). Raises ValueError in one line."""
    checked = RetrieveJob.model_validate(job)
    store = open_store(checked.unit.out, checked.unit.single_writer)
    rows = CandidateRows(checked, CandidateTable.load(store.read_bytes(CANDIDATES)))
    logs = Path(tempfile.gettempdir())
    if isinstance(store, FolderStore):
        logs = store.path_to_write(f"{META}/logs/img2dataset.txt").parent
    return UnitWorker(checked.unit, FromUrls(rows, logs, KeptPictures(store)), store)


class FromUrls:
    """A Maker. Draw k of a sample is its k-th candidate. The gate is open from the first call on."""

    source_type: SourceType | None = None  # photographs of others: we know nothing of how they were made
    advice_on_memory = "lower shards.samples_per_shard or download.most_bytes"
    advice_on_failure = "check the network, and the candidates with `sixfold retrieve --dry-run`; run it again to retry"

    def __init__(self, rows: CandidateRows, log_folder: Path, kept: KeptPictures) -> None:
        """Raises ValueError if there is no img2dataset, or for a block list that is none."""
        self.rows = rows
        self.log_folder = log_folder
        self.kept = kept
        job = rows.job
        self.program = find_program(job.download)
        self.blocks = Blocks.read([file_path(path) for path in job.pool.block], job.pool.unsafe_above)
        self._ahead: dict[tuple[Sample, int], Callable[[], Picture]] = {}  # fetched, and not asked for yet
        self.call_size = min(job.unit.shards.samples_per_shard, MOST_IN_CALL)

    @cached_property
    def gate(self) -> Gate:
        """Opened when it is first asked for; closed when the Maker is collected or the process ends."""
        spec = self.rows.job.download
        gate = Gate(
            timeout_s=spec.timeout_s,
            most_bytes=spec.most_bytes,
            threads=spec.threads,
            allowed=spec.allowed,
            blocked=self.blocks.urls,
            proxy=spec.proxy_place,
        )
        gate.open()
        weakref.finalize(self, gate.close)
        return gate

    def samples(self, unit: int) -> Sequence[Sample]:
        """Those of the plan."""
        return self.rows.samples(unit)

    def prepare(self, samples: Sequence[Sample]) -> None:
        """Forget what was fetched ahead for another unit."""
        self._ahead.clear()

    def num_draws(self, sample: Sample) -> int:
        """The candidates that are the sample's alone."""
        return self.rows.num_draws(sample)

    def make(self, pairs: Sequence[tuple[Sample, int]], alive: Callable[[float], None]) -> Made:
        """Fetch them; what cannot be had is a row with its reason. Raises RuntimeError if the program or the network
        fails, which ends the attempt: the unit is made again."""
        missing = [pair for pair in pairs if pair not in self._ahead]
        if missing:
            self._ask([*missing, *self._further(missing)], alive)
        pictures = [self._ahead.pop(pair) for pair in pairs]
        return Made(lambda seconds: None, lambda place: pictures[place]())

    def row(self, sample: Sample, draw: int) -> Mapping[str, object]:
        """What the pool says of the picture; the domain is retrieved."""
        return self.rows.row(sample, draw)

    def _further(self, pairs: Sequence[tuple[Sample, int]]) -> list[tuple[Sample, int]]:
        """The later draws of samples that failed, if few did: a start of the program costs more than these."""
        if len(pairs) > FEW:
            return []
        most = self.rows.job.unit.shards.max_draws
        return [
            (sample, later)
            for sample, draw in pairs
            if draw  # a first draw mostly succeeds
            for later in range(draw + 1, min(self.num_draws(sample), most))
        ]

    def _ask(self, pairs: Sequence[tuple[Sample, int]], alive: Callable[[float], None]) -> None:
        """One call of the program; what each pair became can be asked for then."""
        candidates = [self.rows.candidate(sample, draw) for sample, draw in pairs]
        judged = [self._judged(*pair, candidate) for pair, candidate in zip(pairs, candidates, strict=True)]
        asked = [one for one in judged if isinstance(one, str)]
        fetched = self._fetch(asked, alive) if asked else None
        at = 0
        for pair, candidate, one in zip(pairs, candidates, judged, strict=True):
            if isinstance(one, Picture):
                self._ahead[pair] = partial(_same, one)
                continue
            assert fetched is not None, "it was asked for"
            assert candidate is not None, "it has an address"
            self._ahead[pair] = partial(self._developed, fetched, at, one, candidate)
            at += 1

    def _developed(self, fetched: Slice, place: int, url: str, candidate: Candidate) -> Picture:
        row = fetched.rows[place]
        return self._failed(row, url) if row.status != SUCCESS else self._picture(fetched.read(place), candidate)

    def _judged(self, sample: Sample, draw: int, candidate: Candidate | None) -> str | Picture:
        """The address as it is asked for, or what is known without asking."""
        if candidate is None:
            return NO_CANDIDATE
        if not candidate.url:
            return Picture(None, "refused_address", "the pool says no address")
        if is_listed(candidate, self.blocks):
            return BLOCKED
        kept = self.kept.find(self.rows.uid(sample, draw), candidate.url)  # judged by these lists when it was fetched
        if kept is not None:
            return kept
        try:
            return target_of(candidate.url, self.gate.allowed).url
        except Refused as error:
            return Picture(None, "refused_address", str(error))

    def _fetch(self, asked: Sequence[str], alive: Callable[[float], None]) -> Slice:
        answers, unresolved = self.gate.num_answers, self.gate.num_unresolved
        fetched = fetch(asked, self.rows.job.download, self.program, self.gate, alive, self.log_folder)
        hosts = {urlsplit(url).netloc for url in asked}
        unresolved = self.gate.num_unresolved - unresolved
        if unresolved >= max(SILENT_HOSTS, UNRESOLVED * len(asked)):
            raise RuntimeError(
                f"the name server did not answer for {unresolved:,} of {len(asked):,} addresses; check the network, "
                "then run the same command again"
            )
        if self.gate.num_answers == answers and len(hosts) >= SILENT_HOSTS:
            raise RuntimeError(
                f"found no answer from any of {len(hosts):,} hosts (the first: {fetched.rows[0].error}); "
                "check the network and its name server, then run the same command again"
            )
        return fetched

    def _failed(self, row: Fetched, url: str) -> Picture:
        error = row.error or ""
        if OPTED_OUT in error:
            return Picture(None, "opted_out", error)
        target = target_of(url, self.gate.allowed)
        note = self.gate.notes.get(f"{target.host}:{target.port}") if target.scheme == "https" else None
        return Picture(None, row.status, f"{error} ({note})" if note else error)

    def _picture(self, data: bytes, candidate: Candidate) -> Picture:
        """What the bytes are, judged before they are decoded."""
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 in self.blocks.hashes:
            return BLOCKED
        if candidate.sha256 is not None and candidate.sha256.lower() != sha256:
            listed = candidate.sha256[:12]
            return Picture(
                None, "hash_mismatch", f"found other bytes (sha256 {sha256[:12]}) than the list's ({listed!r})"
            )
        most = self.rows.job.download.most_bytes
        if len(data) > most:  # of https, where the gate sees bytes and no picture
            return Picture(None, "too_large", f"found {len(data):,} bytes, expected at most {most:,}")
        return as_picture(data, self.rows.job.size_px)


def _same(picture: Picture) -> Picture:
    return picture
