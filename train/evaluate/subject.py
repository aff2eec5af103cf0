"""A trained classifier that lies somewhere, to be measured: an export of ours, a file or folder, or a name of timm.

In: what a person calls it, a commit for a hub id, a class list that names its outputs. Out: a `Subject`; its model. On
disk, read only: what `train.model.pretrained` finds, also in the hub's cache. Nothing is downloaded.

A name of timm (`resnet50.a1_in1k`) stands for its hub id (`timm/resnet50.a1_in1k`). A hub id without a commit means the
one that is in the cache as `main`; which one that is, is said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gen.model.folder import COMMIT_PATTERN, HUB_ID_PATTERN
from shards.disk.address import file_path, is_remote
from shards.disk.safe_text import clip, quoted
from shards.labels.classes import ClassSpec, load_classes
from shards.labels.folders import Entry, Named
from shards.labels.imagenet import is_wordnet_id, wordnet_name
from train.model.classifiers import ModelSpec, create, load_plain
from train.model.clip import ARCHITECTURE, find_exported_clip
from train.model.pretrained import CONFIG, HUB, WEIGHTS, About, Pretrained, find_pretrained, read_weights

if TYPE_CHECKING:
    from torch import nn

MODEL = "MODEL"
IMAGENET_OUTPUTS = 1000
_OF_IMAGENET = re.compile(r"(^|_)in1k(_|$)")


@dataclass(frozen=True, eq=False)
class Subject:
    """A model that was found, and not yet read."""

    name: str  # for files and lines
    found: Pretrained
    about: About
    classes: tuple[Named, ...]  # what its outputs are called; () where nothing says

    @property
    def line(self) -> str:
        """For people: which model, of which bytes."""
        about = self.about
        return (
            f"{self.found.shown}: {about.architecture}, {about.num_classes:,} outputs, {about.size_px} px, "
            f"sha256 {self.found.sha256[:16]}"
        )

    def shown_otherwise(self) -> str:
        """A line if its description asks for pictures in another way than they are shown here; "" if not."""
        asked = (self.about.interpolation, self.about.crop_mode)
        if asked == ("bicubic", "center"):
            return ""
        return (
            f"{self.found.shown}: its description asks for {clip(', '.join(asked), 60)}; pictures are shown bicubic, "
            "center, so figures may differ a little from published ones"
        )

    def called(self, output: int) -> str:
        """The output's name and number."""
        one = next((one for one in self.classes if one.id == output), None)
        return f"output {output}" if one is None else f"{clip(one.name, 60)} ({output})"


def open_subject(model: str, revision: str | None = None, classes: str | None = None) -> Subject:
    """Find a model. Raises ValueError with one line if it is not there, or if nothing says which architecture it is."""
    found = _find(model, revision)
    if found.about is None:
        raise ValueError(
            f"{MODEL}: found {found.shown} without a description, expected {CONFIG} of timm or model.json of ours "
            "beside the weights; write it with timm.models.save_for_hf"
        )
    plain = model.removeprefix(HUB) if _is_hub_name(model, revision) else file_path(model).absolute().name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", plain.removesuffix(".safetensors")).strip("-.")[-80:]
    return Subject(name or "model", found, found.about, _classes(found.about, classes))


def load_subject(subject: Subject) -> nn.Module:
    """The model in evaluation mode, on the CPU. Raises ValueError for weights that are not those of the description."""
    about = subject.about
    if about.architecture == ARCHITECTURE:
        from train.model.exported_clip import load_exported_clip

        return load_exported_clip(subject.found)
    spec = ModelSpec(name=about.architecture, num_classes=about.num_classes, aux="none")
    model = create(spec, about.size_px)
    load_plain(model, subject.found, read_weights(subject.found, MODEL), MODEL, head="keep")
    return model.eval()


def _find(model: str, revision: str | None) -> Pretrained:
    if revision is not None:
        if not COMMIT_PATTERN.fullmatch(revision):
            raise ValueError(
                f"--revision: found {quoted(revision, 80)}, expected a commit of 40 hex digits; branches move"
            )
        return find_pretrained(MODEL, _hub_id(model) or model, revision)
    if not _is_hub_name(model, revision):
        path = file_path(model)
        if (adapted := find_exported_clip(path)) is not None:
            return adapted
        if (path / "checkpoints").is_dir() and not (path / WEIGHTS).exists():
            raise ValueError(
                f"{MODEL}: found a training without a result in {clip(str(path), 200)}, expected {WEIGHTS}; run the "
                "same `sixfold train` to its end"
            )
        return find_pretrained(MODEL, model, None)
    hub_id = _hub_id(model)
    if hub_id is None:
        raise ValueError(
            f"{MODEL}: found no file or folder {quoted(model, 120)}, expected one, a model of timm with weights, or a "
            "hub id; check the path"
        )
    return find_pretrained(MODEL, hub_id, _cached_commit(hub_id))


def _is_hub_name(model: str, revision: str | None) -> bool:
    """Whether no file or folder of this machine is meant: there is none of that name, or a commit stands beside it."""
    return revision is not None or model.startswith(HUB) or is_remote(model) or not file_path(model).exists()


def _hub_id(model: str) -> str | None:
    """``resnet50.a1_in1k`` -> ``timm/resnet50.a1_in1k``; a hub id stays; None for what is neither."""
    if model.startswith(HUB) or ("/" in model and HUB_ID_PATTERN.fullmatch(model) and not Path(model).is_absolute()):
        return model.removeprefix(HUB)
    import timm

    try:
        config = timm.models.get_pretrained_cfg(model)
    except RuntimeError:  # a tag that the architecture does not have
        return None
    return None if config is None or not config.hf_hub_id else str(config.hf_hub_id)


def _cached_commit(hub_id: str) -> str:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(hub_id, CONFIG)
    except HFValidationError:
        found = None
    commit = Path(found).parent.name if isinstance(found, str) else ""
    if not COMMIT_PATTERN.fullmatch(commit):
        raise ValueError(
            f"{MODEL} {quoted(hub_id, 120)}: found neither a file or folder of that name nor the model in the hub "
            f"cache of this machine; get it with `hf download {hub_id}`"
        )
    return commit


def _classes(about: About, source: str | None) -> tuple[Named, ...]:
    if source is None and about.names:
        return tuple(_entry(number, name) for number, name in sorted(about.names.items()) if number < about.num_classes)
    if source is None:
        if about.num_classes != IMAGENET_OUTPUTS or not _OF_IMAGENET.search(about.tag):
            return ()
        source = "imagenet-1k"
    named: Sequence[Named] = load_classes(ClassSpec(source=source).uncounted())
    if max(one.id for one in named) >= about.num_classes:
        raise ValueError(
            f"--classes {quoted(source, 80)}: found class id {max(one.id for one in named)}, expected below "
            f"{about.num_classes}, the outputs of the model; give the list that it was trained with"
        )
    return tuple(named)


def _entry(number: int, name: str) -> Entry:
    if is_wordnet_id(name):
        return Entry(number, wordnet_name(name) or name, name)
    return Entry(number, name.removesuffix(f" ({number})"))  # how an export tells two classes of one name apart
