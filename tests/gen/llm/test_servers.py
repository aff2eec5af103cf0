"""Servers as they are: errors inside HTTP 200, refused fields, other shapes of an answer."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gen.llm.ask import Answer, open_llm
from gen.llm.call import LlmError
from gen.llm.spec import LlmSpec
from gen.prompts.candidates import offers_of
from tests.gen.llm.test_ask import KEY, asked, asks, echo, in_turn, spec_of
from tests.gen.prompts.test_lost_answers import DRAWS, GENERAL, STRANGE
from tests.support.scripted_server import Reply, ScriptedServer

GOOD = Reply('{"word": "x"}')


def body(value: Any) -> bytes:
    return json.dumps(value).encode()


def completion(message: dict[str, Any], **choice: Any) -> Reply:
    return Reply(body=body({"choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}]}))


# errors inside HTTP 200, as hosts of several models and older servers send them


INSIDE: dict[str, tuple[dict[str, Any], str]] = {
    "a code": ({"error": {"message": "Rate limit exceeded", "code": 429}}, "http_429"),
    "a code as text": ({"error": {"message": "Upstream is down", "code": "503"}}, "http_503"),
    "words alone": ({"error": {"message": "Too many requests", "type": "rate_limit_exceeded"}}, "http_200"),
    "a text": ({"error": "model is loading"}, "http_200"),
    "a bare object": ({"object": "error", "message": "busy", "code": 500}, "http_500"),
    "a message": ({"message": "API rate limit exceeded"}, "http_200"),
    "empty choices beside it": ({"error": {"message": "slow down", "code": 429}, "choices": []}, "http_429"),
    "inside the choice": (
        {"choices": [{"message": {"content": ""}, "error": {"code": 502, "message": "provider"}}]},
        "http_502",
    ),
}


@pytest.mark.parametrize("name", INSIDE)
def test_an_error_that_comes_as_a_success_is_waited_for_and_the_same_is_asked_again(name: str, tmp_path: Path) -> None:
    inside, reason = INSIDE[name]
    busy = Reply(body=body(inside), headers={"Retry-After": "0.2"})
    with ScriptedServer(in_turn(busy, busy, GOOD)) as server:
        start = time.monotonic()
        (answer,), use = asked(spec_of(server, tmp_path / "c.sqlite"), asks(1))
        assert time.monotonic() - start >= 0.4
    assert answer == Answer({"word": "x"}, None, 3, False)
    assert use.lost_calls == {reason: 2}
    assert server.requests[0] == server.requests[1] == server.requests[2]


def test_a_server_that_only_sends_errors_as_successes_is_given_up_with_its_words(tmp_path: Path) -> None:
    limited = Reply(body=body({"error": {"message": f"Limit of 3 a minute\nreached for {KEY}", "code": 429}}))
    with ScriptedServer(lambda request: limited) as server:
        with pytest.raises(
            LlmError, match=r"the last: http_429, 'Limit of 3 a minute reached .*check the server"
        ) as it:
            asked(spec_of(server, tmp_path / "c.sqlite", tries=2, max_in_flight=1), asks(100))
        assert server.num_calls == 2 * 8
    assert "\n" not in str(it.value)


def test_an_error_inside_a_success_that_only_a_person_can_mend_ends_at_once(tmp_path: Path) -> None:
    wrong = Reply(body=body({"error": {"message": "No such model", "code": 404}}))
    with ScriptedServer(lambda request: wrong) as server:
        with pytest.raises(LlmError, match=r"HTTP 404 .*'No such model'.*check llm.base_url"):
            asked(spec_of(server, tmp_path / "c.sqlite", max_in_flight=1), asks(5))
        assert server.num_calls == 1


# what a server refuses: its own words, and the field of the recipe that changes it


REFUSED: dict[str, tuple[str, Any, dict[str, Any], dict[str, Any]]] = {
    "max_tokens": (
        "llm.max_tokens_field=max_completion_tokens",
        {"error": {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."}},
        {},
        {"max_tokens_field": "max_completion_tokens"},
    ),
    "seed": (
        "llm.send_seed=false",
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
        {},
        {"send_seed": False},
    ),
    "temperature": (
        "llm.temperature=null",
        {"error": {"message": "Unsupported value: 'temperature' does not support 0.8 with this model."}},
        {},
        {"temperature": None},
    ),
    "top_p": ("llm.top_p=null", {"error": "top_p is not a known field"}, {}, {"top_p": None}),
    "top_k": (
        "llm.extra without 'top_k'",
        {"object": "error", "message": "Unrecognized request argument supplied: top_k"},
        {"extra": {"top_k": 20}},
        {},
    ),
    "system": ("llm.system_role=user", {"message": "System role not supported"}, {}, {"system_role": "user"}),
    "system, as templates say it": (
        "llm.system_role=user",
        [{"error": {"code": 400, "message": "Developer instruction is not enabled for this model"}}],
        {},
        {"system_role": "user"},
    ),
    "roles": (
        "llm.system_role=user",
        {"error": "Only user and assistant roles are supported!"},
        {},
        {"system_role": "user"},
    ),
}


def refuses(name: str) -> Any:
    _, told, _, _ = REFUSED[name]

    def reply(request: dict[str, Any]) -> Reply:
        has = request["messages"][0]["role"] == "system" if "role" in REFUSED[name][0] else name in request
        return Reply(status=400 if "detail" not in told else 422, body=body(told)) if has else GOOD

    return reply


@pytest.mark.parametrize("name", REFUSED)
def test_of_a_refused_field_the_servers_words_are_quoted_and_the_switch_is_named_and_works(
    name: str, tmp_path: Path
) -> None:
    switch, _, own, mended = REFUSED[name]
    with ScriptedServer(refuses(name)) as server:
        with pytest.raises(LlmError) as caught:
            asked(spec_of(server, tmp_path / "c.sqlite", max_in_flight=1, **own), asks(3))
        assert server.num_calls == 2  # with response_format, and without
        (answer,), _ = asked(spec_of(server, tmp_path / "c.sqlite", **mended), asks(1))
    said = str(caught.value)
    assert f"; set {switch}" in said
    assert "HTTP 4" in said
    assert "\n" not in said
    assert answer.value == {"word": "x"}


def test_a_word_of_the_question_is_not_taken_for_a_field(tmp_path: Path) -> None:
    def filtered(request: dict[str, Any]) -> Reply:
        return Reply(status=400, body=body({"error": {"message": "Blocked: 'sunflower seed' is on the list"}}))

    (ask,) = asks(1)
    about_seeds = type(ask)("test", ask.system, 'The name is "sunflower seed".', ask.schema, 0)
    with ScriptedServer(filtered) as server:
        (answer,), _ = asked(spec_of(server, tmp_path / "c.sqlite"), [about_seeds])
    assert answer.reason == "http_400"
    assert answer.told == "'Blocked: 'sunflower seed' is on the list'"


def test_an_address_in_a_servers_words_is_shown_without_its_secret(tmp_path: Path) -> None:
    told = body({"error": {"message": "see https://me:hunter2pass@h.example/x?sig=abcdef about max_tokens"}})
    with (
        ScriptedServer(lambda request: Reply(status=400, body=told)) as server,
        pytest.raises(LlmError, match=r"see https://h\.example/x") as caught,
    ):
        asked(spec_of(server, tmp_path / "c.sqlite"), asks(1))
    assert "hunter2pass" not in str(caught.value)
    assert "abcdef" not in str(caught.value)


def test_a_model_of_users_only_reads_the_instructions_before_the_question(tmp_path: Path) -> None:
    with ScriptedServer(lambda request: GOOD) as server:
        asked(spec_of(server, tmp_path / "c.sqlite", system_role="user", send_seed=False, send_schema=False), asks(1))
        asked(spec_of(server, tmp_path / "d.sqlite", system_role="developer", extra={"top_k": 20}), asks(1))
    first, second = server.requests
    [message] = first["messages"]
    assert message["role"] == "user"
    assert message["content"].startswith("You name things.")
    assert message["content"].endswith("\n\nName thing 0.")
    assert not first.keys() & {"seed", "response_format"}
    assert [message["role"] for message in second["messages"]] == ["developer", "user"]
    assert second["top_k"] == 20


def test_another_extra_field_is_another_question(tmp_path: Path) -> None:
    with ScriptedServer(echo) as server:
        for extra in ({}, {"top_k": 20}, {"top_k": 5}, {"top_k": 20}):
            asked(spec_of(server, tmp_path / "c.sqlite", extra=extra), asks(1))
    assert server.num_calls == 3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"extra": {"max_tokens": 5}}, "llm.extra: found max_tokens, which sixfold sets itself"),
        ({"extra": {"messages": []}}, "llm.extra: found messages"),
        ({"extra": {"top_k": 5}, "provider": "transformers"}, "llm.extra: found fields for provider transformers"),
    ],
)
def test_extra_fields_never_replace_ours(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        LlmSpec(**({"provider": "openai", "model": "m"} | fields))


# shapes of an answer


@pytest.mark.parametrize(
    "message",
    [
        {"content": [{"type": "text", "text": '{"word": '}, {"type": "text", "text": '"x"}'}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": '{"word": "no"}'}]}, '{"word": "x"}']},
        {"content": '<think>{"word": "no"}</think>\n{"word": "x"}', "reasoning_content": None},
        {"content": '{"word": "x"}', "reasoning_content": '{"word": "no"}'},
        {"content": '{"word": "x",}'},
        {"content": '```json\n{\n  "word": "x", \n}\n```'},
    ],
    ids=["parts", "parts with thoughts", "thoughts in the text", "thoughts beside it", "a comma", "a comma in a fence"],
)
def test_an_answer_in_parts_with_thoughts_or_with_a_comma_too_many_is_an_answer(
    message: dict[str, Any], tmp_path: Path
) -> None:
    with ScriptedServer(lambda request: completion(message)) as server:
        (answer,), _ = asked(spec_of(server, tmp_path / "c.sqlite"), asks(1))
    assert answer == Answer({"word": "x"}, None, 1, False)


# a server that binds its model to a schema


def unfit_of(schema: Any) -> str | None:
    """What OpenAI's strict mode refuses in a schema, by its documentation; None if nothing."""
    for part in schema if isinstance(schema, list) else schema.values() if isinstance(schema, dict) else []:
        if (found := unfit_of(part)) is not None:
            return found
    if isinstance(schema, dict) and schema.get("type") == "object":
        if sorted(schema["required"]) != sorted(schema["properties"]):
            return "'required' is required to be supplied and to be an array including every key in properties"
        if schema["additionalProperties"] is not False:
            return "'additionalProperties' is required to be supplied and to be false"
    if isinstance(schema, dict) and {"minLength", "maxLength"} & schema.keys():
        return "'maxLength' is not permitted"
    return None


