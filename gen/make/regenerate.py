"""Make published images again and compare: the proof that a shard is what its rows say.

In: a worker (plan, prompts, loaded model, store), shards and keys. Out: one `Comparison` per image; nothing is written.

Whole batches are made again, from the rows' ``batch`` column, because another batch shape rounds differently.
On a CPU with the same library versions and thread count the JPEG bytes are equal; on a GPU, where kernels may be
chosen anew, the mean absolute difference of the pixels is what counts.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gen.make.slots import Draw
from gen.make.unit import DEADLINE_S, UnitWorker
from shards.disk.jpeg import decode_jpeg
from shards.disk.layout import SUCCESS
from shards.set.manifest import read_member, read_table


@dataclass(frozen=True)
class Comparison:
    """A stored image against the same one made again."""

    key: str
    same_bytes: bool
    mean_difference: float  # of pixel values, 0..255; 0 for the same bytes


def regenerate(worker: UnitWorker, unit: int, keys: Sequence[str]) -> dict[str, bytes]:
    """Key -> JPEG, made again. Raises ValueError if a key is no success of shard ``unit``."""
    columns = ["key", "status", "class_id", "prompt_id", "replicate", "draw", "batch"]
    rows = read_table(worker.store, [unit], columns).to_pylist()
    batch_of = {row["key"]: row["batch"] for row in rows if row["status"] == SUCCESS}
    unknown = [key for key in keys if key not in batch_of]
    if unknown:
        raise ValueError(f"shard {unit}: found no success with key {unknown[0]!r}, expected keys of its table")
    samples = worker.plan.unit(unit).samples
    slot_of = {(sample.class_id, sample.prompt_id, sample.replicate): sample.slot for sample in samples}
    prompts = worker.prepare(samples)
    wanted, made = set(keys), {}
    for batch in sorted({batch_of[key] for key in keys}):
        members = sorted(
            (Draw(slot_of[row["class_id"], row["prompt_id"], row["replicate"]], row["draw"]), row["key"])
            for row in rows
            if row["batch"] == batch
        )
        requests = [worker.request(samples[draw.slot], prompts, draw.draw) for draw, _ in members]
        sampled = worker.model.sample(requests)
        sampled.wait(DEADLINE_S)
        for place, (_, key) in enumerate(members):
            if key in wanted:
                made[key] = worker.encode(sampled.image_NHWC[place])
    return made


def compare(worker: UnitWorker, unit: int, made: Mapping[str, bytes]) -> list[Comparison]:
    """The stored images of shard ``unit`` against ``made``. Raises ValueError if a stored one is damaged."""
    rows = {row["key"]: row for row in read_table(worker.store, [unit]).to_pylist()}
    comparisons = []
    for key, jpeg in sorted(made.items()):
        stored = read_member(worker.store, rows[key])
        apart = np.abs(decode_jpeg(stored).astype(np.int16) - decode_jpeg(jpeg).astype(np.int16))
        comparisons.append(Comparison(key, stored == jpeg, float(apart.mean())))
    return comparisons


def regenerate_some(worker: UnitWorker, shards: Sequence[int], num: int, seed: int) -> list[Comparison]:
    """``num`` successes drawn from ``shards`` by ``seed`` (all, if there are fewer), made again and compared."""
    rows = read_table(worker.store, shards, ["key", "status", "shard"]).to_pylist()
    keys = sorted((row["shard"], row["key"]) for row in rows if row["status"] == SUCCESS)
    chosen: dict[int, list[str]] = {}
    for shard, key in sorted(random.Random(seed).sample(keys, min(num, len(keys)))):
        chosen.setdefault(shard, []).append(key)
    return [
        comparison
        for shard, wanted in chosen.items()
        for comparison in compare(worker, shard, regenerate(worker, shard, wanted))
    ]
