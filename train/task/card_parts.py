"""What the cards of all exported models have: the licence in the header, accuracy, the list of outputs.

In: results, names, a licence. Out: lines of Markdown; names and licences in them are text. On disk: nothing.
"""

from collections.abc import Mapping, Sequence

from shards.disk.safe_text import clip, markdown, visible
from shards.views.dataset_card import HUB_LICENCES
from train.evaluate.results import Result, by_branch

MAX_CLASSES = 200  # on the card; all stand in the description beside the weights
MAX_SETS = 40


def licence_fields(licence: str | None) -> dict[str, object]:
    """Of the header that the hub reads; none for a licence that nobody gave."""
    if licence is None:
        return {}
    if licence.lower() in HUB_LICENCES:
        return {"license": licence.lower()}
    return {"license": "other", "license_name": visible(licence)}


def accuracy(results: Sequence[Result]) -> list[str]:
    """A table with a row for each test set and way to answer; nothing for no results."""
    if not results:
        return []
    rows = [
        f"| {markdown(clip(one.set, 80))}{'' if one.branch is None else f', {markdown(by_branch(one.branch))}'} "
        f"| {100 * one.top1:.2f} | {100 * one.top5:.2f} | {one.n:,} |"
        for one in results[:MAX_SETS]
    ]
    head = ["## Accuracy", "", "| test set | top-1, % | top-5, % | pictures |", "|---|---|---|---|"]
    return [*head, *rows, "", "One training, so no spread over seeds.", ""]


def outputs(names: Mapping[int, str], file: str) -> list[str]:
    """What each output is called; `file` has them all. Nothing for no names."""
    if not names:
        return []
    shown = [f"* {number}: {markdown(clip(name, 80))}" for number, name in sorted(names.items())[:MAX_CLASSES]]
    more = [f"* and {len(names) - MAX_CLASSES:,} more in {file}"] if len(names) > MAX_CLASSES else []
    return ["## Outputs", "", *shown, *more, ""]
