"""How much a training does, and how an earlier stage of it differs from the last one: parts of its recipe.

In: fields of a recipe. Out: frozen models. On disk: nothing; `train.session.stages` trains the stages.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_serializer

from shards.stream.augment import AugmentSpec
from shards.stream.mix import MixSpec
from shards.stream.spec import DomainSpec
from train.evaluate.evaluate import EvaluateSpec
from train.model.classifiers import Aux, Bn
from train.model.head import HEAD, Head
from train.model.optim import OptimSpec


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
    augment: AugmentSpec | None = Field(
        None, description="how pictures are changed; null = as in the recipe", examples=[{"scale": [0.5, 1.0]}]
    )
    mix: MixSpec | None = Field(
        None, description="mixup and cutmix; null = as in the recipe", examples=[{"mixup_alpha": 0.8}]
    )


class StageSpec(BaseModel):
    """A training whose weights the next one starts from. A field that it leaves out, in a part too, is the recipe's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$", description="of its folder below stages/")
    model: StageModel | None = Field(None, description="null = the recipe's", examples=[{"head": "new"}])
    data: StageData | None = Field(None, description="likewise", examples=[{"mix": {"mixup_alpha": 0.8}}])
    optim: OptimSpec | None = Field(None, description="likewise", examples=[{"lr": 0.003}])
    schedule: ScheduleSpec | None = Field(
        None, description="likewise", examples=[{"steps": 450, "epoch_steps": 150, "groups": 1}]
    )
    evaluate: EvaluateSpec | None = Field(None, description="likewise", examples=[{"every_epochs": 3}])

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


STAGE_PARTS = ("model", "data", "optim", "schedule", "evaluate")
