"""The numbers on the first page of the gallery; pure.

In: a `Census`. Out: what `templates/index.html` draws, with every length in per cent of its drawing. The size is
limited: many classes share a column, rare values share a line. What is the same for all is said and not drawn.
On disk: nothing.
"""

import re
from collections import Counter

from shards.disk.layout import SUCCESS
from shards.disk.safe_text import clip
from shards.views.census import SCORE_BINS, SCORES, Census, ClassCount

_HASH = re.compile(r"([0-9a-f]{12})[0-9a-f]{20,}")
ALONE = ("domain", "model", "licence")  # with one value for all images they stand under the title
TALLY_LINES = 8
EVEN_VALUES = 40  # of a tally in which all are equally frequent
NAMED_CLASSES = 24  # so few have bars with names
MAX_COLUMNS = 1_000
SCORE_BARS = 40
UNKNOWN = "unknown"
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
    values = {**census.values, "licence": _licences(census)}
    return {
        "successes": census.successes,
        "classes": len(census.classes),
        "shards": census.num_shards,
        "short": census.short,
        "subset": subset_name,
        "facts": [(column, _short(next(iter(values[column])))) for column in ALONE if len(values[column]) == 1],
        "draws": _draws(census.sorted_classes()),
        "tallies": [
            tally
            for title, counter in (
                *((title, values[column]) for column, title in TITLES.items() if column in values),
                *((clip(slot, 40).capitalize(), counter) for slot, counter in census.slots.items()),
            )
            if (tally := _tally(title, counter))
        ],
        "scores": [_score(census, column) for column in SCORES if census.scores[column].count],
    }


def _licences(census: Census) -> Counter[str]:
    """Images by licence; one without any counts as unknown."""
    found = Counter(census.values["licence"])
    missing = census.successes - found.total()
    return found + Counter({UNKNOWN: missing}) if missing > 0 else found


def _draws(classes: list[ClassCount]) -> dict[str, object]:
    """Draws per class: a sentence where all classes are alike, bars with names for a few, columns for many."""
    kept, lost = {one.successes for one in classes}, {one.num_rejected for one in classes}
    if len(kept) == 1 and lost == {0}:
        num = f"{next(iter(kept)):,} {'image' if kept == {1} else 'images'}"
        who = f"Each of the {len(classes):,} classes has" if len(classes) > 1 else "The one class has"
        return {"same": f"{who} {num}, and no draw was rejected."}
    step = 1 if len(classes) <= NAMED_CLASSES else max(1, -(-len(classes) // MAX_COLUMNS))
    groups = [classes[start : start + step] for start in range(0, len(classes), step)]
    tallest = max((sum(one.statuses.total() for one in group) for group in groups), default=0) or 1
    bars = []
    for group in groups:
        num_kept, num_lost = sum(one.successes for one in group), sum(one.num_rejected for one in group)
        who = label(group[0])
        if len(group) > 1:
            who = f"{who} to {label(group[-1])}"
        bars.append(
            {
                "label": who,
                "kept": num_kept,
                "lost": num_lost,
                "kept_size": round(100 * num_kept / tallest, 2),
                "lost_size": round(100 * num_lost / tallest, 2),
            }
        )
    numbers = [one.successes for one in classes]
    return {
        "same": "",
        "named": len(classes) <= NAMED_CLASSES,
        "bars": bars,
        "label": f"between {min(numbers):,} and {max(numbers):,} kept" if numbers else "none",
        "tallest": tallest,
        "first": label(classes[0]) if classes else "",
        "last": label(classes[-1]) if classes else "",
    }


def _short(text: str) -> str:
    """Long hashes by their first digits; the whole one stands in every card."""
    return clip(_HASH.sub(r"\1…", text), 80)


def _tally(title: str, counter: Counter[str]) -> dict[str, object] | None:
    if len(counter) < 2:
        return None
    most = max(counter.values())
    is_even = title != TITLES["status"] and min(counter.values()) == most
    num_lines = EVEN_VALUES if is_even else TALLY_LINES
    lines = [
        {
            "label": clip(label, 80),
            "count": count,
            "tone": "lost" if title == TITLES["status"] and label != SUCCESS else "good",
            "percent": round(100 * count / most, 2),
        }
        for label, count in counter.most_common(num_lines)
    ]
    return {
        "title": title,
        "lines": lines,
        "each": most if is_even else None,
        "more": max(0, len(counter) - num_lines),
    }


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
