"""The diversity report as one web page that anyone can open.

Comes in: a `Diversity`. Goes out and lies on disk: one HTML file, with its style inside, no script, and a policy that
lets nothing else be loaded or run. Every text is shown as data: escaped, its invisible characters made visible.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gen.prompts.diversity_figures import ClassDiversity, Diversity, share
from gen.wording.flagged_words import flag_groups
from shards.disk.replace import replace_file
from shards.views.page import one_file_page, page_environment

PAGES = Path(__file__).parent / "pages"
MAX_BARS = 44
LOWEST_BAR = 1.5  # percent; one prompt of a million can still be seen
CLASSES_PER_REASON = 8
MAX_NAMES = 40  # classes whose own name is flagged
CONTEXT_CHARS = 90
TEXT_CHARS = 700
NAMELESS_LINE = 0.2  # the share above which the paper's own captioner warns


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


@dataclass(frozen=True)
class ClassLine:
    """A class that needs a look, and why."""

    one: ClassDiversity
    reasons: tuple[str, ...]


def write_page(diversity: Diversity, path: Path) -> None:
    """Write the page; an older one is replaced in one step."""
    values = {
        "diversity": diversity,
        "figures": figures(diversity),
        "bars": bars(diversity),
        "lines": doubtful_classes(diversity),
        "named": [one for one in diversity.classes if one.flags_of_name][:MAX_NAMES],
        "num_named": sum(bool(one.flags_of_name) for one in diversity.classes),
        "groups": _flag_sections(diversity),
        "context_chars": CONTEXT_CHARS,
        "text_chars": TEXT_CHARS,
    }
    page = one_file_page(page_environment(PAGES), "diversity.html", PAGES / "diversity.css", values)
    replace_file(path, page.encode())


def figures(diversity: Diversity) -> list[Figure]:
    """The summary, each number with its sentence."""
    total = diversity.num_prompts
    found = [
        Figure(
            "distinct texts",
            f"{diversity.num_distinct:,}",
            f"of {total:,}. Repeats inside a class: {diversity.num_repeats:,}. Texts that stand in several classes: "
            f"{diversity.num_shared:,}.",
            look=diversity.num_distinct < total,
        )
    ]
    if diversity.distance is not None:
        found.append(
            Figure(
                "distance",
                f"{diversity.distance:.3f}",
                "Mean cosine distance between embeddings of two prompts of a class. 0: the encoder sees no difference.",
            )
        )
    if diversity.self_bleu is not None:
        found.append(
            Figure(
                "self-BLEU-4",
                f"{diversity.self_bleu:.3f}",
                "How far a prompt could be cut from others of its class. 1: all say the same; lower is more varied.",
            )
        )
    if diversity.distinct_2 is not None:
        found.append(
            Figure(
                "distinct word pairs",
                f"{diversity.distinct_2:.3f}",
                f"Different pairs of neighbouring words over all pairs (distinct-2); single words: "
                f"{diversity.distinct_1:.3f}. Higher is more varied.",
            )
        )
    found.append(
        Figure(
            "class name missing",
            _percent(diversity.num_nameless, total),
            f"{share(diversity.num_nameless, total)} never say what the image is of; the generator may draw anything.",
            look=diversity.num_nameless > NAMELESS_LINE * total,
        )
    )
    if diversity.limit is not None:
        lost = (
            f" Of {diversity.num_cut_seen:,} looked at, {diversity.num_name_lost:,} lost the class name and "
            f"{diversity.num_style_lost:,} their style."
            if diversity.num_cut
            else ""
        )
        found.append(
            Figure(
                "cut by the encoder",
                _percent(diversity.num_cut, total),
                f"{share(diversity.num_cut, total)} have over {diversity.limit} tokens; the end is never read.{lost}",
                look=diversity.num_cut > 0,
            )
        )
    found.append(
        Figure(
            "flagged words",
            _percent(diversity.num_flagged, total),
            f"{share(diversity.num_flagged, total)} have a word that trips safety checkers or spoils the image.",
            look=diversity.num_flagged > 0,
        )
    )
    if diversity.styles:
        most, least = diversity.styles[0][1], diversity.styles[-1][1]
        found.append(
            Figure(
                "styles",
                f"{len(diversity.styles):,}",
                f"Each is used {most:,} times."
                if most == least
                else f"Each is used {least:,} to {most:,} times; within one is even.",
                look=most - least > 1,
            )
        )
    return found


def bars(diversity: Diversity) -> list[Bar]:
    """The histogram of lengths. The encoder's limit falls between two bars."""
    limit = diversity.limit or 0
    lowest, highest = diversity.lengths[0][0], diversity.lengths[-1][0]
    width = -(-(highest - lowest + 1) // MAX_BARS)
    counts: dict[int, int] = {}
    for length, count in diversity.lengths:
        number = (length - 1 - limit) // width
        counts[number] = counts.get(number, 0) + count
    tallest = max(counts.values())
    found = []
    for number in range(min(counts), max(counts) + 1):
        low = limit + 1 + number * width
        span = f"{low}" if width == 1 else f"{low} to {low + width - 1}"
        count = counts.get(number, 0)
        label = f"{span} {diversity.unit}: {count:,} prompts"
        height = max(LOWEST_BAR, round(100 * count / tallest, 2)) if count else 0.0
        found.append(Bar(label, height, diversity.limit is not None and number >= 0))
    return found


def doubtful_classes(diversity: Diversity) -> list[ClassLine]:
    """Classes that need a look: the worst few by every measure, those with most reasons first."""
    measures: list[tuple[str, Callable[[ClassDiversity], float]]] = [
        ("repeats itself", lambda one: 1 - one.num_distinct / one.num_prompts),
        ("name missing", lambda one: one.num_nameless / one.num_prompts),
        ("cut by the encoder", lambda one: one.num_cut / one.num_prompts),
        ("flagged words", lambda one: one.num_flagged / one.num_prompts),
        ("least diverse", lambda one: one.alikeness or 0.0),
    ]
    reasons: dict[int, list[str]] = {}
    for reason, measure in measures:
        worst = sorted((one for one in diversity.classes if measure(one) > 0), key=measure, reverse=True)
        for one in worst[:CLASSES_PER_REASON]:
            reasons.setdefault(one.class_id, []).append(reason)
    lines = [ClassLine(one, tuple(reasons[one.class_id])) for one in diversity.classes if one.class_id in reasons]
    return sorted(lines, key=lambda line: (-len(line.reasons), -(line.one.alikeness or 0.0), line.one.class_id))


def _flag_sections(diversity: Diversity) -> list[dict[str, object]]:
    return [
        {"group": group, "why": why, "flags": [flag for flag in diversity.flagged if flag.group == group]}
        for group, (why, _) in flag_groups().items()
        if any(flag.group == group for flag in diversity.flagged)
    ]


def _percent(count: int, total: int) -> str:
    return share(count, total).rpartition("(")[2].rstrip(")")
