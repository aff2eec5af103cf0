"""Makers of attribute edits over real pictures, with scripted parts or with editors that a test gives."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen.edit.alter import Alter
from gen.edit.attributes.attribute import Attribute
from gen.edit.attributes.draw import ClassAttributes
from gen.edit.editors.editor import Editor
from gen.edit.judge.judge import Judge, NoJudge
from gen.edit.masks.masker import Masker
from gen.edit.masks.stored import mask_of_rle
from gen.edit.recipe import AttributeEditSpec
from gen.edit.rows import EditJob, EditRows
from gen.edit.sources import SourceReader, Sources, SourceSpec, chosen_rows, index_of, write_sources
from gen.make.maker import Picture
from gen.make.refill import ShardSpec, UnitJob
from gen.prompts.prompts import PromptSpec, draw_table
from gen.prompts.prompts import Sources as Words
from gen.prompts.table import PromptTable
from gen.sampler.spec import SamplerSpec
from gen.sampler.text_to_image import TextToImageJob
from gen.wording.lexicon import load_lexicon
from shards.labels.classes import Class
from tests.support.painter import FINGERPRINT
from tests.support.small_edits import EACH, NAMES

CLASSES = [Class(class_id, name, None, 1) for class_id, name in NAMES.items()]


def attribute(kind: Any, name: str, rgb: tuple[int, int, int] | None, feasible: bool = True) -> Attribute:
    return Attribute(
        kind=kind, feasible=feasible, name=name, text=f"a page of {name}", weight=1.2, rgb=rgb, source="test"
    )


def table_of(file: Path) -> PromptTable:
    """A prompt for each class."""
    spec = PromptSpec(kind="template", templates=("a {name}",))
    draw_table(CLASSES, {}, spec, 3, Words(load_lexicon("general")), file)
    return PromptTable.load(file)


def alter_of(
    real: Path,
    prompts: PromptTable,
    out: Path,
    attributes: Sequence[Attribute],
    editor: Editor,
    judge: Judge | None = None,
    /,
    size_px: int = 64,
    **fields: Any,
) -> Alter:
    """Masks are Otsu's unless `fields` have others."""
    how = AttributeEditSpec.model_validate(
        {
            "kind": "attribute",
            "attributes": {"kinds": list(dict.fromkeys(one.kind for one in attributes)), "feasibility": "mixed"},
            "masks": {"order": ["otsu"], "least_area": 0.02},
            **fields,
        }
    )
    source = SourceSpec(set=str(real))
    index = index_of(source, CLASSES)
    chosen = chosen_rows(source, index, CLASSES, 0)
    made = TextToImageJob(
        unit=UnitJob(out=str(out), fingerprint=FINGERPRINT, shards=ShardSpec(samples_per_shard=12, max_draws=4)),
        num_per_class=dict.fromkeys(NAMES, EACH),
        seed=5,
        sampler=SamplerSpec(model="painter", size_px=size_px, batch=12, vae_batch=4, licence="CC0-1.0"),
        model_digest="d" * 64,
    )
    job = EditJob(made=made, classes=tuple(CLASSES), source=source, source_digest=index.digest, edit=how)
    edit_rows = EditRows(job, Sources.load(write_sources(source, index, chosen)), prompts, SourceReader(source, index))
    of = [ClassAttributes(one.id, (tuple(attributes),)) for one in CLASSES]
    return Alter(edit_rows, how, of, Masker.load(how.masks, "cpu"), editor, judge or NoJudge())


def made_by(
    maker: Alter, unit: int = 0, chosen: Callable[[int], bool] = lambda place: True
) -> list[tuple[Picture, dict[str, Any], np.ndarray]]:
    """Of each chosen sample of a unit: the picture, its row, its source's pixels."""
    samples = maker.samples(unit)
    maker.prepare(samples)
    samples = [sample for place, sample in enumerate(samples) if chosen(place)]
    call = maker.make([(sample, 0) for sample in samples], lambda share: None)
    call.wait(60)
    sources = [found for _, found in maker.rows.read(samples)]
    assert all(isinstance(found, np.ndarray) for found in sources)
    return [
        (call.picture(place), {**maker.row(sample, 0), **call.picture(place).columns}, np.asarray(sources[place]))
        for place, sample in enumerate(samples)
    ]


def mask_of(row: dict[str, Any]) -> np.ndarray:
    return mask_of_rle(json.dumps(json.loads(row["edit"])["mask"]["rle"]))
