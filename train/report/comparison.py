"""Results compared: sweeps as tables, differences to a baseline; pure.

In: `Result`s. Out: a `Sweep` for each name, its rows in the sweep's order, its sets in the order of the results. On
disk: nothing. `train.report.words` says it in sentences.

Accuracies are top-1 of the selected weights on test sets: means over seeds with 95 % intervals, or with the seeds
themselves where there are fewer than three. A difference is taken seed by seed, against the baseline point of the same
sweep, over the seeds that both have. Where all results of both points keep which pictures were right, its interval is
over seeds and test pictures; otherwise over seeds alone. It is shown only if Holm's procedure over all differences of
its sweep says so: a sweep asks one question, and its answer does not depend on what else is in a report. Results that
were measured on different pictures are not compared, and are named.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from train.evaluate.results import PROBE, Result, of_branches, selected
from train.report.statistics import (
    Estimate,
    difference_by_picture,
    effective_pictures,
    holm,
    if_enough,
    mean,
    mean_interval,
    paired_difference,
    sample_std,
    wilson_interval,
)

TITLES = {
    "scale": "Accuracy against scale",
    "three-way": "Real, synthetic, retrieved",
    "diversify": "What makes prompts diverse",
    "lambda": "Weight of the synthetic loss",
    "control": "The generator's own training pictures",
    "gap": "Two domains with a planted gap",
    "steps": "Scale and length of the training",
    "headline": "Replication as a whole",
    "nets": "Other networks",
    "meaning": "The meaning of the names",
    "shots": "Real images of a class",
}
BRANCHES = ", both branches"  # behind the name of a sweep


@dataclass(frozen=True)
class Cell:
    """The accuracy of one point on one test set."""

    accuracy: Estimate
    std: float | None
    by_seed: Mapping[int, float]
    difference: Estimate | None  # to the baseline; None for the baseline, without a common seed or on other pictures
    runs: tuple[Result, ...]

    @property
    def views(self) -> int:
        """Pictures of each thing in the set."""
        return max(run.views for run in self.runs)


@dataclass(frozen=True)
class Row:
    """One point of a sweep."""

    label: str
    x: float | None
    line: str | None  # which of the curve's lines it is on; None: on each
    baseline: str  # the label of the point it is compared with; its own for a baseline
    verdict: bool | None  # whether its sweep says that the verdict is about it; None: it says nothing
    cells: Mapping[str, Cell]  # set -> cell
    images_per_s: float
    wait_share: float
    seeds: tuple[int, ...]

    @property
    def is_baseline(self) -> bool:
        """Whether other points are compared with this one."""
        return self.label == self.baseline


@dataclass(frozen=True)
class Sweep:
    """All results of one sweep."""

    name: str
    sets: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """The heading of the sweep in a report."""
        name = self.name.removesuffix(BRANCHES)
        return TITLES.get(name, name) + (": main and auxiliary branch" if name != self.name else "")

    @property
    def against(self) -> str:
        """What the points are compared with, in words."""
        labels = {row.baseline for row in self.rows}
        return labels.pop() if len(labels) == 1 else "the baseline of each point"

    @property
    def is_curve(self) -> bool:
        """Whether the points can be drawn along an axis: each has an x, and there are at least two."""
        return len({row.x for row in self.rows}) > 1 and all(row.x is not None for row in self.rows)

    @property
    def lines(self) -> dict[str, list[Row]]:
        """Name of a curve's line -> its points, with those of all lines; one line without a name if none is named."""
        names = dict.fromkeys(row.line for row in self.rows if row.line is not None)
        return {name: [row for row in self.rows if row.line in (None, name)] for name in names} or {"": list(self.rows)}

    def row(self, label: str) -> Row | None:
        """The row of a point; None if it has no result."""
        return next((row for row in self.rows if row.label == label), None)


@dataclass(frozen=True)
class Compared:
    """Everything that a report compares."""

    sweeps: tuple[Sweep, ...]
    singles: tuple[Result, ...]  # selected test results outside of any sweep
    problems: tuple[str, ...]  # results that occur twice or are missing, one line each

    @property
    def families(self) -> dict[str, list[Estimate]]:
        """Name of a sweep -> all its differences that have a p value, those of auxiliary branches among them: Holm's
        correction counts each of these lists for itself."""
        found: dict[str, list[Estimate]] = {}
        for sweep in self.sweeps:
            cells = [cell for row in sweep.rows for cell in row.cells.values()]
            own = [cell.difference for cell in cells if cell.difference is not None and cell.difference.p is not None]
            found.setdefault(sweep.name.removesuffix(BRANCHES), []).extend(own)
        return found


