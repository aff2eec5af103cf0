"""Measuring the diversity of prompts before any image is made.

In: a prompt table, and optionally the text encoder's token counts and its embeddings. Out: a `Diversity`. On disk: only
reads.

Counts (missing names, cut prompts, flagged words, repeats) are of every prompt. What compares prompts with each other
(distinct-n, self-BLEU, distance, the most alike pair) is of a sample drawn from each class with the seed: so its cost
is bounded, and tables of different sizes can be compared. Rows are streamed: one class and 12 bytes a prompt are held,
some 80 bytes a prompt while texts of several classes are sought at the end.
"""

import hashlib
import heapq
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from gen.names.display_name import plain_words, says, says_words
from gen.prompts.diversity_figures import (
    MAX_LISTED,
    ClassDiversity,
    Diversity,
    FlaggedWord,
    LongPrompt,
    Pair,
    PromptPlace,
    SharedText,
)
from gen.prompts.encoder_limit import CLIP_TOKENS, CountTokens, kept_ends, token_lengths
from gen.prompts.prompt_rows import ClassRows, rows_by_class, table_name, texts_at
from gen.prompts.word_overlap import distinct_n, most_alike, self_bleu
from gen.wording.flagged_words import find_flag, flagged_words, group_of

SAMPLE = 50
MAX_CUT = 10_000  # long prompts whose lost end is looked at
MAX_LENGTH = 2_000  # longer prompts are counted as this long in the histogram

Embed = Callable[[Sequence[str]], NDArray[np.float32]]  # one unit row a text


@dataclass
class _Sums:
    """What is kept of the classes that have gone by."""

    classes: list[ClassDiversity] = field(default_factory=list)
    styles: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    num_tokens_lost: int = 0
    num_cut_seen: int = 0
    num_name_lost: int = 0
    num_style_lost: int = 0
    pairs: list[Pair] = field(default_factory=list)
    longest: list[LongPrompt] = field(default_factory=list)
    flags: Counter[str] = field(default_factory=Counter)
    first_flagged: dict[str, tuple[PromptPlace, str]] = field(default_factory=dict)
    digests: "array[int]" = field(default_factory=lambda: array("Q"))
    class_ids: "array[int]" = field(default_factory=lambda: array("I"))


