"""The report: one page with the results of runs, which anyone can open.

In: folders that `sixfold train` and `sixfold sweep` wrote. Out and on disk: `report.html`, replaced as a whole.
(`train.report.words.results_table` gives the same tables as Markdown.) Beside `results.jsonl`, the page reads
`recipe.yaml` (the data whose samples it shows), `model.json` (names of classes) and `bn_distances.json` (its `layers`:
a list of layer, domain, symmetric_kl). It names files that are missing or damaged, and does without them.

The page is static: no script, nothing loaded from elsewhere (strict CSP, its one style by hash), a limited number of
embedded pictures, every text escaped. It shows no date, so the same results give the same bytes.
"""

import base64
import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from cluster.recipes.load import plain_yaml
from shards.disk.address import local_root
from shards.disk.checked_json import plain_json
from shards.disk.layout import SUCCESS
from shards.disk.regular import read_regular
from shards.disk.replace import replace_file
from shards.disk.safe_text import clip, redact
from shards.disk.store import open_for_reading
from shards.set.manifest import read_subset, read_table, scan
from shards.set.row_jpegs import JPEG_COLUMNS, read_jpegs
from shards.set.subset import chosen_rows, named_subset
from shards.views.page import NOTICES, one_file_page, page_environment
from shards.views.thumbnail import small_copy
from train.evaluate.results import RESULTS, Result, find_results
from train.report.charts import Bar, Panel, bars, panels
from train.report.class_names import ClassNames, names_in, names_of
from train.report.comparison import Compared, Row, Sweep, compare, interval_of
from train.report.fixed import held_fixed
from train.report.statistics import Estimate, if_enough, mean_interval
from train.report.words import (
    Verdict,
    accuracy_text,
    interval,
    method,
    over_what,
    p_text,
    percent,
    points,
    results_table,
    verdict_points,
    verdicts,
    verdicts_of,
)

PAGES = Path(__file__).parent / "pages"
MAX_FILE_BYTES = 4_000_000  # of recipe.yaml, model.json, bn_distances.json
MAX_SOURCES = 12
PICTURES_PER_SOURCE = 12
PICTURE_PX = 112
CHANGED_CLASSES = 6  # best and worst
MAX_PROBLEMS = 20
MAX_RUNS = 400  # lines of the table of runs
MAX_LAYERS = 120
MAX_VERDICTS = 40  # sweeps, and sets, of the first table
MAX_DISTANCE = 1e100  # in nats; a sum of larger ones is no number

__all__ = ["results_table", "write_report"]


@dataclass(frozen=True)
class Picture:
    """An embedded picture."""

    address: str  # a data: address
    alt: str


@dataclass(frozen=True)
class Samples:
    """Some pictures of one data set."""

    title: str
    pictures: tuple[Picture, ...]
    problem: str


@dataclass(frozen=True)
class Changes:
    """Per-class differences of one point against its baseline on one set, the largest ones."""

    title: str
    better: tuple[Bar, ...]
    worse: tuple[Bar, ...]
    num_better: int
    num_worse: int
    num_same: int


@dataclass(frozen=True)
class Figures:
    """A sweep, and everything that the page draws of it."""

    sweep: Sweep
    verdicts: tuple[Verdict, ...]
    panels: tuple[Panel, ...]
    differences: tuple[tuple[str, tuple[Bar, ...]], ...]  # set -> bars
    changes: Changes | None
    fixed: str  # what all points have in common, in sentences


