"""The recipe's choice of a language model: which one, how long to wait, how often to try; pure.

In: the recipe's `llm` part. Out: a checked `LlmSpec`. On disk: nothing; keys come from the environment only.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from shards.disk.address import BESIDE
from shards.disk.safe_text import quoted

# fields of a request that have a field of their own in the recipe, or none at all
OWN_FIELDS = frozenset(
    {"model", "messages", "temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "response_format"}
    | {"stream", "n"}
)


class LlmSpec(BaseModel):
    """The `llm` part of a recipe."""

    # errors never show the value that was found: it may be a key, or an address with a password
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    provider: Literal["offline", "openai", "transformers"] = Field(
        "offline",
        description="offline: the lexicons alone; openai: any compatible server; transformers: in this process",
    )
    model: Annotated[str | None, BESIDE] = Field(
        None,
        min_length=1,
        max_length=500,
        description="the server's name for it, folder or hub id",
        examples=["Qwen/Qwen3-8B"],
    )
    revision: str | None = Field(
        None,
        description="transformers: the hub's commit, 40 hex digits; null = a folder",
        examples=["0123456789abcdef0123456789abcdef01234567"],
    )
    base_url: str | None = Field(
        None,
        description="openai: the server, such as http://127.0.0.1:8000/v1; null = OpenAI",
        examples=["http://127.0.0.1:8000/v1"],
    )
    key_env: str = Field("OPENAI_API_KEY", description="openai: NAME of the environment variable that holds the key")
    temperature: float | None = Field(0.8, ge=0, le=2, description="null = the server's own")
    top_p: float | None = Field(0.9, gt=0, le=1, description="null = the server's own")
    max_tokens: int = Field(2048, ge=1, le=100_000, description="of one answer")
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="openai: what the server calls it"
    )
    send_seed: bool = Field(True, description="openai: whether the server is sent a seed")
    send_schema: bool = Field(True, description="openai: whether the server is sent response_format (the text says it)")
    system_role: Literal["system", "developer", "user"] = Field(
        "system", description="openai: who says the instructions; user: they stand before the question"
    )
    extra: Mapping[str, JsonValue] = Field(
        default={},
        description="openai: more fields of a request, such as {top_k: 20}; never a key",
        examples=[{"top_k": 20}],
    )
    max_answer_bytes: int = Field(65_536, ge=100, le=10_000_000, description="a longer answer is dropped")
    max_in_flight: int = Field(16, ge=1, le=1024, description="calls that are out at a time")
    timeout_s: float = Field(60, gt=0, le=3600, description="of one call, from sending to the last byte")
    tries: int = Field(4, ge=1, le=20, description="calls for one ask")
    backoff_s: float = Field(0.5, ge=0, le=60, description="the first wait after a failure on the way; then it doubles")
    max_wait_s: float = Field(30, ge=0, le=600, description="the longest wait, also where the server asks for more")
    give_up_after: int = Field(8, ge=1, description="so many asks in a row that got through to no model end the run")
    give_up_after_useless: int = Field(
        100, ge=1, description="so many asks in a row that the model answered with nothing of use end the run"
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$", description="transformers: where it runs")
    cache: str = Field("out/llm.sqlite", min_length=1, description="SQLite file of answers; of one machine at a time")

    @model_validator(mode="after")
    def _address_is_safe(self) -> "LlmSpec":
        if self.base_url is not None:
            check_base_url(self.base_url)
        return self

    @model_validator(mode="after")
    def _key_is_a_name(self) -> "LlmSpec":
        if not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,99}", self.key_env):
            raise ValueError(
                "llm.key_env: expected the NAME of an environment variable in capitals, such as OPENAI_API_KEY; never "
                "write a key itself into a recipe"
            )
        return self

    @model_validator(mode="after")
    def _model_fits_provider(self) -> "LlmSpec":
        if self.provider != "offline" and self.model is None:
            raise ValueError(f"llm.model: found none for provider {self.provider}, expected its name")
        if self.provider == "offline" and self.model is not None:
            raise ValueError("llm.model: found one for provider offline, expected openai or transformers beside it")
        return self

    @model_validator(mode="after")
    def _address_fits_provider(self) -> "LlmSpec":
        if self.base_url is not None and self.provider != "openai":
            raise ValueError(f"llm.base_url: found one for provider {self.provider}, expected provider openai")
        return self

    @model_validator(mode="after")
    def _revision_fits_provider(self) -> "LlmSpec":
        if self.revision is not None and self.provider != "transformers":
            raise ValueError(f"llm.revision: found one for provider {self.provider}, expected provider transformers")
        return self

    @model_validator(mode="after")
    def _extra_fits_provider(self) -> "LlmSpec":
        if self.extra and self.provider != "openai":
            raise ValueError(f"llm.extra: found fields for provider {self.provider}, expected provider openai")
        return self

    @model_validator(mode="after")
    def _extra_is_not_ours(self) -> "LlmSpec":
        if ours := sorted(OWN_FIELDS & self.extra.keys()):
            raise ValueError(f"llm.extra: found {ours[0]}, which sixfold sets itself; remove it there")
        return self


def check_base_url(url: str) -> SplitResult:
    """The parts of a server's address. Raises ValueError if it is no address, or if it may contain a key."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        parts, host = SplitResult("", "", "", "", ""), ""
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError(
            "llm.base_url: found user info, a query or a fragment in the address, expected none; keys come from the "
            "environment (llm.key_env)"
        )
    if parts.scheme not in ("http", "https") or not host or not url.isprintable() or " " in url:
        raise ValueError(
            f"llm.base_url: found {quoted(url, 120)}, expected an address such as http://127.0.0.1:8000/v1"
        )
    return parts
