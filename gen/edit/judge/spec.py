"""The recipe's choice of a judge: who answers, which questions, how many right answers are enough; pure.

In: the recipe's `judge` part. Out: a checked `JudgeSpec`. On disk: nothing.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gen.edit.judge.question import Asks
from gen.llm.spec import LlmSpec
from gen.model.clip import ClipSpec
from shards.disk.address import file_path

ASKED: dict[str, tuple[Asks, ...]] = {  # by kind: what it can be asked
    "vlm": ("visible", "plausible"),
    "clip": ("visible",),
    "none": (),
}


class JudgeSpec(BaseModel):
    """The `judge` part of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["vlm", "clip", "none"] = Field(
        "none", description="vlm: a vision-language model; clip: the nearer of two texts; none: every image is accepted"
    )
    llm: LlmSpec | None = Field(
        None,
        description="vlm: the model, as in `llm` of other recipes; temperature 0 unless it is given",
        examples=[{"provider": "openai", "model": "Qwen/Qwen3-VL-8B-Instruct", "base_url": "http://127.0.0.1:8000/v1"}],
    )
    clip: ClipSpec | None = Field(None, description="clip: the model", examples=[{"model": "sandbox/models/clip"}])
    asks: tuple[Asks, ...] | None = Field(
        None,
        min_length=1,
        description="which questions are asked; null = visible and plausible of a vlm, visible of a clip",
        examples=[["visible"]],
    )
    threshold: float = Field(0.5, gt=0, le=1, description="share of questions answered as expected; the paper's 2 of 4")
    budget: int = Field(
        5, ge=1, le=100, description="tries at each output; then it is short, and never accepted because they ran out"
    )

    def at_home(self) -> "JudgeSpec":
        """The same with whole paths of folders, for workers of other working folders. Raises ModelError."""
        if self.clip is not None:
            return self.model_copy(update={"clip": self.clip.at_home()})
        if self.llm is None:
            return self
        llm = self.llm.model_copy(update={"cache": str(file_path(self.llm.cache).absolute())})
        if llm.provider == "transformers" and llm.revision is None and llm.model is not None:
            llm = llm.model_copy(update={"model": str(file_path(llm.model).absolute())})
        return self.model_copy(update={"llm": llm})

    @field_validator("llm", mode="before")
    @classmethod
    def _no_luck(cls, value: Any) -> Any:
        return {"temperature": 0, **value} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _model_fits_kind(self) -> "JudgeSpec":
        for kind, model, name in (("vlm", self.llm, "llm"), ("clip", self.clip, "clip")):
            if (self.kind == kind) != (model is not None):
                found, expected = ("none", "one") if model is None else ("one", "none")
                raise ValueError(f"judge.{name}: found {found} for kind {self.kind}, expected {expected}")
        if self.llm is not None and self.llm.provider == "offline":
            raise ValueError(
                "judge.llm: found provider offline, expected openai or transformers; set judge.kind=clip or none to "
                "do without a language model"
            )
        return self

    @model_validator(mode="after")
    def _questions_fit_kind(self) -> "JudgeSpec":
        for one in self.asks or ():
            if one not in ASKED[self.kind]:
                can = ", ".join(ASKED[self.kind]) or "null"
                raise ValueError(
                    f"judge.asks: found {one} for kind {self.kind}, expected {can}; only a vlm knows what is plausible"
                )
        return self

    @property
    def asked(self) -> tuple[Asks, ...]:
        """Which questions are asked; none for kind none."""
        return ASKED[self.kind] if self.asks is None else self.asks
