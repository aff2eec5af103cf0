"""Encodes texts with the text encoders of the pipeline, as embeddings for the denoiser.

In: a loaded pipeline and texts, encoded as one batch. Out: ``prompt_embeds`` NTD and, where the family has them,
``pooled_prompt_embeds`` ND: N texts, T tokens, D embedding width. The values are those of diffusers' ``encode_prompt``
to the last bit. For SD and SDXL it is not called, because it reads every text three times: to look for tokens of
several vectors, to cut it, and once uncut, for a warning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gen.model.style_token import spelled

if TYPE_CHECKING:
    import torch


def encode_texts(
    pipeline: Any, family: str, texts: Sequence[str], device: torch.device, num_tokens: int | None
) -> dict[str, torch.Tensor]:
    """``num_tokens``: length of the T5 text of SD3 and FLUX; None = the pipeline's own."""
    if family == "sd":
        return _sd(pipeline, texts, device)
    if family == "sdxl":
        return _sdxl(pipeline, texts, device)
    length = {} if num_tokens is None else {"max_sequence_length": num_tokens}
    if family == "flux":
        embeds, pooled, _ = pipeline.encode_prompt(list(texts), device=device, **length)
    else:
        # the pipeline itself spells no learned word; T5 has none, and reads its letters
        one, two = (spelled(tokenizer, texts) for tokenizer in (pipeline.tokenizer, pipeline.tokenizer_2))
        embeds, _, pooled, _ = pipeline.encode_prompt(
            one, two, list(texts), device=device, do_classifier_free_guidance=False, **length
        )
    return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}


def _sd(pipeline: Any, texts: Sequence[str], device: torch.device) -> dict[str, torch.Tensor]:
    encoder = pipeline.text_encoder
    read = _read(pipeline.tokenizer, texts)
    mask = read.attention_mask.to(device) if getattr(encoder.config, "use_attention_mask", False) else None
    return {"prompt_embeds": encoder(read.input_ids.to(device), attention_mask=mask)[0]}


def _sdxl(pipeline: Any, texts: Sequence[str], device: torch.device) -> dict[str, torch.Tensor]:
    """The last layer but one of both encoders, side by side; the pooled text is the second one's projection."""
    import torch

    layers, pooled = [], None
    for tokenizer, encoder in (
        (pipeline.tokenizer, pipeline.text_encoder),
        (pipeline.tokenizer_2, pipeline.text_encoder_2),
    ):
        told = encoder(_read(tokenizer, texts).input_ids.to(device), output_hidden_states=True)
        layers.append(told.hidden_states[-2])
        pooled = told[0]
    assert pooled is not None
    return {"prompt_embeds": torch.cat(layers, dim=-1), "pooled_prompt_embeds": pooled}


def _read(tokenizer: Any, texts: Sequence[str]) -> Any:
    """Token ids NT, cut and filled up to the encoder's length."""
    return tokenizer(
        spelled(tokenizer, texts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
