"""How much the prompts of a table differ, before any image is made.

In: a prompt table, and optionally the text encoder's token counts and its embeddings. Out: a `Diversity`, and lines for
a terminal. On disk: nothing; gen.prompts.diversity_page writes the page.

Counts (missing names, cut prompts, flagged words, repeats) are of every prompt. What compares prompts with each other
(distinct word pairs, distance, the most alike pair) is of a sample drawn from each class with the seed: so its cost is
bounded, and tables of different sizes can be compared.
"""

import hashlib
import heapq
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from gen.names.display_name import is_named, plain_words
from gen.prompts.table import PromptTable
from gen.wording.flagged_words import flagged_words
from shards.disk.safe_text import clip, visible

SAMPLE = 50
CLIP_TOKENS = 77  # that the encoder reads, with the marks of beginning and end, as tokenizers count
MAX_LISTED = 12  # pairs, long prompts, words in one line
MAX_CUT = 10_000  # long prompts whose lost end is looked at
MAX_LENGTH = 2_000  # longer prompts are counted as this long in the histogram
NUM_EXAMPLES = 20  # prompts that are shown first

# What a class may have before it needs a look, as shares of its prompts. A few of everything are no fault: contexts
# drawn at random repeat themselves, one of many captions is long. Above a fifth without the name the paper's own
# captioner warns, too.
MOST_REPEATED, MOST_NAMELESS, MOST_CUT, MOST_FLAGGED = 0.10, 0.20, 0.05, 0.02
LEAST_PAIRS = 0.11  # distinct word pairs over all; one template with another number has 0.10, the sandbox 0.12
ENOUGH = 20  # prompts for that

CountTokens = Callable[[Sequence[str]], Sequence[int]]
Embed = Callable[[Sequence[str]], NDArray[np.float32]]  # one unit row a text


@dataclass(frozen=True)
class Extreme:
    """Prompts that are shown: two that are alike, a long one in two parts (read, lost), one with a flagged word, one of
    the examples."""

    value: float  # cosine or share of words that both have; tokens; prompts with the word; 1
    class_id: int
    class_name: str
    prompt_ids: tuple[int, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class ClassDiversity:
    """The figures of one class. A figure is None where it has no meaning, as the distance of a single prompt."""

    class_id: int
    class_name: str
    meaning: str | None
    num_prompts: int
    num_distinct: int
    distinct_pairs: float | None  # of neighbouring words: different ones over all, of the sample
    distance: float | None  # mean cosine distance between embeddings of two prompts of the sample
    num_nameless: int  # prompts in which the class name and its meaning are missing
    num_cut: int  # prompts over the encoder's limit
    num_flagged: int  # prompts with a flagged word that is not in the name

    @property
    def alikeness(self) -> float:
        """1 = all the same; by embeddings if there are any, else by words."""
        alike = self.distinct_pairs if self.distance is None else self.distance
        return 0.0 if alike is None else 1 - alike

    @property
    def doubts(self) -> list[str]:
        """Why the class needs a look, in words; nothing for a healthy one."""
        counts = (
            (self.num_prompts - self.num_distinct, MOST_REPEATED, "repeat another"),
            (self.num_nameless, MOST_NAMELESS, "never say the name"),
            (self.num_cut, MOST_CUT, "are cut"),
            (self.num_flagged, MOST_FLAGGED, "have a flagged word"),
        )
        total = self.num_prompts
        found = [f"{100 * count / total:.0f} % {what}" for count, most, what in counts if count > most * total]
        if total >= ENOUGH and self.distinct_pairs is not None and self.distinct_pairs < LEAST_PAIRS:
            found.append("all say nearly the same")
        return found

    @property
    def num_doubts(self) -> int:
        """Prompts that repeat another, miss the name, are cut or flagged; one may count several times."""
        return self.num_prompts - self.num_distinct + self.num_nameless + self.num_cut + self.num_flagged


@dataclass
class Diversity:
    """What a table of prompts is like; filled class by class."""

    sample: int
    seed: int
    limit: int | None  # tokens that the encoder reads; None = no tokenizer was given, and lengths are in words
    num_distinct: int  # texts, over all classes
    classes: list[ClassDiversity] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    styles: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)  # tokens or words -> prompts
    lost: Counter[str] = field(default_factory=Counter)  # tokens; of the cut prompts looked at: names, styles
    pairs: list[Extreme] = field(default_factory=list)  # the most alike of a class, the closest first
    longest: list[Extreme] = field(default_factory=list)
    flags: Counter[str] = field(default_factory=Counter)  # word -> prompts
    first_flagged: dict[str, Extreme] = field(default_factory=dict)
    examples: list[Extreme] = field(default_factory=list)  # some prompts, of classes all over the table

    def total(self, figure: str) -> int:
        """Over all classes, of `num_prompts`, `num_distinct`, `num_nameless`, `num_cut` or `num_flagged`."""
        return sum(getattr(one, figure) for one in self.classes)

    def mean(self, figure: str) -> float | None:
        """Over the classes that have it, of `distinct_pairs` or `distance`."""
        known = [value for one in self.classes if (value := getattr(one, figure)) is not None]
        return fmean(known) if known else None

    @property
    def mean_length(self) -> float:
        return sum(length * count for length, count in self.lengths.items()) / self.lengths.total()


