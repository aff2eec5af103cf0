"""What records say of the next run."""

import pytest

from shards.disk.record import FileStamp, Record
from shards.set.rates import rates_of


def record(shard: int, seconds: float, images: int = 100, **changes: object) -> Record:
    fields = {
        "shard": shard, "attempt": f"life-{shard}", "fingerprint": "0" * 64,
        "tar": FileStamp(bytes=30_000 * images, sha256="0" * 64),
        "parquet": FileStamp(bytes=5_000 * images, sha256="0" * 64),
        "count": images, "successes": images, "slots": 100, "status_dict": {"success": images},
        "start_time": 1000.0, "end_time": 1000.0 + seconds, "extra": {},
    }  # fmt: skip
    return Record(**{**fields, **changes})  # type: ignore[arg-type]


def test_rate_spread_and_size_come_from_the_shards() -> None:
    rates = rates_of([record(number, seconds) for number, seconds in enumerate((18.0, 20.0, 20.0, 20.0, 22.0, 50.0))])
    assert rates is not None
    assert rates.images_per_s == 5.0
    assert rates.slow == pytest.approx(1 / 6), "one took far longer than the others"
    assert rates.image_bytes == 35_000
    assert (rates.images_per_shard, rates.shards) == (100, 6)
    assert 0 <= rates.spread < 0.1


def test_a_spread_that_is_known_is_found_again() -> None:
    import random

    rng = random.Random(1)
    rates = rates_of([record(number, 100 / (5 * rng.gauss(1, 0.05))) for number in range(2000)])
    assert rates is not None
    assert rates.spread == pytest.approx(0.05, rel=0.1)
    assert rates.images_per_s == pytest.approx(5, rel=0.01)


def test_too_few_shards_and_clocks_that_stood_still_say_nothing() -> None:
    assert rates_of([]) is None
    assert rates_of([record(0, 5.0), record(1, 5.0)]) is None
    assert rates_of([record(number, 0.0) for number in range(9)]) is None
    assert rates_of([record(number, 5.0, successes=0) for number in range(9)]) is None
