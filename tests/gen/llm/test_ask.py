"""Language models behind a server: what is asked, what is kept, and what a bad server can do."""

import hashlib
import json
import logging
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.process.exit import Draining
from cluster.process.stop_flag import StopFlag
from cluster.recipes.load import canonical_json
from gen.llm.ask import Answer, Ask, LlmUse, open_llm
from gen.llm.call import LlmError
from gen.llm.spec import LlmSpec
from shards.disk.home import home
from shards.disk.safe_text import visible
from tests.support import warm
from tests.support.hostile_text import PAYLOADS
from tests.support.scripted_server import Reply, ScriptedServer, answering
from tests.support.workers import printed_seed

REPO = home()
KEY = "sk-not-a-key-4c1f9e77a0"
WORD: dict[str, Any] = {
    "type": "object",
    "properties": {"word": {"type": "string", "maxLength": 10_000}},
    "required": ["word"],
    "additionalProperties": False,
}
Script = Callable[[dict[str, Any]], Reply]


def asks(count: int) -> list[Ask]:
    return [Ask("test", "You name things.", f"Name thing {number}.", WORD, number) for number in range(count)]


def spec_of(server: ScriptedServer, cache: Path, **changes: Any) -> LlmSpec:
    fields = {"provider": "openai", "model": "m", "base_url": server.base_url, "cache": str(cache), "backoff_s": 0.01}
    return LlmSpec(**(fields | changes))


def asked(spec: LlmSpec, questions: list[Ask], stop: StopFlag | None = None) -> tuple[list[Answer], LlmUse]:
    with open_llm(spec, stop) as llm:
        assert llm is not None
        return llm.ask(questions), llm.use


def echo(request: dict[str, Any]) -> Reply:
    """An answer that is a function of the request alone, as a model with a seed gives it."""
    told = json.dumps([request["messages"], request["seed"]]).encode()
    return Reply(json.dumps({"word": hashlib.sha256(told).hexdigest()}))


def failures(cache: Path) -> list[tuple[str, int, str, str]]:
    with sqlite3.connect(cache) as database:
        rows = database.execute("SELECT purpose, try_number, reason, excerpt FROM failures ORDER BY id").fetchall()
    database.close()
    return rows


def in_turn(*replies: Reply) -> Script:
    """Each reply once, the last for ever."""
    left = list(replies)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]


def in_a_child(program: str, *arguments: str) -> warm.Child:
    return warm.start(["-c", program, *arguments])


# what is asked, and what is kept


def test_offline_there_is_no_model() -> None:
    with open_llm(LlmSpec()) as llm:
        assert llm is None


def test_a_second_run_makes_no_call_and_gives_the_same_bytes(tmp_path: Path) -> None:
    with ScriptedServer(echo) as server:
        spec = spec_of(server, tmp_path / "new" / "c.sqlite")
        first, use = asked(spec, asks(30))
        assert (use.asked, use.answered, use.calls, server.num_calls) == (30, 30, 30, 30)
        again, use = asked(spec, asks(30))
    assert server.num_calls == 30
    assert (use.asked, use.cached, use.calls) == (30, 30, 0)
    assert canonical_json([answer.value for answer in first]) == canonical_json([answer.value for answer in again])
    assert {(answer.cached, answer.tries) for answer in again} == {(True, 0)}


def test_another_address_makes_no_call_but_another_model_question_or_sampling_does(tmp_path: Path) -> None:
    cache = tmp_path / "c.sqlite"
    one = asks(1)[0]
    with ScriptedServer(echo) as server:
        asked(spec_of(server, cache), [one])
    with ScriptedServer(echo) as server:
        asked(spec_of(server, cache, timeout_s=9, tries=2, max_in_flight=1), [one])
        assert server.num_calls == 0
        for change in ({"model": "other"}, {"temperature": 0.5}, {"top_p": None}, {"max_tokens": 9}):
            asked(spec_of(server, cache, **change), [one])
        wider = WORD | {"maxProperties": 1}
        for other in (
            Ask("test", one.system, one.user, WORD, 99),
            Ask("test", one.system, "Name another.", WORD, one.seed),
            Ask("test", "Be brief.", one.user, WORD, one.seed),
            Ask("test", one.system, one.user, wider, one.seed),
        ):
            asked(spec_of(server, cache), [other])
        assert server.num_calls == 8
        asked(spec_of(server, cache), [Ask("another purpose", one.system, one.user, WORD, one.seed)])
    assert server.num_calls == 8


