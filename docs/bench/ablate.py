"""What meaning, context and style each do, measured on the sandbox: `make ablate`, or `python -m docs.bench.ablate`.

In: the sandbox's generator, CLIP, judge and real images. Out: a table on standard output. On disk: see
`docs.bench.conditions`; about 8 minutes on two cores.

One image per prompt, the generator and its settings those of recipes/sandbox.yaml.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from docs.bench.conditions import GENERATOR, Figures, Found, Grid, Looker, Part, Run, asked, first_seed, recipe_of, run
from train.report.statistics import mean_interval, paired_difference

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


CONDITIONS = {
    one.name: one
    for kind in ("name", "template", "caption", "cd", "sd", "cd+sd")
    for one in (Condition(kind, meaning=False), Condition(kind, meaning=True))
}
MEASURES = {
    "judged": "judged the asked digit",
    "distance": "mean pairwise CLIP distance inside a class",
    "vendi": "Vendi score inside a class",
    "texts": "distinct prompts",
}


def make_part(grid: Grid) -> Part:
    import torch

    from sandbox.generator import draw, load_generator

    torch.set_num_threads(1)
    pipeline, looker = load_generator(GENERATOR), Looker()

    def part(name: str, seed: int, done: Callable[[int], None]) -> Mapping[str, float]:
        recipe = recipe_of(seed, grid.per_class, CONDITIONS[name].overrides)
        texts, labels = asked(recipe, grid.per_class)
        spec, images = recipe.sampler, []
        for start in range(0, len(texts), spec.call_size):
            some = texts[start : start + spec.call_size]
            seeds = [first_seed(seed) + start + number for number in range(len(some))]
            images.append(draw(pipeline, some, seeds, spec.steps, spec.guidance))
            done(start + len(some))
        return {**looker.look(np.concatenate(images), labels), "texts": len(set(texts)) / len(np.unique(labels))}

    return part


def real_figures(per_class: int) -> Figures:
    """The same measures of the few-shot training images."""
    from sandbox.sets import set_images

    images, labels = set_images("real-train")
    kept = np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in np.unique(labels)])
    return Looker().look(images[kept], labels[kept])


def table(found: Found, real: Figures) -> str:
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


def differences(found: Found) -> list[str]:
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


def publish(measured: Run, on_page: bool) -> None:
    real = real_figures(measured.grid.per_class)
    text = "\n\n".join([table(measured.found, real), "\n".join(differences(measured.found))])
    if on_page:
        text = f"{measured.intro('ways to prompt')} {measured.when()}\n\n{text}"
        measured.write(text, {"real": {**real, "texts": None}})  # nobody asked for them in words
    print(text)


def main(arguments: Sequence[str]) -> int:
    return run("ablate", {name: one.overrides for name, one in CONDITIONS.items()}, make_part, arguments, publish)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
