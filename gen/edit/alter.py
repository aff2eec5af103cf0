"""The Maker of `sixfold edit` with `edit.kind: attribute`: one background, colour or texture of a real picture altered.

In: the rows of an edited set (`gen.edit.rows`), attributes, a masker, a model that inpaints, a judge. Out: an image for
each (sample, draw). On disk: nothing.

    source ─▶ mask of the object ─▶ prior: a place under it, a tint over it ─▶ inpaint ─▶ paste back ─▶ judge

Replicate r of a source has the r-th attribute drawn for it; draw k is another seed for the same attribute. What the edit
may not touch comes from the source: of a background edit the object, else everything around it. The column `edit` of a
row tells attribute, mask and verdict.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gen.edit.attributes.attribute import Attribute, phrase
from gen.edit.attributes.draw import ClassAttributes, draw_attribute
from gen.edit.attributes.question import questions_of
from gen.edit.judge.judge import Judge, draws_of
from gen.edit.judge.question import Question, rather_than
from gen.edit.judge.verdict import Verdict
from gen.edit.masks.masker import Mask, Masker
from gen.edit.masks.stored import rle_of
from gen.edit.perturb import Model
from gen.edit.priors.background import merge_background
from gen.edit.priors.blend import blend_colour
from gen.edit.priors.paste import halo_share, paste_background, paste_object, paste_softly
from gen.edit.recipe import AttributeEditSpec
from gen.edit.rows import SOURCE_TYPE, EditRows, unreadable
from gen.make.maker import Made, Picture
from gen.make.plan import Sample
from gen.sampler.sampler import Request, Sampled
from gen.sampler.spec import sampler_json
from gen.sampler.start import Start
from gen.sampler.text_to_image import picture_of
from shards.disk.jpeg import SourceType
from shards.disk.layout import SUCCESS

Image = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Ask:
    """One edit, ready for the model."""

    place: int  # in the call
    attribute: Attribute
    source_HWC: Image
    mask: Mask
    start_HWC: Image  # the source with the prior of the attribute
    region_HW: NDArray[np.bool_]  # where it may change
    request: Request
    questions: Sequence[Question]


@dataclass
class Outcome:
    """The pictures of one call, filled in when it is waited for."""

    pictures: dict[int, Picture] = field(default_factory=dict)


class Alter:
    """A Maker of attribute edits."""

    source_type: SourceType | None = SOURCE_TYPE
    advice_on_failure = "look at masks, strength and judge of a few edits with a small recipe"

    def __init__(
        self,
        rows: EditRows,
        edit: AttributeEditSpec,
        attributes: Sequence[ClassAttributes],
        masker: Masker,
        model: Model,
        judge: Judge,
    ) -> None:
        self.rows = rows
        self.edit = edit
        self.attributes = {one.class_id: one for one in attributes}
        self.masker = masker
        self.model = model
        self.judge = judge
        self._sampler = rows.job.made.sampler
        told = {**json.loads(sampler_json(self._sampler)), "edit": edit.told()}
        self._settings = json.dumps(told, sort_keys=True)

    @property
    def call_size(self) -> int:
        """The recipe's `sampler.batch`."""
        return self._sampler.call_size

    @property
    def advice_on_memory(self) -> str:
        """Which batch to lower."""
        return f"expected room for sampler.batch = {self.call_size}, masker and judge; lower it in a new output"

    def samples(self, unit: int) -> Sequence[Sample]:
        """Those of the plan."""
        return self.rows.samples(unit)

    def prepare(self, samples: Sequence[Sample]) -> None:
        """The model learns the unit's texts in slot order, which fixes how they are encoded."""
        negatives = [self.rows.prompt(sample)[1].negative for sample in samples]
        self.model.prepare([self._text(sample) for sample in samples], negatives)

    def num_draws(self, sample: Sample) -> int | None:
        """The judge's budget for each output."""
        return draws_of(self.edit.judge)

    def make(self, pairs: Sequence[tuple[Sample, int]], alive: Callable[[float], None]) -> Made:
        """A call of the model for each strength; pasting and judging wait until the pixels are there."""
        outcome, asks = Outcome(), []
        for place, ((sample, draw), (_, source)) in enumerate(
            zip(pairs, self.rows.read([sample for sample, _ in pairs]), strict=True)
        ):
            found = unreadable(source) if isinstance(source, str) else self._ask(place, sample, draw, source)
            if isinstance(found, Picture):
                outcome.pictures[place] = found
            else:
                asks.append(found)
        groups: dict[float, list[Ask]] = {}
        for ask in asks:
            groups.setdefault(self.edit.strength.of(ask.attribute.kind), []).append(ask)
        made = [(group, self._call(group, strength, alive)) for strength, group in groups.items()]

        def wait(seconds: float) -> None:
            for group, sampled in made:
                sampled.wait(seconds)
                outcome.pictures.update(self._finished(group, sampled))

        return Made(wait, lambda place: outcome.pictures[place])

    def row(self, sample: Sample, draw: int) -> Mapping[str, object]:
        """Prompt with the attribute, seed, model, source; the domain is edited."""
        attribute = self._attribute(sample)
        return {
            **self.rows.row(sample, draw, self._settings),
            "caption": self._text(sample),
            "context": json.dumps({attribute.kind: attribute.name, "side": side_of(attribute)}),
            "edit": json.dumps(self._told(attribute), sort_keys=True),
        }

    def _attribute(self, sample: Sample) -> Attribute:
        of = self.attributes[sample.class_id]
        return draw_attribute(of, self.rows.job.made.seed, sample.prompt_id, sample.replicate)

    def _text(self, sample: Sample) -> str:
        _, prompt = self.rows.prompt(sample)
        attribute = self._attribute(sample)
        words = attribute.name if self.edit.phrase == "name" else phrase(attribute, self.edit.phrase)
        return self.edit.form.of(attribute.kind).format(prompt=prompt.text, attribute=words)

    def _ask(self, place: int, sample: Sample, draw: int, source_HWC: Image) -> Ask | Picture:
        _, prompt = self.rows.prompt(sample)
        attribute = self._attribute(sample)
        mask = self.masker.masks([source_HWC], [prompt.class_name], [""], [self.rows.source(sample).key])[0]
        if mask.mask_HW is None or mask.wide_HW is None:
            return Picture(None, mask.status, mask.reason, {"edit": self._text_of(attribute, mask, None, None)})
        if attribute.kind == "background":
            start_HWC, region_HW = source_HWC, ~mask.mask_HW
            if self.edit.prior == "flat" and attribute.rgb is not None:
                start_HWC = merge_background(source_HWC, mask.wide_HW, flat(source_HWC, attribute.rgb))
        else:
            start_HWC, region_HW = source_HWC, mask.mask_HW
            if self.edit.prior == "flat" and attribute.rgb is not None:
                start_HWC = blend_colour(source_HWC, mask.mask_HW, attribute.rgb, self.edit.alpha)
        request = Request(self._text(sample), prompt.negative, self.rows.seed(sample, draw))
        return Ask(
            place, attribute, source_HWC, mask, start_HWC, region_HW, request, self._questions(sample, attribute)
        )  # fmt: skip

    def _questions(self, sample: Sample, attribute: Attribute) -> Sequence[Question]:
        """Of a CLIP, whether the image is nearer to its own text than to that of each other attribute of its kind."""
        _, prompt = self.rows.prompt(sample)
        if self.edit.judge.kind != "clip":
            return questions_of(attribute, prompt.meaning or prompt.class_name)
        form = self.edit.form.of(attribute.kind)
        others = dict.fromkeys(
            one.name for cell in self.attributes[sample.class_id].cells for one in cell if one.kind == attribute.kind
        )
        texts = {name: form.format(prompt=prompt.text, attribute=name) for name in others}
        return rather_than(texts[attribute.name], [text for name, text in texts.items() if name != attribute.name])

    def _call(self, group: Sequence[Ask], strength: float, alive: Callable[[float], None]) -> Sampled:
        start = Start(
            np.stack([ask.start_HWC for ask in group]), strength, np.stack([ask.region_HW for ask in group])
        )  # fmt: skip
        return self.model.sample([ask.request for ask in group], alive, start)

    def _finished(self, group: Sequence[Ask], sampled: Sampled) -> dict[int, Picture]:
        """The edits with what they may not touch pasted back, and the judge's word on each. Raises JudgeLost."""
        pasted: dict[int, Picture] = {}
        judged = []
        for number, ask in enumerate(group):
            found = picture_of(sampled, self._sampler, number)
            if found.status != SUCCESS or found.image_HWC is None:
                told = {"edit": self._text_of(ask.attribute, ask.mask, None, None)}
                pasted[ask.place] = Picture(found.image_HWC, found.status, found.error, {**found.columns, **told})
                continue
            image_HWC = self._paste(ask, found.image_HWC)
            judged.append((ask, image_HWC, dict(found.columns)))
        verdicts = self.judge.verdicts([(image_HWC, ask.questions) for ask, image_HWC, _ in judged])
        for (ask, image_HWC, columns), verdict in zip(judged, verdicts, strict=True):
            halo = None
            if ask.attribute.kind == "background" and ask.mask.mask_HW is not None:
                halo = round(halo_share(ask.source_HWC, image_HWC, ask.mask.mask_HW), 4)
            columns["edit"] = self._text_of(ask.attribute, ask.mask, halo, verdict)
            pasted[ask.place] = Picture(image_HWC, verdict.status, verdict.error, columns)
        return pasted

    def _paste(self, ask: Ask, edited_HWC: Image) -> Image:
        assert ask.mask.mask_HW is not None, "an ask has a mask"
        if ask.attribute.kind != "background":
            return paste_background(ask.source_HWC, edited_HWC, ask.mask.mask_HW)
        paste = paste_softly if self.edit.paste == "soft" else paste_object
        return paste(ask.source_HWC, edited_HWC, ask.mask.mask_HW)

    def _told(self, attribute: Attribute) -> dict[str, object]:
        return {"attribute": attribute.name, "kind": attribute.kind, "side": side_of(attribute)}

    def _text_of(self, attribute: Attribute, mask: Mask, halo: float | None, verdict: Verdict | None) -> str:
        told = self._told(attribute)
        told["mask"] = {"how": mask.how, "area": round(mask.area, 4)}
        if mask.mask_HW is not None:
            told["mask"] = {"how": mask.how, "area": round(mask.area, 4), "rle": json.loads(rle_of(mask.mask_HW))}
        if halo is not None:
            told["halo"] = halo
        if verdict is not None and verdict.answers:
            right = sum(one.is_expected for one in verdict.answers)
            told["judge"] = {"score": verdict.score, "expected": right, "asked": len(verdict.answers)}
        return json.dumps(told, sort_keys=True)


def side_of(attribute: Attribute) -> str:
    """The word for rows and pages."""
    return "feasible" if attribute.feasible else "infeasible"


def flat(image_HWC: Image, rgb: tuple[int, int, int]) -> Image:
    """An even picture of the image's size."""
    return np.broadcast_to(np.array(rgb, np.uint8), image_HWC.shape).copy()
