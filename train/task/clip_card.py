"""The card of an adapted CLIP for the Hugging Face hub, and the files that go there with it.

In: the folder of a training (`train.task.export_clip`). Out: the files to push (`shards.views.hub`), the card among
them. On disk: only reads.

In the repository the CLIP lies at the root, where transformers and open_clip look for it:

    config.json, model.safetensors, ...   what lies in model/ here; of open_clip its own two files
    adapter/                              of `tune: lora`, in peft's format
    classifier.safetensors, clip.json     as here
    README.md                             the card

Not pushed: checkpoints, logs, the recipe. What peft wrote about the CLIP that it adapted is a place of this machine; it
becomes the hub id and its commit, or nothing.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from gen.model.folder import read_config
from shards.disk.layout import CARD
from shards.disk.safe_text import clip, markdown
from shards.views.hub import HubFile, listed_file, text_file
from train.evaluate.results import RESULTS, Result, of_branches, read_results, selected
from train.model.clip import ADAPTER, CLASSIFIER, CLIP_ABOUT, CLIP_MODEL, find_exported_clip
from train.model.pretrained import About
from train.task.card_parts import accuracy, licence_fields, outputs

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_TEMPLATES = 20
_HUB_ID, _COMMIT = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII), re.compile(r"[0-9a-f]{40}")
_PUSHED = frozenset({".json", ".safetensors", ".txt", ".jinja", ".model"})
HOW = {
    "zero_shot": "nothing was trained: the classifier is made of the classes' texts",
    "full": "image encoder and classifier were trained, by cross-entropy",
    "flyp": "the encoders were trained, by CLIP's own loss on pictures and captions of their classes",
    "probe": "a linear classifier was trained on the features of the fixed encoder",
    "lora": "adapters of low rank were trained beside matrices of attention, by cross-entropy; the weights here have "
    "them merged",
}


def clip_files(folder: Path, repo_id: str, licence: str | None) -> list[HubFile]:
    """The files of an adapted CLIP, its card last. Raises ValueError if there is no whole export."""
    found, told = find_exported_clip(folder), read_config(folder / CLIP_ABOUT)
    if found is None or found.about is None or not found.file.is_file() or not (folder / CLASSIFIER).is_file():
        raise ValueError(
            f"{folder}: found a part of an adapted CLIP, expected {CLIP_MODEL}/ with its weights and {CLASSIFIER}; run "
            "the same `sixfold train` to its end"
        )
    inside = sorted(path.name for path in (folder / CLIP_MODEL).iterdir() if path.suffix in _PUSHED)
    files = [listed_file(folder / CLIP_MODEL, name) for name in inside]
    if told.get("tune") == "lora":
        files += _adapter(folder, told)
    files += [listed_file(folder, CLASSIFIER), listed_file(folder, CLIP_ABOUT)]
    lines = read_results(folder / RESULTS).results
    results = [*selected(lines), *of_branches(lines)]
    return [*files, text_file(CARD, clip_card(told, found.about, repo_id, licence, results))]


def _adapter(folder: Path, told: Mapping[str, object]) -> list[HubFile]:
    config = dict(read_config(folder / ADAPTER / ADAPTER_CONFIG))
    base = _base(told)
    config |= {"base_model_name_or_path": base and base[0], "revision": base and base[1]}
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    return [
        text_file(f"{ADAPTER}/{ADAPTER_CONFIG}", text),
        listed_file(folder, f"{ADAPTER}/{ADAPTER_WEIGHTS}"),
    ]


def _base(told: Mapping[str, object]) -> tuple[str, str] | None:
    """Hub id (of open_clip also ARCH/TAG) and commit of the CLIP that was adapted; None for a folder, which nobody else
    has."""
    name, revision = str(told.get("model")).removeprefix("open_clip:"), str(told.get("revision"))
    return (name, revision) if _HUB_ID.fullmatch(name) and _COMMIT.fullmatch(revision) else None


def clip_card(
    told: Mapping[str, object], about: About, repo_id: str, licence: str | None, results: Sequence[Result]
) -> str:
    """The card: which CLIP this was and how it was adapted, on what, how to load it, how good it is, what its outputs
    are called. `told`: clip.json."""
    library, tune, base = str(told["library"]), str(told["tune"]), _base(told)
    header: dict[str, object] = {
        "library_name": library,
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", library, *(["peft"] if tune == "lora" else []), "sixfold"],
        **({"base_model": base[0]} if base is not None and library == "transformers" else {}),
        **licence_fields(licence),
    }
    if base is not None:
        origin = f"{markdown(clip(base[0], 120))} at commit {base[1]}"
    else:
        origin = f"a CLIP with the digest {markdown(str(told.get('digest'))[:16])}"
    lines = [
        f"# {markdown(repo_id.partition('/')[2])}",
        "",
        f"A CLIP for pictures of {about.size_px} px, adapted to {about.num_classes:,} classes with sixfold.",
        "",
        f"* Adapted from: {origin}",
        f"* Way: {markdown(tune)}; {HOW.get(tune, 'unknown')}{_between(told)}",
        f"* Data: {_data(results)}",
        *_texts(told),
        "",
        "```python",
        *_loading(library, repo_id),
        "```",
        "",
        *_with_adapter(tune, base, repo_id),
        f"Pictures: mean {list(about.mean)}, standard deviation {list(about.std)}; the preprocessing above does it.",
        "",
        *accuracy(results),
        *outputs(about.names, CLIP_ABOUT),
    ]
    return f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n" + "\n".join(lines)


def _between(told: Mapping[str, object]) -> str:
    alpha = told.get("wise_alpha")
    if not isinstance(alpha, int | float):
        return ""
    return f"; the weights are {alpha:g} of the way from the zero-shot ones to the trained ones (WiSE-FT)"


def _data(results: Sequence[Result]) -> str:
    """Which domains it was trained on, by name and digest of their samples."""
    domains = {name: one.data[name] for one in results for name in one.data if name != one.set}
    told = ", ".join(f"{markdown(clip(name, 40))} ({digest[:12]})" for name, digest in domains.items())
    seen = max((one.images_seen for one in results), default=0)
    return f"{told} images; {seen:,} were seen" if told else "not known; there are no results"


def _texts(told: Mapping[str, object]) -> list[str]:
    templates = told.get("templates")
    shown = [f"  * {markdown(clip(str(one), 200))}" for one in templates] if isinstance(templates, list) else []
    more = [f"  * and {len(shown) - MAX_TEMPLATES:,} more in {CLIP_ABOUT}"] if len(shown) > MAX_TEMPLATES else []
    return ["* Texts of a class, of which the mean is taken:", *shown[:MAX_TEMPLATES], *more] if shown else []


def _loading(library: str, repo_id: str) -> list[str]:
    """Python that gives `logits` of a picture `image`, a `PIL.Image`."""
    if library == "open_clip":
        own = [
            "import open_clip",
            f'model, preprocess = open_clip.create_model_from_pretrained("hf-hub:{repo_id}")',
            "features = model.eval().encode_image(preprocess(image)[None])",
        ]
    else:
        own = [
            "from transformers import CLIPModel, CLIPProcessor",
            f'model, processor = CLIPModel.from_pretrained("{repo_id}"), CLIPProcessor.from_pretrained("{repo_id}")',
            'pixels = processor(images=image, return_tensors="pt")["pixel_values"]',
            "features = model.eval().get_image_features(pixel_values=pixels).pooler_output",
        ]
    return [
        "from huggingface_hub import hf_hub_download",
        "from safetensors.torch import load_file",
        *own,
        f'head = load_file(hf_hub_download("{repo_id}", "{CLASSIFIER}"))',
        'logits = features / features.norm(dim=-1, keepdim=True) @ head["weight"].T + head["bias"]',
    ]


def _with_adapter(tune: str, base: tuple[str, str] | None, repo_id: str) -> list[str]:
    if tune != "lora":
        return []
    name, revision = (f'"{base[0]}"', f', revision="{base[1]}"') if base is not None else ("FOLDER_OF_THE_CLIP", "")
    return [
        "Or the adapter alone, over the CLIP that it was trained for:",
        "",
        "```python",
        "from peft import PeftModel",
        "from transformers import CLIPModel",
        f"base = CLIPModel.from_pretrained({name}{revision})",
        f'model = PeftModel.from_pretrained(base, "{repo_id}", subfolder="{ADAPTER}")',
        "```",
        "",
    ]
