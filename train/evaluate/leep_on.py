"""LEEP of a model that exists on a set of pictures, whatever classes it was trained for.

In: a `Subject`, the address of a set. Out: a line for people. On disk, in a folder: a line of `leep.jsonl`.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from shards.set.status import refuse_unfinished
from shards.stream.index import load_index
from shards.stream.spec import EvalSpec
from train.evaluate.counts import Floats, Pixels
from train.evaluate.evaluate import evaluating
from train.evaluate.leep import Part, append_leep, leep, parts_of
from train.evaluate.measure import logits_of
from train.evaluate.subject import Subject, load_subject
from train.model.engine import EngineSpec


def leep_on(
    subject: Subject, source: str, subset: str | None, folder: Path, batch: int, device: torch.device, dry_run: bool
) -> str:
    """Measure and record, or with `dry_run` only look. Raises ValueError for a set that is missing, not finished or
    cannot be read."""
    if subset is None:
        refuse_unfinished(source, "--on")
    index = load_index(source, subset)
    about, classes = subject.about, np.unique(index.label)
    shown = f"{source}{f':{subset}' if subset else ''}"
    what = f"{len(index):,} pictures of {len(classes):,} classes, {about.num_classes:,} outputs"
    if dry_run:
        return f"{shown}: {what}"
    model = load_subject(subject).to(device)
    reading = EvalSpec(source=source, size_px=about.size_px, crop_pct=about.crop_pct)

    def logits(images: Pixels) -> Floats:
        return logits_of(model, images, EngineSpec(kind="single"), about.normal, device)

    def parts() -> Iterator[Part]:
        return parts_of(logits, reading, index, batch)

    with evaluating(model), torch.inference_mode():
        value = leep(parts, len(classes), about.num_classes)
    facts: dict[str, str | int | float] = {
        "model": subject.name,
        "sha256": subject.found.sha256,
        "set": shown,
        "digest": index.digest,
        "n": len(index),
        "classes": len(classes),
        "outputs": about.num_classes,
        "leep": value,
        "time": time.time(),
    }
    append_leep(folder, facts)
    return f"{shown}: LEEP {value:.4f} nats; {what}"
