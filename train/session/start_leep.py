"""LEEP of what a training in stages began with, and of what each earlier stage made, on the last stage's pictures.

In: a recipe with stages, the run's folder with all of them finished. Out: name -> LEEP in nats (`train.evaluate.leep`),
of the weights of `model.pretrained` as `start`. The pictures are those of the first domain that the last stage trains
on, shown as a test set's are. On disk: `stages/leep.json`, written once, with the digest of these pictures.

A net that has no classifier, and pictures that cannot be read, leave a name out: a figure is not worth a training.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from cluster.ranks.group import Ranks
from shards.disk.checked_json import plain_json
from shards.disk.regular import read_regular
from shards.disk.replace import replace_file
from shards.stream.spec import EvalSpec
from train.evaluate.counts import Floats, Pixels
from train.evaluate.data_check import Opened, open_domains
from train.evaluate.evaluate import evaluating
from train.evaluate.leep import Part, joint_of, log_sum, parts_of
from train.evaluate.measure import logits_of
from train.evaluate.subject import Subject, load_subject
from train.model.classifiers import normalisation_of, outputs_of_weights, weights_of
from train.model.pretrained import About, Pretrained, find_pretrained
from train.recipe import STAGES, TrainRecipe

FILE = "leep.json"
START = "start"

T = TypeVar("T")


def leep_of_stages(recipe: TrainRecipe, out: Path, ranks: Ranks, device: torch.device) -> dict[str, float]:
    """All ranks call it. Raises ValueError for data or weights that are not there."""
    (opened,) = open_domains(recipe.data.domains[:1], recipe.data.cache.folder, recipe.data.class_list)
    file = out / STAGES / FILE
    told = _read(file, opened) if ranks.rank == 0 else None
    said: dict[str, float] | None = json.loads(ranks.texts(json.dumps(told))[0])
    if said is not None:
        return said
    nets = {name: find_pretrained(name, str(out / STAGES / name), None) for name in recipe.earlier}
    if (begun := weights_of(recipe.classifier)) is not None:
        nets = {START: begun, **nets}
    found = {}
    for name, net in nets.items():
        value = _leep(recipe, net, opened, ranks, device)
        if value is not None:
            found[name] = value
    if ranks.rank == 0:
        replace_file(file, (json.dumps({"digest": opened.index.digest, "leep": found}) + "\n").encode())
    return found


def _read(file: Path, opened: Opened) -> dict[str, float] | None:
    """What was measured before on the same pictures; None for nothing, and for a file that is not whole."""
    try:
        told = plain_json(read_regular(file, 1 << 16))
        if told["digest"] != opened.index.digest:
            return None
        return {str(name): float(value) for name, value in told["leep"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _leep(recipe: TrainRecipe, net: Pretrained, opened: Opened, ranks: Ranks, device: torch.device) -> float | None:
    outputs = outputs_of_weights(net, recipe.classifier.name)
    if outputs is None:
        return None
    normal = normalisation_of(recipe.classifier)
    undescribed = About(
        architecture=recipe.classifier.name,
        num_classes=outputs,
        size_px=recipe.data.size_px,
        mean=normal.mean,
        std=normal.std,
    )
    subject = Subject(START, net, net.about or undescribed, ())
    model = load_subject(subject).to(device)
    about, spec, data = subject.about, recipe.evaluate, recipe.data
    reading = EvalSpec(
        source=opened.source,
        size_px=about.size_px,
        crop_pct=spec.crop_pct,
        threads=data.threads,
        deadline_s=data.deadline_s,
        cache=data.cache,
        verify=data.verify,
    )
    num_classes = len(set(opened.index.label.tolist()))

    def parts() -> Iterator[Part]:
        def logits(images: Pixels) -> Floats:
            return logits_of(model, images, recipe.engine, about.normal, device)

        return parts_of(logits, reading, opened.index, spec.batch, ranks.rank, ranks.world)

    with evaluating(model), torch.inference_mode():
        joint = _unless_unread(lambda: joint_of(parts(), num_classes, outputs))
        if ranks.agree(joint is None)[0] or joint is None:
            return None
        whole = ranks.add_up(torch.from_numpy(joint)).numpy()
        own = _unless_unread(lambda: log_sum(parts(), whole))
        if ranks.agree(own is None)[0] or own is None:
            return None
    total, n = ranks.add_up(torch.tensor(own, dtype=torch.float64)).tolist()
    return float(total / n)


def _unless_unread(work: Callable[[], T]) -> T | None:
    """None for pictures that cannot be read: training takes others in their place."""
    try:
        return work()
    except ValueError:
        return None
