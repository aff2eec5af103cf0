"""The diversity report as one web page that anyone can open.

Comes in: a `Diversity`. Goes out and lies on disk: one HTML file, with its style inside, no script, and a policy that
lets nothing else be loaded or run. Every text is shown as data: escaped, its invisible characters made visible.
"""

from dataclasses import dataclass
from pathlib import Path

from gen.prompts.diversity import (
    MOST_CUT,
    MOST_FLAGGED,
    MOST_NAMELESS,
    MOST_REPEATED,
    ClassDiversity,
    Diversity,
    share,
    style_uses,
    what_cut_prompts_lost,
    what_repeats,
)
from gen.wording.flagged_words import flag_groups, group_of
from shards.disk.replace import replace_file
from shards.disk.safe_text import clip
from shards.views.page import one_file_page, page_environment

PAGES = Path(__file__).parent / "pages"
MAX_BARS = 44
LOWEST_BAR = 1.5  # percent; one prompt of a million can still be seen
MAX_CLASSES = 24
MAX_FLAGS = 40
TEXT_CHARS = 700
MAX_MEANINGS = 40
LEAST_VARIED = 12  # classes
# Of 50 prompts a class, 20 classes of ImageNet-1k: contexts 0.35 to 0.44, styles 0.45 to 0.51, captions 0.32 to 0.43,
# templates 0.55 to 0.71. The sandbox: 0.12 to 0.14.
USUAL_PAIRS = "0.3 to 0.5, templates up to 0.7; the few words of the sandbox give 0.13"
USUAL_DISTANCE = "compare it with other prompts, not with other encoders"


@dataclass(frozen=True)
class Figure:
    """One number with a sentence on what it means."""

    title: str
    value: str
    meaning: str
    look: bool = False  # worth a look


@dataclass(frozen=True)
class Bar:
    label: str
    height: float  # percent of the tallest
    over: bool  # beyond the encoder's limit


def write_page(found: Diversity, path: Path) -> None:
    """Write the page; an older one is replaced in one step."""
    environment = page_environment(PAGES)
    environment.filters["text"] = lambda text: clip(text, TEXT_CHARS)
    why = {group: reason for group, (reason, _) in flag_groups().items()}
    most_flagged = found.flags.most_common(MAX_FLAGS)
    meant = [one for one in found.classes if one.meaning is not None]
    values = {
        "found": found,
        "unit": "words" if found.limit is None else "tokens",
        "figures": figures(found),
        "bars": bars(found),
        "doubtful": doubtful_classes(found)[:MAX_CLASSES],
        "num_doubtful": len(doubtful_classes(found)),
        "least_varied": least_varied(found),
        "meanings": meant[:MAX_MEANINGS],
        "num_meanings": len(meant),
        "limits": [100 * most for most in (MOST_REPEATED, MOST_NAMELESS, MOST_CUT, MOST_FLAGGED)],
        "flags": [(word, count, found.first_flagged[word], why[group_of(word)]) for word, count in most_flagged],
    }
    replace_file(path, one_file_page(environment, "diversity.html", PAGES / "diversity.css", values).encode())


def figures(found: Diversity) -> list[Figure]:
    """The summary, each number with its sentence."""
    total, distance, pairs = found.total("num_prompts"), found.mean("distance"), found.mean("distinct_pairs")
    texts = f"of {total:,}; {what_repeats(found)}."
    repeated = total - found.total("num_distinct")
    shown = [Figure("distinct texts", f"{found.num_distinct:,}", texts, look=repeated > MOST_REPEATED * total)]
    if distance is not None:
        meaning = f"Mean cosine distance of two prompts of a class. 0: the encoder sees none; {USUAL_DISTANCE}."
        shown.append(Figure("distance", f"{distance:.3f}", meaning))
    if pairs is not None:
        meaning = f"Different pairs of neighbouring words over all pairs of a class. Usual: {USUAL_PAIRS}."
        shown.append(Figure("distinct word pairs", f"{pairs:.3f}", meaning))
    meaning = "never say what the image is of; it may show anything."
    counts = [("class name missing", "num_nameless", meaning, MOST_NAMELESS)]
    if found.limit is not None:
        lost = f" {what_cut_prompts_lost(found).capitalize()}." if found.longest else ""
        meaning = f"have over {found.limit} tokens; the end is never read.{lost}"
        counts.append(("cut by the encoder", "num_cut", meaning, MOST_CUT))
    meaning = "have a word that trips safety checkers or spoils the image."
    counts.append(("flagged words", "num_flagged", meaning, MOST_FLAGGED))
    for title, figure, meaning, most in counts:
        said, count = share(found.total(figure), total), found.total(figure)
        value = said.rpartition("(")[2].rstrip(")")
        shown.append(Figure(title, value, f"{said} {meaning}", look=count > most * total))
    if found.styles:
        uneven = max(found.styles.values()) - min(found.styles.values()) > 1
        meaning = f"Each is used {style_uses(found)}; within one is even."
        shown.append(Figure("styles", f"{len(found.styles):,}", meaning, uneven))
    return shown


def bars(found: Diversity) -> list[Bar]:
    """The histogram of lengths. The encoder's limit falls between two bars."""
    limit, unit = found.limit or 0, "words" if found.limit is None else "tokens"
    width = -(-(max(found.lengths) - min(found.lengths) + 1) // MAX_BARS)
    counts: dict[int, int] = {}
    for length, count in found.lengths.items():
        number = (length - 1 - limit) // width
        counts[number] = counts.get(number, 0) + count
    shown = []
    for number in range(min(counts), max(counts) + 1):
        low, count = limit + 1 + number * width, counts.get(number, 0)
        span = f"{low}" if width == 1 else f"{low} to {low + width - 1}"
        height = max(LOWEST_BAR, round(100 * count / max(counts.values()), 2)) if count else 0.0
        shown.append(Bar(f"{span} {unit}: {count:,} prompts", height, found.limit is not None and number >= 0))
    return shown


def doubtful_classes(found: Diversity) -> list[ClassDiversity]:
    """Classes that need a look: those with the largest share of doubtful prompts first."""

    def key(one: ClassDiversity) -> tuple[float, float, int]:
        return -one.num_doubts / one.num_prompts, -one.alikeness, one.class_id

    return sorted((one for one in found.classes if one.doubts), key=key)


def least_varied(found: Diversity) -> list[ClassDiversity]:
    """The classes whose prompts are most alike, healthy or not."""
    several = (one for one in found.classes if one.num_prompts > 1)
    return sorted(several, key=lambda one: (-one.alikeness, one.class_id))[:LEAST_VARIED]