def compare(results: Iterable[Result]) -> Compared:
    """Group selected test results by sweep, point, set and seed; of two equal ones the later counts."""
    singles: list[Result] = []
    places: dict[str, dict[tuple[int, str], dict[str, dict[int, Result]]]] = {}
    problems: list[str] = []
    given = list(results)
    for result in [*selected(given), *_of_both_branches(given)]:
        if result.sweep is None:
            singles.append(result)
            continue
        point = result.sweep.point
        sets = places.setdefault(result.sweep.name, {}).setdefault((point.number, point.label), {})
        seeds = sets.setdefault(result.set, {})
        there = seeds.get(result.seed)
        if there is not None:
            problems.append(
                f"{result.sweep.name}, {point.label}, seed {result.seed}, {result.set}: found two results "
                f"({there.run}, {result.run}); the later one is counted"
            )
        if there is None or result.time >= there.time:
            seeds[result.seed] = result
    sweeps = _corrected([_sweep(name, points) for name, points in sorted(places.items(), key=_sweep_order)])
    for sweep in sweeps:
        problems.extend(_gaps(sweep))
        problems.extend(_other_pictures(sweep))
        problems.extend(_other_data(sweep))
    return Compared(sweeps, tuple(singles), tuple(problems))


def interval_of(one: Result) -> Estimate:
    """The accuracy of one run on one set, with an interval for other pictures, or for other things where the set shows
    each several times. Without knowing which pictures were right, the views of a thing count as one picture."""
    bits = one.right_bits
    effective = one.n / one.views if bits is None else effective_pictures(bits, one.views)
    return wilson_interval(round(one.top1 * one.n), one.n, effective)


def _corrected(sweeps: Sequence[Sweep]) -> tuple[Sweep, ...]:
    """The same sweeps, each difference with its p value after Holm's correction for all of its sweep."""
    families = Compared(tuple(sweeps), (), ()).families
    adjusted = {name: iter(holm([one.p for one in own if one.p is not None])) for name, own in families.items()}

    def cell(one: Cell, name: str) -> Cell:
        if one.difference is None or one.difference.p is None:
            return one
        return replace(one, difference=replace(one.difference, adjusted_p=next(adjusted[name])))

    def row(one: Row, name: str) -> Row:
        return replace(one, cells={key: cell(found, name) for key, found in one.cells.items()})

    return tuple(
        replace(one, rows=tuple(row(each, one.name.removesuffix(BRANCHES)) for each in one.rows)) for one in sweeps
    )


def _of_both_branches(results: Sequence[Result]) -> list[Result]:
    """What auxiliary branches reached, under names that say so: of each sweep a second one, in which the main branch of
    a point is the baseline of its others; of other runs one result more."""
    others = of_branches(results)
    points = {(one.sweep.name, one.sweep.point.label) for one in others if one.sweep is not None}
    found = []
    for one in [*selected(results), *others]:
        beside = "" if one.branch is None else f", {one.branch}" if one.branch == PROBE else f", BN of {one.branch}"
        if one.sweep is None and beside:
            found.append(one.model_copy(update={"run": one.run + beside}))
        if one.sweep is None or (one.sweep.name, one.sweep.point.label) not in points:
            continue
        label = one.sweep.point.label
        point = one.sweep.point.model_copy(update={"label": label + beside, "baseline": label, "x": None})
        place = one.sweep.model_copy(update={"name": one.sweep.name + BRANCHES, "point": point})
        found.append(one.model_copy(update={"sweep": place}))
    return found


def _sweep_order(item: tuple[str, object]) -> tuple[int, str]:
    known, name = list(TITLES), item[0].removesuffix(BRANCHES)
    return (known.index(name) if name in known else len(known), item[0])


def _sweep(name: str, points: Mapping[tuple[int, str], Mapping[str, Mapping[int, Result]]]) -> Sweep:
    rows = []
    for (_, label), sets in sorted(points.items()):
        runs = list({run.key[:3]: run for seeds in sets.values() for run in seeds.values()}.values())
        place = runs[0].sweep
        assert place is not None
        baseline = place.point.baseline
        control = next((sets for (_, other), sets in points.items() if other == baseline), {})
        rows.append(
            Row(
                label=label,
                x=place.point.x,
                line=place.point.line,
                baseline=baseline,
                verdict=place.point.verdict,
                cells={name: _cell(seeds, control.get(name, {}), label == baseline) for name, seeds in sets.items()},
                images_per_s=mean([run.images_per_s for run in runs]),
                wait_share=mean([run.wait_share for run in runs]),
                seeds=tuple(sorted({run.seed for run in runs})),
            )
        )
    return Sweep(name, tuple(dict.fromkeys(name for row in rows for name in row.cells)), tuple(rows))


