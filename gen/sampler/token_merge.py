"""Token merging: self-attention of a U-Net's finest level over fewer tokens, alike ones averaged. Makes other images.

In: a U-Net of Stable Diffusion's kind and the share of tokens to merge. Out: the same U-Net. Nothing is written.

Source: Bolya & Hoffman 2023, Token Merging for Fast Stable Diffusion; merged by the input of the attention itself. The
tokens that stay are fixed (one of every 2x2), where the paper draws them, so that an image depends on nothing but its
own prompt and seed.

Shapes: N rows (images, twice under guidance), T = side * side tokens, S of them may be merged, M are; C width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MAX_SHARE = 0.75  # the token at the corner of every 2x2 stays


def merge_tokens(unet: Any, share: float) -> None:
    """Merge ``share`` (0 to 0.75) of the tokens before self-attention; each then gets the answer of where it went.

    Only where the level is finest: its attention costs most and its neighbours are most alike. Raises ValueError for a
    U-Net without attention.
    """
    for block in _finest_blocks(unet):
        block.attn1.forward = _merged(block.attn1.forward, share)


def _finest_blocks(unet: Any) -> list[Any]:
    down = next((place for place, block in enumerate(unet.down_blocks) if _transformers(block)), None)
    if down is None:
        raise ValueError("merge_tokens: found no attention in this U-Net; set sampler.merge_tokens=null")
    up = len(unet.up_blocks) - 1 - down
    return [*_transformers(unet.down_blocks[down]), *_transformers(unet.up_blocks[up])]


def _transformers(level: Any) -> list[Any]:
    return [block for part in getattr(level, "attentions", None) or () for block in part.transformer_blocks]


def _merged(attend: Callable[..., torch.Tensor], share: float) -> Callable[..., torch.Tensor]:
    def forward(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        tokens_NTC = hidden_states
        count = int(tokens_NTC.shape[1] * share)
        if not count:
            return attend(tokens_NTC, *args, **kwargs)
        merge, spread = pairing(tokens_NTC, count)
        return spread(attend(merge(tokens_NTC), *args, **kwargs))

    return forward


def pairing(
    tokens_NTC: torch.Tensor, count: int
) -> tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]:
    """How to average ``count`` tokens of each row into those that stay, and how to give every token its answer back.

    The tokens are those of a square picture, in rows. Most alike (cosine) go first, each to the one most like it.
    """
    import torch

    total = tokens_NTC.shape[1]
    side = math.isqrt(total)
    if side * side != total:
        raise ValueError(f"found {total} tokens, expected those of a square picture")
    place_T = torch.arange(total, device=tokens_NTC.device)
    stays_T = ((place_T // side) % 2 == 0) & ((place_T % side) % 2 == 0)
    order_T = torch.argsort(stays_T.to(torch.uint8), stable=True)  # those that may go, then those that stay
    back_T = torch.argsort(order_T)
    free = total - ((side + 1) // 2) ** 2
    count = min(count, free)

    unit_NTC = torch.nn.functional.normalize(tokens_NTC.float(), dim=-1).to(tokens_NTC.dtype)[:, order_T]
    likeness_NSK = unit_NTC[:, :free] @ unit_NTC[:, free:].transpose(1, 2)
    best_NS, target_NS = likeness_NSK.max(dim=-1)
    ranked_NS = torch.argsort(best_NS, dim=-1, descending=True, stable=True)
    gone_NM1, kept_NR1 = ranked_NS[:, :count, None], ranked_NS[:, count:, None]
    target_NM1 = target_NS[:, :, None].gather(1, gone_NM1)

    def merge(x_NTC: torch.Tensor) -> torch.Tensor:
        may_go, stay = x_NTC[:, order_T].split([free, total - free], dim=1)
        # a product, because a scattered sum adds in another order in every run on a GPU
        goes_NMK = target_NM1 == torch.arange(total - free, device=x_NTC.device)
        members_NK1 = 1 + goes_NMK.sum(dim=1)[:, :, None]
        summed = torch.baddbmm(stay, goes_NMK.transpose(1, 2).to(stay), may_go.gather(1, _wide(gone_NM1, may_go)))
        return torch.cat([may_go.gather(1, _wide(kept_NR1, may_go)), summed / members_NK1], dim=1)

    def spread(y_NRC: torch.Tensor) -> torch.Tensor:
        kept, stay = y_NRC.split([free - count, total - free], dim=1)
        may_go = y_NRC.new_empty(len(y_NRC), free, y_NRC.shape[-1])
        may_go = may_go.scatter(1, _wide(kept_NR1, kept), kept)
        may_go = may_go.scatter(1, _wide(gone_NM1, stay), stay.gather(1, _wide(target_NM1, stay)))
        return torch.cat([may_go, stay], dim=1)[:, back_T]

    return merge, spread


def _wide(index_NM1: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return index_NM1.expand(-1, -1, like.shape[-1])
