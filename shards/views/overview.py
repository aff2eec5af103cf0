"""The numbers on the first page of the gallery; pure.

In: a `Census`. Out: what `templates/index.html` draws, with every length in per cent of its drawing. The size is
limited: many classes share a column, rare values share a line. On disk: nothing.
"""

import re
from collections import Counter

from shards.disk.layout import SUCCESS
from shards.disk.safe_text import clip
from shards.views.census import SCORE_BINS, SCORES, Census, ClassCount

_HASH = re.compile(r"([0-9a-f]{12})[0-9a-f]{20,}")
ALONE = ("domain", "model", "licence")  # with one value for all images they stand under the title
TALLY_LINES = 8
MAX_COLUMNS = 1_000
SCORE_BARS = 40
TITLES = {
    "status": "What became of the draws",
    "domain": "Where the images come from",
    "model": "Model",
    "licence": "Licence",
    "prompt_kind": "Kind of prompt",
    "style": "Style",
    "similarity": "CLIP similarity",
    "aesthetic": "Aesthetic score",
    "punsafe": "Unsafe probability",
}


def label(one: ClassCount) -> str:
    """Name and id: two classes may share a name."""
    return f"{clip(one.name, 60)} ({one.class_id})"


def overview(census: Census, subset_name: str) -> dict[str, object]:
    """What the first page draws: numbers, columns and bars in per cent of the drawing's height or width."""
    classes = census.sorted_classes()
    step = max(1, -(-len(classes) // MAX_COLUMNS))
    groups = [classes[start : start + step] for start in range(0, len(classes), step)]
    tallest = max((sum(one.statuses.total() for one in group) for group in groups), default=0) or 1
    columns = []
    for group in groups:
        kept, lost = sum(one.successes for one in group), sum(one.num_rejected for one in group)
        who = label(group[0])
        if len(group) > 1:
            who = f"{who} to {label(group[-1])}"
        columns.append(
            {
                "label": f"{who}: {kept:,} kept, {lost:,} rejected",
                "kept_y": round(100 - 100 * kept / tallest, 2),
                "kept_height": round(100 * kept / tallest, 2),
                "lost_y": round(100 - 100 * (kept + lost) / tallest, 2),
                "lost_height": round(100 * lost / tallest, 2),
            }
        )
    numbers = [one.successes for one in classes]
    return {
        "successes": census.successes,
        "classes": len(classes),
        "shards": census.num_shards,
        "short": census.short,
        "subset": subset_name,
        "facts": [_short(next(iter(census.values[column]))) for column in ALONE if len(census.values[column]) == 1],
        "columns": columns,
        "columns_label": f"between {min(numbers):,} and {max(numbers):,} kept" if numbers else "none",
        "tallest": tallest,
        "first_class": label(classes[0]) if classes else "",
        "last_class": label(classes[-1]) if classes else "",
        "tallies": [
            tally
            for title, counter in (
                *((title, census.values[column]) for column, title in TITLES.items() if column in census.values),
                *((clip(slot, 40).capitalize(), counter) for slot, counter in census.slots.items()),
            )
            if (tally := _tally(title, counter))
        ],
        "scores": [_score(census, column) for column in SCORES if census.scores[column].count],
    }


def _short(text: str) -> str:
    """Long hashes by their first digits; the whole one stands in every card."""
    return clip(_HASH.sub(r"\1…", text), 80)


def _tally(title: str, counter: Counter[str]) -> dict[str, object] | None:
    if len(counter) < 2:
        return None
    most = max(counter.values())
    lines = [
        {
            "label": clip(label, 80),
            "count": count,
            "tone": "lost" if title == TITLES["status"] and label != SUCCESS else "good",
            "percent": round(100 * count / most, 2),
        }
        for label, count in counter.most_common(TALLY_LINES)
    ]
    return {"title": title, "lines": lines, "more": max(0, len(counter) - TALLY_LINES)}


def _score(census: Census, column: str) -> dict[str, object]:
    low, high = SCORES[column]
    scores = census.scores[column]
    occupied = scores.bins.nonzero()[0]
    first, last = int(occupied[0]), int(occupied[-1]) + 1
    width = (high - low) / SCORE_BINS
    step = max(1, -(-(last - first) // SCORE_BARS))
    bars = [int(scores.bins[at : min(at + step, last)].sum()) for at in range(first, last, step)]
    return {
        "title": TITLES[column],
        "mean": scores.total / scores.count,
        "count": scores.count,
        "bars": [round(100 * bar / max(bars), 2) for bar in bars],
        "low": f"{low + first * width:.2f}",
        "high": f"{low + last * width:.2f}",
    }
