"""`batch: auto`: measures images per second for batches of 1, 2, 4 and so on, once, and chooses a batch.

In: a sampler spec in which only the batch is open. Out: the batch, and the curve of rates. On disk: one JSON file per
(weights, settings, device, share of it, versions) in the user's cache folder, replaced as a whole, with a lock beside
it, so that only one process of a machine measures at a time.

The smallest batch within 3 % of the best rate is chosen: a larger one gains nothing, takes memory, and wastes more in
the last call of a unit. A curve ends when the memory is full, when its time is over, or when doubling has gained
nothing twice. The first call of every size compiles or warms up, so it is not timed and has a time budget of its own.

Two kinds of curves are used, with a word in the log, but not stored, so that the next run measures again: one whose
time was over while doubling still gained, and one that a full memory ended while other processes held a part of it.
"""

import contextlib
import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.process.memory import free_memory, is_memory_error
from cluster.recipes.load import fingerprint
from gen.sampler.device import cpu_name
from gen.sampler.sampler import CACHED_TEXT_BYTES, Request, Sampler
from gen.sampler.spec import SamplerSpec, sampler_digest, sampler_json
from shards.disk.checked_json import plain_json
from shards.disk.lock import locked
from shards.disk.record import JSON
from shards.disk.regular import read_regular
from shards.disk.replace import replace_file

SIZES = {"cuda": (1, 2, 4, 8, 16, 32, 64), "cpu": (1, 2, 4, 8, 16, 32)}
BUDGET_S = {"cuda": 240.0, "cpu": 120.0}  # for the timed calls of a whole curve
WARM_UP_S = 1800.0  # for the first calls of all sizes; one of SDXL takes about a minute to compile by blocks
TIMED_CALLS = 3
TIMED_S = 10.0  # no further timed call of a size after this long: one call of ten seconds is exact enough
SHARE = 0.97  # of the best rate
FULL_SHARE = 0.9  # of a worker's share of a GPU's memory; the rest is for the context and for fragments
WAIT_S = 2400.0  # for another process that measures: more than a whole curve
CALL_S = 600.0  # for the pixels of one call
VERSIONS = ("torch", "diffusers", "transformers")
# Why a curve ended
TIME_OVER = "time"  # while doubling still gained
FULL = "memory"
CROWDED = "memory, of which other processes hold a part"
NOT_KEPT = (TIME_OVER, CROWDED)  # such curves are not stored: they say more about the hour than about the device


@dataclass(frozen=True)
class Curve:
    """The measured rates."""

    rates: Mapping[int, float]  # batch -> images per second
    ended: str  # why there is no larger batch in it

    @property
    def batch(self) -> int:
        """The batch that is chosen."""
        return smallest_within(self.rates, SHARE)


def smallest_within(rates: Mapping[int, float], share: float) -> int:
    """The smallest batch whose rate is at least ``share`` of the best one."""
    best = max(rates.values())
    return min(batch for batch, rate in rates.items() if rate >= share * best)


def measure_curve(
    warm_up: Callable[[int], None],
    call: Callable[[int], None],
    sizes: Sequence[int],
    budget_s: float,
    clock: Callable[[], float],
    is_full: Callable[[], bool] = lambda: False,
) -> Curve:
    """Times ``call(size)`` for growing sizes, each after ``warm_up(size)``; ``is_full`` is asked after its calls.

    A size that fills the memory is not in the curve. The smallest one always is; what it raises is raised.
    """
    rates: dict[int, float] = {}
    warm_s = timed_s = last_warm_s = last_timed_s = 0.0
    idle = 0
    for size in sizes:
        # twice the images take about twice the time, to compile about the same
        if rates and (timed_s + 2 * last_timed_s > budget_s or warm_s + last_warm_s > WARM_UP_S):
            return Curve(rates, "nothing gained" if idle else TIME_OVER)
        try:
            last_warm_s = _timed(warm_up, size, clock)
            seconds = [_timed(call, size, clock)]
            while len(seconds) < TIMED_CALLS and sum(seconds) < TIMED_S:
                seconds.append(_timed(call, size, clock))
        except (MemoryError, RuntimeError) as error:
            if not rates or not is_memory_error(error):
                raise
            return Curve(rates, FULL)
        if rates and is_full():
            return Curve(rates, FULL)
        last_timed_s = sum(seconds)
        warm_s += last_warm_s
        timed_s += last_timed_s
        rate = size / statistics.median(seconds)
        idle = idle + 1 if rates and rate * SHARE < max(rates.values()) else 0
        rates[size] = rate
        if idle == 2:
            return Curve(rates, "nothing gained")
    return Curve(rates, "largest size")


