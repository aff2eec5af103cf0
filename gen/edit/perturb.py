"""The Maker of `sixfold edit` with `edit.kind: perturb`: source pictures in, the same through the generator out.

In: the rows of an edited set (`gen.edit.rows`), a model. Out: an image for each (sample, draw). On disk: nothing.
"""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from gen.edit.recipe import PerturbSpec
from gen.edit.rows import SOURCE_TYPE, EditRows, unreadable
from gen.make.maker import Made, Picture
from gen.make.plan import Sample
from gen.sampler.sampler import Request, Sampled
from gen.sampler.spec import sampler_json
from gen.sampler.start import Start
from gen.sampler.text_to_image import picture_of
from shards.disk.jpeg import SourceType, decode_jpeg, may_be_turned, with_source_type


class Model(Protocol):
    """What Makers of edits need of a `gen.sampler.sampler.Sampler`."""

    def prepare(self, texts: Sequence[str], negatives: Sequence[str]) -> None:
        """Name the texts of the calls to come, in a fixed order."""

    def sample(self, requests: Sequence[Request], alive: Callable[[float], None], start: Start | None) -> Sampled:
        """One image per request and picture, in order."""


class Perturb:
    """A Maker. Draw k of a sample is the same source with another seed."""

    source_type: SourceType | None = SOURCE_TYPE
    advice_on_failure = "check edit.gamma, model, dtype and size with a small recipe"

    def __init__(self, rows: EditRows, edit: PerturbSpec, model: Model | None) -> None:
        """`model` is None for gamma 0, which asks none."""
        self.rows = rows
        self.edit = edit
        self.model = model
        self._sampler = rows.job.made.sampler
        settings = json.loads(sampler_json(self._sampler)) if edit.gamma else {}
        self._settings = json.dumps({**settings, "edit": edit.model_dump()}, sort_keys=True)

    @property
    def call_size(self) -> int:
        """The recipe's `sampler.batch`."""
        return self._sampler.call_size

    @property
    def advice_on_memory(self) -> str:
        """Which batch to lower."""
        return f"expected room for sampler.batch = {self.call_size}; lower it in a new output"

    def samples(self, unit: int) -> Sequence[Sample]:
        """Those of the plan."""
        return self.rows.samples(unit)

    def prepare(self, samples: Sequence[Sample]) -> None:
        """The model learns the unit's texts in slot order, which fixes how they are encoded."""
        if self.model is not None:
            prompts = [self.rows.prompt(sample)[1] for sample in samples]
            self.model.prepare([one.text for one in prompts], [one.negative for one in prompts])

    def num_draws(self, sample: Sample) -> int | None:
        """No limit, but one of a source that is stored as it is."""
        return None if self.edit.gamma else 1

    def make(self, pairs: Sequence[tuple[Sample, int]], alive: Callable[[float], None]) -> Made:
        """One call of the sampler over the pictures that can be decoded; of the others the row says why not."""
        read = self.rows.read([sample for sample, _ in pairs])
        if self.model is None:
            return Made(lambda seconds: None, lambda place: self._as_it_is(*read[place]))
        usable = [place for place, (_, found) in enumerate(read) if not isinstance(found, str)]
        if not usable:
            return Made(lambda seconds: None, lambda place: unreadable(read[place][1]))
        requests = []
        for place in usable:
            sample, draw = pairs[place]
            _, prompt = self.rows.prompt(sample)
            requests.append(Request(prompt.text, prompt.negative, self.rows.seed(sample, draw)))
        start = Start(np.stack([read[place][1] for place in usable]), self.edit.gamma)
        sampled = self.model.sample(requests, alive, start)
        at = {place: number for number, place in enumerate(usable)}

        def picture(place: int) -> Picture:
            if place not in at:
                return unreadable(read[place][1])
            return replace(picture_of(sampled, self._sampler, at[place]), before_HWC=start.image_NHWC[at[place]])

        return Made(sampled.wait, picture)

    def row(self, sample: Sample, draw: int) -> Mapping[str, object]:
        """Prompt, seed, model, source, and what was done; the domain is edited."""
        return self.rows.row(sample, draw, self._settings)

    def _as_it_is(self, data: bytes, found: np.ndarray | str) -> Picture:
        """A JPEG of the stored size keeps its bytes, beside the note on its origin that every edited image has."""
        if isinstance(found, str):
            return unreadable(found)
        kept = False
        if not may_be_turned(data):
            with contextlib.suppress(ValueError):  # what is no whole JPEG of three colours is encoded
                kept = np.array_equal(decode_jpeg(data), found)  # a strip is not its square
        return Picture(found, before_HWC=found, jpeg=with_source_type(data, SOURCE_TYPE) if kept else None)
