"""CLIP as a recipe's task adapts it: which model, what of it is trained, the texts of the classes.

In: `ClipTrainSpec` (from the recipe), what the data call their classes. Out: the checked folder, how the model wants
its pictures, a name for each class. On disk, read only: what `gen.model.clip` says. torch is not loaded here.

    tune: zero_shot   nothing is trained: the classifier is made of the classes' texts
          full        image encoder and classifier, cross-entropy; the classifier starts as the zero-shot one
          flyp        the encoders, by CLIP's own loss on pictures and captions of their classes (Goyal et al. 2023)
          probe       a new linear classifier on the features of the pretrained encoder
          lora        adapters of low rank beside matrices of attention, cross-entropy (Hu et al. 2022)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gen.model.clip import OPEN_CLIP, ClipSpec, clip_digest, clip_folder
from gen.model.folder import ModelError, read_config
from shards.disk.address import BESIDE
from shards.disk.safe_text import clip as shortened
from shards.disk.safe_text import one_line, quoted
from train.model.normalisation import Normalisation
from train.model.pretrained import About, Pretrained

Library = Literal["transformers", "open_clip"]
Tune = Literal["zero_shot", "full", "flyp", "probe", "lora"]
Target = Literal["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
SLOT = "{name}"
# names in the folder of a training: `train.task.export_clip`
CLIP_ABOUT, CLASSIFIER, CLIP_MODEL, ADAPTER = "clip.json", "classifier.safetensors", "model", "adapter"
ARCHITECTURE = "clip"  # in an `About`; the library and the CLIP itself stand in the folder
CLIP_WEIGHTS: dict[Library, str] = {"transformers": "model.safetensors", "open_clip": "open_clip_model.safetensors"}
# of both libraries' own preprocessing, where a folder does not say
USUAL = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class LoraSpec(BaseModel):
    """Adapters of low rank."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(16, ge=1, le=4096, description="of each adapter")
    alpha: int = Field(32, ge=1, description="an adapter's output is multiplied by alpha / rank")
    dropout: float = Field(0.1, ge=0, lt=1, description="of an adapter's input")
    targets: tuple[Target, ...] = Field(
        ("q_proj", "v_proj"), min_length=1, description="matrices of every block that get an adapter"
    )


