"""`batch: auto`: images per second for batches of 1, 2, 4 and so on, measured once, and the batch that they speak for.

In: a sampler spec in which only the batch is open. Out: the batch, and the curve. On disk: one JSON file per (weights,
settings, device, versions) in the user's cache folder, written whole or not at all, with a lock beside it so that no
two processes of a machine measure at once.

The smallest batch within 3 % of the best is taken: more gains nothing, takes memory, and wastes more in a unit's last
call. A curve ends early at a full memory, at the end of its time, or where doubling has twice gained nothing.
"""

import importlib.metadata
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.recipe import fingerprint
from cluster.work import JSON, Beat
from gen.model.machine_cache import cache_folder, locked
from gen.sampler import Request, Sampler, SamplerSpec, sampler_digest, sampler_json

SIZES = {"cuda": (1, 2, 4, 8, 16, 32, 64), "cpu": (1, 2, 4, 8, 16, 32)}
BUDGET_S = {"cuda": 240.0, "cpu": 120.0}  # for the calls of a whole curve, compilation included
TIMED_CALLS = 3  # after one that is not timed
SHARE = 0.97  # of the best rate
FULL_SHARE = 0.9  # of a GPU's memory: from here on a larger batch is not tried
WAIT_S = 900.0  # for another process that measures
CALL_S = 600.0  # for the pixels of one call
VERSIONS = ("torch", "diffusers", "transformers")


@dataclass(frozen=True)
class Curve:
    rates: Mapping[int, float]  # batch -> images per second
    ended: str  # why there is no larger batch in it

    @property
    def batch(self) -> int:
        return smallest_within(self.rates, SHARE)


def smallest_within(rates: Mapping[int, float], share: float) -> int:
    """The smallest batch whose rate is at least ``share`` of the best one."""
    best = max(rates.values())
    return min(batch for batch, rate in rates.items() if rate >= share * best)


def measure_curve(
    call: Callable[[int], None],
    sizes: Sequence[int],
    budget_s: float,
    clock: Callable[[], float],
    is_full: Callable[[], bool] = lambda: False,
) -> Curve:
    """Times ``call(size)`` for growing sizes. The smallest one is always measured; what it raises is raised."""
    import torch

    rates: dict[int, float] = {}
    begun, last_s, idle = clock(), 0.0, 0
    for size in sizes:
        if rates and clock() - begun + 2 * last_s > budget_s:  # twice the images take about twice the time
            return Curve(rates, "time")
        if rates and is_full():
            return Curve(rates, "memory")
        size_begun = clock()
        try:
            call(size)
            seconds = [_timed(call, size, clock) for _ in range(TIMED_CALLS)]
        except (MemoryError, torch.OutOfMemoryError):
            if not rates:
                raise
            return Curve(rates, "memory")
        last_s = clock() - size_begun
        rate = size / statistics.median(seconds)
        idle = idle + 1 if rates and rate * SHARE < max(rates.values()) else 0
        rates[size] = rate
        if idle == 2:
            return Curve(rates, "nothing gained")
    return Curve(rates, "largest size")


def _timed(call: Callable[[int], None], size: int, clock: Callable[[], float]) -> float:
    begun = clock()
    call(size)
    return max(clock() - begun, 1e-9)


def find_batch(
    spec: SamplerSpec, folder: Path, beat: Callable[[], None], clock: Callable[[], float] = time.perf_counter
) -> dict[str, JSON]:
    """The batch for ``spec`` on this machine: from the cache, else by a curve. ``beat`` is called before every call.

    Returns ``batch``, ``rates`` (pairs of batch and images/s), ``ended``, ``measured`` (now or before) and the key.
    """
    key = _key(spec)
    place = folder / f"{fingerprint(key)[:32]}.json"
    with locked(place.with_suffix(".lock"), WAIT_S):
        kept = _kept(place, key)
        if kept is not None:
            return {**kept, "measured": False}
        curve = _measure(spec, beat, clock)
        found: dict[str, JSON] = {
            "batch": curve.batch,
            "rates": [[size, round(rate, 4)] for size, rate in curve.rates.items()],
            "ended": curve.ended,
            "key": key,
        }
        temp = place.with_suffix(f".{os.getpid()}.tmp")
        temp.write_text(json.dumps(found, indent=1) + "\n")
        os.replace(temp, place)
    return {**found, "measured": True}


def _kept(place: Path, key: Mapping[str, str]) -> dict[str, JSON] | None:
    """What the file says; a file that says something else than a curve of this key is measured anew."""
    try:
        kept = json.loads(place.read_bytes())
        sound = kept["key"] == key and type(kept["batch"]) is int and 1 <= kept["batch"] <= max(SIZES["cuda"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return kept if sound else None


def _key(spec: SamplerSpec) -> dict[str, str]:
    """All that decides how fast a call is."""
    return {
        "model": sampler_digest(spec),
        "settings": sampler_json(spec.model_copy(update={"batch": "auto"})),
        "device": _device_name(spec),
        **{name: importlib.metadata.version(name) for name in VERSIONS},
    }


def _device_name(spec: SamplerSpec) -> str:
    import torch

    if spec.device != "cpu" and torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}"
    told = Path("/proc/cpuinfo")
    names = [line.partition(":")[2] for line in told.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0].strip()}, {torch.backends.cpu.get_cpu_capability()}" if names else "cpu"


def _measure(spec: SamplerSpec, beat: Callable[[], None], clock: Callable[[], float]) -> Curve:
    import torch

    sampler = Sampler.load(spec.model_copy(update={"batch": 1}))
    kind = sampler.device.type
    requests = [Request(f"picture number {place}", "", place) for place in range(max(SIZES[kind]))]
    sampler.prepare([request.prompt for request in requests])
    compiled_for = 1

    def call(size: int) -> None:
        nonlocal compiled_for
        beat()
        if size != compiled_for and sampler.spec.compile != "none":
            torch.compiler.reset()  # graphs of another size would only count against the limit of shapes
        compiled_for = size
        sampler.with_batch(size).sample(requests[:size]).wait(CALL_S)

    def is_full() -> bool:
        if kind != "cuda":
            return False
        total = torch.cuda.get_device_properties(sampler.device).total_memory
        return torch.cuda.max_memory_reserved(sampler.device) > FULL_SHARE * total

    curve = measure_curve(call, SIZES[kind], BUDGET_S[kind], clock, is_full)
    if kind == "cuda":
        torch.cuda.empty_cache()
    return curve


def make_curve_worker(spec: Mapping[str, object]) -> "CurveWorker":
    """A worker of `fan_out` from plain data: the measurement happens where the images will be made."""
    return CurveWorker(SamplerSpec.model_validate(spec))


@dataclass(frozen=True)
class CurveWorker:
    spec: SamplerSpec

    def __call__(self, unit: int, attempt: str, beat: Beat) -> dict[str, JSON]:
        return find_batch(self.spec, cache_folder(os.environ, "batch"), lambda: beat(0, 0))
