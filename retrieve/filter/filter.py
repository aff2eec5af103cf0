"""Filters a data set: which samples stay is a subset with its rule, why the others go is a table; no tar is changed.

In: a data set of any domain, test sets, what is asked. Out: a table with a row for each sample. On disk:

    _meta/filters/<name>.parquet          `SCHEMA`: scores, the nearest test image, the reason, of every sample
    _meta/subsets/<name>.parquet, .json   the samples that stay, and the rule; written last

Nothing is written where the same rule stands under the name; another rule is refused. A rule names models and sets by
hashes of what they hold, so a copy elsewhere is the same, and a data set that grew since is another.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gen.model.clip import Clip, ClipSpec, clip_digest
from gen.model.nearest import nearest
from retrieve.dedup.descriptor import SCALES, Descriptor, DescriptorName, clip_descriptor, picture_descriptor
from retrieve.dedup.near import near_groups
from retrieve.filter.features import iter_features
from retrieve.filter.rule import KEPT, Candidates, Decision, Rule, decide
from retrieve.filter.score import TEMPLATES, class_rows, scores_of
from shards.disk.data_set import open_data_set
from shards.disk.layout import META, SUCCESS
from shards.disk.parquet import read_rows
from shards.disk.record import JSON, Record
from shards.disk.safe_text import quoted
from shards.disk.store import Store
from shards.set.manifest import (
    SUBSET_SCHEMA,
    has_subset,
    iter_tables,
    read_subset,
    refuse_name,
    scan_records,
    write_subset,
)
from shards.set.status import refuse_missing

FILTERS = f"{META}/filters"
SCHEMA = pa.schema(
    [
        *SUBSET_SCHEMA,
        pa.field("class_id", pa.int32(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # "kept", or why not: `retrieve.filter.rule`
        pa.field("clip_score", pa.float32()),  # null: no CLIP was given, or no picture
        pa.field("nearest_test", pa.string()),  # name of the test set / key
        pa.field("test_similarity", pa.float32()),
        pa.field("duplicate_of", pa.string()),  # uid of the one of its group that was preferred
    ]
)
COLUMNS = ["uid", "key", "shard", "status", "class_id", "class_name", "meaning", "sha256"]
MAX_TABLE_BYTES = 4 << 30

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]  # what is read, pictures done, of how many


@dataclass(frozen=True, kw_only=True)
class FilterSpec:
    """What is asked of a data set. Copies of the same bytes go in any case."""

    rule: Rule
    clip: ClipSpec | None = None
    templates: tuple[str, ...] = TEMPLATES
    unit_texts: bool = False  # normalise each text before the mean, as a zero-shot classifier does
    against: tuple[str, ...] = ()  # test sets
    descriptor: DescriptorName = "picture"
    near: float | None = None  # similarity above which two samples are near-duplicates; None: not asked

    def __post_init__(self) -> None:
        asks = self.rule.top is not None or self.rule.lowest is not None or self.rule.by_class
        if self.clip is None and asks:
            raise ValueError("a share or a lowest score: found no CLIP, expected the one that scores; give --clip")
        if self.clip is None and self.descriptor == "clip":
            raise ValueError("the descriptor clip: found no CLIP, expected one; give --clip, or take picture")
        if self.near is not None and not -1 <= self.near <= 1:
            raise ValueError(f"near: found {self.near:g}, expected a cosine from -1 to 1, such as 0.94")


@dataclass(frozen=True)
class Filtered:
    """What was decided."""

    table: pa.Table  # SCHEMA, in the order of the shards
    rule: Mapping[str, JSON]
    was_there: bool


def filter_data_set(
    store: Store, name: str, spec: FilterSpec, say: Say, on_progress: Progress, write: bool = True
) -> Filtered:
    """Decide, and write subset and table unless they are there, or `write` is False.

    Raises ValueError for a damaged data set or test set, one that is not finished or none, another rule under this
    name, a model that cannot be loaded.
    """
    refuse_name(name)  # before the work
    refuse_missing(store, "filter")
    records = scan_records(store)
    samples = _samples(store, records)
    tests = {url: open_data_set(url) for url in spec.against}
    for one in tests.values():
        refuse_missing(one, "--against")
    test_records = {url: scan_records(one) for url, one in tests.items()}
    names = names_of_classes(samples)
    asked = _with_defaults(spec)
    rule = _rule_json(spec, asked, records, {url: _content(test_records[url]) for url in tests}, names)
    there = _stored(store, name, rule, len(samples))
    if there is not None:
        return Filtered(there, rule, True)

    clip = None if spec.clip is None else Clip.load(spec.clip)
    descriptor = clip_descriptor(clip) if clip is not None and spec.descriptor == "clip" else picture_descriptor()
    ids = np.array(samples["uid"].to_pylist())
    classes = samples["class_id"].to_numpy().astype(np.int64)
    scores = np.zeros(len(samples), np.float32)  # equal, so that ids decide
    if clip is not None:
        texts = class_rows(clip, names, spec.templates, spec.unit_texts)
        images, unreadable = _rows_of(store, records, clip_descriptor(clip), say, on_progress, "CLIP")
        scores = scores_of(images, classes, texts)
        scores[unreadable] = np.nan
    similarity: NDArray[np.float32] | None = None
    nearest_test: list[str | None] = [None] * len(samples)
    groups: NDArray[np.int64] | None = None
    if tests or spec.near is not None:
        pictures, unreadable = _rows_of(store, records, descriptor, say, on_progress, "pictures")
        scores[unreadable] = np.nan
        if tests:
            similarity, nearest_test = _nearest_tests(pictures, tests, test_records, descriptor, say, on_progress)
        if spec.near is not None:
            groups = near_groups(pictures, spec.near)
    candidates = Candidates(
        ids=ids,
        classes=classes,
        scores=scores,
        test_similarity=similarity,
        same=_same_bytes(samples["sha256"]),
        near=groups,
    )
    table = _table(samples, candidates, decide(candidates, asked), nearest_test, has_scores=clip is not None)
    if write:
        _write_table(store, name, table)
        write_subset(store, name, table.filter(pc.equal(table["reason"], KEPT)), rule)
    return Filtered(table, rule, False)


def rows_of_set(source: str, descriptor: Descriptor, say: Say) -> NDArray[np.float16]:
    """A row for each picture of a data set, such as a test set. Raises ValueError for what is none, and for one that is
    not finished."""
    store = open_data_set(source)
    refuse_missing(store, "dedup.against")
    return _rows_of(store, scan_records(store), descriptor, say, lambda what, done, total: None, "pictures")[0]


def names_of_classes(samples: pa.Table) -> dict[int, str]:
    """Class id -> what most of its samples are called: their meaning if they have one, else the name of the class. Of
    equally frequent ones the first in the alphabet."""
    seen: dict[int, Counter[str]] = {}
    columns = samples.group_by(["class_id", "class_name", "meaning"]).aggregate([([], "count_all")])
    for row in columns.to_pylist():
        called = row["meaning"] or row["class_name"]
        seen.setdefault(row["class_id"], Counter())[called] += row["count_all"]
    return {one: min(words, key=lambda word: (-words[word], word)) for one, words in sorted(seen.items())}


def _samples(store: Store, records: Mapping[int, Record]) -> pa.Table:
    tables = iter_tables(store, dict(sorted(records.items())), COLUMNS)
    parts = [table.filter(pc.equal(table["status"], SUCCESS)) for table in tables]
    if not sum(map(len, parts)):
        raise ValueError(f"{store.url}: found no sample, expected a data set; generate it first")
    return pa.concat_tables(parts)


def _rows_of(
    store: Store, records: Mapping[int, Record], descriptor: Descriptor, say: Say, on_progress: Progress, what: str
) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """(rows of all samples, places of those whose picture cannot be read)."""
    blocks: list[NDArray[np.float16]] = []
    unreadable: list[int] = []
    at = 0
    for shard, found in iter_features(store, records, descriptor, say, lambda done, of: on_progress(what, done, of)):
        blocks.append(found.rows)
        unreadable += [at + place for place in found.unreadable]
        for place, why in found.unreadable.items():
            say(f"shard {shard}, sample {place}: {why}; it is left out")
        at += len(found.rows)
    width = max(block.shape[1] for block in blocks)
    same = [block if block.shape[1] == width else np.zeros((len(block), width), np.float16) for block in blocks]
    return np.concatenate(same), np.array(unreadable, np.int64)


def _nearest_tests(
    pictures: NDArray[np.float16],
    tests: Mapping[str, Store],
    records: Mapping[str, Mapping[int, Record]],
    descriptor: Descriptor,
    say: Say,
    on_progress: Progress,
) -> tuple[NDArray[np.float32], list[str | None]]:
    best = np.full(len(pictures), -1, np.float32)
    names = np.full(len(pictures), None, object)
    for url, store in tests.items():
        rows, _ = _rows_of(store, records[url], descriptor, say, on_progress, f"pictures of {_name_of(url)}")
        keys = np.array([f"{_name_of(url)}/{key}" for key in _samples(store, records[url])["key"].to_pylist()], object)
        number, found = nearest(pictures, rows)
        is_better = found > best
        best[is_better] = found[is_better]
        names[is_better] = keys[number[is_better]]
    return best, names.tolist()


def _same_bytes(hashes: pa.ChunkedArray) -> NDArray[np.int64]:
    _, first, group = np.unique(np.array(hashes.to_pylist(), "U64"), return_index=True, return_inverse=True)
    return first[group].astype(np.int64)


def _table(
    samples: pa.Table,
    candidates: Candidates,
    decision: Decision,
    nearest_test: list[str | None],
    has_scores: bool,
) -> pa.Table:
    scores, similarity = candidates.scores, candidates.test_similarity
    assert scores is not None
    return pa.table(
        {
            **{name: samples[name] for name in (*SUBSET_SCHEMA.names, "class_id", "class_name")},
            "reason": pa.array(decision.reasons.tolist(), pa.string()),
            "clip_score": pa.array(scores, pa.float32(), mask=np.isnan(scores) | (not has_scores)),
            "nearest_test": pa.array(nearest_test, pa.string()),
            "test_similarity": pa.nulls(len(scores), pa.float32()) if similarity is None else pa.array(similarity),
            "duplicate_of": pa.array(
                [None if at < 0 else str(candidates.ids[at]) for at in decision.instead], pa.string()
            ),
        },
        schema=SCHEMA,
    )


# the rule, and what is stored


def _with_defaults(spec: FilterSpec) -> Rule:
    """The rule; where test sets are named and no threshold is, with that of the descriptor."""
    if not spec.against or spec.rule.test_above is not None:
        return spec.rule
    return replace(spec.rule, test_above=SCALES[spec.descriptor].test_above)


def _rule_json(
    spec: FilterSpec,
    rule: Rule,
    records: Mapping[int, Record],
    tests: Mapping[str, str],
    names: Mapping[int, str],
) -> dict[str, JSON]:
    asked: dict[str, JSON] = {
        "filter": 1,
        "of": _content(records),
        "top": rule.top,
        "by_class": {str(one): float(score) for one, score in sorted(rule.by_class.items())},
        "lowest": rule.lowest,
        "cap": rule.cap,
        "near": spec.near,
        "test_above": rule.test_above if spec.against else None,
        "against": [{"name": _name_of(url), "of": content} for url, content in tests.items()],
    }
    if spec.clip is not None:
        asked |= {"clip": clip_digest(spec.clip), "unit_texts": spec.unit_texts, "templates": list(spec.templates)}
        asked["names"] = {str(one): name for one, name in names.items()}
    if spec.against or spec.near is not None:
        asked["descriptor"] = spec.descriptor
    return asked


def _content(records: Mapping[int, Record]) -> str:
    """A hash of all tars, by shard."""
    text = "".join(f"{shard} {record.tar.sha256}\n" for shard, record in sorted(records.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def _name_of(url: str) -> str:
    return url.rstrip("/").rpartition("/")[2] or url


def _stored(store: Store, name: str, rule: Mapping[str, JSON], num: int) -> pa.Table | None:
    """The table of the same rule under this name; None if there is no such subset, only one of its two files, or no
    table of it."""
    if not has_subset(store, name):
        return None
    _, its_rule = read_subset(store, name)
    if its_rule != rule:
        differs = sorted(key for key in {*rule, *its_rule} if rule.get(key) != its_rule.get(key))
        raise ValueError(
            f"{store.url}: found a subset {quoted(name, 60)} of another rule (other: {', '.join(differs)[:120]}), "
            "expected none or this one; give another --name"
        )
    try:
        table: Any = read_rows(store.read_bytes(f"{FILTERS}/{name}.parquet"), most=MAX_TABLE_BYTES)
    except (OSError, ValueError, pa.ArrowException):
        return None
    return table if table.schema.equals(SCHEMA) and len(table) == num else None


def _write_table(store: Store, name: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    store.replace(f"{FILTERS}/{name}.parquet", sink.getvalue().to_pybytes())