def test_answers_come_in_the_order_of_the_asks(tmp_path: Path) -> None:
    def slow_first(request: dict[str, Any]) -> Reply:
        number = int(request["messages"][1]["content"].strip("Name thing."))
        return Reply(json.dumps({"word": str(number)}), delay_s=0.02 * (8 - number))

    with ScriptedServer(slow_first) as server:
        answers, _ = asked(spec_of(server, tmp_path / "c.sqlite"), asks(8))
    assert [answer.value for answer in answers] == [{"word": str(number)} for number in range(8)]


def test_equal_asks_are_one_call_also_from_several_threads(tmp_path: Path) -> None:
    with (
        ScriptedServer(lambda request: Reply('{"word": "x"}', delay_s=0.2)) as server,
        open_llm(spec_of(server, tmp_path / "c.sqlite")) as llm,
    ):
        assert llm is not None
        results: list[list[Answer]] = []
        threads = [threading.Thread(target=lambda: results.append(llm.ask(asks(1) * 3))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert [answer.value for result in results for answer in result] == [{"word": "x"}] * 12
        assert (llm.use.asked, llm.use.calls) == (12, 1)
    assert server.num_calls == 1


def test_no_more_calls_are_out_than_allowed_over_all_threads(tmp_path: Path) -> None:
    with (
        ScriptedServer(lambda request: Reply('{"word": "x"}', delay_s=0.2)) as server,
        open_llm(spec_of(server, tmp_path / "c.sqlite", max_in_flight=4)) as llm,
    ):
        assert llm is not None
        questions = asks(30)
        threads = [threading.Thread(target=llm.ask, args=(questions[start::3],)) for start in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    assert server.num_calls == 30
    assert server.most_in_flight == 4


def test_the_server_is_told_everything_that_the_key_of_the_cache_holds(tmp_path: Path) -> None:
    with ScriptedServer(answering({"word": "x"})) as server:
        _, use = asked(spec_of(server, tmp_path / "c.sqlite", max_tokens=77), asks(1))
    request = server.requests[0]
    assert (request["model"], request["temperature"], request["top_p"], request["max_tokens"]) == ("m", 0.8, 0.9, 77)
    assert 0 <= request["seed"] < 2**31
    assert request["messages"][1]["content"] == "Name thing 0."
    assert "You name things." in request["messages"][0]["content"]
    assert '"maxLength":10000' in request["messages"][0]["content"]
    bound = {**WORD, "properties": {"word": {"type": "string"}}}  # a strict server knows no lengths of texts
    assert request["response_format"]["json_schema"]["schema"] == bound
    assert (use.tokens_in, use.tokens_out) == (7, 5)


def test_a_hosted_server_that_names_the_limit_otherwise_and_samples_by_itself_can_be_asked(tmp_path: Path) -> None:
    with ScriptedServer(answering({"word": "x"})) as server:
        own = {"temperature": None, "top_p": None, "max_tokens_field": "max_completion_tokens"}
        asked(spec_of(server, tmp_path / "c.sqlite", **own), asks(1))
    assert server.requests[0]["max_completion_tokens"] == 2048
    assert not server.requests[0].keys() & {"max_tokens", "temperature", "top_p"}


# answers of no use


BAD: dict[str, tuple[Reply, str]] = {
    "a refusal of the server's": (Reply(refusal="I cannot help with that."), "refused"),
    "a filtered answer": (Reply("{}", finish_reason="content_filter"), "refused"),
    "a refusal in words": (Reply("I'm sorry, but I can't name things."), "refused"),
    "prose": (Reply("The thing is called a crane."), "not_json"),
    "nothing": (Reply(""), "empty"),
    "no content": (Reply(None), "empty"),
    "a wrong type": (Reply('{"word": 7}'), "wrong_schema"),
    "an extra field": (Reply('{"word": "x", "path": "../../.ssh"}'), "wrong_schema"),
    "a list": (Reply('["x"]'), "wrong_schema"),
    "a text over its length": (Reply(json.dumps({"word": "x" * 10_001})), "wrong_schema"),
    "a key twice": (Reply('{"word": "x", "word": "y"}'), "not_json"),
    "no Unicode": (Reply('{"word": "\\ud800"}'), "not_text"),
    "endless repetition": (Reply('{"word": "' + "and so on " * 500, finish_reason="length"), "truncated"),
    "ten megabytes": (Reply(json.dumps({"word": "x" * 10_000_000})), "too_long"),
    "a hundred kilobytes": (Reply(json.dumps({"word": "x" * 100_000})), "too_long"),
    "brackets without end": (Reply("[" * 60_000), "not_json"),
    "a page": (Reply(body=b"<html>502 Bad Gateway</html>"), "not_a_completion"),
    "no choices": (Reply(body=b'{"choices": []}'), "not_a_completion"),
    "a body that is no text": (Reply(body=bytes(range(256))), "not_a_completion"),
}


@pytest.mark.parametrize("name", BAD)
def test_j2_an_answer_of_no_use_has_a_named_reason_and_is_asked_again_with_another_seed(
    name: str, tmp_path: Path
) -> None:
    reply, reason = BAD[name]
    cache = tmp_path / "c.sqlite"
    with ScriptedServer(lambda request: reply) as server:
        (answer,), use = asked(spec_of(server, cache, tries=3), asks(1))
    assert answer == Answer(None, reason, 3, False)
    assert (use.failed, use.lost_calls) == ({reason: 1}, {reason: 3})
    assert len({request["seed"] for request in server.requests}) == server.num_calls == 3
    kept = failures(cache)
    assert [row[:3] for row in kept] == [("test", number, reason) for number in (1, 2, 3)]
    assert all(len(row[3]) <= 200 and visible(row[3]) == row[3] for row in kept)
    assert cache.stat().st_size < 100_000


def test_what_failed_is_asked_again_by_the_next_run(tmp_path: Path) -> None:
    with ScriptedServer(in_turn(Reply("no"), Reply("no"), Reply('{"word": "yes"}'))) as server:
        spec = spec_of(server, tmp_path / "c.sqlite", tries=2)
        assert asked(spec, asks(1))[0] == [Answer(None, "not_json", 2, False)]
        assert asked(spec, asks(1))[0] == [Answer({"word": "yes"}, None, 1, False)]
        assert asked(spec, asks(1))[0] == [Answer({"word": "yes"}, None, 0, True)]


def test_a_good_answer_among_bad_ones_is_taken(tmp_path: Path) -> None:
    with ScriptedServer(in_turn(Reply("no"), Reply("{}"), Reply('```json\n{"word": "yes"}\n```'))) as server:
        (answer,), use = asked(spec_of(server, tmp_path / "c.sqlite"), asks(1))
    assert answer == Answer({"word": "yes"}, None, 3, False)
    assert use.lost_calls == {"not_json": 1, "wrong_schema": 1}


def test_hostile_answers_come_back_as_the_texts_they_are(tmp_path: Path) -> None:
    texts = [text for text in PAYLOADS if text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)]
    questions = asks(len(texts))
    numbered = {question.user: text for question, text in zip(questions, texts, strict=True)}
    with ScriptedServer(lambda asks: Reply(json.dumps({"word": numbered[asks["messages"][1]["content"]]}))) as server:
        spec = spec_of(server, tmp_path / "c.sqlite")
        for _ in range(2):
            assert [answer.value for answer in asked(spec, questions)[0]] == [{"word": text} for text in texts]


# failures on the way


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
def test_a_server_in_trouble_is_asked_the_same_again(status: int, tmp_path: Path) -> None:
    trouble = Reply(status=status, body=b"<b>later</b>")
    with ScriptedServer(in_turn(trouble, trouble, Reply('{"word": "x"}'))) as server:
        (answer,), use = asked(spec_of(server, tmp_path / "c.sqlite"), asks(1))
    assert answer == Answer({"word": "x"}, None, 3, False)
    assert use.lost_calls == {f"http_{status}": 2}
    assert server.requests[0] == server.requests[1] == server.requests[2]


def test_failures_on_the_way_never_enter_an_answer(tmp_path: Path) -> None:
    seed = printed_seed()
    luck = random.Random(seed)

    def troubled(request: dict[str, Any]) -> Reply:
        bad = (Reply(status=500), Reply(status=429), Reply('{"word": "x"}', hangs_up=True))
        return (*bad, *[echo(request)] * 3)[int(luck.random() * 6)]

    answers = []
    for name, script in (("calm", echo), ("troubled", troubled)):
        with ScriptedServer(script) as server:
            spec = spec_of(server, tmp_path / f"{name}.sqlite", tries=20, max_wait_s=0.01, give_up_after=1000)
            answers.append([(answer.value, answer.reason) for answer in asked(spec, asks(20))[0]])
    assert answers[0] == answers[1]


def test_the_wait_that_a_server_asks_for_is_kept_up_to_a_bound(tmp_path: Path) -> None:
    for after, bound, least, most in (("0.4", 30, 0.4, 60), ("3600", 0.3, 0.3, 60), ("soon", 30, 0, 60)):
        busy = Reply(status=429, headers={"Retry-After": after})
        with ScriptedServer(in_turn(busy, Reply('{"word": "x"}'))) as server:
            start = time.monotonic()
            (answer,), _ = asked(spec_of(server, tmp_path / f"{after}.sqlite", max_wait_s=bound), asks(1))
        assert answer.value == {"word": "x"}
        assert least <= time.monotonic() - start < most


@pytest.mark.parametrize("reply", [Reply(hangs=True), Reply('{"word": "x"}', drip_s=0.05)], ids=["silent", "dripping"])
def test_the_deadline_of_a_call_holds_whatever_the_server_does(reply: Reply, tmp_path: Path) -> None:
    with ScriptedServer(lambda request: reply) as server:
        start = time.monotonic()
        (answer,), _ = asked(spec_of(server, tmp_path / "c.sqlite", timeout_s=0.3, tries=2), asks(1))
        assert 0.6 <= time.monotonic() - start < 10
    assert answer == Answer(None, "timeout", 2, False)


def test_a_model_that_is_too_slow_is_given_up_with_the_fields_that_give_it_time(tmp_path: Path) -> None:
    with ScriptedServer(lambda request: Reply(hangs=True)) as server:
        spec = spec_of(server, tmp_path / "c.sqlite", timeout_s=0.1, tries=1, give_up_after=2, max_in_flight=1)
        with pytest.raises(LlmError, match=r"; raise llm\.timeout_s or lower llm\.max_tokens and run") as given_up:
            asked(spec, asks(5))
    assert "server" not in str(given_up.value)
    assert "\n" not in str(given_up.value)


def test_a_connection_that_ends_in_the_middle_is_a_failure_of_its_own(tmp_path: Path) -> None:
    with ScriptedServer(in_turn(Reply('{"word": "x"}', hangs_up=True), Reply('{"word": "x"}'))) as server:
        (answer,), use = asked(spec_of(server, tmp_path / "c.sqlite"), asks(1))
    assert (answer.value, use.lost_calls) == ({"word": "x"}, {"cut_off": 1})


def test_a_compressed_answer_is_not_unpacked(tmp_path: Path) -> None:
    with ScriptedServer(lambda request: Reply(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})) as server:
        (answer,), _ = asked(spec_of(server, tmp_path / "c.sqlite", tries=1), asks(1))
    assert answer.reason == "compressed"
    assert server.headers[0]["Accept-Encoding"] == "identity"


def test_one_ask_without_a_server_is_a_reason_and_many_end_the_run_in_one_line(tmp_path: Path) -> None:
    with ScriptedServer(echo) as server:
        spec = spec_of(server, tmp_path / "c.sqlite", tries=2)
    (answer,), _ = asked(spec, asks(1))
    assert answer == Answer(None, "unreachable", 2, False)
    message = r"8 questions in a row without an answer .* \(the last: unreachable, '.*'\)"
    with pytest.raises(LlmError, match=message) as caught:
        asked(spec, asks(100))
    assert "\n" not in str(caught.value)
    assert len(failures(tmp_path / "c.sqlite")) < 2 + 2 * (8 + spec.max_in_flight)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(status=401, body=b"who\nare you"), "HTTP 401 .*set the environment variable OPENAI_API_KEY"),
        (Reply(status=403, body=b"no"), "HTTP 403 .*another llm.model"),
        (Reply(status=404, body=b"no"), "HTTP 404 .*llm.base_url"),
        (Reply(status=302, headers={"Location": "http://127.0.0.1:9/v1"}), "redirect .*final address"),
    ],
)
def test_what_only_a_person_can_mend_ends_at_once_with_what_to_do(reply: Reply, words: str, tmp_path: Path) -> None:
    with ScriptedServer(lambda request: reply) as server:
        with pytest.raises(LlmError, match=words) as caught:
            asked(spec_of(server, tmp_path / "c.sqlite", max_in_flight=1), asks(5))
        assert server.num_calls == 1
    assert "\n" not in str(caught.value)


