"""Puts damaged shards and files of `_meta` aside, so that the same `generate` makes exactly these again.

In: a store and the `Report` of `verify`. Out: where each file went. On disk: record, tar and table of a damaged
shard, and damaged files below `_meta`, move to `_meta/quarantine/NNNNNN/`, beside a `reason.json`; other files stay. No
run may write meanwhile. A table that its tar alone gives is written again before that (`shards.set.rebuild`).
"""

from collections.abc import Mapping

from shards.disk.layout import record_name, table_name, tar_name
from shards.disk.record import RecordError, read_record
from shards.disk.store import Store
from shards.set.manifest import SUBSETS
from shards.set.quarantine import set_aside
from shards.set.verify import Report


def tables_alone(report: Report) -> list[int]:
    """The shards of which nothing but the table is missing or damaged."""
    wrong: dict[int, set[tuple[str | None, str]]] = {}
    for one in report.damages:
        if one.shard is not None:
            wrong.setdefault(one.shard, set()).add((one.member, one.kind))
    return sorted(
        shard
        for shard, found in wrong.items()
        if all(member == table_name(shard) and kind in ("file", "size", "hash") for member, kind in found)
    )


def repair(store: Store, report: Report) -> Mapping[int, list[str]]:
    """Put the damaged shards of the report aside; shard -> new names of its files, if it has any. A shard that had no
    record when it was looked at, and has one now, is done: it stays."""
    moved = {}
    for shard in report.damaged_shards():
        kinds = {damage.kind for damage in report.damages if damage.shard == shard}
        if kinds == {"unpublished"} and _is_published(store, shard):
            continue
        reason = "; ".join(str(damage) for damage in report.damages if damage.shard == shard)
        # the record first: without it the unit is not done, whatever happens to the rest
        names = [record_name(shard), table_name(shard), tar_name(shard)]
        new_names = set_aside(store, [name for name in names if store.exists(name)], reason[:10_000])
        if new_names:
            moved[shard] = new_names
    return moved


def _is_published(store: Store, shard: int) -> bool:
    """A link or a folder in the record's place is none."""
    try:
        return read_record(store, shard) is not None
    except (RecordError, OSError):
        return False


def repair_meta(store: Store, report: Report) -> Mapping[str, list[str]]:
    """Put damaged files below `_meta` aside; file -> new names of what was there. The two of a subset go together."""
    moved = {}
    for damage in report.damages:
        if damage.kind != "meta" or damage.member is None:
            continue
        names = [damage.member]
        if damage.member.startswith(f"{SUBSETS}/"):
            names.append(damage.member.removesuffix(".json") + ".parquet")
        there = [name for name in names if store.exists(name)]
        if there:
            moved[damage.member] = set_aside(store, there, damage.message)
    return moved
