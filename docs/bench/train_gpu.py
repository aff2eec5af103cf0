"""What a step of training costs on a GPU, ours beside timm's: `make bench-train-gpu`, `python -m docs.bench.train_gpu`.

In: rows to measure (`--rows T1,T3`; none = all). Out: their tables on standard output; exit 1 if a target is missed, or
if a side failed or was not run. On disk, in `--out` (default docs): `bench_train_gpu.json` with every sample of the
last run of every row, and the tables, in the marked part of BENCHMARKS.md where that is there, else in
`bench_train_gpu.md`; written anew after every row. `--from FOLDER` measures nothing and takes over what a run elsewhere
wrote to FOLDER. `--dry` runs every row with tiny networks on the CPU, judges no speed and writes only where `--out`
says.

What runs: a whole step (forward, loss, backward, optimiser, average of the weights) on random pictures and labels that
are on the device already. Ours is `train.model.step.Descent`, the step of `sixfold train`, with what the recipes for
ImageNet ask for: average, kept running statistics (nan.policy skip), a check of the gradient's norm; its loss is read
at the end of a window, as the loop reads it for its log. timm's is put together from timm's parts as its train.py does
it for `--amp --amp-dtype bfloat16 --model-ema --channels-last [--torchcompile]`: no loss scaler, which train.py makes
for float16 only, and `loss.item()` in every step. Both have the same network, initial weights, optimiser, label
smoothing and pictures, and cuDNN searches for its kernels (both trainings ask for that).

How: the sides of a row take turns (A B A B ...), each turn one step that is not timed and then a window of about a
second; a cell is the median of five windows with the least and the most, a ratio is taken window by window. The first
step, with compilation and cuDNN's search, and the warm-up stand apart. Peak memory is what a side takes beside the
others. FLOP are counted (1 multiply-add = 2; a step is three forward passes); the ceiling is that of a large bf16
matrix product in the same run. A side for which no time is left says so in its line.

Needs torch, timm and numpy, and of this repository only what needs no more than pydantic. On a machine with a torch of
its own and no network, bring wheels of pydantic, pydantic-core, annotated-types, typing-inspection and
typing-extensions, and timm if it is not there. Tested with torch 2.11 and 2.13, Python 3.11 and 3.12.

Shapes: N pictures of a step.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import gc
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cluster.ranks.place import device_of, find_place
from docs.bench.device import (
    Samples,
    Verdict,
    ceilings,
    empty_compile_cache,
    facts,
    failure,
    in_miniature,
    kept,
    over,
    replace_files,
    spread,
    synchronize,
    told,
)
from docs.bench.page import replaced
from train.model.classifiers import ModelSpec, build
from train.model.ema import Ema
from train.model.engine import EngineSpec, make_engine
from train.model.optim import Optimizer, OptimSpec, loss_of, make_optimizer
from train.model.step import Descent, KeptBuffers

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

HOME = Path(__file__).resolve().parents[1]
NUMBERS, TABLES, PAGE, MARK = "data/bench_train_gpu.json", "bench_train_gpu.md", "BENCHMARKS.md", "train-gpu"
COMMAND = "make bench-train-gpu"
LIBRARIES = ("torch", "timm", "numpy", "torchvision", "triton")
WINDOWS, WINDOW_S = 5, 1.0
WARM_STEPS = 4  # after the first one
LEAST_BATCH = 32
CLASSES, SMOOTHING, EMA_DECAY = 1000, 0.1, 0.9999
IMAGES, SHARE = "images/s", "% of the matmul ceiling"


# --- What is trained --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """What all sides of a row share."""

    name: str  # of timm
    shown: str
    optimizer: Optimizer
    lr: float
    weight_decay: float
    drop_path: float
    dtype: Literal["fp32", "bf16"]
    channels_last: bool
    compile: bool
    size_px: int = 224
    batch: int = 256  # halved until it fits

    def optim(self) -> OptimSpec:
        return OptimSpec(
            optimizer=self.optimizer,
            lr=self.lr,
            weight_decay=self.weight_decay,
            label_smoothing=SMOOTHING,
            ema_decay=EMA_DECAY,
        )

    def title(self) -> str:
        how = [self.dtype, "channels_last" * self.channels_last, "compiled" * self.compile]
        return f"{self.shown}, {self.size_px} px, batch {self.batch}, {', '.join(filter(None, how))}"


@dataclass(frozen=True)
class Bench:
    """What all rows share."""

    dry: bool
    device: torch.device
    deadline: float  # of `clock`
    matmul_tflops: float
    clock: Callable[[], float]

    def now(self) -> float:
        """The clock, once the device has done all it was asked to do."""
        synchronize(self.device.type)
        return self.clock()

    def judge(self, target: str, found: str, met: bool) -> Verdict:
        return Verdict(target, found, None if self.dry else met)

    def memory_bytes(self, peak: bool) -> int:
        import torch

        if self.device.type != "cuda":
            return 0
        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()


@dataclass(frozen=True, eq=False)
class Side:
    """One way to train, ready: its bare model, and one whole step."""

    model: nn.Module
    step: Callable[[Tensor, Tensor], Callable[[], float]]  # fp32 (N, 3, H, W) and (N,) on the device -> its loss


def our_side(bench: Bench, setting: Setting, quotas: Sequence[int]) -> Side:
    """A group of `quotas` has a BN branch for each domain, as many groups as fill the batch; one domain: plain BN."""
    import torch

    split: Literal["bn", "none"] = "bn" if len(quotas) > 1 else "none"
    spec = ModelSpec(name=setting.name, num_classes=CLASSES, drop_path=setting.drop_path, aux=split)
    model = build(spec, quotas, 0, setting.size_px).to(bench.device)
    if setting.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    how = EngineSpec(kind="single", dtype=setting.dtype, compile=setting.compile, channels_last=setting.channels_last)
    optim = setting.optim()
    engine = make_engine(how, optim, model, bench.device, setting.batch)
    descent = Descent(engine, Ema(model, EMA_DECAY), KeptBuffers(model))
    sizes = {str(domain): quota for domain, quota in enumerate(quotas)}

    def step(pictures: Tensor, labels: Tensor) -> Callable[[], float]:
        stepped = descent.step(lambda forward: loss_of(optim, forward(pictures), labels, None, sizes), setting.lr)
        return lambda: stepped.loss if stepped.moved else math.nan  # read now and then, as the loop does for its log

    return Side(model, step)


def timm_side(bench: Bench, setting: Setting) -> Side:
    """Source: train.py of timm 1.0."""
    import timm
    import torch
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.utils import ModelEmaV3

    settings: dict[str, Any] = {"drop_path_rate": setting.drop_path} if setting.drop_path else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(setting.name, pretrained=False, num_classes=CLASSES, **settings)
    model = model.to(bench.device)
    if setting.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(setting.optim(), model)  # timm's own create_optimizer_v2
    average = ModelEmaV3(model, decay=EMA_DECAY)
    smoothed = LabelSmoothingCrossEntropy(smoothing=SMOOTHING).to(bench.device)
    called = torch.compile(model, backend="inductor") if setting.compile else model
    model.train()

    def step(pictures: Tensor, labels: Tensor) -> Callable[[], float]:
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=setting.dtype == "bf16"):
            loss = smoothed(called(pictures), labels)
        loss.backward()
        optimizer.step()
        value = loss.item()  # in every step, as train.py does in one process
        optimizer.zero_grad()
        average.update(model)
        return lambda: value

    return Side(model, step)


OURS, TIMM = "sixfold, one BN for all", "timm's step"
AUX = "sixfold, auxiliary BN, one group"
AUX_GROUPS = "sixfold, auxiliary BN, groups of 16 + 16"
OURS_NO_BN = "sixfold"
SIDES: dict[str, Callable[[Bench, Setting], Side]] = {
    OURS: lambda bench, setting: our_side(bench, setting, (setting.batch,)),
    OURS_NO_BN: lambda bench, setting: our_side(bench, setting, (setting.batch,)),
    AUX: lambda bench, setting: our_side(bench, setting, (setting.batch // 2, setting.batch // 2)),
    AUX_GROUPS: lambda bench, setting: our_side(bench, setting, (16, 16)),
    TIMM: timm_side,
}


@dataclass(frozen=True)
class Target:
    """The median ratio of two sides' rates, window by window."""

    side: str
    reference: str
    at_least: float
    sentence: str


