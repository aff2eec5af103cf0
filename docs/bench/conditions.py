"""Conditions times seeds on the sandbox: measured part by part through the fan-out of a run, and kept.

In: conditions, each with its overrides of the recipe, and what draws the images of one. Out: condition -> seed ->
figures. On disk: a folder with one JSON file per condition and seed (an interrupted call goes on where it was) and
`about.json`, the digests of all that decides them: what was measured with other models, recipes or code is refused, and
so never published under today's date; a JSON file in docs/data and the part of docs/RESULTS.md between two marks.
"""

import argparse
import contextlib
import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cluster.code import code_hash
from cluster.fan_out.fan_out import fan_out
from cluster.fan_out.progress import Progress
from cluster.fan_out.work import Beat, FanOutSpec, Worker
from cluster.process.stop_flag import StopFlag
from cluster.recipes.load import fingerprint
from gen.prompts.table import PromptTable
from gen.prompts.write import write_prompts
from gen.run.recipe import Recipe, drawn_from, identity, read_recipe
from shards.disk.home import home
from shards.disk.record import JSON
from shards.disk.regular import sha256_of
from shards.disk.replace import replace_file
from shards.labels.classes import load_classes
from train.evaluate.set_metrics import vendi_score

HOME = home()
PAGE = HOME / "docs" / "RESULTS.md"
# below HOME, which is the working folder of the command and of its workers: these import a copy of the code alone
RECIPE = Path("recipes/sandbox.yaml")
JUDGE = Path("sandbox/models/judge.safetensors")
GENERATOR = Path("sandbox/models/generator")

Figures: TypeAlias = Mapping[str, float]
Found: TypeAlias = dict[str, dict[int, Figures]]  # condition -> seed -> figures
Part: TypeAlias = Callable[[str, int, Callable[[int], None]], Figures]  # condition, seed, (images done) -> figures


