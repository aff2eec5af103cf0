"""How much a training does, and how an earlier stage of it differs from the last one: parts of its recipe.

In: fields of a recipe. Out: frozen models; the fields of a stage laid over those of the recipe. On disk: nothing;
`train.session.stages` trains the stages.

A stage has the recipe's own parts, of which it may leave out any field (`Partly`). What fits together is asked of the
whole that comes of both, and not of a part.
"""

import copy
import functools
import operator
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator, model_serializer

from shards.stream.augment import AugmentSpec
from shards.stream.mix import MixSpec
from shards.stream.spec import DomainSpec
from train.evaluate.evaluate import EvaluateSpec
from train.evaluate.results import START
from train.model.classifiers import Aux, Bn
from train.model.head import HEAD, Head
from train.model.optim import OptimSpec

Part = TypeVar("Part", bound=BaseModel)
if TYPE_CHECKING:
    Partly = Annotated[Part, "any field may be left out"]
else:

    class Partly:
        """`Partly[OptimSpec]`: the fields of an `OptimSpec`, of which any may be left out, here and in its parts."""

        def __class_getitem__(cls, model: type[BaseModel]) -> type[BaseModel]:
            return partly(model)


@functools.cache
def partly(model: type[BaseModel]) -> type[BaseModel]:
    """The model with the same fields, none of them needed, and no check of one against another."""
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        optional = copy.copy(field)
        usual = None if field.is_required() else field.get_default(call_default_factory=True)
        if not field.examples and isinstance(usual, str | int | float | tuple) and usual != ():
            optional.examples = [usual]  # of a field whose default says nothing
        optional.default, optional.default_factory = None, None
        optional.annotation = _partly_in(field.annotation)
        fields[name] = (optional.annotation, optional)
    name = f"{model.__name__}OfStage"
    return create_model(name, __config__=model.model_config, __doc__=model.__doc__, __module__=__name__, **fields)


def _partly_in(annotation: Any) -> Any:
    """The annotation with parts in the place of models; a list's elements are whole, since a list is replaced whole."""
    origin: Any = typing.get_origin(annotation)
    inner = typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return partly(annotation)
    if origin is Mapping:
        return origin[inner[0], _partly_in(inner[1])]
    if origin in (typing.Union, types.UnionType):
        return functools.reduce(operator.or_, map(_partly_in, inner))
    return annotation


class ScheduleSpec(BaseModel):
    """How much is trained. A step is one move of the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: int = Field(1, ge=1, description="of a step, over all ranks: a batch has groups x the quotas' sum")
    steps: int = Field(ge=1, description="of the whole training")
    epoch_steps: int = Field(ge=1, description="of an epoch: evaluation and growth of the data happen at its end")


class StageModel(BaseModel):
    """How the model of an earlier stage differs; null = as in the recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_classes: int | None = Field(None, ge=2, description="outputs of this stage", examples=[100])
    head: Head | None = Field(None, description=HEAD, examples=["new"])
    freeze: tuple[str, ...] | None = Field(
        None, description="patterns of parameters that stay as they are, as in model", examples=[["stages.0.*"]]
    )
    drop_path: float | None = Field(None, ge=0, lt=1, description="as in model", examples=[0.1])
    aux: Aux | None = Field(None, description="as in model", examples=["none"])
    bn: Bn | None = Field(None, description="as in model", examples=["rank"])


class StageData(BaseModel):
    """What an earlier stage reads otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    domains: tuple[DomainSpec, ...] = Field((), description="in the order they have in a group; none = the recipe's")
    augment: Partly[AugmentSpec] | None = Field(
        None, description="how pictures are changed; null = as in the recipe", examples=[{"scale": [0.5, 1.0]}]
    )
    mix: Partly[MixSpec] | None = Field(
        None, description="mixup and cutmix; null = as in the recipe", examples=[{"mixup_alpha": 0.8}]
    )


class StageSpec(BaseModel):
    """A training whose weights the next one starts from. A field that it leaves out, in a part too, is the recipe's.

    A list is replaced whole. So is a mapping by an empty one: `evaluate.tests: {}` measures none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$", description="of its folder below stages/")
    model: StageModel | None = Field(None, description="null = the recipe's", examples=[{"head": "new"}])
    data: StageData | None = Field(None, description="likewise", examples=[{"mix": {"mixup_alpha": 0.8}}])
    optim: Partly[OptimSpec] | None = Field(None, description="likewise", examples=[{"lr": 0.003}])
    schedule: Partly[ScheduleSpec] | None = Field(
        None, description="likewise", examples=[{"steps": 450, "epoch_steps": 150, "groups": 1}]
    )
    evaluate: Partly[EvaluateSpec] | None = Field(None, description="likewise", examples=[{"every_epochs": 3}])

    @field_validator("name")
    @classmethod
    def _is_no_name_of_the_beginning(cls, name: str) -> str:
        if name == START:
            raise ValueError(f"found {START}, the name of the weights that a training begins with, expected another")
        return name

    @model_serializer
    def _as_given(self) -> dict[str, Any]:
        """Without what was left out, so that a recipe that is written and read again still leaves it to the recipe."""
        return {"name": self.name, **self.given}

    @property
    def given(self) -> dict[str, dict[str, Any]]:
        """Part of a recipe -> its fields that the stage has of its own."""
        parts = {name: one for name in STAGE_PARTS if (one := getattr(self, name)) is not None}
        found = {name: one.model_dump(mode="json", exclude_unset=True) for name, one in parts.items()}
        for name in found.keys() & {"model", "data"}:
            given = found[name].items()
            found[name] = {key: one for key, one in given if one is not None and (key, one) != ("domains", [])}
        return found

    def over(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """The stage's fields laid over those of a whole recipe, both as plain data."""
        return laid_over(recipe, self.given)


def laid_over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data with the fields of `over` in their places, field by field in what is a mapping on both sides."""
    found = dict(under)
    for name, given in over.items():
        before = under.get(name)
        is_both = isinstance(before, Mapping) and isinstance(given, Mapping) and given
        found[name] = laid_over(before or {}, given) if is_both else given
    return found


STAGE_PARTS = ("model", "data", "optim", "schedule", "evaluate")
