"""The Maker of `sixfold edit` with `edit.kind: perturb`: source pictures in, the same through the generator out.

In: an `EditJob`. Out: a worker of `fan_out` that makes shards of edited images (`gen.make.refill`). On disk: reads
sources and prompts of the edited set and the source pictures, writes nothing of its own.

A sample is (class, source, replicate): replicate r of a source is in fold r + 1. In fold r source s reads prompt
(s + r) mod P of its class, so each source meets all prompts in turn.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from gen.edit.recipe import PerturbSpec
from gen.edit.sources import READ_THREADS, SOURCES, Source, SourceReader, Sources, SourceSpec, index_of, square
from gen.make.maker import Made, Picture
from gen.make.plan import Plan, Sample, sample_seed, sample_uid
from gen.make.refill import ShardSpec, UnitWorker
from gen.prompts.table import PROMPT_TABLE, Prompt, PromptTable
from gen.sampler.sampler import Request, Sampled
from gen.sampler.spec import sampler_json
from gen.sampler.start import Start
from gen.sampler.text_to_image import TextToImageJob, load_planned, picture_of, prompt_columns
from shards.disk.jpeg import SourceType, jpeg_size, may_be_turned, with_source_type
from shards.disk.store import open_store
from shards.labels.classes import Class

SOURCE_TYPE: SourceType = "compositeWithTrainedAlgorithmicMedia"


class Model(Protocol):
    """What this Maker needs of a `gen.sampler.sampler.Sampler`."""

    def prepare(self, texts: Sequence[str], negatives: Sequence[str]) -> None:
        """Name the texts of the calls to come, in a fixed order."""

    def sample(self, requests: Sequence[Request], alive: Callable[[float], None], start: Start | None) -> Sampled:
        """One image per request and picture, in order."""


class EditJob(BaseModel):
    """All a worker needs to make any unit of a run, as plain data that may travel to another machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    made: TextToImageJob = Field(description="of one fold as many images as the class has sources")
    class_names: dict[int, str]
    source: SourceSpec
    source_digest: str = Field(description="of the index where the run was planned")
    edit: PerturbSpec


def make_edit_worker(job: Mapping[str, object]) -> UnitWorker[Sample]:
    """A worker from plain data (`EditJob.model_dump(mode="json")`); loads the model, unless gamma is 0. Raises
    ValueError in one line."""
    checked = EditJob.model_validate(job)
    unit = checked.made.unit
    store = open_store(unit.out, unit.single_writer)
    classes = [Class(class_id, name, None, 1) for class_id, name in checked.class_names.items()]
    index = index_of(checked.source, classes)
    if index.digest != checked.source_digest:
        raise ValueError(
            f"{index.url}: found another set of source pictures here (digest {index.digest[:12]}) than the run was "
            f"planned with ({checked.source_digest[:12]}); bring that one to every node"
        )
    model = load_planned(checked.made) if checked.edit.gamma else None
    sources = Sources.load(store.read_bytes(SOURCES))
    prompts = PromptTable.load(store.read_bytes(PROMPT_TABLE))
    return UnitWorker(unit, Perturb(checked, model, sources, prompts, SourceReader(checked.source, index)), store)


