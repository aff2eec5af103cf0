"""The pages of a gallery that show the images of one class, beside its real pictures.

In: a `Site`, rows of accepted samples with their JPEGs, shard by shard; real pictures by class. Out: the first pictures
of each class. On disk, below the site's folder: `class-0007.html`, `class-0007-2.html` …, and while it is built
`cards/7-1`: one line of JSON a sample of page 1, so that memory holds one page at a time.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from shards.disk.safe_text import clip, one_line
from shards.disk.store import Store
from shards.set.row_jpegs import read_jpegs
from shards.views.alike import shared_beginnings
from shards.views.census import ClassCount
from shards.views.edit_view import Edits
from shards.views.overview import label
from shards.views.sample_view import sample_view
from shards.views.site import Filter, Site, links_of, marks, window
from shards.views.thumbnail import small_jpeg

MOSAIC_IMAGES = 4
REAL_PER_CLASS = 8
FILTERS = {"style": "Style", "kind": "Kind of prompt", "domain": "Domain"}  # fields of a `SampleView`
EDIT_FILTERS = {"altered": "Altered", "side": "Side"}  # fields of an `EditView`
MAX_OPTIONS = 40  # of a filter
Card = Mapping[str, Any]


@dataclass(frozen=True)
class RealPictures:
    """Real pictures of the classes, class by class, and where they come from."""

    source: str
    pictures: Iterable[tuple[int, np.ndarray]]  # class id, uint8 RGB [H, W, 3]


@dataclass
class ClassPages:
    """The cards that are waiting for their pages."""

    site: Site
    edits: Edits | None = None  # of an edited set
    mosaics: dict[int, list[str]] = field(default_factory=dict)  # class id -> its first pictures
    real: dict[int, list[str]] = field(default_factory=dict)  # class id -> its real pictures
    real_source: str = ""
    real_problem: str = ""  # why there are none, in a line
    _placed: Counter[int] = field(default_factory=Counter)  # class id -> cards so far

    def add_shard(self, store: Store, shard: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Pictures and cards of one shard's kept samples, as far as their classes still have room."""
        site = self.site
        wanted = []
        for row in rows:
            class_id = row["class_id"]
            if self._placed[class_id] < site.images_per_class:
                wanted.append((row, self._placed[class_id] // site.images_per_page + 1))
                self._placed[class_id] += 1
        lines: dict[str, list[str]] = {}
        for (row, page), jpeg in zip(wanted, read_jpegs(store, shard, [row for row, _ in wanted]), strict=True):
            card = sample_view(site, shard, row, jpeg, self.edits)
            lines.setdefault(f"{row['class_id']}-{page}", []).append(json.dumps(asdict(card)) + "\n")
            mosaic = self.mosaics.setdefault(row["class_id"], [])
            if card.image and len(mosaic) < MOSAIC_IMAGES:
                mosaic.append(card.image)
        (site.folder / "cards").mkdir(exist_ok=True)
        for file_name, texts in lines.items():
            with (site.folder / "cards" / file_name).open("a", encoding="utf-8") as file:
                file.writelines(texts)

    def add_real(self, found: RealPictures) -> None:
        """Small copies of real pictures. A source that cannot be read is named on the first page."""
        self.real_source = clip(found.source, 200)
        try:
            for class_id, pixels in found.pictures:
                there = self.real.setdefault(class_id, [])
                if len(there) < REAL_PER_CLASS and class_id in self.site.census.classes:
                    address = f"__thumbs/real/{class_id}-{len(there)}.jpg"
                    jpeg = small_jpeg(pixels, self.site.thumb_px, 90, "420", None)
                    there.append(self.site.write_picture(address, jpeg))
        except (ValueError, OSError) as error:
            self.real_problem = one_line(str(error), 300)

    def write(self) -> None:
        """All pages; the waiting cards are removed."""
        classes = self.site.census.sorted_classes()
        for index, one in enumerate(classes):
            around = (classes[index - 1] if index else None, classes[index + 1] if index + 1 < len(classes) else None)
            self._write_class(one, *around)
        shutil.rmtree(self.site.folder / "cards", ignore_errors=True)

    def _write_class(self, one: ClassCount, before: ClassCount | None, after: ClassCount | None) -> None:
        site = self.site
        links = links_of(site.shown(one), site.images_per_page, page_of(one).removesuffix(".html"))
        for link in links:
            waiting = site.folder / "cards" / f"{one.class_id}-{link.number}"
            lines = waiting.read_text(encoding="utf-8").splitlines() if waiting.exists() else []
            cards: list[Card] = [json.loads(line) for line in lines]  # our own, written above
            filters = _filters(cards)
            same = shared_beginnings([card["caption"] for card in cards])
            values = {
                "subject": one,
                "title": clip(one.name, 200),
                "shown": site.shown(one),
                "links": window(links, link.number),
                "page": link.number,
                "before": before and {"name": label(before), "href": page_of(before)},
                "after": after and {"name": label(after), "href": page_of(after)},
                "real": self.real.get(one.class_id, []) if link.number == 1 else [],
                "real_source": self.real_source,
                "edits": self.edits,
                "num_pictures": _num_pictures(cards),
                "filters": filters,
                "cards": [
                    {
                        **card,
                        "same": num,
                        "marks": marks(filters, {name: [_value(card, name)] for name in (*FILTERS, *EDIT_FILTERS)}),
                    }
                    for card, num in zip(cards, same, strict=True)
                ],
            }
            site.write_page(link.href, "class.html", values)


def page_of(one: ClassCount) -> str:
    """The address of a class's first page."""
    return f"class-{one.class_id:04d}.html"


def _filters(cards: Sequence[Card]) -> list[Filter]:
    """Those with something to choose."""
    found = []
    for name, title in (FILTERS | EDIT_FILTERS).items():
        values = Counter(value for card in cards if (value := _value(card, name)))
        if len(values) > 1:
            found.append(Filter(name, title, tuple(sorted(value for value, _ in values.most_common(MAX_OPTIONS)))))
    return found


def _value(card: Card, name: str) -> str:
    """What the filter of this name asks of a card."""
    part = card["edit"] if name in EDIT_FILTERS else card
    return "" if part is None else str(part[name])


def _num_pictures(cards: Sequence[Card]) -> int:
    """How many pictures a card has at most: an edit has its source and its mask beside it."""
    edits = [card["edit"] for card in cards if card["edit"]]
    return 1 + any(one["source"] or one["problem"] for one in edits) + any(one["mask"] for one in edits)
