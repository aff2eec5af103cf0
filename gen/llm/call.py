"""The types of one call of a language model: what goes in, what comes out, and how it fails.

Shared by the loop that asks (gen.llm.ask), the check of an answer (gen.llm.answer) and the models (gen.llm.openai,
gen.llm.local). On disk: nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Call:
    """What a model is asked. `system` contains `schema` as text too, for models that cannot be bound to a schema."""

    system: str
    user: str
    schema: Mapping[str, Any]
    seed: int  # 31 bits
    task: str = ""  # `system` without the schema, for a model that is bound to it
    images: tuple[bytes, ...] = field(default=(), repr=False)  # PNG or JPEG; they come before `user`


@dataclass(frozen=True)
class Said:
    """What a model answered: text of at most `max_answer_bytes`."""

    text: str
    is_cut: bool = False  # the answer reached max_tokens
    is_refused: bool = False  # the model or the server declined to answer
    tokens_in: int = 0
    tokens_out: int = 0


class BadAnswer(Exception):
    """The model answered, but the answer cannot be used; another seed may do better. `excerpt` is raw text."""

    def __init__(self, reason: str, excerpt: str) -> None:
        super().__init__(reason)
        self.reason, self.excerpt = reason, excerpt


class CallFailed(Exception):
    """The model did not answer. `again`: the same call may succeed later, after `after_s` if the server says so."""

    def __init__(self, reason: str, excerpt: str, again: bool = True, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.excerpt, self.again, self.after_s = reason, excerpt, again, after_s


class LlmError(ValueError):
    """No call can succeed until a person acts; the message is one line that says what to do."""


class LanguageModel(Protocol):
    """A model that answers one call at a time, or several at once."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What an answer depends on besides the call, as plain JSON: part of the key in the cache."""

    @property
    def place(self) -> str:
        """Where the model runs, for people: one line without a secret."""

    @property
    def num_parallel(self) -> int:
        """How many calls it can answer at a time."""

    async def answer(self, call: Call) -> Said:
        """The answer to one call. Raises BadAnswer, CallFailed or LlmError. Ends soon after it is cancelled."""

    async def close(self) -> None:
        """Release the model or the connection; no call follows."""
