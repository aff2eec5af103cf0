"""A CLIP that is being adapted: encoders of transformers or open_clip, and the classifier of the classes' texts.

In: `ClipTrainSpec`, the name of each class, a seed. Out: an `AdaptedClip` with its initial weights. On disk: reads.

Features of pictures and rows of the classifier have length 1, so logits are cosines times exp(logit_scale): of a class
the mean of its texts' vectors (each of length 1 before the mean, with `unit_texts`), of length 1 again. Where it is
trained, the classifier is a linear layer that starts so, with a bias of 0.
Source: "The Unmet Promise of Synthetic Training Images" (zero-shot head), Radford et al. 2021.

Shapes: N pictures, S pixels, C classes, T templates, L tokens, D embedding width.
"""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gen.model.clip import load_open_clip, load_transformers
from shards.disk.safe_text import quoted
from train.model.clip import ClipTrainSpec, Library, captions_of, check_pinned

FIXED_ENCODERS = ("zero_shot", "probe")  # how a CLIP is tuned that stays in evaluation mode
TEXTS_AT_ONCE = 256  # without gradient
IMAGE_PARTS: dict[Library, tuple[str, ...]] = {
    "transformers": ("vision_model.", "visual_projection."),
    "open_clip": ("visual.",),
}


class AdaptedClip(nn.Module):
    """See `build_clip`. `forward` gives logits N C; with captions what the contrastive loss needs."""

    def __init__(self, spec: ClipTrainSpec, clip: nn.Module, captions_CTL: Tensor, head: nn.Linear | None) -> None:
        """`clip`: of `spec.library`, perhaps with adapters; `head`: None where the classifier is made of texts."""
        super().__init__()
        self.spec = spec
        self.clip: Any = clip
        self.head = head
        self.captions_CTL: Tensor
        self.register_buffer("captions_CTL", captions_CTL, persistent=False)
        # moves nothing: an optimiser wants a parameter, and a zero-shot classifier has none to train
        self.idle = nn.Parameter(torch.zeros(())) if spec.tune == "zero_shot" else None
        self.is_final = False  # True: holds what is exported, WiSE-FT included

    def train(self, mode: bool = True) -> "AdaptedClip":
        """As of every module, except that encoders which are not trained stay in evaluation mode."""
        super().train(mode)
        if self.spec.tune in FIXED_ENCODERS:
            self.clip.eval()
        return self

    def forward(self, images: Tensor, captions_N: Tensor | None = None) -> Any:
        """Logits N C of pictures N 3 S S, or of their features N D.

        With `captions_N` (class x T + template): features N D of pictures, features N D of these captions, the scale.
        """
        if captions_N is not None:
            used, places_N = captions_N.unique(return_inverse=True)
            texts = F.normalize(self._texts(self.captions_CTL.flatten(0, 1)[used]), dim=-1)
            return self.image_features(images), texts[places_N], self.clip.logit_scale.exp()
        features_ND = self.image_features(images) if images.dim() == 4 else images
        logits_NC = F.linear(features_ND, *self.classifier())
        return logits_NC if self.idle is None else logits_NC.detach() + 0 * self.idle

    def image_features(self, pixels_N3SS: Tensor) -> Tensor:
        """Unit rows N D; without gradient where the image encoder is not trained."""
        if self.spec.tune in FIXED_ENCODERS:
            with torch.no_grad():
                return F.normalize(self._images(pixels_N3SS).float(), dim=-1)
        return F.normalize(self._images(pixels_N3SS), dim=-1)

    def classifier(self) -> tuple[Tensor, Tensor | None]:
        """Rows C D and bias C (None: 0) as the weights are now."""
        if self.head is not None:
            return self.head.weight, self.head.bias
        return self.zero_shot(), None

    def zero_shot(self) -> Tensor:
        """The classifier C D of the classes' texts, with gradient where there is one."""
        num, texts = self.captions_CTL.shape[:2], self.captions_CTL.flatten(0, 1)
        if torch.is_grad_enabled():
            rows = self._texts(texts)
        else:
            rows = torch.cat([self._texts(some) for some in texts.split(TEXTS_AT_ONCE)])
        rows_CTD = rows.unflatten(0, num)
        if self.spec.unit_texts:
            rows_CTD = F.normalize(rows_CTD, dim=-1)
        return F.normalize(rows_CTD.mean(1), dim=-1) * self.clip.logit_scale.exp()

    def _images(self, pixels_N3SS: Tensor) -> Tensor:
        if self.spec.library == "open_clip":
            return self.clip.encode_image(pixels_N3SS)
        return self.clip.get_image_features(pixel_values=pixels_N3SS).pooler_output

    def _texts(self, tokens: Tensor) -> Tensor:
        """N D of N L."""
        if self.spec.library == "open_clip":
            return self.clip.encode_text(tokens)
        return self.clip.get_text_features(input_ids=tokens).pooler_output


