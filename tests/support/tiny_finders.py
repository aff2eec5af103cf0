"""Tiny models that find objects, with random weights, saved as transformers saves them: detectors, SAM 2, SAM 3,
Segformer."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    CLIPTextConfig,
    CLIPTokenizerFast,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    PreTrainedTokenizerFast,
    Sam2Config,
    Sam2ImageProcessor,
    Sam2Model,
    Sam2Processor,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam3Config,
    Sam3ImageProcessor,
    Sam3Model,
    Sam3Processor,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SwinConfig,
)

from shards.disk.home import home

SIDE_PX = 64
WORDS = ("a", "bird", "crane", "dog", "pug", "st", "bernard", "numeral", "seven")


def tiny_detector(folder: Path, is_mm: bool = False) -> Path:
    """Grounding DINO, or MM-Grounding-DINO, with two decoder layers and a vocabulary of ten words."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "backbone_config": SwinConfig(
            embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, out_indices=[2, 3, 4]
        ),
        # the ids 101, 102, 1012 and 1029 stand in the model's code: start, end, full stop, question mark
        "text_config": BertConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=1100
        ),
        "num_queries": 12,
        "d_model": 32,  # whose channels are normed in 32 groups
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_n_points": 2,
        "decoder_n_points": 2,
        "num_feature_levels": 3,
    }
    model = (
        MMGroundingDinoForObjectDetection(MMGroundingDinoConfig(**sizes))
        if is_mm
        else GroundingDinoForObjectDetection(GroundingDinoConfig(**sizes))
    )
    model.eval().save_pretrained(folder)
    images = GroundingDinoImageProcessor(size={"shortest_edge": SIDE_PX, "longest_edge": 2 * SIDE_PX})
    GroundingDinoProcessor(images, _bert_words()).save_pretrained(folder)
    return folder


def _bert_words() -> PreTrainedTokenizerFast:
    fixed = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}
    words = Tokenizer(WordLevel({**fixed, **{word: 200 + i for i, word in enumerate(WORDS)}}, unk_token="[UNK]"))
    words.normalizer = BertNormalizer()
    words.pre_tokenizer = BertPreTokenizer()
    words.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 101), ("[SEP]", 102)])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=64, **names)


def tiny_sam2(folder: Path) -> Path:
    """SAM 2 of four stages; its block of global attention does not open a stage."""
    torch.manual_seed(1)
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [SIDE_PX, SIDE_PX],
        "blocks_per_stage": [1, 2, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 2, 2, 1],
        "global_attention_blocks": [4],
        "window_positional_embedding_background_size": [2, 2],
    }
    config = Sam2Config(
        vision_config={
            "backbone_config": backbone,
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 32,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": SIDE_PX, "patch_size": 16},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
    )
    Sam2Model(config).eval().save_pretrained(folder)
    side = {"height": SIDE_PX, "width": SIDE_PX}
    Sam2Processor(Sam2ImageProcessor(size=side, mask_size={"height": 16, "width": 16})).save_pretrained(folder)
    return folder


def tiny_sam2_video(folder: Path) -> Path:
    """The same for videos, with a memory, as the hub has SAM 2."""
    still = Sam2Config.from_pretrained(tiny_sam2(folder))
    small = {"memory_attention_hidden_size": 32, "memory_attention_num_layers": 1, "memory_encoder_hidden_size": 32}
    config = Sam2VideoConfig(
        vision_config=still.vision_config.to_dict(),
        prompt_encoder_config={"hidden_size": 32, "image_size": SIDE_PX, "patch_size": 16},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
        image_size=SIDE_PX,
        memory_attention_feed_forward_hidden_size=16,
        memory_encoder_output_channels=16,
        mask_downsampler_embed_dim=32,
        memory_fuser_embed_dim=32,
        memory_fuser_intermediate_dim=16,
        memory_fuser_num_layers=1,
        **small,
    )
    Sam2VideoModel(config).eval().save_pretrained(folder)
    return folder


def as_sam3_video(folder: Path, into: Path) -> Path:
    """A copy of a SAM 3 as the hub has it: the detector of a model for videos, beside a tracker."""
    shutil.copytree(folder, into)
    config = {"detector_config": json.loads((folder / "config.json").read_text()), "tracker_config": {}}
    (into / "config.json").write_text(json.dumps({"model_type": "sam3_video", **config}))
    weights = load_file(folder / "model.safetensors")
    video = {f"detector_model.{name}": value for name, value in weights.items()}
    tracker = {"tracker_model.x": torch.zeros(2), "tracker_neck.x": torch.zeros(2)}
    save_file({**video, **tracker}, into / "model.safetensors", metadata={"format": "pt"})
    return into


def tiny_sam3(folder: Path) -> Path:
    """SAM 3 with the sandbox's tokenizer."""
    torch.manual_seed(2)
    patches = 8
    small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    text = CLIPTextConfig(
        vocab_size=830,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        projection_dim=16,
        bos_token_id=828,
        eos_token_id=829,
        pad_token_id=829,
    )
    config = Sam3Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model",
                **small,
                "num_hidden_layers": 2,
                "image_size": SIDE_PX,
                "patch_size": SIDE_PX // patches,
                "pretrain_image_size": SIDE_PX,
                "window_size": 4,
                "global_attn_indexes": [1],
            },
            "fpn_hidden_size": 16,
            "backbone_feature_sizes": [[4 * patches] * 2, [2 * patches] * 2, [patches] * 2],
        },
        text_config=text.to_dict(),
        geometry_encoder_config={**small, "num_layers": 1},
        detr_encoder_config={**small, "num_layers": 1},
        detr_decoder_config={**small, "num_layers": 2, "num_queries": 10},
        mask_decoder_config={"hidden_size": 16, "num_attention_heads": 2},
    )
    Sam3Model(config).eval().save_pretrained(folder)
    side = {"height": SIDE_PX, "width": SIDE_PX}
    tokens = CLIPTokenizerFast.from_pretrained(home() / "sandbox" / "models" / "clip")
    Sam3Processor(Sam3ImageProcessor(size=side), tokens).save_pretrained(folder)
    return folder


def tiny_segformer(folder: Path, num_classes: int = 4) -> Path:
    """Segformer of two stages."""
    torch.manual_seed(3)
    config = SegformerConfig(
        num_labels=num_classes,
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[3, 3],
        strides=[2, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=8,
    )
    SegformerForSemanticSegmentation(config).eval().save_pretrained(folder)
    SegformerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def with_pickle(folder: Path, into: Path) -> Path:
    """A copy of a model whose weights are a pickle, as old revisions have them."""
    shutil.copytree(folder, into)
    (into / "model.safetensors").rename(into / "pytorch_model.bin")
    return into
