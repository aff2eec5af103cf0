"""A Maker that paints: pictures as a function of the seed, accidents on demand, and units on top. No torch, no prompts.

In: a folder. Out: `Painter` (a Maker), `worker` (a `UnitWorker` of one, for three classes, over that folder).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from gen.make.maker import Made, Picture
from gen.make.plan import Plan, Sample, sample_seed, sample_uid
from gen.make.refill import ShardSpec, UnitJob, UnitWorker
from gen.make.screen import REASONS, check_generated
from shards.disk.jpeg import SourceType
from shards.disk.layout import SUCCESS
from shards.disk.store import FolderStore, open_store

SIDE = 32
FINGERPRINT = "f" * 64
RUN_SEED = 11
NUM_PER_CLASS = {0: 12, 1: 12, 7: 11}
NAMES = {0: "zero", 1: "one", 7: "seven"}


def paint(seed: int) -> np.ndarray:
    """A picture with structure, SIDE x SIDE."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    waves = np.sin(x * rng.uniform(3, 20) + y * rng.uniform(3, 20) + rng.uniform(0, 6))
    image = waves[..., None] * rng.uniform(30, 110, 3) + 128 + rng.normal(0, 3, (SIDE, SIDE, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def seed_of(sample: Sample, draw: int) -> int:
    return sample_seed(RUN_SEED, sample.class_id, sample.prompt_id, sample.replicate, draw)


class Painter:
    """A Maker whose image is a function of the seed; `fault` says which accident a seed has."""

    call_size = 8
    source_type: SourceType | None = "trainedAlgorithmicMedia"
    advice_on_memory = "expected room for 8 pictures; paint fewer"
    advice_on_failure = "buy other paint"

    def __init__(self, fault: Callable[[int], str | None] = lambda seed: None) -> None:
        self.fault = fault
        self.calls: list[list[int]] = []  # the seeds of each call
        self.plan: Plan

    def samples(self, unit: int) -> Sequence[Sample]:
        return self.plan.unit(unit).samples

    def prepare(self, samples: Sequence[Sample]) -> None:
        pass

    def num_draws(self, sample: Sample) -> None:
        return None

    def make(self, pairs: Sequence[tuple[Sample, int]], alive: Callable[[float], None]) -> Made:
        seeds = [seed_of(*pair) for pair in pairs]
        self.calls.append(seeds)
        faults = [self.fault(seed) for seed in seeds]
        if "raises" in faults:
            raise ValueError(f"cannot draw\n{seeds[faults.index('raises')]}")
        return Made(lambda timeout_s: None, lambda place: self._picture(seeds[place], faults[place]))

    def _picture(self, seed: int, fault: str | None) -> Picture:
        image = paint(seed)
        if fault in ("nan", "black", "flagged"):
            image[:] = 0
        elif fault == "blank":
            image[:] = (200, 180, 90)
        elif fault == "flat":
            image[SIDE // 2 :] = 128
        status = check_generated(image, fault != "nan", fault == "flagged", SIDE)
        size = {"original_width": SIDE, "original_height": SIDE} if status == SUCCESS else {}
        return Picture(image, status, REASONS.get(status), size)

    def row(self, sample: Sample, draw: int) -> Mapping[str, object]:
        identity = (sample.class_id, sample.prompt_id, sample.replicate)
        names = dict(zip(("class_id", "prompt_id", "replicate"), identity, strict=True))
        about = {"uid": sample_uid(RUN_SEED, *identity, draw), "seed": seed_of(sample, draw), "domain": "synthetic"}
        return {**names, **about, "class_name": NAMES[sample.class_id], "caption": f"{NAMES[sample.class_id]}, painted"}


def sometimes(share: float, salt: str = "") -> Callable[[int], str | None]:
    """Accidents of every kind in `share` of all draws, as a function of the seed."""

    def fault(seed: int) -> str | None:
        number = int.from_bytes(hashlib.blake2b(f"{salt}{seed}".encode(), digest_size=8).digest(), "big")
        return ("nan", "black", "flagged", "blank", "flat")[number % 5] if number / 2**64 < share else None

    return fault


def worker(
    out: Path,
    painter: Painter | None = None,
    num_per_class: Mapping[int, int] = NUM_PER_CLASS,
    shards: ShardSpec = ShardSpec(samples_per_shard=20, max_draws=4),
    fingerprint: str = FINGERPRINT,
) -> UnitWorker[Sample]:
    maker = painter or Painter()
    maker.plan = Plan(
        num_per_class, dict.fromkeys(num_per_class, 3), RUN_SEED, shards.samples_per_shard, shards.max_draws
    )
    store = open_store(str(out))
    assert isinstance(store, FolderStore)
    return UnitWorker(UnitJob(out=str(out), fingerprint=fingerprint, shards=shards), maker, store)


def no_beat(done: int, rejected: int, under_way: float = 0.0) -> None:
    pass