def write_report(folders: Sequence[Path], out: Path, speed: bool = True) -> Path:
    """Write the page to the file `out`, with images/s if `speed`, and return it. Raises ValueError if a folder is
    missing or `out` cannot be written."""
    found = find_results(folders)
    compared = compare(found.results)
    runs = _run_folders(folders)
    names, about, layers, recipes, problems = _facts_of_runs(runs)
    count = functools.cache(_num_pictures)
    figures = [
        _figures(sweep, names_of(sweep, names, recipes), held_fixed(sweep, found.results, recipes, count).text)
        for sweep in compared.sweeps
    ]
    samples = [_samples(source) for source in list(about)[:MAX_SOURCES]]
    problems = [*found.problems, *compared.problems, *problems]
    values = {
        "title": ", ".join(folder.absolute().name for folder in folders),
        "method": method(compared),
        "headline": _headline(figures, len(found.results)),
        "figures": figures,
        "verdicts": _verdict_rows(figures)[:MAX_VERDICTS],
        "verdict_sets": list(dict.fromkeys(one.set for sweep in figures for one in sweep.verdicts))[:MAX_VERDICTS],
        "singles": _single_rows(compared),
        "num_singles_cut": max(0, len(compared.singles) - MAX_RUNS),
        "num_results": len(found.results),
        "speed": speed,
        "num_runs": len({result.key[:3] for result in found.results}),
        "problems": [clip(redact(problem), 300) for problem in problems[:MAX_PROBLEMS]],
        "num_problems": len(problems),
        "samples": samples,
        "num_sources": len(about),
        "layers": layers,
        "runs": _run_rows(found.results)[:MAX_RUNS],
        "made_by": _made_by(found.results),
        "notices": [NOTICES[domain] for domain in NOTICES if domain in {source[0] for source in about}],
    }
    environment = page_environment(PAGES)
    environment.filters.update(
        {function.__name__: function for function in (percent, points, interval, accuracy_text, p_text)}
    )
    page = one_file_page(environment, "report.html", PAGES / "report.css", values)
    try:
        replace_file(out, page.encode())
    except OSError as error:
        raise ValueError(f"{out}: cannot be written ({error.strerror}); give another file for the page") from None
    return out


def _headline(figures: Sequence[Figures], num_results: int) -> Verdict:
    """The first sentence of the page: of the scale sweep if it has a verdict, otherwise of the first sweep with one."""
    for one in sorted(figures, key=lambda one: one.sweep.name != "scale"):
        if one.verdicts:
            return one.verdicts[0]
    if figures:
        return Verdict("open", "Nothing to compare yet.", "No point of a sweep has a result beside its baseline.")
    if not num_results:
        return Verdict("open", "No result here.", "The folders of this page hold no finished evaluation.")
    return Verdict(
        "open",
        "No sweep here.",
        "These runs stand alone; sixfold sweep recipes/sweeps/scale.yaml compares 0x to 6x over several seeds.",
    )


def _verdict_rows(figures: Sequence[Figures]) -> list[dict[str, Any]]:
    """A row for each line of a sweep that can tell: what is compared, and the verdict on each set."""
    rows = []
    for number, one in enumerate(figures, 1):
        for row in verdict_points(one.sweep):
            found = verdicts_of(one.sweep, row)
            if not found:
                continue
            control = one.sweep.row(row.baseline)
            assert control is not None, "a verdict has a baseline"
            rows.append(
                {
                    "number": number,
                    "title": one.sweep.title,
                    "what": f"{row.label} over {over_what(control)}",
                    "cells": {verdict.set: verdict for verdict in found},
                    "seeds": max(verdict.difference.n for verdict in found if verdict.difference is not None),
                }
            )
    return rows


# figures


def _figures(sweep: Sweep, names: Mapping[int, str], fixed: str) -> Figures:
    drawn = {
        name: [
            (_compared(sweep, row), f"{points(cell.difference.value)} {interval(cell.difference)}", cell.difference)
            for row in sweep.rows
            if (cell := row.cells.get(name)) is not None and cell.difference is not None
        ]
        for name in sweep.sets
    }
    every = [difference for rows in drawn.values() for _, _, difference in rows]
    differences = [(name, tuple(bars(rows, every))) for name, rows in drawn.items() if rows]
    curve = tuple(panels(sweep)) if sweep.is_curve else ()
    return Figures(sweep, tuple(verdicts(sweep)), curve, tuple(differences), _changes(sweep, names), fixed)


def _compared(sweep: Sweep, row: Row) -> str:
    return row.label if row.baseline == sweep.against else f"{row.label}, against {row.baseline}"


