"""Counts over a data set: draws by class and status, models, licences, score histograms.

In: a store and its records, optionally a subset. Out: a `Census`, for the gallery and the dataset card. On disk:
nothing. One shard's table is in memory at a time. The result grows with the number of classes, models and styles, and
not with the number of images.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.disk.checked_json import plain_json
from shards.disk.layout import EDIT_FIELD, SUCCESS
from shards.disk.record import Record
from shards.disk.safe_text import clip
from shards.disk.store import Store
from shards.set.manifest import read_table
from shards.set.subset import Subset, chosen_rows, lost_shards
from shards.views.licence import may_be_passed_on

SCORES = {
    "similarity": (-1.0, 1.0),
    "aesthetic": (0.0, 10.0),
    "punsafe": (0.0, 1.0),
}  # column -> range of the histogram
SCORE_BINS = 400
MAX_SLOTS = 12
COUNTED = ("status", "domain", "licence", "prompt_kind", "style", "sampler")
COLUMNS = [
    "key",
    "uid",
    "class_id",
    "class_name",
    "meaning",
    "model",
    "revision",
    "context",
    *COUNTED,
    *SCORES,
    EDIT_FIELD.name,
]
MAX_MEANINGS = 8  # of a class; the others are in the tables only
LONGEST_VALUE = 200  # characters of a counted value
MAX_VALUES = 10_000  # distinct values counted per column, so that free text cannot fill the memory


@dataclass
class ClassCount:
    """One class: how its draws ended, and the meanings and domains of its accepted samples."""

    class_id: int
    name: str
    asked: int = 0  # samples that were wanted; of a subset, those that it has
    statuses: Counter[str] = field(default_factory=Counter)
    meanings: list[str] = field(default_factory=list)
    domains: set[str] = field(default_factory=set)

    @property
    def successes(self) -> int:
        """Accepted draws."""
        return self.statuses[SUCCESS]

    @property
    def rejected(self) -> list[tuple[str, int]]:
        """(status, number) of the rejected draws, the most frequent first."""
        return [(status, count) for status, count in self.statuses.most_common() if status != SUCCESS]

    @property
    def num_rejected(self) -> int:
        """Rejected draws."""
        return self.statuses.total() - self.successes


@dataclass
class Scores:
    """The values of one score column over the accepted samples, in `SCORE_BINS` equal bins of its range."""

    bins: np.ndarray
    total: float = 0.0

    @property
    def count(self) -> int:
        """Samples that have this score."""
        return int(self.bins.sum())


@dataclass
class Census:
    """All counts of a data set or a subset."""

    classes: dict[int, ClassCount] = field(default_factory=dict)
    values: dict[str, Counter[str]] = field(
        default_factory=lambda: {column: Counter() for column in (*COUNTED, "model")}
    )
    slots: dict[str, Counter[str]] = field(default_factory=dict)  # of the prompts, such as ink or background
    scores: dict[str, Scores] = field(
        default_factory=lambda: {column: Scores(np.zeros(SCORE_BINS, np.int64)) for column in SCORES}
    )
    edits: int = 0  # accepted samples whose rows say what was edited
    num_shards: int = 0
    short: int = 0

    @property
    def successes(self) -> int:
        """Accepted draws of all classes."""
        return sum(one.successes for one in self.classes.values())

    @property
    def rejected(self) -> int:
        """Rejected draws of all classes."""
        return sum(one.num_rejected for one in self.classes.values())

    @property
    def unlicensed(self) -> int:
        """Accepted samples that may not be passed on."""
        licences = self.values["licence"].items()
        return self.successes - sum(number for licence, number in licences if may_be_passed_on(licence))

    def sorted_classes(self) -> list[ClassCount]:
        """The classes in the order of their ids."""
        return [self.classes[class_id] for class_id in sorted(self.classes)]


def context_words(context: str | None) -> dict[str, str]:
    """The words of a prompt's slots from the column `context`: slot -> word. Text that is no such JSON has the slot
    `context`."""
    if not context:
        return {}
    try:
        words = plain_json(context)
    except ValueError:
        words = None
    if isinstance(words, dict) and all(isinstance(word, str) for word in words.values()):
        return words
    return {"context": context}


def licensed_rows(table: pa.Table) -> pa.Table:
    """The rows whose licence lets them be passed on."""
    return table.filter(pa.array([may_be_passed_on(one) for one in table["licence"].to_pylist()], pa.bool_()))


def take_census(
    store: Store,
    records: Mapping[int, Record],
    subset: Subset | None = None,
    on_shard: Callable[[int, pa.Table], None] = lambda shard, table: None,
    on_damage: Callable[[int, str], object] | None = None,
    licensed_only: bool = False,
) -> Census:
    """Count every shard with a record, in order; ``on_shard`` is called with each table (`COLUMNS`).

    A damaged table, or one that lacks samples of the subset, is left out, and ``on_damage`` is called, also for a shard
    of the subset that is not there; without ``on_damage`` it raises ValueError.
    """
    census = Census()
    for shard, line in lost_shards(subset or (), records).items():
        if on_damage is None:
            raise ValueError(f"{store.url}: the subset {line}")
        on_damage(shard, f"the subset {line}")
    for shard in sorted(records):
        if subset is not None and shard not in subset:
            continue
        try:
            table = chosen_rows(read_table(store, {shard: records[shard]}, COLUMNS), shard, subset)
        except (OSError, ValueError) as error:
            if on_damage is None:
                raise
            on_damage(shard, str(error))
            continue
        table = licensed_rows(table) if licensed_only else table
        census.num_shards += 1
        census.short += records[shard].short if subset is None else 0
        _count(census, table, records[shard])
        on_shard(shard, table)
    return census


def _count(census: Census, table: pa.Table, record: Record) -> None:
    is_short = record.short > 0  # then the last draw of a slot without an image has the slot's number
    columns = ("key", "class_id", "class_name", "status", "meaning", "domain")
    for key, class_id, name, status, meaning, domain in zip(*(table[one].to_pylist() for one in columns), strict=True):
        one = census.classes.get(class_id)
        if one is None:
            one = census.classes[class_id] = ClassCount(class_id, name)
        one.statuses[status] += 1
        one.asked += status == SUCCESS or (is_short and int(key[5:]) < record.slots)
        if status == SUCCESS:
            one.domains.add(domain)
        if meaning and status == SUCCESS and len(one.meanings) < MAX_MEANINGS:
            shown = clip(meaning, LONGEST_VALUE)
            one.meanings += [shown] if shown not in one.meanings else []
    _tally(census.values["status"], table["status"].to_pylist())
    kept = table.filter(pc.equal(table["status"], SUCCESS))
    census.edits += len(kept) - kept[EDIT_FIELD.name].null_count
    for column in COUNTED[1:]:
        _tally(census.values[column], kept[column].to_pylist())
    for context in kept["context"].to_pylist():
        for slot, word in context_words(context).items():
            if slot in census.slots or len(census.slots) < MAX_SLOTS:
                _tally(census.slots.setdefault(slot, Counter()), [word])
    models = zip(kept["model"].to_pylist(), kept["revision"].to_pylist(), strict=True)
    _tally(
        census.values["model"], (f"{model} @ {revision}" if model and revision else model for model, revision in models)
    )
    for column, (low, high) in SCORES.items():
        values = kept[column].drop_null().to_numpy()
        values = values[np.isfinite(values)]
        census.scores[column].bins += np.histogram(np.clip(values, low, high), SCORE_BINS, (low, high))[0]
        census.scores[column].total += float(values.sum(dtype=np.float64))


def _tally(counter: Counter[str], values: Iterable[str | None]) -> None:
    for value, number in Counter(values).items():
        if value:
            value = clip(value, LONGEST_VALUE)
            counter[value if value in counter or len(counter) < MAX_VALUES else "(other)"] += number
