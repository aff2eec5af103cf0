"""Kinds that no table knows: asked of a language model, and of nobody where they change nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from gen.llm.ask import open_llm
from gen.llm.spec import LlmSpec
from gen.prompts.kinds import with_asked_kinds
from gen.wording.lexicon import load_lexicon
from shards.labels.classes import KINDS, Class
from tests.support.scripted_server import Reply, ScriptedServer

CLASSES = [
    Class(0, "tench", "n01440764", 1),
    Class(1, "Zyxomma", None, 1),  # a dragonfly, in no table
    Class(2, "dog", None, 1),
    Class(3, "Qatar-1b", None, 1, kind="landscape"),
]


def asked(
    reply: Any, tmp_path: Path, lexicon: str = "general", meaning: str | None = None
) -> tuple[list[Any], list[Any]]:
    """The kinds of the classes, and the requests."""
    seen: list[dict[str, Any]] = []

    def script(request: dict[str, Any]) -> Reply:
        seen.append(request)
        return Reply(reply)

    with ScriptedServer(script) as server:
        spec = LlmSpec(
            provider="openai", model="m", base_url=server.base_url, cache=str(tmp_path / "llm.sqlite"), tries=1
        )
        with open_llm(spec) as llm:
            assert llm is not None
            phrases = {} if meaning is None else {1: meaning}
            found = with_asked_kinds(CLASSES, phrases, load_lexicon(lexicon), llm, 0)
    return [one.kind for one in found], seen


def test_only_a_class_that_no_table_knows_is_asked_for(tmp_path: Path) -> None:
    kinds, seen = asked('{"kind": "flying"}', tmp_path)
    assert kinds == [None, "flying", None, "landscape"]
    assert len(seen) == 1
    assert json.loads(seen[0]["messages"][-1]["content"]) == {"subject": "Zyxomma"}
    assert all(f"\n{kind}: " in seen[0]["messages"][0]["content"] for kind in KINDS)


@pytest.mark.parametrize("reply", ['{"kind": "insect"}', "I would rather not.", "{}"])
def test_an_answer_that_is_no_kind_leaves_the_class_without_one(reply: str, tmp_path: Path) -> None:
    assert asked(reply, tmp_path)[0] == [None, None, None, "landscape"]


def test_a_meaning_that_tells_the_kind_needs_no_question(tmp_path: Path) -> None:
    assert asked('{"kind": "plant"}', tmp_path, meaning="Zyxomma, the dragonfly")[1] == []


def test_nobody_is_asked_where_all_kinds_have_the_same_words(tmp_path: Path) -> None:
    assert asked('{"kind": "plant"}', tmp_path, lexicon="sandbox") == ([None, None, None, "landscape"], [])
