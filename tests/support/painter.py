"""A model that paints: pictures as a function of the request, accidents on demand, and units on top. No torch.

In: a folder. Out: `Painter` (the model), `worker` (a `UnitWorker` with prompts for three classes, over that folder).
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gen.make.unit import ShardSpec, UnitJob, UnitWorker
from gen.prompts.prompts import PromptSpec, PromptTable, Sources, write_prompts
from gen.sampler.sampler import Request, Sampled
from gen.sampler.spec import SamplerSpec
from gen.wording.lexicon import load_lexicon
from shards.disk.layout import META
from shards.disk.store import FolderStore, open_store
from shards.labels.classes import Class

SIDE = 32
FINGERPRINT = "f" * 64
CLASSES = [Class(0, "zero", None, 12), Class(1, "one", None, 12), Class(7, "seven", None, 11)]


def paint(seed: int) -> np.ndarray:
    """A picture with structure, SIDE x SIDE."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    waves = np.sin(x * rng.uniform(3, 20) + y * rng.uniform(3, 20) + rng.uniform(0, 6))
    return np.clip(waves[..., None] * rng.uniform(30, 110, 3) + 128 + rng.normal(0, 3, (SIDE, SIDE, 3)), 0, 255).astype(
        np.uint8
    )


class Painter:
    """A model whose image is a function of the request; `fault` says which accident a request has."""

    def __init__(self, fault: Callable[[Request], str | None] = lambda request: None) -> None:
        self.fault = fault
        self.batches: list[list[Request]] = []
        self.prepared: list[list[str]] = []

    def prepare(self, texts: Sequence[str], negatives: Sequence[str]) -> None:
        self.prepared.append(list(texts))

    def sample(self, requests: Sequence[Request]) -> Sampled:
        self.batches.append(list(requests))
        faults = [self.fault(request) for request in requests]
        if "raises" in faults:
            raise ValueError(f"cannot draw\n{requests[faults.index('raises')].prompt}")
        images = [paint(request.seed) for request in requests]
        for image, fault in zip(images, faults, strict=True):
            if fault in ("nan", "black", "flagged"):
                image[:] = 0
            elif fault == "blank":
                image[:] = (200, 180, 90)
            elif fault == "flat":
                image[SIDE // 2 :] = 128
        return Sampled(
            np.stack(images),
            np.array([fault != "nan" for fault in faults]),
            np.array([fault == "flagged" for fault in faults]),
            wait=lambda timeout_s: None,
        )


def sometimes(share: float, salt: str = "") -> Callable[[Request], str | None]:
    """Accidents of every kind in `share` of all draws, as a function of the seed."""

    def fault(request: Request) -> str | None:
        number = int.from_bytes(hashlib.blake2b(f"{salt}{request.seed}".encode(), digest_size=8).digest(), "big")
        if number / 2**64 >= share:
            return None
        return ("nan", "black", "flagged", "blank", "flat")[number % 5]

    return fault


def job(out: Path, **fields: Any) -> UnitJob:
    defaults: dict[str, Any] = {
        "out": str(out),
        "fingerprint": FINGERPRINT,
        "num_per_class": {one.id: one.count for one in CLASSES},
        "seed": 11,
        "sampler": SamplerSpec(model="painter", size_px=SIDE, batch=8, licence="CC0-1.0", negative="blurry"),
        "model_digest": "d" * 64,
        "shards": ShardSpec(samples_per_shard=20, max_draws=4),
    }
    return UnitJob(**{**defaults, **fields})


def worker(
    out: Path, model: Any = None, templates: tuple[str, ...] | None = None, negative: str = "", **fields: Any
) -> UnitWorker:
    store = open_store(str(out))
    assert isinstance(store, FolderStore)
    table = out / META / "prompts.parquet"
    table.parent.mkdir(exist_ok=True)
    prompts = PromptSpec(
        kind="template", templates=templates or ("a {name}", "one {name}", "{name} on paper"), negative=negative
    )
    write_prompts(CLASSES, {}, prompts, 3, Sources(load_lexicon("general")), table)
    return UnitWorker(job(out, **fields), model or Painter(), PromptTable.load(table), store)


def no_beat(done: int, rejected: int) -> None:
    pass
