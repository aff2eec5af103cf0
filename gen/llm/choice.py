"""A question with a fixed set of answers, such as yes and no; pure.

In: the name of the answer, the words that it may be. Out: the JSON Schema that binds a server to them; from such a
schema the name and the words again, for a model in this process that compares the words. On disk: nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shards.disk.record import JSON


@dataclass(frozen=True)
class Choice:
    """The answer's name and the words that it may be."""

    name: str
    words: tuple[str, ...]


def choice_schema(name: str, words: Sequence[str]) -> dict[str, JSON]:
    """The schema of `{"<name>": "<one of the words>"}`."""
    return {
        "type": "object",
        "properties": {name: {"type": "string", "enum": list(words)}},
        "required": [name],
        "additionalProperties": False,
    }


def choice_of(schema: Mapping[str, Any]) -> Choice | None:
    """What `choice_schema` made the schema of; None for every other schema."""
    required = schema.get("required")
    if not isinstance(required, list) or len(required) != 1:
        return None
    name = required[0]
    words = schema.get("properties", {}).get(name, {}).get("enum")
    if not isinstance(words, list) or dict(schema) != choice_schema(name, words):
        return None
    return Choice(name, tuple(words))
