"""Exports an adapted CLIP: files that transformers, open_clip and peft load themselves.

In: an `AdaptedClip`, what its classes are called. Out: nothing. On disk, in the run's folder, each file replaced as a
whole:

    model/                   the CLIP without adapters (those of `tune: lora` are merged) in its library's own format:
                             `CLIPModel.from_pretrained("<run>/model")`, or
                             `open_clip.create_model_from_pretrained("local-dir:<run>/model")`; with its tokenizer and
                             preprocessing, so it is also a `clip.model` to go on from
    adapter/                 of `tune: lora`: peft's adapter, for the CLIP that was adapted
    classifier.safetensors   weight (classes, width) and bias (classes): logits = weight @ feature + bias, where the
                             feature of a picture has length 1
    clip.json                last: which CLIP this was, how it was tuned, its classes by id, how it wants its pictures
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from shards.disk.replace import replace_file
from train.model.adapted_clip import AdaptedClip, merged
from train.model.clip import ADAPTER, CLASSIFIER, CLIP_ABOUT, CLIP_MODEL, CLIP_WEIGHTS, ClipInput
from train.model.pretrained import as_safetensors

_BESIDE = frozenset({".json", ".txt", ".jinja", ".model"})  # tokenizer and preprocessing
_OWN = ("config.json", "model.safetensors.index.json")  # written anew


def write_clip_export(
    folder: Path, model: AdaptedClip, wants: ClipInput, names: Sequence[str], facts: Mapping[str, Any]
) -> None:
    """`model` is in evaluation mode on the CPU. Where clip.json is, the export is whole."""
    spec = model.spec
    for path in sorted(spec.folder.iterdir()):
        if path.suffix in _BESIDE and path.name not in _OWN and path.is_file():
            replace_file(folder / CLIP_MODEL / path.name, path.read_bytes())
    plain = merged(model)
    if spec.library == "open_clip":
        replace_file(folder / CLIP_MODEL / CLIP_WEIGHTS[spec.library], as_safetensors(plain.state_dict()))
    else:
        config: Any = plain.config
        _written(config, folder / CLIP_MODEL)
        tensors = {name: tensor.contiguous() for name, tensor in plain.state_dict().items()}
        replace_file(
            folder / CLIP_MODEL / CLIP_WEIGHTS[spec.library], save(tensors, metadata={"format": "pt"})
        )  # transformers asks for it
    if spec.tune == "lora":
        _written(model.clip, folder / ADAPTER)
    with torch.no_grad():
        weight_CD, bias_C = model.classifier()
        bias_C = torch.zeros(len(weight_CD)) if bias_C is None else bias_C
    replace_file(folder / CLASSIFIER, as_safetensors({"weight": weight_CD.detach(), "bias": bias_C.detach()}))
    about = {
        "library": spec.library,
        **({} if spec.revision is None else {"model": spec.model, "revision": spec.revision}),
        "digest": spec.digest,
        "tune": spec.tune,
        "text": "live" if spec.is_text_live else "frozen",
        "wise_alpha": spec.wise_alpha,
        "templates": list(spec.templates),
        "unit_texts": spec.unit_texts,
        "class_names": {str(number): name for number, name in enumerate(names)},
        "size_px": wants.size_px,
        "crop_pct": wants.crop_pct,
        "mean": list(wants.normal.mean),
        "std": list(wants.normal.std),
        **facts,
    }
    replace_file(folder / CLIP_ABOUT, (json.dumps(about, indent=1) + "\n").encode())


def _written(one: Any, folder: Path) -> None:
    """What `save_pretrained` of a config or an adapter writes, each file as a whole."""
    with tempfile.TemporaryDirectory() as made:
        one.save_pretrained(made)
        for path in sorted(Path(made).iterdir()):
            if path.suffix in (".json", ".safetensors"):
                replace_file(folder / path.name, path.read_bytes())