def _changes(sweep: Sweep, names: Mapping[int, str]) -> Changes | None:
    """Differences of each class on the first set, paired by seed: the verdict's first point against its baseline."""
    row = next(iter(verdict_points(sweep)), None)
    control = None if row is None else sweep.row(row.baseline)
    name = sweep.sets[0]
    if row is None or control is None or name not in row.cells or name not in control.cells:
        return None
    if row.cells[name].difference is None:
        return None  # measured on other pictures
    before = {run.seed: run.per_class for run in control.cells[name].runs}
    after = {run.seed: run.per_class for run in row.cells[name].runs}
    seeds = sorted(before.keys() & after.keys())
    if not seeds:
        return None
    found: list[tuple[str, str, Estimate]] = []
    shared = [set(before[seed]) & set(after[seed]) for seed in seeds]
    for class_id in sorted(set.intersection(*shared)):
        gains = [_share(after[seed][class_id]) - _share(before[seed][class_id]) for seed in seeds]
        one = if_enough(mean_interval(gains))
        label = f"{clip(names[class_id], 60)} ({class_id})" if class_id in names else f"class {class_id}"
        found.append((label, f"{points(one.value)} {interval(one)}", one))
    if not found:
        return None
    # of many classes some lie far from zero by chance, so none is coloured
    drawn = [replace(bar, tone="open") for bar in bars(found)]
    ranked = sorted(range(len(found)), key=lambda place: (-found[place][2].value, place))
    better = [drawn[place] for place in ranked if found[place][2].value > 0]
    worse = [drawn[place] for place in reversed(ranked) if found[place][2].value < 0]
    return Changes(
        f"{row.label} against {control.label} on {name}",
        tuple(better[:CHANGED_CLASSES]),
        tuple(worse[:CHANGED_CLASSES]),
        len(better),
        len(worse),
        len(found) - len(better) - len(worse),
    )


def _share(pair: tuple[int, int]) -> float:
    return pair[0] / pair[1]


def _single_rows(compared: Compared) -> list[dict[str, str]]:
    rows = []
    for one in compared.singles[:MAX_RUNS]:
        share = interval_of(one)
        assert share.low is not None
        assert share.high is not None
        rows.append(
            {
                "run": clip(one.run, 120),
                "seed": str(one.seed),
                "set": clip(one.set, 120),
                "top1": f"{percent(one.top1)} [{percent(share.low)}, {percent(share.high)}]",
                "top5": percent(one.top5),
                "n": f"{one.n:,}",
            }
        )
    return rows


# what was run


def _run_rows(results: Sequence[Result]) -> list[dict[str, str]]:
    """One row for each run: its folder, its recipe, its speed."""
    last: dict[tuple[str, str, int], Result] = {}
    for result in results:
        there = last.get(result.key[:3])
        if there is None or (result.selected, result.step) >= (there.selected, there.step):
            last[result.key[:3]] = result
    return [
        {
            "run": clip(one.run, 120),
            "sweep": f"{one.sweep.name}, {one.sweep.point.label}" if one.sweep else "",
            "seed": str(one.seed),
            "recipe": one.recipe[:12],
            "step": f"{one.step:,}",
            "images": f"{one.images_seen:,}",
            "rate": f"{one.images_per_s:,.0f}",
            "wait": f"{percent(one.wait_share)} %",
            "weights": one.weights,
        }
        for one in last.values()
    ]


def _made_by(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Code, versions and data of all results; a name with several values means that runs differ in it."""
    found: dict[str, Counter[str]] = {}
    for result in results:
        pairs = {"code": result.code[:12]}
        pairs |= {f"data: {name}": digest[:12] for name, digest in result.data.items()}
        pairs |= dict(result.versions)
        for name, value in pairs.items():
            found.setdefault(name, Counter())[value] += 1
    rows = []
    for name, values in found.items():
        texts = [f"{value}" for value, _ in values.most_common(4)]
        more = f" and {len(values) - 4} more" if len(values) > 4 else ""
        rows.append((clip(name, 80), clip(", ".join(texts), 200) + more))
    return rows


def _run_folders(folders: Sequence[Path]) -> list[Path]:
    return list(dict.fromkeys(path.parent for folder in folders for path in sorted(folder.rglob(RESULTS))))


Source = tuple[str, str, str | None]  # domain, place, subset


def _facts_of_runs(
    runs: Sequence[Path],
) -> tuple[dict[str, ClassNames], dict[Source, None], list[Bar], dict[str, list[dict[str, Any]]], list[str]]:
    """Class names by run, data sources, distances of BN layers, recipes by run, and the files that could not be
    read."""
    recipes: dict[str, list[dict[str, Any]]] = {}
    names: dict[str, ClassNames] = {}
    sources: dict[Source, None] = {}
    distances: dict[str, list[float]] = {}
    problems: list[str] = []
    for run in runs:
        model = _read(run / "model.json", problems)
        if isinstance(model, dict):
            names[str(model.get("recipe", run.name))] = names_in(model)
        recipe = _read(run / "recipe.yaml", problems)
        if isinstance(recipe, dict):
            recipes.setdefault(run.name, []).append(recipe)
        data = recipe.get("data") if isinstance(recipe, dict) else None
        domains = data.get("domains") if isinstance(data, dict) else None
        for domain in domains if isinstance(domains, list) else ():
            if isinstance(domain, dict) and isinstance(domain.get("source"), str):
                subset = domain.get("subset")
                sources[str(domain.get("name")), domain["source"], subset if isinstance(subset, str) else None] = None
        measured = _read(run / "bn_distances.json", problems)
        layers = measured.get("layers") if isinstance(measured, dict) else None
        for layer in layers if isinstance(layers, list) else ():
            value = layer.get("symmetric_kl") if isinstance(layer, dict) else None
            if isinstance(value, int | float) and abs(value) <= MAX_DISTANCE:
                name = str(layer.get("layer")) + (f", domain {layer['domain']}" if layer.get("domain", 1) != 1 else "")
                distances.setdefault(name, []).append(float(value))
    return names, _widest(sources), _layer_bars(distances), recipes, problems


def _widest(sources: dict[Source, None]) -> dict[Source, None]:
    """One entry for each data set: pictures of 1x are also pictures of 6x."""
    return dict.fromkeys({source[:2]: source for source in sources}.values())


def _layer_bars(distances: Mapping[str, Sequence[float]]) -> list[Bar]:
    """The mean distance of each layer over the runs, in the model's order."""
    means = {name: math.fsum(values) / len(values) for name, values in list(distances.items())[:MAX_LAYERS]}
    most = max(means.values(), default=0.0)
    return [
        Bar(clip(name, 80), f"{value:.3f}", "open", round(100 * value / most, 2) if most else 0.0, None, None, 0.0)
        for name, value in means.items()
    ]


def _read(path: Path, problems: list[str]) -> Any:
    """Parsed JSON or YAML; None for a missing file, and for an unreadable one, which `problems` then names."""
    try:
        data = read_regular(path, MAX_FILE_BYTES)
        return plain_json(data) if path.suffix == ".json" else plain_yaml(data)[0]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:120]
        problems.append(f"{path}: found a file that cannot be read ({reason}); what it says is left out")
        return None


