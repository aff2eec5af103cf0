"""The recipe of an edited data set: that of a generated one, with the pictures to begin with and what is done to them.

In: a YAML file and `key.sub=value` overrides. Out: `EditRecipe`; its identity, which is everything that decides what
the images are.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gen.edit.sources import SourceSpec
from gen.run.recipe import Recipe, identity
from gen.sampler.start import executed_steps
from shards.stream.index_arrays import Index

SHORTCUTS = ("guidance_interval", "reuse_every")  # they count shares of the whole way


class PerturbSpec(BaseModel):
    """A picture goes a part of the way to noise, and comes back through the generator."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["perturb"] = Field(description="image to image by strength")
    gamma: float = Field(
        ge=0,
        le=1,
        description="strength: floor(gamma x sampler.steps) steps are taken; 0 = the source's own pixels, 1 = as from "
        "noise",
        examples=[0.5],
    )
    fit: Literal["crop", "squash"] = Field(
        "crop", description="how a picture becomes a square: its centre, or all of it with both sides resized"
    )


class EditRecipe(Recipe):
    """Each class has as many images in 1x as it has source pictures: one edit of each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: SourceSpec
    edit: PerturbSpec

    @model_validator(mode="after")
    def _sources_are_counted(self) -> "EditRecipe":
        if (self.classes.per_class, self.classes.total, self.classes.counts) != (None, None, None):
            raise ValueError(
                "classes: found a number of images, expected none: a class has as many images in 1x as it has source "
                "pictures; remove it, or set source.per_class"
            )
        return self

    @model_validator(mode="after")
    def _a_step_is_taken(self) -> "EditRecipe":
        gamma, steps = self.edit.gamma, self.sampler.steps
        if gamma and not executed_steps(steps, gamma):
            raise ValueError(
                f"edit.gamma: found {gamma:g} of {steps} steps, which takes none; set at least {1 / steps:.3g}, or 0 "
                "for the source's own pixels"
            )
        return self

    @model_validator(mode="after")
    def _no_shortcut_counts_the_way(self) -> "EditRecipe":
        for name in SHORTCUTS:
            if getattr(self.sampler, name) is not None:
                raise ValueError(
                    f"sampler.{name}: found {getattr(self.sampler, name)}, expected null: it counts from noise on, and "
                    "an edit begins with a picture"
                )
        return self


def edit_identity(recipe: EditRecipe, index: Index) -> dict[str, Any]:
    """What the images depend on, as plain JSON; the source stands here by its content, not by its path."""
    chosen: Mapping[str, Any] = identity(recipe)
    rest = {name: value for name, value in chosen["source"].items() if name != "set"}
    return {**chosen, "source": {**rest, "digest": index.digest}}
