"""The recipe's choice of attributes: which kinds, which side, from where; pure.

In: the recipe's `attributes` part. Out: a checked `AttributeSpec`. On disk: nothing.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gen.edit.attributes.attribute import AttributeKind
from gen.edit.attributes.lexicon import SHIPPED
from shards.disk.address import Beside


class Weights(BaseModel):
    """How much the name of an attribute counts in a prompt that has weights. The defaults are VariReal's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    background: float = Field(1.2, gt=0, le=10, description="1 = as any other word")
    colour: float = Field(1.3, gt=0, le=10, description="1 = as any other word")
    texture: float = Field(1.3, gt=0, le=10, description="1 = as any other word")

    def of(self, kind: AttributeKind) -> float:
        """The weight of one kind."""
        return {"background": self.background, "colour": self.colour, "texture": self.texture}[kind]


class AttributeSpec(BaseModel):
    """The `attributes` part of a recipe: what edits put into images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kinds: tuple[AttributeKind, ...] = Field(
        ("background",), min_length=1, description="what is edited; several take turns", examples=[["background"]]
    )
    feasibility: Literal["feasible", "infeasible", "mixed"] = Field(
        "feasible", description="mixed: half of each; of an odd number one more is infeasible"
    )
    source: Literal["lexicon", "llm"] = Field(
        "lexicon", description="lexicon: the words of a file; llm: a language model is asked for each class"
    )
    lexicon: Annotated[str, Beside(frozenset(SHIPPED))] = Field(
        "general",
        min_length=1,
        description="general, sandbox or a YAML file; with llm it gives the examples and the bank of colours",
    )
    weights: Weights = Field(
        Weights(), description="of names in a prompt; no editor here reads them, so only the defaults are taken"
    )
    per_class: int = Field(20, ge=1, le=200, description="llm: attributes of each kind and side of a class")
    enough: int = Field(5, ge=1, le=200, description="llm: fewer than so many end the run")
    rounds: int = Field(4, ge=1, le=100, description="llm: how often what is missing is asked for")

    @property
    def sides(self) -> tuple[bool, ...]:
        """Which sides are drawn, in the order of their turns; True is feasible."""
        return {"feasible": (True,), "infeasible": (False,), "mixed": (False, True)}[self.feasibility]

    @model_validator(mode="after")
    def _kinds_are_distinct(self) -> "AttributeSpec":
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds: found {', '.join(self.kinds)}, expected each once")
        return self

    @model_validator(mode="after")
    def _enough_can_be_had(self) -> "AttributeSpec":
        if self.enough > self.per_class:
            raise ValueError(f"enough: found {self.enough}, expected at most per_class ({self.per_class})")
        return self