# pictures


def _samples(source: Source) -> Samples:
    """Some pictures of a data set, classes in turn, or a line that says why there are none.

    Only local data sets are read: a recipe that came with the results must not choose which addresses are called.
    """
    domain, url, subset = source
    place = redact(url).rstrip("/").rpartition("/")[2]
    title = f"{domain}: {place}" + (f", {subset}" if subset else "")
    try:
        pictures, problem = _pictures(url, subset)
    except (ValueError, OSError) as error:
        pictures, problem = (), f"cannot be shown ({clip(redact(' '.join(str(error).split())), 200)})"
    return Samples(clip(title, 160), pictures, problem)


def _num_pictures(url: str, subset: str | None) -> int | None:
    """How many pictures a data set of ours on this machine has; None for all others."""
    try:
        if local_root(url) is None:
            return None
        store = open_for_reading(url)
        if subset is not None:
            return int(read_subset(store, subset)[0].num_rows)
        return sum(record.successes for record in scan(store).records.values()) or None
    except (ValueError, OSError):
        return None  # `_samples` says why


def _pictures(url: str, subset: str | None) -> tuple[tuple[Picture, ...], str]:
    if local_root(url) is None:
        return (), "is not on this machine; a report shows local data sets only"
    store = open_for_reading(url)
    records = scan(store).records
    if not records:
        return (), "has no shard of ours to show"
    chosen = named_subset(store, subset)
    shard = min(chosen) if chosen else min(records)
    if shard not in records:
        return (), f"lacks shard {shard}, which its subset names"
    columns = ["key", "uid", "status", "class_id", "class_name", *JPEG_COLUMNS]
    table = chosen_rows(read_table(store, {shard: records[shard]}, columns), shard, chosen)
    by_class: dict[int, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        if row["status"] == SUCCESS:
            by_class.setdefault(row["class_id"], []).append(row)
    depth = max((len(rows) for rows in by_class.values()), default=0)
    turns = [rows[turn] for turn in range(depth) for _, rows in sorted(by_class.items()) if turn < len(rows)]
    wanted = sorted(turns[:PICTURES_PER_SOURCE], key=lambda row: row["jpg_offset"])
    pictures = []
    for row, jpeg in zip(wanted, read_jpegs(store, shard, wanted), strict=True):
        if isinstance(jpeg, str):
            raise ValueError(jpeg)
        address = "data:image/jpeg;base64," + base64.b64encode(small_copy(jpeg, PICTURE_PX, 88, "420")).decode()
        pictures.append(Picture(address, clip(str(row["class_name"]), 120)))
    return tuple(pictures), "" if pictures else "holds no picture"