class ProbeSpec(BaseModel):
    """A linear classifier that is fitted to features of all training pictures, beside the one that is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(200, ge=1, description="passes over the features")
    batch: int = Field(256, ge=1, description="features in a step")
    lr: float = Field(0.01, gt=0, description="highest rate of AdamW with betas 0.9 and 0.95")
    weight_decay: float = Field(0.1, ge=0, description="of the weights")
    warmup_steps: int = Field(200, ge=0, description="at most a tenth of all steps")


class ClipTrainSpec(BaseModel):
    """The CLIP and how it is adapted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[str, BESIDE] = Field(
        min_length=1, description="folder or hub id; `open_clip:` before it, or before ARCH/TAG"
    )
    revision: str | None = Field(
        None,
        description="the hub's commit, 40 hex digits; null = a folder",
        examples=["0123456789abcdef0123456789abcdef01234567"],
    )
    digest: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="of the model; filled in when a training begins",
        examples=["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
    )
    tune: Tune = Field(
        "full",
        description="zero_shot: nothing; full: image encoder and classifier; flyp: encoders, by the contrastive loss; "
        "probe: a new classifier on fixed features; lora: adapters",
    )
    text: Literal["live", "frozen"] | None = Field(
        None,
        description="of flyp and lora: whether the text encoder is trained, and the classifier made anew in each step; "
        "null = live for these two",
        examples=["frozen"],
    )
    templates: tuple[str, ...] = Field(
        ("a photo of {name}.",), min_length=1, description="texts of a class; {name} is what it is called"
    )
    unit_texts: bool = Field(
        True,
        description="the vectors of a class's texts have length 1 before their mean is taken, as in a zero-shot "
        "classifier; false: only the mean has",
    )
    names: Mapping[int, str] = Field(
        {},
        description="class id -> name in texts, over what the data say; ids count, never the order of folders",
        examples=[{7: "seven, the handwritten numeral"}],
    )
    wise_alpha: float | None = Field(
        None,
        ge=0,
        le=1,
        description="WiSE-FT: what is measured and exported is this share of the way from the zero-shot weights to the "
        "trained ones; null = the trained ones",
        examples=[0.5],
    )
    lora: LoraSpec = Field(LoraSpec(), description="of tune: lora")
    probe: ProbeSpec | None = Field(
        None,
        description="test sets are also measured with a linear probe on the adapted encoder; null = they are not",
        examples=[{"epochs": 200}],
    )

    @model_validator(mode="after")
    def _has_texts_to_train(self) -> "ClipTrainSpec":
        if self.text == "live" and self.tune not in ("flyp", "lora"):
            raise ValueError(
                f"clip.text: found live with tune: {self.tune}, whose classifier does not come from texts in each "
                "step, expected frozen or null; set tune: flyp or lora"
            )
        return self

    @model_validator(mode="after")
    def _has_two_ends(self) -> "ClipTrainSpec":
        if self.wise_alpha is not None and self.tune in ("zero_shot", "probe"):
            raise ValueError(
                f"clip.wise_alpha: found {self.wise_alpha:g} with tune: {self.tune}, expected null: there are no "
                "zero-shot and trained weights to go between; set tune: full, flyp or lora"
            )
        return self

    @model_validator(mode="after")
    def _probes_another(self) -> "ClipTrainSpec":
        if self.probe is not None and self.tune == "probe":
            raise ValueError("clip.probe: found one beside tune: probe, which is the same, expected null; take it out")
        return self

    @model_validator(mode="after")
    def _templates_have_a_slot(self) -> "ClipTrainSpec":
        for template in self.templates:
            if SLOT not in template:
                raise ValueError(
                    f"clip.templates: found {quoted(template, 60)}, expected a text with {SLOT} in it, such as 'a "
                    "photo of {name}.'"
                )
        return self

    @model_validator(mode="after")
    def _adapters_have_matrices(self) -> "ClipTrainSpec":
        if self.tune == "lora" and self.library == "open_clip":
            raise ValueError(
                "clip.tune: found lora with a model of open_clip, whose attention has one matrix for q, k and v, "
                "expected one in transformers' format, with a matrix for each; give its hub id or folder in that "
                "format, or set tune: full"
            )
        return self

    @property
    def library(self) -> Library:
        """Which library loads the model."""
        return "open_clip" if self.model.startswith(OPEN_CLIP) else "transformers"

    @property
    def is_text_live(self) -> bool:
        """Whether the text encoder is trained."""
        return self.tune in ("flyp", "lora") and self.text != "frozen"

    @property
    def folder(self) -> Path:
        """The checked folder. Raises ModelError."""
        return clip_folder(self._plain)

    @property
    def _plain(self) -> ClipSpec:
        return ClipSpec(model=self.model, revision=self.revision)

    def exported_in(self, folder: Path) -> str:
        """The `model` of a recipe that starts from the export in the folder of a training."""
        return f"{OPEN_CLIP if self.library == 'open_clip' else ''}{folder / CLIP_MODEL}"

    def measured_digest(self) -> str:
        """Of the model as it lies there now. Raises ModelError."""
        return clip_digest(self._plain)


def pinned_clip(spec: ClipTrainSpec) -> ClipTrainSpec:
    """The same with the model's digest written down. Then it may move, and cannot change unseen. Raises ModelError if
    it is not there."""
    return spec if spec.digest is not None else spec.model_copy(update={"digest": spec.measured_digest()})


def check_pinned(spec: ClipTrainSpec) -> None:
    """Raises ValueError if the model is not the one that the training began with."""
    found = spec.measured_digest()
    if spec.digest is not None and found != spec.digest:
        raise ValueError(
            f"clip.model: found {quoted(spec.model, 120)} with the digest {found[:16]}, expected {spec.digest[:16]}, "
            "the model that this training began with; bring it back, or train in another folder"
        )


# pictures


@dataclass(frozen=True)
class ClipInput:
    """How the model wants its pictures."""

    size_px: int
    crop_pct: float  # side of the centre that is shown / short side
    normal: Normalisation


def input_of(spec: ClipTrainSpec) -> ClipInput:
    """As the files beside the weights say; nothing is loaded. Raises ModelError."""
    folder = spec.folder
    if spec.library == "open_clip":
        config = read_config(folder / "open_clip_config.json")
        told = _part(config, "preprocess_cfg")
        size = _part(_part(config, "model_cfg"), "vision_cfg").get("image_size", 224)
        normal = Normalisation(*(_three(told, key, usual, folder) for key, usual in _keys("mean", "std")))
        return ClipInput(_whole(size, folder), 1.0, normal)
    size = _whole(_part(read_config(folder / "config.json"), "vision_config").get("image_size", 224), folder)
    told = {}
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            config = read_config(folder / name)
            told = _part(config, "image_processor") or config
    normal = Normalisation(*(_three(told, key, usual, folder) for key, usual in _keys("image_mean", "image_std")))
    short = told.get("size")
    short = short.get("shortest_edge", size) if isinstance(short, dict) else size if short is None else short
    return ClipInput(size, min(1.0, size / _whole(short, folder)), normal)


