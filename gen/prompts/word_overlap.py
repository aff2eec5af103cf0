"""Overlap of words: how much of a few texts is the same, without any model; pure.

In: the texts of one class, as `plain_words`. Out: distinct-n, self-BLEU, the pair that shares most. On disk: nothing.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

MAX_ORDER = 4
# A run of n words that no other text has counts as a tenth of a match, so that one missing order does not make the
# whole score 0. Source: Chen and Cherry 2014, method 1.
NO_MATCH = 0.1

Gram = tuple[str, ...]


def grams(words: Sequence[str], order: int) -> list[Gram]:
    """Runs of `order` words."""
    return list(zip(*(words[start:] for start in range(order)), strict=False))


def distinct_n(texts: Sequence[Sequence[str]], order: int) -> float | None:
    """Different runs of `order` words over all runs, from 0 to 1; None if no text is that long."""
    found = [gram for words in texts for gram in grams(words, order)]
    return len(set(found)) / len(found) if found else None


def self_bleu(texts: Sequence[Sequence[str]]) -> float | None:
    """Mean BLEU-4 of each text against all others: 1 = every text could be cut from the others, None for fewer than 2.

    Texts of fewer than 4 words are scored by the orders they have; a text without words scores 0.
    Source: Papineni et al. 2002 (BLEU); Zhu et al. 2018 (each text against the rest).
    """
    if len(texts) < 2:
        return None
    logs = [0.0] * len(texts)  # sum of log precisions
    for order in range(1, MAX_ORDER + 1):
        counts = [Counter(grams(words, order)) for words in texts]
        most = _two_largest(counts)
        for index, count in enumerate(counts):
            total = sum(count.values())
            if total:
                matches = 0
                for gram, times in count.items():
                    largest, holder, second = most[gram]
                    matches += min(times, second if holder == index else largest)
                logs[index] += math.log((matches or NO_MATCH) / total)
    lengths = [len(words) for words in texts]
    brevity = _brevity(Counter(lengths))
    scores = [
        math.exp(logs[index] / min(length, MAX_ORDER) + brevity[length]) if length else 0.0
        for index, length in enumerate(lengths)
    ]
    return math.fsum(scores) / len(scores)


def _two_largest(counts: Sequence[Counter[Gram]]) -> dict[Gram, tuple[int, int, int]]:
    """Each run's (largest count, the text that has it, largest count in another text)."""
    most: dict[Gram, tuple[int, int, int]] = {}
    for index, count in enumerate(counts):
        for gram, times in count.items():
            largest, holder, second = most.get(gram, (0, -1, 0))
            if times > largest:
                most[gram] = (times, index, largest)
            elif times > second:
                most[gram] = (largest, holder, times)
    return most


def _brevity(lengths: Counter[int]) -> dict[int, float]:
    """Logarithm of BLEU's brevity penalty for a text of each length, against the other text of nearest length.

    Of two equally near ones the shorter counts.
    """
    penalties = {}
    for length, times in lengths.items():
        others = [other for other in lengths if other != length or times > 1]
        nearest = min(others, key=lambda other: (abs(other - length), other))
        penalties[length] = min(0.0, 1 - nearest / length) if length else 0.0
    return penalties


def most_alike(texts: Sequence[Sequence[str]]) -> tuple[int, int, float] | None:
    """The two texts that share most of their words and pairs of words: (first, second, shared over all of both).

    The earliest pair of equals; None for fewer than 2 texts.
    """
    if len(texts) < 2:
        return None
    numbers: dict[Gram, int] = {}
    rows = [
        [numbers.setdefault(gram, len(numbers)) for order in (1, 2) for gram in grams(words, order)] for words in texts
    ]
    used = np.zeros((len(texts), len(numbers)), np.float32)  # whole numbers below 2**24, so sums are exact
    for index, row in enumerate(rows):
        used[index, row] = 1
    shared = np.einsum("ag,bg->ab", used, used)  # one thread; BLAS would wake all of them for so little
    sizes = used.sum(1)
    either = sizes[:, None] + sizes[None, :] - shared
    share = np.where(either > 0, shared / np.maximum(either, 1), 1.0)
    share[np.tril_indices(len(texts))] = -1
    first, second = divmod(int(share.argmax()), len(texts))
    return first, second, float(share[first, second])