@dataclass(frozen=True)
class Grid:
    """All parts: conditions times seeds, condition by condition."""

    conditions: tuple[str, ...]
    per_class: int
    seeds: int

    def part(self, number: int) -> tuple[str, int]:
        return self.conditions[number // self.seeds], number % self.seeds

    def __len__(self) -> int:
        return len(self.conditions) * self.seeds


def recipe_of(seed: int, per_class: int, overrides: Sequence[str]) -> Recipe:
    """The sandbox's recipe, with a seed of everything: which prompts are drawn, and the noise."""
    return read_recipe(RECIPE, [f"prompts.per_class={per_class}", f"seed={seed}", "sampler.device=cpu", *overrides])


def asked(recipe: Recipe, per_class: int) -> tuple[list[str], NDArray[np.int64]]:
    """A prompt for each image, and the classes asked for."""
    with tempfile.TemporaryDirectory() as folder:
        write_prompts(recipe, load_classes(recipe.classes), Path(folder), lambda line: None)
        table = PromptTable.load(Path(folder) / "prompts.parquet")
    texts, labels = [], []
    for class_id, num in table.num_per_class().items():
        texts += [table.prompt(class_id, number % num).text for number in range(per_class)]
        labels += [class_id] * per_class
    return texts, np.array(labels)


def first_seed(seed: int) -> int:
    """Image i of a seed has the noise `first_seed(seed) + i` under every condition, so that differences are paired."""
    return seed * 1_000_000


class Looker:
    """Says how legible and how varied images are; holds the sandbox's judge and CLIP."""

    def __init__(self) -> None:
        from gen.model.clip import Clip
        from sandbox.judge import load_judge

        spec = read_recipe(RECIPE, []).meanings.clip
        assert spec is not None
        self._judge, self._clip = load_judge(JUDGE), Clip.load(spec)

    def look(self, images_NHWC: NDArray[np.uint8], labels: NDArray[np.int64]) -> dict[str, float]:
        from sandbox.judge import judge

        rows = self._clip.embed_images(list(images_NHWC))
        return {
            "judged": float((judge(self._judge, images_NHWC) == labels).mean()),
            "distance": _by_class(_mean_distance, rows, labels),
            "vendi": _by_class(vendi_score, rows, labels),
        }


def _mean_distance(rows_ND: NDArray[np.float32]) -> float:
    """Mean of 1 - cosine over all pairs of N unit vectors."""
    cosines = rows_ND @ rows_ND.T
    num = len(rows_ND)
    return float(1 - (cosines.sum() - np.trace(cosines)) / (num * (num - 1)))


def _by_class(
    measure: Callable[[NDArray[np.float32]], float], rows_ND: NDArray[np.float32], labels: NDArray[np.int64]
) -> float:
    return float(np.mean([measure(rows_ND[labels == label]) for label in np.unique(labels)]))


@dataclass(frozen=True)
class Run:
    """What a command of this kind has found."""

    name: str  # of the command
    grid: Grid
    found: Found
    seconds: float

    def intro(self, what: str) -> str:
        """The first sentences of its part of the page."""
        return (
            f"{len(self.grid.conditions)} {what}, {self.grid.seeds} seeds, {self.grid.per_class} images a class and "
            "seed (10 classes); mean ± half of the 95 % interval over seeds (Student)."
        )

    def when(self) -> str:
        day = time.strftime("%Y-%m-%d", time.gmtime())
        return f"{day}, {os.cpu_count()} cores, {self.seconds:.0f} s for what was not there yet."

    def write(self, text: str, more: Mapping[str, Any]) -> None:
        """Put figures and text into docs/. Raises ValueError if the page has no marks for it."""
        page = PAGE.read_text(encoding="utf-8")
        begin, end = f"<!-- {self.name}: written by `make {self.name}` -->", f"<!-- {self.name}: end -->"
        before, is_there, rest = page.partition(begin)
        if not is_there or end not in rest:
            raise ValueError(f"{PAGE}: found no place for the table, expected the lines {begin} and {end}")
        content = {"per_class": self.grid.per_class, "conditions": self.found, **more}
        data = json.dumps(content, indent=1, allow_nan=False) + "\n"
        (HOME / "docs" / "data" / f"{self.name}.json").write_text(data)
        PAGE.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def run(
    name: str,
    conditions: Mapping[str, Sequence[str]],
    make_part: Callable[[Grid], Part],
    arguments: Sequence[str],
    publish: Callable[[Run, bool], None],
) -> int:
    """A command: measures what is not kept yet, and hands it to `publish` (the run, whether it goes into docs/).

    `conditions`: name -> overrides of the recipe. Exits with 2 and a line if what is kept was made by other things.
    """
    parser = argparse.ArgumentParser(prog=f"python -m docs.bench.{name}")
    parser.add_argument("--per-class", type=int, default=20, help="images a class and seed (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="seeds (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=HOME / "out" / name, help="where finished parts are kept")
    parser.add_argument("--only", action="append", choices=list(conditions), help="a condition beside the first one")
    parser.add_argument("--in-process", action="store_true", help="one worker in this process, without Ray")
    parser.add_argument("--no-page", action="store_true", help="print only; leave docs/ as it is")
    chosen = parser.parse_args(arguments)
    if chosen.per_class < 2 or chosen.seeds < 1:
        parser.error(f"found {chosen.per_class} images and {chosen.seeds} seeds, expected at least 2 and 1")
    if chosen.only and not chosen.no_page:
        parser.error("--only: the page shows all conditions; add --no-page")
    first = next(iter(conditions))
    names = tuple(one for one in conditions if not chosen.only or one == first or one in chosen.only)
    grid, started = Grid(names, chosen.per_class, chosen.seeds), time.monotonic()
    spec, work = FanOutSpec(straggler_factor=0, in_process=chosen.in_process), chosen.work.resolve()
    with contextlib.chdir(HOME):
        try:
            claim(work, {**asdict(grid), **made_by({one: conditions[one] for one in names}, chosen.per_class)})
        except ValueError as error:
            parser.exit(2, f"{error}\n")
        found = _measure(work, grid, make_part, spec)
        publish(Run(name, grid, found, time.monotonic() - started), not chosen.no_page)
    return 0


def made_by(conditions: Mapping[str, Sequence[str]], per_class: int) -> dict[str, str]:
    """Digests of what decides images and figures, by name: recipes, generator, libraries, the CLIP and the real images
    that choose meanings, judge, code."""
    recipes = {name: identity(recipe_of(0, per_class, overrides)) for name, overrides in conditions.items()}
    generators = {name: recipe.pop("model_digest") for name, recipe in recipes.items()}
    libraries = {name: recipe.pop("versions") for name, recipe in recipes.items()}
    code = hashlib.sha256(code_hash(HOME).encode())
    for file in sorted(path for path in (HOME / "sandbox").iterdir() if path.suffix in (".py", ".yaml", ".csv")):
        code.update(f"{file.name}\0{sha256_of(file)}\n".encode())
    plain = recipe_of(0, per_class, [])
    return {
        "recipes": fingerprint(recipes),
        "generator": fingerprint(generators),
        "libraries": fingerprint(libraries),
        **drawn_from(plain.meanings, plain.llm),
        "judge": sha256_of(JUDGE),
        "code": code.hexdigest(),
    }


def claim(work: Path, about: Mapping[str, Any]) -> None:
    """Raises ValueError if `work` holds what another grid, or other things than `made_by`, have made."""
    file, now = work / "about.json", json.loads(json.dumps(about))
    work.mkdir(parents=True, exist_ok=True)
    before = json.loads(file.read_text()) if file.exists() else now
    if others := [name for name in {**before, **now} if before.get(name) != now.get(name)]:
        raise ValueError(
            f"{work}: found results with other {', '.join(others)} than today's; remove the folder to measure anew, or "
            "give another --work"
        )
    replace_file(file, json.dumps(now, indent=1).encode())


def _measure(work: Path, grid: Grid, make_part: Callable[[Grid], Part], spec: FanOutSpec) -> Found:
    """Makes what is not in `work` yet. Raises RuntimeError if not finished."""
    todo = [unit for unit in range(len(grid)) if not (work / f"{unit:04d}.json").exists()]
    if todo:
        worker = functools.partial(_make_worker, HOME, work, grid, make_part)
        with Progress(len(todo), len(todo) * grid.per_class * 10) as progress, StopFlag() as stop:
            summary = fan_out(todo, worker, spec, progress, stop)
        if summary.exit_code:
            raise RuntimeError(f"{work}: not finished ({summary.as_json()}); run the same command again")
    found: Found = {}
    for unit in range(len(grid)):
        name, seed = grid.part(unit)
        found.setdefault(name, {})[seed] = json.loads((work / f"{unit:04d}.json").read_text())
    return found


def _make_worker(root: Path, work: Path, grid: Grid, make_part: Callable[[Grid], Part]) -> Worker:
    os.chdir(root)
    part = make_part(grid)

    def make(unit: int, attempt: str, beat: Beat) -> Mapping[str, JSON]:
        figures = part(*grid.part(unit), lambda done: beat(done, 0))
        replace_file(work / f"{unit:04d}.json", json.dumps(figures, allow_nan=False).encode())
        return {"images": 10 * grid.per_class}

    return make
