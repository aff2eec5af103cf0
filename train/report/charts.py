"""The geometry of the report's figures; pure.

In: rows of a `Sweep`. Out: numbers and texts, which a template draws as SVG. The template escapes texts, and the page's
style chooses colours, so figures follow light and dark. On disk: nothing.

A curve has one panel for each test set. All panels of a sweep span the same number of points, so equal slopes are equal
gains; each panel begins at its own accuracies. The name of a point stands below it. Only several lines need a legend.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from train.report.comparison import Row, Sweep
from train.report.statistics import Estimate
from train.report.words import percent, points

WIDTH, HEIGHT = 360, 236
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 22, 34  # margins of the drawing, in its own units
LABEL_LEFT = 2 / 3 * WIDTH  # the last point's value begins to the right of it
STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # between grid lines, as shares


@dataclass(frozen=True)
class Dot:
    """A place in a panel, in SVG units."""

    x: float
    y: float


@dataclass(frozen=True)
class Tick:
    """A text on an axis, and its place along that axis in SVG units."""

    at: float
    text: str


@dataclass(frozen=True)
class Cut:
    """A mark at the edge of a panel: how far an interval goes on there."""

    points: str  # of an arrow head, in SVG units
    text: str


@dataclass(frozen=True)
class Line:
    """The points of one name in a panel."""

    name: str  # empty for the only one
    means: tuple[Dot, ...]
    path: str  # SVG points of the means
    band: str  # SVG points around the intervals; empty with few seeds
    cuts: tuple[Cut, ...]  # where an interval goes on behind the edge of the panel
    seeds: tuple[Dot, ...]
    label_y: float
    last_text: str


@dataclass(frozen=True)
class Panel:
    """Accuracy against the sweep's axis on one set."""

    name: str
    label: str  # the whole figure in words
    lines: tuple[Line, ...]
    baseline_y: float | None
    grid: tuple[Tick, ...]
    axis: tuple[Tick, ...]


@dataclass(frozen=True)
class Bar:
    """A difference with its interval, on a scale of 0..100 from left to right."""

    label: str
    text: str
    tone: str
    at: float
    low: float | None
    high: float | None
    zero: float


def panels(sweep: Sweep) -> list[Panel]:
    """One panel for each set with at least two points. Of points of a line at one place the first is drawn: a control
    beside it is in the table."""
    chosen = {name: drawn_lines(sweep, name) for name in sweep.sets}
    chosen = {name: lines for name, lines in chosen.items() if lines}
    ranges = {name: _range(name, [row for rows in lines.values() for row in rows]) for name, lines in chosen.items()}
    span = max((high - low for low, high in ranges.values()), default=0.0)
    # room above and below; a difference of a tenth of a point is never magnified, and nothing is above 100 %
    span = min(max(span * 1.16, 0.01), 1.0)
    step = next((step for step in STEPS if span / step <= 6), STEPS[-1])
    return [_panel(name, lines, ranges[name], span, step) for name, lines in chosen.items()]


def drawn_lines(sweep: Sweep, name: str) -> dict[str, list[Row]]:
    """Name of a line -> its rows on the set `name` from left to right; without lines that have but one."""
    found = {}
    for line, rows in sweep.lines.items():
        first = {row.x: row for row in reversed(rows) if name in row.cells}
        if len(first) > 1:
            found[line] = sorted(first.values(), key=_x)
    return found


def _x(row: Row) -> float:
    assert row.x is not None
    return row.x


def _range(name: str, rows: Sequence[Row]) -> tuple[float, float]:
    values: list[float] = []
    for row in rows:
        cell = row.cells[name]
        values.extend(cell.by_seed.values())
        values.extend(end for end in (cell.accuracy.low, cell.accuracy.high) if end is not None)
    return max(0.0, min(values)), min(1.0, max(values))


