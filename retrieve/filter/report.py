"""What a filter did, in lines; and the files that people give to it and take from it.

In: a `Filtered`; a YAML of lowest scores, a text of templates. Out: lines, values. On disk: the keys that stay, one a
line, as the programs of Unmet Promise read them.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from cluster.recipes.load import plain_yaml
from retrieve.filter.filter import FILTERS, Filtered
from retrieve.filter.rule import IN_TEST_SET, KEPT, REASONS
from retrieve.filter.score import SLOT
from shards.disk.amounts import counted
from shards.disk.replace import replace_file
from shards.disk.safe_text import one_line, quoted, visible
from shards.disk.store import Store
from shards.labels.text_file import read_lines, read_text
from shards.set.manifest import iter_tables, scan_records

MAX_CLASSES = 20  # that are told one by one
MAX_COPIES = 5
_WORDS = {
    "kept": "stay",
    "no_score": "have no readable picture",
    "low_score": "score below the threshold of their class",
    "in_test_set": "are too like a test image",
    "duplicate": "have the bytes of another",
    "near_duplicate": "are near-duplicates of another",
    "over_cap": "are beyond the cap of their class",
}


def describe(found: Filtered, name: str, is_dry: bool) -> str:
    """Lines: how many stay and why others go, by class with the least and the median score, and what selects them."""
    table = found.table
    reasons = Counter(table["reason"].to_pylist())
    lines = [f"{reasons[KEPT]:,} of {counted(len(table), 'sample')} stay"]
    lines += [f"{reasons[reason]:>9,} {_WORDS[reason]}" for reason in REASONS if reasons[reason]]
    copies = table.filter(pc.equal(table["reason"], IN_TEST_SET)).sort_by([("test_similarity", "descending")])
    for row in copies.slice(0, MAX_COPIES).to_pylist():
        lines.append(f"{row['key']} is too like {one_line(row['nearest_test'], 80)}: {row['test_similarity']:.3f}")
    lines += _by_class(found)
    if is_dry:
        lines.append("nothing was written")
    elif found.was_there:
        lines.append(f"the subset {visible(name)} of this rule was there: nothing to do")
    else:
        lines.append(f"scores and reasons of all: {FILTERS}/{visible(name)}.parquet")
    if not is_dry:
        lines.append(f"read the subset with data.domains.N.subset={visible(name)}")
    return "\n".join(lines)


def _by_class(found: Filtered) -> list[str]:
    """A line for each class; of many classes those that keep the smallest share."""
    table = found.table
    classes = table["class_id"].to_numpy()
    kept = pc.equal(table["reason"], KEPT).to_numpy(zero_copy_only=False)
    scores = table["clip_score"].to_numpy(zero_copy_only=False).astype(np.float64)
    ids, first, group = np.unique(classes, return_index=True, return_inverse=True)
    has, stays = np.bincount(group), np.bincount(group, kept)
    names = table["class_name"].take(first).to_pylist()
    order = np.arange(len(ids)) if len(ids) <= MAX_CLASSES else np.argsort(stays / has, kind="stable")[:MAX_CLASSES]
    lines = [] if len(ids) <= MAX_CLASSES else [f"the {MAX_CLASSES} of {len(ids):,} classes that keep least:"]
    for at in order:
        line = f"class {ids[at]} {one_line(names[at], 40)}: {int(stays[at]):,} of {has[at]:,}"
        values = scores[kept & (group == at)]
        values = values[~np.isnan(values)]
        if len(values):
            line += f", scores of those from {values.min():.3f}, median {np.median(values):.3f}"
        lines.append(line)
    return lines


def read_scores(path: Path, store: Store) -> dict[int, float]:
    """Class id -> lowest score, of a YAML file of lines `name or id: score`.

    Raises ValueError for a name that no class or several of the data set have, and for what is no number.
    """
    try:
        data, _ = plain_yaml(read_text(path).encode())
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: found no plain YAML ({one_line(str(error), 100)}), expected `name: score`") from None
    if not isinstance(data, dict) or not data:
        raise ValueError(f"{path}: found no lines `name or id: score`, expected some")
    by_name: dict[str, set[int]] = {}
    for table in iter_tables(store, scan_records(store), ["class_id", "class_name"]):
        for row in table.group_by(["class_id", "class_name"]).aggregate([]).to_pylist():
            by_name.setdefault(row["class_name"], set()).add(row["class_id"])
    ids = set().union(*by_name.values())
    found: dict[int, float] = {}
    for key, score in data.items():
        named = {key} & ids if isinstance(key, int) else by_name.get(str(key), set())
        if len(named) != 1 or isinstance(score, bool) or not isinstance(score, int | float):
            what = "several classes" if len(named) > 1 else "no class" if not named else quoted(str(score), 30)
            raise ValueError(f"{path}: found {what} at {quoted(str(key), 60)}, expected a class of the set and a score")
        found[named.pop()] = float(score)
    return found


def read_templates(path: Path) -> tuple[str, ...]:
    """The lines of the file. Raises ValueError for one without `{name}`, or none."""
    lines = tuple(read_lines(path))
    if not lines or any(SLOT not in line for line in lines):
        raise ValueError(f"{path}: found no line or one without {SLOT}, expected texts such as 'a photo of {SLOT}.'")
    return lines


def write_ids(path: Path, table: pa.Table) -> None:
    """The keys that stay, one a line. Raises OSError."""
    keys = table.filter(pc.equal(table["reason"], KEPT))["key"].to_pylist()
    replace_file(path, "".join(f"{key}\n" for key in keys).encode())
