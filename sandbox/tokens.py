"""The sandbox's tokenizer, in CLIP's own format.

In: the words that captions can use. Out: a `CLIPTokenizer`. On disk: `vocab.json`, `merges.txt` beside each model that
reads text.

Byte-pair merges are learnt until every word of the captions is a single token. Any other word becomes several pieces,
down to bytes, so no text is refused.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from sandbox.captions import (
    BARE_NAMES,
    COLOUR_DETAILS,
    DIE_MEANINGS,
    EMPTY_NAMES,
    FRAMES,
    GROUND_PHRASES,
    LIGHT_PHRASES,
    NUMERAL_MEANINGS,
    PHOTO_FRAMES,
    SHAPE_NAMES,
    STYLE_PHRASES,
    TILE_MEANINGS,
)
from sandbox.world import CLASS_NAMES, INKS, PAPERS, SHAPES

CONTEXT = 32  # tokens, both ends included; the longest caption of the pool has 30
START, END = "<|startoftext|>", "<|endoftext|>"


def caption_words() -> tuple[str, ...]:
    """Every word a caption can hold, sorted, lower case, letters only."""
    forms = (
        *NUMERAL_MEANINGS,
        *DIE_MEANINGS,
        *TILE_MEANINGS,
        *BARE_NAMES,
        *SHAPE_NAMES,
        *EMPTY_NAMES,
        *GROUND_PHRASES.values(),
        *COLOUR_DETAILS,
        *PHOTO_FRAMES,
        *FRAMES,
        *LIGHT_PHRASES.values(),
        *STYLE_PHRASES.values(),
    )
    filled = [form.format(name="", digit="", ink="", paper="", page="", short="", shape="") for form in forms]
    text = " ".join((*filled, *CLASS_NAMES, *INKS, *PAPERS, *SHAPES)).lower()
    return tuple(sorted(set("".join(c if c.isalpha() else " " for c in text).split())))


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Merge the most frequent pair (ties in alphabetical order) until every word is one token."""
    pieces = {word: (*word[:-1], word[-1] + "</w>") for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for parts in pieces.values() for pair in pairwise(parts))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = {word: _merged(parts, best) for word, parts in pieces.items()}


def _merged(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    result: list[str] = []
    position = 0
    while position < len(parts):
        if parts[position : position + 2] == pair:
            result.append(pair[0] + pair[1])
            position += 2
        else:
            result.append(parts[position])
            position += 1
    return tuple(result)


def new_tokenizer() -> CLIPTokenizer:
    """The tokenizer of both the generator and CLIP; the same on every machine."""
    alphabet = sorted(ByteLevel.alphabet())
    merges = learn_merges(caption_words())
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    for first, second in merges:
        if first + second not in tokens:
            tokens.append(first + second)
    tokens += [START, END]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,  # type: ignore[arg-type]  # annotated as text, takes pairs
        model_max_length=CONTEXT,
    )
