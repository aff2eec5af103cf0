"""What a learned style token does, measured on the sandbox: `python -m docs.bench.inversion`.

In: the sandbox's generator, CLIP, judge and shifted sets (`python -m sandbox.build --data out/real`), the meanings of
a generated set (`make generate`). Out: a table on standard output. On disk: `--work` with a token for each set and seed
and one JSON file of figures each (an interrupted call goes on where it was; what other models, recipes or code have
made is refused); docs/data/inversion.json.

A token is learned on 200 pictures of a shifted set (recipes/invert/sandbox.yaml) and compared with the other pictures
of the set. The same noise is drawn with three prompts: the plain one, that with the untrained token, and that with the
learned one. Beside them stand the real pictures that it was learned on. Measured of each: how far the centres of CLIP's
vectors lie apart (0: one place), the total variation between colour histograms of 8 x 8 x 8 bins (0: the same colours,
1: none in common), and how many pictures show the asked numeral (the judge).
"""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from docs.bench.conditions import HOME, Figures, Found, Looker, claim, made_by
from shards.disk.regular import sha256_of
from shards.disk.replace import replace_file
from train.report.statistics import mean_interval

RECIPE = HOME / "recipes" / "invert" / "sandbox.yaml"
SETS = ("shifted-sketch", "shifted-rendition", "shifted-unseen")
PROMPTS = ("plain prompt", "untrained token", "learned token")
MEASURES = {"centres": "CLIP centres apart", "colours": "colours apart", "judged": "judged right"}
BINS = 8


