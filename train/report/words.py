"""What results say, in words and tables; pure.

In: a `Sweep`, a `Compared`. Out: a sentence on what was gained over the baseline, numbers as a page shows them, the
tables as Markdown. On disk: nothing.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from shards.disk.safe_text import clip, markdown
from train.report.comparison import Cell, Compared, Row, Sweep, interval_of
from train.report.statistics import FEWEST, LEVEL, Estimate

LONGEST_NAME = 80
_FORMULA = re.compile(r"[=+\-@]")


@dataclass(frozen=True)
class Verdict:
    """A sentence, how it is coloured, and the difference that it is about."""

    tone: Literal["good", "lost", "open"]
    head: str
    text: str
    set: str = ""
    difference: Estimate | None = None

    @property
    def word(self) -> str:
        """The sentence in a word or two, for a table."""
        if self.tone == "open":
            few = self.difference is not None and self.difference.n < FEWEST
            return "too few seeds to tell" if few else "not shown"
        return "gain" if self.tone == "good" else "loss"


def verdicts(sweep: Sweep) -> list[Verdict]:
    """One for each set and each of `verdict_points`, against its baseline."""
    return [verdict for row in verdict_points(sweep) for verdict in verdicts_of(sweep, row)]


def verdicts_of(sweep: Sweep, row: Row) -> list[Verdict]:
    """One for each set on which the point can be compared with its baseline."""
    control = sweep.row(row.baseline)
    if control is None or row.is_baseline:
        return []
    found = []
    for name in sweep.sets:
        cell = row.cells.get(name)
        if cell is not None and cell.difference is not None:
            found.append(_verdict(row.label, name, control, cell.difference))
    return found


def verdict_points(sweep: Sweep) -> list[Row]:
    """The points that verdicts are about, never a baseline: those that the sweep names (`SweepSpec.verdict`); of a
    sweep that names none, of each line of a curve the one with the largest x, otherwise the last."""
    compared = [row for row in sweep.rows if not row.is_baseline]
    if any(row.verdict is not None for row in sweep.rows):
        return [row for row in compared if row.verdict]
    if not sweep.is_curve:
        return compared[-1:]
    lines = [[row for row in rows if not row.is_baseline] for rows in sweep.lines.values()]
    return [max(rows, key=lambda row: row.x or 0.0) for rows in lines if rows]


def _verdict(label: str, name: str, control: Row, difference: Estimate) -> Verdict:
    over = over_what(control)
    seeds = f"{difference.n} seed" + ("s" if difference.n != 1 else "")
    if difference.low is None:
        text = f"{label} changes {name} by {points(difference.value)} points against {over} {interval(difference)}."
        head = "One seed cannot tell." if difference.n == 1 else "Two seeds cannot tell."
        return Verdict("open", head, text, name, difference)
    amount = f"{points(difference.value)} points {interval(difference)} on {name}"
    seeds += f", {p_text(difference)}"
    if not difference.shown:
        head = f"No difference that {difference.n} seeds could show."
        return Verdict("open", head, f"{label} against {over}: {amount}, {seeds}.", name, difference)
    if difference.value > 0:
        text = f"{label} adds {amount} over {over}, {seeds}."
        return Verdict("good", "A gain over this baseline.", text, name, difference)
    head = "A loss against this baseline."
    return Verdict("lost", head, f"{label} changes accuracy by {amount} against {over}, {seeds}.", name, difference)


def over_what(control: Row) -> str:
    """A baseline in words: "real images only" for 0x, or its label: a curve over something else begins at 0, too."""
    return "real images only" if control.x == 0 and control.label == "0x" else control.label


def percent(share: float) -> str:
    """0.9031 -> "90.3", without the sign."""
    return f"{100 * share:.1f}"


def points(share: float) -> str:
    """A difference of accuracies in percentage points, with its sign."""
    text = f"{100 * share:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def interval(estimate: Estimate) -> str:
    """The ends of the 95 % interval of a difference, in percentage points: "[3.3, 5.5]"; of too few seeds the
    differences themselves: "(seeds +1.8, +1.9)"."""
    if estimate.low is None or estimate.high is None:
        seeds = ", ".join(points(value) for value in estimate.values)
        return "(one seed)" if estimate.n == 1 else f"(seeds {seeds})"
    return f"[{points(estimate.low)}, {points(estimate.high)}]".replace("+", "")


def p_text(difference: Estimate) -> str:
    """The adjusted p value of a difference that has one: "adjusted p 0.012", "adjusted p < 0.001"."""
    if difference.adjusted_p is None:
        return ""
    return "adjusted p " + (f"{difference.adjusted_p:.3f}" if difference.adjusted_p >= 0.001 else "< 0.001")


def method(compared: Compared) -> str:
    """What the intervals hold for and what is called a gain or a loss, in sentences."""
    families = {name: own for name, own in compared.families.items() if own}
    found = [one for own in families.values() for one in own]
    if not found:
        return "There is no difference over three or more seeds to judge."
    both, num = sum(one.is_over_pictures for one in found), len(found)
    seeds_alone = "those results do not keep which pictures were right"
    if both == num:
        over = "The 95 % intervals hold for other seeds and other test pictures (paired by both)."
    elif not both:
        over = "The 95 % intervals hold for other seeds on the same test pictures only (Student, paired by seed): "
        over += f"{seeds_alone}."
    else:
        over = (
            f"The 95 % intervals hold for other seeds and other test pictures in {both} of {num} comparisons; in the "
        )
        over += f"others for other seeds only (Student): {seeds_alone}."
    cells = [cell for sweep in compared.sweeps for row in sweep.rows for cell in row.cells.values()]
    if both and any(cell.views > 1 for cell in cells):
        over += " Where a set shows a thing several times, they hold for other things, not for other views of the same."
    sizes = [len(own) for own in families.values()]
    if len(sizes) > 1:
        many = f"all comparisons of its sweep ({min(sizes)} to {max(sizes)})"
    else:
        many = "the one comparison of this sweep" if num == 1 else f"all {num} comparisons of this sweep"
    return (
        f"{over} Each interval is that of one comparison. A gain or a loss is called so only if its p value, corrected "
        f"for {many} (Holm), is at most {LEVEL:g}."
    )


def accuracy_text(cell: Cell) -> str:
    """The mean in per cent with its standard deviation over seeds: "90.3 ± 1.1"; of two seeds: "90.3 (89.5, 91.1)"."""
    seeds = [percent(value) for value in cell.by_seed.values()]
    if len(seeds) < FEWEST:
        return percent(cell.accuracy.value) + (f" ({', '.join(seeds)})" if len(seeds) > 1 else "")
    return f"{percent(cell.accuracy.value)} ± {percent(cell.std or 0.0)}"


# Markdown


def results_table(compared: Compared, speed: bool = True) -> str:
    """The tables of all sweeps, with images/s if `speed`, and of the runs outside of them, in Markdown. Names are
    escaped; p values are adjusted for all comparisons of their sweep."""
    blocks = []
    for sweep in compared.sweeps:
        rows = []
        for row in sweep.rows:
            texts = [row.label + (" (baseline)" if row.is_baseline else ""), str(len(row.seeds))]
            for name in sweep.sets:
                cell = row.cells.get(name)
                text = accuracy_text(cell) if cell else "missing"
                if cell and cell.difference:
                    told = p_text(cell.difference).removeprefix("adjusted ")
                    text += f"; {points(cell.difference.value)} {interval(cell.difference)}" + (told and f" {told}")
                texts.append(text)
            rows.append([*texts, *([f"{row.images_per_s:,.0f}"] if speed else [])])
        heads = [sweep.title, "seeds", *sweep.sets, *(["images/s"] if speed else [])]
        blocks.append(markdown_table(heads, rows))
    if compared.singles:
        rows = []
        for one in compared.singles:
            share = interval_of(one)
            assert share.low is not None
            assert share.high is not None
            text = f"{percent(one.top1)} [{percent(share.low)}, {percent(share.high)}]"
            rows.append([one.run, str(one.seed), one.set, text, f"{one.n:,}"])
        blocks.append(markdown_table(["run", "seed", "set", "top-1", "images"], rows))
    return "\n".join(blocks)


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; its texts are escaped, and cut at `LONGEST_NAME` characters."""
    lines = [heads, ["---"] * len(heads), *rows]
    rendered = []
    for number, line in enumerate(lines):
        cells = line if number == 1 else [_markdown_cell(text) for text in line]
        rendered.append("| " + " | ".join(cells) + " |\n")
    return "".join(rendered)


def _markdown_cell(text: str) -> str:
    """Text that is no Markdown, and no formula for a spreadsheet."""
    cell = markdown(clip(text, LONGEST_NAME)).strip()
    return f"'{cell}" if _FORMULA.match(cell) else cell or " "
