"""What several sweeps share: points that are the same trainings, and sets of one name whose bytes differ; pure.

In: results with their places in sweeps. Out: Markdown, sentences with a table each. On disk: nothing. It is told by the
lines alone: by which pictures were right, by the digests of data, and by the folder and subset that a point changes in
the recipe of its sweep.
"""

from collections import defaultdict
from collections.abc import Sequence

from train.evaluate.results import Result, SweepPlace
from train.report.comparison import TITLES
from train.report.words import markdown_table

Point = tuple[str, str]  # name of a sweep, label


def shared(results: Sequence[Result]) -> list[str]:
    """Lines of Markdown; none if no two sweeps share anything."""
    lines = []
    if groups := same_trainings(results):
        lines += [
            "Points in one column are the same trainings: the same data, and the same pictures right with every seed. "
            "Each sweep is corrected for its own comparisons, so one difference may have two p values.",
            "",
            _table([(str(place), _labels(group)) for place, group in enumerate(groups, 1)]),
        ]
    if sets := other_bytes(results):
        lines += [
            "Sets of one folder and subset that have other bytes in some sweeps, by their digest:",
            "",
            _table(sets),
        ]
    return lines


def same_trainings(results: Sequence[Result]) -> list[list[Point]]:
    """Groups of points of several sweeps: of each seed the data are the same, and which pictures were right of each
    set. The recipes may differ in a folder's name. Points whose lines do not keep which were right are in none."""
    lines: defaultdict[Point, set[tuple[object, ...]]] = defaultdict(set)
    for one in results:
        if one.sweep is not None:
            data = tuple(sorted(one.data.items()))
            fact = (one.right_pictures, one.seed, one.set, one.branch, data)
            lines[one.sweep.name, one.sweep.point.label].add(fact)
    groups: defaultdict[frozenset[tuple[object, ...]], list[Point]] = defaultdict(list)
    for point, facts in lines.items():
        if all(fact[0] is not None for fact in facts):
            groups[frozenset(facts)].append(point)
    return [group for group in groups.values() if len({name for name, _ in group}) > 1]


def other_bytes(results: Sequence[Result]) -> list[tuple[str, dict[str, str]]]:
    """Sets of one name, folder and subset that have several digests: what to call the set -> name of a sweep -> its
    digests, with the seeds that have them if not all do."""
    by_name: defaultdict[tuple[str, tuple[str, ...]], set[str]] = defaultdict(set)
    seeds: defaultdict[str, set[int]] = defaultdict(set)
    having: defaultdict[tuple[str, str], set[int]] = defaultdict(set)  # sweep and digest -> seeds
    for one in results:
        if one.sweep is not None:
            seeds[one.sweep.name].add(one.seed)
            chosen = _chosen(one.sweep)
            for name, digest in one.data.items():
                having[one.sweep.name, digest].add(one.seed)
                if chosen:
                    by_name[name, chosen].add(digest)
    found: dict[frozenset[str], str] = {}
    for (name, chosen), digests in by_name.items():
        if len(digests) > 1:
            values = (value.partition("=")[2] for value in chosen)
            found.setdefault(frozenset(digests), f"{name} {', '.join(values)}")
    columns = []
    for known, head in found.items():
        cells: defaultdict[str, list[str]] = defaultdict(list)
        for (sweep, digest), own in having.items():
            if digest in known:
                some = "" if own == seeds[sweep] else f" (seed {', '.join(map(str, sorted(own)))})"
                cells[sweep].append(digest[:12] + some)
        columns.append((head, {sweep: ", ".join(told) for sweep, told in cells.items()}))
    return columns


def _chosen(place: SweepPlace) -> tuple[str, ...]:
    """The folders and subsets that a point and its seed have of their own: ``("data.domains.1.subset=6x",)``."""
    fields = {**place.point.changes, **place.by_seed}
    return tuple(
        f"{field}={value}" for field, value in sorted(fields.items()) if field.endswith((".source", ".subset"))
    )


def _labels(group: Sequence[Point]) -> dict[str, str]:
    """Name of a sweep -> its points of the group."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name, label in group:
        found[name].append(label)
    return {name: "; ".join(labels) for name, labels in found.items()}


def _table(columns: Sequence[tuple[str, dict[str, str]]]) -> str:
    """A row for each sweep that has something in a column."""
    names = sorted({name for _, cells in columns for name in cells})
    rows = [[TITLES.get(name, name), *(cells.get(name, "") for _, cells in columns)] for name in names]
    return markdown_table(["sweep", *(head for head, _ in columns)], rows)
