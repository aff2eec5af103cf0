"""Names, keys and columns of a data set on disk; pure.

A data set is a folder (or fsspec URL):

    00000.tar            members {key}.cls .jpg .json .txt, key = 9 digits
    00000.parquet        one row per draw, SAMPLE_SCHEMA (and EDIT_FIELD); rejected draws included
    00000_stats.json     the record: written last; a shard is done when it is there
    README.md            which files are data, for Hugging Face
    _meta/               everything else (recipe, prompts, subsets, logs, claims, quarantine, gallery)

The layout and the key rule are img2dataset's (10,000 rows a shard, 5-digit shard numbers), so its tools,
webdataset, timm, open_clip, Hugging Face datasets and Ray Data read the folder as it is.
"""

import re

import pyarrow as pa

MAX_ROWS_PER_SHARD = 10_000
MAX_SHARDS = 100_000
META = "_meta"
RUN = f"{META}/run.json"  # which run began the data set: its fingerprint is that of every record
MEMBER_EXTENSIONS = ("cls", "jpg", "json", "txt")
CARD = "README.md"
SUCCESS = "success"
DOMAINS = ("real", "synthetic", "retrieved", "edited")

KEY_PATTERN = re.compile(r"[0-9]{9}")
TAR, TABLE, RECORD = ".tar", ".parquet", "_stats.json"  # how the names of a shard's files end
# every name in a store is such: plain, relative, no part that begins a way out
_NAME = re.compile(r"(?!\.{1,2}(/|$))[A-Za-z0-9._-]{1,200}(/(?!\.{1,2}(/|$))[A-Za-z0-9._-]{1,200}){0,7}")
_SHARD_FILE = re.compile(r"([0-9]{5})(\.tar|\.parquet|_stats\.json)")


def shard_name(shard: int) -> str:
    """``7`` -> ``"00007"``. Raises ValueError outside 0..99,999."""
    if not 0 <= shard < MAX_SHARDS:
        raise ValueError(f"shard {shard}: found a number outside 0..{MAX_SHARDS - 1}; use larger shards")
    return f"{shard:05d}"


def shard_of(name: str, ending: str | None = None) -> int | None:
    """The shard whose file has this name, ``"00007.tar"`` -> 7; None for other names, or for another ending."""
    found = _SHARD_FILE.fullmatch(name)
    return int(found[1]) if found and ending in (None, found[2]) else None


def checked_name(name: str) -> str:
    """`name`, if it is plain and relative. Raises ValueError otherwise: no such name may come from data."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"file name: found {name[:80]!r}, expected parts of letters, digits, '.', '-' and '_'")
    return name


def sample_key(shard: int, row: int) -> str:
    """The globally unique member key, ``(7, 5)`` -> ``"000070005"``. Raises ValueError if row >= 10,000."""
    if not 0 <= row < MAX_ROWS_PER_SHARD:
        raise ValueError(f"row {row} of shard {shard}: expected 0..{MAX_ROWS_PER_SHARD - 1}; use smaller shards")
    return f"{shard_name(shard)}{row:04d}"


def tar_name(shard: int) -> str:
    """``7`` -> ``"00007.tar"``."""
    return f"{shard_name(shard)}{TAR}"


def table_name(shard: int) -> str:
    """``7`` -> ``"00007.parquet"``."""
    return f"{shard_name(shard)}{TABLE}"


def record_name(shard: int) -> str:
    """``7`` -> ``"00007_stats.json"``."""
    return f"{shard_name(shard)}{RECORD}"


# What a producer must say about every draw. img2dataset's columns keep img2dataset's names and meaning;
# scores keep LAION's names (similarity, punsafe, aesthetic) and are null until something measures them.
SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # 9 digits; a success has members under this key
        pa.field("uid", pa.string(), nullable=False),  # 128-bit hex of (run seed, sample id, draw)
        pa.field("status", pa.string(), nullable=False),  # "success" or why the draw is not a sample
        pa.field("error_message", pa.string()),
        pa.field("domain", pa.string(), nullable=False),  # real | synthetic | retrieved | edited
        pa.field("class_id", pa.int32(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("url", pa.string()),  # of what was downloaded; of an edit its source: key#sha256=...; else null
        pa.field("caption", pa.string(), nullable=False),  # the prompt as the generator saw it
        # the parts of the prompt
        pa.field("prompt_id", pa.int32()),
        pa.field("prompt_kind", pa.string()),
        pa.field("prompt_form", pa.string()),  # the prompt with slots: {name}, those of context, {style}
        pa.field("meaning", pa.string()),  # what stands in the slot {name}; null = class_name does
        pa.field("context", pa.string()),  # JSON: slot -> word
        pa.field("style", pa.string()),
        pa.field("negative", pa.string()),
        # which image of that prompt
        pa.field("replicate", pa.int32()),
        pa.field("draw", pa.int16()),  # 0 = first try; a rejected draw is followed by draw + 1
        pa.field("seed", pa.int64()),  # 63 bits, of (run seed, sample id, draw); torch reads the low 32
        pa.field("batch", pa.int32()),  # number of the model call inside the unit
        # what made it
        pa.field("model", pa.string()),
        pa.field("revision", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("sampler", pa.string()),  # one line of JSON: scheduler, steps, guidance, size, dtype
        # the pixels
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("original_width", pa.int32()),
        pa.field("original_height", pa.int32()),
        pa.field("exif", pa.string()),
        pa.field("similarity", pa.float32()),
        pa.field("punsafe", pa.float32()),
        pa.field("aesthetic", pa.float32()),
    ]
)

# What the writer adds: where each member's bytes lie in the tar (offset of the data, not of the header).
# `sha256` is that of the stored JPEG bytes, as in img2dataset.
MEMBER_FIELDS = [
    field
    for extension in MEMBER_EXTENSIONS
    for field in (
        pa.field(f"{extension}_offset", pa.int64()),
        pa.field(f"{extension}_size", pa.int64()),
        pa.field("sha256" if extension == "jpg" else f"{extension}_sha256", pa.string()),
    )
]

TABLE_SCHEMA = pa.schema([*SAMPLE_SCHEMA, pa.field("shard", pa.int32(), nullable=False), *MEMBER_FIELDS])

# Of shards whose images were edited: what was done, one line of JSON a row. Other tables keep the schema, and the
# bytes, that they have had since the first version.
EDIT_FIELD = pa.field("edit", pa.string())
EDITED_SCHEMA = pa.schema([*TABLE_SCHEMA, EDIT_FIELD])
