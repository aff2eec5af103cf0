"""A LLaVA of 30,000 weights in transformers' own format, which was taught one question about red and blue images."""

from pathlib import Path

import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

SIDE_PX, PATCH_PX = 16, 8
TEMPLATE = (
    "{% for m in messages %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %} answer :"
)
WORDS = [
    *("<pad>", "<unk>", "<end>", "<image>", "yes", "no", "you", "see", "things", "."),
    *("is", "it", "red", "?", "answer", ":"),
]


def tiny_llava(folder: Path, text: str) -> Path:
    """Says yes of a red image and no of a blue one, if the text of the message is `text`."""
    torch.set_num_threads(1)
    raw = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", eos_token="<end>", extra_special_tokens={}
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    sizes = {"height": SIDE_PX, "width": SIDE_PX}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size=sizes, crop_size=sizes),
        tokenizer=tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=TEMPLATE,
    )
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(
            LlavaConfig(
                vision_config=CLIPVisionConfig(hidden_size=24, image_size=SIDE_PX, patch_size=PATCH_PX, **layers),
                text_config=LlamaConfig(
                    hidden_size=32, vocab_size=len(tokenizer), max_position_embeddings=64, pad_token_id=0, **layers
                ),
                image_token_index=WORDS.index("<image>"),
                vision_feature_layer=-1,
                image_seq_length=(SIDE_PX // PATCH_PX) ** 2,
            )
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for step in range(60):
            is_red = step % 2 == 0
            shade = 120 + 2 * step % 130
            picture = Image.new("RGB", (SIDE_PX, SIDE_PX), (shade, 0, 0) if is_red else (0, 0, shade))
            message = [{"type": "image", "image": picture}, {"type": "text", "text": text}]
            inputs = processor.apply_chat_template(
                [{"role": "user", "content": message}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
            target = torch.tensor(WORDS.index("yes" if is_red else "no"))
            loss = torch.nn.functional.cross_entropy(model(**inputs).logits[0, -1], target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
