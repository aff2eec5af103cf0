"""The samples that a subset names, shard by shard: all of them, or an error.

In: a store, a subset's name or its list, tables of shards. Out: uids by shard, rows. On disk: only reads; the files of
a subset are those of shards.set.manifest.

Shards may be gone, or made anew, since a subset was chosen. Whoever left out what is not there would read another
subset under its name; so every reader asks here.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from shards.disk.layout import SUCCESS, shard_name
from shards.disk.store import Store
from shards.set.manifest import iter_tables, read_subset, scan_records
from shards.set.status import refuse_missing

Subset = Mapping[int, frozenset[str]]  # shard -> uids


def subset_of(samples: pa.Table) -> Subset:
    """The samples of a stored subset (columns uid and shard), by shard."""
    uids: dict[int, set[str]] = {}
    for shard, uid in zip(samples["shard"].to_pylist(), samples["uid"].to_pylist(), strict=True):
        uids.setdefault(shard, set()).add(uid)
    return {shard: frozenset(found) for shard, found in uids.items()}


def named_subset(store: Store, name: str | None) -> Subset | None:
    """The samples of a stored subset; None, which stands for all of them, without a name."""
    return None if name is None else subset_of(read_subset(store, name)[0])


def lost_shards(shards: Iterable[int], records: Container[int]) -> dict[int, str]:
    """Shard -> one line, of the shards of a subset that have no record."""
    return {
        shard: f"names shard {shard_name(shard)}, which has no record; run the command that makes the set to its end"
        for shard in sorted(shards)
        if shard not in records
    }


def refuse_lost(where: str, shards: Iterable[int], records: Container[int]) -> None:
    """Raises ValueError if one of the shards of a subset has no record; `where`: the subset."""
    for line in lost_shards(shards, records).values():
        raise ValueError(f"{where}: {line}")


def chosen_rows(table: pa.Table, shard: int, subset: Subset | None) -> pa.Table:
    """The rows of one shard that are in the subset; without a subset all rows, rejected draws included.

    Raises ValueError if one of the subset's samples is not among them.
    """
    if subset is None:
        return table
    wanted = subset.get(shard, frozenset())
    is_wanted = pc.is_in(table["uid"], value_set=pa.array(sorted(wanted), pa.string()))
    rows = table.filter(pc.and_(is_wanted, pc.equal(table["status"], SUCCESS)))
    if len(rows) != len(wanted):
        raise ValueError(
            f"shard {shard_name(shard)}: found {len(rows):,} of the {len(wanted):,} samples that the subset names, "
            "expected all; run `sixfold verify`, or write the subset again under another name"
        )
    return rows


def iter_samples(store: Store, subset: str | None, columns: Sequence[str], field: str) -> Iterator[pa.Table]:
    """The samples of a data set, or of a subset of it, a table for each shard; no rejected draws. `columns` have uid
    and status among them.

    Raises ValueError as `scan_records` and `read_subset` do, for a subset that is not all there, and for a set that is
    not finished where no subset is named; `field`: who asks.
    """
    records = scan_records(store)
    chosen = named_subset(store, subset)
    if chosen is None:
        refuse_missing(store, field)
    else:
        refuse_lost(f"{store.url}: subset {subset}", chosen, records)
        records = {shard: records[shard] for shard in sorted(chosen)}
    for shard, table in zip(records, iter_tables(store, records, columns), strict=True):
        rows = chosen_rows(table, shard, chosen)
        yield rows.filter(pc.equal(rows["status"], SUCCESS))
