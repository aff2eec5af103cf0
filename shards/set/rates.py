"""What the records of a data set say of the next run: images a second of a worker, their spread, bytes of an image.

In: records. Out: `Rates`. On disk: nothing.
"""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from shards.disk.record import Record

MIN_SHARDS = 3
SLOW = 2 / 3  # a shard that was made at less than this share of the median rate is slow
TO_DEVIATION = 1.4826  # of a normal distribution: standard deviation over median absolute deviation


@dataclass(frozen=True)
class Rates:
    """How shards were made, one at a time by one worker."""

    images_per_s: float  # of one worker; the median shard
    spread: float  # standard deviation over that, without slow shards
    slow: float  # share of the shards that took far longer
    image_bytes: float  # tar and table, an image
    images_per_shard: int  # the median
    shards: int


def rates_of(records: Iterable[Record]) -> Rates | None:
    """The rates of the shards; None if there are fewer than MIN_SHARDS, for nobody can tell then."""
    used = [record for record in records if record.successes and record.duration > 0]
    if len(used) < MIN_SHARDS:
        return None
    rates = [record.successes / record.duration for record in used]
    middle = statistics.median(rates)
    usual = [rate for rate in rates if rate >= SLOW * middle]
    deviation = TO_DEVIATION * statistics.median(abs(rate - middle) for rate in usual)
    num_bytes = sum(record.tar.bytes + record.parquet.bytes for record in used)
    return Rates(
        images_per_s=middle,
        spread=deviation / middle,
        slow=1 - len(usual) / len(rates),
        image_bytes=num_bytes / sum(record.successes for record in used),
        images_per_shard=round(statistics.median(record.slots for record in used)),
        shards=len(used),
    )
