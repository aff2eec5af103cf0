"""CLIP: texts and images as unit vectors of one space, and which part of a text a CLIP reads.

In: a `ClipSpec`. Out: float32 rows of length 1, token counts, the end of a text that is cut off, a digest for caches.
On disk (read only, never downloaded): a folder in transformers' format (config.json, model.safetensors, tokenizer,
processor) or in open_clip's (open_clip_config.json, open_clip_model.safetensors).

    model: sandbox/models/clip                        transformers, a folder
    model: openai/clip-vit-base-patch32               transformers, a hub id with `revision`
    model: open_clip:/data/my-clip                    open_clip, a folder
    model: open_clip:laion/CLIP-ViT-B-32-laion2B-s34B-b79K   open_clip, a hub id with `revision`
    model: open_clip:ViT-B-16/laion2b_s34b_b88k       open_clip, a name from its own table, with the hub's `revision`

Preprocessing is the model's own; everything is computed in float32. Nothing is imported from the folder and no pickle
is opened: a folder that asks for either is refused before a library opens it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from gen.model.folder import ModelError, flat_digest, flat_model, hub_digest, read_config
from shards.disk.address import BESIDE
from shards.disk.home import home

if TYPE_CHECKING:
    from torch import Tensor

OPEN_CLIP = "open_clip:"
MAX_SIDE_RATIO = 32  # preprocessing enlarges the short side, so an image of 1 x 60,000 px would become gigabytes

Image = NDArray[np.uint8]  # H W 3, RGB


class ClipSpec(BaseModel):
    """The recipe's choice of a CLIP, and how it is run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[str, BESIDE] = Field(
        min_length=1, description="folder or hub id; `open_clip:` before it, or before ARCH/TAG"
    )
    revision: str | None = Field(
        None,
        description="the hub's commit, 40 hex digits; null = a folder",
        examples=["0123456789abcdef0123456789abcdef01234567"],
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$", description="auto: cuda where there is one")
    batch: int = Field(64, ge=1, le=4096, description="texts or images at once")

    def at_home(self) -> "ClipSpec":
        """The same with the folder's whole path, for workers of other working folders. Raises ModelError."""
        if self.revision is not None:
            return self
        mark = OPEN_CLIP if self.model.startswith(OPEN_CLIP) else ""
        return self.model_copy(update={"model": f"{mark}{clip_folder(self).absolute()}"})


def device_of(spec: ClipSpec) -> str:
    """``"cpu"`` or ``"cuda:1"``. Raises ModelError if a GPU is asked for and there is none."""
    import torch

    device = spec.device if spec.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"clip.device: found {device}, but torch sees no GPU here; set clip.device=auto")
    return device


@dataclass(frozen=True)
class _Tower:
    """A loaded model, whichever library it comes from."""

    texts: "Callable[[list[str]], Tensor]"  # N texts -> rows N D, not normalised
    prepare: "Callable[[list[Image]], Tensor]"  # N images -> pixels N 3 S S on the CPU; from any thread
    images: "Callable[[Tensor], Tensor]"  # pixels -> rows N D, not normalised
    maps: "Callable[[Tensor], list[Tensor]]"  # pixels -> N C P of each layer of the image tower, P places
    count: Callable[[str], tuple[int, str]]  # tokens of the whole text, both end tokens included, and the cut-off end
    max_tokens: int


