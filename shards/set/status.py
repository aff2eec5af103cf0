"""The status of a data set, from its records: sizes are compared, no image is read.

In: a store, and who writes there now. Out: a few lines for people, and whether the set is complete. On disk: reads the
records, and `_meta/summary.json`, which says what the last call was asked for and how it ended; whatever makes shards
writes that file before its first shard and at its end.

How fast a set grows is told by its records, which say when their shards were begun and done. Their times are those of
the machines that made them; a wrong clock among several makes the rate wrong, and nothing else.
"""

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shards.disk.amounts import counted, size_text, time_text
from shards.disk.checked_json import parse_checked, to_checked
from shards.disk.data_set import is_data_set, no_data_set
from shards.disk.layout import MAX_SHARDS, META, SUCCESS, shard_name
from shards.disk.record import Record
from shards.disk.safe_text import quoted, visible
from shards.disk.store import Store, open_for_reading
from shards.set.manifest import scan, scan_records

SUMMARY = f"{META}/summary.json"
MAX_SUMMARY_BYTES = 1 << 24
OF_A_TRAINING = "name a subset (a training's domain may also set grow to true)"
MAX_LISTED = 20  # shards in one line
PACE_S = 600.0  # of the records' time that a rate is taken over
MIN_SHARDS = 3  # or as long as these took
MAX_SECONDS = 1e9  # thirty years: clocks that differ by more say nothing


@dataclass(frozen=True)
class Status:
    """How far a data set is."""

    text: str  # a few lines
    line: str  # the same in one short line
    is_whole: bool  # no shard is known to be damaged or short; none of the last call or below the last one is missing


@dataclass(frozen=True)
class Pace:
    """How fast shards were made, when the last of them was."""

    images_per_s: float
    at_a_time: float  # shards
    shards: int  # that this was taken from


@dataclass(frozen=True)
class LastCall:
    """What the last call was asked for; `has_ended`: whether it came to its end and said how."""

    scale: str
    units: range
    has_ended: bool
    start_s: float | None = None  # until its first unit was begun


def write_summary(store: Store, summary: Mapping[str, Any]) -> None:
    """What a call was asked for (`asked.units` shards) and, at its end, how it ended (`exit_code`, None until then)."""
    store.replace(SUMMARY, to_checked(summary))


def read_summary(store: Store) -> LastCall | None:
    """The last call; None if there was none. Raises ValueError if the file is damaged."""
    where = f"{store.url}/{SUMMARY}"
    try:
        body = parse_checked(store.read_range(SUMMARY, 0, MAX_SUMMARY_BYTES), where)
    except FileNotFoundError:
        return None
    asked = body.get("asked")
    units = asked.get("units") if isinstance(asked, dict) else None
    if type(units) is not int or not 0 <= units <= MAX_SHARDS:
        raise ValueError(f"{where}: found {quoted(units, 40)} units, expected a number of shards; run `sixfold repair`")
    work = body.get("work")
    start_s = work.get("start_s") if isinstance(work, dict) else None
    known = float(start_s) if isinstance(start_s, int | float) and 0 <= start_s < MAX_SECONDS else None
    return LastCall(str(body.get("scale", "")), range(units), body.get("exit_code") is not None, known)


def asked_units(store: Store) -> range:
    """The units that the last call was asked for; none if nobody knows of one."""
    with contextlib.suppress(ValueError, OSError):  # damaged: `verify` names it
        last = read_summary(store)
        return range(0) if last is None else last.units
    return range(0)


def refuse_unfinished(url: str, field: str, otherwise: str = OF_A_TRAINING) -> None:
    """As `refuse_missing`, for the data set at `url`. Tars that others wrote are never unfinished."""
    store = open_for_reading(url)
    if is_data_set(store):
        refuse_missing(store, field, otherwise)


def refuse_missing(store: Store, field: str, otherwise: str = OF_A_TRAINING) -> None:
    """Raises ValueError if the data set misses shards that its last call was asked for, or shards below its last one,
    which a call for more has left unmade; `field`: who reads it, `otherwise`: what to do if it stays as it is."""
    records = scan_records(store)
    asked = asked_units(store)
    missing = missing_units(asked, records)
    if missing:
        of, again = "that the last call was asked for", "makes the set"
        if missing[-1] not in asked:
            of, again = "up to its last one", "made the last one, with the same scale,"
        raise ValueError(
            f"{field} ({store.url}): found {len(records)} of the {len(records) + len(missing)} shards {of}, first "
            f"missing {shard_name(missing[0])}, expected all; run the command that {again} to its end, or "
            f"{otherwise}"
        )


def missing_units(asked: range, there: Collection[int]) -> list[int]:
    """The shards that are not there, of those asked for and of those below the last one that is there.

    Shards are made side by side, so what a killed call left is any part of its shards. Only a set without gaps is one
    that a smaller scale would make.
    """
    return [unit for unit in range(max(asked.stop, max(there, default=-1) + 1)) if unit not in there]


