"""Trained weights that lie somewhere: where they are, which model they are of, the sha256 of their bytes.

In: a safetensors file, a folder, or a hub id with its commit that is downloaded already (nothing is downloaded here).
Out: a `Pretrained`; tensors. On disk, read only, in one folder:

    model.safetensors   the weights; a file may have another name
    model.json          beside an export of ours (`train.task.export`): which model it is
    config.json         timm's own description, beside its hub models and beside our exports

Weights are known by their bytes: the same file under another path, or in the hub's cache, is the same weights.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gen.model.folder import ModelError, flat_model, read_config, revision_field
from shards.disk.address import file_path
from shards.disk.regular import read_regular, sha256_of
from shards.disk.safe_text import clip, one_line, quoted
from shards.disk.stand_in import HEAD_BYTES, stand_in
from train.model.normalisation import IMAGENET, Normalisation

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, ABOUT, CONFIG = "model.safetensors", "model.json", "config.json"
HUB = "hf-hub:"  # how timm writes hub ids; it may be left out
MAX_WEIGHTS_BYTES = 64 << 30
MAX_OUTPUTS = 1_000_000
# arguments of timm's builders that are the model's name, or are told otherwise; with another one it is another model
_USUAL_ARGUMENTS = frozenset({"num_classes", "in_chans", "img_size", "global_pool"})

Three = tuple[float, float, float]
Share = Annotated[float, Field(gt=0, le=1)]


class About(BaseModel):
    """What stands beside the weights about their model."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    architecture: str = Field(pattern=r"^[a-z0-9_]{1,120}$", description="in timm, or the sandbox's network")
    num_classes: int = Field(1000, ge=1, le=MAX_OUTPUTS)
    size_px: int = Field(224, ge=8, le=2048, description="side of the pictures")
    crop_pct: Share = 0.875
    interpolation: str = Field("bicubic", max_length=40)
    crop_mode: str = Field("center", max_length=40)
    mean: Three = IMAGENET.mean
    std: Three = IMAGENET.std
    names: Mapping[int, str] = Field(default={}, description="output -> what its class is called")
    tag: str = Field("", max_length=120, description="of timm's weights; in1k: trained on ImageNet-1k last")
    global_pool: str | None = Field(None, pattern=r"^[a-z]{0,20}$", description="null = as timm says of the model")
    facts: Mapping[str, Any] = Field(default={}, description="of a training of ours: step, seed, recipe, weights")

    @property
    def normal(self) -> Normalisation:
        """How its pictures are normalised."""
        return Normalisation(self.mean, self.std)


