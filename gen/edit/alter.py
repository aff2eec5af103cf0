"""The Maker of `sixfold edit` with `edit.kind: attribute`: one background, colour or texture of a real picture altered.

In: the rows of an edited set (`gen.edit.rows`), attributes, a masker, a model that inpaints, a judge. Out: an image for
each (sample, draw). On disk: nothing.

    source ─▶ mask of the object ─▶ prior: a place under it, a tint over it ─▶ inpaint ─▶ paste back ─▶ judge

Replicate r of a source has the r-th attribute drawn for it; draw k is another seed for the same attribute. What the
edit may not touch comes from the source: of a background edit the object, else everything around it. The column `edit`
of a row tells attribute, mask and verdict.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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
from gen.edit.priors.blend import blend_colour, blend_texture, texture_patch
from gen.edit.priors.paste import halo_share, paste_background, paste_object, paste_softly
from gen.edit.recipe import AttributeEditSpec
from gen.edit.rows import SOURCE_TYPE, EditRows, unreadable
from gen.make.maker import Made, Picture
from gen.make.plan import Sample
from gen.names.kind import kind_of
from gen.sampler.sampler import Request, Sampled
from gen.sampler.spec import sampler_json
from gen.sampler.start import Start
from gen.sampler.text_to_image import picture_of
from shards.disk.jpeg import SourceType
from shards.disk.layout import SUCCESS
from shards.labels.classes import Class

Image = NDArray[np.uint8]
PRIOR_S = 1800.0  # for the pixels of drawn priors to arrive, as for any batch
TEXTURE_CROP = 4  # a texture is a quarter of a drawn square, enlarged: VariReal's 256 of 1024 px


@dataclass(frozen=True, eq=False)
class Ask:
    """One edit whose object is found."""

    place: int  # in the call
    attribute: Attribute
    source_HWC: Image
    mask: Mask
    object_HW: NDArray[np.bool_]
    request: Request
    questions: Sequence[Question]

    @property
    def region_HW(self) -> NDArray[np.bool_]:
        """Where it may change."""
        return ~self.object_HW if self.attribute.kind == "background" else self.object_HW


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
        drawn = [one.text for one in map(self._attribute, samples) if self._is_drawn(one)]
        self.model.prepare([*(self._text(sample) for sample in samples), *drawn], negatives)

    def num_draws(self, sample: Sample) -> int | None:
        """The judge's budget for each output."""
        return draws_of(self.edit.judge)

    def make(self, pairs: Sequence[tuple[Sample, int]], alive: Callable[[float], None]) -> Made:
        """A call of the model for the priors that it draws, and one for each strength; pasting and judging wait until
        the pixels are there."""
        pictures: dict[int, Picture] = {}
        groups: dict[float, list[Ask]] = {}
        read = self.rows.read([sample for sample, _ in pairs])
        for place, ((sample, draw), (_, source)) in enumerate(zip(pairs, read, strict=True)):
            found = unreadable(source) if isinstance(source, str) else self._ask(place, sample, draw, source)
            if isinstance(found, Picture):
                pictures[place] = found
            else:
                groups.setdefault(self.edit.strength.of(found.attribute.kind), []).append(found)
        starts = self._starts([ask for group in groups.values() for ask in group], pictures, alive)
        ready = {strength: [ask for ask in group if ask.place in starts] for strength, group in groups.items()}
        made = [(group, self._call(group, starts, strength, alive)) for strength, group in ready.items() if group]

        def wait(seconds: float) -> None:
            for group, sampled in made:
                sampled.wait(seconds)
                pictures.update(self._finished(group, sampled))

        return Made(wait, lambda place: pictures[place])

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
        kind = kind_of(Class(sample.class_id, prompt.class_name, None, 1), prompt.meaning)
        kinds = ["" if kind == "other" else kind]
        mask = self.masker.masks([source_HWC], [prompt.class_name], kinds, [self.rows.source(sample).key])[0]
        if mask.mask_HW is None or mask.wide_HW is None:
            return Picture(None, mask.status, mask.reason, {"edit": self._text_of(attribute, mask, None, None)})
        request = Request(self._text(sample), prompt.negative, self.rows.seed(sample, draw))
        questions = self._questions(sample, attribute)
        return Ask(place, attribute, source_HWC, mask, mask.mask_HW, request, questions)

    def _is_drawn(self, attribute: Attribute) -> bool:
        """Whether the model draws the prior of the attribute."""
        if attribute.kind == "colour" or self.edit.prior == "none":
            return False
        return self.edit.prior == "drawn" or attribute.rgb is None

    def _starts(
        self, asks: Sequence[Ask], pictures: dict[int, Picture], alive: Callable[[float], None]
    ) -> dict[int, Image]:
        """By place: the source with the prior of its attribute. Of a prior that the model cannot draw `pictures` gets
        the reason."""
        drawn = [ask for ask in asks if self._is_drawn(ask.attribute)]
        priors: dict[int, Image] = {}
        if drawn:
            requests = [Request(ask.attribute.text, ask.request.negative, ask.request.seed) for ask in drawn]
            sampled = self.model.sample(requests, alive, None)
            sampled.wait(PRIOR_S)
            for number, ask in enumerate(drawn):
                found = picture_of(sampled, self._sampler, number)
                if found.status == SUCCESS and found.image_HWC is not None:
                    priors[ask.place] = found.image_HWC.copy()
                else:
                    told = {"edit": self._text_of(ask.attribute, ask.mask, None, None)}
                    pictures[ask.place] = Picture(None, found.status, f"its prior: {found.error}", told)
        return {ask.place: self._with_prior(ask, priors.get(ask.place)) for ask in asks if ask.place not in pictures}

    def _with_prior(self, ask: Ask, drawn_HWC: Image | None) -> Image:
        rgb, source_HWC = ask.attribute.rgb, ask.source_HWC
        if self.edit.prior == "none" or (drawn_HWC is None and rgb is None):
            return source_HWC
        if ask.attribute.kind == "background":
            assert ask.mask.wide_HW is not None, "an ask has a mask"
            place_HWC = flat(source_HWC, rgb) if drawn_HWC is None and rgb is not None else drawn_HWC
            assert place_HWC is not None, "either is there"
            return merge_background(source_HWC, ask.mask.wide_HW, place_HWC)
        if drawn_HWC is None and rgb is not None:
            return blend_colour(source_HWC, ask.object_HW, rgb, self.edit.alpha)
        assert drawn_HWC is not None, "either is there"
        height, width = source_HWC.shape[:2]
        crop_px = max(1, min(drawn_HWC.shape[:2]) // TEXTURE_CROP)
        patch_HWC = texture_patch(drawn_HWC, height, width, ask.request.seed, crop_px)
        return blend_texture(source_HWC, ask.object_HW, patch_HWC, self.edit.alpha)

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

    def _call(
        self, group: Sequence[Ask], starts: Mapping[int, Image], strength: float, alive: Callable[[float], None]
    ) -> Sampled:
        image_NHWC = np.stack([starts[ask.place] for ask in group])
        start = Start(image_NHWC, strength, np.stack([ask.region_HW for ask in group]))
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
            if ask.attribute.kind == "background":
                halo = round(halo_share(ask.source_HWC, image_HWC, ask.object_HW), 4)
            columns["edit"] = self._text_of(ask.attribute, ask.mask, halo, verdict)
            pasted[ask.place] = Picture(image_HWC, verdict.status, verdict.error, columns)
        return pasted

    def _paste(self, ask: Ask, edited_HWC: Image) -> Image:
        if ask.attribute.kind != "background":
            return paste_background(ask.source_HWC, edited_HWC, ask.object_HW)
        paste = paste_softly if self.edit.paste == "soft" else paste_object
        return paste(ask.source_HWC, edited_HWC, ask.object_HW)

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
            told["judge"] = json.loads(verdict.json_text())
        return json.dumps(told, sort_keys=True)


def side_of(attribute: Attribute) -> str:
    """The word for rows and pages."""
    return "feasible" if attribute.feasible else "infeasible"


def flat(image_HWC: Image, rgb: tuple[int, int, int]) -> Image:
    """An even picture of the image's size."""
    return np.broadcast_to(np.array(rgb, np.uint8), image_HWC.shape).copy()