def test_every_question_of_a_draw_is_bound_to_its_schema_by_a_strict_server(tmp_path: Path) -> None:
    """What a plan may leave out may be null, so that it can be required."""
    plan = {"foreground": "wading", "light": "in soft light", "viewpoint": "seen from above", "distance": None}

    def script(request: dict[str, Any]) -> Reply:
        schema = request["response_format"]["json_schema"]["schema"]
        if (unfit := unfit_of(schema)) is not None:
            return Reply(status=400, body=body({"error": {"message": f"Invalid schema for response_format: {unfit}"}}))
        places = [f"by pond {request['seed']} {number}" for number in range(4)]
        answers = {
            "caption": f"a crane {places[0]}",
            "kind": "flying",
            "meanings": ["Zyxomma, the dragonfly"],
            "backgrounds": places,
            "contexts": [{**plan, "background": place, "weather": None, "time": None} for place in places],
            "attributes": [{"name": place, "text": "still water"} for place in places],
        }
        return Reply(json.dumps({name: answers[name] for name in schema["properties"]}))

    with ScriptedServer(script) as server, open_llm(spec_of(server, tmp_path / "llm.sqlite")) as llm:
        assert llm is not None
        offers_of([STRANGE], 8, None, GENERAL, llm, 0)
        for draw in DRAWS.values():
            draw(llm)
        assert llm.use.lost_calls == {}
    assert all("response_format" in request for request in server.requests)