@dataclass(frozen=True)
class Pretrained:
    """Weights that were found, and not yet read."""

    file: Path
    about: About | None = None  # None: nothing stands beside them
    shown: str = field(default="", compare=False)  # for people

    @property
    def sha256(self) -> str:
        """Hex, of the file's bytes; they are read once in a process unless size or times change. 1.4 GB/s."""
        stat = self.file.stat()
        return _sha256(self.file, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def find_pretrained(what: str, name: str, revision: str | None) -> Pretrained:
    """The weights called `name`: with a `revision` a hub id (of a commit in the hub's cache), without one a file or a
    folder. `what` is the recipe's field, for messages. Raises ValueError with one line."""
    if revision is not None:
        hub_id = name.removeprefix(HUB)
        folder = flat_model(what, hub_id, revision, CONFIG, WEIGHTS)
        return Pretrained(folder / WEIGHTS, read_about(folder), f"{hub_id} at {revision[:12]}")
    hint = f"a .safetensors file or a folder with {WEIGHTS}"
    if name.startswith(HUB):
        raise ValueError(
            f"{what}: found {quoted(name, 120)} without a commit, expected {hint}, or a hub id beside "
            f"{revision_field(what)}, its commit of 40 hex digits; branches move"
        )
    path = file_path(name)
    file = path / WEIGHTS if path.is_dir() else path
    if file.suffix != ".safetensors" or not file.is_file():
        raise ValueError(
            f"{what}: found {clip(str(path), 200)}, expected {hint}; for a model of the hub also give "
            f"{revision_field(what)}"
        )
    return Pretrained(file, read_about(file.parent), clip(str(path), 200))


def read_about(folder: Path) -> About | None:
    """What a folder says of its weights: our own words first, else timm's; None for neither, or of another library.

    Raises ValueError for a description that cannot be used.
    """
    for name, read in ((ABOUT, about_of_ours), (CONFIG, _about_of_timm)):
        path = folder / name
        found = read(read_config(path), path) if path.is_file() else None
        if found is not None:
            return found
    return None


def _validated(told: Mapping[str, Any], path: Path) -> About:
    try:
        return About.model_validate(told)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelError(
            f"{path}: found a description with a bad field {quoted(where, 60)} ({one_line(first['msg'], 120)}), "
            "expected one of a classifier; export or download the model again"
        ) from None


def about_of_ours(told: Mapping[str, Any], path: Path) -> About | None:
    """Of the contents of `model.json`; None for one of somebody else. Raises ValueError for a damaged one."""
    if "model" not in told or "size_px" not in told:
        return None
    facts = {key: told[key] for key in ("step", "seed", "recipe", "weights") if key in told}
    named = {"architecture": told["model"], "names": told.get("class_names") or {}, "facts": facts}
    return _validated({**told, **named}, path)


def _about_of_timm(told: Mapping[str, Any], path: Path) -> About | None:
    """Of timm's `config.json`, in its present form or as one flat object; None for one of another library."""
    if not isinstance(told.get("architecture"), str):
        return None
    inner = told.get("pretrained_cfg")
    flat = {**(inner if isinstance(inner, dict) else {}), **{k: v for k, v in told.items() if k != "pretrained_cfg"}}
    arguments = told.get("model_args") or {}
    strange = sorted(set(arguments) - _USUAL_ARGUMENTS) if isinstance(arguments, dict) else ["model_args"]
    if isinstance(arguments, dict) and arguments.get("in_chans", 3) != 3:
        strange.append("in_chans")
    if strange:
        raise ModelError(
            f"{path}: found a model built with {quoted(', '.join(strange), 80)}, expected one that its name in timm "
            "tells whole, for RGB pictures; export its weights from timm without these arguments"
        )
    size = arguments.get("img_size") or (flat.get("input_size") or [3, 224, 224])[-1]
    flat["size_px"] = max(size) if isinstance(size, list) else size
    names = flat.get("label_names", flat.get("labels")) or {}
    flat["names"] = dict(enumerate(names)) if isinstance(names, list) else names
    flat["global_pool"] = arguments.get("global_pool")
    known = {key: value for key, value in flat.items() if value is not None and key in About.model_fields}
    return _validated(known, path)


def read_weights(found: Pretrained, what: str, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors in the file, on the CPU. Raises ValueError for what is no safetensors, or if the bytes that were
    read have another hash than `sha256`."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = read_regular(found.file, MAX_WEIGHTS_BYTES)
    if sha256 is not None and (read := hashlib.sha256(data).hexdigest()) != sha256:
        raise ValueError(
            f"{what}: found {clip(str(found.file), 200)} with the sha256 {read[:16]}, expected {sha256[:16]}, the "
            "weights that this training began with; bring them back, or train in another folder"
        )
    try:
        tensors: dict[str, Tensor] = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        why = stand_in(data[:HEAD_BYTES]) or one_line(str(error), 160)
        raise ValueError(
            f"{what}: found {clip(str(found.file), 200)} unreadable ({why}), expected safetensors"
        ) from None
    return tensors


def as_safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of a file, whatever layout the tensors have in memory (channels_last is one)."""
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, size: int, modified_ns: int, changed_ns: int) -> str:
    return sha256_of(path)
