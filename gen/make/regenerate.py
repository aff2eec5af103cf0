"""Makes published images again and compares them: this proves that a shard is what its rows say.

In: a worker (Maker, store), shards and keys, or records. Out: one `Comparison` per image. On disk: nothing is written.

Whole batches are made again, by the rows' ``batch`` column, because another batch shape rounds differently. On a CPU of
the same kind, with the same library versions and number of threads, the JPEG bytes are equal; the record says on which
device a shard was made. On a GPU other kernels may be chosen, and another CPU has other instructions, so there, and
where an earlier version wrote no device, the mean absolute difference of the pixels decides.
"""

import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import pyarrow.compute as pc

from gen.make.maker import Sample
from gen.make.refill import DEADLINE_S, UnitWorker
from gen.make.slots import Draw
from shards.disk.jpeg import decode_jpeg
from shards.disk.layout import SUCCESS
from shards.disk.record import Record, read_record
from shards.set.manifest import read_member, read_table


@dataclass(frozen=True)
class Comparison:
    """A stored image against the same one made again."""

    key: str
    same_bytes: bool
    mean_difference: float  # of pixel values, 0..255; 0 for the same bytes
    is_exact: bool  # made, and made again, on a CPU of the same kind: then the bytes must be the same


def regenerate(worker: UnitWorker[Sample], unit: int, keys: Sequence[str]) -> dict[str, bytes]:
    """Key -> JPEG, made again.

    Raises ValueError if a key is no success of shard ``unit``, or if the Maker has no image for it any more.
    """
    rows = read_table(worker.store, [unit], ["key", "uid", "status", "draw", "batch"]).to_pylist()
    batch_of = {row["key"]: row["batch"] for row in rows if row["status"] == SUCCESS}
    unknown = [key for key in keys if key not in batch_of]
    if unknown:
        raise ValueError(f"shard {unit}: found no success with key {unknown[0]!r}, expected keys of its table")
    maker, wanted, made = worker.maker, set(keys), {}
    samples = maker.samples(unit)
    maker.prepare(samples)
    draws = range(1 + max((row["draw"] for row in rows), default=0))
    draw_of = {
        maker.row(sample, draw)["uid"]: Draw(slot, draw)
        for slot, sample in enumerate(samples)
        for draw in draws[: worker.num_draws(sample)]
    }
    for batch in sorted({batch_of[key] for key in keys}):
        members = sorted((draw_of[row["uid"]], row["key"]) for row in rows if row["batch"] == batch)
        call = maker.make([(samples[draw.slot], draw.draw) for draw, _ in members], lambda share: None)
        call.wait(DEADLINE_S)
        for place, (_, key) in enumerate(members):
            if key in wanted:
                picture = call.picture(place)
                if picture.image_HWC is None:
                    raise ValueError(f"shard {unit}, key {key}: found no image any more ({picture.error})")
                made[key] = picture.jpeg or worker.encode(picture.image_HWC)
    return made


def compare(worker: UnitWorker[Sample], unit: int, made: Mapping[str, bytes]) -> list[Comparison]:
    """The stored images of shard ``unit`` against ``made``. Raises ValueError if a stored one is damaged."""
    rows = {row["key"]: row for row in read_table(worker.store, [unit]).to_pylist()}
    record, here = read_record(worker.store, unit), worker.job.extra.get("device", "")
    is_exact = here.startswith("cpu, ") and record is not None and record.extra.get("device") == here
    comparisons = []
    for key, jpeg in sorted(made.items()):
        stored = read_member(worker.store, rows[key])
        apart = np.abs(decode_jpeg(stored).astype(np.int16) - decode_jpeg(jpeg).astype(np.int16))
        comparisons.append(Comparison(key, stored == jpeg, float(apart.mean()), is_exact))
    return comparisons


def regenerate_some(worker: UnitWorker[Sample], records: Mapping[int, Record], num: int, seed: int) -> list[Comparison]:
    """``num`` successes drawn by ``seed`` from shards with these records (all, if there are fewer), made again and
    compared. Reads the tables of their shards alone."""
    shards = sorted(records)
    ends = list(accumulate(records[shard].successes for shard in shards))
    total = ends[-1] if ends else 0
    chosen: dict[int, list[int]] = {}  # shard -> which of its successes, in the order of their keys
    for drawn in sorted(random.Random(seed).sample(range(total), min(num, total))):
        place = bisect_right(ends, drawn)
        chosen.setdefault(shards[place], []).append(drawn - (ends[place - 1] if place else 0))
    comparisons = []
    for shard, numbers in chosen.items():
        table = read_table(worker.store, [shard], ["key", "status"])
        keys = sorted(table.filter(pc.equal(table["status"], SUCCESS))["key"].to_pylist())
        comparisons += compare(worker, shard, regenerate(worker, shard, [keys[number] for number in numbers]))
    return comparisons
