"""A small vision transformer for experiments that run on a laptop: timm's own, made small.

In: images (N, 3, size_px, size_px). Out: logits (N, num_classes). On disk: nothing. It has layer normalisation and none
of the batch, so auxiliary batch normalisation (`model.aux`) has nothing to split here.
"""

from torch import nn

PATCH_PX = 8  # 64 patches of a picture of 64 px
WIDTH, DEPTH, HEADS = 96, 6, 3  # 0.7 M parameters; half of DeiT-Ti's width and depth, with as many heads


def sandbox_vit(num_classes: int, size_px: int, drop_path: float = 0.0) -> nn.Module:
    """A ViT for pictures of one size; its classifier is called `head`. Raises ValueError for a size that is no multiple
    of the patches'."""
    from timm.models.vision_transformer import VisionTransformer

    if size_px % PATCH_PX:
        raise ValueError(
            f"data.size_px: found {size_px}, expected a multiple of {PATCH_PX}, the size of sandbox_vit's patches"
        )
    return VisionTransformer(
        img_size=size_px,
        patch_size=PATCH_PX,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        num_classes=num_classes,
        drop_path_rate=drop_path,
    )
