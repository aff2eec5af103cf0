"""What meaning, context and style each do, measured on the sandbox: `make ablate`, or `python -m docs.bench.ablate`.

In: the sandbox's generator, CLIP, judge and real images. Out: a table on standard output. On disk: `--work` keeps one
JSON file per condition and seed (an interrupted call goes on where it was); docs/data/ablate.json and the part of
docs/RESULTS.md between its markers hold the result. About 8 minutes on two cores, through the same fan-out as a run.

One image per prompt, the generator and its settings those of recipes/sandbox.yaml. A seed is a seed of everything:
which prompts are drawn, and the noise.
"""

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluster.fan_out.fan_out import fan_out
from cluster.fan_out.progress import Progress
from cluster.fan_out.work import Beat, FanOutSpec
from cluster.process.stop_flag import StopFlag
from shards.disk.home import home
from shards.disk.record import JSON
from shards.disk.replace import replace_file
from train.report.statistics import mean_interval, paired_difference

HOME = home()
RECIPE = HOME / "recipes" / "sandbox.yaml"
PAGE = HOME / "docs" / "RESULTS.md"
FIGURES = HOME / "docs" / "data" / "ablate.json"
BEGIN, END = "<!-- ablate: written by `make ablate` -->", "<!-- ablate: end -->"

# What people write around a name today; all are words of the sandbox's pool.
TEMPLATES = [
    *("a photo of {name}", "a photograph of {name}", "a snapshot of {name}", "a picture of {name}"),
    *("an image of {name}", "a close-up of {name}", "one small picture of {name}", "a good picture of {name}"),
    *("a bad picture of {name}", "a clean image of {name}", "a large image of {name}", "a rendering of {name}"),
]


@dataclass(frozen=True)
class Condition:
    """One way to prompt: overrides of the recipe."""

    kind: str
    meaning: bool

    @property
    def overrides(self) -> list[str]:
        found = [f"prompts.kind={self.kind}", *([] if self.meaning else ["meanings.choose=none"])]
        if self.kind in ("name", "template"):
            found.append("prompts.per_class=null")
        if self.kind == "template":
            found.append(f"prompts.templates={json.dumps(TEMPLATES)}")
        return found

    @property
    def name(self) -> str:
        return f"{self.kind}, {'with' if self.meaning else 'without'} meaning"


CONDITIONS = [
    Condition(kind, meaning)
    for kind in ("name", "template", "caption", "cd", "sd", "cd+sd")
    for meaning in (False, True)
]
MEASURES = {
    "judged": "judged the asked digit",
    "distance": "mean pairwise CLIP distance inside a class",
    "vendi": "Vendi score inside a class",
    "texts": "distinct prompts",
}


