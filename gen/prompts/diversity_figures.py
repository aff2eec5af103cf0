"""Diversity of prompts: the figures, and how they are said in a terminal; pure.

In: what gen.prompts.diversity found. Out: a frozen `Diversity`, for every class and for all, and lines of text. On
disk: nothing; gen.prompts.diversity_page writes it down.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from shards.disk.safe_text import clip, visible

MAX_LISTED = 12  # pairs, long prompts, shared texts, words in one line


@dataclass(frozen=True)
class PromptPlace:
    """Where a prompt stands."""

    class_id: int
    prompt_id: int
    class_name: str


@dataclass(frozen=True)
class Pair:
    """Two different prompts of one class that are as alike as any of its sample."""

    alike: float  # cosine of embeddings, or shared words and word pairs over all of both
    one: PromptPlace
    other: PromptPlace
    text: str
    other_text: str


@dataclass(frozen=True)
class LongPrompt:
    """A prompt with the part that the encoder reads and the part that it never sees."""

    length: int
    place: PromptPlace
    kept: str
    lost: str


@dataclass(frozen=True)
class FlaggedWord:
    """A word of gen/wording/flagged_words.yaml, and the first prompt that has it."""

    word: str
    group: str
    count: int  # prompts
    place: PromptPlace
    before: str
    found: str
    after: str


@dataclass(frozen=True)
class SharedText:
    """One text that stands in several classes."""

    text: str
    count: int
    classes: tuple[tuple[int, str], ...]  # the first few


@dataclass(frozen=True)
class ClassDiversity:
    """The figures of one class. A figure is None where it has no meaning, as the distance of a single prompt."""

    class_id: int
    class_name: str
    meaning: str | None
    num_prompts: int
    num_distinct: int
    num_sampled: int
    distinct_1: float | None
    distinct_2: float | None
    self_bleu: float | None
    distance: float | None  # mean pairwise cosine distance of embeddings
    num_nameless: int  # prompts in which the class name is missing
    num_cut: int  # prompts over the encoder's limit
    num_flagged: int  # prompts with a flagged word that is not in the name
    flags_of_name: tuple[str, ...]

    @property
    def alikeness(self) -> float | None:
        """The order of "least diverse": by embeddings if there are any, else by words. 1 = all the same."""
        return self.self_bleu if self.distance is None else 1 - self.distance


@dataclass(frozen=True)
class Diversity:
    """What a table of prompts is like."""

    classes: tuple[ClassDiversity, ...]
    kinds: tuple[tuple[str, int], ...]
    styles: tuple[tuple[str, int], ...]  # most used first
    num_distinct: int  # over all classes
    sample: int
    seed: int
    unit: str  # of the lengths: tokens | words
    limit: int | None  # None = no tokenizer was given
    lengths: tuple[tuple[int, int], ...]  # (length, prompts), ascending
    num_tokens_lost: int
    num_cut_seen: int  # long prompts whose lost end was looked at
    num_name_lost: int  # of those, how many lost the class name
    num_style_lost: int  # of those, how many lost their style
    pairs: tuple[Pair, ...]
    longest: tuple[LongPrompt, ...]
    flagged: tuple[FlaggedWord, ...]
    num_shared: int  # texts that stand in more than one class
    shared: tuple[SharedText, ...]

    @property
    def num_prompts(self) -> int:
        return sum(one.num_prompts for one in self.classes)

    @property
    def num_repeats(self) -> int:
        """Prompts that repeat an earlier one of their own class."""
        return sum(one.num_prompts - one.num_distinct for one in self.classes)

    @property
    def num_nameless(self) -> int:
        return sum(one.num_nameless for one in self.classes)

    @property
    def num_cut(self) -> int:
        return sum(one.num_cut for one in self.classes)

    @property
    def num_flagged(self) -> int:
        return sum(one.num_flagged for one in self.classes)

    @property
    def distinct_1(self) -> float | None:
        return _mean([one.distinct_1 for one in self.classes])

    @property
    def distinct_2(self) -> float | None:
        return _mean([one.distinct_2 for one in self.classes])

    @property
    def self_bleu(self) -> float | None:
        return _mean([one.self_bleu for one in self.classes])

    @property
    def distance(self) -> float | None:
        return _mean([one.distance for one in self.classes])

    @property
    def mean_length(self) -> float:
        return sum(length * count for length, count in self.lengths) / self.num_prompts


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def report_lines(diversity: Diversity) -> list[str]:
    """The report for a terminal: a figure, then what it means. Texts of the table are not quoted."""
    total = diversity.num_prompts
    sizes = ((total, "prompt", "prompts"), (len(diversity.classes), "class", "classes"))
    prompts, classes = (f"{count:,} {one if count == 1 else several}" for count, one, several in sizes)
    texts = "text" if diversity.num_distinct == 1 else "texts"
    lines = [f"{prompts} of {classes}, {diversity.num_distinct:,} distinct {texts}"]
    lines.append("kinds: " + ", ".join(f"{visible(clip(kind, 40))} {count:,}" for kind, count in diversity.kinds))
    if diversity.styles:
        most, least = diversity.styles[0][1], diversity.styles[-1][1]
        uses = ("once" if most == 1 else f"{most:,} times") if most == least else f"{least:,} to {most:,} times"
        lines.append(f"{len(diversity.styles):,} styles, each used {uses}")
    compared = f"mean over classes, up to {diversity.sample} prompts each"
    for label, value in (
        ("distinct words (distinct-1)", diversity.distinct_1),
        ("distinct word pairs (distinct-2)", diversity.distinct_2),
        ("self-BLEU-4, 1 = all alike", diversity.self_bleu),
        ("mean distance of embeddings, 0 = all alike", diversity.distance),
    ):
        if value is not None:
            lines.append(f"{label}: {value:.3f} ({compared})")
    lines.append(f"class name missing: {share(diversity.num_nameless, total)}")
    if diversity.limit is None:
        lines.append(f"mean length: {diversity.mean_length:.1f} words (no tokenizer was given, so no limit is known)")
    else:
        lost = f"{diversity.num_tokens_lost:,} tokens lost"
        lines.append(f"over {diversity.limit} tokens: {share(diversity.num_cut, total)}, {lost}")
        if diversity.num_cut:
            lines.append(
                f"of {diversity.num_cut_seen:,} cut prompts looked at, {diversity.num_name_lost:,} lost the class name "
                f"and {diversity.num_style_lost:,} their style"
            )
    words = ", ".join(f"{flag.word} {flag.count:,}" for flag in diversity.flagged[:MAX_LISTED])
    lines.append(f"flagged words: {share(diversity.num_flagged, total)}{f' ({words})' if words else ''}")
    lines.append(
        f"repeats inside a class: {diversity.num_repeats:,}; texts in several classes: {diversity.num_shared:,}"
    )
    return lines


def share(count: int, total: int) -> str:
    """ "12 of 3,000 prompts (0.4 %)"; only nothing reads as 0 and only everything as 100."""
    percent = 100 * count / total
    if 0 < percent < 0.05:
        shown = "under 0.1"
    elif 99.95 <= percent < 100:
        shown = "over 99.9"
    else:
        shown = f"{percent:.1f}"
    return f"{count:,} of {total:,} prompts ({shown} %)"
