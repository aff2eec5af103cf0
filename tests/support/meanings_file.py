"""The meanings that a meanings.jsonl says, for tests."""

from pathlib import Path

from pydantic import TypeAdapter

from gen.prompts.meanings import Meaning


def meanings_in(path: Path) -> list[Meaning]:
    """In the order of the file."""
    reader = TypeAdapter(Meaning)
    return [reader.validate_json(line) for line in path.read_bytes().splitlines()]
