"""The columns of other people's tables: which one is the address, the caption, the note on safety.

In: the names of a table's columns, in any case. Out: `Columns`. On disk: nothing. Known are LAION and Re-LAION (`URL`,
`TEXT`, `NSFW`, `punsafe`), COYO (`url`, `text`, `nsfw_score_opennsfw2`), DataComp (`url`, `text`, `sha256`),
clip-retrieval (`url`, `caption`, `image_path`) and img2dataset (`url`, `caption`, `key`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from shards.disk.safe_text import quoted

# role -> names, in lower case; the first that is there is taken
KNOWN: Mapping[str, tuple[str, ...]] = {
    "caption": ("caption", "text", "top_caption", "alt_text"),
    "url": ("url", "image_url", "img_url"),
    "key": ("key", "image_path"),
    "shard": ("shard", "shard_id"),
    "nsfw": ("nsfw",),
    "punsafe": ("punsafe", "nsfw_score_opennsfw2", "nsfw_score_gantman"),
    "similarity": ("similarity", "clip_similarity_vitl14", "clip_l14_similarity_score", "clip_similarity_vitb32"),
    "sha256": ("sha256",),
    "width": ("width", "original_width"),
    "height": ("height", "original_height"),
    "licence": ("licence", "license"),
    "status": ("status",),
}


@dataclass(frozen=True)
class Columns:
    """The name in the table of each thing that we look for; None: the table does not have it."""

    caption: str
    url: str | None = None
    key: str | None = None  # of the tar's members
    shard: str | None = None  # the stem of the tar
    nsfw: str | None = None
    punsafe: str | None = None
    similarity: str | None = None
    sha256: str | None = None
    width: str | None = None
    height: str | None = None
    licence: str | None = None
    status: str | None = None

    @property
    def names(self) -> dict[str, str]:
        """Role -> name in the table, of those that it has."""
        return {one.name: name for one in fields(self) if (name := getattr(self, one.name)) is not None}


def find_columns(names: Iterable[str], told: Mapping[str, str], where: str) -> Columns:
    """`told`: role -> column, from a recipe; it wins. Raises ValueError if there is no caption, or if `told` names a
    role or a column that does not exist."""
    given = list(names)
    found: dict[str, str] = {}
    for role, name in told.items():
        if role not in KNOWN:
            raise ValueError(f"pool.columns: found the role {quoted(role, 40)}, expected one of {', '.join(KNOWN)}")
        if name not in given:
            raise ValueError(
                f"{where}: found no column {quoted(name, 60)} for {role}, expected one of "
                f"{', '.join(quoted(one, 40) for one in given[:20])}"
            )
        found[role] = name
    lower: dict[str, str] = {}
    for name in given:
        lower.setdefault(name.lower(), name)
    for role, candidates in KNOWN.items():
        first = next((lower[name] for name in candidates if name in lower), None)
        if role not in found and first is not None:
            found[role] = first
    if "caption" not in found:
        raise ValueError(
            f"{where}: found no column of captions among {', '.join(quoted(one, 40) for one in given[:20])}, expected "
            f"{' or '.join(KNOWN['caption'])}; name it with pool.columns={{caption: NAME}}"
        )
    return Columns(**found)
