"""Images of a data set made again from its own `_meta`, and compared: `sixfold verify --regenerate`.

In: a store. Out: one `Comparison` per image; nothing is written.
"""

from cluster.code import code_hash
from cluster.recipes.folder import listing
from cluster.recipes.load import RecipeError, parse_recipe
from gen.make.refill import UnitWorker
from gen.make.regenerate import Comparison, regenerate_some
from gen.make.scale import Store
from gen.prompts.table import PROMPT_TABLE, PromptTable
from gen.run.output import RECIPE, begun_by, classes_of, version_note
from gen.run.recipe import Recipe, changes_of, identity, job_of
from gen.sampler.device import device_name
from gen.sampler.sampler import Sampler
from gen.sampler.text_to_image import TextToImage
from shards.disk.home import home
from shards.disk.layout import RUN
from shards.set.manifest import scan_records


def regenerate_images(store: Store, num: int, seed: int) -> list[Comparison]:
    """Make `num` images of a data set again, drawn by `seed`, and compare; publishes nothing.

    Raises ValueError if the output is not ours, or if model or versions here are not those it was made with.
    """
    known = begun_by(store)
    if known is None:
        raise ValueError(f"{store.url}: was not made by `sixfold generate` ({RUN} is missing)")
    try:
        resolved = store.read_bytes(RECIPE)
        prompts = PromptTable.load(store.read_bytes(PROMPT_TABLE))
    except FileNotFoundError as error:
        raise ValueError(f"{store.url}: {error} is missing; run the same `sixfold generate`, which writes it") from None
    code = code_hash(home())
    try:
        recipe = parse_recipe(resolved, Recipe, RECIPE)
    except RecipeError as error:
        raise ValueError(f"{store.url}: {error}{version_note(known, code)}; use that version") from None
    identified = known.body["identity"]
    changed = changes_of(identified, identity(recipe) | {"class_list": identified["class_list"]})
    if changed:
        raise ValueError(
            f"{store.url}: cannot be made again here: found other settings, models or versions ({listing(changed)})"
            f"{version_note(known, code)}; make them as they were"
        )
    mark, classes = known.fingerprint, classes_of(store, recipe, identified["class_list"])
    job = job_of(recipe, classes, store.url, False, mark, known.body["code"], identified)
    model = Sampler.load(recipe.sampler)
    worker = UnitWorker(job.unit.on(device_name(model.device.type)), TextToImage(job, model, prompts), store)
    return regenerate_some(worker, scan_records(store, mark), num, seed)
