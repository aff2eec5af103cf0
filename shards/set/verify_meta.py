"""Checks what a data set keeps below `_meta` against its hashes and against the shards.

In: a store, and what `verify` found in the shards. Out: file -> what is wrong, and notes on what nobody can check, such
as samples of a subset whose shard is gone or damaged: they are back when it is made again. On disk: only reads.

Looked at: `run.json` and the files that its run wrote, `summary.json`, `subsets/`, the ledger. Logs, pages and the
quarantine decide nothing; they are not looked at.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from shards.disk.amounts import counted
from shards.disk.layout import MAX_ROWS_PER_SHARD, META, RUN
from shards.disk.record import Record
from shards.disk.safe_text import visible
from shards.disk.store import Store
from shards.set.ledger import LEDGER, read_ledger
from shards.set.manifest import SUBSETS, read_subset, subset_files, subset_names
from shards.set.origin import changed_files, read_origin, run_of
from shards.set.status import SUMMARY, read_summary


@dataclass
class Samples:
    """Keys and ids of the successes of a data set, keys rising."""

    keys: list[np.ndarray] = field(default_factory=list)  # whole numbers
    uids: list[np.ndarray] = field(default_factory=list)  # 16 raw bytes each
    whole: list[int] = field(default_factory=list)  # shards that are there without damage

    def are_told(self, keys: np.ndarray) -> np.ndarray:
        """Whether each key belongs to a whole shard."""
        return np.isin(keys // MAX_ROWS_PER_SHARD, self.whole)

    def strange(self, keys: np.ndarray, uids: np.ndarray) -> np.ndarray:
        """The places of those pairs that are no sample here, though their shard is whole."""
        known = np.concatenate([np.empty(0, np.int64), *self.keys])
        ids = np.concatenate([np.empty(0, "V16"), *self.uids])
        at = np.searchsorted(known, keys)
        there = at < len(known)
        there[there] = known[at[there]] == keys[there]
        there[there] = ids[at[there]] == uids[there]
        return np.flatnonzero(~there & self.are_told(keys))


@dataclass(frozen=True)
class MetaReport:
    """What is wrong (file -> one line), and what could not be checked."""

    wrong: Mapping[str, str]
    notes: tuple[str, ...]


def verify_meta(store: Store, records: Mapping[int, Record], samples: Samples) -> MetaReport:
    """Check everything; never raises for damage. `records`: of the shards whose record is valid."""
    wrong: dict[str, str] = {}
    notes: list[str] = []
    marks = [record.fingerprint for record in records.values()]
    try:
        origin = read_origin(store)
    except (OSError, ValueError) as error:
        wrong[RUN] = str(error)
    else:
        if origin is not None:
            wrong |= {f"{META}/{name}": what for name, what in changed_files(store, origin).items()}
            if marks and origin.fingerprint not in marks:
                wrong[RUN] = f"is that of run {origin.fingerprint[:12]}, which made none of the shards"
            if not origin.is_covered:
                notes.append(f"{RUN} has no checksum (an earlier version began this set): most of _meta is not covered")
        elif marks and run_of(None, marks) is None:
            wrong[RUN] = f"is missing, and the shards are of {len(set(marks))} runs: nobody can tell which one is right"
    try:
        read_summary(store)
    except (OSError, ValueError) as error:
        wrong[SUMMARY] = str(error)
    for name in subset_names(store):
        file = f"{SUBSETS}/{name}.json"
        try:
            notes += [f"{file}: {note}" for note in _subset_notes(store, name, samples)]
        except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
            wrong[file] = str(error)
    if others := subset_files(store)[1]:
        shown = ", ".join(visible(name)[:80] for name in others[:5])
        notes.append(f"{counted(len(others), 'other file')} among the subsets: {shown}")
    wrong |= _ledger_faults(store, records)
    return MetaReport(wrong, tuple(notes))


def _subset_notes(store: Store, name: str, samples: Samples) -> list[str]:
    """What nobody can tell of a subset. Raises ValueError or OSError if it is damaged."""
    table, _ = read_subset(store, name)
    keys = table["key"].cast("int64").to_numpy()
    uids = np.frombuffer(bytes.fromhex("".join(table["uid"].to_pylist())), "V16")
    is_sound = len(keys) == len(uids) and np.array_equal(keys // MAX_ROWS_PER_SHARD, table["shard"].to_numpy())
    strange = samples.strange(keys, uids) if is_sound else np.arange(len(keys))
    if len(strange):
        raise ValueError(f"names {len(strange)} samples that are not in the shards, first key {keys[strange[0]]:09d}")
    untold = len(keys) - int(samples.are_told(keys).sum())
    return [f"{untold:,} of its {len(keys):,} samples are of shards that are missing or damaged"] if untold else []


def _ledger_faults(store: Store, records: Mapping[int, Record]) -> dict[str, str]:
    """The ledger must say of each file what the record in it says."""
    for name, line in read_ledger(store).items():
        record = records.get(int(name[:5]))
        if record is not None and line.record != record and line.stamp == store.stamps().get(name):
            return {LEDGER: f"says something else of shard {name[:5]} than its record does"}
    return {}
