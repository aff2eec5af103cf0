"""One accepted sample as a page of the gallery shows it: a small picture, its prompt, and the facts of its row.

In: a row of the table and its JPEG bytes. Out: a `SampleView` of plain texts; the template escapes them. On disk:
`__thumbs/00012/000120034.jpg`, a small copy with the source type of the original.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shards.disk.layout import EDIT_FIELD, SAMPLE_SCHEMA, shard_name
from shards.disk.safe_text import clip, redact
from shards.set.row_jpegs import JPEG_COLUMNS
from shards.views.census import SCORES, context_words
from shards.views.edit_view import Edits, EditView, edit_view
from shards.views.site import Site
from shards.views.thumbnail import small_copy

SMALL_PX = 128  # an original this small is enlarged with crisp pixels
LONGEST_TEXT = 1_200  # characters of a prompt on a page
FACTS = {  # label -> column: what the details of a card list, if the row has it
    "class": "class_name",
    "meaning": "meaning",
    "kind": "prompt_kind",
    "context": "context",
    "style": "style",
    "negative": "negative",
    "prompt": "prompt_id",
    "replicate": "replicate",
    "draw": "draw",
    "seed": "seed",
    "batch": "batch",
    "model": "model",
    "revision": "revision",
    "licence": "licence",
    "sampler": "sampler",
    "domain": "domain",
    "source": "url",
    "sha256": "sha256",
    "uid": "uid",
}
VIEW_COLUMNS = [*SAMPLE_SCHEMA.names, *JPEG_COLUMNS, EDIT_FIELD.name]


@dataclass(frozen=True)
class SampleView:
    """A sample on a page. ``image`` is None if the picture cannot be shown, and ``problem`` then says why."""

    key: str
    alt: str
    caption: str
    image: str | None
    problem: str
    width: int
    height: int
    is_small: bool
    style: str
    kind: str
    domain: str
    tags: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    edit: EditView | None  # None: it was not edited


def sample_view(
    site: Site, shard: int, row: Mapping[str, Any], jpeg: bytes | str, edits: Edits | None = None
) -> SampleView:
    """The card of a sample; writes its picture below the site's folder. ``jpeg`` as a `str` says why there is none."""
    image, problem = None, ""
    width, height = row["width"] or site.thumb_px, row["height"] or site.thumb_px
    if isinstance(jpeg, str):
        problem = jpeg
    else:
        try:
            small = small_copy(jpeg, site.thumb_px, 93, "444")
            image = site.write_picture(f"__thumbs/{shard_name(shard)}/{row['key']}.jpg", small)
        except ValueError as error:
            problem = f"cannot be decoded ({clip(str(error), 200)})"
    words = context_words(row["context"])
    tags = [row["style"], *words.values(), row["prompt_kind"] if not row["style"] and not words else None]
    scores = [f"{column} {row[column]:.3f}" for column in SCORES if row[column] is not None]
    facts = [
        (label, clip(str(row[column]), LONGEST_TEXT)) for label, column in FACTS.items() if row[column] is not None
    ]
    edit = None if edits is None else edit_view(site, shard, row, edits)
    size = ("size", f"{width} × {height} px, {row['jpg_size']:,} bytes")
    return SampleView(
        key=row["key"],
        alt=f"{row['class_name']}: {clip(row['caption'], 200)}",
        caption=clip(row["caption"], LONGEST_TEXT),
        image=image,
        problem=problem,
        width=width,
        height=height,
        is_small=max(width, height) <= SMALL_PX,
        style=clip(row["style"] or "", 60),
        kind=clip(row["prompt_kind"] or "", 60),
        domain=row["domain"],
        tags=(*(clip(tag, 60) for tag in tags if tag), *(edit.tags if edit else ()), *scores),
        facts=(*(edit.facts if edit else ()), size, *((label, redact(text)) for label, text in facts)),
        edit=edit,
    )
