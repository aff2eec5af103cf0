"""A worker of `fan_out` for `sixfold edit`: what a job names, loaded, behind the Maker of its kind.

In: an `EditJob` as plain data. Out: a `UnitWorker`. On disk: reads the tables of the edited set, the source pictures
and the models; the loop writes (`gen.make.refill`).
"""

import json
import weakref
from collections.abc import Mapping

from gen.edit.alter import Alter
from gen.edit.attributes.stored import FILE, read_attributes
from gen.edit.editors.open import open_editor
from gen.edit.editors.spec import editor_digest
from gen.edit.judge.held import HeldJudge
from gen.edit.judge.judge import judge_digest
from gen.edit.judge.spec import JudgeSpec
from gen.edit.masks.masker import Masker
from gen.edit.masks.spec import mask_digest
from gen.edit.perturb import Perturb
from gen.edit.recipe import PerturbSpec
from gen.edit.rows import EditJob, EditRows
from gen.edit.sources import SOURCES, SourceReader, Sources, index_of
from gen.make.maker import Maker
from gen.make.plan import Sample
from gen.make.refill import UnitWorker
from gen.prompts.table import PROMPT_TABLE, PromptTable
from gen.sampler.device import device_name
from gen.sampler.text_to_image import load_planned
from shards.disk.layout import META
from shards.disk.store import open_store

ATTRIBUTES = f"{META}/{FILE}"


def make_edit_worker(job: Mapping[str, object]) -> UnitWorker[Sample]:
    """Loads the models: seconds to minutes. Raises ValueError in one line for other weights, settings or sources than
    the run was planned with; masks that are there are checked one by one, as they are read."""
    checked = EditJob.model_validate(job)
    unit = checked.made.unit
    store = open_store(unit.out, unit.single_writer)
    index = index_of(checked.source, checked.classes)
    if index.digest != checked.source_digest:
        raise ValueError(
            f"{index.url}: found another set of source pictures here (digest {index.digest[:12]}) than the run was "
            f"planned with ({checked.source_digest[:12]}); bring that one to every node"
        )
    prompts = PromptTable.load(store.read_bytes(PROMPT_TABLE))
    rows = EditRows(
        checked, Sources.load(store.read_bytes(SOURCES)), prompts, SourceReader(checked.source, index)
    )  # fmt: skip
    edit = checked.edit
    maker: Maker[Sample]
    judge = HeldJudge(JudgeSpec())
    model = None if isinstance(edit, PerturbSpec) and not edit.gamma else load_planned(checked.made)
    if isinstance(edit, PerturbSpec):
        maker = Perturb(rows, edit, model)
    else:
        assert model is not None
        digest, hashes = editor_digest(edit.editor), json.loads(checked.mask_hashes)
        for part, things, here, planned in (
            ("editor", "weights", digest, checked.editor_digest),
            ("masks", "weights, files or settings", mask_digest(edit.masks, hashes), checked.masks_digest),
            ("judge", "weights or settings", judge_digest(edit.judge), checked.judge_digest),
        ):
            if here != planned:
                raise ValueError(
                    f"edit.{part}: found other {things} here (digest {here[:12]}) than the run was planned with "
                    f"({planned[:12]}); copy the same folders to every node"
                )
        editor = open_editor(edit.editor, model, digest)
        masker, judge = Masker.load(edit.masks, str(model.device), hashes), HeldJudge(edit.judge)
        maker = Alter(rows, edit, read_attributes(store.read_bytes(ATTRIBUTES)), masker, editor, judge)
    weakref.finalize(maker, judge.close)
    unit = unit.on(device_name("cpu" if model is None else model.device.type))
    return UnitWorker(unit, maker, store, is_waiting=lambda: judge.is_waiting, stopping=judge.stopped)
