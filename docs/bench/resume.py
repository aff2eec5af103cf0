"""C6: what it costs to find out what is done, for ten million images.

In: a folder of 10,000 shards with really written records. Out: CPU and wall milliseconds of the scan, with and without
the ledger, beside one `isfile` per image. On disk: the shards and 100,000 empty files, removed again.
"""

import os
import statistics
import tempfile
from pathlib import Path

import numpy as np

from docs.bench.measure import Line, Result, Side, Size, Timed, alternate
from shards.disk.jpeg import encode_jpeg
from shards.disk.layout import sample_key
from shards.disk.store import FolderStore, open_store
from shards.set.ledger import LEDGER
from shards.set.manifest import scan_records
from shards.set.writer import ShardWriter

SAMPLES_PER_SHARD = 1000  # of the data set that is meant; those written here have one
FINGERPRINT = "0" * 64
LEDGERED, COLD, ISFILE = "sixfold, with the ledger", "sixfold, ledger deleted", "os.path.isfile per image"


def measure(size: Size) -> Result:
    num_shards, num_files = (40, 200) if size.quick else (10_000, 100_000)
    with tempfile.TemporaryDirectory(dir=size.scratch) as scratch:
        store = open_store(f"{scratch}/shards")
        assert isinstance(store, FolderStore)
        _write_shards(store, num_shards)
        names = _write_empty_files(Path(scratch) / "images", num_files)

        def ledgered(folder: Path) -> int:
            return len(_todo(store, num_shards))

        def cold(folder: Path) -> int:
            store.delete(LEDGER)
            return len(_todo(store, num_shards))

        def one_by_one(folder: Path) -> int:
            return sum(os.path.isfile(name) for name in names)

        # the scan without a ledger writes it, so each scan with one follows
        sides: dict[str, Side] = {COLD: cold, LEDGERED: ledgered, ISFILE: one_by_one}
        timed = alternate(sides, size)
    scale = {COLD: num_shards, LEDGERED: num_shards, ISFILE: num_shards * SAMPLES_PER_SHARD}
    lines = [_line(name, timed[name], scale[name]) for name in (LEDGERED, COLD, ISFILE)]
    seconds = statistics.median(lines[0].figures["wall s"])
    return Result(
        title=f"what is done, of {num_shards * SAMPLES_PER_SHARD:,} images",
        method=f"{num_shards:,} shards written by the product's own code, planned minus recorded. They hold one sample "
        f"instead of {SAMPLES_PER_SHARD:,}: the scan reads records and sizes only, and a record does not grow with its "
        f"samples. `isfile` is timed on {num_files:,} files that exist, 1,000 to a folder, and scaled by "
        f"{num_shards * SAMPLES_PER_SHARD // num_files}. All on a local disk with a warm cache; on a network disk each "
        "look is a round trip, three a shard here and one an image there.",
        anchor="29 s for 10 M images by `isfile` (0.29 s per 100,000, local disk)",
        predicted="below 1 s with the ledger: 30,000 looks at files (0.1 s) and 10,000 lines of JSON (0.3 s)",
        lines=lines,
        ratio_of="CPU s",
        verdicts=[size.judge("at most 1 s for 10 M images", f"{seconds:.2f} s", seconds <= 1)],
    )


def _todo(store: FolderStore, num_shards: int) -> range:
    """The first thing a resumed run does: planned minus recorded. Returns the units, all of which must be done."""
    records = scan_records(store, FINGERPRINT)
    todo = [unit for unit in range(num_shards) if unit not in records]
    if todo:
        raise RuntimeError(f"C6: found {len(todo)} shards not done, expected none")
    return range(num_shards)


def _line(name: str, timed: Timed, items: int) -> Line:
    seconds = {"CPU s": timed.cpu_ms, "wall s": timed.wall_ms}
    return Line(name, {column: tuple(one * items / 1e3 for one in samples) for column, samples in seconds.items()})


def _write_shards(store: FolderStore, num: int) -> None:
    jpeg = encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    for shard in range(num):
        row = {
            "key": sample_key(shard, 0), "uid": f"{shard:032x}", "status": "success", "domain": "synthetic",
            "class_id": 0, "class_name": "crane", "caption": "a crane", "width": 8, "height": 8,
        }  # fmt: skip
        with ShardWriter(store, shard, f"bench-{shard}", FINGERPRINT) as writer:
            writer.add(row, jpeg)
            writer.commit(0.0, 1.0, {"code": FINGERPRINT, "torch": "2.13.0", "batches": 32})


def _write_empty_files(folder: Path, num: int) -> list[str]:
    names = []
    for number in range(num):
        inside = folder / f"{number // 1000:05d}"
        if number % 1000 == 0:
            inside.mkdir(parents=True)
        (inside / f"{number:08d}.png").touch()
        names.append(str(inside / f"{number:08d}.png"))
    return names
