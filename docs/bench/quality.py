"""What each shortcut of the sampler costs in quality and gains in speed, on the sandbox: `python -m
docs.bench.quality`.

In: the sandbox's generator, CLIP and judge. Out: a table on standard output. On disk: `--work` keeps one JSON file per
condition and seed (an interrupted call goes on where it was); docs/data/quality.json and the part of docs/RESULTS.md
between its markers hold the result. About 5 minutes on two cores, through the same fan-out as a run.

Prompts and noise of a seed are the same under every condition, so differences are paired. Speed is images per second of
processor time inside the sampler: wall time would measure what else the machine does. The sandbox's decoder has no
tiny twin and its machine no GPU, so `decoder` and `quantise` are not in the table.
"""

import argparse
import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.fan_out.fan_out import fan_out
from cluster.fan_out.progress import Progress
from cluster.fan_out.work import Beat, FanOutSpec, Worker
from cluster.process.stop_flag import StopFlag
from docs.bench.ablate import by_class, mean_distance, vendi_score
from shards.disk.home import home
from shards.disk.record import JSON
from shards.disk.replace import replace_file
from train.report.statistics import mean_interval, paired_difference

HOME = home()
RECIPE = HOME / "recipes" / "sandbox.yaml"
PAGE = HOME / "docs" / "RESULTS.md"
FIGURES = HOME / "docs" / "data" / "quality.json"
BEGIN, END = "<!-- quality: written by `python -m docs.bench.quality` -->", "<!-- quality: end -->"

EXACT = "exact: 12 steps, guidance in all of them"
# name -> overrides of recipes/sandbox.yaml. Fewer steps are what a shortcut has to beat.
CONDITIONS: dict[str, list[str]] = {
    EXACT: [],
    "bf16": ["sampler.dtype=bf16"],
    "guidance in the first three quarters": ["sampler.guidance_interval=[0.0, 0.75]"],
    "guidance in the first half": ["sampler.guidance_interval=[0.0, 0.5]"],
    "guidance in the middle half": ["sampler.guidance_interval=[0.25, 0.75]"],
    "no guidance": ["sampler.guidance=1.0"],
    "deep layers every 2nd step": ["sampler.reuse_every=2"],
    "deep layers every 3rd step": ["sampler.reuse_every=3"],
    "deep layers every 2nd step, guidance in the first half": [
        "sampler.reuse_every=2",
        "sampler.guidance_interval=[0.0, 0.5]",
    ],
    "8 steps": ["sampler.steps=8"],
    "6 steps": ["sampler.steps=6"],
}
MEASURES = ("judged", "distance", "vendi", "apart", "rate")


