"""Edits of a data set made again from its own `_meta`, and compared: `sixfold verify --regenerate`.

In: a store. Out: one `Comparison` per image; or whether shards that are made again are the same. Nothing is written.

The recipe came with the data set, so it chooses no address that is called, no key that is sent and no file that is
written: only pictures and models of this machine are read, and no judge is opened. A verdict decides nothing here: what
is compared are the pixels of images that were accepted.
"""

import contextlib

from cluster.code import code_hash
from cluster.recipes.folder import listing
from cluster.recipes.load import parse_recipe
from gen.edit.judge.spec import JudgeSpec
from gen.edit.recipe import AttributeEditSpec, EditRecipe, edit_identity
from gen.edit.run import BEGUN_BY, edit_job_of, is_judged_freely, work_of
from gen.edit.sources import check_local
from gen.edit.worker import make_edit_worker
from gen.make.regenerate import Comparison, regenerate_some
from gen.make.scale import Store
from gen.run.output import RECIPE, classes_of, version_note
from gen.run.recipe import changes_of
from gen.run.remake import regenerate_images
from shards.disk.home import home
from shards.set.manifest import scan_records
from shards.set.origin import read_origin


def may_come_out_otherwise(store: Store) -> bool:
    """Whether shards that are made again may hold other images than the ones that were there; False where nobody
    knows."""
    with contextlib.suppress(ValueError, OSError):
        known = read_origin(store)
        if known is not None and BEGUN_BY.fits(known):
            return is_judged_freely(parse_recipe(store.read_bytes(RECIPE), EditRecipe, RECIPE))
    return False


def regenerate_any(store: Store, num: int, seed: int) -> list[Comparison]:
    """As `regenerate_edits`, or as `gen.run.remake.regenerate_images` of a data set of another verb."""
    known = read_origin(store)
    again = regenerate_edits if known is not None and BEGUN_BY.fits(known) else regenerate_images
    return again(store, num, seed)


def regenerate_edits(store: Store, num: int, seed: int) -> list[Comparison]:
    """Make `num` images of a data set of `sixfold edit` again, drawn by `seed`, and compare; publishes nothing.

    Raises ValueError if model, versions or source pictures here are not those it was made with, and for pictures at an
    address.
    """
    known = BEGUN_BY.known(store)
    if known is None:
        raise ValueError(f"{store.url}: was not made by `sixfold edit`; nothing says how its images were made")
    recipe = parse_recipe(store.read_bytes(RECIPE), EditRecipe, RECIPE)
    check_local(recipe.source, RECIPE)
    identified = known.body["identity"]
    work = work_of(recipe, classes_of(store, recipe, identified["class_list"]))
    own = edit_identity(recipe, work.index) | {"class_list": identified["class_list"]}
    if changed := changes_of(identified, own, model=EditRecipe):
        raise ValueError(
            f"{store.url}: cannot be made again here: found other settings, models, versions or source pictures "
            f"({listing(changed)}){version_note(known, code_hash(home()))}; make them as they were"
        )
    job = edit_job_of(_unjudged(recipe), work, store.url, False, known.fingerprint, known.body["code"], own)
    records = scan_records(store, known.fingerprint)
    return regenerate_some(make_edit_worker(job.model_dump(mode="json")), records, num, seed)


def _unjudged(recipe: EditRecipe) -> EditRecipe:
    """The recipe without its judge."""
    if not isinstance(recipe.edit, AttributeEditSpec):
        return recipe
    return recipe.model_copy(update={"edit": recipe.edit.model_copy(update={"judge": JudgeSpec()})})
