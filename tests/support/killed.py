"""A folder as a kill leaves it: made from one that is whole."""

from pathlib import Path

from shards.disk.layout import record_name, shard_name, table_name, tar_name
from shards.disk.store import CLAIMS, TMP, open_for_reading
from shards.set.manifest import scan_records


def leave_claims_alone(folder: Path) -> None:
    """Takes every shard back to the moment behind its claim: tar and table are temporaries, no record is published."""
    for shard, record in scan_records(open_for_reading(str(folder))).items():
        stem = folder / TMP / f"{shard_name(shard)}.{record.attempt}"
        (folder / tar_name(shard)).rename(f"{stem}.tar")
        (folder / table_name(shard)).rename(f"{stem}.parquet")
        (folder / record_name(shard)).rename(folder / CLAIMS / f"{shard_name(shard)}.json")