@dataclass(frozen=True)
class Plan:
    """All units: conditions times seeds, condition by condition."""

    names: tuple[str, ...]
    per_class: int
    seeds: int

    def unit(self, number: int) -> tuple[str, int]:
        return self.names[number // self.seeds], number % self.seeds

    def __len__(self) -> int:
        return len(self.names) * self.seeds


def make_worker(work: Path, plan: Plan) -> Worker:
    """A worker with judge and CLIP loaded; it leaves one file per unit in `work`."""
    from gen.model.clip import Clip
    from gen.prompts.table import PromptTable
    from gen.prompts.write import write_prompts
    from gen.recipe import Recipe, read_recipe
    from gen.sampler.sampler import Request, Sampler
    from sandbox.judge import judge, load_judge
    from shards.labels.classes import load_classes

    recipe = read_recipe(RECIPE, [])
    assert recipe.meanings.clip is not None
    the_judge, clip = load_judge(HOME / "sandbox" / "models" / "judge.safetensors"), Clip.load(recipe.meanings.clip)

    def read(seed: int, overrides: Sequence[str]) -> Recipe:
        common = [f"prompts.per_class={plan.per_class}", f"seed={seed}", "sampler.device=cpu"]
        return read_recipe(RECIPE, [*common, *overrides])

    @functools.cache
    def asked(seed: int) -> tuple[list[Request], np.ndarray]:
        """The same prompts and noise for every condition, and the classes asked for."""
        chosen = read(seed, CONDITIONS[EXACT])
        with tempfile.TemporaryDirectory() as folder:
            write_prompts(chosen, load_classes(chosen.classes), Path(folder), lambda line: None)
            table = PromptTable.load(Path(folder) / "prompts.parquet")
        texts, labels = [], []
        for class_id, num in table.num_per_class().items():
            texts += [table.prompt(class_id, number % num).text for number in range(plan.per_class)]
            labels += [class_id] * plan.per_class
        return [Request(text, "", seed * 1_000_000 + place) for place, text in enumerate(texts)], np.array(labels)

    @functools.cache
    def draw(name: str, seed: int) -> tuple[np.ndarray, float]:
        """Images, and seconds of processor time after the first call."""
        chosen, (requests, _) = read(seed, CONDITIONS[name]), asked(seed)
        sampler, size = Sampler.load(chosen.sampler), chosen.sampler.call_size
        sampler.prepare([request.prompt for request in requests])
        sampler.sample(requests[:size])
        begun = time.process_time()
        images = [sampler.sample(requests[start : start + size]).image_NHWC for start in range(0, len(requests), size)]
        return np.concatenate(images), time.process_time() - begun

    def make(unit: int, attempt: str, beat: Beat) -> Mapping[str, JSON]:
        name, seed = plan.unit(unit)
        exact, _ = draw(EXACT, seed)
        beat(0, 0)
        pixels, seconds = draw(name, seed)
        beat(len(pixels), 0)
        truth = asked(seed)[1]
        rows = clip.embed_images(list(pixels))
        figures = {
            "judged": float((judge(the_judge, pixels) == truth).mean()),
            "distance": by_class(mean_distance, rows, truth),
            "vendi": by_class(vendi_score, rows, truth),
            "apart": float(np.abs(pixels.astype(np.int16) - exact).mean()),
            "rate": len(pixels) / seconds,
        }
        replace_file(work / f"{unit:04d}.json", json.dumps(figures).encode())
        return {"images": len(pixels)}

    return make


def measure(work: Path, plan: Plan, spec: FanOutSpec) -> dict[str, dict[int, dict[str, float]]]:
    """Condition -> seed -> figures; makes what is not in `work` yet."""
    about = json.dumps({"per_class": plan.per_class, "seeds": plan.seeds, "conditions": plan.names})
    work.mkdir(parents=True, exist_ok=True)
    if (work / "about.json").exists() and (work / "about.json").read_text() != about:
        raise ValueError(f"{work}: found results of another size or other conditions; give another --work")
    (work / "about.json").write_text(about)
    todo = [unit for unit in range(len(plan)) if not (work / f"{unit:04d}.json").exists()]
    if todo:
        worker = functools.partial(make_worker, work.resolve(), plan)
        with Progress(len(todo), len(todo) * plan.per_class * 10) as progress, StopFlag() as stop:
            summary = fan_out(todo, worker, spec, progress, stop)
        if summary.exit_code:
            raise RuntimeError(f"quality: not finished ({summary.as_json()}); run the same command again")
    found: dict[str, dict[int, dict[str, float]]] = {}
    for unit in range(len(plan)):
        name, seed = plan.unit(unit)
        found.setdefault(name, {})[seed] = json.loads((work / f"{unit:04d}.json").read_text())
    return found


def on_the_front(points: Mapping[str, tuple[float, ...]]) -> set[str]:
    """Names of the points that no other point equals or beats in every coordinate and beats in one."""

    def beaten(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        return one != other and all(theirs >= ours for ours, theirs in zip(one, other, strict=True))

    return {name for name, one in points.items() if not any(beaten(one, other) for other in points.values())}


def table(found: Mapping[str, Mapping[int, Mapping[str, float]]]) -> str:
    """Markdown: a row a condition, mean and 95 % interval over seeds; bold where nothing is better in all three."""
    means = {
        name: {measure: mean_interval([one[measure] for one in by_seed.values()]).value for measure in MEASURES}
        for name, by_seed in found.items()
    }
    front = on_the_front({name: (one["judged"], one["distance"], one["rate"]) for name, one in means.items()})
    lines = [
        "| sampler | judged right | points against exact | CLIP distance | Vendi score | pixels apart (255) | speed |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, by_seed in found.items():
        spread = mean_interval([one["judged"] for one in by_seed.values()])
        half = "" if spread.high is None else f" ± {(spread.high - spread.value) * 100:.1f}"
        two = [{seed: one["judged"] for seed, one in found[which].items()} for which in (name, EXACT)]
        change = paired_difference(two[0], two[1]) if name != EXACT else None
        against = "" if change is None else f"{change.value * 100:+.1f}"
        if change is not None and change.low is not None and change.high is not None:
            against += f" [{change.low * 100:+.1f}, {change.high * 100:+.1f}]"
        one, shown = means[name], f"**{name}**" if name in front else name
        lines.append(
            f"| {shown} | {one['judged'] * 100:.1f} %{half} | {against} | {one['distance']:.3f} | {one['vendi']:.1f} | "
            f"{one['apart']:.1f} | {one['rate'] / means[EXACT]['rate']:.2f}x |"
        )
    return "\n".join(lines)


def write(found: Mapping[str, Mapping[int, Mapping[str, float]]], plan: Plan, seconds: float) -> str:
    """Put figures and table into docs/, and return what went into the page."""
    page = PAGE.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    if not begin or END not in rest:
        raise ValueError(f"{PAGE}: found no place for the table, expected the lines {BEGIN} and {END}")
    FIGURES.write_text(json.dumps({"per_class": plan.per_class, "conditions": found}, indent=1) + "\n")
    intro = (
        f"{len(plan.names)} settings, {plan.seeds} seeds, {plan.per_class} images a class and seed (10 classes); mean "
        "± half of the 95 % interval over seeds (Student). Bold: no other setting is at least as good in judge, "
        f"distance and speed. {time.strftime('%Y-%m-%d', time.gmtime())}, {os.cpu_count()} cores, {seconds:.0f} s for "
        "what was not there yet."
    )
    text = "\n\n".join([intro, table(found)])
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    return text


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m docs.bench.quality",
        description="Compare the sampler's shortcuts with the exact path on the sandbox (5 minutes on two cores).",
    )
    parser.add_argument("--per-class", type=int, default=20, help="images a class and seed (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="seeds (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=HOME / "out" / "quality", help="where finished parts are kept")
    parser.add_argument("--only", action="append", choices=list(CONDITIONS), help="a condition beside the exact one")
    parser.add_argument("--in-process", action="store_true", help="one worker in this process, without Ray")
    parser.add_argument("--no-page", action="store_true", help="print only; leave docs/ as it is")
    chosen = parser.parse_args(arguments)
    if chosen.per_class < 2 or chosen.seeds < 1:
        parser.error(f"found {chosen.per_class} images and {chosen.seeds} seeds, expected at least 2 and 1")
    if chosen.only and not chosen.no_page:
        parser.error("--only: the page shows all conditions; add --no-page")
    names = tuple(name for name in CONDITIONS if not chosen.only or name == EXACT or name in chosen.only)
    plan, started = Plan(names, chosen.per_class, chosen.seeds), time.monotonic()
    found = measure(chosen.work, plan, FanOutSpec(straggler_factor=0, in_process=chosen.in_process))
    print(table(found) if chosen.no_page else write(found, plan, time.monotonic() - started))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
