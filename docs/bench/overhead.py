"""C3: what a unit costs outside the model: prompts, noise, the denoising loop, screening, encoding, writing.

In: a tiny Stable Diffusion of random weights, so small that the time outside its networks shows. Out: CPU and wall
time outside the forwards of text encoder, U-Net and decoder, as a fixed part per image and a part per step. On disk:
the model (0.5 MB), one shard or one PNG per image, removed again.

The forwards are timed from outside, by wrapping the methods of their classes for the length of the benchmark.
"""

import contextlib
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docs.bench.measure import Line, Result, Samples, Side, Size, alternate
from docs.bench.stock_side import SIDE_PX, draw
from docs.bench.unit import prompt_table, unit_side
from gen.prompts.table import PromptTable
from gen.sampler.sampler import Sampler
from gen.sampler.spec import SamplerSpec

BATCH = 16
GUIDANCE = 2.0
SHOWN_STEPS = 30
OURS = f"sixfold, a unit at batch {BATCH}"
STOCK_1, STOCK_16 = "diffusers loop, batch 1, PNG files", f"diffusers loop, batch {BATCH}, PNG files"
FIXED, STEP, CALL, TOTAL = (
    "CPU ms/image, fixed", "CPU ms/image and step", "CPU ms/step of a call", f"CPU ms/image at {SHOWN_STEPS} steps",
)  # fmt: skip


@dataclass
class Spent:
    """Seconds inside the forwards. Of a thread's CPU time: torch computes in the calling thread when it has one."""

    cpu_s: float = 0.0
    wall_s: float = 0.0


def measure(size: Size) -> Result:
    from tests.support.tiny_pipelines import tiny_pipeline

    num, num_alone = (BATCH, 4) if size.quick else (8 * BATCH, 2 * BATCH)  # batch 1 takes long and says the same
    images = {OURS: num, STOCK_1: num_alone, STOCK_16: num}
    few, many = (1, 3) if size.quick else (2, 22)
    spent = Spent()
    inside: dict[str, list[Spent]] = {}
    with tempfile.TemporaryDirectory(dir=size.scratch) as scratch, _timed_forwards(spent):
        model = tiny_pipeline("sd", Path(scratch) / "model")
        prompts = prompt_table(num)
        sides: dict[str, Side] = {}
        for steps in (few, many):
            sides[f"{OURS} {steps}"] = _ours(model, num, steps)
            for name, batch in ((STOCK_1, 1), (STOCK_16, BATCH)):
                sides[f"{name} {steps}"] = _stock(model, prompts, images[name], steps, batch)
        timed = alternate({name: _noting(side, name, spent, inside) for name, side in sides.items()}, size)
    lines = []
    for name, batch in ((OURS, BATCH), (STOCK_1, 1), (STOCK_16, BATCH)):
        cpu_few, cpu_many = (
            _less(timed[f"{name} {steps}"].cpu_ms, [one.cpu_s for one in inside[f"{name} {steps}"]], images[name])
            for steps in (few, many)
        )
        wall_few, wall_many = (
            _less(timed[f"{name} {steps}"].wall_ms, [one.wall_s for one in inside[f"{name} {steps}"]], images[name])
            for steps in (few, many)
        )
        step = tuple((b - a) / (many - few) for a, b in zip(cpu_few, cpu_many, strict=True))
        fixed = tuple(a - few * one for a, one in zip(cpu_few, step, strict=True))
        wall_step = tuple((b - a) / (many - few) for a, b in zip(wall_few, wall_many, strict=True))
        wall_total = tuple(a + (SHOWN_STEPS - few) * one for a, one in zip(wall_few, wall_step, strict=True))
        figures = {
            FIXED: fixed,
            STEP: step,
            CALL: tuple(one * batch for one in step),
            TOTAL: tuple(a + SHOWN_STEPS * one for a, one in zip(fixed, step, strict=True)),
            f"wall ms/image at {SHOWN_STEPS} steps": wall_total,
        }
        lines.append(Line(name, figures))
    fixed_ms, step_ms, call_ms = (statistics.median(lines[0].figures[column]) for column in (FIXED, STEP, CALL))
    return Result(
        title="time outside the model",
        method=f"a tiny random Stable Diffusion, {SIDE_PX} px, dpm++, guidance {GUIDANCE:g}, one torch thread, {num} "
        f"images ({num_alone} at batch 1) with as many different prompts a repeat; time outside the forwards at {few} "
        f"and {many} steps gives the fixed part and the part per step. The step is that of diffusers' own pipeline, "
        f"which all sides call: a call's step costs about the same for 1 image and for {BATCH}, so batches divide it. "
        "Encoding 512 px is C1's; here images are small on every side. Wall time outside the forwards includes waiting "
        "for the other thread.",
        anchor="0.8 ms (Euler) to 2.6 ms (PNDM) per step of a call outside the U-Net for the stock pipeline",
        predicted="below 1 ms fixed per image; 0.05-0.16 ms per image and step at batch 16, which is 0.8-2.6 ms per "
        "step of a call as in the stock pipeline",
        lines=lines,
        ratio_of=TOTAL,
        verdicts=[
            size.judge(f"at most 1 ms per image at batch {BATCH}, steps apart", f"{fixed_ms:.2f} ms", fixed_ms <= 1),
            size.judge("at most 0.3 ms per step of an image", f"{step_ms:.3f} ms", step_ms <= 0.3),
            size.judge("the same per step of a call, whatever its batch", f"{call_ms:.2f} ms", call_ms <= 0.3),
        ],
    )