class Clip:
    """A loaded CLIP, from `Clip.load`. One thread at a time: the tokenizer stores settings."""

    def __init__(self, spec: ClipSpec, tower: _Tower) -> None:
        self.spec = spec
        self._tower = tower

    @staticmethod
    def load(spec: ClipSpec) -> "Clip":
        """The CLIP of `spec`, on its device. Raises ModelError if the folder is missing, unsafe or no CLIP."""
        folder = clip_folder(spec)

        device = device_of(spec)
        load = _tower_of_open_clip if spec.model.startswith(OPEN_CLIP) else _tower_of_transformers
        return Clip(spec, load(folder, device))

    @property
    def max_tokens(self) -> int:
        """How many tokens of a text the model reads, both end tokens included; 77 for most models."""
        return self._tower.max_tokens

    @cached_property
    def digest(self) -> str:
        """`clip_digest` of its spec: for keys of caches."""
        return clip_digest(self.spec)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit rows N D of N texts. The model's tokenizer cuts a text that has more than `max_tokens`."""
        return self._embed(self._tower.texts, list(texts))

    def text_features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As `embed_texts`, of the length that the model gives them: for means of several texts."""
        return self._embed(self._tower.texts, list(texts), unit=False)

    def embed_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """Unit rows N D of N RGB images, of any sizes. Raises ValueError for other arrays and for very long strips."""
        for image in images:
            check_image(image)
        return self._embed(lambda batch: self._tower.images(self._tower.prepare(batch)), list(images))

    def image_maps(self, images: Sequence[Image]) -> "list[Tensor]":
        """What each layer of the image tower makes of N > 0 images, N C P, P places in the picture; on the device.
        Raises ValueError as `embed_images`."""
        import torch

        for image in images:
            check_image(image)
        with torch.inference_mode():
            return [one.float() for one in self._tower.maps(self._tower.prepare(list(images)))]

    def prepare_images(self, images: Sequence[Image]) -> "Tensor":
        """Pixels N 3 S S of N > 0 images that `check_image` lets pass, as the model reads them. Unlike the rest it may
        be called from several threads at once."""
        return self._tower.prepare(list(images))

    def embed_prepared(self, pixels: "Tensor") -> NDArray[np.float32]:
        """Unit rows N D of what `prepare_images` gave; both together are `embed_images`."""
        return self._embed(self._tower.images, pixels)

    def num_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each whole text, both end tokens included; of a text over `max_tokens` the end is not read."""
        return [self._tower.count(text)[0] for text in texts]

    def truncated(self, text: str) -> str:
        """The end of the text that the model does not read; "" if it reads all of it."""
        return self._tower.count(text)[1]

    def _embed(
        self, run: "Callable[[Any], Tensor]", items: "list[Any] | Tensor", unit: bool = True
    ) -> NDArray[np.float32]:
        import torch

        blocks = []
        with torch.inference_mode():
            for start in range(0, max(len(items), 1), self.spec.batch):
                batch = items[start : start + self.spec.batch]
                # without items the result has no rows, and the width of one made-up text
                rows = run(batch).float() if len(batch) else self._tower.texts(["nothing"])[:0].float()
                blocks.append((rows / rows.norm(dim=-1, keepdim=True) if unit else rows).cpu().numpy())
        found = np.concatenate(blocks)
        if not np.isfinite(found).all():
            raise ValueError(f"clip {self.spec.model}: found a vector that is not finite; its weights are damaged")
        return found


def check_image(image: Image) -> None:
    """Raises ValueError for what is no RGB image, and for a very long strip."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image: found {image.dtype} {list(image.shape)}, expected uint8 [height, width, 3]")
    if max(image.shape[:2]) > MAX_SIDE_RATIO * min(image.shape[:2]):
        raise ValueError(
            f"image: found {image.shape[1]} x {image.shape[0]} pixels, expected sides within a factor of "
            f"{MAX_SIDE_RATIO}; crop it"
        )


def clip_width(spec: ClipSpec) -> int:
    """How many numbers a vector has, as the config says; nothing is loaded. Raises ModelError."""
    folder = clip_folder(spec)
    if spec.model.startswith(OPEN_CLIP):
        model = read_config(folder / "open_clip_config.json")["model_cfg"]
        width = model.get("embed_dim") if isinstance(model, dict) else None
    else:
        width = read_config(folder / "config.json").get("projection_dim", 512)  # 512: what transformers takes it for
    if type(width) is not int or width < 1:
        raise ModelError(f"{folder}: found {width!r:.40} as the width of vectors, expected a whole number")
    return width


def clip_digest(spec: ClipSpec) -> str:
    """Hex sha256 that pins weights, tokenizer and preprocessing: of the commit for a hub id, of the files otherwise."""
    folder = clip_folder(spec)
    if spec.revision is not None:
        return hub_digest(spec.model, spec.revision)
    return flat_digest(folder, b"open_clip\n" if spec.model.startswith(OPEN_CLIP) else b"transformers\n")


# where the model is, and whether it is safe to load


def clip_folder(spec: ClipSpec) -> Path:
    """The checked folder of a CLIP. Raises ModelError with one line."""
    uses_open_clip = spec.model.startswith(OPEN_CLIP)
    name = spec.model.removeprefix(OPEN_CLIP)
    index = "open_clip_config.json" if uses_open_clip else "config.json"
    if uses_open_clip and spec.revision is not None:
        name = _hub_id_of_tag(name) or name
    weights = "open_clip_model.safetensors" if uses_open_clip else "model.safetensors"
    folder = flat_model("clip.model", name, spec.revision, index, weights, (Path(), home()))
    config = read_config(folder / index)
    if uses_open_clip:
        _check_open_clip(folder, config)
    elif config.get("model_type") != "clip":
        raise ModelError(f"{folder}: found the model type {config.get('model_type')!r}, expected clip")
    return folder


def _hub_id_of_tag(name: str) -> str | None:
    """The hub id behind open_clip's own ARCH/TAG; None if its table does not know the name."""
    from open_clip import get_pretrained_cfg

    architecture, _, tag = name.partition("/")
    hub = get_pretrained_cfg(architecture, tag).get("hf_hub", "") if tag else ""
    return str(hub).strip("/") or None


