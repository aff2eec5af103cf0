"""What a data set is called on its pages: its recipe, its scale, when it was made, its fingerprint.

In: a store and its records. Out: a `Title`. On disk: reads `_meta/run.json` and `_meta/summary.json`; where they are
missing or damaged, the name of the folder stands for the recipe, and what nobody knows is left out.
"""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from shards.disk.record import Record
from shards.disk.safe_text import redact
from shards.disk.store import Store
from shards.set.origin import read_origin
from shards.set.status import read_summary

SHORT = 12  # digits of a fingerprint
_RECIPE = re.compile(r"[a-z0-9][a-z0-9-]{0,79}")
_SCALE = re.compile(r"[0-9.]{1,12}x")


@dataclass(frozen=True)
class Title:
    """Texts; "" stands for what is not known."""

    name: str  # of the recipe, else of the folder
    scale: str  # 6x
    day: str  # 29 November 2026: when the last shard was finished, in UTC
    fingerprint: str  # its first digits
    folder: str

    @property
    def text(self) -> str:
        """``sandbox 6x``."""
        return f"{self.name} {self.scale}".strip()


def title_of(store: Store, records: Mapping[int, Record]) -> Title:
    """The title of a data set; never raises for a damaged file, which `sixfold verify` names."""
    folder = redact(store.url).rstrip("/").rpartition("/")[2] or "data set"
    name, scale, fingerprint = folder, "", ""
    with contextlib.suppress(ValueError, OSError):
        origin = read_origin(store)
        if origin is not None:
            fingerprint = origin.fingerprint[:SHORT]
            identity = origin.body.get("identity")
            called = identity.get("name") if isinstance(identity, dict) else None
            if isinstance(called, str) and _RECIPE.fullmatch(called):
                name = called
    with contextlib.suppress(ValueError, OSError):
        last = read_summary(store)
        if last is not None and _SCALE.fullmatch(last.scale):
            scale = last.scale
    return Title(name, scale, _day(records), fingerprint, folder)


def _day(records: Mapping[int, Record]) -> str:
    with contextlib.suppress(ValueError, OverflowError, OSError):  # a date that no calendar has
        last = datetime.fromtimestamp(max(record.end_time for record in records.values()), UTC)
        return f"{last.day} {last:%B %Y}"
    return ""
