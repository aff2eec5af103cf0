"""C14: images a second of the sandbox, from the command to the files, beside the plain diffusers loop.

In: recipes/sandbox.yaml. Out: images/s of `sixfold generate`, of the loop with one image a call, and of the loop with
the best of five batches, with and without the start. On disk: data sets, and a PNG file for each image of the loops,
removed again.

Wall time, because every side may use all cores and ours works in several processes; the sides take turns.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from docs.bench.measure import Line, Result, Size, ratios
from gen.run.recipe import Recipe, read_recipe
from shards.disk.home import home
from shards.disk.store import open_for_reading
from shards.set.manifest import iter_tables, scan_records

RECIPE = home() / "recipes/sandbox.yaml"
DEADLINE_S = 1200
RATE, WHOLE = "images/s, start apart", "images/s, start and all"


@dataclass(frozen=True)
class _Work:
    """The real run, or the miniature of the tests."""

    settings: Sequence[str]  # over the recipe
    scale: str
    num_alone: int  # images of the loop that makes one a call: it takes long and says the same
    num_tried: int  # images by which the loop's batch is chosen
    batches: Sequence[int]
    repeats: int


FULL = _Work((), "6x", 50, 128, (8, 16, 25, 32, 64), 3)  # the README's own command
QUICK = _Work(
    ("cluster.in_process=true", "classes.limit=2", "classes.per_class=2", "sampler.steps=2", "meanings.choose=none"),
    "1x", 2, 2, (2,), 1,
)  # fmt: skip


def measure(size: Size) -> Result:
    work = QUICK if size.quick else FULL
    recipe = read_recipe(RECIPE, work.settings)
    ours: list[tuple[float, float]] = []
    alone: list[tuple[float, float]] = []
    batched: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(dir=size.scratch) as folder:
        scratch = Path(folder)
        _generate(work, scratch / "first")  # not measured; it gives the prompts, and warms the disk's cache
        texts = _texts(scratch / "first")
        _, tried = _loops(recipe, texts, dict.fromkeys(work.batches, work.num_tried), scratch / "tried")
        best = max(tried, key=lambda batch: tried[batch])
        for repeat in range(work.repeats):
            ours.append(_generate(work, scratch / f"ours {repeat}"))
            load_s, rates = _loops(recipe, texts, {1: work.num_alone, best: len(texts)}, scratch / f"loops {repeat}")
            for side, batch in ((alone, 1), (batched, best)):
                side.append((rates[batch], len(texts) / (load_s + len(texts) / rates[batch])))
    sides = {
        "sixfold generate": ours,
        "diffusers loop, batch 1, PNG files": alone,
        f"diffusers loop, batch {best}, PNG files": batched,
    }
    lines = [
        Line(name, {RATE: tuple(rate for rate, _ in some), WHOLE: tuple(whole for _, whole in some)})
        for name, some in sides.items()
    ]
    by_alone, by_batched = (statistics.median(ratios(lines[0].figures[RATE], line.figures[RATE])) for line in lines[1:])
    searched = ", ".join(f"{batch}: {rate:.1f}" for batch, rate in tried.items())
    return Result(
        title="the sandbox, from the command to the files",
        method=f"{len(texts)} images of {recipe.sampler.size_px} px a repeat ({work.num_alone} at batch 1), "
        f"{recipe.sampler.steps} steps, guidance {recipe.sampler.guidance:g}, the same weights, scheduler and prompts. "
        "Ours: shards, screened, from the first unit's start to the last one's end; one worker a core with one torch "
        "thread each. The loops: one process, with as many threads as torch takes by itself, after a call that is not "
        "timed; ours has no such call. With the start: the whole "
        f"command, and for the loops their own start and {len(texts)} images at their rate.",
        anchor="23-25 images/s over two workers, 12 s until the first is ready (an earlier run, quiet machine)",
        predicted="4x the loop with one image a call; 1.2x the loop with its best batch, since two threads on one "
        "batch lose more than two processes",
        lines=lines,
        ratio_of=RATE,
        verdicts=[
            size.judge("at least 3x the images/s of the loop, batch 1", f"{by_alone:.2f}x", by_alone >= 3),
            size.judge("at least 1.15x those of the loop's best batch", f"{by_batched:.2f}x", by_batched >= 1.15),
        ],
        notes=[f"The loop's batches, images/s: {searched}."],
    )


def _generate(work: _Work, out: Path) -> tuple[float, float]:
    """Images/s between the first unit's start and the last one's end, and of the whole command."""
    command = [sys.executable, "-m", "sixfold", "generate", str(RECIPE), "--scale", work.scale, "--out", str(out)]
    begun = time.perf_counter()
    _run([*command, "--no-gallery", *work.settings])
    whole_s = time.perf_counter() - begun
    records = scan_records(open_for_reading(str(out))).values()
    images = sum(record.successes for record in records)
    made_s = max(record.end_time for record in records) - min(record.start_time for record in records)
    return images / made_s, images / whole_s


def _texts(out: Path) -> list[str]:
    """The prompts of all images, in key order."""
    store = open_for_reading(str(out))
    tables = iter_tables(store, sorted(scan_records(store)), ["status", "caption"])
    return [row["caption"] for table in tables for row in table.to_pylist() if row["status"] == "success"]


def _loops(recipe: Recipe, texts: Sequence[str], loops: Mapping[int, int], out: Path) -> tuple[float, dict[int, float]]:
    """`loops`: images a call -> images in all. Seconds that the program takes to load, and each loop's images/s."""
    out.mkdir()
    (out / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    spec = recipe.sampler
    asked = ",".join(f"{batch}:{min(num, len(texts))}" for batch, num in loops.items())
    settings = [str(out / "texts.json"), str(spec.steps), str(spec.guidance), asked]
    printed = _run([sys.executable, "-m", "docs.bench.stock_side", str(home() / spec.model), str(out), *settings])
    found = json.loads(printed.splitlines()[-1])
    return found["load_s"], {int(batch): rate for batch, rate in found["images_per_s"].items()}


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, cwd=home(), capture_output=True, text=True, timeout=DEADLINE_S)
    if done.returncode != 0:
        raise RuntimeError(f"C14: {' '.join(command[1:4])} ended with {done.returncode}: {done.stderr[-300:]!r}")
    return done.stdout