def build_clip(spec: ClipTrainSpec, names: Sequence[str], seed: int) -> AdaptedClip:
    """The model with its initial weights on the CPU: those of the CLIP, and adapters or a probe of `seed`. Only what
    `spec.tune` trains wants a gradient. Raises ValueError if the model is not there, or another one."""
    check_pinned(spec)
    clip, tokens = _loaded(spec, [text for texts in captions_of(spec, names) for text in texts])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AdaptedClip(spec, clip, tokens.unflatten(0, (len(names), -1)), None)
        with torch.no_grad():
            rows_CD = model.zero_shot()
        clip.requires_grad_(False)
        if spec.tune == "lora":
            model.clip = with_adapters(clip, spec)
        else:
            for name, parameter in clip.named_parameters():
                parameter.requires_grad_(_is_trained(spec, name))
        has_head = spec.tune in ("zero_shot", "full", "probe") or (spec.tune == "lora" and not spec.is_text_live)
        model.head = nn.Linear(rows_CD.shape[1], len(names)) if has_head else None
    if model.head is not None:
        model.head.requires_grad_(spec.tune in ("full", "probe"))
        if spec.tune != "probe":
            with torch.no_grad():
                model.head.weight.copy_(rows_CD)
                model.head.bias.zero_()
    return model.train()


def with_adapters(clip: nn.Module, spec: ClipTrainSpec) -> nn.Module:
    """peft's model around a CLIP of transformers: only its adapters want a gradient, and they add 0 at first."""
    from peft import LoraConfig, get_peft_model

    lora, towers = spec.lora, r"(vision|text)_model" if spec.is_text_live else r"vision_model"
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=rf"{towers}\.encoder\.layers\..*\.({'|'.join(lora.targets)})",
        base_model_name_or_path=spec.model if spec.revision is not None else None,
        revision=spec.revision,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about a name that peft still reads
        return get_peft_model(clip, config)


def merged(model: AdaptedClip) -> nn.Module:
    """A CLIP of its library without adapters, which answers the same."""
    if model.spec.tune != "lora":
        return model.clip
    return copy.deepcopy(model.clip).merge_and_unload()


def between(spec: ClipTrainSpec, name: str, start: Tensor, end: Tensor) -> Tensor:
    """The tensor at `wise_alpha` of the way from the zero-shot weights to the trained ones.

    Adapters: B alone is scaled, from 0, since the weights are W + B A alpha / rank. Source: Wortsman et al. 2022.
    """
    if spec.wise_alpha is None or not end.is_floating_point() or ".lora_A." in name:
        return end
    return torch.lerp(start, end, spec.wise_alpha)


def _is_trained(spec: ClipTrainSpec, name: str) -> bool:
    """Whether a parameter of the CLIP is, without adapters."""
    if name == "logit_bias":
        return False
    is_image = name.startswith(IMAGE_PARTS[spec.library])
    if spec.tune == "full":
        return is_image
    return spec.tune == "flyp" and (is_image or spec.is_text_live or name == "logit_scale")


def _loaded(spec: ClipTrainSpec, texts: list[str]) -> tuple[nn.Module, Tensor]:
    """The CLIP, and the tokens N L of texts, each padded to the whole length, so that none depends on the others.

    Raises ValueError for a text of which the model would not read the end.
    """
    model, tokenizer, _ = (load_open_clip if spec.library == "open_clip" else load_transformers)(spec.folder)
    if spec.library == "open_clip":
        length = int(tokenizer.context_length)
        sizes = [len(tokenizer.encode(text)) + 2 for text in texts]
        tokens_NL = tokenizer(texts)
    else:
        length = min(int(tokenizer.model_max_length), int(model.config.text_config.max_position_embeddings))
        sizes = [len(row) for row in tokenizer(texts, verbose=False)["input_ids"]]
        whole = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
        tokens_NL = tokenizer(texts, **whole)["input_ids"]
    longest = max(range(len(texts)), key=sizes.__getitem__)
    if sizes[longest] > length:
        raise ValueError(
            f"clip.templates: found {quoted(texts[longest], 80)} with {sizes[longest]} tokens, expected at most "
            f"{length}, which this CLIP reads; shorten the template, or the name in clip.names"
        )
    return model, tokens_NL