def check_size(spec: ClipTrainSpec, size_px: int) -> None:
    """Raises ValueError unless pictures of `size_px` are the model's input."""
    wanted = input_of(spec).size_px
    if size_px != wanted:
        raise ValueError(
            f"data.size_px: found {size_px}, expected {wanted}, the input of {quoted(spec.model, 120)}; set "
            f"data.size_px={wanted}"
        )


def _keys(mean: str, std: str) -> tuple[tuple[str, tuple[float, float, float]], tuple[str, tuple[float, float, float]]]:
    return (mean, USUAL.mean), (std, USUAL.std)


def _part(told: Mapping[str, object], key: str) -> Mapping[str, object]:
    found = told.get(key)
    return found if isinstance(found, dict) else {}


def _three(
    told: Mapping[str, object], key: str, usual: tuple[float, float, float], folder: Path
) -> tuple[float, float, float]:
    found = told.get(key)
    if found is None:
        return usual
    if not isinstance(found, list) or len(found) != 3 or not all(isinstance(one, int | float) for one in found):
        raise ModelError(f"{folder}: found {shortened(str(found), 60)} as {key}, expected three numbers")
    red, green, blue = (float(one) for one in found)
    return red, green, blue


def _whole(found: object, folder: Path) -> int:
    if type(found) is not int or found < 1:
        raise ModelError(f"{folder}: found {shortened(str(found), 60)} as the size of pictures, expected a number")
    return found


# classes


def names_of_classes(spec: ClipTrainSpec, told: Mapping[int, str], ids: Sequence[int]) -> tuple[str, ...]:
    """The name of each class in texts, in the order of ids 0, 1, ...; `told`: as the data call them, `ids`: that they
    have. Raises ValueError for an id without a name."""
    names = {**told, **spec.names}
    num = 1 + max([*ids, *names], default=-1)
    missing = [number for number in range(num) if not names.get(number, "").strip()]
    if missing or num < 2:
        found = f"no name of class {missing[0]}" if missing else f"{num} classes"
        raise ValueError(
            f"clip.names: found {found} in the data, expected a name for each id and at least two; name it in the "
            f"recipe: clip.names.{missing[0] if missing else num}=NAME"
        )
    return tuple(names[number] for number in range(num))


def captions_of(spec: ClipTrainSpec, names: Sequence[str]) -> list[list[str]]:
    """The texts of each class, a template after the other."""
    return [[template.replace(SLOT, name) for template in spec.templates] for name in names]


# exports


def find_exported_clip(folder: Path) -> Pretrained | None:
    """What a training left there; None if it is no folder of an adapted CLIP. Raises ValueError for a damaged one."""
    path = folder / CLIP_ABOUT
    if not path.is_file():
        return None
    told = read_config(path)
    names, facts = (
        told.get("class_names"),
        {key: told[key] for key in ("step", "seed", "recipe", "weights") if key in told},
    )
    try:
        about = About.model_validate(
            {key: told[key] for key in ("size_px", "crop_pct", "mean", "std") if key in told}
            | {"architecture": ARCHITECTURE, "names": names, "facts": facts}
            | {"num_classes": len(names) if isinstance(names, dict) else 0}
        )
        weights = CLIP_WEIGHTS[told.get("library")]  # type: ignore[index]
    except (ValidationError, KeyError) as error:
        raise ValueError(
            f"{path}: found no description of an adapted CLIP ({one_line(str(error), 120)}), expected one; export it "
            "again by the same `sixfold train`"
        ) from None
    return Pretrained(folder / CLIP_MODEL / weights, about, shortened(str(folder), 200))


def exported_clip_in(folder: Path) -> str | None:
    """The CLIP that a training has left there, as `gen.model.clip.ClipSpec` names it; None if it is no such folder.
    Raises ValueError as `find_exported_clip` does."""
    if find_exported_clip(folder) is None:
        return None
    library = read_config(folder / CLIP_ABOUT)["library"]
    return f"{OPEN_CLIP if library == 'open_clip' else ''}{folder / CLIP_MODEL}"
