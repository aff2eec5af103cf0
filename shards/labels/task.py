"""Tasks: the data sets that are often compared, their classes, and the words that go with them; no images.

In: the name of a task, such as "dtd". Out: a `Task`. On disk, one file a task in tasks/ beside this file:

    count       how many classes it has
    kind        what its classes are (shards.labels.classes.KINDS); a class may have its own
    templates   sentences with {name}, or with {subject} for the name with its article: texts to compare images with
    query       how captions are searched for a class, where its name alone would not do; queries: for single classes
    classes     names in the order of the labels, as published; `said` is what prompts say ("2012 Audi A5 Coupe")

ImageNet-1k's names come from installed packages (shards.labels.imagenet); its templates are those of open_clip.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from shards.labels.folders import Entry

_FOLDER = Path(__file__).parent / "tasks"
TASKS = ("dtd", "flowers102", "stanford-cars", "fgvc-aircraft", "pets", "food-101", "cub")


@dataclass(frozen=True)
class Task:
    """One data set. `query` and `queries` are None and empty where the name alone is searched."""

    entries: tuple[Entry, ...]
    templates: tuple[str, ...]
    query: str | None
    queries: Mapping[str, str]

    def query_of(self, name: str) -> str:
        """What to search captions for: the class's own query, else the task's with the name in it, else the name.

        "any of: a; b" is met by either phrase, "all of: a; b" by both, "all words of: a" by its words in any order;
        anything else is one phrase.
        """
        return self.queries.get(name) or (self.query or "{name}").replace("{name}", name)


@cache
def read_task(name: str) -> Task:
    """A task of TASKS. Raises ValueError if its file does not have as many distinct classes as it says."""
    path = _FOLDER / f"{name}.yaml"
    facts: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    classes = [{"name": one} if isinstance(one, str) else one for one in facts["classes"]]
    if not facts["count"] == len(classes) == len({one["name"] for one in classes}):
        raise ValueError(f"{path}: found {len(classes)} classes, expected {facts['count']} distinct ones")
    entries = tuple(
        Entry(number, one["name"], meaning=one.get("said"), kind=one.get("kind", facts["kind"]))
        for number, one in enumerate(classes)
    )
    return Task(entries, tuple(facts["templates"]), facts.get("query"), facts.get("queries", {}))
