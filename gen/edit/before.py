"""The source pictures of an edited data set, for the page that shows them beside the edits.

In: a store with a data set that `sixfold edit` began. Out: where they come from, and some pictures of each class. On
disk: only reads. Only what lies on this machine is read, as in `gen.run.real`.
"""

from collections.abc import Iterator

from cluster.recipes.load import parse_recipe
from gen.edit.recipe import EditRecipe
from gen.edit.run import BEGUN_BY
from gen.edit.sources import SOURCES, SourceReader, Sources, fitted, index_of
from gen.make.scale import Store
from gen.prompts.real_images import Image
from gen.run.output import RECIPE, classes_of
from shards.disk.address import is_remote, places_of
from shards.set.origin import read_origin


def source_pictures(store: Store, per_class: int) -> tuple[str, Iterator[tuple[int, Image]]] | None:
    """The source, and (class id, uint8 RGB as it was edited), at most ``per_class`` of each class, ids ascending; None
    for a data set of another verb, or if its source is not here.

    Raises ValueError if recipe, classes or sources of the data set are damaged; the iterator raises it if the source
    set is.
    """
    known = read_origin(store)
    if known is None or not BEGUN_BY.fits(known) or not store.exists(RECIPE):
        return None
    recipe = parse_recipe(store.read_bytes(RECIPE), EditRecipe, RECIPE)
    spec = recipe.source
    if is_remote(spec.set) or not any(place.is_dir() for place in places_of(spec.set)):
        return None
    classes = classes_of(store, recipe, str(known.body["identity"]["class_list"]))
    sources = Sources.load(store.read_bytes(SOURCES))
    index = index_of(spec, classes)

    def pictures() -> Iterator[tuple[int, Image]]:
        side = recipe.sampler.stored_px
        with SourceReader(spec, index) as reader:
            for class_id, number in sources.num_per_class().items():
                for one in range(min(per_class, number)):
                    found = fitted(reader.bytes_of(sources.at(class_id, one).row), side, recipe.edit.fit)
                    if not isinstance(found, str):
                        yield class_id, found

    return spec.set, pictures()
