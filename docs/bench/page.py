"""Results to text: the tables on the terminal and in docs/BENCHMARKS.md, the samples in a JSON file beside it.

In: results and the facts of the machine. Out and on disk: `bench_cpu.json` (`bench_stream.json`, `bench_gpu.json`),
every sample of the last run of every row with its date, machine and versions; `BENCHMARKS.md`, where the text between
the two marks of a row is written anew. `python -m docs.bench.page` writes all of it again from the samples, after a
change of what a row says.
"""

import dataclasses
import json
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docs.bench.measure import Line, Result, Samples, Verdict, ratios
from shards.disk.home import home

PAGE = "BENCHMARKS.md"


def section(row: str, result: Result, facts: Mapping[str, Any]) -> str:
    """One row in Markdown, for the terminal and for the page alike."""
    lines = [f"### {row}: {result.title}", "", *table(result), "", f"*Repeats:* {repeats(result)}", ""]
    lines += ["| target | came out | met |", "|---|---|---|"]
    for verdict in result.verdicts:
        met = {True: "yes", False: "**missed**", None: "not judged in miniature"}[verdict.met]
        mark = "" if verdict.met is None else _of_one_sample(result)
        lines.append(f"| {verdict.target} | {verdict.found} | {met}{mark} |")
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


def repeats(result: Result) -> str:
    """How many samples the cells have; a single one is never called a median."""
    numbers = {len(samples) for line in result.lines for samples in line.figures.values()}
    if numbers <= {1}:
        return "none. A cell is one sample, and what else the machine did may have slowed one side alone."
    many = ", ".join(str(number) for number in sorted(numbers - {1}))
    alone = "; a cell without brackets is one sample" if 1 in numbers else ""
    return f"a cell is the median of {many} samples, with the least and the most in brackets{alone}."


def _of_one_sample(result: Result) -> str:
    """What a verdict is marked with if the first column, or that of the ratio, has a single sample on a side."""
    column = result.ratio_of or next(iter(result.lines[0].figures))
    numbers = {len(line.figures[column]) for line in result.lines if column in line.figures}
    return "" if 1 not in numbers else ", one sample" if numbers == {1} else ", one sample on a side"


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


def read(numbers: Path) -> dict[str, tuple[Result, dict[str, Any]]]:
    """The rows in a file of samples: what they say, and the facts of the machine."""
    found = {}
    names = {field.name for field in dataclasses.fields(Result)}
    for row, told in json.loads(numbers.read_text(encoding="utf-8")).items():
        parts = {name: value for name, value in told.items() if name in names}
        parts["lines"] = [
            Line(line["what"], {name: tuple(samples) for name, samples in line["figures"].items()})
            for line in told["lines"]
        ]
        parts["verdicts"] = [Verdict(**verdict) for verdict in told["verdicts"]]
        found[row] = Result(**parts), {name: value for name, value in told.items() if name not in names}
    return found


def renew(folder: Path) -> None:
    """Write every row of the page again that has samples. Raises ValueError if the page has no marks for one."""
    page = (folder / PAGE).read_text(encoding="utf-8")
    for numbers in sorted((folder / "data").glob("bench_*.json")):
        for row, (result, facts) in read(numbers).items():
            mark = re.search(rf"<!-- {row}: written by `(.*?)` -->", page)
            page = replaced(page, row, mark[1] if mark else "", section(row, result, facts))
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


if __name__ == "__main__":
    renew(home() / "docs")
