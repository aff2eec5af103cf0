"""What is learned of a data set's style, and with which generator: the recipe's section `invert`.

In: fields of a recipe. Out: a frozen `InvertSpec`; the same with the generator's digest written down. On disk: reads
the model's configs, hashes its weights and the file of meanings. Does not import torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gen.model.folder import ModelError, ModelFolder, model_digest, open_model, read_config
from gen.model.style_token import MAX_VECTORS, WORD_PATTERN, encoder_widths, refuse_known
from gen.wording.parts import NAME_SLOTS
from gen.wording.templates import slots_of
from shards.disk.address import BESIDE, places_of
from shards.disk.home import home
from shards.disk.regular import sha256_of
from shards.disk.safe_text import quoted

MEANINGS = "_meta/meanings.jsonl"  # of a data set that `sixfold generate` made
GROUP_PATTERN = r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?"


class InvertSpec(BaseModel):
    """One new word for a data set, or one for each class or group of classes. Everything else is frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[str, BESIDE] = Field(description="the generator: folder of a pipeline, or hub id with revision")
    revision: str | None = Field(
        None, pattern="^[0-9a-f]{40}$", description="commit of the hub id; null for a folder", examples=["0" * 40]
    )
    variant: Literal["fp16", "bf16"] | None = Field(None, description="weight files with this tag", examples=["fp16"])
    model_sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="digest of the generator; filled in when a training begins",
        examples=["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
    )
    token: str = Field("<style>", pattern=f"^{WORD_PATTERN}$", description="the new word, in angle brackets")
    tokens: Literal["dataset", "class", "group"] = Field(
        "dataset",
        description="dataset: one word for all pictures; class: one for each class, <style-7>; group: one for each "
        "group of classes, <style-birds>",
    )
    groups: Mapping[Annotated[str, Field(pattern=f"^{GROUP_PATTERN}$")], tuple[str, ...]] | None = Field(
        None, description="group -> names of its classes", examples=[{"birds": ["crane", "hen"], "boats": ["canoe"]}]
    )
    vectors: int = Field(1, ge=1, le=MAX_VECTORS, description="rows of a word; each takes the place of a token")
    initial: str = Field(
        "style", min_length=1, max_length=200, description="words whose mean row is the first row of each new word"
    )
    templates: tuple[str, ...] = Field(
        ("a {name} photo in the style of {token}",),
        min_length=1,
        description="what a picture is told to show, drawn for each picture and step; {name} and {subject} as in "
        "prompts.templates",
    )
    meanings: Annotated[str | None, BESIDE] = Field(
        None,
        description="which sense of the names is meant, in the generator's words: a data set that it made, or a file "
        "of `sixfold meanings --out`; null = the names alone",
        examples=["out/sandbox"],
    )
    dtype: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="of the frozen weights; the new rows are fp32 in any case"
    )
    checkpointing: bool = Field(
        False, description="compute the denoiser's activations again in the backward pass instead of keeping them"
    )
    cache_mb: int = Field(
        1024, ge=0, description="of latents kept in memory, where no augmentation changes the pictures; 0 = none"
    )
    validation_pictures: int = Field(
        256, ge=1, description="of each set that is measured, spread over all of it; each in four timesteps"
    )
    pictures: int = Field(8, ge=0, le=64, description="that are drawn at each validation and for the page at the end")
    steps: int = Field(12, ge=1, le=1000, description="denoising steps of these pictures")
    guidance: float = Field(2.0, ge=0, le=100, description="of these pictures")
    loss_guidance: float | None = Field(
        None,
        ge=0,
        le=100,
        description="what a model that is told its guidance, such as FLUX.1-dev, is told while it learns; null = "
        "guidance; filled in when a training of such a model begins",
        examples=[1.0],
    )

    @model_validator(mode="after")
    def _templates_say_class_and_token(self) -> "InvertSpec":
        for template in self.templates:
            slots = set(slots_of(template))
            if "token" not in slots or not slots & set(NAME_SLOTS) or slots - {"token", *NAME_SLOTS}:
                raise ValueError(
                    f"templates: found {quoted(template, 80)}, expected the slots {{token}} and {{name}} (or "
                    "{subject}) and no others"
                )
        return self

    @model_validator(mode="after")
    def _groups_are_for_group(self) -> "InvertSpec":
        if (self.groups is not None) != (self.tokens == "group"):
            found = "none" if self.groups is None else "some"
            raise ValueError(
                f"groups: found {found} with tokens: {self.tokens}, expected them with tokens: group alone"
            )
        names = [name for names in (self.groups or {}).values() for name in names]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"groups: found the class {quoted(twice, 60)} in two groups, expected it in one")
        return self


