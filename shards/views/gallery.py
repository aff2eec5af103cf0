"""The gallery: a data set as a folder of plain web pages.

In: a store with records, optionally a subset. Out: the path of ``index.html``. On disk, in a folder that is replaced as
a whole:

    index.html, index-2.html …        numbers, draws per class, one tile a class
    class-0007.html, class-0007-2.html …
    rejected.html, rejected-2.html …  every rejected draw with its reason, without its picture
    __thumbs/00012/000120034.jpg        small copies with the source type of the original
    gallery.css, .gallery             the style; the mark that lets a later run replace the folder

The pages have no script, load nothing from elsewhere (strict CSP) and escape every text. Memory does not grow with the
number of images: there are two passes over the shards, with one shard's table at a time, and finished cards are in
files.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from markupsafe import Markup

from shards.disk.data_set import no_data_set
from shards.disk.layout import SUCCESS
from shards.disk.record import Record
from shards.disk.replace import whole_folder
from shards.disk.safe_text import clip, redact
from shards.disk.store import Store
from shards.set.manifest import read_table, scan
from shards.set.row_jpegs import read_jpegs
from shards.views.census import Census, ClassCount, Subset, chosen_rows, take_census
from shards.views.overview import label, overview
from shards.views.page import NOTICES, STYLE, page_environment
from shards.views.sample_view import VIEW_COLUMNS, sample_view

MARK = ".gallery"
IMAGES_PER_PAGE = 60
IMAGES_PER_CLASS = 480  # 1,000 classes are then 480,000 thumbnails of about 6 KB, 3 GB: more than anyone clicks through
THUMB_PX = 256
REJECTED_PER_PAGE = 200
REJECTED_LISTED = 20_000
CLASSES_PER_PAGE = 400
MOSAIC_IMAGES = 4
HERO_IMAGES = 40
HERO_COLUMNS = 8  # as in page.css
MAX_PROBLEMS = 20  # named on the first page, the rest counted
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Link:
    """A page among those of one list: its number and its address."""

    number: int
    href: str


@dataclass
class Site:
    """The folder that is being built, and what every page needs."""

    folder: Path
    name: str
    notice: str
    census: Census
    problems: Sequence[str]  # one line a damaged shard
    images_per_page: int
    images_per_class: int
    thumb_px: int
    mosaics: dict[int, list[str]] = field(default_factory=dict)  # class id -> its first thumbnails
    placed: Counter[int] = field(default_factory=Counter)  # class id -> cards written so far

    def __post_init__(self) -> None:
        self.environment = page_environment()
        self.environment.globals["name"] = self.name
        self.environment.globals["notice"] = self.notice
        self.environment.globals["rejected_count"] = self.census.rejected

    def write_page(self, file_name: str, template: str, values: Mapping[str, object]) -> None:
        """Render a template and write it as a file of the folder."""
        page = self.environment.get_template(template).render(values)
        (self.folder / file_name).write_text(page, encoding="utf-8")

    def shown(self, one: ClassCount) -> int:
        """How many images of a class have a card."""
        return min(one.successes, self.images_per_class)


def write_gallery(
    store: Store,
    out_dir: Path,
    *,
    images_per_page: int = IMAGES_PER_PAGE,
    images_per_class: int = IMAGES_PER_CLASS,
    thumb_px: int = THUMB_PX,
    subset: Subset | None = None,
    subset_name: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write the pages and return the path of ``index.html``; an older gallery in ``out_dir`` is replaced as a whole.

    ``images_per_class`` bounds the thumbnails of a class (its counts stay whole), ``thumb_px`` their longest side.
    ``progress`` is called with (shards done, shards in all). Raises ValueError if there is no shard, if ``out_dir``
    holds something that is not a gallery, or a number is not positive.
    """
    for what, number in {
        "images_per_page": images_per_page,
        "images_per_class": images_per_class,
        "thumb_px": thumb_px,
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
        census = take_census(store, found.records, subset, look, damage.__setitem__)
        name = redact(store.url).rstrip("/").rpartition("/")[2] or "data set"
        notice = " ".join(NOTICES[domain] for domain in NOTICES if census.values["domain"][domain])
        problems = [damage[shard] for shard in sorted(damage)]
        site = Site(folder, name, notice, census, problems, images_per_page, images_per_class, thumb_px)
        shutil.copyfile(STYLE, folder / "gallery.css")
        (folder / "cards").mkdir()
        _write_draws(site, store, {s: found.records[s] for s in sorted(second_look)}, subset, progress)
        _write_class_pages(site)
        _write_index(site, subset_name)
        shutil.rmtree(folder / "cards")
    return out_dir / "index.html"


def _write_draws(
    site: Site,
    store: Store,
    records: Mapping[int, Record],
    subset: Subset | None,
    progress: Callable[[int, int], None],
) -> None:
    """The second pass: thumbnails and cards of kept samples (cards wait in ``cards/``), pages of rejected draws."""
    waiting: list[Row] = []
    page = 1
    for done, shard in enumerate(records):
        progress(done, len(records))
        table = chosen_rows(read_table(store, {shard: records[shard]}, VIEW_COLUMNS), shard, subset)
        rows: list[Row] = table.to_pylist()
        _write_cards(site, store, shard, [row for row in rows if row["status"] == SUCCESS])
        waiting.extend(_rejected_row(row) for row in rows if row["status"] != SUCCESS)
        while len(waiting) >= REJECTED_PER_PAGE:
            _write_rejected_page(site, page, waiting[:REJECTED_PER_PAGE])
            del waiting[:REJECTED_PER_PAGE]
            page += 1
    if waiting:
        _write_rejected_page(site, page, waiting)
    progress(len(records), len(records))


def _write_rejected_page(site: Site, page: int, rows: Sequence[Row]) -> None:
    num_listed = min(site.census.rejected, REJECTED_LISTED)
    links = _links(num_listed, REJECTED_PER_PAGE, "rejected")
    if page <= len(links):
        values = {"links": _window(links, page), "page": page, "rows": rows, "listed": num_listed}
        site.write_page(links[page - 1].href, "rejected.html", values)


def _write_cards(site: Site, store: Store, shard: int, rows: Sequence[Row]) -> None:
    """Thumbnails and cards of one shard's kept samples, as far as their classes still have room."""
    wanted = []
    for row in rows:
        class_id = row["class_id"]
        if site.placed[class_id] < site.images_per_class:
            wanted.append((row, site.placed[class_id] // site.images_per_page + 1))
            site.placed[class_id] += 1
    template = site.environment.get_template("card.html")
    cards: dict[str, list[str]] = {}
    for (row, page), jpeg in zip(wanted, read_jpegs(store, shard, [row for row, _ in wanted]), strict=True):
        card = sample_view(site.folder, site.thumb_px, shard, row, jpeg)
        cards.setdefault(f"{row['class_id']}-{page}", []).append(template.render(card=card))
        mosaic = site.mosaics.setdefault(row["class_id"], [])
        if card.image and len(mosaic) < MOSAIC_IMAGES:
            mosaic.append(card.image)
    for file_name, texts in cards.items():
        with (site.folder / "cards" / file_name).open("a", encoding="utf-8") as file:
            file.writelines(texts)


def _rejected_row(row: Row) -> Row:
    return {
        **{column: row[column] for column in ("key", "class_id", "status")},
        "class_name": clip(row["class_name"], 120),
        "message": clip(redact(row["error_message"] or ""), 300),
        "caption": clip(row["caption"], 300),
        "draw": "" if row["draw"] is None else row["draw"],
        "seed": "" if row["seed"] is None else row["seed"],
    }


def _write_class_pages(site: Site) -> None:
    classes = site.census.sorted_classes()
    for index, one in enumerate(classes):
        links = _links(site.shown(one), site.images_per_page, f"class-{one.class_id:04d}")
        before = classes[index - 1] if index else None
        after = classes[index + 1] if index + 1 < len(classes) else None
        for link in links:
            part = site.folder / "cards" / f"{one.class_id}-{link.number}"
            values = {
                "subject": one,
                "title": clip(one.name, 200),
                "shown": site.shown(one),
                "links": _window(links, link.number),
                "page": link.number,
                "before": before and {"name": label(before), "href": f"class-{before.class_id:04d}.html"},
                "after": after and {"name": label(after), "href": f"class-{after.class_id:04d}.html"},
                "cards": Markup(part.read_text(encoding="utf-8")) if part.exists() else "",
            }
            site.write_page(link.href, "class.html", values)


def _write_index(site: Site, subset_name: str) -> None:
    classes = site.census.sorted_classes()
    links = _links(len(classes), CLASSES_PER_PAGE, "index")
    first_images = [site.mosaics.get(one.class_id, []) for one in classes]
    hero = [images[row] for row in range(MOSAIC_IMAGES) for images in first_images if len(images) > row][:HERO_IMAGES]
    if len(hero) > HERO_COLUMNS:
        del hero[len(hero) // HERO_COLUMNS * HERO_COLUMNS :]  # whole rows only
    for link in links:
        start = (link.number - 1) * CLASSES_PER_PAGE
        tiles = [
            {
                "href": f"class-{one.class_id:04d}.html",
                "name": clip(one.name, 120),
                "class_id": one.class_id,
                "successes": one.successes,
                "rejected": one.num_rejected,
                "images": site.mosaics.get(one.class_id, []),
            }
            for one in classes[start : start + CLASSES_PER_PAGE]
        ]
        values = {
            "page": link.number,
            "links": _window(links, link.number),
            "hero": hero,
            "tiles": tiles,
            "problems": [clip(problem, 300) for problem in site.problems[:MAX_PROBLEMS]],
            "num_problems": len(site.problems),
            "overview": overview(site.census, subset_name),
        }
        site.write_page(link.href, "index.html", values)


def _links(num_items: int, per_page: int, stem: str) -> list[Link]:
    """One link a page, at least one: ``stem.html``, ``stem-2.html``, …"""
    num_pages = max(1, -(-num_items // per_page))
    return [
        Link(number, f"{stem}.html" if number == 1 else f"{stem}-{number}.html") for number in range(1, num_pages + 1)
    ]


def _window(links: Sequence[Link], current: int) -> list[Link | None]:
    """All links if they are few, else the ends and the neighbours of ``current``, None for a gap."""
    if len(links) <= 12:
        return list(links)
    near = [link for link in links if link.number in (1, len(links)) or abs(link.number - current) <= 3]
    window: list[Link | None] = []
    for link in near:
        last = window[-1] if window else None
        if last and link.number > last.number + 1:
            window.append(None)
        window.append(link)
    return window