def pace_of(records: Iterable[Record]) -> Pace | None:
    """The pace of the last life that made shards, over the last ten minutes in which it did; None if nobody can tell.

    What is counted is done between two ends of shards. So neither the start of a run counts nor what is under way.
    """
    ordered = sorted(records, key=lambda record: record.end_time)
    if not ordered:
        return None
    end = ordered[-1].end_time
    life = ordered[-1].attempt.rpartition("-")[0]
    own = [record for record in ordered if record.attempt.rpartition("-")[0] == life]
    first = next((place for place, record in enumerate(own) if record.end_time > end - PACE_S), 0)
    first = max(0, min(first, len(own) - MIN_SHARDS))
    since = own[first - 1].end_time if first else min(record.start_time for record in own)
    seconds, taken = end - since, own[first:]
    if not 0 < seconds < MAX_SECONDS:
        return None
    images = sum(record.successes for record in taken)
    at_a_time = min(sum(record.duration for record in taken) / seconds, MAX_SHARDS)
    return Pace(images / seconds, at_a_time, len(taken))


def pace_of_place(url: str) -> Pace | None:
    """How fast the shards at an address were made; None if there are none that tell."""
    try:
        return pace_of(scan(open_for_reading(url)).records.values())
    except (ValueError, OSError):  # nothing is there yet, or something else
        return None


def status_of(store: Store, writer: str | None, doing: str = "", lives: Sequence[str] = ()) -> Status:
    """`writer`: who holds the data set's lease now, None if nobody does; `doing`: what the holder said last of how far
    it is; `lives`: the last starts of a program on it, a line each.

    Raises ValueError if there is no data set, and nobody who is about to begin one.
    """
    is_there = is_data_set(store)
    if not is_there and writer is None:
        raise no_data_set(store)
    found = scan(store)
    wrong = found.wrong()
    last: LastCall | None = None
    try:
        last = read_summary(store)
        told = "none yet" if last is None else ""
    except (OSError, ValueError) as error:
        told = str(error)
    records = found.records.values()
    statuses: Counter[str] = Counter()
    for record in records:
        statuses.update(record.status_dict)
    short = sum(record.short for record in records)
    asked = last.units if last else range(0)
    unmade = missing_units(asked, {**found.records, **wrong})
    missing, gaps = [[unit for unit in unmade if (unit in asked) == is_asked] for is_asked in (True, False)]
    rejected = [f"{num:,} {status}" for status, num in sorted(statuses.items()) if status != SUCCESS]
    space = sum(record.tar.bytes + record.parquet.bytes for record in records)
    rows = [
        ("shards", f"{len(records):,} done, {len(wrong):,} damaged{shard_names(list(wrong))}"),
        ("images", f"{statuses[SUCCESS]:,}, in shards that are done"),
        ("rejected", ", ".join(rejected) or "none"),
        ("short", f"{counted(short, 'sample')} without an image"),
        ("space", size_text(space)),
    ]
    if last is not None:
        told = f"asked for {counted(len(last.units), 'shard')}, {len(missing):,} of them missing{shard_names(missing)}"
        if not last.has_ended:
            told += "; it has not ended" if writer is not None else "; it never came to its end"
    rows.append(("last call", told))
    if gaps:
        rows.append(
            ("gaps", f"{counted(len(gaps), 'shard')} below the last one, of an earlier call{shard_names(gaps)}")
        )
    line = [f"{counted(len(records), 'shard')} done with {counted(statuses[SUCCESS], 'image')}"]
    if last is not None:
        line[0] = f"{len(records):,} of {counted(len(last.units), 'shard')} done with " + counted(
            statuses[SUCCESS], "image"
        )
    pace = pace_of(records)
    if pace is not None:
        rate = f"{pace.images_per_s:.2g}" if pace.images_per_s < 10 else f"{pace.images_per_s:,.0f}"
        rows.append(
            (
                "rate",
                f"{rate} images/s, {counted(max(1, round(pace.at_a_time)), 'shard')} at a time, by the last "
                f"{counted(pace.shards, 'shard')}",
            )
        )
        line.append(f"{rate} images/s")
        if writer is not None and missing and pace.images_per_s > 0:
            each = sum(record.slots for record in records) / len(records)
            left = f"about {time_text(len(missing) * each / pace.images_per_s)}"
            rows.append(("left", f"{left} at that rate"))
            line.append(f"{left} left")
    rows.append(("writer", writer or "nobody now"))
    if doing:
        # its images are not those above
        note = " (since its start, unfinished shards included)" if " images" in doing else ""
        rows.append(("this call", f"{doing}{note}"))
        line.append(f"this call: {doing}")
    rows += [("life", told) for told in lives]
    rows += [("damage", what) for what in list(wrong.values())[:MAX_LISTED]]
    if found.strangers:
        rows.append(("to do", "run `sixfold repair`, then the command that makes the set"))
    elif writer is None and (wrong or unmade):
        scale = ", with the scale of the earlier call" if gaps else ""
        rows.append(("to do", f"run the command that makes the set again{scale}: it makes exactly these"))
    lines = [f"{name:<10}{visible(text)}" for name, text in rows]
    is_told = last is not None or told == "none yet"
    is_whole = is_there and is_told and not wrong and not unmade and not short
    return Status("\n".join(lines), visible("; ".join(line)), is_whole)


def shard_names(shards: Sequence[int]) -> str:
    """``": 00003, 00004 and 7 more"``, to put behind their number; "" for none."""
    more = f" and {len(shards) - MAX_LISTED} more" if len(shards) > MAX_LISTED else ""
    return f": {', '.join(shard_name(shard) for shard in shards[:MAX_LISTED])}{more}" if shards else ""
