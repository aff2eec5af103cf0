"""The status of a set that grows: how fast it does is told by its records, and by nothing that started before them."""

from dataclasses import replace
from pathlib import Path

import pytest

from shards.disk.checked_json import to_checked
from shards.disk.record import FileStamp, Record
from shards.disk.store import FolderStore
from shards.set.manifest import read_table, scan_records, write_subset
from shards.set.quarantine import set_aside
from shards.set.status import PACE_S, SUMMARY, Pace, pace_of, refuse_unfinished, status_of
from shards.set.subset import iter_samples
from tests.support.small_data_set import write_data_set


def record(shard: int, start: float, end: float, images: int = 100, life: str = "t1-a") -> Record:
    stamp = FileStamp(bytes=1, sha256="0" * 64)
    return Record(
        shard=shard, attempt=f"{life}-{shard + 1}", fingerprint="f" * 64, tar=stamp, parquet=stamp, count=images,
        successes=images, slots=images, status_dict={"success": images}, start_time=start, end_time=end, extra={},
    )  # fmt: skip


def test_no_shard_has_no_pace() -> None:
    assert pace_of([]) is None
    assert pace_of([record(0, 5.0, 5.0)]) is None, "a clock that stood still says nothing"


def test_a_pace_is_what_was_done_between_the_first_start_and_the_last_end() -> None:
    assert pace_of([record(0, 10, 30), record(1, 30, 50)]) == Pace(5.0, 1.0, 2)
    assert pace_of([record(shard, 10 * (shard // 2), 10 * (shard // 2 + 1)) for shard in range(6)]) == Pace(
        20.0, 2.0, 6
    )


def test_only_the_last_life_counts_however_long_nobody_worked_before_it() -> None:
    before = [record(shard, 10 * shard, 10 * shard + 10, life="t0-z") for shard in range(5)]
    assert pace_of([*before, record(5, 9_000, 9_020)]) == Pace(5.0, 1.0, 1)


def test_a_long_life_is_judged_by_its_last_ten_minutes() -> None:
    """Slow at first, then ten times as fast."""
    slow = [record(shard, 100 * shard, 100 * shard + 100) for shard in range(100)]
    fast = [record(100 + shard, 10_000 + 10 * shard, 10_010 + 10 * shard) for shard in range(90)]
    found = pace_of([*slow, *fast])
    assert found == Pace(10.0, 1.0, int(PACE_S / 10))


def test_shards_that_take_longer_than_that_are_judged_by_the_last_three() -> None:
    assert pace_of([record(shard, 3_600 * shard, 3_600 * shard + 3_600) for shard in range(9)]) == Pace(1 / 36, 1.0, 3)


@pytest.mark.parametrize("end", [1e308, 1e30, -1e308])
def test_a_clock_that_tells_nonsense_makes_no_pace_and_no_fault(end: float) -> None:
    assert pace_of([record(0, 0, 10), record(1, -1e308, end)]) is None
    pace_of([record(0, 0, 10), record(1, 1e308, end)])


def test_a_status_tells_rate_time_left_and_what_the_writer_says(tmp_path: Path) -> None:
    store = write_data_set(tmp_path, num_shards=2, num_slots=10, num_rejected=0)
    store.replace(SUMMARY, to_checked({"scale": "6x", "asked": {"images": 80, "units": 8}, "exit_code": None}))
    for shard, one in scan_records(store).items():
        changed = replace(one, attempt=f"t1-a-{shard}", start_time=20.0 * shard, end_time=20.0 * shard + 20)
        store.replace(f"{shard:05d}_stats.json", changed.to_bytes())
    state = status_of(store, "host a, pid 1", "20/80 images · 0.5/s · 2m00s left")
    assert "\nrate      0.5 images/s, 1 shard at a time, by the last 2 shards\n" in state.text
    assert "\nleft      about 120 s at that rate\n".replace("120 s", "2.0 min") in state.text
    assert "\nimages    20, in shards that are done\n" in state.text
    told = "20/80 images · 0.5/s · 2m00s left (since its start, unfinished shards included)"
    assert f"\nthis call {told}" in state.text
    assert state.line == (
        "2 of 8 shards done with 20 images; 0.5 images/s; about 2.0 min left; "
        "this call: 20/80 images · 0.5/s · 2m00s left"
    )
    ended = status_of(store, None)
    assert "at that rate" not in ended.text, "nobody works at it"
    assert "rate      0.5 images/s" in ended.text


def test_a_place_where_a_run_is_about_to_begin_has_a_status_and_is_not_whole(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    state = status_of(store, "host a, pid 1", "choosing meanings of 10 names (3 s)")
    assert state.text.splitlines()[0] == "shards    0 done, 0 damaged"
    assert "\nthis call choosing meanings of 10 names (3 s)" in state.text
    assert not state.is_whole
    with pytest.raises(ValueError, match="found no shards, expected a data set"):
        status_of(store, None)


def test_what_a_writer_says_is_shown_and_never_obeyed(tmp_path: Path) -> None:
    state = status_of(write_data_set(tmp_path), "host a", "\x1b[2J\nwriter    nobody now")
    assert "this call ⟨U+001B⟩[2J⟨U+000A⟩writer    nobody now" in state.text
    assert "\x1b" not in state.line


def test_a_smaller_scale_asked_later_makes_no_whole_set_of_what_a_larger_one_left(tmp_path: Path) -> None:
    store = write_data_set(tmp_path, num_shards=6, num_slots=5, num_rejected=0)
    rows = read_table(store, [0], ["uid", "key", "shard"])
    write_subset(store, "1x", rows, {"scale": "1x"})
    for shard in (2, 4):
        set_aside(store, [f"{shard:05d}{end}" for end in ("_stats.json", ".tar", ".parquet")], "never made")
    store.replace(SUMMARY, to_checked({"scale": "1x", "asked": {"images": 5, "units": 1}, "exit_code": 0}))
    words = "found 4 of the 6 shards up to its last one, first missing 00002, expected all; run the command that made"
    with pytest.raises(ValueError, match=words):
        refuse_unfinished(store.url, "data.domains.real")
    with pytest.raises(ValueError, match=words):
        list(iter_samples(store, None, ["uid", "status"], "measure"))
    assert sum(map(len, iter_samples(store, "1x", ["uid", "status"], "measure"))) == 5
    state = status_of(store, None)
    assert not state.is_whole
    assert "\nlast call asked for 1 shard, 0 of them missing\n" in state.text
    assert "\ngaps      2 shards below the last one, of an earlier call: 00002, 00004\n" in state.text
    assert "\nto do     run the command that makes the set again, with the scale of the earlier call" in state.text


def test_a_larger_scale_that_was_finished_is_whole_whatever_is_asked_later(tmp_path: Path) -> None:
    store = write_data_set(tmp_path, num_shards=3, num_slots=5, num_rejected=0)
    store.replace(SUMMARY, to_checked({"scale": "1x", "asked": {"images": 5, "units": 1}, "exit_code": 0}))
    refuse_unfinished(store.url, "data.domains.real")
    assert status_of(store, None).is_whole