def test_a_model_that_answers_nothing_of_use_is_given_up_after_a_bounded_number_of_asks(tmp_path: Path) -> None:
    with ScriptedServer(lambda request: Reply(refusal="No.")) as server:
        spec = spec_of(server, tmp_path / "c.sqlite", tries=2, give_up_after_useless=20, max_in_flight=4)
        with pytest.raises(
            LlmError,
            match=r"20 questions in a row to which m at .* \(the last: refused, .No\..\).*llm\.provider=offline",
        ):
            asked(spec, asks(200))
        assert server.num_calls <= 2 * (20 + 4)


def test_one_good_answer_in_between_keeps_a_model(tmp_path: Path) -> None:
    def mostly_prose(request: dict[str, Any]) -> Reply:
        number = int(request["messages"][1]["content"].strip("Name thing."))
        return echo(request) if number % 5 == 4 else Reply("It is a crane.")

    with ScriptedServer(mostly_prose) as server:
        spec = spec_of(server, tmp_path / "c.sqlite", tries=1, give_up_after_useless=5, max_in_flight=1)
        answers, _ = asked(spec, asks(20))
    assert [answer.reason is None for answer in answers] == [False, False, False, False, True] * 4


# servers that cannot be bound to a schema


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_the_schema_field_is_asked_without_it_from_then_on(status: int, tmp_path: Path) -> None:
    def old(request: dict[str, Any]) -> Reply:
        return Reply(status=status) if "response_format" in request else echo(request)

    with ScriptedServer(old) as server:
        answers, use = asked(spec_of(server, tmp_path / "c.sqlite", max_in_flight=1), asks(5))
    assert all(answer.tries == 1 and answer.reason is None for answer in answers)
    assert ["response_format" in request for request in server.requests] == [True, *[False] * 5]
    assert use.lost_calls == {}


