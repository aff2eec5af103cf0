"""The caption pool on disk, as img2dataset leaves a downloaded part of LAION: tars of pictures, a table beside each.

In: rows of the pool (`sandbox.captions`). Out: how many there are. On disk, of 1,000 rows each:

    00000.tar      000000000.jpg, .txt (the caption) and .json (URL, caption) of each row
    00000.parquet  LAION's columns, `key` and `sha256` of the picture, then the scene and what was planted; it is
                   written last, and a shard that has it is not made again. Its schema carries a digest of the rows
                   and of the code that draws them, so that a pool of an earlier sandbox is told

The same rows give the same bytes. Shards are drawn by as many processes as there are cores.
"""

import hashlib
import io
import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sandbox import world
from sandbox.captions import PoolRow
from shards.disk.jpeg import encode_jpeg
from shards.disk.layout import sample_key, shard_name
from shards.disk.regular import sha256_of
from shards.disk.replace import replace_file
from shards.disk.tar import header, padding, trailer

ROWS_PER_SHARD = 1_000
MADE_OF = b"sandbox.made_of"  # key of the schema's metadata
DRAWN_BY = (Path(__file__), Path(world.__file__))
DEADLINE_S = 3_600.0  # for all shards; two cores take two minutes
# LAION's column names first, then those of img2dataset, then the scene and what was planted (the truth for tests).
POOL_SCHEMA = pa.schema(
    [
        ("URL", pa.string()),
        ("TEXT", pa.string()),
        ("WIDTH", pa.int32()),
        ("HEIGHT", pa.int32()),
        ("LANGUAGE", pa.string()),
        ("NSFW", pa.string()),
        ("similarity", pa.float32()),  # null until a CLIP measures it
        ("punsafe", pa.float32()),
        ("pwatermark", pa.float32()),
        ("hash", pa.int64()),
        ("key", pa.string()),
        ("sha256", pa.string()),
        ("sense", pa.string()),
        ("class_id", pa.int32()),
        ("scan", pa.int32()),
        ("ink", pa.string()),
        ("paper", pa.string()),
        ("ground", pa.string()),
        ("light", pa.string()),
        ("style", pa.string()),
        ("seed", pa.int64()),
        ("wear", pa.float32()),
        ("kind", pa.string()),
        ("duplicate_of", pa.int32()),
        ("near_test", pa.int32()),
    ]
)


def write_pool(folder: Path, rows: Sequence[PoolRow], say: Callable[[str], None]) -> int:
    """Write the shards that are not there yet; `say` gets progress lines. Returns the number of rows.

    Raises ValueError if a shard that is there was made of other rows, or by other code.
    """
    folder.mkdir(parents=True, exist_ok=True)
    todo = []
    for start in range(0, len(rows), ROWS_PER_SHARD):
        table = folder / f"{_name(start)}.parquet"
        if not table.exists():
            todo.append(start)
        elif _told_by(table) != made_of(start, rows[start : start + ROWS_PER_SHARD]):
            raise ValueError(
                f"{table}: found a shard of another sandbox, expected one of today's rows and pictures; remove "
                f"{folder} with the vectors in it, and run the same command again"
            )
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(todo), os.cpu_count() or 1) or 1, context) as processes:
        shards = [processes.submit(write_shard, folder, start, rows[start : start + ROWS_PER_SHARD]) for start in todo]
        for number, shard in enumerate(as_completed(shards, timeout=DEADLINE_S), start=1):
            shard.result(timeout=0)
            if number % 10 == 0 or number == len(shards):
                say(f"pool: {number} of {len(shards)} shards")
    return len(rows)


def made_of(start: int, rows: Sequence[PoolRow]) -> str:
    """Hex sha256 of what a shard depends on: its first row's number, its rows, the code that draws and writes them."""
    return hashlib.sha256(repr((start, list(rows), [sha256_of(file) for file in DRAWN_BY])).encode()).hexdigest()


def _told_by(table: Path) -> str:
    """`made_of` of a shard that is there; "" if it does not say."""
    try:
        return (pq.read_schema(table).metadata or {}).get(MADE_OF, b"").decode()
    except pa.ArrowInvalid:
        return ""


def write_shard(folder: Path, start: int, rows: Sequence[PoolRow]) -> None:
    """One tar and its table; `start` is the first row's number, a multiple of `ROWS_PER_SHARD`."""
    tar, lines = io.BytesIO(), []
    for place, row in enumerate(rows):
        number, key = start + place, sample_key(start // ROWS_PER_SHARD, place)
        url = f"sandbox://pool/{number:06d}.jpg"
        # a photograph of the world, not a generated image: no source-type note
        jpeg = encode_jpeg(world.render(row.scene), source_type=None)
        about = json.dumps({"url": url, "caption": row.caption, "key": key}, sort_keys=True).encode()
        for suffix, data in ((".jpg", jpeg), (".json", about), (".txt", row.caption.encode())):
            tar.write(header(key + suffix, len(data)) + data + padding(len(data)))
        digest = hashlib.blake2b(f"{number}/{row.caption}".encode(), digest_size=7).digest()
        lines.append(
            {
                "URL": url,
                "TEXT": row.caption,
                "WIDTH": 64,
                "HEIGHT": 64,
                "LANGUAGE": "en",
                "NSFW": "UNSURE" if row.punsafe > 0.5 else "UNLIKELY",
                "similarity": None,
                "punsafe": row.punsafe,
                "pwatermark": 0.0,
                "hash": int.from_bytes(digest, "big"),
                "key": key,
                "sha256": hashlib.sha256(jpeg).hexdigest(),
                **asdict(row.scene),
                "kind": row.kind,
                "duplicate_of": row.duplicate_of,
                "near_test": row.near_test,
            }
        )
    tar.write(trailer(tar.tell()))
    table = io.BytesIO()
    schema = POOL_SCHEMA.with_metadata({MADE_OF: made_of(start, rows)})
    pq.write_table(pa.Table.from_pylist(lines, schema=schema), table, compression="zstd")
    replace_file(folder / f"{_name(start)}.tar", tar.getvalue())
    replace_file(folder / f"{_name(start)}.parquet", table.getvalue())


def _name(start: int) -> str:
    return shard_name(start // ROWS_PER_SHARD)
