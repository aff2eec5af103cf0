"""A question whose calls fail on their way ends the draw; the next run asks it again, and draws as a calm one."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gen.edit.attributes.ask import Wanted, ask_attributes
from gen.edit.attributes.lexicon import load_attributes
from gen.edit.attributes.spec import AttributeSpec
from gen.llm.ask import Llm, open_llm
from gen.llm.call import LlmError
from gen.llm.spec import LlmSpec
from gen.prompts.kinds import with_asked_kinds
from gen.wording.captions import CaptionSpec, draw_captions
from gen.wording.contexts import ContextSpec, draw_contexts
from gen.wording.lexicon import load_lexicon
from shards.labels.classes import Class
from tests.support.scripted_server import Reply, ScriptedServer

GENERAL = load_lexicon("general")
CRANE, STRANGE = Class(0, "crane", None, 1), Class(1, "Zyxomma", None, 1)
ATTRIBUTES = AttributeSpec(source="llm", kinds=("background",), per_class=4, enough=2, rounds=3)

DRAWS: dict[str, Callable[[Llm], Any]] = {
    "contexts": lambda llm: draw_contexts(CRANE, None, 8, 0, GENERAL, llm, ContextSpec(batch=4, rounds=5)),
    "captions": lambda llm: draw_captions(CRANE, None, 8, 0, GENERAL, llm, CaptionSpec(backgrounds=0)),
    "backgrounds": lambda llm: draw_captions(CRANE, None, 8, 0, GENERAL, llm, CaptionSpec(backgrounds=40)),
    "kinds": lambda llm: with_asked_kinds([CRANE, STRANGE], {}, GENERAL, llm, 0),
    "attributes": lambda llm: ask_attributes(
        [Wanted(0, "crane", "crane", "animal")], ATTRIBUTES, load_attributes("general"), llm, 0
    ),
}


def sensible(request: dict[str, Any]) -> Reply:
    """An answer of the right form that differs by the question."""
    system, seed = request["messages"][0]["content"], request["seed"]
    words = [f"by pond {seed} {number}" for number in range(4)]
    if '"contexts"' in system:
        others = {"foreground": "wading", "light": "in soft light", "viewpoint": "seen from above"}
        plans = [{**others, "background": word} for word in words]
        return Reply(json.dumps({"contexts": plans}))
    if '"backgrounds"' in system:
        return Reply(json.dumps({"backgrounds": words}))
    if '"attributes"' in system:
        return Reply(json.dumps({"attributes": [{"name": word, "text": f"water {word}"} for word in words]}))
    if '"kind"' in system:
        return Reply(json.dumps({"kind": "flying"}))
    return Reply(json.dumps({"caption": f"a crane stands {words[0]}"}))


def drawn(draw: Callable[[Llm], Any], cache: Path, lost: Sequence[int]) -> Any:
    """What is drawn; calls of these numbers get no answer."""
    number = iter(range(1_000))

    def script(request: dict[str, Any]) -> Reply:
        return Reply(status=503, body=b"busy") if next(number) in lost else sensible(request)

    with ScriptedServer(script) as server:
        spec = LlmSpec(provider="openai", model="m", base_url=server.base_url, cache=str(cache), tries=1, backoff_s=0)
        with open_llm(spec) as llm:
            assert llm is not None
            return draw(llm)


@pytest.mark.parametrize("what", DRAWS)
def test_a_draw_ends_at_a_lost_answer_and_the_next_one_is_as_if_nothing_had_been(what: str, tmp_path: Path) -> None:
    with pytest.raises(
        LlmError, match=r"http_503, 'busy'.*run the same command again: answers so far are in the cache"
    ):
        drawn(DRAWS[what], tmp_path / "lossy.sqlite", [0])
    assert drawn(DRAWS[what], tmp_path / "lossy.sqlite", []) == drawn(DRAWS[what], tmp_path / "calm.sqlite", [])
