"""The recipe of a run that trains nothing, for tests of sweeps. It imports little, since each run is a process."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Sets(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    tests: Mapping[str, str] = {"real-test": "a", "sketch": "b"}
    validation: str | None = None


class SmallRecipe(BaseModel):
    """As much of a training recipe as a sweep looks at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 7
    lr: float = 1.0
    overfits: float = 0.0  # points that validation loses for each lr, while tests gain one
    behaviour: Literal["good", "fail", "mistake", "die", "hang", "silent"] = "good"
    domains: tuple[Mapping[str, Any], ...] = ({"name": "real", "quota": 16}, {"name": "synthetic", "quota": 16})
    evaluate: Sets = Sets()
    engine: Mapping[str, float] = {"deadline_s": 600.0}
