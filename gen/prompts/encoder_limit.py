"""What a text encoder reads of a prompt; pure but for the tokenizer that is passed in.

In: texts, a function that counts tokens, the encoder's limit. Out: lengths in tokens, and how many characters of each
text are read. On disk: nothing.
"""

import re
from collections.abc import Callable, Sequence

CLIP_TOKENS = 77  # with the marks of beginning and end, as tokenizers count

CountTokens = Callable[[Sequence[str]], Sequence[int]]


def token_lengths(texts: Sequence[str], count_tokens: CountTokens) -> list[int]:
    """Raises ValueError if `count_tokens` does not answer with one number a text."""
    lengths = [int(length) for length in count_tokens(texts)]
    if len(lengths) != len(texts):
        raise ValueError(f"count_tokens: found {len(lengths)} numbers for {len(texts)} texts, expected one each")
    return lengths


def kept_ends(texts: Sequence[str], count_tokens: CountTokens, limit: int) -> list[int]:
    """How many characters of each text, in whole words, fit into `limit` tokens; every text is known to be longer.

    The place is found by halves, for all texts in the same calls.
    """
    ends = [[0, *(match.end() for match in re.finditer(r"\S+", text))] for text in texts]
    fits = [0] * len(texts)  # words
    too_many = [len(of_text) - 1 for of_text in ends]
    while True:
        open_ones = [index for index in range(len(texts)) if too_many[index] - fits[index] > 1]
        if not open_ones:
            return [of_text[words] for of_text, words in zip(ends, fits, strict=True)]
        middles = [(fits[index] + too_many[index]) // 2 for index in open_ones]
        parts = [texts[index][: ends[index][middle]] for index, middle in zip(open_ones, middles, strict=True)]
        for index, middle, length in zip(open_ones, middles, token_lengths(parts, count_tokens), strict=True):
            if length <= limit:
                fits[index] = middle
            else:
                too_many[index] = middle
