"""LEEP of what a training began with, and of what each of its earlier stages made, on the last stage's pictures.

In: a recipe, the run's folder; with stages, all of them finished. Out: name -> LEEP in nats (`train.evaluate.leep`), of
the weights of `model.pretrained` as `start`. The pictures are those of the first domain that the last stage trains on,
shown as a test set's are. On disk, with the digest of these pictures, each measured once: `stages/leep.json`; of a
training without stages, which is measured if `evaluate.leep` asks for it, `leep.json`.

A figure is not worth a training: for a net without a classifier, and where a picture cannot be read, a text stands in
the place of the number and says so. Only what stays true is written down: a picture may be read another time.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from cluster.ranks.group import Ranks
from shards.disk.checked_json import plain_json
from shards.disk.regular import read_regular
from shards.disk.replace import replace_file
from shards.disk.safe_text import one_line
from train.evaluate.data_check import Opened, open_domains
from train.evaluate.leep_on import leep_of
from train.evaluate.results import STAGES, START
from train.evaluate.subject import Subject
from train.model.classifiers import normalisation_of, outputs_of_weights, weights_of
from train.model.pretrained import About, Pretrained, find_pretrained
from train.recipe import TrainRecipe

FILE = "leep.json"
NO_CLASSIFIER = "its weights have no classifier"


def leep_of_stages(recipe: TrainRecipe, out: Path, ranks: Ranks, device: torch.device) -> dict[str, float | str]:
    """Nats, or why there are none. All ranks call it. Raises ValueError for data or weights that are not there."""
    (opened,) = open_domains(recipe.data.domains[:1], recipe.data.cache.folder, recipe.data.class_list)
    nets = {name: find_pretrained(name, str(out / STAGES / name), None) for name in recipe.earlier}
    if (begun := weights_of(recipe.classifier)) is not None:
        nets = {START: begun, **nets}
    return _measured(out / STAGES / FILE, recipe, nets, opened, ranks, device)


def leep_of_start(
    recipe: TrainRecipe, opened: Opened, out: Path, ranks: Ranks, device: torch.device
) -> dict[str, float | str]:
    """Likewise of `model.pretrained` alone, on `opened`, the recipe's first domain."""
    begun = weights_of(recipe.classifier)
    assert begun is not None
    return _measured(out / FILE, recipe, {START: begun}, opened, ranks, device)


def _measured(
    file: Path,
    recipe: TrainRecipe,
    nets: Mapping[str, Pretrained],
    opened: Opened,
    ranks: Ranks,
    device: torch.device,
) -> dict[str, float | str]:
    told = _read(file, opened) if ranks.rank == 0 else {}
    known: dict[str, float | str] = json.loads(ranks.texts(json.dumps(told))[0])
    found = {
        name: known[name] if name in known else _leep(recipe, net, opened, ranks, device) for name, net in nets.items()
    }
    kept = {name: one for name, one in found.items() if _lasts(one)}
    if ranks.rank == 0 and kept.keys() - known.keys():
        replace_file(file, (json.dumps({"digest": opened.index.digest, "leep": kept}) + "\n").encode())
    return found


def _lasts(found: object) -> bool:
    """Whether it would be the same another time."""
    return isinstance(found, float) or found == NO_CLASSIFIER


def _read(file: Path, opened: Opened) -> dict[str, float | str]:
    """What was measured before on the same pictures; nothing of a file that is not whole."""
    try:
        told = plain_json(read_regular(file, 1 << 16))
        if told["digest"] != opened.index.digest:
            return {}
        return {str(name): one for name, one in told["leep"].items() if _lasts(one)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _leep(recipe: TrainRecipe, net: Pretrained, opened: Opened, ranks: Ranks, device: torch.device) -> float | str:
    outputs = outputs_of_weights(net, recipe.classifier.name)
    if outputs is None:
        return NO_CLASSIFIER
    normal = normalisation_of(recipe.classifier)
    undescribed = About(
        architecture=recipe.classifier.name,
        num_classes=outputs,
        size_px=recipe.data.size_px,
        mean=normal.mean,
        std=normal.std,
    )
    subject = Subject(START, net, net.about or undescribed, ())
    reading = recipe.data.shown(opened.source, recipe.evaluate.crop_pct, subject.about.size_px)
    try:
        return leep_of(subject, reading, opened.index, recipe.evaluate.batch, recipe.engine, ranks, device)
    except ValueError as error:
        return one_line(str(error), 300)
