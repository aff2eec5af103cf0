"""What sixfold makes of a GPU, beside the way people do it today: `make bench-gpu`, or `python -m docs.bench.gpu`.

In: rows (`--rows sd15,turbo`; none = those that decide something; `rest` = the others). Out: their tables on standard
output; exit 1 if a target is missed or a row has no figures. On disk: docs/data/bench_gpu.json and the tables of
docs/BENCHMARKS.md, written anew after every row. `--dry` runs every row with tiny networks on the CPU, judges no speed
and writes only where `--out` says.

A call ends within its budget, below six minutes: a row is not begun with too little time left, a row that runs out of
it is given up, and both are named. Needs one NVIDIA GPU, and neither a network nor Ray, DeepSpeed or OpenCV.
"""

import argparse
import contextlib
import faulthandler
import gc
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from docs.bench import gpu_images, gpu_training, page
from docs.bench.device import COPY, MATMUL, Bench, OutOfTime, ceilings, time_limit
from docs.bench.machine import facts
from docs.bench.measure import Result

HOME = Path(__file__).resolve().parents[1]
NUMBERS, COMMAND = "data/bench_gpu.json", "make bench-gpu"
BUDGET_S, STUCK_S, REST = 340.0, 30.0, "rest"


@dataclass(frozen=True)
class Row:
    """`need_s`: with less time left it is not begun."""

    measure: Callable[[Bench], Result]
    need_s: float
    decides: bool


ROWS = {  # what is cut when the time is short stands last
    "sd15": Row(partial(gpu_images.measure, work=gpu_images.SD15, budget_s=45), 60, True),
    "resnet50": Row(partial(gpu_training.measure, compiled=False), 30, True),
    "turbo": Row(partial(gpu_images.measure, work=gpu_images.TURBO, budget_s=30), 60, True),
    "sdxl": Row(partial(gpu_images.measure, work=gpu_images.SDXL, budget_s=60), 80, True),
    "flux": Row(partial(gpu_images.measure, work=gpu_images.FLUX, budget_s=40), 80, False),
    "resnet50-compiled": Row(partial(gpu_training.measure, compiled=True), 60, False),
    "batch-auto": Row(gpu_images.batch_auto, 30, False),
}


def measure(bench: Bench, row: Row) -> Result | str:
    """The figures of a row, or why there are none."""
    import torch

    left_s = bench.deadline - bench.now()
    if left_s < row.need_s:
        return f"{max(0.0, left_s):.0f} s were left and {row.need_s:.0f} wanted"
    try:
        with time_limit(left_s):
            return row.measure(bench)
    except OutOfTime:
        return "the time was up"
    except Exception as error:  # becomes a line that says so; the other rows go on
        traceback.print_exception(error)
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"
    finally:
        torch.backends.cudnn.benchmark = False
        torch.compiler.reset()
        gc.collect()
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()


def about(bench: Bench, top: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Where and beside which ceilings the figures were found."""
    import torch

    card = "tiny networks on the CPU"
    if not bench.dry:
        memory = torch.cuda.get_device_properties(bench.device).total_memory / 2**30
        card = f"{torch.cuda.get_device_name(bench.device)}, {memory:.0f} GiB, CUDA {torch.version.cuda}"
    matmul, copy = (statistics.median(top[name]) for name in (MATMUL, COPY))
    gpu = f"{card}, {matmul:.4g} TFLOP/s of a bf16 product, {copy:.3g} TB/s of a copy"
    return {"quick": bench.dry, "gpu": gpu, "ceilings": top, **facts(Path(tempfile.gettempdir()))}


def chosen_rows(text: str | None) -> list[str]:
    if text is None or text == REST:
        return [name for name, row in ROWS.items() if row.decides is (text is None)]
    return text.split(",")


def main(arguments: Sequence[str], clock: Callable[[], float] = time.perf_counter) -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.bench.gpu", description="Time a GPU's work, side by side.")
    parser.add_argument("--rows", help=f"{REST}, or some of {','.join(ROWS)}; by default those that decide something")
    parser.add_argument("--dry", action="store_true", help="tiny networks on the CPU; judges no speed")
    parser.add_argument("--out", type=Path, help=f"folder of {page.PAGE} and {NUMBERS} (default: docs)")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds in all (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    begun = clock()
    names = list(ROWS) if chosen.dry and chosen.rows is None else chosen_rows(chosen.rows)
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"--rows: found {','.join(unknown)}, expected {REST} or some of {','.join(ROWS)}")
    import torch

    if not chosen.dry and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; run with --dry to see that every row works")
    device = torch.device("cpu" if chosen.dry else "cuda")
    failed = missed = False
    with contextlib.ExitStack() as stack:
        faulthandler.dump_traceback_later(chosen.budget + STUCK_S, exit=True)  # where no signal is heard any more
        stack.callback(faulthandler.cancel_dump_traceback_later)
        # an empty place, so that a first call is a first call
        cache = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        if chosen.dry:  # compiling would take minutes and say nothing
            torch.set_num_threads(1)
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        top = ceilings(device, chosen.dry, clock)
        bench = Bench(chosen.dry, device, begun + chosen.budget, statistics.median(top[MATMUL]), clock)
        where = about(bench, top)
        out = chosen.out or (None if chosen.dry else HOME)
        for name in names:
            result = measure(bench, ROWS[name])
            if isinstance(result, str):
                failed = True
                print(f"### {name}\n\nNot measured: {result}; run it with --rows {name}.", end="\n\n", flush=True)
            else:
                missed |= any(verdict.met is False for verdict in result.verdicts)
                print(page.section(name, result, where), end="\n\n", flush=True)
                if out is not None:
                    page.write(out, NUMBERS, COMMAND, {name: result}, where)
            print(f"({clock() - begun:.0f} s since the start)", file=sys.stderr, flush=True)
    return 1 if failed or missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