AUX_COSTS_LITTLE = Target(AUX, OURS, 0.97, "auxiliary BN, one group: costs at most 3 %")
AS_FAST_AS_TIMM = Target(OURS, TIMM, 0.97, "at least 0.97 of timm's step")
AS_FAST_WITHOUT_BN = Target(OURS_NO_BN, TIMM, 0.97, "at least 0.97 of timm's step")


@dataclass(frozen=True)
class Row:
    setting: Setting
    sides: tuple[str, ...]  # of SIDES; ratios are to the first
    targets: tuple[Target, ...]
    need_s: float  # with less time left it is not begun
    budget_s: float


RESNET = Setting("resnet50", "ResNet-50", "sgd", 0.1, 5e-5, 0.0, "bf16", channels_last=True, compile=False)
CONVNEXT = Setting("convnext_tiny", "ConvNeXt-T", "adamw", 1e-3, 0.05, 0.1, "bf16", channels_last=True, compile=False)
BOTH = (AUX_COSTS_LITTLE, AS_FAST_AS_TIMM)
ROWS = {  # what is cut when the time is short stands last
    "T1": Row(RESNET, (OURS, TIMM, AUX, AUX_GROUPS), BOTH, 40, 90),
    "T2": Row(CONVNEXT, (OURS_NO_BN, TIMM), (AS_FAST_WITHOUT_BN,), 25, 60),
    "T3": Row(dataclasses.replace(RESNET, compile=True), (OURS, TIMM, AUX), BOTH, 90, 200),
    "T4": Row(dataclasses.replace(CONVNEXT, compile=True), (OURS_NO_BN, TIMM), (AS_FAST_WITHOUT_BN,), 80, 130),
    "T5": Row(dataclasses.replace(RESNET, channels_last=False), (OURS, AUX), (AUX_COSTS_LITTLE,), 20, 45),
    "T6": Row(dataclasses.replace(RESNET, channels_last=False, dtype="fp32"), (OURS, AUX), (AUX_COSTS_LITTLE,), 20, 45),
}
TINY = {"resnet50": "test_resnet", "convnext_tiny": "test_convnext"}


