"""An edit as a page of the gallery shows it: its source, the mask of its object, in words what was asked and judged.

In: what the verb that made the set knows of a row (`Edits`). Out: an `EditView` of plain texts; the template escapes
them. On disk, small copies: `__thumbs/sources/5591c7be….jpg`, named by the hash of the source's bytes so that its many
edits share one, and `__thumbs/00012/000120034-mask.jpg`, the object white.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shards.disk.layout import shard_name
from shards.disk.safe_text import clip, redact
from shards.views.site import Site
from shards.views.thumbnail import small_jpeg

OBJECT, GROUND = 236, 24  # grey levels of a mask
MAX_FACTS = 16
LONGEST_FACT = 600
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class Edit:
    """What is known of one edit."""

    sha256: str  # of the source's bytes; "" = nobody knows
    source: Callable[[], np.ndarray | str]  # uint8 RGB [H, W, 3], or why there is none
    mask: Callable[[], np.ndarray | None]  # bool [H, W]; None: the edit has none
    side: str  # feasible or infeasible; "" = no word
    kind: str  # what was altered, such as background
    tags: tuple[str, ...]  # a few words for the card
    facts: tuple[tuple[str, str], ...]  # label, text: the judge's answers and the like
    wrong: tuple[str, ...]  # what the judge did not say as expected


@dataclass(frozen=True)
class Edits:
    """An edited data set as the verb that made it knows it."""

    source: str  # where the source pictures lie
    problem: str  # why none of them can be shown; "" if they can
    of: Callable[[Mapping[str, Any]], Edit]  # a row of the table


@dataclass(frozen=True)
class EditView:
    """An edit on a page. Addresses are None where there is nothing to show; `problem` is why there is no source."""

    source: str | None
    problem: str
    mask: str | None
    side: str
    altered: str
    tags: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]


def edit_view(site: Site, shard: int, row: Mapping[str, Any], edits: Edits) -> EditView:
    """Writes the pictures below the site's folder. Where the whole set has no sources, nothing is said of each."""
    edit = edits.of(row)
    source, problem = (None, "") if edits.problem else _source(site, edit)
    mask, mask_HW = None, edit.mask()
    if mask_HW is not None:
        grey_HW1 = np.where(mask_HW[..., None], np.uint8(OBJECT), np.uint8(GROUND))
        jpeg = small_jpeg(np.repeat(grey_HW1, 3, axis=2), site.thumb_px, 90, "420", None)
        mask = site.write_picture(f"__thumbs/{shard_name(shard)}/{row['key']}-mask.jpg", jpeg)
    return EditView(
        source=source,
        problem=clip(redact(problem), 200),
        mask=mask,
        side=clip(edit.side, 60),
        altered=clip(edit.kind, 60),
        tags=tuple(clip(tag, 60) for tag in edit.tags),
        facts=tuple((clip(label, 60), clip(redact(text), LONGEST_FACT)) for label, text in edit.facts[:MAX_FACTS]),
    )


def _source(site: Site, edit: Edit) -> tuple[str | None, str]:
    """The address of the source's small copy, which is written once, or why there is none."""
    if not _SHA256.fullmatch(edit.sha256):
        return None, "the row names no source"
    address = f"__thumbs/sources/{edit.sha256[:32]}.jpg"
    if (site.folder / address).exists():
        return address, ""
    found = edit.source()
    if isinstance(found, str):
        return None, found
    return site.write_picture(address, small_jpeg(found, site.thumb_px, 90, "420", None)), ""