def test_a_question_that_the_server_refuses_is_not_taken_for_that(tmp_path: Path) -> None:
    def picky(request: dict[str, Any]) -> Reply:
        return Reply(status=400) if "thing 0" in request["messages"][1]["content"] else echo(request)

    with ScriptedServer(picky) as server:
        answers, _ = asked(spec_of(server, tmp_path / "c.sqlite", max_in_flight=1), asks(3))
    assert [answer.reason for answer in answers] == ["http_400", None, None]
    assert answers[0].tries == 1
    assert ["response_format" in request for request in server.requests] == [True, False, True, True]


# the key


def test_the_key_goes_to_the_server_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    echoes = (
        Reply(status=500, body=f"your key is {KEY}".encode()),
        Reply(f"Bearer {KEY}"),
        Reply(json.dumps({"word": KEY})),
        Reply(status=401, body=f"Incorrect API key provided: {KEY}".encode()),
    )
    with ScriptedServer(in_turn(*echoes)) as server:
        spec = spec_of(server, tmp_path / "c.sqlite", key_env="TEST_KEY", max_in_flight=1)
        with open_llm(spec) as llm:
            assert llm is not None
            answers = llm.ask(asks(1))
            with pytest.raises(LlmError) as caught:
                llm.ask(asks(2))
            told += [repr(llm), repr(llm.use), repr(answers), repr(caught.value), repr(spec), spec.model_dump_json()]
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert answers[0].value == {"word": "[key]"}
    assert "[key]" in str(caught.value)
    out, err = capfd.readouterr()
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert KEY not in "".join([*told, out, err, caplog.text, json.dumps(server.requests)])
    assert KEY.encode() not in files
    assert b"[key]" in files


