"""C7: from class counts to the samples of every shard, and the whole `sixfold plan --dry-run`.

In: recipes/imagenet-sd15-6x.yaml. Out: planning rates on one core, beside the list that people shuffle and cut; wall
time and peak memory of the command as its user runs it. On disk: nothing.
"""

import json
import random
import re
import statistics
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

from docs.bench.measure import Line, Result, Size, alternate
from gen.make.plan import Plan, sample_seed
from gen.run.recipe import read_recipe
from shards.disk.home import home
from shards.labels.classes import load_classes

HOME = home()
RECIPE = "recipes/imagenet-sd15-6x.yaml"
NUM_PROMPTS = 80  # of a class, the built-in templates
DEADLINE_S = 300
PLANNED, SEEDED = "sixfold, plan of all six folds", "sixfold, plan of one fold and the noise seed of each sample"
LISTED, COMMAND = "a list of one fold: seeds drawn, shuffled, cut", "sixfold plan --dry-run, the whole command"


def measure(size: Size) -> Result:
    recipe = read_recipe(HOME / RECIPE, [])
    counts = {one.id: one.count for one in load_classes(recipe.classes)}
    scale, part = (Fraction(1, 50), Fraction(1, 100)) if size.quick else (Fraction(6), Fraction(1))

    def new_plan() -> Plan:
        return Plan(counts, dict.fromkeys(counts, NUM_PROMPTS), recipe.seed, recipe.shards.samples_per_shard)

    def planned(folder: Path) -> int:
        plan = new_plan()
        return sum(len(plan.unit(shard)) for shard in plan.units(scale))

    def seeded(folder: Path) -> int:
        plan, num = new_plan(), 0
        for shard in plan.units(part):
            unit = plan.unit(shard)
            columns = (unit.class_ids.tolist(), unit.prompt_ids.tolist(), unit.replicates.tolist())
            num += len([sample_seed(recipe.seed, *who, 0) for who in zip(*columns, strict=True)])
        return num

    def listed(folder: Path) -> int:
        rng = random.Random(recipe.seed)
        samples = [
            (class_id, number % NUM_PROMPTS, rng.getrandbits(63))
            for class_id, count in counts.items()
            for number in range(int(count * part))
        ]
        rng.shuffle(samples)
        step = recipe.shards.samples_per_shard
        return sum(len(samples[first : first + step]) for first in range(0, len(samples), step))

    timed = alternate({PLANNED: planned, SEEDED: seeded, LISTED: listed}, size)
    lines = [Line(name, {"M samples/CPU s": tuple(1e-3 / ms for ms in one.cpu_ms)}) for name, one in timed.items()]
    commands = [_command(scale) for _ in range(size.repeats)]
    lines.append(
        Line(
            COMMAND,
            {
                "CPU s": tuple(float(one["cpu_s"]) for one in commands),
                "wall s": tuple(float(one["wall_s"]) for one in commands),
                "peak MB": tuple(one["peak_bytes"] / 1e6 for one in commands),
            },
        )
    )
    rate, seeded_rate = (statistics.median(line.figures["M samples/CPU s"]) for line in lines[:2])
    wall_s = statistics.median(float(one["wall_s"]) for one in commands)
    peak_mb = statistics.median(one["peak_bytes"] / 1e6 for one in commands)
    samples = int(commands[0]["samples"])
    return Result(
        title=f"the plan of {samples:,} images",
        method=f"the classes, counts and shard size of {RECIPE}. Rates are of one core; the list is what a script does "
        "that draws a seed for every (class, prompt), shuffles and cuts: one fold only, six would take gigabytes. The "
        "command is a process of its own, from the start of Python to its end, and walks every sample.",
        anchor="none is known; a run of 64 GPUs makes 600 images a second",
        predicted="7 M samples a second for the plan, 1 M with a hash for every seed; the command 4 s and 200 MB, most "
        "of it imports",
        lines=lines,
        ratio_of="M samples/CPU s",
        verdicts=[
            size.judge("the plan: at least 1 M samples/s a core", f"{rate:.2f} M/s", rate >= 1),
            size.judge("the same with the seed of each sample", f"{seeded_rate:.2f} M/s", seeded_rate >= 1),
            size.judge("the command: below 10 s", f"{wall_s:.1f} s", wall_s < 10),
            size.judge("the command: below 500 MB", f"{peak_mb:.0f} MB", peak_mb < 500),
        ],
    )


def _command(scale: Fraction) -> dict[str, float]:
    """Cost of one `sixfold plan --dry-run`, and how many samples it says it walked."""
    model = ["sampler.model=sandbox/models/generator", "sampler.revision=null"]  # the recipe's own need not be here
    command = [sys.executable, "-m", "sixfold", "plan", RECIPE, *model, "--scale", f"{float(scale):g}x", "--dry-run"]
    done = subprocess.run(
        [sys.executable, "-m", "docs.bench.child", *command],
        cwd=HOME,
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_S,
    )
    walked = re.search(r"walked\s+([0-9,]+) samples", done.stdout)
    if walked is None:
        raise RuntimeError(f"C7: expected a line `walked ... samples`, found {done.stdout[-200:]!r}")
    facts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return facts | {"samples": int(walked[1].replace(",", ""))}