def measure_diversity(
    source: Path | bytes,
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
    Raises ValueError if the table is empty, damaged or not sorted by class, or a callable answers in another shape.
    """
    if sample < 2:
        raise ValueError(f"sample: found {sample}, expected at least 2 prompts to compare")
    kinds: Counter[str] = Counter()
    sums = _Sums()
    for group in rows_by_class(source, kinds):
        _look_at_class(group, sums, seed, count_tokens, limit, embed, sample)
    if not sums.classes:
        raise ValueError(
            f"{table_name(source)}: found no prompt, expected at least one; write it with `sixfold prompts`"
        )
    num_distinct, num_shared, shared = _shared_texts(source, sums)
    by_use = sorted(sums.styles.items(), key=lambda item: (-item[1], item[0]))
    return Diversity(
        classes=tuple(sums.classes),
        kinds=tuple(sorted(kinds.items())),
        styles=tuple(by_use),
        num_distinct=num_distinct,
        sample=sample,
        seed=seed,
        unit="words" if count_tokens is None else "tokens",
        limit=None if count_tokens is None else limit,
        lengths=tuple(sorted(sums.lengths.items())),
        num_tokens_lost=sums.num_tokens_lost,
        num_cut_seen=sums.num_cut_seen,
        num_name_lost=sums.num_name_lost,
        num_style_lost=sums.num_style_lost,
        pairs=tuple(sums.pairs),
        longest=tuple(sums.longest),
        flagged=_flagged(sums),
        num_shared=num_shared,
        shared=shared,
    )


def _look_at_class(
    group: ClassRows,
    sums: _Sums,
    seed: int,
    count_tokens: CountTokens | None,
    limit: int,
    embed: Embed | None,
    sample: int,
) -> None:
    texts = group.texts
    plain = [plain_words(text) for text in texts]
    digests = [_digest(text) for text in texts]
    sums.digests.extend(digests)
    sums.class_ids.extend([group.class_id] * len(texts))
    sums.styles.update(style for style in group.styles if style is not None)
    of_name = set(flagged_words(plain_words(f"{group.class_name} {group.meaning or ''}")))
    num_flagged = _count_flags(group, plain, of_name, sums)
    if count_tokens is None:
        sums.lengths.update(min(len(words.split()), MAX_LENGTH) for words in plain)
        num_cut = 0
    else:
        num_cut = _count_cut(group, sums, count_tokens, limit)
    picks = _pick(len(texts), sample, seed, group.class_id)
    words = [plain[index].split() for index in picks]
    distance, pair = _compare(group, picks, words, embed)
    if pair is not None:
        sums.pairs = heapq.nsmallest(MAX_LISTED, [*sums.pairs, pair], key=lambda one: (-one.alike, one.one.class_id))
    sums.classes.append(
        ClassDiversity(
            class_id=group.class_id,
            class_name=group.class_name,
            meaning=group.meaning,
            num_prompts=len(texts),
            num_distinct=len(set(digests)),
            num_sampled=len(picks),
            distinct_1=distinct_n(words, 1),
            distinct_2=distinct_n(words, 2),
            self_bleu=self_bleu(words),
            distance=distance,
            num_nameless=sum(
                not says_words(text, words, group.class_name) for text, words in zip(texts, plain, strict=True)
            ),
            num_cut=num_cut,
            num_flagged=num_flagged,
            flags_of_name=tuple(sorted(of_name)),
        )
    )


# what is compared with each other


def _pick(count: int, sample: int, seed: int, class_id: int) -> list[int]:
    """`sample` of range(count), ascending; all of it if there are no more."""
    if count <= sample:
        return list(range(count))
    digest = hashlib.blake2b(f"{seed} {class_id}".encode(), digest_size=16, person=b"sixfold sample").digest()
    rng = Random(int.from_bytes(digest, "big"))
    keys = [rng.random() for _ in range(count)]
    return sorted(heapq.nsmallest(sample, range(count), key=keys.__getitem__))


def _compare(
    group: ClassRows, picks: Sequence[int], words: Sequence[Sequence[str]], embed: Embed | None
) -> tuple[float | None, Pair | None]:
    """Mean pairwise distance of the sample, and its most alike pair of different texts."""
    texts = [group.texts[index] for index in picks]
    first_of = {text: index for index, text in reversed(list(enumerate(texts)))}
    different = sorted(first_of.values())
    distance = None
    found: tuple[int, int, float] | None
    if embed is None:
        found = most_alike([words[index] for index in different])
    else:
        rows = np.asarray(embed(texts), np.float64)
        if rows.ndim != 2 or len(rows) != len(texts) or not np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-2):
            raise ValueError(
                f"embeddings of class {group.class_id}: found an array of shape {rows.shape}, expected {len(texts)} "
                "rows of length 1; normalise them"
            )
        cosines = rows @ rows.T
        if len(texts) > 1:
            num_pairs = len(texts) * (len(texts) - 1)
            distance = 1 - float(cosines.sum() - np.trace(cosines)) / num_pairs
        found = _nearest(cosines[np.ix_(different, different)])
    if found is None:
        return distance, None
    one, other = different[found[0]], different[found[1]]
    pair = Pair(found[2], _place(group, picks[one]), _place(group, picks[other]), texts[one], texts[other])
    return distance, pair


def _nearest(cosines: NDArray[np.float64]) -> tuple[int, int, float] | None:
    if len(cosines) < 2:
        return None
    cosines = cosines.copy()
    cosines[np.tril_indices(len(cosines))] = -2
    first, second = divmod(int(cosines.argmax()), len(cosines))
    return first, second, float(cosines[first, second])


# what the encoder does not read


def _count_cut(group: ClassRows, sums: _Sums, count_tokens: CountTokens, limit: int) -> int:
    lengths = token_lengths(group.texts, count_tokens)
    sums.lengths.update(min(length, MAX_LENGTH) for length in lengths)
    cut = [index for index, length in enumerate(lengths) if length > limit]
    sums.num_tokens_lost += sum(lengths[index] - limit for index in cut)
    seen = cut[: MAX_CUT - sums.num_cut_seen]
    sums.num_cut_seen += len(seen)
    ends = kept_ends([group.texts[index] for index in seen], count_tokens, limit)
    for index, end in zip(seen, ends, strict=True):
        text, style = group.texts[index], group.styles[index]
        kept = text[:end]
        sums.num_name_lost += says(text, group.class_name) and not says(kept, group.class_name)
        sums.num_style_lost += style is not None and style in text and style not in kept
        long = LongPrompt(lengths[index], _place(group, index), kept, text[end:])
        if len(sums.longest) < MAX_LISTED or long.length > sums.longest[-1].length:
            sums.longest = sorted([*sums.longest, long], key=lambda one: -one.length)[:MAX_LISTED]
    return len(cut)


# flagged words


def _count_flags(group: ClassRows, plain: Sequence[str], of_name: set[str], sums: _Sums) -> int:
    num_flagged = 0
    for index, words in enumerate(plain):
        found = [word for word in flagged_words(words) if word not in of_name]
        num_flagged += bool(found)
        for word in found:
            sums.flags[word] += 1
            sums.first_flagged.setdefault(word, (_place(group, index), group.texts[index]))
    return num_flagged


def _flagged(sums: _Sums) -> tuple[FlaggedWord, ...]:
    result = []
    for word, count in sorted(sums.flags.items(), key=lambda item: (-item[1], item[0])):
        place, text = sums.first_flagged[word]
        start, end = find_flag(text, word)
        result.append(FlaggedWord(word, group_of(word), count, place, text[:start], text[start:end], text[end:]))
    return tuple(result)


def _shared_texts(source: Path | bytes, sums: _Sums) -> tuple[int, int, tuple[SharedText, ...]]:
    """Distinct texts in all, texts that more than one class has, and the first few of those.

    The texts are known by 64 bits of a hash: among 1.28 million, two different ones meet with probability 4e-8.
    """
    digests = np.frombuffer(sums.digests, np.uint64)
    class_ids = np.frombuffer(sums.class_ids, np.uint32)
    order = np.lexsort((class_ids, digests))
    digests, class_ids = digests[order], class_ids[order]
    is_new = np.concatenate([[True], digests[1:] != digests[:-1]])
    starts = np.flatnonzero(is_new)
    ends = np.append(starts[1:], len(digests))
    is_shared = class_ids[starts] != class_ids[ends - 1]
    first_rows = np.minimum.reduceat(order, starts)[is_shared]
    listed = np.argsort(first_rows)[:MAX_LISTED]
    names = {one.class_id: one.class_name for one in sums.classes}
    texts = texts_at(source, first_rows[listed].tolist())
    shared = []
    for start, end, text in zip(starts[is_shared][listed], ends[is_shared][listed], texts, strict=True):
        of_text = np.unique(class_ids[start:end]).tolist()
        shared.append(SharedText(text, int(end - start), tuple((one, names[one]) for one in of_text[:MAX_LISTED])))
    return len(starts), int(is_shared.sum()), tuple(shared)


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _place(group: ClassRows, index: int) -> PromptPlace:
    return PromptPlace(group.class_id, group.prompt_ids[index], group.class_name)
