"""The gallery: a data set as a folder of plain web pages.

In: a store with records, optionally a subset, optionally real pictures of the classes, of an edited set what its verb
knows of each edit. Out: the path of ``index.html``.
On disk, in a folder that is replaced as a whole:

    index.html, index-2.html …        one tile a class, numbers, draws per class
    class-0007.html, class-0007-2.html …
    rejected.html, rejected-2.html …  every rejected draw with its reason, and the small picture of some
    __thumbs/00012/000120034.jpg      small copies with the source type of the original; __thumbs/real: of real ones;
                                      of an edit also 000120034-mask.jpg, and in __thumbs/sources its source
    gallery.css, .gallery             the style; the mark that lets a later run replace the folder

The pages load nothing from elsewhere (strict CSP) and escape every text. One small script of ours searches, filters and
shows pictures in full view; without it the pages can be read as they are. Memory does not grow with the number of
images: there are two passes over the shards, with one shard's table at a time, and finished cards are in files.
"""

import contextlib
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from shards.disk.data_set import no_data_set
from shards.disk.layout import SUCCESS
from shards.disk.record import Record
from shards.disk.replace import whole_folder
from shards.disk.safe_text import clip
from shards.disk.store import Store
from shards.set.manifest import read_rejected, read_table, scan
from shards.set.subset import Subset, chosen_rows
from shards.views.census import ClassCount, take_census
from shards.views.class_pages import MOSAIC_IMAGES, ClassPages, RealPictures, page_of
from shards.views.edit_view import Edits
from shards.views.overview import overview
from shards.views.page import NOTICES, STYLE
from shards.views.rejected_pages import RejectedPages
from shards.views.sample_view import VIEW_COLUMNS
from shards.views.site import Filter, Site, links_of, marks, window
from shards.views.title import title_of

MARK = ".gallery"
IMAGES_PER_PAGE = 120  # a filter works within a page
IMAGES_PER_CLASS = 480  # 1,000 classes are then 480,000 thumbnails of about 6 KB, 3 GB: more than anyone clicks through
THUMB_PX = 256
SHARP_PX = 512  # of a gallery of few pictures, for the full view
SHARP_IMAGES = 10_000  # of about 50 KB
CLASSES_PER_PAGE = 1_000  # the search works within a page; a tile takes 700 bytes
HERO_IMAGES = 40
HERO_COLUMNS = 8  # as in page.css
MAX_PROBLEMS = 20  # named on the first page, the rest counted
SHORT, REJECTED, WHOLE = "short of images", "with rejected draws", "as planned"  # what became of a class


