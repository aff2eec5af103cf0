"""The recipe of a generated data set: one frozen model made of the parts that live beside their owners.

In: a YAML file and `key.sub=value` overrides. Out: `Recipe`, and its identity: everything that decides what the
images are. `cluster` (how the work is spread) and `expect` are no part of it: any number of workers may make one data
set.
"""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.recipe import load_recipe
from cluster.work import FanOutSpec
from gen.classes import ClassSpec
from gen.prompts import PromptSpec
from gen.sampler import SamplerSpec, sampler_digest
from gen.screen import ScreenSpec
from gen.unit import ShardSpec

# Libraries whose version decides the bytes of an image.
DECIDING_LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "simplejpeg", "pyarrow")


class Expect(BaseModel):
    """What the author of a recipe expects; for estimates before a run, never for its images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images_per_s: float = Field(gt=0, description="of one worker, images written")


class Recipe(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,79}$", description="lower-case letters, digits, dashes")
    seed: int = Field(0, ge=0, lt=2**63, description="run seed; another seed is another data set")
    classes: ClassSpec
    prompts: PromptSpec
    sampler: SamplerSpec
    screen: ScreenSpec = Field(default_factory=ScreenSpec)
    shards: ShardSpec = Field(default_factory=ShardSpec)
    cluster: FanOutSpec = FanOutSpec()
    expect: Expect | None = None

    @model_validator(mode="after")
    def _negative_is_heard(self) -> "Recipe":
        if (self.prompts.negative or self.sampler.negative) and self.sampler.guidance <= 1:
            raise ValueError(
                f"a negative text is given, but guidance {self.sampler.guidance:g} never looks at it; set "
                "sampler.guidance above 1 or remove the negative text"
            )
        return self


def read_recipe(path: Path, overrides: Sequence[str]) -> Recipe:
    """Raises RecipeError (a ValueError) with one line for the person who wrote it."""
    return load_recipe(path, Recipe, overrides)


def identity(recipe: Recipe) -> dict[str, Any]:
    """What the images depend on, as plain JSON: recipe without `cluster` and `expect`, the model's digest, versions."""
    chosen = recipe.model_dump(mode="json", exclude={"cluster", "expect"})
    chosen["model_digest"] = sampler_digest(recipe.sampler)
    chosen["versions"] = {name: importlib.metadata.version(name) for name in DECIDING_LIBRARIES}
    return chosen
