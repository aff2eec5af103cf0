"""Random-weight pipelines of the four families in their true on-disk format, a few hundred kilobytes each.

In: a family and a folder. On disk: what `save_pretrained` of diffusers and transformers writes (safetensors,
`model_index.json`), with the CLIP tokenizers as the hub has them (`vocab.json`, `merges.txt`). Out: the folder.
"""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

WIDTH = 32
SIZE_PX = 64


def tiny_pipeline(family: str, folder: Path, checker_flags: bool | None = None) -> Path:
    """Writes the pipeline; `checker_flags` adds a safety checker (sd only) that flags every image or none."""
    torch.manual_seed(0)
    if family == "sd":
        pipeline = _sd(folder, checker_flags)
    else:
        pipeline = {"sdxl": _sdxl, "sd3": _sd3, "flux": _flux}[family](folder)
    pipeline.save_pretrained(folder, safe_serialization=True)
    for tokenizer in folder.glob("tokenizer*"):
        if (tokenizer / "tokenizer_config.json").is_file() and "CLIP" in (
            tokenizer / "tokenizer_config.json"
        ).read_text():
            _clip_tokenizer_files(tokenizer)
            (tokenizer / "tokenizer.json").unlink(missing_ok=True)
    return folder


def _clip_tokenizer_files(folder: Path) -> CLIPTokenizer:
    """Letters only: the smallest vocabulary in the hub's file format."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>"})
    )
    return CLIPTokenizer.from_pretrained(folder)


def _clip_text(tokenizer: CLIPTokenizer, projected: bool) -> CLIPTextModel | CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def _t5() -> tuple[T5TokenizerFast, T5EncoderModel]:
    letters = [(f"▁{letter}", -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *letters]
    vocab += [(letter, -3.5) for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokenizer = T5TokenizerFast(vocab=vocab, extra_ids=0, model_max_length=512)
    config = T5Config(vocab_size=len(tokenizer), d_model=WIDTH, d_ff=37, d_kv=8, num_layers=2, num_heads=4)
    return tokenizer, T5EncoderModel(config).eval()


def _vae(channels: int, shift: float | None) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=SIZE_PX,
        scaling_factor=0.18215 if shift is None else 1.5305,
        shift_factor=shift,
        use_quant_conv=shift is None,
        use_post_quant_conv=shift is None,
    ).eval()


def _unet(context: int, sdxl: bool) -> UNet2DConditionModel:
    extra = (
        {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 80}
        if sdxl
        else {}
    )
    return UNet2DConditionModel(
        sample_size=SIZE_PX // 8,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=context,
        attention_head_dim=4,
        norm_num_groups=4,
        **extra,
    ).eval()


def _sd(folder: Path, checker_flags: bool | None) -> StableDiffusionPipeline:
    tokenizer = _clip_tokenizer_files(folder / "tokenizer")
    checker = processor = None
    if checker_flags is not None:
        vision = CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
        )
        config = CLIPConfig(
            text_config=CLIPTextConfig().to_dict(), vision_config=vision.to_dict(), projection_dim=WIDTH
        )
        checker = StableDiffusionSafetyChecker(config).eval()
        # cosines lie in [-1, 1]: a threshold below or above decides for every image
        checker.concept_embeds_weights.data.fill_(-2.0 if checker_flags else 2.0)
        checker.special_care_embeds_weights.data.fill_(2.0)
        processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return StableDiffusionPipeline(
        vae=_vae(4, None),
        text_encoder=_clip_text(tokenizer, projected=False),
        tokenizer=tokenizer,
        unet=_unet(WIDTH, sdxl=False),
        scheduler=DPMSolverMultistepScheduler(steps_offset=1),
        safety_checker=checker,
        feature_extractor=processor,
        requires_safety_checker=checker is not None,
    )


def _sdxl(folder: Path) -> StableDiffusionXLPipeline:
    one = _clip_tokenizer_files(folder / "tokenizer")
    two = _clip_tokenizer_files(folder / "tokenizer_2")
    return StableDiffusionXLPipeline(
        vae=_vae(4, None),
        text_encoder=_clip_text(one, projected=False),
        text_encoder_2=_clip_text(two, projected=True),
        tokenizer=one,
        tokenizer_2=two,
        unet=_unet(2 * WIDTH, sdxl=True),
        scheduler=EulerDiscreteScheduler(),
        force_zeros_for_empty_prompt=True,
    )


def _sd3(folder: Path) -> StableDiffusion3Pipeline:
    one = _clip_tokenizer_files(folder / "tokenizer")
    two = _clip_tokenizer_files(folder / "tokenizer_2")
    three, t5 = _t5()
    transformer = SD3Transformer2DModel(
        sample_size=SIZE_PX // 8,
        patch_size=1,
        in_channels=16,  # as the real one: diffusers' inpainting asks for it
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=WIDTH * 2,
        pooled_projection_dim=2 * WIDTH,
        out_channels=16,
        pos_embed_max_size=16,
    ).eval()
    # T5 and the padded CLIP embeddings share one width: that of T5
    wide = T5Config(vocab_size=len(three), d_model=2 * WIDTH, d_ff=37, d_kv=8, num_layers=2, num_heads=4)
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(16, 0.0609),
        text_encoder=_clip_text(one, projected=True),
        tokenizer=one,
        text_encoder_2=_clip_text(two, projected=True),
        tokenizer_2=two,
        text_encoder_3=type(t5)(wide).eval(),
        tokenizer_3=three,
    )


def _flux(folder: Path) -> FluxPipeline:
    one = _clip_tokenizer_files(folder / "tokenizer")
    two, t5 = _t5()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,  # four times 16, as the real one
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    ).eval()
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_vae(16, 0.0609),
        text_encoder=_clip_text(one, projected=False),
        tokenizer=one,
        text_encoder_2=t5,
        tokenizer_2=two,
        transformer=transformer,
    )
