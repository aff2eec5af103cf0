"""Puts finished sweeps into docs/RESULTS.md: `python -m docs.bench.sweep_results out/sweeps/scale out/sweeps/gap`.

In: folders that `sixfold sweep` wrote; none: only what was kept before. On disk: `docs/data/sweeps/NAME.jsonl.xz`, the
lines of results that a report reads, of these folders and of earlier calls; from all of them the part of
docs/RESULTS.md between its markers (what sweeps share, sentences, tables), the report page `docs/data/report.html`, and
`docs/data/NAME.png` of each sweep with an axis, accuracy against it with every point of every seed.
"""

import lzma
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from docs.bench.same_runs import shared
from train.evaluate.results import RESULTS, Found, Result, find_results, result_line
from train.report.charts import drawn_lines
from train.report.comparison import Sweep, compare
from train.report.report import write_report
from train.report.words import method, results_table, verdicts

HOME = Path(__file__).resolve().parents[1]
PAGE, DATA = HOME / "RESULTS.md", HOME / "data"
KEPT = DATA / "sweeps"
COLORS = ("#3b6fd8", "#c2571a", "#2f855a", "#8a4fbf")
NEAREST = 0.1  # of the axis, that two labels below it are apart
BEGIN, END = "<!-- sweeps: written by docs.bench.sweep_results -->", "<!-- sweeps: end -->"


def draw(sweep: Sweep, path: Path) -> None:
    """One panel a test set, all with the same height in points: mean, 95 % interval, single seeds, the baseline."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = (3.2 * len(sweep.sets), 3.8)
    figure, (panels,) = pyplot.subplots(1, len(sweep.sets), figsize=size, layout="constrained", squeeze=False)
    spans = []
    for panel, name in zip(panels, sweep.sets, strict=True):
        lines = drawn_lines(sweep, name)
        ends: list[float] = []
        level = 0.0  # of the baseline, in per cent
        for number, (line, rows) in enumerate(lines.items()):
            color = COLORS[number % len(COLORS)]
            cells = [row.cells[name] for row in rows]
            at = [row.x or 0.0 for row in rows]
            means = [100 * cell.accuracy.value for cell in cells]
            low = [100 * (cell.accuracy.low or cell.accuracy.value) for cell in cells]
            high = [100 * (cell.accuracy.high or cell.accuracy.value) for cell in cells]
            if not number:
                baseline = sweep.row(rows[-1].baseline)
                level = 100 * baseline.cells[name].accuracy.value if baseline else means[0]
                panel.axhline(level, color="0.6", linestyle="--", linewidth=1)
                panel.set_xticks(at, _apart(at, [row.label if len(lines) == 1 else f"{row.x:g}x" for row in rows]))
            panel.fill_between(at, low, high, color=color, alpha=0.18, linewidth=0)
            for x, cell in zip(at, cells, strict=True):
                panel.plot([x] * len(cell.by_seed), [100 * one for one in cell.by_seed.values()], ".", color="0.65")
            style = "o:" if len(rows) == 2 else "o-"  # nothing is known between two points
            label = f"{line} {means[-1]:.1f} ({means[-1] - level:+.1f})".strip()
            panel.plot(at, means, style, color=color, label=label)
            ends += [*low, *high]
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False, handlelength=0.8)
        panel.set_title(name, fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
        spans.append((min(ends), max(ends)))
    height = max(high - low for low, high in spans) * 1.15
    for panel, (low, high) in zip(panels, spans, strict=True):
        bottom = min((low + high - height) / 2, 100 - height)
        panel.set_ylim(bottom, bottom + height)
    panels[0].set_ylabel("top-1, %")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _apart(at: Sequence[float], labels: Sequence[str]) -> list[str]:
    """The labels, without those that would lie over the one before."""
    kept: list[str] = []
    last = float("-inf")
    for x, label in zip(at, labels, strict=True):
        is_free = x - last >= NEAREST * (max(at) - min(at))
        kept.append(label if is_free else "")
        last = x if is_free else last
    return kept


def keep(folders: Sequence[Path]) -> None:
    """Keep the results of the folders, instead of what was kept of their sweeps."""
    kept: defaultdict[str, list[Result]] = defaultdict(list)
    for one in find_results(folders).results:
        if one.sweep is not None and one.selected:
            kept[one.sweep.name].append(one)
    KEPT.mkdir(exist_ok=True)
    for name, lines in kept.items():
        packed = lzma.compress(b"".join(map(result_line, lines)), preset=9)
        (KEPT / f"{name}.jsonl.xz").write_bytes(packed)


def unpack(folder: Path) -> Found:
    """The kept results, as files that `sixfold report` reads."""
    for packed in sorted(KEPT.glob("*.jsonl.xz")):
        target = folder / packed.name.partition(".")[0]
        target.mkdir(parents=True)
        (target / RESULTS).write_bytes(lzma.decompress(packed.read_bytes()))
    return find_results([folder])


def write(folders: Sequence[Path]) -> str:
    """The text between the markers, as it is written."""
    keep(folders)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "sweeps of the sandbox"  # the title of the page
        found = unpack(folder)
        write_report([folder], DATA / "report.html", speed=False)
    names = sorted({one.sweep.name for one in found.results if one.sweep is not None})
    if not names:
        raise ValueError(f"{KEPT}: found no sweep, expected folders that `sixfold sweep` wrote")
    lines = [
        f"{time.strftime('%Y-%m-%d', time.gmtime())}, two cores, no GPU.",
        *found.problems,
        "",
        *shared(found.results),
    ]
    for name in names:  # each sweep asks one question, so its comparisons are corrected together
        compared = compare([one for one in found.results if one.sweep is not None and one.sweep.name == name])
        lines += [
            "",
            f"### {compared.sweeps[0].title}",
            "",
            method(compared),
        ]
        lines += ["", *(f"* {one.head} {one.text}" for sweep in compared.sweeps for one in verdicts(sweep))]
        if compared.sweeps[0].is_curve:
            draw(compared.sweeps[0], DATA / f"{name}.png")
            lines += ["", f"![{compared.sweeps[0].title}: one panel a test set](data/{name}.png)"]
        lines += ["", results_table(compared, speed=False), *compared.problems]
    text = "\n".join(lines)
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    if not begin or END not in rest:
        raise ValueError(f"{PAGE}: found no place for the tables, expected the lines {BEGIN} and {END}")
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    return text


if __name__ == "__main__":
    print(write([Path(name) for name in sys.argv[1:]]))
