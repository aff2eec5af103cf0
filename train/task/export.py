"""Exports the result of a training: plain weights that timm loads.

In: plain tensors (`train.model.aux_bn.export_plain`), the recipe. Out: the plain model with these weights. On disk, in
the run's folder, each replaced as a whole:

    model.safetensors   names and shapes of the plain model
    config.json         of a model of timm: its own description, with which
                        `timm.create_model("local-dir:<folder>", pretrained=True)` gives this model
    model.json          its name in timm, classes, picture size, normalisation, which step and weights these are
    bn_distances.json   {step, weights, layers}: how far the auxiliary statistics of each layer are from the main ones,
                        if there are some; of the last step's weights, because the chosen ones are plain
"""

import dataclasses
import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shards.disk.checked_json import plain_json
from shards.disk.replace import replace_file
from train.evaluate.data_check import Opened, read_names
from train.evaluate.evaluate import evaluating
from train.model.bn_statistics import Distance
from train.model.classifiers import SANDBOX, ModelSpec, build, create
from train.model.normalisation import Normalisation
from train.model.pretrained import ABOUT, CONFIG, WEIGHTS, About, about_of_ours, as_safetensors
from train.recipe import TrainRecipe

DISTANCES = "bn_distances.json"
# what timm says of its own weights of the architecture
_OF_OTHER_WEIGHTS = frozenset({"tag", "license", "description", "origin_url", "paper_name", "paper_ids", "notes"})
TOLERANCE = 1e-4  # of logits: fused and plain kernels may round differently


def plain_model(recipe: TrainRecipe, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A model without anything of ours in it, strictly loaded, in evaluation mode on the CPU."""
    return _filled(recipe, {"aux": "none", "bn": "rank", "drop_path": 0.0}, tensors)


def filled_model(recipe: TrainRecipe, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The model that was trained, auxiliary layers included, strictly loaded, in evaluation mode on the CPU."""
    return _filled(recipe, {"bn": "rank", "aux": recipe.classifier.aux}, tensors)


def _filled(recipe: TrainRecipe, changes: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    nothing: dict[str, Any] = dict.fromkeys(("pretrained", "pretrained_revision", "pretrained_sha256"))
    nothing |= {"head": "by_size", "freeze": ()}
    spec = recipe.classifier.model_copy(update={**changes, **nothing})
    model = build(spec, recipe.quotas, recipe.seed, recipe.data.size_px)
    model.load_state_dict(dict(tensors), strict=True)
    return model.eval()


def check_same_output(trained: nn.Module, plain: nn.Module, size: int, device: torch.device) -> None:
    """Raises ValueError unless both models, with the same weights, answer the same about pictures of `size` px;
    `trained` is on `device`.

    In full precision and uncompiled: what is compared are the models, not two ways to round.
    """
    pictures = torch.linspace(-2, 2, 2 * 3 * size * size).sin_().view(2, 3, size, size)
    plain = plain.to(device)
    whole_fp32 = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)  # TF32 is torch's default for convolutions
    with evaluating(trained), torch.inference_mode(), torch.compiler.set_stance("force_eager"), whole_fp32:
        one = trained(pictures.to(device)).float().cpu()
        other = plain(pictures.to(device)).float().cpu()
    difference = float((one - other).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(one.abs().max())):
        raise ValueError(
            f"export: found outputs of the plain model that differ by {difference:g}, expected at most {TOLERANCE:g} "
            f"of the largest; this model computes something that its plain weights do not hold"
        )


def write_export(
    folder: Path,
    recipe: TrainRecipe,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    normal: Normalisation,
    layers: Sequence[Distance],
) -> None:
    """`facts` go into model.json beside what the recipe says; `layers` are those of the last step's model.

    model.json comes last: where it is, the export is whole.
    """
    spec = recipe.classifier
    begun: dict[str, str | None] = {}
    if spec.pretrained is not None:
        begun = {"pretrained_sha256": spec.pretrained_sha256}  # a path of this machine would tell others nothing
        if spec.pretrained_revision is not None:
            begun["pretrained"] = f"{spec.pretrained}@{spec.pretrained_revision}"
    about = {
        "model": spec.name,
        "num_classes": spec.num_classes,
        "size_px": recipe.data.size_px,
        "crop_pct": recipe.evaluate.crop_pct,
        "interpolation": "bicubic",
        "mean": list(normal.mean),
        "std": list(normal.std),
        **begun,
        **facts,
    }
    replace_file(folder / WEIGHTS, as_safetensors(tensors))
    if layers:
        rows = [dataclasses.asdict(layer) for layer in layers]
        measured = {"step": recipe.schedule.steps, "weights": "last", "layers": rows}
        replace_file(folder / DISTANCES, (json.dumps(measured, indent=1) + "\n").encode())
    written = json.dumps(about, indent=1) + "\n"
    told = about_of_ours(plain_json(written), folder / ABOUT)
    assert told is not None
    if spec.name not in SANDBOX:
        replace_file(folder / CONFIG, timms_description(told).encode())
    replace_file(folder / ABOUT, written.encode())


def timms_description(about: About) -> str:
    """The config.json that timm itself writes for such a model."""
    from timm.models._hub import save_config_for_hf  # timm exports only the function that writes the weights too

    with torch.device("meta"):
        model = create(ModelSpec(name=about.architecture, num_classes=about.num_classes, aux="none"), about.size_px)
    names = unique_names(about.names, about.num_classes)
    shown = {
        "input_size": (3, about.size_px, about.size_px),
        "mean": about.mean,
        "std": about.std,
        "crop_pct": about.crop_pct,
        "interpolation": about.interpolation,
        "crop_mode": "center",
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CONFIG
        save_config_for_hf(model, str(path), model_config={"label_names": names} if names else {}, data_config=shown)
        told = plain_json(path.read_bytes())
    for name in _OF_OTHER_WEIGHTS & told["pretrained_cfg"].keys():
        del told["pretrained_cfg"][name]
    return json.dumps(told, indent=2) + "\n"


def unique_names(names: Mapping[int, str], num_classes: int) -> list[str]:
    """The name of each output, of two classes of one name with their ids behind it; [] unless all have one."""
    if any(number not in names for number in range(num_classes)):
        return []
    times = Counter(names.values())
    return [f"{names[n]} ({n})" if times[names[n]] > 1 else names[n] for n in range(num_classes)]


def class_names(domains: Sequence[Opened]) -> dict[str, str]:
    """Class id -> name, as the first data set of ours that has names says; empty for others' tars."""
    names: dict[str, str] = {}
    for one in domains:
        for class_id, found in sorted((read_names(one) or {}).items()):
            names.setdefault(str(class_id), min(found))
    return names
