"""How the object of an image is found: the ways, their models, and what a mask must be.

In: fields of a recipe. Out: a frozen `MaskSpec`; the checked folders of its models; a digest of all that decides the
masks. On disk, read only and never downloaded: model folders in transformers' own format with safetensors, and a folder
of masks. Does not import torch.

    grounded    a zero-shot detector's boxes, then SAM 2 with the boxes     detector, sam
    text        a segmenter that reads text, SAM 3                         text_model
    segmenter   a semantic-segmentation model, some of whose classes count  segmenter
    file        masks that are there: masks/<key>.png                       masks
    otsu        the distance to the paper's colour at the border            no weights
    whole       all pixels                                                  no weights
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.recipes.load import Json, fingerprint
from gen.edit.masks.files import SUFFIX, Hashes, hashes_of
from gen.edit.masks.spoil import SpoilSpec
from gen.model.folder import ModelError, flat_digest, flat_model, hub_digest, read_config
from shards.disk.address import BESIDE, places_of
from shards.disk.home import home
from shards.disk.safe_text import quoted

Way = Literal["grounded", "text", "segmenter", "file", "otsu", "whole"]
VERSION = 1  # of what is done to pixels
WHAT = "edit.masks"  # the recipe's section, for messages
CONFIG, WEIGHTS = "config.json", "model.safetensors"
HUB_COMMIT = r"^[0-9a-f]{40}$"
EXAMPLE_COMMIT = "0123456789abcdef0123456789abcdef01234567"

# way -> field of a model -> the types that transformers knows it by; the hub's SAM 2 and SAM 3 are those for videos,
# which the classes for images load. Semantic segmenters have many types: `gen.edit.masks.networks` asks transformers.
MODELS: dict[str, dict[str, frozenset[str]]] = {
    "grounded": {
        "detector": frozenset({"grounding-dino", "mm-grounding-dino"}),
        "sam": frozenset({"sam2", "sam2_video"}),
    },
    "text": {"text_model": frozenset({"sam3", "sam3_video"})},
    "segmenter": {"segmenter": frozenset()},
}
SETTINGS: dict[str, tuple[str, ...]] = {  # way -> the other fields that decide its masks
    "grounded": ("query", "box_threshold", "text_threshold", "instances"),
    "text": ("phrase", "score_threshold", "instances"),
    "segmenter": ("object_ids",),
}
LIMITS = ("order", "least_area", "greatest_area", "contour", "polygon_px", "dilate_px")


class MaskSpec(BaseModel):
    """The recipe's choice of how objects are found. A way whose mask is out of the limits gives way to the next."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    order: tuple[Way, ...] = Field(
        min_length=1, description="ways that are tried one after the other", examples=[["grounded", "otsu"]]
    )
    detector: Annotated[str | None, BESIDE] = Field(
        None,
        description="of `grounded`: Grounding DINO or MM-Grounding-DINO, folder or hub id",
        examples=["IDEA-Research/grounding-dino-base"],
    )
    detector_revision: str | None = Field(
        None, pattern=HUB_COMMIT, description="its commit; null = a folder", examples=[EXAMPLE_COMMIT]
    )
    sam: Annotated[str | None, BESIDE] = Field(
        None, description="of `grounded`: SAM 2, folder or hub id", examples=["facebook/sam2.1-hiera-large"]
    )
    sam_revision: str | None = Field(
        None, pattern=HUB_COMMIT, description="its commit; null = a folder", examples=[EXAMPLE_COMMIT]
    )
    query: str = Field(
        "A {kind} {name}", max_length=200, description="what the detector looks for; {name} of the class, {kind} of it"
    )
    box_threshold: float = Field(0.4, ge=0, le=1, description="the least score of a box")
    text_threshold: float = Field(0.3, ge=0, le=1, description="the least score of a word that names a box")
    text_model: Annotated[str | None, BESIDE] = Field(
        None, description="of `text`: SAM 3, folder or hub id", examples=["facebook/sam3"]
    )
    text_model_revision: str | None = Field(
        None, pattern=HUB_COMMIT, description="its commit; null = a folder", examples=[EXAMPLE_COMMIT]
    )
    phrase: str = Field("{name}", max_length=200, description="what `text` looks for: a short noun phrase")
    score_threshold: float = Field(0.5, ge=0, le=1, description="of `text`: the least score of an object")
    instances: Literal["best", "all"] = Field(
        "best", description="of `grounded` and `text`: the object with the highest score, or all that are found"
    )
    segmenter: Annotated[str | None, BESIDE] = Field(
        None, description="of `segmenter`: folder or hub id", examples=["sandbox/models/segmenter"]
    )
    segmenter_revision: str | None = Field(
        None, pattern=HUB_COMMIT, description="its commit; null = a folder", examples=[EXAMPLE_COMMIT]
    )
    object_ids: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, min_length=1, description="its classes that are object; null = all but 0", examples=[[12, 15]]
    )
    masks: Annotated[str | None, BESIDE] = Field(
        None,
        description="of `file`: a folder with <key>.png for each source image, as it is edited: a square of "
        "sampler.size_px, or with fit: pad its longer side; grey, 128 and more is object",
        examples=["data/masks"],
    )
    least_area: float = Field(0.005, ge=0, le=1, description="the least share of the image that an object may have")
    greatest_area: float = Field(0.95, ge=0, le=1, description="the greatest")
    contour: Literal["largest", "all"] = Field(
        "largest", description="largest: the largest part alone, filled; all: every part, with its holes"
    )
    polygon_px: float = Field(
        0.0, ge=0, le=256, description="how far a simpler polygon may be from the contour; 0 = the contour itself"
    )
    dilate_px: int = Field(
        0, ge=0, le=1024, description="side of the square by which the wide mask is grown; the mask itself stays"
    )
    spoil: SpoilSpec | None = Field(
        None,
        description="for experiments: masks that were found are made worse, by the sample's seed; null = as found",
        examples=[{"kind": "shift", "px": 6}],
    )

    def at_home(self) -> "MaskSpec":
        """The same with whole paths of its folders, for workers of other working folders. Raises ModelError."""
        places = {
            field: str(folder.absolute())
            for field, folder in mask_folders(self).items()
            if getattr(self, f"{field}_revision", None) is None
        }
        return self.model_copy(update=places)

    @model_validator(mode="after")
    def _ways_have_what_they_need(self) -> "MaskSpec":
        if len(set(self.order)) != len(self.order):
            raise ValueError(f"order: found {', '.join(self.order)}, expected each way once")
        for way in self.order:
            for field in [*MODELS.get(way, ()), *(["masks"] if way == "file" else ())]:
                if getattr(self, field) is None:
                    raise ValueError(f"{field}: found none, expected a folder or a hub id; the way {way} needs it")
        return self

    @model_validator(mode="after")
    def _limits_leave_something(self) -> "MaskSpec":
        if self.least_area >= self.greatest_area:
            raise ValueError(
                f"least_area: found {self.least_area} with greatest_area {self.greatest_area}, expected less"
            )
        if self.polygon_px and self.contour == "all":
            raise ValueError(
                f"polygon_px: found {self.polygon_px} with contour: all, expected 0; a polygon is of the largest part"
            )
        return self

    @model_validator(mode="after")
    def _texts_have_known_slots(self) -> "MaskSpec":
        for field in ("query", "phrase"):
            text = getattr(self, field)
            if "{" in text.replace("{name}", "").replace("{kind}", "") or "{name}" not in text:
                raise ValueError(
                    f"{field}: found {quoted(text, 80)}, expected the slot {{name}}, perhaps {{kind}}, and no other"
                )
        return self


