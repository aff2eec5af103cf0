"""The origin of a data set, `_meta/run.json`: which run or import began it, and the hashes of what it wrote beside.

In: a store. Out: an `Origin`. On disk: `_meta/run.json` with the `fingerprint` of every record, `files` (name below
`_meta` -> sha256) and a checksum of itself; the run that began the set keeps more there.

A set of an earlier version has no checksum and at most the hash of its prompts; an import of an earlier version has no
`run.json`. What has no hash is not covered: `verify` says so, and nothing calls it damaged.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shards.disk.checked_json import CHECKSUM, parse_checked, to_checked
from shards.disk.layout import META, RUN
from shards.disk.store import Store

MAX_ORIGIN_BYTES = 1 << 24
PROMPTS = "prompts.parquet"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Origin:
    """What `run.json` says."""

    fingerprint: str
    files: Mapping[str, str]  # name below `_meta` -> sha256
    body: Mapping[str, Any]  # all of it
    is_covered: bool  # False for a set of an earlier version


def read_origin(store: Store) -> Origin | None:
    """The origin; None if nothing says who began the set. Raises ValueError if the file is damaged."""
    try:
        data = store.read_range(RUN, 0, MAX_ORIGIN_BYTES + 1)
    except FileNotFoundError:
        return None
    where = f"{store.url}/{RUN}"
    advice = "run `sixfold repair`, then the same command again"
    if len(data) > MAX_ORIGIN_BYTES:
        raise ValueError(f"{where}: found more than {MAX_ORIGIN_BYTES} bytes, expected a few thousand; {advice}")
    try:
        body = parse_checked(data, where)
    except ValueError as error:
        raise ValueError(f"{error}; {advice}") from None
    mark, files = body.get("fingerprint"), body.get("files", {})
    if "prompts_sha256" in body:
        files = {PROMPTS: body["prompts_sha256"], **files} if isinstance(files, dict) else None
    if not isinstance(files, dict) or not all(_is_sha256(value) for value in (mark, *files.values())):
        raise ValueError(
            f"{where}: found no fingerprint and hashes of 64 hex digits, expected those of a run; {advice}"
        )
    return Origin(str(mark), files, body, CHECKSUM in body)


def origin_bytes(fingerprint: str, files: Mapping[str, bytes], more: Mapping[str, Any]) -> bytes:
    """The contents of `run.json` for a run that has written `files` (name below `_meta` -> contents)."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return to_checked({"fingerprint": fingerprint, "files": hashes, **more})


def changed_files(store: Store, origin: Origin) -> dict[str, str]:
    """Name below `_meta` -> what is wrong, of the files that are gone or are not as the origin's run wrote them."""
    wrong = {}
    for name, sha256 in sorted(origin.files.items()):
        try:
            if hashlib.sha256(store.read_bytes(f"{META}/{name}")).hexdigest() != sha256:
                wrong[name] = "found other bytes than those that the run wrote"
        except FileNotFoundError:
            wrong[name] = "found no such file, expected the one that the run wrote"
        except (OSError, ValueError) as error:
            wrong[name] = f"cannot be read ({error})"
    return wrong


def run_of(origin: Origin | None, fingerprints: Iterable[str]) -> str | None:
    """The fingerprint that the records must have; None if nobody can tell.

    That of the origin, if a record has it. Else the origin is lost or is another set's, and most of the records decide.
    """
    counts = Counter(fingerprints)
    if origin is not None and (not counts or counts[origin.fingerprint]):
        return origin.fingerprint
    for mark, num in counts.most_common(1):
        if 2 * num > counts.total():
            return mark
    return None


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None