def colour_histogram(images_NHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Share of all pixels in each of 8 x 8 x 8 boxes of colour."""
    step = 256 // BINS
    boxes = (images_NHWC // step).reshape(-1, 3).astype(np.int64) @ np.array([BINS * BINS, BINS, 1])
    counts = np.bincount(boxes, minlength=BINS**3)
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


class Against:
    """Says how near generated pictures are to real ones."""

    def __init__(self, real_NHWC: NDArray[np.uint8]) -> None:
        from gen.model.clip import Clip
        from gen.run.recipe import read_recipe

        spec = read_recipe(HOME / "recipes" / "sandbox.yaml", []).meanings.clip
        assert spec is not None
        self._looker, self._clip = Looker(), Clip.load(spec)
        self._centre, self._colours = self._centre_of(real_NHWC), colour_histogram(real_NHWC)

    def _centre_of(self, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        centre: NDArray[np.float32] = self._clip.embed_images(list(images_NHWC)).mean(0)
        return centre

    def look(self, images_NHWC: NDArray[np.uint8], labels: NDArray[np.int64]) -> dict[str, float]:
        return {
            "centres": float(np.linalg.norm(self._centre_of(images_NHWC) - self._centre)),
            "colours": float(0.5 * np.abs(colour_histogram(images_NHWC) - self._colours).sum()),
            "judged": self._looker.look(images_NHWC, labels)["judged"],
        }


def learn(name: str, seed: int, folder: Path, more: Sequence[str]) -> None:
    """`sixfold invert` with the sandbox's recipe; `more` overrides."""
    from cluster.process.stop_flag import StopFlag
    from cluster.ranks.group import Ranks
    from cluster.ranks.place import find_place
    from cluster.recipes.load import load_recipe
    from train.recipe import TrainRecipe
    from train.run import train

    source = f"out/real/{name}"
    sources = [f"data.domains.0.source={source}", f"evaluate.validation.source={source}", f"seed={seed}", *more]
    recipe = load_recipe(RECIPE, TrainRecipe, sources)
    with StopFlag() as stop, Ranks(find_place({})) as ranks:
        outcome = train(recipe, folder, HOME, stop, ranks)
    if outcome.exit_code:
        raise RuntimeError(outcome.sentence())


def draw(folder: Path, prompts: str, per_class: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures of plain photos of all classes, in the style or not, and the classes asked for."""
    from docs.bench.conditions import asked, first_seed, recipe_of
    from gen.sampler.sampler import Request, Sampler

    overrides = ["prompts.kind=template", 'prompts.templates=["a picture of {name}"]']
    if prompts != "plain prompt":
        rows = "untrained" if prompts == "untrained token" else "learned"
        form = 'prompts.style_form="{prompt}, {token}"'
        overrides += [f"prompts.style_token={json.dumps(str(folder))}", f"prompts.style_rows={rows}", form]
    recipe = recipe_of(seed, 1, overrides)
    texts, labels = asked(recipe, per_class)
    sampler, size = Sampler.load(recipe.sampler), recipe.sampler.call_size
    sampler.prepare(texts)
    requests = [Request(text, "", first_seed(seed) + place) for place, text in enumerate(texts)]
    images = [sampler.sample(requests[start : start + size]).image_NHWC for start in range(0, len(requests), size)]
    return np.concatenate(images), labels


def real_images(name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The pictures that a token is learned on, and the others."""
    from sandbox.sets import STYLE_PICTURES, set_images

    images, _ = set_images(name)
    return images[:STYLE_PICTURES], images[STYLE_PICTURES:]


def measure(work: Path, sets: Sequence[str], seeds: int, per_class: int, more: Sequence[str]) -> dict[str, Found]:
    """Set -> prompts -> seed -> figures; what is in `work` is not measured again."""
    found: dict[str, Found] = {}
    for name in sets:
        learned_on, held_out = real_images(name)
        against = Against(held_out)
        floor = against.look(learned_on, np.zeros(len(learned_on), np.int64))
        for seed in range(seeds):
            file = work / f"{name}-{seed}.json"
            if not file.exists():
                folder = work / f"{name}-{seed}"
                begun = time.monotonic()
                learn(name, seed, folder, more)
                seconds = time.monotonic() - begun
                figures = {one: against.look(*draw(folder, one, per_class, seed)) for one in PROMPTS}
                real = {key: value for key, value in floor.items() if key != "judged"}
                told = {**figures, "real pictures it was learned on": real, "seconds": {"learning": seconds}}
                replace_file(file, json.dumps(told, allow_nan=False).encode())
            for one, values in json.loads(file.read_text()).items():
                found.setdefault(name, {}).setdefault(one, {})[seed] = values
    return found


def table(found: Mapping[str, Found]) -> str:
    """Markdown: a row for each set and prompt, mean and half of the 95 % interval over seeds."""
    lines = [f"| set | prompt | {' | '.join(MEASURES.values())} |", "|---|---|---|---|---|"]
    for name, by_prompt in found.items():
        for prompt, by_seed in by_prompt.items():
            if prompt == "seconds":
                continue
            cells = [_cell(list(by_seed.values()), measure) for measure in MEASURES]
            lines.append(f"| {name} | {prompt} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(by_seed: Sequence[Figures], measure: str) -> str:
    values = [one[measure] for one in by_seed if measure in one]
    if not values:
        return ""
    one, scale = mean_interval(values), 100 if measure == "judged" else 1
    spread = "" if one.high is None else f" ± {scale * (one.high - one.value):.{1 if scale == 100 else 3}f}"
    return f"{scale * one.value:.1f} %{spread}" if scale == 100 else f"{one.value:.3f}{spread}"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.bench.inversion")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS[:1], help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=3, help="seeds (default: %(default)s)")
    parser.add_argument("--per-class", type=int, default=20, help="images of a class, prompt and seed (default: 20)")
    parser.add_argument("--work", type=Path, default=HOME / "out" / "inversion", help="where finished parts are kept")
    parser.add_argument("--no-data", action="store_true", help="print only; leave docs/data as it is")
    parser.add_argument("--set", action="append", default=[], help="an override of the recipe, such as optim.lr=0.01")
    chosen = parser.parse_args(arguments)
    decides = {"per_class": chosen.per_class, "overrides": chosen.set, "inversion's recipe": sha256_of(RECIPE)}
    work = chosen.work.resolve()
    with contextlib.chdir(HOME):  # as `docs.bench.conditions`
        try:
            claim(work, {**decides, **made_by({"sandbox": []}, chosen.per_class)})
        except ValueError as error:
            parser.exit(2, f"{error}\n")
        found = measure(work, chosen.sets, chosen.seeds, chosen.per_class, chosen.set)
    if not chosen.no_data:
        path = HOME / "docs" / "data" / "inversion.json"
        path.write_text(json.dumps({"per_class": chosen.per_class, "sets": found}, indent=1, allow_nan=False) + "\n")
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
