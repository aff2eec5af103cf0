"""The Maker of `sixfold edit` with `edit.kind: attribute`: one background, colour or texture of a real picture altered.

In: the rows of an edited set (`gen.edit.rows`), attributes, a masker, an editor, a judge. Out: an image for each
(sample, draw). On disk: nothing.

    source ─▶ mask of the object ─▶ prior: a place under it, a tint over it ─▶ editor ─▶ paste back ─▶ judge

Replicate r of a source has the r-th attribute drawn for it; draw k is another seed for the same attribute. What the
edit may not touch comes from the source: of a background edit the object, else everything around it; with
`paste: none` nothing does. The column `edit` of a row tells attribute, mask and verdict.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cluster.process.failure import error_line
from gen.edit.attributes.attribute import Attribute
from gen.edit.attributes.draw import ClassAttributes, draw_attribute
from gen.edit.attributes.question import questions_of
from gen.edit.cells import Settings
from gen.edit.editors.editor import Change, Editor
from gen.edit.judge.judge import Judge, Judged, draws_of
from gen.edit.judge.question import Question, rather_than
from gen.edit.judge.verdict import Verdict
from gen.edit.masks.masker import Mask, Masker, made_worse
from gen.edit.masks.pixels import dilate
from gen.edit.masks.spoil import overlap
from gen.edit.masks.stored import rle_of
from gen.edit.priors.canvas import Place, mask_onto_canvas, off_canvas, onto_canvas, place_on
from gen.edit.priors.paste import halo_share, paste_background, paste_object, paste_softly
from gen.edit.priors.pixels import Image, MaskHW
from gen.edit.priors.prior import with_prior
from gen.edit.recipe import AttributeEditSpec
from gen.edit.rows import SOURCE_TYPE, EditRows, unreadable
from gen.make.maker import Made, Picture
from gen.make.plan import Sample
from gen.make.refill import IMAGE_ERRORS, MAX_ERROR
from gen.names.kind import kind_of
from gen.sampler.sampler import Request, Sampled
from gen.sampler.spec import sampler_json
from gen.sampler.text_to_image import picture_of
from shards.disk.jpeg import SourceType
from shards.disk.layout import SUCCESS
from shards.set.writer import MAX_TEXT_BYTES

PRIOR_S = 1800.0  # for the pixels of drawn priors to arrive, as for any batch


@dataclass(frozen=True, eq=False)
class Ask:
    """One edit whose object is found. Arrays have the size of the source as it is edited, a canvas is a square."""

    place: int  # in the call
    canvas: Place
    attribute: Attribute
    source_HWC: Image
    mask: Mask
    object_HW: MaskHW
    request: Request
    questions: Sequence[Question]
    settings: Settings


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
        editor: Editor,
        judge: Judge,
    ) -> None:
        self.rows = rows
        self.edit = edit
        self.attributes = {one.class_id: one for one in attributes}
        self.masker = masker
        self.editor = editor
        self.judge = judge
        self._classes = {one.id: one for one in rows.job.classes}
        self._sampler = rows.job.made.sampler
        told = {**json.loads(sampler_json(self._sampler)), "edit": edit.told()}
        self._settings = json.dumps(told, sort_keys=True)

    @property
    def call_size(self) -> int:
        """The recipe's `sampler.batch`."""
        return self._sampler.call_size

    @property
    def advice_on_memory(self) -> str:
        """What to lower."""
        expected = (
            f"expected room for sampler.batch = {self.call_size}, masker, editor and judge; lower it in a new output"
        )
        return expected if self.edit.editor.kind == "own" else f"{expected}, or lower edit.editor.device_gib"

    def samples(self, unit: int) -> Sequence[Sample]:
        """Those of the plan."""
        return self.rows.samples(unit)

    def prepare(self, samples: Sequence[Sample]) -> None:
        """The editor learns the unit's texts in slot order, which fixes how they are encoded."""
        negatives = [self.rows.prompt(sample)[1].negative for sample in samples]
        drawn = [one.text for one in map(self._attribute, samples) if self._is_drawn(one)]
        self.editor.prepare([self._text(sample) for sample in samples], drawn, negatives)

    def num_draws(self, sample: Sample) -> int | None:
        """The judge's budget for each output."""
        return draws_of(self.edit.judge)

    def make(self, pairs: Sequence[tuple[Sample, int]], alive: Callable[[float], None]) -> Made:
        """A call of the editor for the priors that are drawn, and one for the changes; pasting and judging wait until
        the pixels are there."""
        pictures: dict[int, Picture] = {}
        asks: list[Ask] = []
        read = self.rows.read([sample for sample, _ in pairs])
        for place, ((sample, draw), (_, source)) in enumerate(zip(pairs, read, strict=True)):
            found = unreadable(source) if isinstance(source, str) else self._ask(place, sample, draw, source)
            if isinstance(found, Picture):
                pictures[place] = found
            else:
                asks.append(found)
        starts = self._starts(asks, pictures, alive)
        ready = [ask for ask in asks if ask.place in starts]
        if not ready:
            return Made(lambda seconds: None, lambda place: pictures[place])
        sampled = self.editor.change([self._change(ask, starts[ask.place]) for ask in ready], alive)

        def wait(seconds: float) -> None:
            sampled.wait(seconds)
            pictures.update(self._finished(ready, sampled))

        return Made(wait, lambda place: pictures[place])

    def row(self, sample: Sample, draw: int) -> Mapping[str, object]:
        """Prompt with the attribute, seed, model, source; the domain is edited."""
        attribute = self._attribute(sample)
        return {
            **self.rows.row(sample, draw, self._settings),
            **self.editor.columns,
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
        return self.edit.form.of(attribute.kind).format(prompt=prompt.text, attribute=self.edit.words(attribute))

    def _ask(self, place: int, sample: Sample, draw: int, source_HWC: Image) -> Ask | Picture:
        _, prompt = self.rows.prompt(sample)
        attribute = self._attribute(sample)
        of = self._classes[sample.class_id]
        kind = kind_of(of, prompt.meaning or of.meaning)
        kinds = ["" if kind == "other" else kind]
        found = self.masker.masks([source_HWC], [prompt.class_name], kinds, [self.rows.source(sample).key])[0]
        mask = made_worse(found, self.edit.masks, self.rows.seed(sample, 0))  # the same for all draws of the sample
        if mask.mask_HW is None or mask.wide_HW is None:
            told = {"edit": self._text_of(attribute, mask, None, None)}
            return Picture(None, mask.status, mask.reason, told, is_final=True)
        request = Request(self._text(sample), prompt.negative, self.rows.seed(sample, draw))
        questions = self._questions(sample, attribute)
        side_px = self._sampler.made_px
        settings = self.edit.settings(attribute.kind, attribute.feasible, side_px)
        height, width = source_HWC.shape[:2]
        canvas = place_on(height, width, side_px)
        return Ask(place, canvas, attribute, source_HWC, mask, mask.mask_HW, request, questions, settings)

    def _has_prior(self, attribute: Attribute) -> bool:
        return self.edit.prior != "none" and self.editor.wants_prior(attribute.kind)

    def _is_drawn(self, attribute: Attribute) -> bool:
        """Whether the prior of the attribute is drawn."""
        if attribute.kind == "colour" or not self._has_prior(attribute):
            return False
        return self.edit.prior == "drawn" or attribute.rgb is None

    def _starts(
        self, asks: Sequence[Ask], pictures: dict[int, Picture], alive: Callable[[float], None]
    ) -> dict[int, Image]:
        """By place: the source with the prior of its attribute. Of a prior that cannot be drawn `pictures` gets the
        reason."""
        drawn = [ask for ask in asks if self._is_drawn(ask.attribute)]
        priors: dict[int, Image] = {}
        if drawn:
            requests = [Request(ask.attribute.text, ask.request.negative, ask.request.seed) for ask in drawn]
            sampled = self.editor.draw(requests, alive)
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
        """On its canvas."""
        source_HWC = onto_canvas(ask.source_HWC, ask.canvas)
        if not self._has_prior(ask.attribute):
            return source_HWC
        settings, wide_HW = ask.settings, ask.mask.wide_HW
        if settings.dilate_px is not None:
            wide_HW = dilate(ask.object_HW, settings.dilate_px)
        assert wide_HW is not None, "an ask has a mask"
        object_HW, wide_HW = (mask_onto_canvas(one, ask.canvas) for one in (ask.object_HW, wide_HW))
        return with_prior(source_HWC, object_HW, wide_HW, ask.attribute, drawn_HWC, settings.alpha, ask.request.seed)

    def _change(self, ask: Ask, start_HWC: Image) -> Change:
        source_HWC, object_HW = onto_canvas(ask.source_HWC, ask.canvas), mask_onto_canvas(ask.object_HW, ask.canvas)
        kind, words = ask.attribute.kind, self.edit.words(ask.attribute)
        return Change(kind, words, ask.request, source_HWC, start_HWC, object_HW, ask.settings)

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

    def _finished(self, asks: Sequence[Ask], sampled: Sampled) -> dict[int, Picture]:
        """The edits with what they may not touch pasted back, and the judge's word on each; an error about one picture
        is its own. Raises JudgeLost, and what a disk or a device raises."""
        pasted: dict[int, Picture] = {}
        judged = []
        for number, ask in enumerate(asks):
            found = picture_of(sampled, self._sampler, number)
            if found.status != SUCCESS or found.image_HWC is None:
                told = {"edit": self._text_of(ask.attribute, ask.mask, None, None)}
                pasted[ask.place] = Picture(found.image_HWC, found.status, found.error, {**found.columns, **told})
                continue
            size = {"original_width": ask.canvas.width, "original_height": ask.canvas.height}
            try:
                image_HWC = self._paste(ask, off_canvas(found.image_HWC, ask.canvas))
                judged.append((ask, image_HWC, self._halo(ask, image_HWC), {**found.columns, **size}))
            except IMAGE_ERRORS as error:
                pasted[ask.place] = self._failed(ask, error_line(error, MAX_ERROR))
        verdicts = self._verdicts([(image_HWC, ask.questions) for ask, image_HWC, _, _ in judged])
        for (ask, image_HWC, halo, columns), verdict in zip(judged, verdicts, strict=True):
            if isinstance(verdict, str):
                pasted[ask.place] = self._failed(ask, verdict)
                continue
            columns["edit"] = self._text_of(ask.attribute, ask.mask, halo, verdict)
            before_HWC = ask.source_HWC
            pasted[ask.place] = Picture(image_HWC, verdict.status, verdict.error, columns, before_HWC=before_HWC)
        return pasted

    def _verdicts(self, judged: Sequence[Judged]) -> list[Verdict | str]:
        """The judge's word on each image, or the error that it alone raises. Raises JudgeLost."""
        try:
            return [*self.judge.verdicts(judged)]
        except IMAGE_ERRORS as error:
            if len(judged) == 1:
                return [error_line(error, MAX_ERROR)]
        return [verdict for one in judged for verdict in self._verdicts([one])]

    def _failed(self, ask: Ask, error: str) -> Picture:
        """In place of an edit that cannot be pasted or judged."""
        return Picture(None, "error", error, {"edit": self._text_of(ask.attribute, ask.mask, None, None)})

    def _halo(self, ask: Ask, image_HWC: Image) -> float | None:
        """Of a background edit that keeps its object."""
        if ask.attribute.kind != "background" or self.edit.paste == "none":
            return None
        true_HW = ask.object_HW if ask.mask.found_HW is None else ask.mask.found_HW
        return round(halo_share(ask.source_HWC, image_HWC, true_HW), 4)

    def _paste(self, ask: Ask, edited_HWC: Image) -> Image:
        if self.edit.paste == "none":
            return edited_HWC
        if ask.attribute.kind != "background":
            return paste_background(ask.source_HWC, edited_HWC, ask.object_HW)
        paste = paste_softly if self.edit.paste == "soft" else paste_object
        return paste(ask.source_HWC, edited_HWC, ask.object_HW)

    def _told(self, attribute: Attribute) -> dict[str, object]:
        return {"attribute": attribute.name, "kind": attribute.kind, "side": side_of(attribute)}

    def _text_of(self, attribute: Attribute, mask: Mask, halo: float | None, verdict: Verdict | None) -> str:
        """For the row. Of a mask whose text is more than a row holds, its size alone: the edit is what it would be, and
        whoever makes it again finds the mask again."""
        told: dict[str, object] = {**self._told(attribute)}
        about: dict[str, object] = {"how": mask.how, "area": round(mask.area, 4)}
        if halo is not None:
            told["halo"] = halo
        if verdict is not None and verdict.answers:
            told["judge"] = json.loads(verdict.json_text())
        if mask.mask_HW is None:
            return json.dumps({**told, "mask": about}, sort_keys=True)
        if mask.found_HW is not None and self.edit.masks.spoil is not None:
            iou = round(overlap(mask.mask_HW, mask.found_HW), 4)
            about["spoil"] = {**self.edit.masks.spoil.model_dump(exclude_none=True), "iou": iou}
        rle = rle_of(mask.mask_HW)
        text = json.dumps({**told, "mask": {**about, "rle": json.loads(rle)}}, sort_keys=True)
        if len(text) > MAX_TEXT_BYTES:
            text = json.dumps({**told, "mask": {**about, "left_out": f"{len(rle):,} bytes"}}, sort_keys=True)
        return text


def side_of(attribute: Attribute) -> str:
    """The word for rows and pages."""
    return "feasible" if attribute.feasible else "infeasible"
