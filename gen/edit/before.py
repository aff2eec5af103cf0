"""What a page shows of an edited data set beside its edits: their sources, masks, and what was asked and judged.

In: a store with a data set that `sixfold edit` began. Out: an `Edits` (`shards.views.edit_view`). On disk: only reads.
Only what lies on this machine is read, as in `gen.run.real`: a recipe that came with a data set must not choose which
addresses are called. A source is shown if it still has the bytes that its edit began with.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cluster.recipes.load import parse_recipe
from gen.edit.masks.pixels import MaskHW
from gen.edit.masks.stored import mask_of_rle
from gen.edit.recipe import EditRecipe
from gen.edit.run import BEGUN_BY
from gen.edit.sources import SOURCES, SourceReader, Sources, check_local, fitted, index_of, rows_by_key
from gen.make.scale import Store
from gen.run.output import RECIPE, classes_of
from shards.disk.address import places_of
from shards.disk.checked_json import plain_json
from shards.disk.safe_text import one_line
from shards.set.origin import Origin, read_origin
from shards.stream.pixels import Pixels
from shards.views.edit_view import Edit, Edits

MOST_ASKED = 10_000  # questions about one image
Read = Callable[[Mapping[str, Any]], Pixels | str]  # a row -> its source as the square that was edited, or why not


@contextlib.contextmanager
def edits_of(store: Store) -> Iterator[Edits | None]:
    """The edits of a data set; None for one of another verb. Without its sources the rest is there, and `problem` says
    what is missing. Raises ValueError if `run.json` is damaged."""
    known = read_origin(store)
    if known is None or not BEGUN_BY.fits(known):
        yield None
        return
    with contextlib.ExitStack() as held:
        source, problem = "", ""
        read: Read = _nothing
        try:
            source, read = _sources(store, known, held)
        except (ValueError, OSError) as error:
            problem = one_line(str(error), 300)
        yield Edits(source, problem, lambda row: _edit(row, read))


def _sources(store: Store, known: Origin, held: contextlib.ExitStack) -> tuple[str, Read]:
    """Where the sources lie, and what reads them. Raises ValueError or OSError if they cannot be read here."""
    recipe = parse_recipe(store.read_bytes(RECIPE), EditRecipe, RECIPE)
    spec = recipe.source
    check_local(spec, RECIPE)
    if not any(place.is_dir() for place in places_of(spec.set)):
        raise ValueError(f"{spec.set}: found no such folder here, expected the pictures that the edits began with")
    index = index_of(spec, classes_of(store, recipe, str(known.body["identity"]["class_list"])))
    sources = Sources.load(store.read_bytes(SOURCES))
    reader = held.enter_context(SourceReader(spec, index))
    side_px, fit = recipe.sampler.stored_px, recipe.edit.fit
    # a set that has changed has other rows; keys stay
    moved = None if index.digest == known.body["identity"]["source"]["digest"] else rows_by_key(spec, index)

    def read(row: Mapping[str, Any]) -> Pixels | str:
        key, _, sha256 = str(row["url"]).rpartition("#sha256=")
        source = sources.named(row["class_id"], key)
        if source is None:
            return "no such source in _meta/sources.parquet"
        at = source.row if moved is None else moved.get(key)
        if at is None:
            return f"cannot be read: it is no longer in {one_line(spec.set, 160)}"
        try:
            data = reader.bytes_of(at)
        except (ValueError, OSError, IndexError) as error:  # gone, or the table names a row that nothing has
            return f"cannot be read: {one_line(str(error), 160)}"
        if hashlib.sha256(data).hexdigest() != sha256:
            return "has other bytes now than when it was edited"
        return fitted(data, side_px, fit)

    return one_line(spec.set, 200), read


def _nothing(row: Mapping[str, Any]) -> Pixels | str:
    return "no source here"


def _edit(row: Mapping[str, Any], read: Read) -> Edit:
    """A row for people. Whatever its column `edit` lacks is left out: it may come from anywhere."""
    told = _part(_json(row["edit"]))
    mask, judge = _part(told.get("mask")), _part(told.get("judge"))
    answers = [one for one in map(_part, _list(judge.get("answers"))) if "question" in one]
    wrong = [one for one in answers if one.get("answer") != one.get("expected")]
    area, halo, score, asked = (_share(mask, "area"), _share(told, "halo"), _share(judge, "score"), judge.get("asked"))
    facts, tags = [(name, str(told[name])) for name in ("attribute", "kind", "side") if name in told], []
    if area is not None:
        left_out = f"; too large for a row ({mask['left_out']})" if "left_out" in mask else ""
        worse = _worse(_part(mask.get("spoil")))
        facts.append(("mask", f"{area:.1%} of the picture, by {mask.get('how')}{worse}{left_out}"))
    if halo is not None:
        facts.append(("old background", f"on {halo:.1%} of the object's rim"))
    if score is not None and isinstance(asked, int) and 0 < asked <= MOST_ASKED:
        tags = [f"judge {round(score * asked)} of {asked}"]
        more = f"; {len(answers)} are listed" if len(answers) < asked else ""
        facts.append(("judge", f"{round(score * asked)} of {asked} answers as expected{more}"))
    facts += [("asked", f"{one['question']} {_said(one)}") for one in answers]
    return Edit(
        sha256=str(row["url"]).rpartition("#sha256=")[2],
        source=lambda: read(row),
        mask=lambda: _mask(mask.get("rle")),
        side=str(told.get("side", "")),
        kind=str(told.get("kind", "")),
        tags=tuple(tags),
        facts=tuple(facts),
        wrong=tuple(f"{one['question']} {_said(one)}" for one in wrong),
    )


def _worse(spoil: Mapping[str, Any]) -> str:
    """Of a mask that was made worse on purpose; "" of another."""
    iou = _share(spoil, "iou")
    return "" if iou is None else f", made worse on purpose ({spoil.get('kind')}): overlap with the found one {iou:.2f}"


def _said(answer: Mapping[str, Any]) -> str:
    """ "yes, as expected"."""
    if answer.get("answer") is None:
        return f"No usable answer ({answer.get('reason')})."
    as_expected = answer["answer"] == answer.get("expected")
    return f"{str(answer['answer']).capitalize()}, {'as expected' if as_expected else 'not as expected'}."


def _mask(rle: object) -> MaskHW | None:
    with contextlib.suppress(ValueError):
        return None if rle is None else mask_of_rle(json.dumps(rle))
    return None


def _share(part: Mapping[str, Any], name: str) -> float | None:
    value = part.get(name)
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None


def _json(text: object) -> object:
    with contextlib.suppress(ValueError):
        return plain_json(text) if isinstance(text, str) else None
    return None


def _part(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
