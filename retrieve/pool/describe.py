"""What a pool has, what it lacks, and which command makes that; for people.

In: a `PoolSpec`. Out: lines. On disk: only reads; of the tables the columns that decide which rows may leave.
"""

import shlex
from collections.abc import Iterable
from pathlib import Path

from retrieve.pool.columns import KNOWN
from retrieve.pool.embeddings import FOLDERS, MODALITIES, Modality, open_embeddings, read_summary
from retrieve.pool.pool import Pool, open_pool
from retrieve.pool.spec import PoolSpec
from shards.disk.address import file_path
from shards.disk.amounts import counted, size_text
from shards.disk.safe_text import quoted

FETCHED = "none: `sixfold retrieve` fetches pictures by their addresses, with the img2dataset that `make tools` sets up"
WORDS: dict[Modality, str] = {"image": "pictures", "text": "captions"}


def describe(spec: PoolSpec) -> str:
    """Raises ValueError with one line for a folder that is no pool."""
    pool = open_pool(spec, with_vectors=False)
    known = pool.columns.names
    has = ", ".join(f"{role} = {quoted(name, 40)}" for role, name in known.items())
    lacks = ", ".join(role for role in KNOWN if role not in known) or "none"
    num_kept = int(pool.may_leave(0, pool.num_rows).sum())
    tables = size_text(_bytes(part.path for part in pool.parts))
    return "\n".join(
        [
            f"pool      {spec.source}",
            f"tables    {counted(len(pool.parts), 'table')} in {pool.parts[0].path.parent}, "
            f"{counted(pool.num_rows, 'row')}, {tables}",
            f"columns   {has}; not there: {lacks}",
            f"rows      {num_kept:,} may leave, {pool.num_rows - num_kept:,} are flagged, blocked or without success",
            f"tars      {_tars(pool)}",
            *(f"{WORDS[one]:<10}{_vectors(pool, one)}" for one in MODALITIES),
        ]
    )


def _tars(pool: Pool) -> str:
    if not pool.tars:
        return FETCHED if pool.columns.url else "none, and no addresses"
    found = f"{counted(len(pool.tars), 'tar')}, {size_text(_bytes(pool.tars.values()))}"
    return found if pool.columns.key else f"{found}; without a column of keys no picture is found in them"


def _vectors(pool: Pool, modality: Modality) -> str:
    folder = file_path(pool.spec.embeddings or pool.spec.source)
    flag = "--images" if modality == "image" else "--texts"
    command = f"`sixfold embed {shlex.quote(str(pool.spec.source))} --clip MODEL {flag}`"
    found = open_embeddings(folder, modality)
    if found is None:
        can = modality == "text" or pool.has_pictures
        return f"no vectors in {FOLDERS[modality]}/; " + (f"make them with {command}" if can else "they need tars")
    if found.num_rows != pool.num_rows:
        return (
            f"{found.num_rows:,} vectors for {counted(pool.num_rows, 'row')} in {FOLDERS[modality]}/: half a pool; go "
            f"on with {command}, or bring the missing files"
        )
    summary = read_summary(folder)
    model = "a model that no file names"
    if summary is not None and modality in summary["modalities"]:
        model = f"{quoted(str(summary['model']), 200)} (digest {str(summary['model_digest'])[:12]})"
    return f"{found.num_rows:,} vectors of {found.dim} numbers in {counted(len(found.files), 'file')}, made by {model}"


def _bytes(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)
