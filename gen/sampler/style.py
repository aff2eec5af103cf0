"""Gives a loaded pipeline new words: tokens of its CLIP tokenizers, and rows of the encoders' embeddings.

In: a pipeline of diffusers, words, how many vectors each has; rows. Out: the same pipeline, which knows them. On disk:
nothing. The result is that of diffusers' `load_textual_inversion`, for the families that it knows and for SD3, which it
does not: the first vector of `<word>` is the token `<word>`, the others are `<word>_1`, `<word>_2`, ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gen.model.folder import ModelError
from gen.model.style_token import TOKENIZERS, RowsName, StyleToken, tokens_of

if TYPE_CHECKING:
    import torch


def add_words(tokenizer: Any, encoder: Any, words: Sequence[str], vectors: int) -> int:
    """New tokens for the words, and rows of zeros for the tokens; the id of the first one.

    The ids follow each other, word by word. Raises ModelError for a word that the tokenizer knows.
    """
    import torch

    tokens = [token for word in words for token in tokens_of(word, vectors)]
    known = tokenizer.get_vocab()
    for token in tokens:
        if token in known:
            raise ModelError(f"style token: found the word {token}, which the model's tokenizer knows; give another")
    first = len(tokenizer)
    if tokenizer.add_tokens(tokens) != len(tokens) or tokenizer.convert_tokens_to_ids(tokens[-1]) != len(tokenizer) - 1:
        raise ModelError(f"style token: the model's tokenizer did not take {tokens[0]} as a new word; give another")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        if encoder.get_input_embeddings().num_embeddings < len(tokenizer):
            encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        encoder.get_input_embeddings().weight[first : first + len(tokens)] = 0
    return first


def put_rows(encoder: Any, first: int, rows: Sequence[torch.Tensor]) -> None:
    """Write the rows [vectors, width] of each word behind each other, from row `first` on."""
    import torch

    with torch.no_grad():
        weight = encoder.get_input_embeddings().weight
        together = torch.cat(list(rows)).to(weight)
        weight[first : first + len(together)] = together


def load_style_token(pipeline: Any, token: StyleToken, which: RowsName) -> None:
    """Let the pipeline know the token. Raises ModelError for a damaged file or a word that it knows already."""
    import torch

    found: Mapping[str, Mapping[str, Any]] = token.rows(which)
    for name, rows in found.items():
        encoder = getattr(pipeline, name)
        first = add_words(getattr(pipeline, TOKENIZERS[name]), encoder, list(rows), token.told.vectors)
        put_rows(encoder, first, [torch.from_numpy(row) for row in rows.values()])
