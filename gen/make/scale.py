"""A scale of a data set that is made: its name, and its samples as a subset.

In: a plan, a scale, the records of its shards. Out: nothing. On disk, under `_meta/`: `subsets/6x.parquet` and the
like, exactly the samples of a scale.
"""

import contextlib
from collections.abc import Mapping
from fractions import Fraction

import pyarrow as pa
import pyarrow.compute as pc

from cluster.recipes.load import fingerprint
from gen.make.plan import Plan
from shards.disk.layout import SUCCESS
from shards.disk.object_store import ObjectStore
from shards.disk.record import JSON, Record
from shards.disk.store import FolderStore
from shards.set.manifest import iter_tables, read_subset, write_subset

Store = FolderStore | ObjectStore
MAX_DIGITS = 18  # behind the point of a scale


def scale_name(scale: Fraction) -> str:
    """`6x`, `0.5x`: as people write it, and the name of the subset; exact, so two scales never share one. Raises
    ValueError for a scale that no decimal number is."""
    digits = 0
    while (shifted := scale * 10**digits).denominator != 1:
        digits += 1
        if digits > MAX_DIGITS:
            raise ValueError(f"scale: found {scale}, expected at most {MAX_DIGITS} digits behind the point")
    whole, rest = divmod(shifted.numerator, 10**digits)
    return f"{whole}.{rest:0{digits}d}x" if digits else f"{whole}x"


def write_scale(store: Store, plan: Plan, scale: Fraction, records: Mapping[int, Record]) -> None:
    """The subset of exactly this scale: the successes among the leading slots of its shards."""
    slots = dict(plan.subset(scale))
    name = scale_name(scale)
    rule: dict[str, JSON] = {
        "scale": name,
        "images": plan.num_samples(scale),
        "tables": fingerprint({str(unit): records[unit].parquet.sha256 for unit in slots}),
    }
    with contextlib.suppress(ValueError):  # not there yet, or torn: it is written anew
        if read_subset(store, name)[1] == rule:
            return
    parts = []
    tables = iter_tables(store, {unit: records[unit] for unit in slots}, ["uid", "key", "shard", "status"])
    for num_slots, table in zip(slots.values(), tables, strict=True):
        slot = pc.cast(pc.utf8_slice_codeunits(table["key"], 5), pa.int32())  # a key is the shard, then the slot
        parts.append(table.filter(pc.and_(pc.less(slot, num_slots), pc.equal(table["status"], SUCCESS))))
    write_subset(store, name, pa.concat_tables(parts), rule)
