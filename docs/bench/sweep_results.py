"""Puts finished sweeps into docs/RESULTS.md: `python -m docs.bench.sweep_results out/sweeps/scale out/sweeps/domain`.

In: folders that `sixfold sweep` wrote. On disk: the part of docs/RESULTS.md between its markers, sentences and tables,
and docs/data/scale.png, accuracy against scale with every point of every seed, if a sweep with an axis is among them.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from train.evaluate.results import find_results
from train.report.comparison import Sweep, compare, method, results_table, verdicts

HOME = Path(__file__).resolve().parents[1]
PAGE, PICTURE = HOME / "RESULTS.md", HOME / "data" / "scale.png"
BEGIN, END = "<!-- sweeps: written by docs.bench.sweep_results -->", "<!-- sweeps: end -->"


def draw(sweep: Sweep, path: Path) -> None:
    """One panel a test set, all with the same height in points: mean, 95 % interval, single seeds, the baseline."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(sweep.sets), figsize=(3.2 * len(sweep.sets), 3.2), layout="constrained")
    spans = []
    for panel, name in zip(panels, sweep.sets, strict=True):
        first = {row.x: row for row in reversed(sweep.rows) if name in row.cells and row.x is not None}
        rows = [first[x] for x in sorted(first)]
        cells = [row.cells[name] for row in rows]
        at = [row.x for row in rows]
        means = [100 * cell.accuracy.value for cell in cells]
        low = [100 * (cell.accuracy.low or cell.accuracy.value) for cell in cells]
        high = [100 * (cell.accuracy.high or cell.accuracy.value) for cell in cells]
        panel.axhline(means[0], color="0.6", linestyle="--", linewidth=1)
        panel.fill_between(at, low, high, color="#3b6fd8", alpha=0.18, linewidth=0)
        for x, cell in zip(at, cells, strict=True):
            panel.plot([x] * len(cell.by_seed), [100 * one for one in cell.by_seed.values()], ".", color="0.65")
        panel.plot(at, means, "o-", color="#3b6fd8")
        panel.annotate(
            f"{means[-1]:.1f} ({means[-1] - means[0]:+.1f})",
            (at[-1], means[-1]),
            textcoords="offset points",
            xytext=(0, -26),
            ha="right",
            fontweight="bold",
        )
        panel.set_title(name, fontsize=10)
        panel.set_xticks(at, [row.label for row in rows])
        panel.spines[["top", "right"]].set_visible(False)
        spans.append((min(low), max(high)))
    height = max(high - low for low, high in spans) * 1.15
    for panel, (low, high) in zip(panels, spans, strict=True):
        middle = (low + high) / 2
        panel.set_ylim(middle - height / 2, middle + height / 2)
    panels[0].set_ylabel("top-1, %")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def write(folders: Sequence[Path]) -> str:
    found = find_results(folders)
    compared = compare(found.results)
    if not compared.sweeps:
        raise ValueError(f"{', '.join(map(str, folders))}: found no sweep, expected folders that `sixfold sweep` wrote")
    lines = [f"{time.strftime('%Y-%m-%d', time.gmtime())}, two cores, no GPU. {method(compared)}"]
    for sweep in compared.sweeps:
        lines += ["", f"### {sweep.title}", ""]
        lines += [f"* {one.head} {one.text}" for one in verdicts(sweep)]
        if sweep.is_curve:
            draw(sweep, PICTURE)
            lines += ["", f"![{sweep.title}: one panel a test set](data/{PICTURE.name})", ""]
    lines += ["", results_table(compared), *found.problems, *compared.problems]
    text = "\n".join(lines)
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    if not begin or END not in rest:
        raise ValueError(f"{PAGE}: found no place for the tables, expected the lines {BEGIN} and {END}")
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    return text


if __name__ == "__main__":
    print(write([Path(name) for name in sys.argv[1:]]))
