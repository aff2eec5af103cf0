"""A unit of a run as a side of a benchmark: from prompts to a shard with its record.

In: a model that makes images, its settings, how many images. Out: a side, to be timed. On disk: one shard in the folder
that a turn is given.
"""

import tempfile
from pathlib import Path

from docs.bench.measure import Side
from gen.make.refill import ShardSpec, UnitJob, UnitWorker
from gen.prompts.prompts import PromptSpec, Sources, draw_table
from gen.prompts.table import PromptTable
from gen.sampler.spec import SamplerSpec
from gen.sampler.text_to_image import Model, TextToImage, TextToImageJob
from gen.wording.lexicon import load_lexicon
from shards.disk.store import open_store
from shards.labels.classes import Class


def prompt_table(num: int) -> PromptTable:
    """One class and one prompt for each image, as in a shard of ImageNet, where all prompts differ."""
    classes = [Class(number, f"number {number}", None, 1) for number in range(num)]
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "prompts.parquet"
        draw_table(classes, {}, PromptSpec(per_class=1), 0, Sources(load_lexicon("general")), table)
        return PromptTable.load(table.read_bytes())


def unit_side(model: Model, spec: SamplerSpec, num: int) -> Side:
    """Each turn makes, screens, encodes, writes and commits a unit of `num` images.

    A turn raises RuntimeError if an image was rejected: the sides would not have done the same work.
    """
    prompts = prompt_table(num)
    job = TextToImageJob(
        unit=UnitJob(out="", fingerprint="0" * 64, shards=ShardSpec(samples_per_shard=num)),
        num_per_class=dict.fromkeys(range(num), 1),
        seed=0,
        sampler=spec,
        model_digest="0" * 64,
    )
    maker = TextToImage(job, model, prompts)

    def turn(folder: Path) -> int:
        made = UnitWorker(job.unit, maker, open_store(str(folder)))(
            0, "bench-0", lambda done, rejected, under_way=0.0: None
        )
        if made["images"] != num or made["rejected"]:
            raise RuntimeError(f"found {made['images']} images, rejected: {made['rejected']}, expected {num} and none")
        return num

    return turn