class Perturb:
    """A Maker. Draw k of a sample is the same source with another seed. Owns the reader, and threads that decode."""

    source_type: SourceType | None = SOURCE_TYPE
    advice_on_failure = "check edit.gamma, model, dtype and size with a small recipe"

    def __init__(
        self, job: EditJob, model: Model | None, sources: Sources, prompts: PromptTable, reader: SourceReader
    ) -> None:
        self.job = job
        self.model = model
        self.sources = sources
        self.prompts = prompts
        self.reader = reader
        made = job.made
        self.plan = edit_plan(made.num_per_class, made.seed, made.unit.shards)
        self._num_prompts = prompts.num_per_class()
        settings = json.loads(sampler_json(made.sampler)) if job.edit.gamma else {}
        self._settings = json.dumps({**settings, "edit": job.edit.model_dump()}, sort_keys=True)
        self._threads = ThreadPoolExecutor(READ_THREADS, "decode")

    @property
    def call_size(self) -> int:
        """The recipe's `sampler.batch`."""
        return self.job.made.sampler.call_size

    @property
    def advice_on_memory(self) -> str:
        """Which batch to lower."""
        return f"expected room for sampler.batch = {self.call_size}; lower it in a new output"

    def samples(self, unit: int) -> Sequence[Sample]:
        """Those of the plan; `prompt_id` is the number of the source in its class."""
        return self.plan.unit(unit).samples

    def prepare(self, samples: Sequence[Sample]) -> None:
        """The model learns the unit's texts in slot order, which fixes how they are encoded."""
        if self.model is not None:
            prompts = [self._prompt(sample)[1] for sample in samples]
            self.model.prepare([one.text for one in prompts], [one.negative for one in prompts])

    def num_draws(self, sample: Sample) -> int | None:
        """No limit, but one of a source that is stored as it is."""
        return None if self.job.edit.gamma else 1

    def make(self, pairs: Sequence[tuple[Sample, int]], alive: Callable[[float], None]) -> Made:
        """One call of the sampler over the pictures that can be decoded; of the others the row says why not."""
        sources = [self._source(sample) for sample, _ in pairs]
        read = list(self._threads.map(self._read, sources))
        if self.model is None:
            return Made(lambda seconds: None, lambda place: self._as_it_is(*read[place]))
        usable = [place for place, (_, found) in enumerate(read) if not isinstance(found, str)]
        if not usable:
            return Made(lambda seconds: None, lambda place: _unreadable(read[place][1]))
        requests = []
        for place in usable:
            sample, draw = pairs[place]
            _, prompt = self._prompt(sample)
            requests.append(Request(prompt.text, prompt.negative, sample_seed(*self._identity(sample, draw))))
        start = Start(np.stack([read[place][1] for place in usable]), self.job.edit.gamma)
        sampled = self.model.sample(requests, alive, start)
        at = {place: number for number, place in enumerate(usable)}

        def picture(place: int) -> Picture:
            if place not in at:
                return _unreadable(read[place][1])
            return picture_of(sampled, self.job.made.sampler, at[place])

        return Made(sampled.wait, picture)

    def row(self, sample: Sample, draw: int) -> Mapping[str, object]:
        """Prompt, seed, model; in `url` the source with its hash, in `sampler` also what was done; the domain is
        edited."""
        prompt_id, prompt = self._prompt(sample)
        source, identity = self._source(sample), self._identity(sample, draw)
        return {
            "uid": sample_uid(*identity),
            "domain": "edited",
            "class_id": sample.class_id,
            "url": f"{source.key}#sha256={source.sha256}",
            **prompt_columns(prompt, prompt_id, self.job.made),
            "replicate": sample.replicate,
            "seed": sample_seed(*identity),
            "sampler": self._settings,
        }

    def _read(self, source: Source) -> tuple[bytes, np.ndarray | str]:
        data = self.reader.read(source)
        return data, square(data, self.job.made.sampler.made_px, self.job.edit.fit)

    def _as_it_is(self, data: bytes, found: np.ndarray | str) -> Picture:
        """A JPEG of the stored size keeps its bytes, beside the note on its origin that every edited image has."""
        if isinstance(found, str):
            return _unreadable(found)
        side = self.job.made.sampler.stored_px
        kept = data[:2] == b"\xff\xd8" and not may_be_turned(data) and jpeg_size(data) == (side, side)
        return Picture(found, jpeg=with_source_type(data, SOURCE_TYPE) if kept else None)

    def _source(self, sample: Sample) -> Source:
        return self.sources.at(sample.class_id, sample.prompt_id)

    def _prompt(self, sample: Sample) -> tuple[int, Prompt]:
        number = (sample.prompt_id + sample.replicate) % self._num_prompts[sample.class_id]
        return number, self.prompts.prompt(sample.class_id, number)

    def _identity(self, sample: Sample, draw: int) -> tuple[int, int, int, int, int]:
        return self.job.made.seed, sample.class_id, sample.prompt_id, sample.replicate, draw


def edit_plan(num_sources: Mapping[int, int], seed: int, shards: ShardSpec) -> Plan:
    """One sample for each source in a fold: sample number q of a class is source q mod S in fold q // S.
    `num_sources`: class id -> S."""
    return Plan(num_sources, num_sources, seed, shards.samples_per_shard, shards.max_draws)


def _unreadable(reason: object) -> Picture:
    return Picture(None, "failed_to_decode", str(reason)[:300])
