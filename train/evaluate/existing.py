"""Measures a model that exists on sets of pictures: counts, a table by class, a page of what is confused with what.

In: a `Subject`, addresses of sets. Out: `Report`s. On disk, in a folder:

    results.jsonl           a line for each set, as a training writes them (train.evaluate.results); calls add lines
    confusion-<set>.html    a page for each set, replaced as a whole when the set is measured again

Sets of one name are told apart by the folders above them, also from those that `results.jsonl` holds already: a result
says of which pictures it is (the digest of their index).

Which output is right for a class of a set is told by names, where both sides have them: `outputs_of`.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cluster.code import code_hash, library_versions
from shards.disk.address import local_root
from shards.disk.home import home
from shards.disk.replace import replace_file
from shards.disk.safe_text import clip, quoted
from shards.labels.folders import fold_name, match_folders
from shards.set.status import refuse_unfinished
from shards.stream.index import load_index
from shards.stream.read_all import read_all
from shards.stream.spec import EvalSpec
from shards.views.page import one_file_page, page_environment
from train.evaluate.confusion import Confusion, matrix_of, pair_rows, worst_first
from train.evaluate.counts import Counts, count
from train.evaluate.data_check import Opened, read_names, what_is_read
from train.evaluate.evaluate import Moment, OpenSet, RunFacts, SetSpec, answer_key, evaluating, make_result
from train.evaluate.results import RESULTS, Result, append_results, read_results
from train.evaluate.subject import Subject, load_subject

if TYPE_CHECKING:
    import torch
    from torch import nn

PAGE = "confusion.html"
PAGES = Path(__file__).parent / "pages"
LIBRARIES = ("torch", "timm", "numpy", "pillow")
MAX_PRINTED = 20  # classes of a set on the terminal
MAX_FOLDERS = 9  # of an address, in a name
MAX_ROWS = 1_000  # classes of a set on the page
Competing = Literal["all", "own"]


@dataclass(frozen=True, eq=False)
class Report:
    """What came out on one set."""

    one: OpenSet
    names: dict[int, str]  # class id of the set -> what to call it
    counts: Counts
    confusion: Confusion


def open_on(
    subject: Subject, sources: Sequence[str], subset: str | None, competing: Competing, folder: Path | None = None
) -> tuple[list[OpenSet], list[str]]:
    """The sets, and lines for people about each; `folder`: with results of earlier calls. Raises ValueError for a set
    that is missing, not finished or without a class that the model knows."""
    found, said = [], []
    taken = {} if folder is None else _measured(folder, subject)
    usual = [_name(address, 1, subset, competing) for address in {_address(source) for source in sources}]
    this_call: set[str] = set()
    for source in sources:
        if subset is None:
            refuse_unfinished(source, "--on")
        index = load_index(source, subset, class_list=lambda source: subject.classes or None)
        opened = Opened("--on", source, index)
        labels, line = outputs_of(opened, subject)
        spec = SetSpec(source=source, subset=subset, classes=competing)
        key = answer_key(spec, np.unique(index.label).tolist(), subject.about.num_classes, labels)
        address = _address(source)
        num_folders = 1 if usual.count(_name(address, 1, subset, competing)) == 1 else 2
        every = [_name(address, num, subset, competing) for num in range(num_folders, MAX_FOLDERS)]
        every += [f"{every[-1]}-{again}" for again in range(2, 10_000)]
        name = next(
            one for one in every if _slug(one) not in this_call and taken.get(_slug(one), index.digest) == index.digest
        )
        this_call.add(_slug(name))
        said += [f"{name}: {len(index):,} pictures of {len(np.unique(index.label)):,} classes; {line}"]
        said += what_is_read([opened])
        found.append(OpenSet(name, "test", spec, key, opened))
    return found, said


def outputs_of(opened: Opened, subject: Subject) -> tuple[dict[int, tuple[int, ...]] | None, str]:
    """Class id of the set -> the outputs that are right; None: the same numbers. And a line that says which it is.

    Names are compared as for class folders: WordNet id, name, or number. Classes that the model does not know are left
    out of the accuracy, and counted. Raises ValueError if it knows none of them, or if a name means several.
    """
    names = read_names(opened)
    if names is None or not subject.classes:
        who = "the set names no classes" if names is None else "the model names no outputs"
        return None, f"{who}: ids are taken for outputs"
    nameless = [class_id for class_id in np.unique(opened.index.label).tolist() if class_id not in names]
    listed = ", ".join(map(str, nameless[:5])) + (", ..." if len(nameless) > 5 else "")
    mine = {one.id: {fold_name(one.name), one.wordnet_id} for one in subject.classes}
    said = {class_id: {fold_name(name) for name in several} for class_id, several in names.items()}
    if all(said[class_id] & mine.get(class_id, set()) for class_id in said):
        by_id = f"; {len(nameless)} without a name are taken by their ids ({listed})" if nameless else ""
        return None, f"names and ids are those of the model{by_id}"
    every = sorted({name for several in names.values() for name in several})
    matched = match_folders(every, subject.classes, opened.place)
    found = {
        class_id: tuple(sorted({matched[name].id for name in several if name in matched}))
        for class_id, several in names.items()
    }
    known = {class_id: outputs for class_id, outputs in found.items() if outputs}
    if not known:
        some = ", ".join(quoted(name, 30) for name in every[:3])
        raise ValueError(
            f"{opened.place}: found classes such as {some}, expected some that the model knows, such as "
            f"{', '.join(quoted(one.name, 30) for one in subject.classes[:3])}; name its outputs with --classes"
        )
    unknown = len(found) - len(known)
    left = f", {unknown} that it does not know are left out" if unknown else ""
    left += f", {len(nameless)} without a name are left out (ids {listed})" if nameless else ""
    return known, f"{len(known)} classes are matched with the model's outputs by name{left}"


def measure_on(
    subject: Subject, sets: Sequence[OpenSet], batch: int, device: "torch.device", say: Callable[[str], None]
) -> list[Report]:
    """Every picture of every set once. Raises ValueError for a picture that cannot be read."""
    model = load_subject(subject).to(device)
    found = []
    for one in sets:
        began = time.monotonic()
        counts, confusion = _measure(subject, model, one, batch, device)
        seconds = time.monotonic() - began
        found.append(Report(one, _names(one, subject), counts, confusion))
        say(f"{one.name}: {one.n:,} pictures in {seconds:.1f} s, {one.n / max(seconds, 1e-9):,.0f} a second")
    return found


def _measure(
    subject: Subject, model: "nn.Module", one: OpenSet, batch: int, device: "torch.device"
) -> tuple[Counts, Confusion]:
    import torch

    from train.evaluate.measure import logits_of
    from train.model.engine import EngineSpec

    about = subject.about
    engine = EngineSpec(kind="single")
    reading = EvalSpec(source=one.spec.source, size_px=about.size_px, crop_pct=about.crop_pct)
    counts, confusion, read_before = Counts.none(one.key.ids, one.n), Confusion(one.key), 0
    with evaluating(model), torch.inference_mode():
        for read in read_all(reading, one.opened.index, batch):
            scores = logits_of(model, read.images, engine, about.normal, device)[read.valid]
            labels = read.labels[read.valid].astype(np.int64)
            rows = np.arange(read_before, read_before + len(labels))
            counts += count(scores, labels, one.key).placed(rows, one.n)
            read_before += len(labels)
            confusion.add(scores, labels)
    return counts, confusion


def _names(one: OpenSet, subject: Subject) -> dict[int, str]:
    own = read_names(one.opened) or {}
    outputs = one.key.accepted
    return {
        class_id: f"{clip(min(own[class_id]), 60)} ({class_id})"
        if own.get(class_id)
        else subject.called(outputs[class_id][0])
        for class_id in one.key.ids
    }


# what is told


def table(report: Report) -> str:
    """Lines for a terminal: accuracy, then the classes, the lowest first; of many only those."""
    counts = report.counts
    rows = worst_first(counts, report.names)
    lines = [
        f"{report.one.name}: top-1 {100 * counts.top1:.2f} % ({int(counts.right.sum()):,} of {counts.n:,}), "
        f"top-5 {100 * counts.top5:.2f} % ({int(counts.right_top5.sum()):,})"
    ]
    if counts.left_out or counts.not_finite:
        lines.append(f"  left out: {counts.left_out:,} of unknown classes; {counts.not_finite:,} without finite scores")
    shown = rows if len(rows) <= MAX_PRINTED else rows[:MAX_PRINTED]
    width = max(len(row.name) for row in shown)
    lines += [
        f"  {row.name:<{width}}  {row.right:>7,} of {row.seen:>7,}  top-1 {row.top1:5.1f} %  top-5 {row.top5:5.1f} %"
        for row in shown
    ]
    if len(rows) > len(shown):
        lines.append(f"  and {len(rows) - len(shown):,} classes above these; all stand in {page_name(report.one.name)}")
    return "\n".join(lines)


def write_reports(folder: Path, subject: Subject, reports: Sequence[Report]) -> list[Result]:
    """Add the result lines and write the pages."""
    facts = subject.about.facts
    step, seed, weights = facts.get("step"), facts.get("seed"), facts.get("weights")
    recipe = facts.get("recipe")
    moment = Moment(
        step=step if isinstance(step, int) and step >= 0 else 0,
        weights="ema" if weights == "ema" else "last",
        images_seen=0,
        images_per_s=0.0,
        wait_share=0.0,
        time=time.time(),
    )
    results = []
    for report in reports:
        run = RunFacts(
            run=subject.name,
            recipe=recipe if isinstance(recipe, str) and len(recipe) == 64 else subject.found.sha256,
            seed=seed if isinstance(seed, int) else 0,
            data={report.one.name: report.one.digest},
            code=code_hash(home()),
            versions=library_versions(LIBRARIES),
        )
        results.append(make_result(run, moment, report.one.name, "test", report.counts, selected=True))
    append_results(folder / RESULTS, results)
    for report in reports:
        replace_file(folder / page_name(report.one.name), page_of(subject, [report]).encode())
    return results


def page_of(subject: Subject, reports: Sequence[Report]) -> str:
    """The page with all sets; its length is bounded, whatever the number of classes."""
    environment = page_environment(PAGES)
    values = {"title": subject.name, "line": subject.line, "sets": [_section(subject, report) for report in reports]}
    return one_file_page(environment, PAGE, PAGES / "confusion.css", values)


def _section(subject: Subject, report: Report) -> dict[str, object]:
    counts, names = report.counts, report.names
    rows = worst_first(counts, names)
    pairs, num_pairs = pair_rows(report.confusion, names.__getitem__, subject.called)
    return {
        "name": report.one.name,
        "top1": f"{100 * counts.top1:.2f}",
        "top5": f"{100 * counts.top5:.2f}",
        "n": counts.n,
        "num_classes": len(rows),
        "left_out": counts.left_out,
        "not_finite": counts.not_finite,
        "pairs": pairs,
        "num_pairs": num_pairs,
        "matrix": matrix_of(report.confusion, names.__getitem__, subject.called),
        "rows": rows[:MAX_ROWS],
        "num_rows_cut": max(0, len(rows) - MAX_ROWS),
    }


# names of sets


def page_name(one: str) -> str:
    """The page of the set with this name."""
    return f"confusion-{_slug(one)}.html"


def _address(source: str) -> str:
    """Of a folder its whole path, so that there is a folder above it to name."""
    root = local_root(source)
    return source.rstrip("/") if root is None else str(root.absolute())


def _name(address: str, num_folders: int, subset: str | None, competing: Competing) -> str:
    """``"b/val:2x"`` of two folders: the last parts of the address, the subset, and whether only some outputs compete,
    which makes other figures."""
    name = "/".join([part for part in address.split("/") if part][-num_folders:]) or address
    return f"{name}{f':{subset}' if subset else ''}{' (own classes)' if competing == 'own' else ''}"


def _slug(name: str) -> str:
    """The name as a part of a file's name; names that share it are not told apart."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[-80:] or "set"


def _measured(folder: Path, subject: Subject) -> dict[str, str]:
    """Of each set in the folder's results of this model, by the part of its page's name: the digest of its pictures."""
    lines = read_results(folder / RESULTS).results
    return {_slug(line.set): line.data.get(line.set, "") for line in lines if line.run == subject.name}