def in_company(curve: Curve, free_bytes: int, total_bytes: int, gpu_share: float) -> Curve:
    """The curve; one that a full GPU ended says so if others held a part of this worker's share when it began.

    ``free_bytes``: of the GPU's ``total_bytes``, before the model was loaded.
    """
    is_crowded = curve.ended == FULL and free_bytes < FULL_SHARE * gpu_share * total_bytes
    return Curve(curve.rates, CROWDED) if is_crowded else curve


def room_bytes(total_bytes: int, gpu_share: float, offload_text: bool) -> float:
    """What one worker's calls may take of a GPU of ``total_bytes``: a run's unit has more texts than a curve."""
    return FULL_SHARE * gpu_share * total_bytes - (0 if offload_text else CACHED_TEXT_BYTES)


def _timed(call: Callable[[int], None], size: int, clock: Callable[[], float]) -> float:
    begun = clock()
    call(size)
    return max(clock() - begun, 1e-9)


def find_batch(
    spec: SamplerSpec,
    folder: Path,
    gpu_share: float,
    beat: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, JSON]:
    """The batch for ``spec`` on this machine: from the cache, else by a curve.

    ``gpu_share``: of a GPU for one worker, 0..1. ``beat`` is called before whatever takes long. Returns ``batch``,
    ``rates`` (pairs of batch and images/s), ``ended``, ``measured`` (now or before) and the key. Raises TimeoutError
    if another process measures without end.
    """
    key = _key(spec, gpu_share)
    place = folder / f"{fingerprint(key)[:32]}.json"
    with locked(place.with_suffix(".lock"), WAIT_S, beat):
        kept = _kept(place, key)
        if kept is not None:
            return {**kept, "measured": False}
        curve = _measure(spec, gpu_share, beat, clock)
        _forget_model(spec)
        found: dict[str, JSON] = {
            "batch": curve.batch,
            "rates": [[size, round(rate, 4)] for size, rate in curve.rates.items()],
            "ended": curve.ended,
            "key": key,
        }
        if curve.ended not in NOT_KEPT:
            _keep(place, found)
    return {**found, "measured": True}


def _forget_model(spec: SamplerSpec) -> None:
    """Give the memory of the measured model back, which the run's own model may want in this very process."""
    if spec.compile != "none":
        import torch

        torch.compiler.reset()  # its graphs hold weights
    free_memory()


def _keep(place: Path, found: Mapping[str, JSON]) -> None:
    with contextlib.suppress(OSError):  # a full disk costs the next run a measurement, not this one its batch
        replace_file(place, (json.dumps(found, indent=1) + "\n").encode())


def _kept(place: Path, key: Mapping[str, str]) -> dict[str, JSON] | None:
    """What the file says; a file that says something else than a curve of this key is measured anew."""
    try:
        kept = plain_json(read_regular(place, 1 << 20))
        sound = kept["key"] == key and type(kept["batch"]) is int and 1 <= kept["batch"] <= max(SIZES["cuda"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return kept if sound else None


def _key(spec: SamplerSpec, gpu_share: float) -> dict[str, str]:
    """All that decides how fast a call is and how much fits."""
    return {
        "model": sampler_digest(spec),
        "settings": sampler_json(spec.model_copy(update={"batch": "auto"})),
        "offload_text": str(spec.offload_text),  # shapes no image, so that the settings do not name it
        "device": _device_name(spec),
        "gpu_share": f"{gpu_share:g}",
        **{name: importlib.metadata.version(name) for name in VERSIONS},
    }


def _device_name(spec: SamplerSpec) -> str:
    import torch

    if spec.device != "cpu" and torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}"
    return cpu_name() or "cpu"


def _measure(spec: SamplerSpec, gpu_share: float, beat: Callable[[], None], clock: Callable[[], float]) -> Curve:
    import torch

    beat()
    free_bytes = total_bytes = 0
    if spec.device != "cpu" and torch.cuda.is_available():
        free_bytes, total_bytes = torch.cuda.mem_get_info()
    sampler = Sampler.load(spec.model_copy(update={"batch": 1}))
    beat()
    kind = sampler.device.type
    requests = [Request(f"picture number {place}", "", place) for place in range(max(SIZES[kind]))]
    sampler.prepare([request.prompt for request in requests])

    def warm_up(size: int) -> None:
        if size > 1 and spec.compile != "none":
            torch.compiler.reset()  # graphs of another size would only count against the limit of shapes
        free_memory()
        if kind == "cuda":
            torch.cuda.reset_peak_memory_stats(sampler.device)
        call(size)

    def call(size: int) -> None:
        beat()
        sampler.with_batch(size).sample(requests[:size], lambda share: beat()).wait(CALL_S)

    def is_full() -> bool:
        if kind != "cuda":
            return False
        room = room_bytes(total_bytes, gpu_share, sampler.spec.offload_text is True)
        return torch.cuda.max_memory_reserved(sampler.device) > room

    curve = measure_curve(warm_up, call, SIZES[kind], BUDGET_S[kind], clock, is_full)
    return in_company(curve, free_bytes, total_bytes, gpu_share)
