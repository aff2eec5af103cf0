"""Results to text: the tables on the terminal and in docs/BENCHMARKS.md, the samples in a JSON file beside it.

In: results and the facts of the machine. Out and on disk: `bench_cpu.json` (`bench_stream.json`, `bench_gpu.json`),
every sample of the last run of every row with its date, machine and versions; `BENCHMARKS.md`, where the text between
the two marks of a row is written anew.
"""

import dataclasses
import json
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docs.bench.measure import Line, Result, Samples, ratios

PAGE = "BENCHMARKS.md"


def section(row: str, result: Result, facts: Mapping[str, Any]) -> str:
    """One row in Markdown, for the terminal and for the page alike."""
    lines = [f"### {row}: {result.title}", "", *table(result), ""]
    lines += ["| target | came out | met |", "|---|---|---|"]
    for verdict in result.verdicts:
        met = {True: "yes", False: "**missed**", None: "not judged in miniature"}[verdict.met]
        lines.append(f"| {verdict.target} | {verdict.found} | {met} |")
    lines += ["", f"*Known before:* {result.anchor}.", f"*Predicted:* {result.predicted}.", ""]
    lines += [f"*How:* {result.method}", *result.notes, "", f"*Where:* {_where(facts)}."]
    return "\n".join(lines)


def table(result: Result) -> list[str]:
    """Medians (least - most) of all repeats; the ratio is taken repeat by repeat, to the first line."""
    columns = list(dict.fromkeys(column for line in result.lines for column in line.figures))
    heads = ["", *columns, *([f"{result.ratio_of}, ratio to ours"] if result.ratio_of else [])]
    rows = [f"| {' | '.join(heads)} |", f"|---{'|---:' * (len(heads) - 1)}|"]
    for line in result.lines:
        cells = [line.what, *(spread(line.figures[name]) if name in line.figures else "" for name in columns)]
        if result.ratio_of:
            cells.append(_ratio(line, result.lines[0], result.ratio_of))
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def spread(samples: Samples, unit: str = "") -> str:
    """`1.522 (1.493 - 1.601)`: median, least, most."""
    middle = f"{_number(statistics.median(samples))}{unit}"
    if len(samples) == 1:
        return middle
    return f"{middle} ({_number(min(samples))} - {_number(max(samples))})"


def write(folder: Path, numbers: str, command: str, results: Mapping[str, Result], facts: Mapping[str, Any]) -> None:
    """Replace these rows in the page and in the file `numbers` of `folder`; other rows keep what their last run said.

    `command`, such as ``make bench``, stands in the marks of a row. Raises ValueError if the page has none for it.
    """
    samples = folder / numbers
    samples.parent.mkdir(exist_ok=True)
    known = json.loads(samples.read_text(encoding="utf-8")) if samples.exists() else {}
    page = (folder / PAGE).read_text(encoding="utf-8")
    for row, result in results.items():
        known[row] = {**facts, **dataclasses.asdict(result)}
        page = replaced(page, row, command, section(row, result, facts))
    ordered = {row: known[row] for row in sorted(known, key=_words_and_numbers)}
    samples.write_text(json.dumps(ordered, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (folder / PAGE).write_text(page, encoding="utf-8")


def _words_and_numbers(row: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", row)]


def replaced(page: str, row: str, command: str, text: str, name: str = PAGE) -> str:
    """The page, which is called `name`, with `text` between the marks of `row`. Raises ValueError if it has none."""
    begin, end = f"<!-- {row}: written by `{command}` -->", f"<!-- /{row} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{name}: found no marks for row {row}, expected {begin} and {end}; add them")
    return f"{before}{begin}\n{text}\n{end}{after}"


def _ratio(line: Line, first: Line, column: str) -> str:
    if line is first:
        return "1"
    if column not in line.figures:
        return ""
    return spread(ratios(line.figures[column], first.figures[column]), "x")


def _where(facts: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    gpu = f"{facts['gpu']}, " if "gpu" in facts else ""
    return (
        f"{facts['date']}, {gpu}{facts['cores']} cores of {facts['cpu']}, {facts['memory_GiB']} GiB, "
        f"{facts['file_system']}, load {facts['load']:.2f} at the start; {versions}"
    )


def _number(value: float) -> str:
    if value == 0:
        return "0"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 3 if abs(value) >= 0.1 else 4
    return f"{value:,.{digits}f}"