def open_generator(spec: InvertSpec) -> ModelFolder:
    """The checked folder of the generator. Raises ModelError for one that cannot be inverted."""
    folder = open_model(spec.model, spec.revision, spec.variant, home())
    encoder_widths(folder)
    refuse_known(folder, [spec.token], "invert.token")
    if folder.family in ("sd", "sdxl"):
        if read_config(folder.path / "unet" / "config.json").get("time_cond_proj_dim") is not None:
            raise ModelError(
                f"invert.model {spec.model}: found a model of few steps, which is told its guidance, expected one that "
                "was not distilled; learn the token with the model that it was made from"
            )
        scheduler = read_config(folder.path / "scheduler" / "scheduler_config.json")
        name = str(scheduler.get("_class_name"))
        if name.startswith("EDM") or "beta_schedule" not in scheduler:
            raise ModelError(
                f"invert.model {spec.model}: found the scheduler {name}, expected one with a "
                "beta_schedule, whose noise is known; choose another model"
            )
    return folder


def check_invert(spec: InvertSpec) -> None:
    """Raises ValueError for what the section names and that is not there."""
    open_generator(spec)
    if spec.meanings is not None:
        meanings_file(spec.meanings)


def meanings_file(name: str) -> Path:
    """The file of meanings that is meant. Raises ValueError without one."""
    for place in places_of(name):
        for file in (place, place / MEANINGS):
            if file.is_file():
                return file
    raise ValueError(
        f"invert.meanings: found no file {quoted(name, 120)} and no {MEANINGS} in it, expected the meanings of "
        "classes; write them with `sixfold meanings --out`"
    )


def pinned_generator(spec: InvertSpec) -> InvertSpec:
    """The same with the generator's digest written down, so that its folder may move and cannot change unseen, and with
    the guidance that it is told, if it is told any. Raises ModelError if it is not there. What is written down already
    is compared with the weights by `refuse_other_weights`."""
    if spec.model_sha256 is not None:
        return spec
    told = spec.guidance if spec.loss_guidance is None else spec.loss_guidance
    found = {"model_sha256": model_digest(spec.model, spec.revision, home())}
    is_told = is_told_guidance(open_model(spec.model, spec.revision, spec.variant, home()))
    return spec.model_copy(update={**found, "loss_guidance": told if is_told else None})


def refuse_other_weights(spec: InvertSpec) -> None:
    """Raises ModelError if the generator has another digest than is written down."""
    found = model_digest(spec.model, spec.revision, home())
    if found != spec.model_sha256:
        raise ModelError(
            f"invert.model {spec.model}: found a generator with the digest {found[:16]}, expected {spec.model_sha256} "
            "(invert.model_sha256); bring that generator back, or train in another folder without invert.model_sha256"
        )


def is_told_guidance(folder: ModelFolder) -> bool:
    """Whether the denoiser has an input for the guidance, so that what it is told changes what is learned."""
    config = folder.path / "transformer" / "config.json"
    return folder.family == "flux" and bool(read_config(config).get("guidance_embeds"))


def by_content(spec: InvertSpec) -> dict[str, Any]:
    """What decides, with contents in the place of names: the section as a training's identity has it."""
    chosen = pinned_generator(spec).model_dump(
        mode="json", exclude={"cache_mb", "pictures", "steps", "guidance", "checkpointing"}
    )
    chosen["model"] = chosen.pop("model_sha256")
    del chosen["revision"], chosen["variant"]
    if chosen["loss_guidance"] is None:
        del chosen["loss_guidance"]  # of most models, and of trainings that began when there was no such field
    if spec.meanings is not None:
        chosen["meanings"] = sha256_of(meanings_file(spec.meanings))
    return chosen
