"""The Maker of `sixfold generate`: prompts from a table, seeds from the plan, pixels from a sampler.

In: a `TextToImageJob`. Out: a worker of `fan_out` that makes shards of synthetic images (`gen.make.refill`). On disk:
reads the prompt table of the data set, writes nothing of its own. The row of an image says everything that made it:
prompt, seed, model, hash of its weights, settings.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from gen.make.maker import Made, Picture
from gen.make.plan import Plan, Sample, sample_seed, sample_uid
from gen.make.refill import UnitJob, UnitWorker
from gen.make.screen import REASONS, check_generated
from gen.prompts.table import PROMPT_TABLE, Prompt, PromptTable
from gen.sampler.device import device_name
from gen.sampler.sampler import Request, Sampled, Sampler
from gen.sampler.spec import SamplerSpec, sampler_digest, sampler_json
from shards.disk.jpeg import SourceType
from shards.disk.layout import SUCCESS
from shards.disk.store import open_store


class Model(Protocol):
    """What this Maker needs of a `gen.sampler.sampler.Sampler`; tests paint pictures behind it."""

    def prepare(self, texts: Sequence[str], negatives: Sequence[str]) -> None:
        """Name the texts of the calls to come, in a fixed order; a model may encode them at once."""

    def sample(self, requests: Sequence[Request], alive: Callable[[float], None]) -> Sampled:
        """One image per request, in order; calls `alive` as it gets on, with the share that is done."""


class TextToImageJob(BaseModel):
    """All a worker needs to make any unit of a run, as plain data that may travel to another machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: UnitJob
    num_per_class: dict[int, int] = Field(description="class id -> images of one fold")
    seed: int
    sampler: SamplerSpec = Field(description="as the rows of images say it")
    model_places: dict[str, str | None] = Field(default={}, description="fields of it that lead workers to the folders")
    model_digest: str = Field(description="what `sampler_digest` said where the run was planned")


def make_text_to_image_worker(job: Mapping[str, object]) -> UnitWorker[Sample]:
    """A worker from plain data (`TextToImageJob.model_dump(mode="json")`); loads the model. Raises ValueError in one
    line."""
    checked = TextToImageJob.model_validate(job)
    store = open_store(checked.unit.out, checked.unit.single_writer)
    prompts = PromptTable.load(store.read_bytes(PROMPT_TABLE))
    model = load_planned(checked)
    return UnitWorker(checked.unit.on(device_name(model.device.type)), TextToImage(checked, model, prompts), store)


def load_planned(job: TextToImageJob) -> Sampler:
    """The model that the run was planned with. Raises ValueError if other weights lie here."""
    spec = job.sampler.model_copy(update=job.model_places)
    found = sampler_digest(spec)
    if found != job.model_digest:
        raise ValueError(
            f"model {spec.model}: found other weights here (digest {found[:12]}) than the run was planned "
            f"with ({job.model_digest[:12]}); copy the same model folder to every node"
        )
    return Sampler.load(spec)


def picture_of(sampled: Sampled, spec: SamplerSpec, place: int) -> Picture:
    """One image of a call, with what the model says of it."""
    image_HWC = sampled.image_NHWC[place]
    finite, flagged = bool(sampled.finite_N[place]), bool(sampled.flagged_N[place])
    status = check_generated(image_HWC, finite, flagged, spec.stored_px)
    if status != SUCCESS:
        return Picture(image_HWC, status, REASONS[status])
    return Picture(image_HWC, columns={"original_width": spec.made_px, "original_height": spec.made_px})


def prompt_columns(prompt: Prompt, prompt_id: int, job: TextToImageJob) -> dict[str, object]:
    """What a row says of its prompt, and of the model that reads it."""
    spec = job.sampler
    return {
        "class_name": prompt.class_name,
        "caption": prompt.text,
        "prompt_id": prompt_id,
        "prompt_kind": prompt.kind,
        "prompt_form": prompt.form,
        "meaning": prompt.meaning,
        "context": prompt.context,
        "style": prompt.words.get("style"),
        "negative": prompt.negative or spec.negative or None,
        "model": spec.model,
        "revision": spec.revision or f"sha256:{job.model_digest}",
        "licence": spec.licence,
    }


class TextToImage:
    """A Maker. Owns the prompts of the unit at hand."""

    source_type: SourceType | None = "trainedAlgorithmicMedia"
    advice_on_failure = "check model, dtype and size with a small recipe"

    def __init__(self, job: TextToImageJob, model: Model, prompts: PromptTable) -> None:
        self.job = job
        self.model = model
        self.prompts = prompts
        shards = job.unit.shards
        self.plan = Plan(
            job.num_per_class, prompts.num_per_class(), job.seed, shards.samples_per_shard, shards.max_draws
        )
        self._sampler_json = sampler_json(job.sampler)
        self._prompts: dict[tuple[int, int], Prompt] = {}  # (class id, prompt id) -> prompt

    @property
    def call_size(self) -> int:
        """The recipe's `sampler.batch`."""
        return self.job.sampler.call_size

    @property
    def advice_on_memory(self) -> str:
        """Which batches to lower."""
        return (
            f"expected room for sampler.batch = {self.call_size} and sampler.vae_batch = {self.job.sampler.vae_batch}; "
            "lower one of them in a new output"
        )

    def samples(self, unit: int) -> Sequence[Sample]:
        """Those of the plan."""
        return self.plan.unit(unit).samples

    def prepare(self, samples: Sequence[Sample]) -> None:
        """The model learns the unit's texts in slot order, which fixes how they are encoded."""
        places = dict.fromkeys((sample.class_id, sample.prompt_id) for sample in samples)
        self._prompts = {place: self.prompts.prompt(*place) for place in places}
        prompts = self._prompts.values()
        self.model.prepare([one.text for one in prompts], [one.negative for one in prompts])

    def num_draws(self, sample: Sample) -> None:
        """No limit: there is always another seed."""
        return None

    def make(self, pairs: Sequence[tuple[Sample, int]], alive: Callable[[float], None]) -> Made:
        """One call of the sampler, with the seed of each (sample, draw)."""
        requests = []
        for sample, draw in pairs:
            prompt = self._prompts[sample.class_id, sample.prompt_id]
            requests.append(Request(prompt.text, prompt.negative, sample_seed(*self._identity(sample, draw))))
        sampled = self.model.sample(requests, alive)
        return Made(sampled.wait, partial(picture_of, sampled, self.job.sampler))

    def row(self, sample: Sample, draw: int) -> Mapping[str, object]:
        """The prompt and its parts, the seed, the model and its settings; the domain is synthetic."""
        identity = self._identity(sample, draw)
        prompt = self._prompts[sample.class_id, sample.prompt_id]
        return {
            "uid": sample_uid(*identity),
            "domain": "synthetic",
            "class_id": sample.class_id,
            **prompt_columns(prompt, sample.prompt_id, self.job),
            "replicate": sample.replicate,
            "seed": sample_seed(*identity),
            "sampler": self._sampler_json,
        }

    def _identity(self, sample: Sample, draw: int) -> tuple[int, int, int, int, int]:
        return self.job.seed, sample.class_id, sample.prompt_id, sample.replicate, draw
