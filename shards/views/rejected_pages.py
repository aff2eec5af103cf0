"""The pages of a gallery that list the rejected draws, so that a person can judge the screen.

In: a `Site`, rows of rejected draws, shard by shard. Out: nothing. On disk, below the site's folder: `rejected.html`,
`rejected-2.html` …, and the small pictures that the shards kept of some draws. Tries at one sample stand together, the
first one first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shards.disk.layout import shard_name
from shards.disk.safe_text import clip, redact
from shards.views.edit_view import Edits
from shards.views.site import Filter, Link, Site, links_of, marks, window
from shards.views.thumbnail import small_copy

PER_PAGE = 200
MAX_LISTED = 20_000
SMALL_PX = 96  # as shards keep them
MAX_WRONG = 3  # answers of a judge that were not as expected
Row = Mapping[str, Any]


@dataclass
class RejectedPages:
    """The draws that are waiting for a page."""

    site: Site
    edits: Edits | None = None  # of an edited set
    _waiting: list[Row] = field(default_factory=list)
    _page: int = 1

    @property
    def is_full(self) -> bool:
        """Whether no further draw is listed."""
        return self._page > len(self._links())

    def add_shard(self, shard: int, rows: Sequence[Row], pictures: Mapping[str, bytes]) -> None:
        """The rejected draws of one shard. ``pictures``: key -> JPEG of those that have one."""
        for row in sorted(rows, key=_order):
            address = ""
            if row["key"] in pictures and not self.is_full:
                jpeg = small_copy(pictures[row["key"]], SMALL_PX, 90, "420")
                address = self.site.write_picture(f"__thumbs/{shard_name(shard)}/{row['key']}.jpg", jpeg)
            wrong = self.edits.of(row).wrong if self.edits else ()
            self._waiting.append(_shown(row, address, wrong))
        while len(self._waiting) >= PER_PAGE:
            self._write(self._waiting[:PER_PAGE])
            del self._waiting[:PER_PAGE]

    def finish(self) -> None:
        """Write the last page."""
        if self._waiting:
            self._write(self._waiting)

    def _links(self) -> list[Link]:
        return links_of(min(self.site.census.rejected, MAX_LISTED), PER_PAGE, "rejected")

    def _write(self, rows: Sequence[Row]) -> None:
        links, page = self._links(), self._page
        self._page += 1
        if page > len(links):
            return
        reasons = sorted({row["status"] for row in rows})
        filters = [Filter("reason", "Reason", tuple(reasons))] if len(reasons) > 1 else []
        values = {
            "links": window(links, page),
            "page": page,
            "rows": [{**row, "marks": marks(filters, {"reason": [row["status"]]})} for row in rows],
            "filters": filters,
            "listed": min(self.site.census.rejected, MAX_LISTED),
            "has_pictures": any(row["picture"] for row in rows),
        }
        self.site.write_page(links[page - 1].href, "rejected.html", values)


def _order(row: Row) -> tuple[Any, ...]:
    """Class by class, sample by sample, try by try."""
    places = (row[name] for name in ("class_id", "prompt_id", "replicate", "draw"))
    return (*(-1 if place is None else place for place in places), row["key"])


def _shown(row: Row, picture: str, wrong: Sequence[str]) -> Row:
    return {
        **{column: row[column] for column in ("key", "class_id", "status")},
        "class_name": clip(row["class_name"], 120),
        "message": clip(redact(row["error_message"] or ""), 300),
        "caption": clip(row["caption"], 300),
        "draw": row["draw"],
        "seed": row["seed"],
        "picture": picture,
        "wrong": [clip(redact(text), 300) for text in wrong[:MAX_WRONG]],
    }