@contextlib.contextmanager
def _timed_forwards(spent: Spent) -> Iterator[None]:
    """Within, every forward of the three networks adds its time to `spent`."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    methods: list[tuple[Any, str]] = [
        (UNet2DConditionModel, "forward"),
        (AutoencoderKL, "decode"),
        (CLIPTextModel, "forward"),
    ]
    originals = [getattr(owner, name) for owner, name in methods]
    for (owner, name), original in zip(methods, originals, strict=True):
        setattr(owner, name, _timed(original, spent))
    try:
        yield
    finally:
        for (owner, name), original in zip(methods, originals, strict=True):
            setattr(owner, name, original)


def _timed(function: Callable[..., Any], spent: Spent) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        cpu_begun, begun = time.thread_time(), time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent.wall_s += time.perf_counter() - begun
            spent.cpu_s += time.thread_time() - cpu_begun

    return call


def _noting(side: Side, name: str, spent: Spent, inside: dict[str, list[Spent]]) -> Side:
    def run(folder: Path) -> int:
        spent.cpu_s = spent.wall_s = 0.0
        items = side(folder)
        inside.setdefault(name, []).append(Spent(spent.cpu_s, spent.wall_s))
        return items

    return run


def _less(total_ms: Samples, inside_s: Sequence[float], num: int) -> Samples:
    """Per image, without the forwards; `inside_s` begins with the call that is not measured."""
    return tuple(ms - seconds / num * 1e3 for ms, seconds in zip(total_ms, inside_s[1:], strict=True))


def _ours(model: Path, num: int, steps: int) -> Side:
    spec = SamplerSpec(
        model=str(model), scheduler="dpm++", steps=steps, guidance=GUIDANCE, size_px=SIDE_PX, batch=BATCH, device="cpu"
    )
    return unit_side(Sampler.load(spec), spec, num)


def _stock(model: Path, prompts: PromptTable, num: int, steps: int, batch: int) -> Side:
    """What diffusers' documentation does, in a loop: call, then save every picture."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(str(model), safety_checker=None, local_files_only=True)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    texts = [prompts.prompt(number, 0).text for number in range(num)]

    def run(folder: Path) -> int:
        for first in range(0, num, batch):
            draw(pipeline, texts[first : first + batch], first, steps, GUIDANCE, folder)
        return num

    return run