def _cell(seeds: Mapping[int, Result], control: Mapping[int, Result], is_baseline: bool) -> Cell:
    by_seed = {seed: seeds[seed].top1 for seed in sorted(seeds)}
    values = list(by_seed.values())
    difference = None
    if not is_baseline and _on_same_pictures([*seeds.values(), *control.values()]):
        difference = _difference(seeds, control)
        difference = None if difference is None else if_enough(difference)
    runs = tuple(seeds[seed] for seed in sorted(seeds))
    return Cell(if_enough(mean_interval(values)), sample_std(values), by_seed, difference, runs)


def _difference(seeds: Mapping[int, Result], control: Mapping[int, Result]) -> Estimate | None:
    """Over seeds and pictures if all results keep which pictures were right, of a set whose order is known."""
    treated = {seed: one.right_bits for seed, one in seeds.items() if one.data.get(one.set)}
    base = {seed: one.right_bits for seed, one in control.items() if one.data.get(one.set)}
    shared = seeds.keys() & control.keys()
    bits = [{seed: kept for seed in shared if (kept := one.get(seed)) is not None} for one in (treated, base)]
    if all(len(one) == len(shared) for one in bits):
        views = max(one.views for one in (*seeds.values(), *control.values()))  # an older line says 1 of the same set
        return difference_by_picture(bits[0], bits[1], views)
    return paired_difference(*({seed: one.top1 for seed, one in side.items()} for side in (seeds, control)))


def _on_same_pictures(results: Sequence[Result]) -> bool:
    return len({_pictures_of(result) for result in results}) <= 1


def _pictures_of(result: Result) -> tuple[str, int]:
    """On what a result was measured, as its line says: digest of the set's index, number of samples."""
    return (result.data.get(result.set, ""), result.n)


def _other_pictures(sweep: Sweep) -> list[str]:
    """A line for each point whose results cannot be compared, because they were measured on different pictures."""
    found = []
    for name in sweep.sets:
        for row in sweep.rows:
            control = sweep.row(row.baseline)
            own = row.cells[name].runs if name in row.cells else ()
            base = control.cells[name].runs if control is not None and name in control.cells else ()
            if own and not _on_same_pictures([*own, *base]):
                kinds = sorted({_pictures_of(run) for run in (*own, *base)})
                told = ", ".join(f"{n:,} images of digest {digest[:12] or 'unknown'}" for digest, n in kinds[:3])
                against = "" if row.is_baseline else f" and its baseline {row.baseline}"
                found.append(
                    f"{sweep.name}, {row.label}: found {name} of {row.label}{against} measured on different pictures "
                    f"({told}), expected the same; they are not compared, run the sweep again in another folder"
                )
    return found


def _other_data(sweep: Sweep) -> list[str]:
    """A line for each point whose seeds were trained on different data, though they have nothing of their own."""
    found = []
    for row in sweep.rows:
        runs = [run for cell in row.cells.values() for run in cell.runs if run.sweep and not run.sweep.by_seed]
        for name in sorted({name for run in runs for name in run.data} - set(sweep.sets) - {"validation"}):
            digests = sorted({digest[:12] for run in runs if (digest := run.data.get(name, ""))})
            if len(digests) > 1:
                found.append(
                    f"{sweep.name}, {row.label}: found {name} of {len(digests)} different digests "
                    f"({', '.join(digests[:3])}) among seeds that share their data, expected one; run the sweep again "
                    "in another folder"
                )
    return found


def _gaps(sweep: Sweep) -> list[str]:
    seeds = {seed for row in sweep.rows for seed in row.seeds}
    found = []
    for row in sweep.rows:
        missing = sorted(seeds - set(row.seeds))
        if missing:
            found.append(f"{sweep.name}, {row.label}: found no result for the seeds {missing}; run the sweep again")
        found.extend(
            f"{sweep.name}, {row.label}: found no result on {name}; run the sweep again"
            for name in sweep.sets
            if name not in row.cells
        )
    for baseline in dict.fromkeys(row.baseline for row in sweep.rows):
        if sweep.row(baseline) is None:
            found.append(f"{sweep.name}: found no result of the baseline {baseline}, expected one to compare with")
    return found
