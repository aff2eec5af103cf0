"""The columns of other people's tables: which one is the address, the caption, the note on safety, and in which type.

In: the names of a table's columns, in any case; their values, in any type. Out: `Columns`; values of a role, in the one
type that it has in every table, so that what is asked of them is asked of all tables. On disk: nothing.

Known are LAION and Re-LAION (`URL`, `TEXT`, `NSFW`, `punsafe`), COYO (`url`, `text`, `nsfw_score_opennsfw2`), DataComp
(`url`, `text`, `sha256`), clip-retrieval (`url`, `caption`, `image_path`) and img2dataset (`url`, `caption`, `key`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

import pyarrow as pa
import pyarrow.compute as pc

from shards.disk.safe_text import one_line, quoted

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
NUMBERS = ("punsafe", "similarity")  # float64
AS_FOUND = ("width", "height")  # of any type: nothing depends on them; all others are texts
MAY_BE_NUMBERS = ("key", "shard", "nsfw")  # of the texts
HASH_BYTES = 32


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
            f"{' or '.join(KNOWN['caption'])}; name it with pool.columns.caption=NAME"
        )
    return Columns(**found)


def in_one_type(values: pa.ChunkedArray, role: str, where: str) -> pa.ChunkedArray:
    """The values of a role as texts, or as float64 (`NUMBERS`); hashes in lower case, null where one is empty. `where`
    names file and column.

    Raises ValueError for a type that the role cannot have.
    """
    kind, expected = values.type, "numbers" if role in NUMBERS else "texts"
    try:
        if isinstance(kind, pa.BaseExtensionType):
            values = values.cast(kind.storage_type)
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if role in AS_FOUND:
            return values
        if role in NUMBERS:
            return _numbers(values)
        texts = _texts(values, role)
        return pc.utf8_lower(_said(texts)) if role == "sha256" else texts
    except (pa.ArrowException, ValueError) as error:
        raise ValueError(
            f"{where}: found {kind} for {role}, expected {expected} ({one_line(str(error), 120)}); write it as such, "
            f"or name another column with pool.columns.{role}=NAME"
        ) from None


def _numbers(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if _is_text(values.type):
        values = _said(values.cast(pa.string()))
    return values.cast(pa.float64())


def _said(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without spaces around them; null where nothing is left."""
    texts = pc.utf8_trim_whitespace(texts)
    return pc.if_else(pc.equal(texts, ""), None, texts)


def _texts(values: pa.ChunkedArray, role: str) -> pa.ChunkedArray:
    if _is_text(values.type) or pa.types.is_null(values.type):
        return values.cast(pa.string())
    if _is_bytes(values.type):
        plain = values.cast(pa.binary())
        return plain.cast(pa.string()) if role != "sha256" else pa.chunked_array([_hashes(plain)])
    if role in MAY_BE_NUMBERS and pa.types.is_primitive(values.type) and not pa.types.is_temporal(values.type):
        return values.cast(pa.string())
    raise ValueError("another kind of values")


def _hashes(values: pa.ChunkedArray) -> pa.Array:
    """Of bytes of a hash, or of its digits."""
    found: list[str | None] = []
    for one in values.to_pylist():
        if one and len(one) not in (HASH_BYTES, 2 * HASH_BYTES):
            raise ValueError(f"a hash of {len(one)} bytes")
        found.append(None if not one else one.hex() if len(one) == HASH_BYTES else one.decode("ascii"))
    return pa.array(found, pa.string())


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    is_view = pa.types.is_binary_view(kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind) or is_view