def in_small(row: Row) -> Row:
    tiny = TINY[row.setting.name]
    setting = dataclasses.replace(row.setting, name=tiny, shown=f"timm's {tiny}", size_px=32, batch=64)
    return dataclasses.replace(row, setting=setting)


@functools.cache
def teraflop(name: str, size_px: int) -> float:
    """TFLOP of a picture, forward and backward, without loss, optimiser and average; counted, not timed.

    Three times the forward pass, as is usual: torch's counter does not know that a backward pass has groups.
    """
    import timm
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = timm.create_model(name, pretrained=False, num_classes=CLASSES).to("meta").train()
    pictures = torch.zeros(2, 3, size_px, size_px, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(pictures)
    return 3 * counter.get_total_flops() / 2 / 1e12


# --- Measuring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One side of a row: column -> samples, or why there are none."""

    what: str
    figures: Mapping[str, Samples]
    not_run: str | None = None


@dataclass(frozen=True)
class Result:
    title: str
    lines: Sequence[Line]
    verdicts: Sequence[Verdict]
    notes: Sequence[str] = ()
    details: Mapping[str, Any] = field(default_factory=dict)  # for the JSON alone
    where: Mapping[str, Any] = field(default_factory=dict)  # it was measured: `facts` and ceilings

    @property
    def whole(self) -> bool:
        return all(line.not_run is None for line in self.lines)


@dataclass(frozen=True, eq=False)
class Warm:
    """A side after its first steps."""

    side: Side
    first_s: float  # the first step, compilation included
    warm_s: float  # WARM_STEPS more
    peak_GiB: float  # beside what was there before
    first_loss: float
    graphs: tuple[int, int] | None  # made, and breaks between them

    @property
    def step_s(self) -> float:
        return self.warm_s / WARM_STEPS


def measure_row(bench: Bench, row: Row) -> Result:
    """Raises torch.OutOfMemoryError if a side does not fit; whatever else a side raises becomes its line."""
    import torch

    deadline = min(bench.now() + row.budget_s, bench.deadline)
    pictures, labels = synthetic(bench, row.setting)
    warm: dict[str, Warm] = {}
    lost: dict[str, str] = {}
    longest_s = 0.0
    for name in row.sides:
        begun = bench.now()
        windows_s = 0 if bench.dry else (len(warm) + 1) * WINDOWS * WINDOW_S * 1.3
        if begun + longest_s + windows_s > deadline:
            lost[name] = _no_time(begun, deadline)
            continue
        try:
            warm[name] = warm_up(bench, row.setting, SIDES[name], pictures, labels)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # becomes a line that says so; the other sides go on
            lost[name] = failure(error)
        longest_s = max(longest_s, bench.now() - begun)
    steps = 1
    if warm and not bench.dry:
        steps = max(2, math.ceil(WINDOW_S / max(one.step_s for one in warm.values())))
    rates, last_loss, late = in_turn(bench, {n: one.side for n, one in warm.items()}, pictures, labels, steps, deadline)
    lost |= late
    tflop = teraflop(row.setting.name, row.setting.size_px)
    lines = []
    for name in row.sides:
        if name in lost:
            lines.append(Line(name, {}, lost[name]))
            continue
        one = warm[name]
        figures = {IMAGES: rates[name], SHARE: tuple(100 * r * tflop / bench.matmul_tflops for r in rates[name])}
        if bench.device.type == "cuda":
            figures["peak GiB"] = (one.peak_GiB,)
        lines.append(Line(name, {**figures, "first step s": (one.first_s,), "warm-up s": (one.warm_s,)}))
    notes = [f"{WINDOWS} windows of {steps} steps. {1e3 * tflop:.3g} GFLOP a picture, counted."]
    compiled = {name: one.graphs for name, one in warm.items() if one.graphs is not None}
    if compiled:
        told = "; ".join(f"{name}: {graphs} and {breaks}" for name, (graphs, breaks) in compiled.items())
        notes.append(f"Graphs compiled, and breaks between them: {told}.")
        notes.append("timm's graph is that of our plain BN, so it finds it compiled: its first step says nothing.")
    return Result(
        row.setting.title(),
        lines,
        [verdict(bench, target, rates) for target in row.targets],
        notes,
        {"teraflop": tflop, "losses": {name: [warm[name].first_loss, last_loss[name]] for name in rates}},
    )


def synthetic(bench: Bench, setting: Setting) -> tuple[list[Tensor], list[Tensor]]:
    """Two batches, which the steps see in turn; fp32 pictures with mean 0 and spread 1, as after normalisation."""
    import torch

    draw = torch.Generator(bench.device).manual_seed(0)
    shape = (setting.batch, 3, setting.size_px, setting.size_px)
    layout = torch.channels_last if setting.channels_last else torch.contiguous_format
    pictures = [torch.randn(shape, generator=draw, device=bench.device) for _ in range(2)]
    labels = [torch.randint(0, CLASSES, shape[:1], generator=draw, device=bench.device) for _ in range(2)]
    return [one.contiguous(memory_format=layout) for one in pictures], labels


def warm_up(
    bench: Bench,
    setting: Setting,
    make: Callable[[Bench, Setting], Side],
    pictures: Sequence[Tensor],
    labels: Sequence[Tensor],
) -> Warm:
    import torch

    before = bench.memory_bytes(peak=False)
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    counted = _graphs() if setting.compile else (0, 0)
    side = make(bench, setting)
    begun = bench.now()
    first_loss = finite(side.step(pictures[0], labels[0])())
    first_s = bench.now() - begun
    begun = bench.now()
    for place in range(WARM_STEPS):
        finite(side.step(pictures[place % 2], labels[place % 2])())
    warm_s = bench.now() - begun
    peak_GiB = (bench.memory_bytes(peak=True) - before) / 2**30
    graphs = None
    if setting.compile:
        made, breaks = _graphs()
        graphs = (made - counted[0], breaks - counted[1])
    return Warm(side, first_s, warm_s, peak_GiB, first_loss, graphs)


def in_turn(
    bench: Bench,
    sides: Mapping[str, Side],
    pictures: Sequence[Tensor],
    labels: Sequence[Tensor],
    steps: int,
    deadline: float,
) -> tuple[dict[str, Samples], dict[str, float], dict[str, str]]:
    """Images per second of each side's windows, its last loss, and why other sides have none."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    last_loss: dict[str, float] = {}
    lost: dict[str, str] = {}
    images = steps * len(pictures[0])
    round_s = 0.0
    for _ in range(WINDOWS):
        round_begun = bench.now()
        if round_begun + round_s > deadline:
            lost |= dict.fromkeys(rates, _no_time(round_begun, deadline))
            rates = {}
        for name in list(rates):
            step = sides[name].step
            try:
                losses = [step(pictures[1], labels[1])]
                begun = bench.now()
                losses += [step(pictures[place % 2], labels[place % 2]) for place in range(steps)]
                rates[name].append(images / (bench.now() - begun))
                last_loss[name] = [finite(loss()) for loss in losses][-1]
            except Exception as error:  # becomes a line that says so; the other sides go on
                lost[name] = failure(error)
                del rates[name]
        round_s = bench.now() - round_begun
    return {name: tuple(samples) for name, samples in rates.items()}, last_loss, lost


def finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise ValueError(f"found a loss of {loss} or a gradient that is not finite, expected numbers; not measured")
    return loss


def verdict(bench: Bench, target: Target, rates: Mapping[str, Samples]) -> Verdict:
    missing = [name for name in (target.side, target.reference) if name not in rates]
    if missing:
        return Verdict(target.sentence, f"no figure for: {', '.join(missing)}", None)
    ratio = statistics.median(over(rates[target.side], rates[target.reference]))
    return bench.judge(target.sentence, f"{ratio:.3f}x {target.reference}", ratio >= target.at_least)


def _no_time(now: float, deadline: float) -> str:
    return f"not run: time ({max(0.0, deadline - now):.0f} s were left; run it with --rows)"


def _graphs() -> tuple[int, int]:
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def measure(bench: Bench, name: str, row: Row) -> Result:
    """A row with the largest batch that fits; its lines say what was not run, and why."""
    import torch

    left_s = bench.deadline - bench.now()
    if left_s < row.need_s:
        reason = f"not run: time ({max(0.0, left_s):.0f} s were left and {row.need_s:.0f} wanted; --rows {name})"
        return _nothing(row, reason)
    while True:
        try:
            return measure_row(bench, row)
        except torch.OutOfMemoryError as error:
            if row.setting.batch // 2 < LEAST_BATCH:
                return _nothing(row, failure(error))
            row = dataclasses.replace(row, setting=dataclasses.replace(row.setting, batch=row.setting.batch // 2))
        except Exception as error:  # of what the sides share; the other rows go on
            return _nothing(row, failure(error))
        finally:
            _free(bench)


def _nothing(row: Row, reason: str) -> Result:
    verdicts = [Verdict(target.sentence, "no figure", None) for target in row.targets]
    return Result(row.setting.title(), [Line(name, {}, reason) for name in row.sides], verdicts)


def _free(bench: Bench) -> None:
    import torch

    torch.compiler.reset()
    gc.collect()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()


# --- The page and the command -----------------------------------------------------------------------------------------


def section(name: str, result: Result) -> str:
    """One row in Markdown: medians (least - most); the first side over each other one, window by window."""
    columns = list(dict.fromkeys(column for line in result.lines for column in line.figures))
    first = result.lines[0]
    heads = ["", *columns, *([f"{IMAGES}, {first.what} / this"] if first.figures else [])]
    lines = [f"### {name}: {result.title}", "", f"| {' | '.join(heads)} |", f"|---{'|---:' * (len(heads) - 1)}|"]
    for line in result.lines:
        if line.not_run is not None:
            cells = [f"{line.what}: {line.not_run}", *[""] * (len(heads) - 1)]
        else:
            cells = [line.what, *(spread(line.figures[column]) if column in line.figures else "" for column in columns)]
            if first.figures:
                ratio = spread(over(first.figures[IMAGES], line.figures[IMAGES]), "x")
                cells.append("1" if line is first else ratio)
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| target | came out | met |", "|---|---|---|"]
    lines += [f"| {one.target} | {one.found} | {one.word} |" for one in result.verdicts]
    return "\n".join([*lines, *(f"\n{note}" for note in result.notes)])


def tables(results: Mapping[str, Result]) -> str:
    return "\n\n".join(f"{section(name, one)}\n\n*Where:* {told(one.where)}" for name, one in results.items())


def write(folder: Path, results: Mapping[str, Result]) -> None:
    """These rows anew, others as they were. Raises ValueError if the page has no marks for the tables."""
    known = {**read(folder), **results}
    known = {name: known[name] for name in ROWS if name in known}
    numbers = {name: dataclasses.asdict(one) for name, one in known.items()}
    page = folder / PAGE
    if page.is_file():
        text = {PAGE: replaced(page.read_text(encoding="utf-8"), MARK, COMMAND, tables(known))}
    else:
        text = {TABLES: tables(known) + "\n"}
    replace_files(folder, {NUMBERS: json.dumps(numbers, indent=1, allow_nan=False) + "\n", **text})


def read(folder: Path) -> dict[str, Result]:
    """What runs have written there."""
    return {
        name: Result(**{**one, "lines": [Line(**line) for line in one["lines"]]})
        for name, one in kept(folder / NUMBERS)
    }


def main(arguments: Sequence[str], clock: Callable[[], float] = time.perf_counter) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m docs.bench.train_gpu", description="Time a GPU's training steps, side by side."
    )
    parser.add_argument("--rows", help=f"some of {','.join(ROWS)}; all by default")
    parser.add_argument("--dry", action="store_true", help="every row with tiny networks on the CPU; judges no speed")
    parser.add_argument("--out", type=Path, help=f"folder of {NUMBERS} and the tables (default: docs)")
    parser.add_argument("--from", dest="source", type=Path, help=f"only take over this folder's {NUMBERS}")
    parser.add_argument("--budget", type=float, default=450.0, help="seconds in all; 450 keeps a run below 8 minutes")
    chosen = parser.parse_args(arguments)
    names = list(ROWS) if chosen.rows is None else chosen.rows.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"--rows: found {','.join(unknown)}, expected some of {','.join(ROWS)}")
    if chosen.source is not None:
        known = read(chosen.source)
        if not known:
            parser.error(f"--from: found no {NUMBERS} in {chosen.source}, expected what a run with --out wrote")
        write(chosen.out or HOME, known)
        return 0
    begun = clock()
    import torch

    if not chosen.dry and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; run with --dry to see that every row works")
    place = find_place({})  # one process, whatever started it
    device = torch.device("cpu") if chosen.dry else device_of(place, os.environ)
    results: dict[str, Result] = {}
    with contextlib.ExitStack() as stack:
        if chosen.dry:
            stack.enter_context(in_miniature())
        stack.enter_context(empty_compile_cache())
        top = ceilings(device.type, torch.float32 if chosen.dry else torch.bfloat16, chosen.dry, clock)
        matmul = statistics.median(top["matmul TFLOP/s"])
        bench = Bench(chosen.dry, device, begun + chosen.budget, matmul, clock)
        where = {**facts(chosen.dry, LIBRARIES), "ceilings": top}
        out = chosen.out or (None if chosen.dry else HOME)
        for name in names:
            found = measure(bench, name, in_small(ROWS[name]) if chosen.dry else ROWS[name])
            results[name] = dataclasses.replace(found, where=where)
            print(section(name, results[name]), end="\n\n", flush=True)
            if out is not None:
                write(out, {name: results[name]})
            print(f"({clock() - begun:.0f} s since the start)", file=sys.stderr, flush=True)
    missed = any(one.met is False for result in results.values() for one in result.verdicts)
    return 1 if missed or not all(result.whole for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