def _check_open_clip(folder: Path, config: Mapping[str, object]) -> None:
    """Raises ModelError for a config that names towers or tokenizers which open_clip would download."""
    model = config.get("model_cfg")
    found = [model.get(part) for part in ("text_cfg", "vision_cfg")] if isinstance(model, dict) else []
    parts = [part for part in found if isinstance(part, dict)]
    if len(parts) != 2:
        raise ModelError(f"{folder}: found no model_cfg with text_cfg and vision_cfg in open_clip_config.json")
    for key in ("hf_model_name", "hf_tokenizer_name"):
        if any(part.get(key) for part in parts):
            raise ModelError(
                f"{folder}: found {key} in open_clip_config.json, which open_clip fetches from the hub; use a model "
                "with open_clip's own text tower and tokenizer, or one in transformers' format"
            )
    if ":" in str(parts[1].get("timm_model_name", "")) or parts[1].get("timm_model_pretrained"):
        raise ModelError(f"{folder}: found an image tower that timm would fetch, expected one without an address")


# the two libraries


def load_transformers(folder: Path, device: str = "cpu") -> tuple[Any, Any, Any]:
    """Model in evaluation mode, tokenizer and image processor of a folder from `clip_folder`, in float32."""
    import torch
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model = CLIPModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32, local_files_only=True)
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{folder}: found a CLIP that transformers cannot load ({reason})") from None
    return model.eval().to(device), tokenizer, processor


def load_open_clip(folder: Path, device: str = "cpu") -> tuple[Any, Any, Any]:
    """Likewise of open_clip: model, tokenizer and preprocessing."""
    from open_clip import create_model_from_pretrained, get_tokenizer

    try:
        model, preprocess = create_model_from_pretrained(f"local-dir:{folder}", precision="fp32", device=device)
        tokenizer = get_tokenizer(f"local-dir:{folder}")
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{folder}: found a CLIP that open_clip cannot load ({reason})") from None
    return model.eval(), tokenizer, preprocess


def _tower_of_transformers(folder: Path, device: str) -> _Tower:
    from torch import Tensor

    model, tokenizer, processor = load_transformers(folder, device)
    max_tokens = min(int(tokenizer.model_max_length), int(model.config.text_config.max_position_embeddings))

    def texts(batch: list[str]) -> Tensor:
        # always padded to the full length, so that a text's vector does not depend on the other texts of its batch
        tokens = tokenizer(batch, padding="max_length", truncation=True, max_length=max_tokens, return_tensors="pt")
        asked = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
        return model.get_text_features(**{name: value.to(device) for name, value in asked.items()}).pooler_output

    def prepare(batch: list[Image]) -> Tensor:
        pixels: Tensor = processor(images=batch, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
        return pixels

    def images(pixels: Tensor) -> Tensor:
        return model.get_image_features(pixel_values=pixels.to(device)).pooler_output

    def maps(pixels: Tensor) -> list[Tensor]:
        layers = model.vision_model(pixel_values=pixels.to(device), output_hidden_states=True).hidden_states[1:]
        return [one_NTC[:, 1:].mT for one_NTC in layers]  # the class token has no place

    def count(text: str) -> tuple[int, str]:
        pieces = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        spans = pieces["offset_mapping"]
        seen = max_tokens - 2
        return len(spans) + 2, text[spans[seen][0] :] if len(spans) > seen else ""

    return _Tower(texts, prepare, images, maps, count, max_tokens)


def _tower_of_open_clip(folder: Path, device: str) -> _Tower:
    import torch
    from PIL import Image as Picture
    from torch import Tensor

    model, tokenizer, preprocess = load_open_clip(folder, device)
    max_tokens = int(tokenizer.context_length)

    def texts(batch: list[str]) -> Tensor:
        return model.encode_text(tokenizer(batch).to(device))

    def prepare(batch: list[Image]) -> Tensor:
        return torch.stack([preprocess(Picture.fromarray(image)) for image in batch])

    def images(pixels: Tensor) -> Tensor:
        return model.encode_image(pixels.to(device))

    def maps(pixels: Tensor) -> list[Tensor]:
        layers = model.visual.forward_intermediates(pixels.to(device), intermediates_only=True)["image_intermediates"]
        return [one_NCHW.flatten(2) for one_NCHW in layers]

    def count(text: str) -> tuple[int, str]:
        tokens = tokenizer.encode(text)
        lost = tokens[max_tokens - 2 :]
        return len(tokens) + 2, tokenizer.decode(lost).strip() if lost else ""

    return _Tower(texts, prepare, images, maps, count, max_tokens)
