"""Small pictures of rejected draws, so that a person can judge the screen; they lie in the footer of a shard's table.

In: images that were rejected, and the keys of their rows. Out: JPEGs of at most `LONGEST_PX`, by key. On disk: one
entry of the key-value metadata of `NNNNN.parquet`: `sixfold.rejected`, in JSON, key -> JPEG in base64.

It is no column: tables of earlier versions have the same schema, other tools read the table as before, and a table
without such pictures has the bytes that it always had. The hash in the record covers it.

A shard keeps the first four of each reason, at most 16 pictures and 64 KB. Reasons that are not in `KEPT` keep none:
what a safety checker objects to, or did not look at, is never stored, and NaN has no pixels to show.
"""

import base64
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.disk.checked_json import plain_json
from shards.disk.jpeg import SourceType, decode_jpeg, encode_jpeg
from shards.disk.layout import KEY_PATTERN

ENTRY = "sixfold.rejected"
KEPT = frozenset(
    {"black", "blank", "flat", "low_score", "rejected"}
)  # statuses that come after the safety checker has passed
LONGEST_PX = 96
OF_A_REASON = 4
OF_A_SHARD = 16
MAX_BYTES = 64 << 10  # of the JPEGs of a shard
QUALITY = 80
_MAX_TEXT = 2 * MAX_BYTES  # base64 takes four thirds


@dataclass
class RejectedPictures:
    """Those of one shard, as they come; what is over the bounds is left out."""

    jpegs: dict[str, bytes] = field(default_factory=dict)  # key -> JPEG
    _reasons: Counter[str] = field(default_factory=Counter)

    def offer(self, key: str, status: str, jpeg: bytes) -> None:
        """Keep the picture of a row if there is room for it."""
        room = MAX_BYTES - sum(map(len, self.jpegs.values()))
        if len(self.jpegs) < OF_A_SHARD and self._reasons[status] < OF_A_REASON and len(jpeg) <= room:
            self.jpegs[key] = jpeg
            self._reasons[status] += 1


def rejected_picture(status: str, image_HWC: np.ndarray | None, source_type: SourceType | None) -> bytes | None:
    """The small JPEG of a rejected image; None if it may not be kept, or is no picture at all.

    The mean of whole blocks of pixels, in whole numbers: the same on every machine.
    """
    if status not in KEPT or image_HWC is None or image_HWC.dtype != np.uint8:
        return None
    if image_HWC.ndim != 3 or image_HWC.shape[2] != 3 or 0 in image_HWC.shape:
        return None
    block = -(-max(image_HWC.shape[:2]) // LONGEST_PX)
    height, width = image_HWC.shape[0] // block, image_HWC.shape[1] // block
    if not height or not width:  # a strip
        return None
    whole_HWC = image_HWC[: height * block, : width * block]
    rows_HWC = whole_HWC.reshape(height, block, width * block, 3).sum(axis=1, dtype=np.uint32)
    sums_HWC = rows_HWC.reshape(height, width, block, 3).sum(axis=2)
    small_HWC = (sums_HWC // (block * block)).astype(np.uint8)
    return encode_jpeg(small_HWC, QUALITY, "420", source_type)


def table_entry(jpegs: Mapping[str, bytes]) -> dict[str, str]:
    """The metadata of a table that holds the pictures; {} for none."""
    texts = {key: base64.b64encode(jpeg).decode("ascii") for key, jpeg in jpegs.items()}
    return {ENTRY: json.dumps(texts, sort_keys=True)} if texts else {}


def pictures_in(table: bytes) -> dict[str, bytes]:
    """Key -> JPEG, of the pictures in the bytes of a table; {} if it has none.

    Raises ValueError if they are not as the writer makes them: over the bounds, or no JPEGs.
    """
    text = (pq.ParquetFile(pa.BufferReader(table)).metadata.metadata or {}).get(ENTRY.encode(), b"{}")
    if len(text) > _MAX_TEXT:
        raise ValueError(f"{ENTRY}: found {len(text):,} bytes, expected at most {_MAX_TEXT:,}")
    texts = plain_json(text)
    if not isinstance(texts, dict) or len(texts) > OF_A_SHARD:
        raise ValueError(f"{ENTRY}: found no JSON object of at most {OF_A_SHARD} pictures")
    jpegs = {}
    for key, encoded in texts.items():
        if not KEY_PATTERN.fullmatch(key) or not isinstance(encoded, str):
            raise ValueError(f"{ENTRY}: found {str(key)[:20]!r}, expected the key of a row with text")
        jpeg = base64.b64decode(encoded, validate=True)
        if max(decode_jpeg(jpeg).shape[:2]) > LONGEST_PX:
            raise ValueError(f"{ENTRY}: found a picture of more than {LONGEST_PX} px, key {key}")
        jpegs[key] = jpeg
    return jpegs
