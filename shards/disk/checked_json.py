"""JSON from elsewhere, and JSON files that carry a hash of themselves, so that a changed or torn one is told.

In: JSON text; a JSON object. Out: its value; the bytes of a file with its `checksum`, and back. On disk: nothing.

A file without a `checksum` is one of an earlier version: it is read, and nobody can tell whether it is whole.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

CHECKSUM = "checksum"


def checksum_of(body: Mapping[str, object]) -> str:
    """Hex sha256 of a JSON object in one spelling. Raises ValueError if JSON cannot hold it exactly."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def plain_json(text: bytes | str) -> Any:
    """The value in JSON text (UTF-8). Raises ValueError for anything else: also for NaN, for a number that no float
    holds, and for lists in lists that are deeper than Python reads."""
    try:
        return json.loads(
            text if isinstance(text, str) else text.decode("utf-8"), parse_float=_finite, parse_constant=_finite
        )
    except RecursionError:
        raise ValueError("values that are nested too deep") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} in JSON")
    return value


def to_checked(body: Mapping[str, object]) -> bytes:
    """The bytes of the file. Raises ValueError if JSON cannot hold the object exactly."""
    whole = {**body, CHECKSUM: checksum_of(body)}
    return (json.dumps(whole, indent=2, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def parse_checked(data: bytes, where: str) -> dict[str, Any]:
    """The object in the bytes of a file, `CHECKSUM` included if it has one; `where` begins the messages.

    Raises ValueError if it is no whole JSON object, or if its content is not what its checksum says.
    """
    try:
        body = plain_json(data)
    except ValueError:
        what = "an empty file" if not data.strip(b"\0 \r\n") else "no whole JSON text"
        raise ValueError(f"{where}: found {what}, expected a JSON object") from None
    if not isinstance(body, dict):
        raise ValueError(f"{where}: found a JSON {type(body).__name__}, expected a JSON object")
    if CHECKSUM in body and not _is_whole(body):
        raise ValueError(f"{where}: found other content than its checksum says, expected the file as it was written")
    return body


def _is_whole(body: Mapping[str, object]) -> bool:
    try:
        return body[CHECKSUM] == checksum_of({name: value for name, value in body.items() if name != CHECKSUM})
    except (ValueError, RecursionError):  # nested as deep as it can be read
        return False
