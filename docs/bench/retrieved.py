"""What a retrieved data set of the sandbox shows: `python -m docs.bench.retrieved out/sandbox-retrieve out/pool`.

In: a data set that `sixfold retrieve` made, and the sandbox's pool, whose tables say what was planted. Out: a table of
shares with their 95 % Wilson intervals. On disk: only reads.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sandbox.bars import wilson
from sandbox.captions import shown_tests
from shards.disk.layout import SUCCESS
from shards.disk.store import open_for_reading
from shards.set.manifest import read_table, scan_records

TRUTH = ["URL", "sha256", "sense", "class_id", "kind", "duplicate_of", "near_test", "punsafe"]


def truth_of(data_set: str, pool: Path) -> list[dict[str, Any]]:
    """For each image the row of the pool that it is from, the test image that it `shows` (or -1), and the class that
    was `asked` for."""
    rows = pa.concat_tables([pq.read_table(path, columns=TRUTH) for path in sorted(pool.glob("*.parquet"))])
    shown = shown_tests(rows["near_test"].to_numpy(), rows["duplicate_of"].to_numpy()).tolist()
    planted = {row["URL"]: {**row, "shows": test} for row, test in zip(rows.to_pylist(), shown, strict=True)}
    store = open_for_reading(data_set)
    made = read_table(store, scan_records(store), ["url", "class_id", "status"]).to_pylist()
    return [{**planted[row["url"]], "asked": row["class_id"]} for row in made if row["status"] == SUCCESS]


def table(truth: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    of_class = [row["class_id"] == row["asked"] for row in truth]
    numeral = [row["sense"] == "numeral" for row in truth]
    asked = {
        "the numeral of the class": [a and b for a, b in zip(of_class, numeral, strict=True)],
        "the pips of the class, the other sense": [
            a and row["sense"] == "pips" for a, row in zip(of_class, truth, strict=True)
        ],
        "a picture whose caption is wrong": [row["kind"] == "wrong_caption" for row in truth],
        "a flagged picture": [row["punsafe"] > 0.5 for row in truth],
        "a copy of a test image": [row["shows"] >= 0 for row in truth],
    }
    lines = ["| an image shows | images | share | 95 % interval |", "|---|---|---|---|"]
    for what, right in asked.items():
        low, high = wilson(sum(right), len(right))
        lines.append(
            f"| {what} | {sum(right)} of {len(right)} | {sum(right) / len(right):.1%} | {low:.1%} to {high:.1%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(truth_of(sys.argv[1], Path(sys.argv[2]))))