def write_gallery(
    store: Store,
    out_dir: Path,
    *,
    images_per_page: int = IMAGES_PER_PAGE,
    images_per_class: int = IMAGES_PER_CLASS,
    thumb_px: int | None = None,
    subset: Subset | None = None,
    subset_name: str = "",
    real: RealPictures | None = None,
    edits: Edits | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write the pages and return the path of ``index.html``; an older gallery in ``out_dir`` is replaced as a whole.

    ``images_per_class`` bounds the thumbnails of a class (its counts stay whole), ``thumb_px`` their longest side: 512,
    or 256 for more than 10,000 pictures. ``progress`` is called with (shards done, shards in all). Raises ValueError if
    there is no shard, if ``out_dir`` holds something that is not a gallery, or a number is not positive.
    """
    for what, number in {
        "images_per_page": images_per_page,
        "images_per_class": images_per_class,
        "thumb_px": 1 if thumb_px is None else thumb_px,
    }.items():
        if number < 1:
            raise ValueError(f"{what}: found {number}, expected at least 1")
    found = scan(store)
    damage = found.wrong()
    if not found.records and not damage:
        raise no_data_set(store)
    second_look: set[int] = set()
    seen: Counter[int] = Counter()

    def look(shard: int, table: pa.Table) -> None:
        for class_id, status in zip(table["class_id"].to_pylist(), table["status"].to_pylist(), strict=True):
            seen[class_id] += status == SUCCESS
            if status != SUCCESS or seen[class_id] <= images_per_class:
                second_look.add(shard)

    with whole_folder(out_dir, MARK) as folder:
        census = take_census(store, found.records, subset, look, damage.setdefault)
        notice = " ".join(NOTICES[domain] for domain in NOTICES if census.values["domain"][domain])
        title = title_of(store, found.records)
        if thumb_px is None:
            num_shown = sum(min(one.successes, images_per_class) for one in census.classes.values())
            thumb_px = SHARP_PX if num_shown <= SHARP_IMAGES else THUMB_PX
        site = Site(folder, title, notice, census, images_per_page, images_per_class, thumb_px)
        shutil.copyfile(STYLE, folder / "gallery.css")
        classes, rejected = ClassPages(site, edits), RejectedPages(site, edits)
        _write_draws(classes, rejected, store, {s: found.records[s] for s in sorted(second_look)}, subset, progress)
        if real is not None:
            classes.add_real(real)
        classes.write()
        _write_index(site, classes, subset_name, [damage[shard] for shard in sorted(damage)])
    return out_dir / "index.html"


def _write_draws(
    classes: ClassPages,
    rejected: RejectedPages,
    store: Store,
    records: Mapping[int, Record],
    subset: Subset | None,
    progress: Callable[[int, int], None],
) -> None:
    """The second pass: pictures and cards of kept samples, pages of rejected draws."""
    for done, (shard, record) in enumerate(records.items()):
        progress(done, len(records))
        table = chosen_rows(read_table(store, {shard: record}, VIEW_COLUMNS), shard, subset)
        rows: list[dict[str, Any]] = table.to_pylist()
        classes.add_shard(store, shard, [row for row in rows if row["status"] == SUCCESS])
        lost = [row for row in rows if row["status"] != SUCCESS]
        if lost and not rejected.is_full:
            pictures: dict[str, bytes] = {}
            with contextlib.suppress(ValueError, OSError):  # no JPEGs inside: `sixfold verify` names it
                pictures = read_rejected(store, record)
            rejected.add_shard(shard, lost, pictures)
    rejected.finish()
    progress(len(records), len(records))


def _write_index(site: Site, pages: ClassPages, subset_name: str, problems: list[str]) -> None:
    classes = site.census.sorted_classes()
    links = links_of(len(classes), CLASSES_PER_PAGE, "index")
    first_images = [pages.mosaics.get(one.class_id, []) for one in classes]
    hero = [images[row] for row in range(MOSAIC_IMAGES) for images in first_images if len(images) > row][:HERO_IMAGES]
    if len(hero) > HERO_COLUMNS:
        del hero[len(hero) // HERO_COLUMNS * HERO_COLUMNS :]  # whole rows only
    for link in links:
        start = (link.number - 1) * CLASSES_PER_PAGE
        here = classes[start : start + CLASSES_PER_PAGE]
        filters = _filters(here)
        values = {
            "page": link.number,
            "links": window(links, link.number),
            "hero": hero,
            "title": site.title,
            "tiles": [
                {
                    "href": page_of(one),
                    "name": clip(one.name, 120),
                    "meaning": _meaning(one),
                    "class_id": one.class_id,
                    "successes": one.successes,
                    "asked": one.asked,
                    "rejected": one.num_rejected,
                    "images": pages.mosaics.get(one.class_id, []),
                    "marks": marks(filters, _values(one)),
                }
                for one in here
            ],
            "filters": filters,
            "problems": [clip(problem, 300) for problem in problems[:MAX_PROBLEMS]],
            "num_problems": len(problems),
            "real_problem": pages.real_problem or (pages.edits.problem if pages.edits else ""),
            "overview": overview(site.census, subset_name),
        }
        site.write_page(link.href, "index.html", values)


def _states(one: ClassCount) -> list[str]:
    found = [SHORT] if one.successes < one.asked else []
    found += [REJECTED] if one.num_rejected else []
    return found or [WHOLE]


def _values(one: ClassCount) -> dict[str, list[str]]:
    """What the filters ask of a class."""
    return {"status": _states(one), "domain": sorted(one.domains)}


def _filters(classes: list[ClassCount]) -> list[Filter]:
    """Those that tell the classes of a page apart."""
    found = []
    states = [_states(one) for one in classes]
    if any(state != states[0] for state in states):
        named = tuple(name for name in (SHORT, REJECTED, WHOLE) if any(name in state for state in states))
        found.append(Filter("status", "Status", named))
    domains = sorted(set().union(*(one.domains for one in classes)))
    if len(domains) > 1:
        found.append(Filter("domain", "Domain", tuple(domains)))
    return found


def _meaning(one: ClassCount) -> str:
    """What the class means, if that is more than its name."""
    return clip(one.meanings[0], 120) if one.meanings and one.meanings[0] != one.name else ""
