"""The folder of a gallery while it is built, and what its pages share.

In: a folder, a title, a census. Out: a `Site`, and links between the pages of one list. On disk: pages and pictures
below the folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from shards.views.census import Census, ClassCount
from shards.views.page import SCRIPT, hash_of, page_environment
from shards.views.title import Title

FEW_PAGES = 12  # all of them are linked


@dataclass(frozen=True)
class Link:
    """A page among those of one list: its number and its address."""

    number: int
    href: str


@dataclass(frozen=True)
class Filter:
    """A choice above a list of items; an item has the places of its own values, such as ``data-style="2"``."""

    name: str  # lower-case letters
    title: str
    options: tuple[str, ...]


@dataclass
class Site:
    """The folder that is being built, and what every page needs."""

    folder: Path
    title: Title
    notice: str
    census: Census
    images_per_page: int
    images_per_class: int
    thumb_px: int  # longest side of the pictures

    def __post_init__(self) -> None:
        script = SCRIPT.read_text(encoding="utf-8")  # our own file
        self.environment = page_environment()
        self.environment.globals["name"] = self.title.text
        self.environment.globals["notice"] = self.notice
        self.environment.globals["rejected_count"] = self.census.rejected
        self.environment.globals["script"] = Markup(script)
        self.environment.globals["script_hash"] = hash_of(script)

    def write_page(self, file_name: str, template: str, values: Mapping[str, object]) -> None:
        """Render a template and write it as a file of the folder."""
        page = self.environment.get_template(template).render(values)
        (self.folder / file_name).write_text(page, encoding="utf-8")

    def write_picture(self, address: str, jpeg: bytes) -> str:
        """Write a picture and return its address on the pages."""
        target = self.folder / address
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(jpeg)
        return address

    def shown(self, one: ClassCount) -> int:
        """How many images of a class have a card."""
        return min(one.successes, self.images_per_class)


def marks(filters: Sequence[Filter], values: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Name -> the places of an item's values among the options of the filter of this name, as an attribute holds them;
    none where there is no such filter on the page."""
    options = {one.name: one.options for one in filters}
    return {
        name: " ".join(str(options[name].index(text)) for text in texts if text in options.get(name, ()))
        for name, texts in values.items()
    }


def links_of(num_items: int, per_page: int, stem: str) -> list[Link]:
    """One link a page, at least one: ``stem.html``, ``stem-2.html``, …"""
    num_pages = max(1, -(-num_items // per_page))
    return [
        Link(number, f"{stem}.html" if number == 1 else f"{stem}-{number}.html") for number in range(1, num_pages + 1)
    ]


def window(links: Sequence[Link], current: int) -> list[Link | None]:
    """All links if they are few, else the ends and the neighbours of ``current``, None for a gap."""
    if len(links) <= FEW_PAGES:
        return list(links)
    near = [link for link in links if link.number in (1, len(links)) or abs(link.number - current) <= 3]
    found: list[Link | None] = []
    for link in near:
        last = found[-1] if found else None
        if last and link.number > last.number + 1:
            found.append(None)
        found.append(link)
    return found