@dataclass(frozen=True)
class Plan:
    """All units: conditions times seeds, condition by condition."""

    per_class: int
    seeds: int

    def unit(self, number: int) -> tuple[Condition, int]:
        return CONDITIONS[number // self.seeds], number % self.seeds

    def __len__(self) -> int:
        return len(CONDITIONS) * self.seeds


def vendi_score(rows_ND: NDArray[np.float32]) -> float:
    """Effective number of distinct images among N unit vectors, 1..N: the exponential of the entropy of the
    eigenvalues of the similarity matrix over N. Source: Friedman and Dieng 2023, definition 3.1."""
    values = np.linalg.eigvalsh(rows_ND.astype(np.float64) @ rows_ND.T.astype(np.float64) / len(rows_ND))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def mean_distance(rows_ND: NDArray[np.float32]) -> float:
    """Mean of 1 - cosine over all pairs of N unit vectors."""
    cosines = rows_ND @ rows_ND.T
    num = len(rows_ND)
    return float(1 - (cosines.sum() - np.trace(cosines)) / (num * (num - 1)))


def by_class(
    measure: Callable[[NDArray[np.float32]], float], rows_ND: NDArray[np.float32], labels: NDArray[np.int64]
) -> float:
    return float(np.mean([measure(rows_ND[labels == label]) for label in np.unique(labels)]))


def make_worker(work: Path, plan: Plan) -> Callable[[int, str, Beat], Mapping[str, JSON]]:
    """A worker with generator, judge and CLIP loaded; it leaves one file per unit in `work`."""
    import torch

    from gen.model.clip import Clip
    from gen.prompts.table import PromptTable
    from gen.prompts.write import write_prompts
    from gen.recipe import read_recipe
    from sandbox.generator import draw, load_generator
    from sandbox.judge import judge, load_judge
    from shards.labels.classes import load_classes

    torch.set_num_threads(1)
    recipe = read_recipe(RECIPE, [])
    models = HOME / "sandbox" / "models"
    pipeline, the_judge = load_generator(models / "generator"), load_judge(models / "judge.safetensors")
    assert recipe.meanings.clip is not None
    clip = Clip.load(recipe.meanings.clip)

    def make(unit: int, attempt: str, beat: Beat) -> Mapping[str, JSON]:
        condition, seed = plan.unit(unit)
        chosen = read_recipe(RECIPE, [f"prompts.per_class={plan.per_class}", f"seed={seed}", *condition.overrides])
        folder = work / f"prompts-{attempt}"
        folder.mkdir()
        write_prompts(chosen, load_classes(chosen.classes), folder, lambda line: None)
        table = PromptTable.load(folder / "prompts.parquet")
        texts, labels = [], []
        for class_id, num in table.num_per_class().items():
            texts += [table.prompt(class_id, number % num).text for number in range(plan.per_class)]
            labels += [class_id] * plan.per_class
        images = []
        for start in range(0, len(texts), chosen.sampler.batch):
            part = texts[start : start + chosen.sampler.batch]
            # the same noise for every condition of a seed, so that differences between them are paired
            seeds = [seed * 1_000_000 + start + number for number in range(len(part))]
            images.append(draw(pipeline, part, seeds, chosen.sampler.steps, chosen.sampler.guidance))
            beat(start + len(part), 0)
        pixels, truth = np.concatenate(images), np.array(labels)
        rows = clip.embed_images(list(pixels))
        figures = {
            "judged": float((judge(the_judge, pixels) == truth).mean()),
            "distance": by_class(mean_distance, rows, truth),
            "vendi": by_class(vendi_score, rows, truth),
            "texts": len(set(texts)) / len(table.num_per_class()),
        }
        replace_file(work / f"{unit:04d}.json", json.dumps(figures).encode())
        return {"images": len(texts)}

    return make


def real_figures(per_class: int) -> dict[str, float]:
    """The same measures of the few-shot training images."""
    from gen.model.clip import Clip
    from gen.recipe import read_recipe
    from sandbox.judge import judge, load_judge
    from sandbox.sets import set_images

    recipe = read_recipe(RECIPE, [])
    assert recipe.meanings.clip is not None
    images, labels = set_images("real-train")
    kept = np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in np.unique(labels)])
    images, labels = images[kept], labels[kept]
    rows = Clip.load(recipe.meanings.clip).embed_images(list(images))
    the_judge = load_judge(HOME / "sandbox" / "models" / "judge.safetensors")
    return {
        "judged": float((judge(the_judge, images) == labels).mean()),
        "distance": by_class(mean_distance, rows, labels),
        "vendi": by_class(vendi_score, rows, labels),
        "texts": float("nan"),
    }


def measure(work: Path, plan: Plan) -> dict[str, dict[int, dict[str, float]]]:
    """Condition -> seed -> figures; makes what is not in `work` yet."""
    about = json.dumps(
        {"per_class": plan.per_class, "seeds": plan.seeds, "conditions": [one.name for one in CONDITIONS]}
    )
    work.mkdir(parents=True, exist_ok=True)
    if (work / "about.json").exists() and (work / "about.json").read_text() != about:
        raise ValueError(f"{work}: found results of another size or other conditions; give another --work")
    (work / "about.json").write_text(about)
    todo = [unit for unit in range(len(plan)) if not (work / f"{unit:04d}.json").exists()]
    if todo:
        worker = functools.partial(make_worker, work.resolve(), plan)
        with Progress(len(todo), len(todo) * plan.per_class * 10) as progress, StopFlag() as stop:
            summary = fan_out(todo, worker, FanOutSpec(straggler_factor=0), progress, stop)
        if summary.exit_code:
            raise RuntimeError(f"ablate: not finished ({summary.as_json()}); run the same command again")
    found: dict[str, dict[int, dict[str, float]]] = {}
    for unit in range(len(plan)):
        condition, seed = plan.unit(unit)
        found.setdefault(condition.name, {})[seed] = json.loads((work / f"{unit:04d}.json").read_text())
    return found


