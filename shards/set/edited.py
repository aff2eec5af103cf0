"""Subsets by what was edited: only feasible backgrounds, say, out of a set with both sides and several kinds.

In: a data set of ours with the column `edit`, the values that shall stay. Out and on disk: a subset with its rule, see
`shards.set.manifest`.

Kinds and sides take turns over the edits of a source (`gen.edit.attributes.draw`): feasible alone out of 2x is one edit
of each source again.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from shards.disk.checked_json import plain_json
from shards.disk.layout import EDIT_FIELD
from shards.disk.record import JSON
from shards.disk.safe_text import quoted
from shards.disk.store import Store
from shards.set.manifest import write_subset_once
from shards.set.subset import iter_samples

KEYS = ("side", "kind", "attribute")  # of the column's JSON
MAX_TOLD = 12  # values in a message


def parse_where(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """`["side=feasible", "kind=colour", "kind=texture"]` -> key to values. Raises ValueError for other words."""
    where: dict[str, tuple[str, ...]] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in KEYS or not equals or not value:
            raise ValueError(f"--where: found {quoted(word, 60)}, expected {', '.join(f'{one}=...' for one in KEYS)}")
        where[key] = (*where.get(key, ()), value)
    return where


def write_edited(store: Store, name: str, where: Mapping[str, Sequence[str]], of: str | None = None) -> int:
    """Write the subset `name`: the samples whose edit has one of the values of each key, out of the subset `of` (None:
    of all); how many they are. Nothing changes where it is there already.

    Raises ValueError if there are none, naming the values that are there, as `iter_samples` does, and for a subset of
    this name with other samples.
    """
    columns = ["uid", "key", "shard", "status", EDIT_FIELD.name]
    seen: dict[str, Counter[str]] = {key: Counter() for key in where}
    parts = []
    for table in iter_samples(store, of, columns, "subset"):
        stays = []
        for told in map(_told, table[EDIT_FIELD.name].to_pylist()):
            for key, values in seen.items():
                if told is not None:
                    values[str(told.get(key))] += 1
            stays.append(told is not None and all(told.get(key) in values for key, values in where.items()))
        parts.append(table.filter(pa.array(stays, pa.bool_())))
    num_samples = sum(map(len, parts))
    if not num_samples:
        there = "; ".join(
            f"{key}: {', '.join(quoted(value, 40) for value, _ in values.most_common(MAX_TOLD))}"
            for key, values in seen.items()
            if values
        )
        raise ValueError(
            f"{store.url}: found no sample with {_words(where)}, expected some; there is {there or 'no edit at all'}"
        )
    rule: dict[str, JSON] = {"where": {key: list(values) for key, values in where.items()}, "of": of}
    write_subset_once(store, name, pa.concat_tables(parts), rule)
    return num_samples


def _words(where: Mapping[str, Sequence[str]]) -> str:
    return " and ".join(f"{key} {' or '.join(quoted(one, 40) for one in values)}" for key, values in where.items())


def _told(text: str | None) -> Mapping[str, Any] | None:
    """The column's JSON; None where nothing was edited."""
    if text is None:
        return None
    try:
        told = plain_json(text)
    except ValueError:
        return None
    return told if isinstance(told, dict) else None
