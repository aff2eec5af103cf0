"""What all Makers of edits share: which source, prompt and seed a sample has, and what its row says of them.

In: an `EditJob`, the tables of the edited set, the source pictures. Out: samples, squares, rows. On disk: only reads.

A sample is (class, source, replicate): replicate r of a source is in fold r + 1. In fold r source s reads prompt
(s + r) mod P of its class, so each source meets all prompts in turn.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from gen.edit.recipe import EditSpec, PerturbSpec
from gen.edit.sources import READ_THREADS, Source, SourceReader, Sources, SourceSpec, fitted
from gen.make.maker import Picture
from gen.make.plan import Plan, Sample, sample_seed, sample_uid
from gen.make.refill import ShardSpec
from gen.prompts.table import Prompt, PromptTable
from gen.sampler.text_to_image import TextToImageJob, prompt_columns
from shards.disk.jpeg import SourceType
from shards.labels.classes import Class

SOURCE_TYPE: SourceType = "compositeWithTrainedAlgorithmicMedia"


class EditJob(BaseModel):
    """All a worker needs to make any unit of a run, as plain data that may travel to another machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    made: TextToImageJob = Field(description="of one fold as many images as the class has sources")
    classes: tuple[Class, ...] = Field(description="each with as many images in 1x as it has sources")
    source: SourceSpec
    source_digest: str = Field(description="of the index where the run was planned")
    edit: EditSpec
    editor_digest: str = Field("", description="of the models of `edit.editor` where the run was planned")
    masks_digest: str = Field("", description="likewise of `edit.masks`, its models and the files that are there")
    mask_hashes: str = Field("{}", description="JSON: these files then, name in `edit.masks.masks` -> hex sha256")
    judge_digest: str = Field("", description="likewise of `edit.judge`")


class EditRows:
    """The samples of an edited set. Owns the reader of its sources, and threads that decode."""

    def __init__(self, job: EditJob, sources: Sources, prompts: PromptTable, reader: SourceReader) -> None:
        self.job = job
        self.sources = sources
        self.prompts = prompts
        self._reader = reader
        self._num_prompts = prompts.num_per_class()
        self._threads = ThreadPoolExecutor(READ_THREADS, "decode")

    @cached_property
    def _plan(self) -> Plan:
        made = self.job.made
        return edit_plan(made.num_per_class, made.seed, made.unit.shards)

    def samples(self, unit: int) -> Sequence[Sample]:
        """Those of the plan; `prompt_id` is the number of the source in its class."""
        return self._plan.unit(unit).samples

    def source(self, sample: Sample) -> Source:
        """Which picture the sample begins with."""
        return self.sources.at(sample.class_id, sample.prompt_id)

    def prompt(self, sample: Sample) -> tuple[int, Prompt]:
        """The prompt with its number in the class."""
        number = (sample.prompt_id + sample.replicate) % self._num_prompts[sample.class_id]
        return number, self.prompts.prompt(sample.class_id, number)

    def seed(self, sample: Sample, draw: int) -> int:
        """Of the noise."""
        return sample_seed(*self._identity(sample, draw))

    def read(self, samples: Sequence[Sample]) -> list[tuple[bytes, np.ndarray | str]]:
        """Of each sample's source the bytes, and the picture as it is edited, uint8 HWC, or why there is none. Raises
        NotAgain for a source that is gone or has other bytes now."""
        sampler, fit = self.job.made.sampler, self.job.edit.fit
        is_kept = isinstance(self.job.edit, PerturbSpec) and not self.job.edit.gamma
        side = sampler.stored_px if is_kept else sampler.made_px

        def one(source: Source) -> tuple[bytes, np.ndarray | str]:
            data = self._reader.read(source)
            return data, fitted(data, side, fit)

        return list(self._threads.map(one, [self.source(sample) for sample in samples]))

    def row(self, sample: Sample, draw: int, settings: str) -> dict[str, object]:
        """Prompt, seed, model and settings; in `url` the source with its hash; the domain is edited."""
        prompt_id, prompt = self.prompt(sample)
        source, identity = self.source(sample), self._identity(sample, draw)
        return {
            "uid": sample_uid(*identity),
            "domain": "edited",
            "class_id": sample.class_id,
            "url": f"{source.key}#sha256={source.sha256}",
            **prompt_columns(prompt, prompt_id, self.job.made),
            "replicate": sample.replicate,
            "seed": sample_seed(*identity),
            "sampler": settings,
        }

    def _identity(self, sample: Sample, draw: int) -> tuple[int, int, int, int, int]:
        return self.job.made.seed, sample.class_id, sample.prompt_id, sample.replicate, draw


def edit_plan(num_sources: Mapping[int, int], seed: int, shards: ShardSpec) -> Plan:
    """One sample for each source in a fold: sample number q of a class is source q mod S in fold q // S.
    `num_sources`: class id -> S."""
    return Plan(num_sources, num_sources, seed, shards.samples_per_shard, shards.max_draws)


def unreadable(reason: object) -> Picture:
    """In place of any edit of a source that cannot be decoded."""
    return Picture(None, "failed_to_decode", str(reason)[:300], is_final=True)