def measure_diversity(
    table: PromptTable,
    *,
    seed: int,
    count_tokens: CountTokens | None = None,
    limit: int = CLIP_TOKENS,
    embed: Embed | None = None,
    sample: int = SAMPLE,
) -> Diversity:
    """Measure a prompt table.

    `count_tokens` tells how many tokens the encoder makes of each text, `limit` how many it reads; without it, lengths
    are in words and nothing is called cut. `embed` gives unit rows; without it there is no distance, and pairs are
    compared by their words. `sample` prompts a class are compared with each other.
    Raises ValueError if a callable answers in another shape, or `sample` is below 2.
    """
    if sample < 2:
        raise ValueError(f"sample: found {sample}, expected at least 2 prompts to compare")
    found = Diversity(sample, seed, None if count_tokens is None else limit, table.num_distinct_texts())
    for class_id in table.num_per_class():
        kinds, texts, styles = (table.of_class(class_id, column) for column in ("kind", "text", "style"))
        first = table.prompt(class_id, 0)
        plain = [plain_words(text) for text in texts]
        found.kinds.update(kinds)
        found.styles.update(style for style in styles if style is not None)
        one = _Class(class_id, first.class_name, first.meaning, texts, styles, plain)
        num_cut = 0
        if count_tokens is None:
            found.lengths.update(min(len(words.split()), MAX_LENGTH) for words in plain)
        else:
            num_cut = _count_cut(one, found, count_tokens, limit)
        picks = _pick(len(texts), sample, seed, class_id)
        words = [plain[index].split() for index in picks]
        pairs = [pair for of_text in words for pair in pairwise(of_text)]
        found.classes.append(
            ClassDiversity(
                class_id=class_id,
                class_name=one.name,
                meaning=one.meaning,
                num_prompts=len(texts),
                num_distinct=len(set(texts)),
                distinct_pairs=len(set(pairs)) / len(pairs) if pairs else None,
                distance=_compare(one, found, picks, words, embed),
                num_nameless=sum(not one.is_named(*both) for both in zip(texts, plain, strict=True)),
                num_cut=num_cut,
                num_flagged=_count_flags(one, found),
            )
        )
    found.examples = _examples(table, seed)
    return found


@dataclass(frozen=True)
class _Class:
    """The prompts of one class."""

    id: int
    name: str
    meaning: str | None
    texts: Sequence[str]
    styles: Sequence[str | None]
    plain: Sequence[str]  # the `plain_words` of each text

    def is_named(self, text: str, words: str) -> bool:
        """Whether a text, of these `plain_words`, says the class."""
        return is_named(text, words, self.name, self.meaning)

    def extreme(self, value: float, prompt_ids: tuple[int, ...], texts: tuple[str, ...]) -> Extreme:
        return Extreme(value, self.id, self.name, prompt_ids, texts)


