"""Measured shares and the targets ("bars") that they must reach.

In: for each picture whether it is right, or a share of its own (IoU). Out: `Bar`, with a 95 % Wilson interval; tables.
On disk: `score.json` and `rebuilt.json` are read. A set that shows a scan several times counts as fewer pictures, so
that its interval is for other scans. Where each picture has a share of its own, the share is their mean, and the
interval too wide.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sandbox.sets import SETS
from train.report.statistics import effective_pictures, wilson_interval

SCORE = Path(__file__).parent / "score.json"
REBUILT = Path(__file__).parent / "rebuilt.json"  # of weights that `make sandbox` made again, as they were measured


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A measured share, and the bar it must reach."""

    name: str
    what: str
    right: float  # pictures that are right; the sum of their shares where each has one
    num: int
    effective: float  # independent pictures that tell as much: fewer than `num` where scans are shown several times
    low: float  # 95 % interval of the share
    high: float
    bar: float | None  # None: for information only
    at_most: bool = False  # the share must not be above the bar

    @property
    def share(self) -> float:
        """The measured share."""
        return self.right / self.num

    @property
    def met(self) -> bool:
        """Whether the share reaches its bar; true without a bar."""
        return self.bar is None or (self.share <= self.bar if self.at_most else self.share >= self.bar)


def wilson(right: float, num: int, effective: float | None = None) -> tuple[float, float]:
    """The 95 % interval of a share. Raises ValueError if `num` is not above 0. See `wilson_interval`."""
    one = wilson_interval(right, num, effective)
    assert one.low is not None
    assert one.high is not None
    return one.low, one.high


def bar_of(
    name: str,
    what: str,
    right: Sequence[bool | float],
    bar: float | None,
    at_most: bool = False,
    effective: float | None = None,
) -> Bar:
    """`effective`: None if each picture is one of its own."""
    total = round(float(sum(right)), 4) if any(isinstance(one, float) for one in right) else int(sum(right))
    counts_as = round(float(len(right) if effective is None else effective), 1)
    low, high = wilson(total, len(right), counts_as)
    return Bar(
        name=name,
        what=what,
        right=total,
        num=len(right),
        effective=counts_as,
        low=round(low, 4),
        high=round(high, 4),
        bar=bar,
        at_most=at_most,
    )


def scans_count(name: str, right: Sequence[bool | float]) -> float:
    """How many independent pictures tell as much as those of a set, which shows each scan several times."""
    return effective_pictures(np.asarray(right), SETS[name].per_scan)


def table(bars: list[Bar]) -> str:
    """The measured bars as a Markdown table."""
    lines = ["| what | share | 95 % interval | pictures | count as | bar | met |", "|---|---|---|---|---|---|---|"]
    for bar in bars:
        sign = "≤" if bar.at_most else "≥"
        wish = "" if bar.bar is None else f"{sign} {bar.bar:.1%}"
        met = "" if bar.bar is None else ("yes" if bar.met else "**missed**")
        interval = f"{bar.low:.1%}–{bar.high:.1%}"
        lines.append(
            f"| {bar.what} | {bar.share:.1%} | {interval} | {bar.num} | {bar.effective:.0f} | {wish} | {met} |"
        )
    return "\n".join(lines)


def compared(rebuilt: Sequence[Bar], shipped: Sequence[Bar]) -> str:
    """Weights made again beside the shipped ones, as a Markdown table: does each share lie in the shipped interval?"""
    lines = [
        "| what | shipped | 95 % interval | made again | 95 % interval | in the shipped interval | intervals overlap |",
        "|---|---|---|---|---|---|---|",
    ]
    before = {bar.name: bar for bar in shipped}
    for now in rebuilt:
        was = before[now.name]
        inside = "yes" if was.low <= now.share <= was.high else "**no**"
        overlap = "yes" if was.low <= now.high and now.low <= was.high else "**no**"
        lines.append(
            f"| {was.what} | {was.share:.1%} | {was.low:.1%}–{was.high:.1%} | {now.share:.1%} | "
            f"{now.low:.1%}–{now.high:.1%} | {inside} | {overlap} |"
        )
    return "\n".join(lines)


def read_score(path: Path = SCORE) -> list[Bar]:
    """The bars in score.json."""
    return [Bar(**line) for line in json.loads(path.read_text())["bars"]]