def _panel(
    name: str, lines: Mapping[str, Sequence[Row]], extent: tuple[float, float], span: float, step: float
) -> Panel:
    middle = sum(extent) / 2
    bottom = min(max(0.0, middle - span / 2), max(0.0, 1 - span))
    every = sorted({row.label: row for rows in lines.values() for row in rows}.values(), key=_x)
    first, last = _x(every[0]), _x(every[-1])

    def across(row: Row) -> float:
        return round(LEFT + 8 + (WIDTH - LEFT - RIGHT - 24) * (_x(row) - first) / (last - first), 1)

    def up(share: float) -> float:
        inside = min(max((share - bottom) / span, 0.0), 1.0)
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * inside, 1)

    def line(named: str, rows: Sequence[Row]) -> Line:
        cells = [row.cells[name] for row in rows]
        ends = [(row, cell.accuracy) for row, cell in zip(rows, cells, strict=True) if cell.accuracy.low is not None]
        upper = [(across(row), up(one.high or 0.0)) for row, one in ends]
        lower = [(across(row), up(one.low or 0.0)) for row, one in reversed(ends)]
        means = tuple(Dot(across(row), up(cell.accuracy.value)) for row, cell in zip(rows, cells, strict=True))
        seeds = tuple(
            Dot(across(row), up(value))
            for row, cell in zip(rows, cells, strict=True)
            for value in cell.by_seed.values()
        )
        cuts = [cut for row, one in ends for cut in _cuts(row.label, across(row), one, (bottom, bottom + span), up)]
        final = rows[-1]
        gain = cells[-1].difference
        against = "" if len(lines) == 1 else f" against {final.baseline}"
        return Line(
            name=named,
            means=means,
            path=_svg_points([(dot.x, dot.y) for dot in means]),
            band=_svg_points(upper + lower) if len(ends) > 1 else "",
            cuts=tuple(cuts),
            seeds=seeds,
            label_y=_above([*means, *_entering(means), *seeds, *(Dot(x, y) for x, y in upper)]),
            last_text=percent(cells[-1].accuracy.value) + (f" ({points(gain.value)}{against})" if gain else ""),
        )

    drawn = tuple(line(named, rows) for named, rows in lines.items())
    baseline = next((row.cells[name] for row in every if row.is_baseline), None)
    words = ", ".join(f"{row.label} {percent(row.cells[name].accuracy.value)}" for row in every)
    places = {across(row): row.label for row in reversed(every)}
    if len(drawn) > 1:
        places = {across(row): f"{_x(row):g}" for row in every}
    return Panel(
        name=name,
        label=f"Top-1 accuracy in percent on {name}: {words}",
        lines=drawn,
        baseline_y=up(baseline.accuracy.value) if baseline else None,
        grid=tuple(_grid(bottom, span, step, up)),
        axis=tuple(_thinned([Tick(at, text) for at, text in sorted(places.items())])),
    )


def _cuts(
    label: str, x: float, one: Estimate, edges: tuple[float, float], up: Callable[[float], float]
) -> Iterator[Cut]:
    """An arrow head for each end of an interval that lies behind an edge of the panel, bottom and top."""
    for end, edge, sign in ((one.low, edges[0], -1), (one.high, edges[1], 1)):
        if end is not None and sign * (end - edge) > 1e-9:
            y = up(edge)
            head = _svg_points([(x - 5, y), (x + 5, y), (x, y - 7 * sign)])
            yield Cut(head, f"{label}: the interval goes on to {percent(end)} %")


def _above(dots: Sequence[Dot]) -> float:
    """The place of the last point's value: above everything in the right third, so that it hides nothing."""
    return max(12.0, round(min((dot.y for dot in dots if dot.x >= LABEL_LEFT), default=TOP) - 9, 1))


def _entering(means: Sequence[Dot]) -> list[Dot]:
    """The place where the line enters the right third: with few points its highest place there may be between two."""
    for one, other in itertools.pairwise(means):
        if one.x < LABEL_LEFT < other.x:
            return [Dot(LABEL_LEFT, one.y + (other.y - one.y) * (LABEL_LEFT - one.x) / (other.x - one.x))]
    return []


def _grid(bottom: float, span: float, step: float, up: Callable[[float], float]) -> list[Tick]:
    number = int(bottom / step) + (bottom > 0)
    lines = []
    while number * step <= min(1.0, bottom + span) + 1e-9:
        share = number * step
        lines.append(Tick(up(share), f"{100 * share:.1f}" if step < 0.01 else f"{100 * share:.0f}"))
        number += 1
    return lines


def _thinned(ticks: list[Tick]) -> list[Tick]:
    """The labels that do not overlap, at about 6 units a character."""
    kept: list[Tick] = []
    for tick in ticks:
        text = tick.text if len(tick.text) <= 12 else tick.text[:11] + "…"
        half = 3 * len(text) + 3
        if not kept or tick.at - half >= kept[-1].at + 3 * len(kept[-1].text) + 3:
            kept.append(Tick(tick.at, text))
    return kept


def _svg_points(pairs: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in pairs)


def bars(rows: Sequence[tuple[str, str, Estimate]], beside: Sequence[Estimate] = ()) -> list[Bar]:
    """A bar for each (label, value in words, difference), on a scale that holds 0, all rows and `beside`."""
    ends = [0.0]
    for one in (*(row[2] for row in rows), *beside):
        ends.extend(end for end in (one.value, one.low, one.high) if end is not None)
    low, high = min(ends), max(ends)
    margin = max(0.04 * (high - low), 0.0005)
    low, high = low - margin, high + margin

    def place(value: float | None) -> float | None:
        return None if value is None else round(100 * (value - low) / (high - low), 2)

    found = []
    for label, text, one in rows:
        tone = ("good" if one.value > 0 else "lost") if one.shown else "open"
        at, zero = place(one.value), place(0.0)
        assert at is not None
        assert zero is not None
        found.append(Bar(label, text, tone, at, place(one.low), place(one.high), zero))
    return found
