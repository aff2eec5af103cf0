"""One call of a language model: what goes in, what comes out, and how it fails.

Nothing here touches a network, a file or a clock, so the loop that asks (gen.llm.ask), the check of what was said
(gen.llm.answer) and the models themselves (gen.llm.openai, gen.llm.local) share it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Call:
    """`schema` is what the answer must fit; `system` says so too, for a model that cannot be bound to a schema."""

    system: str
    user: str
    schema: Mapping[str, Any]
    seed: int  # 31 bits


@dataclass(frozen=True)
class Said:
    """What a model said, as text and at most `max_answer_bytes` long."""

    text: str
    is_cut: bool = False  # the model came to max_tokens
    is_refused: bool = False
    tokens_in: int = 0
    tokens_out: int = 0


class BadAnswer(Exception):
    """The model answered, with nothing of use; another seed may do better. `excerpt` is raw text."""

    def __init__(self, reason: str, excerpt: str) -> None:
        super().__init__(reason)
        self.reason, self.excerpt = reason, excerpt


class CallFailed(Exception):
    """The model did not answer. `again`: the same call may succeed later, in `after_s` if the server said when."""

    def __init__(self, reason: str, excerpt: str, again: bool = True, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.excerpt, self.again, self.after_s = reason, excerpt, again, after_s


class LlmError(ValueError):
    """No call can succeed until a person does something; the message is one line that says what."""


class LanguageModel(Protocol):
    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything beside the call that an answer depends on, as plain JSON: part of the cache's key."""

    @property
    def place(self) -> str:
        """Where the model is, on one line, with no secret in it."""

    @property
    def num_parallel(self) -> int:
        """Calls it can take at a time."""

    async def answer(self, call: Call) -> Said:
        """Raises BadAnswer, CallFailed or LlmError. Ends soon after it is cancelled."""

    async def close(self) -> None: ...