def test_a_redirect_takes_the_key_to_no_other_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ScriptedServer(echo) as other:
        away = {"Location": f"{other.base_url}/chat/completions"}
        with (
            ScriptedServer(lambda request: Reply(status=307, headers=away)) as server,
            pytest.raises(LlmError, match="redirect"),
        ):
            asked(spec_of(server, tmp_path / "c.sqlite"), asks(1))
        assert other.num_calls == 0


def test_a_server_of_this_machine_needs_no_key_and_another_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with ScriptedServer(echo) as server:
        asked(spec_of(server, tmp_path / "c.sqlite"), asks(1))
    assert server.headers[0]["Authorization"] == "Bearer none"
    far = LlmSpec(provider="openai", model="m", base_url="https://models.example/v1", cache=str(tmp_path / "d"))
    with pytest.raises(LlmError, match=r"no key for models\.example.*environment variable OPENAI_API_KEY"):
        asked(far, asks(1))
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    with pytest.raises(LlmError, match="odd characters") as caught:
        asked(far, asks(1))
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"base_url": f"https://me:{KEY}@models.example/v1"}, "user info"),
        ({"base_url": f"https://models.example/v1?key={KEY}"}, "a query"),
        ({"base_url": "ftp://models.example"}, "expected an address"),
        ({"base_url": "file:///etc/passwd"}, "expected an address"),
        ({"base_url": "https://"}, "expected an address"),
        ({"base_url": "http://[::1/v1"}, "expected an address"),
        ({"base_url": "https://a.example/\nHost: b"}, "expected an address"),
        ({"key_env": KEY}, "expected the NAME of an environment variable"),
        ({"key_env": KEY.replace("-", "_")}, "expected the NAME of an environment variable"),
        ({"model": None}, "llm.model: found none"),
        ({"provider": "offline"}, "llm.model: found one for provider offline"),
        ({"provider": "transformers", "base_url": "http://127.0.0.1:1/v1"}, "llm.base_url: found one for provider"),
        ({"revision": "0" * 40}, "llm.revision: found one for provider"),
    ],
)
def test_fields_that_are_unsafe_or_do_not_fit_are_refused_without_showing_a_key(
    fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        LlmSpec(**({"provider": "openai", "model": "m"} | fields))
    assert KEY not in str(caught.value)
    assert KEY.replace("-", "_") not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        ("http://localhost:1/v1", False),
        ("http://[::1]:1/v1", False),
        ("http://127.9.9.9/v1", False),
        ("https://a.example/v1", False),
        ("http://node17:8000/v1", True),
        ("http://127.0.0.1.example/v1", True),
    ],
)
def test_a_key_travels_to_another_machine_encrypted_or_not_at_all(
    url: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    spec = LlmSpec(provider="openai", model="m", base_url=url, cache=str(tmp_path / "c.sqlite"))
    if not refused:
        with open_llm(spec) as llm:
            assert llm is not None
        return
    with (
        pytest.raises(LlmError, match=r"plain http to .*unset OPENAI_API_KEY.* or use https or a tunnel") as caught,
        open_llm(spec),
    ):
        pass
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_machine_may_be_asked_without_encryption_where_no_key_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is reached through a proxy, as a name that is not this machine's; it sees the stand-in for a key."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with ScriptedServer(echo) as server:
        monkeypatch.setenv("http_proxy", server.base_url.removesuffix("/v1"))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        spec = spec_of(server, tmp_path / "c.sqlite", base_url="http://node17.example/v1")
        answers, _ = asked(spec, asks(1))
    assert answers[0].reason is None
    assert server.headers[0]["Host"] == "node17.example"
    assert server.headers[0]["Authorization"] == "Bearer none"


def test_a_question_that_is_no_text_is_refused_in_one_line(tmp_path: Path) -> None:
    with (
        ScriptedServer(echo) as server,
        pytest.raises(ValueError, match=r"ask for test: found a lone surrogate in 'a⟨U\+DC80⟩'"),
    ):
        asked(spec_of(server, tmp_path / "c.sqlite"), [Ask("test", "s", "a\udc80", WORD, 0)])
    assert server.num_calls == 0


# stopping


FORTY = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children would ignore it
from gen.llm.ask import Ask, open_llm
from gen.llm.spec import LlmSpec
from tests.gen.llm.test_ask import asks, echo
spec = LlmSpec(provider="openai", model="m", base_url=sys.argv[1], cache=sys.argv[2], max_in_flight=4)
with open_llm(spec) as llm:
    answers = llm.ask(asks(40))
print([answer.value for answer in answers])
"""


def test_ctrl_c_in_the_middle_keeps_every_answer_that_was_paid_for(tmp_path: Path) -> None:
    cache = tmp_path / "c.sqlite"

    def slow(request: dict[str, Any]) -> Reply:
        return Reply(echo(request).content, delay_s=0.4)

    with ScriptedServer(slow) as server:
        child = in_a_child(FORTY, server.base_url, str(cache))
        deadline = time.monotonic() + 200
        while server.num_calls < 10 and time.monotonic() < deadline:
            time.sleep(0.01)
        asked_at = time.monotonic()
        child.send_signal(signal.SIGINT)
        _, told = child.communicate(timeout=200)
        assert time.monotonic() - asked_at < 30
        assert child.returncode != 0
        assert told.rstrip().endswith("KeyboardInterrupt")
        before = server.num_calls
        assert 10 <= before < 40
        _, use = asked(spec_of(server, cache, max_in_flight=4), asks(40))
        assert (use.cached, use.calls) == (before, 40 - before)
    assert server.num_calls == 40


def test_a_stop_ends_asking_within_seconds_in_all_threads_also_with_a_silent_server(tmp_path: Path) -> None:
    stop = StopFlag()
    ended: list[type[BaseException]] = []

    def script(request: dict[str, Any]) -> Reply:
        return echo(request) if "thing 0." in request["messages"][1]["content"] else Reply(hangs=True)

    with ScriptedServer(script) as server:
        start = time.monotonic()
        with open_llm(spec_of(server, tmp_path / "c.sqlite"), stop) as llm:
            assert llm is not None

            def go() -> None:
                with pytest.raises(Draining) as caught:
                    llm.ask(asks(10))
                ended.append(caught.type)

            started = [threading.Thread(target=go) for _ in range(3)]
            for thread in started:
                thread.start()
            while server.num_calls < 10 and time.monotonic() - start < 200:
                time.sleep(0.01)
            stop.request("a test")
            start = time.monotonic()
            for thread in started:
                thread.join(timeout=60)
        assert time.monotonic() - start < 15
        assert ended == [Draining] * 3
        _, use = asked(spec_of(server, tmp_path / "c.sqlite"), asks(1))
    assert use.cached == 1


def test_two_processes_on_one_cache_agree(tmp_path: Path) -> None:
    """The server never says the same twice; what was kept first counts for both."""
    count = iter(range(10_000))

    def fickle(request: dict[str, Any]) -> Reply:
        return Reply(json.dumps({"word": str(next(count))}), delay_s=0.02)

    with ScriptedServer(fickle) as server:
        children = [in_a_child(FORTY, server.base_url, str(tmp_path / "c.sqlite")) for _ in range(2)]
        said = [child.communicate(timeout=200) for child in children]
        assert [child.returncode for child in children] == [0, 0], said
        answers, use = asked(spec_of(server, tmp_path / "c.sqlite"), asks(40))
    assert said[0][0] == said[1][0] == f"{[answer.value for answer in answers]}\n"
    assert (use.cached, use.calls) == (40, 0)


@pytest.mark.torture
def test_killed_fifteen_times_no_answer_is_paid_for_twice_but_those_that_were_out(tmp_path: Path) -> None:
    seed = printed_seed()
    luck = random.Random(seed)
    with ScriptedServer(lambda request: Reply(echo(request).content, delay_s=0.05)) as server:
        for _ in range(15):
            child = in_a_child(FORTY, server.base_url, str(tmp_path / "c.sqlite"))
            time.sleep(0.1 + 0.3 * luck.random())
            child.kill()
            child.wait(timeout=30)
        _, use = asked(spec_of(server, tmp_path / "c.sqlite"), asks(40))
    assert use.failed == {}
    assert server.num_calls <= 40 + 15 * 4