def table(found: Mapping[str, Mapping[int, Mapping[str, float]]], real: Mapping[str, float]) -> str:
    """Markdown: a row a condition, mean and 95 % interval over seeds."""
    lines = [
        "| prompts | judged right | CLIP distance | Vendi score | distinct prompts a class |",
        "|---|---|---|---|---|",
    ]
    for name, by_seed in found.items():
        cells = [_cell([figures[measure] for figures in by_seed.values()], measure) for measure in MEASURES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    shown = [_cell([real[measure]], measure) for measure in ("judged", "distance", "vendi")]
    lines.append(f"| *real images (few-shot training set)* | {' | '.join(shown)} | |")
    return "\n".join(lines)


def _cell(values: Sequence[float], measure: str) -> str:
    one = mean_interval(values)
    scale, digits = (100, 1) if measure == "judged" else (1, 1 if measure == "vendi" else 3)
    if measure == "texts":
        return f"{one.value:.0f}"
    unit = " %" if measure == "judged" else ""
    spread = "" if one.low is None or one.high is None else f" ± {(one.high - one.value) * scale:.{digits}f}"
    return f"{one.value * scale:.{digits}f}{unit}{spread}"


def differences(found: Mapping[str, Mapping[int, Mapping[str, float]]]) -> list[str]:
    """What each step adds, paired by seed: sentences for people."""
    pairs = [
        ("a meaning to the bare name", "name, with meaning", "name, without meaning"),
        ("a meaning to templates", "template, with meaning", "template, without meaning"),
        ("contexts to templates", "cd, with meaning", "template, with meaning"),
        ("styles to contexts", "sd, with meaning", "cd, with meaning"),
        ("a meaning to contexts and styles", "cd+sd, with meaning", "cd+sd, without meaning"),
    ]
    lines = []
    for what, treated, control in pairs:
        told = []
        for measure in ("judged", "distance", "vendi"):
            two = [{seed: figures[measure] for seed, figures in found[name].items()} for name in (treated, control)]
            change = paired_difference(two[0], two[1])
            assert change is not None
            scale, digits = (100, 1) if measure == "judged" else (1, 1 if measure == "vendi" else 3)
            interval = (
                ""
                if change.low is None or change.high is None
                else (f" [{change.low * scale:+.{digits}f}, {change.high * scale:+.{digits}f}]")
            )
            told.append(
                f"{MEASURES[measure]} {change.value * scale:+.{digits}f}{' points' if scale == 100 else ''}{interval}"
            )
        lines.append(f"* Adding {what}: {'; '.join(told)}.")
    return lines


def write(
    found: Mapping[str, Mapping[int, Mapping[str, float]]], real: Mapping[str, float], plan: Plan, seconds: float
) -> str:
    """Put figures and table into docs/, and return what went into the page."""
    FIGURES.write_text(json.dumps({"per_class": plan.per_class, "conditions": found, "real": real}, indent=1) + "\n")
    intro = (
        f"{len(CONDITIONS)} ways to prompt, {plan.seeds} seeds, {plan.per_class} images a class and seed (10 classes); "
        f"mean ± half of the 95 % interval over seeds (Student). {time.strftime('%Y-%m-%d', time.gmtime())}, "
        f"{os.cpu_count()} cores, {seconds:.0f} s for what was not there yet."
    )
    text = "\n\n".join([intro, table(found, real), "\n".join(differences(found))])
    page = PAGE.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    if not begin or END not in rest:
        raise ValueError(f"{PAGE}: found no place for the table, expected the lines {BEGIN} and {END}")
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    return text


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m docs.bench.ablate",
        description="Measure what meaning, context and style do on the sandbox (about 8 minutes on two cores).",
    )
    parser.add_argument("--per-class", type=int, default=20, help="images a class and seed (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="seeds (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=HOME / "out" / "ablate", help="where finished parts are kept")
    parser.add_argument("--dry-run", action="store_true", help="say what would be made; make nothing")
    parser.add_argument("--no-page", action="store_true", help="print only; leave docs/ as it is")
    chosen = parser.parse_args(arguments)
    if chosen.per_class < 2 or chosen.seeds < 1:
        parser.error(f"found {chosen.per_class} images and {chosen.seeds} seeds, expected at least 2 and 1")
    plan = Plan(chosen.per_class, chosen.seeds)
    if chosen.dry_run:
        print(
            f"{len(plan)} parts of {chosen.per_class * 10} images: {len(CONDITIONS)} conditions x {chosen.seeds} seeds"
        )
        return 0
    started = time.monotonic()
    found, real = measure(chosen.work, plan), real_figures(chosen.per_class)
    if chosen.no_page:
        print("\n\n".join([table(found, real), "\n".join(differences(found))]))
    else:
        print(write(found, real, plan, time.monotonic() - started))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
