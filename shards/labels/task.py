"""Tasks: the data sets that are often compared, their classes, and the words that go with them; no images.

In: the name of a task, such as "dtd". Out: a `Task`. On disk, one file a task in tasks/ beside this file:

    count       how many classes it has
    kind        what its classes are (shards.labels.classes.KINDS); a class may have its own
    templates   sentences with {name}, or with {subject} for the name with its article: texts to compare images with
    query       what captions are searched for, where the name alone would not do: a list of which one must be met, each
                a text or a list of texts that must all be there; {name} is the name, {words} its words; queries: of
                single classes
    classes     names in the order of the labels, as published; `said` is what prompts say ("2012 Audi A5 Coupe")

ImageNet-1k's names come from installed packages (shards.labels.imagenet), its templates are those of open_clip; its
queries are in tasks/imagenet-1k-queries.yaml.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from shards.labels.folders import Entry

_FOLDER = Path(__file__).parent / "tasks"
TASKS = ("dtd", "flowers102", "stanford-cars", "fgvc-aircraft", "pets", "food-101", "cub")
IMAGENET = "imagenet-1k"


Query: TypeAlias = tuple[tuple[str, ...], ...]  # one of the inner ones must be met: all of its texts are there


@dataclass(frozen=True)
class Task:
    """One data set. `query` and `queries` are empty where the name alone is searched."""

    entries: tuple[Entry, ...]
    templates: tuple[str, ...]
    query: Query
    queries: Mapping[str, Query]

    def query_of(self, name: str) -> Query | None:
        """What to search captions for: the class's own query, else the task's with the name in it; None: the name."""
        return self.queries.get(name) or tuple(_named(texts, name) for texts in self.query) or None


def _named(texts: Iterable[str], name: str) -> tuple[str, ...]:
    return tuple(
        one for text in texts for one in (name.split() if text == "{words}" else [text.replace("{name}", name)])
    )


def usual_queries(source: str, names: Iterable[str]) -> dict[str, Query]:
    """Name -> query, of those names of a shipped class list that have one; none for the lists of others."""
    if source == IMAGENET:
        queries = _imagenet_queries()
        return {name: queries[name] for name in names if name in queries}
    if source not in TASKS:
        return {}
    task = read_task(source)
    found = {name: task.query_of(name) for name in names}
    return {name: query for name, query in found.items() if query is not None}


@cache
def _imagenet_queries() -> Mapping[str, Query]:
    path = _FOLDER / "imagenet-1k-queries.yaml"
    return {name: _query(one) for name, one in yaml.safe_load(path.read_text(encoding="utf-8")).items()}


def _query(written: list[str | list[str]]) -> Query:
    return tuple((one,) if isinstance(one, str) else tuple(one) for one in written)


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
    queries = {one: _query(query) for one, query in facts.get("queries", {}).items()}
    return Task(entries, tuple(facts["templates"]), _query(facts.get("query", [])), queries)
