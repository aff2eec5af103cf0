"""LEEP of a model that exists on a set of pictures, whatever classes it was trained for.

In: a `Subject`, the address of a set. Out: nats; a line for people. On disk, in a folder: a line of `leep.jsonl`.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from cluster.ranks.group import Ranks
from cluster.ranks.place import find_place
from shards.set.status import refuse_unfinished
from shards.stream.index import load_index
from shards.stream.index_arrays import Index
from shards.stream.spec import EvalSpec
from train.evaluate.counts import Floats, Pixels
from train.evaluate.evaluate import evaluating
from train.evaluate.leep import Part, append_leep, joint_of, log_sum, parts_of
from train.evaluate.measure import logits_of
from train.evaluate.subject import Subject, load_subject
from train.model.engine import EngineSpec

T = TypeVar("T")


def leep_of(
    net: Subject, reading: EvalSpec, index: Index, batch: int, engine: EngineSpec, ranks: Ranks, device: torch.device
) -> float:
    """In nats, over the pictures of all ranks, which all call it. Raises ValueError on all of them for a picture that
    one cannot read, and for weights that are not those of their description."""
    model = load_subject(net).to(device)

    def parts() -> Iterator[Part]:
        def logits(images: Pixels) -> Floats:
            return logits_of(model, images, engine, net.about.normal, device)

        return parts_of(logits, reading, index, batch, ranks.rank, ranks.world)

    num_classes = len(np.unique(index.label))
    with evaluating(model), torch.inference_mode():
        own_joint = _on_all(ranks, lambda: joint_of(parts(), num_classes, net.about.num_classes))
        joint = ranks.add_up(torch.from_numpy(own_joint)).numpy()
        own = _on_all(ranks, lambda: log_sum(parts(), joint))
    total, n = ranks.add_up(torch.tensor(own, dtype=torch.float64)).tolist()
    return float(total / n)


def _on_all(ranks: Ranks, work: Callable[[], T]) -> T:
    """What `work` gives on this rank. If one rank's raises ValueError, each raises the first one's."""
    found, cause = None, ""
    try:
        found = work()
    except ValueError as error:
        cause = str(error)
    for text in ranks.texts(cause):
        if text:
            raise ValueError(text)
    assert found is not None
    return found


def leep_on(
    subject: Subject, source: str, subset: str | None, folder: Path, batch: int, device: torch.device, dry_run: bool
) -> str:
    """Measure and record, or with `dry_run` only look. Raises ValueError for a set that is missing, not finished or
    cannot be read."""
    if subset is None:
        refuse_unfinished(source, "--on")
    index = load_index(source, subset)
    about, num_classes = subject.about, len(np.unique(index.label))
    shown = f"{source}{f':{subset}' if subset else ''}"
    what = f"{len(index):,} pictures of {num_classes:,} classes, {about.num_classes:,} outputs"
    if dry_run:
        return f"{shown}: {what}"
    reading = EvalSpec(source=source, size_px=about.size_px, crop_pct=about.crop_pct)
    value = leep_of(subject, reading, index, batch, EngineSpec(kind="single"), Ranks(find_place({})), device)
    facts: dict[str, str | int | float] = {
        "model": subject.name,
        "sha256": subject.found.sha256,
        "set": shown,
        "digest": index.digest,
        "n": len(index),
        "classes": num_classes,
        "outputs": about.num_classes,
        "leep": value,
        "time": time.time(),
    }
    append_leep(folder, facts)
    return f"{shown}: LEEP {value:.4f} nats; {what}"