def asked_text(template: str, name: str, kind: str) -> str:
    """The template with its slots filled, in single blanks: an empty kind leaves no gap."""
    return " ".join(template.replace("{kind}", "\0").replace("{name}", name).replace("\0", kind).split())


def mask_folders(spec: MaskSpec) -> dict[str, Path]:
    """Field -> checked folder, of every model that a way of `order` needs, and of `masks`. Nothing is loaded.

    Raises ModelError (a ValueError) with one line for what is missing, unsafe, or another kind of model.
    """
    folders = {}
    for way in spec.order:
        for field, types in MODELS.get(way, {}).items():
            folders[field] = _model_folder(spec, field, types)
        if way == "file":
            folders["masks"] = _masks_folder(spec)
    return folders


def mask_hashes(spec: MaskSpec) -> dict[str, str]:
    """The masks that are there, name below their folder -> hex sha256; none without the way `file`. Raises
    ModelError."""
    return hashes_of(_masks_folder(spec)) if "file" in spec.order else {}


def mask_digest(spec: MaskSpec, hashes: Hashes | None = None) -> str:
    """Hex sha256 of what decides the masks: ways, limits, weights and preprocessing, the files that are there, and how
    they are made worse. `hashes`: of these files; None reads them.

    Where a folder lies, and the fields of ways that are not in `order`, change nothing. Raises ModelError.
    """
    folders = mask_folders(spec)
    chosen = spec.model_dump(mode="json")
    decides: dict[str, Json] = {"version": VERSION, **{field: chosen[field] for field in LIMITS}}
    for way in spec.order:
        for field in MODELS.get(way, ()):
            revision = getattr(spec, f"{field}_revision")
            by_commit = revision is not None
            decides[field] = hub_digest(chosen[field], revision) if by_commit else flat_digest(folders[field])
        for field in SETTINGS.get(way, ()):
            decides[field] = chosen[field]
        if way == "file":
            files = mask_hashes(spec) if hashes is None else hashes
            decides["masks"] = fingerprint([[name, sha256] for name, sha256 in files.items()])
    if spec.spoil is not None:
        decides["spoil"] = spec.spoil.model_dump(mode="json")
    return fingerprint(decides)


def _model_folder(spec: MaskSpec, field: str, types: frozenset[str]) -> Path:
    model, revision = getattr(spec, field), getattr(spec, f"{field}_revision")
    folder = flat_model(f"{WHAT}.{field}", model, revision, CONFIG, WEIGHTS, (Path(), home()))
    config = read_config(folder / CONFIG)
    found = config.get("model_type")
    if types and found not in types:
        raise ModelError(
            f"{WHAT}.{field} {quoted(model, 120)}: found a model of the type {quoted(found, 40)}, expected "
            f"{' or '.join(sorted(types))}"
        )
    if config.get("backbone") is not None and config.get("backbone_config") is None:
        raise ModelError(
            f"{folder}: found the backbone {quoted(config['backbone'], 60)} in {CONFIG}, which transformers would ask "
            "the hub for, expected a backbone_config; use a model that says what its backbone is"
        )
    return folder


def _masks_folder(spec: MaskSpec) -> Path:
    assert spec.masks is not None
    for place in places_of(spec.masks):
        if place.is_dir():
            return place.resolve()
    raise ModelError(
        f"{WHAT}.masks {quoted(spec.masks, 120)}: found no such folder, expected one with <key>{SUFFIX} for each image"
    )
