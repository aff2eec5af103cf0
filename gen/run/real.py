"""The real pictures of the classes that a data set's recipe knows, for the page that shows made ones beside them.

In: a store with a data set that `sixfold generate` began. Out: where they come from, and some pictures of each class.
On disk: only reads.

They are those that chose the meanings (`meanings.real`), else those of the class list, if that is a folder of pictures
or a data set. Only what lies on this machine is read: a recipe that came with a data set must not choose which
addresses are called.
"""

from collections.abc import Iterator

from cluster.recipes.load import parse_recipe
from gen.make.scale import Store
from gen.prompts.real_images import Image, read_real
from gen.run.output import RECIPE, classes_of
from gen.run.recipe import Recipe
from shards.disk.address import is_remote, places_of
from shards.labels.classes import Class
from shards.labels.sources import SHIPPED
from shards.set.origin import read_origin


def real_pictures(store: Store, per_class: int) -> tuple[str, Iterator[tuple[int, Image]]] | None:
    """The source, and (class id, uint8 RGB picture), at most ``per_class`` of each class, ids ascending; None if the
    recipe knows none.

    Raises ValueError if recipe or classes of the data set are damaged; the iterator raises it if the source is.
    """
    known = read_origin(store)
    identity = None if known is None or "prompts_sha256" not in known.body else known.body.get("identity")
    if not isinstance(identity, dict) or "edit" in identity or not store.exists(RECIPE):
        return None
    recipe = parse_recipe(store.read_bytes(RECIPE), Recipe, RECIPE)
    source, subset = recipe.meanings.real, recipe.meanings.subset
    if source is None and recipe.classes.source not in SHIPPED:
        source = recipe.classes.source
    if source is None or is_remote(source) or not any(place.is_dir() for place in places_of(source)):
        return None
    classes = classes_of(store, recipe, str(identity.get("class_list")))
    return source, _pictures(source, classes, per_class, recipe.seed, subset)


def _pictures(
    source: str, classes: list[Class], per_class: int, seed: int, subset: str | None
) -> Iterator[tuple[int, Image]]:
    """(class id, picture), at most `per_class` of each; those that cannot be used are left out."""
    for one in read_real(source, classes, per_class, seed, subset):
        if one.pixels is not None:
            yield one.class_id, one.pixels
