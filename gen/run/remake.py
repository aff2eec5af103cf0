"""Images of a data set made again from its own `_meta`, and compared: `sixfold verify --regenerate`.

In: a store. Out: one `Comparison` per image; nothing is written.
"""

import json

from cluster.code import code_hash
from cluster.recipes.folder import listing
from cluster.recipes.load import RecipeError, parse_recipe
from gen.make.refill import UnitWorker
from gen.make.regenerate import Comparison, regenerate_some
from gen.prompts.table import PROMPT_TABLE, PromptTable
from gen.run.output import RECIPE, RUN, Store, version_note
from gen.run.recipe import Recipe, changes_of, identity, job_of
from gen.sampler.sampler import Sampler
from gen.sampler.text_to_image import TextToImage
from shards.disk.home import home
from shards.labels.classes import load_classes
from shards.set.manifest import scan_records


def regenerate_images(store: Store, num: int, seed: int) -> list[Comparison]:
    """Make `num` images of a data set again, drawn by `seed`, and compare; publishes nothing.

    Raises ValueError if the output is not ours, or if model or versions here are not those it was made with.
    """
    try:
        known = json.loads(store.read_bytes(RUN))
        resolved = store.read_bytes(RECIPE)
        prompts = PromptTable.load(store.read_bytes(PROMPT_TABLE))
    except FileNotFoundError as error:
        raise ValueError(f"{store.url}: was not made by `sixfold generate` ({error} is missing)") from None
    code = code_hash(home())
    try:
        recipe = parse_recipe(resolved, Recipe, RECIPE)
    except RecipeError as error:
        raise ValueError(f"{store.url}: {error}{version_note(known, code)}; use that version") from None
    here = identity(recipe) | {"class_list": known["identity"]["class_list"]}
    changed = changes_of(known["identity"], here)
    if changed:
        raise ValueError(
            f"{store.url}: cannot be made again here: found other settings, models or versions ({listing(changed)})"
            f"{version_note(known, code)}; make them as they were"
        )
    mark, classes = known["fingerprint"], load_classes(recipe.classes)
    job = job_of(recipe, classes, store.url, False, mark, known["code"], known["identity"])
    maker = TextToImage(job, Sampler.load(recipe.sampler), prompts)
    return regenerate_some(UnitWorker(job.unit, maker, store), sorted(scan_records(store, mark)), num, seed)