def _examples(table: PromptTable, seed: int) -> list[Extreme]:
    """One prompt each of `NUM_EXAMPLES` classes that are spread over the table, or of all classes in turn."""
    ids = list(table.num_per_class())
    if len(ids) > NUM_EXAMPLES:
        ids = [ids[place * len(ids) // NUM_EXAMPLES] for place in range(NUM_EXAMPLES)]
    turns = -(-NUM_EXAMPLES // len(ids))
    picks = {class_id: _pick(table.num_per_class()[class_id], turns, seed, class_id) for class_id in ids}
    found: list[Extreme] = []
    for turn in range(turns):
        for class_id in ids:
            if turn < len(picks[class_id]) and len(found) < NUM_EXAMPLES:
                one = table.prompt(class_id, picks[class_id][turn])
                found.append(Extreme(1, class_id, one.class_name, (one.prompt_id,), (one.text,)))
    return found


def _pick(count: int, sample: int, seed: int, class_id: int) -> list[int]:
    """`sample` of range(count), ascending; all of it if there are no more."""
    if count <= sample:
        return list(range(count))
    digest = hashlib.blake2b(f"{seed} {class_id}".encode(), digest_size=16, person=b"sixfold sample").digest()
    return sorted(Random(int.from_bytes(digest, "big")).sample(range(count), sample))


def _compare(
    one: _Class, found: Diversity, picks: Sequence[int], words: Sequence[Sequence[str]], embed: Embed | None
) -> float | None:
    """Mean pairwise distance of the sample; its most alike pair of different texts is kept."""
    texts = [one.texts[index] for index in picks]
    different = sorted({text: index for index, text in reversed(list(enumerate(texts)))}.values())
    distance = None
    if embed is None:
        alike = _shared_words([words[index] for index in different])
    else:
        rows = np.asarray(embed(texts), np.float64)
        if rows.ndim != 2 or len(rows) != len(texts) or not np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-2):
            raise ValueError(
                f"embeddings of class {one.id}: found an array of shape {rows.shape}, expected {len(texts)} rows of "
                "length 1; normalise them"
            )
        cosines = rows @ rows.T
        if len(texts) > 1:
            distance = 1 - float(cosines.sum() - np.trace(cosines)) / (len(texts) * (len(texts) - 1))
        alike = cosines[np.ix_(different, different)]
    if len(different) > 1:
        alike[np.tril_indices(len(alike))] = -2
        first, second = (different[place] for place in divmod(int(alike.argmax()), len(alike)))
        pair = one.extreme(float(alike.max()), (picks[first], picks[second]), (texts[first], texts[second]))
        found.pairs = heapq.nsmallest(MAX_LISTED, [*found.pairs, pair], key=lambda pair: -pair.value)
    return distance


def _shared_words(texts: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """The share of words and pairs of words that two texts have in common, over all of both; 1 for two empty ones."""
    numbers: dict[object, int] = {}
    rows = [[numbers.setdefault(run, len(numbers)) for run in (*words, *pairwise(words))] for words in texts]
    used = np.zeros((len(texts), len(numbers)))
    for index, row in enumerate(rows):
        used[index, row] = 1
    shared = np.einsum("ag,bg->ab", used, used)  # one thread; BLAS would wake all of them for so little
    sizes = used.sum(1)
    either = sizes[:, None] + sizes[None, :] - shared
    result: NDArray[np.float64] = np.where(either > 0, shared / np.maximum(either, 1), 1.0)
    return result


def _count_cut(one: _Class, found: Diversity, count_tokens: CountTokens, limit: int) -> int:
    """How many prompts the encoder does not read to the end; what they lose is kept."""
    lengths = _token_lengths(one.texts, count_tokens)
    found.lengths.update(min(length, MAX_LENGTH) for length in lengths)
    cut = [index for index, length in enumerate(lengths) if length > limit]
    found.lost["tokens"] += sum(lengths[index] - limit for index in cut)
    seen = cut[: MAX_CUT - found.lost["looked at"]]
    found.lost["looked at"] += len(seen)
    ends = _kept_ends([one.texts[index] for index in seen], count_tokens, limit)
    for index, end in zip(seen, ends, strict=True):
        text, style = one.texts[index], one.styles[index]
        kept = text[:end]
        found.lost["names"] += one.is_named(text, plain_words(text)) and not one.is_named(kept, plain_words(kept))
        found.lost["styles"] += style is not None and style in text and style not in kept
        if len(found.longest) < MAX_LISTED or lengths[index] > found.longest[-1].value:
            long = one.extreme(lengths[index], (index,), (kept, text[end:]))
            found.longest = sorted([*found.longest, long], key=lambda long: -long.value)[:MAX_LISTED]
    return len(cut)


def _token_lengths(texts: Sequence[str], count_tokens: CountTokens) -> list[int]:
    lengths = [int(length) for length in count_tokens(texts)]
    if len(lengths) != len(texts):
        raise ValueError(f"count_tokens: found {len(lengths)} numbers for {len(texts)} texts, expected one each")
    return lengths


def _kept_ends(texts: Sequence[str], count_tokens: CountTokens, limit: int) -> list[int]:
    """How many characters of each text, in whole words, fit into `limit` tokens; every text is known to be longer.

    The place is found by halves, for all texts in the same calls.
    """
    ends = [[0, *(match.end() for match in re.finditer(r"\S+", text))] for text in texts]
    fits = [0] * len(texts)  # words
    too_many = [len(of_text) - 1 for of_text in ends]
    while open_ones := [index for index in range(len(texts)) if too_many[index] - fits[index] > 1]:
        middles = [(fits[index] + too_many[index]) // 2 for index in open_ones]
        parts = [texts[index][: ends[index][middle]] for index, middle in zip(open_ones, middles, strict=True)]
        for index, middle, length in zip(open_ones, middles, _token_lengths(parts, count_tokens), strict=True):
            (fits if length <= limit else too_many)[index] = middle
    return [of_text[words] for of_text, words in zip(ends, fits, strict=True)]


def _count_flags(one: _Class, found: Diversity) -> int:
    """How many prompts have a flagged word that the class's own name and meaning do not have."""
    of_name = set(flagged_words(plain_words(f"{one.name} {one.meaning or ''}")))
    num_flagged = 0
    for index, words in enumerate(one.plain):
        flags = [word for word in flagged_words(words) if word not in of_name]
        num_flagged += bool(flags)
        for word in flags:
            found.flags[word] += 1
            found.first_flagged.setdefault(word, one.extreme(1, (index,), (one.texts[index],)))
    return num_flagged


def report_lines(found: Diversity) -> list[str]:
    """The report for a terminal: a figure, then what it means. Texts of the table are not quoted."""
    total, num_classes = found.total("num_prompts"), len(found.classes)
    lines = [
        f"{total:,} {'prompt' if total == 1 else 'prompts'} of {num_classes:,} "
        f"{'class' if num_classes == 1 else 'classes'}, {found.num_distinct:,} distinct "
        f"{'text' if found.num_distinct == 1 else 'texts'}",
        "kinds: " + ", ".join(f"{visible(clip(kind, 40))} {count:,}" for kind, count in sorted(found.kinds.items())),
    ]
    if found.styles:
        lines.append(f"{len(found.styles):,} styles, each used {style_uses(found)}")
    compared = f"mean over classes, up to {found.sample} prompts each"
    for label, figure in (
        ("distinct word pairs (distinct-2)", "distinct_pairs"),
        ("mean distance of embeddings, 0 = all alike", "distance"),
    ):
        value = found.mean(figure)
        if value is not None:
            lines.append(f"{label}: {value:.3f} ({compared})")
    lines.append(f"class name missing in the whole text: {share(found.total('num_nameless'), total)}")
    if found.limit is None:
        lines.append(f"mean length: {found.mean_length:.1f} words (no tokenizer was given, so no limit is known)")
    else:
        cut = share(found.total("num_cut"), total)
        lines.append(f"over {found.limit} tokens: {cut}, {found.lost['tokens']:,} tokens lost")
        if found.longest:
            lines.append(what_cut_prompts_lost(found))
    words = ", ".join(f"{word} {count:,}" for word, count in found.flags.most_common(MAX_LISTED))
    lines.append(f"flagged words: {share(found.total('num_flagged'), total)}{f' ({words})' if words else ''}")
    lines.append(what_repeats(found))
    return lines


def style_uses(found: Diversity) -> str:
    """ "twice", "3 to 5 times": the least and the most."""
    least, most = min(found.styles.values()), max(found.styles.values())
    return f"{least:,} to {most:,} times" if least < most else "once" if most == 1 else f"{most:,} times"


def what_cut_prompts_lost(found: Diversity) -> str:
    lost = found.lost
    return (
        f"of {lost['looked at']:,} cut prompts looked at, {lost['names']:,} have the class name only in the end "
        f"that is not read, and {lost['styles']:,} their style"
    )


def what_repeats(found: Diversity) -> str:
    inside = found.total("num_prompts") - found.total("num_distinct")
    return f"repeats inside a class: {inside:,}; of another class: {found.total('num_distinct') - found.num_distinct:,}"


def share(count: int, total: int) -> str:
    """ "12 of 3,000 prompts (0.4 %)"; only nothing reads as 0 and only everything as 100."""
    percent = 100 * count / total
    shown = "under 0.1" if 0 < percent < 0.05 else "over 99.9" if 99.95 <= percent < 100 else f"{percent:.1f}"
    return f"{count:,} of {total:,} prompts ({shown} %)"
