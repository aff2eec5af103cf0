"""Questions with images: what a server gets, what the cache keeps, and what no log, error or file ever shows."""

import base64
import io
import json
import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gen.llm.ask import Answer, Ask, open_llm
from gen.llm.call import LlmError
from gen.llm.choice import Choice, choice_of, choice_schema
from gen.llm.image import MAX_IMAGE_BYTES, MAX_IMAGES, data_url, without_images
from tests.gen.llm.test_ask import WORD, asked, asks, failures, in_turn, spec_of
from tests.support.scripted_server import Reply, ScriptedServer, answering

YES_NO = choice_schema("answer", ("yes", "no"))


def encoded(colour: tuple[int, int, int], form: str = "PNG", side_px: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side_px, side_px), colour).save(file, form)
    return file.getvalue()


RED, BLUE = encoded((200, 0, 0)), encoded((0, 0, 200), "JPEG")


def about(*images: bytes, user: str = "Is it red?") -> Ask:
    return Ask("test", "You see things.", user, YES_NO, 0, images)


def test_a_question_without_images_has_the_bytes_and_the_key_that_it_always_had(tmp_path: Path) -> None:
    """The key and the request as they were before a question could have images."""
    with ScriptedServer(answering({"word": "x"})) as server:
        asked(spec_of(server, tmp_path / "c.sqlite"), asks(1))
    with sqlite3.connect(tmp_path / "c.sqlite") as database:
        keys = database.execute("SELECT key FROM answers").fetchall()
    assert keys == [("1e0108cedbb257571520d7a29813d4285af4d1ec96c8e08de113c0e02f8d6bd4",)]
    form = '{"additionalProperties":false,"properties":{"word":{"maxLength":10000,"type":"string"}},'
    form += '"required":["word"],"type":"object"}'
    system = "You name things.\n\nAnswer with one JSON value and nothing else. It must fit this JSON Schema:\n" + form
    bound = {**WORD, "properties": {"word": {"type": "string"}}}
    schema = {"name": "answer", "strict": True, "schema": bound}
    expected = {
        "model": "m",
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": "Name thing 0."}],
        "temperature": 0.8,
        "top_p": 0.9,
        "max_tokens": 2048,
        "seed": 713683445,
        "response_format": {"type": "json_schema", "json_schema": schema},
    }
    assert server.requests == [expected]
    assert list(server.requests[0]) == list(expected)


@pytest.mark.parametrize("role", ["system", "user"])
def test_a_server_gets_each_image_whole_and_before_the_text(role: str, tmp_path: Path) -> None:
    with ScriptedServer(answering({"answer": "yes"})) as server:
        (answer,), _ = asked(spec_of(server, tmp_path / "c.sqlite", system_role=role), [about(RED, BLUE)])
    assert answer.value == {"answer": "yes"}
    *before, user = server.requests[0]["messages"]
    assert [one["content"] for one in before if not isinstance(one["content"], str)] == []
    assert [part["type"] for part in user["content"]] == ["image_url", "image_url", "text"]
    assert user["content"][2]["text"].endswith("Is it red?")
    for part, data, kind in zip(user["content"], (RED, BLUE), ("png", "jpeg"), strict=False):
        head, _, body = part["image_url"]["url"].partition(",")
        assert head == f"data:image/{kind};base64"
        assert base64.b64decode(body, validate=True) == data
    assert server.requests[0]["response_format"]["json_schema"]["schema"] == YES_NO


def test_the_same_question_about_another_image_is_another_question(tmp_path: Path) -> None:
    with ScriptedServer(answering({"answer": "yes"})) as server:
        spec = spec_of(server, tmp_path / "c.sqlite")
        questions = [about(RED), about(BLUE), about(RED, BLUE), about(BLUE, RED), about(), about(RED, RED)]
        asked(spec, questions)
        assert server.num_calls == 6
        answers, use = asked(spec, questions)
    assert (server.num_calls, use.cached) == (6, 6)
    assert all(answer.cached for answer in answers)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ((b"GIF89a" + bytes(50),), "found 56 bytes that are no image, expected a PNG or a JPEG"),
        ((b"",), "found 0 bytes that are no image"),
        ((RED,) * (MAX_IMAGES + 1), "found 9 images of .* expected at most 8"),
        ((RED, bytes(MAX_IMAGE_BYTES)), "found 2 images of 16,7.* bytes, expected"),
        ((encoded((1, 2, 3), "GIF"),), "no image, expected a PNG or a JPEG"),
    ],
)
def test_what_is_no_small_png_or_jpeg_is_refused_before_a_call(
    images: tuple[bytes, ...], words: str, tmp_path: Path
) -> None:
    with ScriptedServer(answering({"answer": "yes"})) as server:
        with pytest.raises(ValueError, match=words):
            asked(spec_of(server, tmp_path / "c.sqlite"), [about(*images)])
        assert server.num_calls == 0


def test_an_image_of_too_many_pixels_is_refused_by_its_header(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("1", (1 << 13, 1 << 12)).save(file, "PNG")
    assert len(file.getvalue()) < 100_000
    with (
        ScriptedServer(answering({"answer": "yes"})) as server,
        pytest.raises(ValueError, match="8192 x 4096 pixels, expected at most 16,777,216"),
    ):
        asked(spec_of(server, tmp_path / "c.sqlite"), [about(file.getvalue())])


# as servers say it
SIGHTLESS: dict[str, tuple[int, Any]] = {
    "vllm": (400, {"object": "error", "message": "m is not a multimodal model", "code": 400}),
    "vllm, none allowed": (400, {"error": {"message": "At most 0 image(s) may be provided in one prompt."}}),
    "openai": (400, {"error": {"message": "Invalid content type. image_url is only supported by certain models."}}),
    "mistral": (400, {"message": "Image input is not enabled for this model"}),
    "ollama": (500, {"error": {"message": "this model is missing data required for image input"}}),
    "llama.cpp": (500, {"error": {"code": 500, "message": "image input is not supported - hint: provide the mmproj"}}),
    "deepseek": (422, {"error": "messages[1]: unknown variant `image_url`, expected `text` at line 1 column 9"}),
    "groq": (400, {"error": {"message": "'messages.1' : for 'role:user' : 'content' must be a string"}}),
    "openrouter": (404, {"error": {"message": "No endpoints found that support image input", "code": 404}}),
}


@pytest.mark.parametrize("name", SIGHTLESS)
def test_a_server_whose_model_sees_no_images_ends_the_run_in_one_line(name: str, tmp_path: Path) -> None:
    status, told = SIGHTLESS[name]
    blind = Reply(status=status, body=json.dumps(told).encode())
    with ScriptedServer(lambda request: blind) as server:
        with pytest.raises(LlmError, match=r"this model sees no images: set llm\.model to one that does") as caught:
            asked(spec_of(server, tmp_path / "c.sqlite", max_in_flight=1), [about(RED)] * 3)
        assert server.num_calls <= 2
        with sqlite3.connect(tmp_path / "c.sqlite") as database:
            assert database.execute("SELECT count(*) FROM answers").fetchall() == [(0,)]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        "Your input image may contain content that is not allowed by our safety system.",
        "bad image size",
        "This is not a supported image type.",
        "Could not process image",
    ],
)
def test_an_image_that_a_server_does_not_take_is_the_fault_of_that_image(words: str, tmp_path: Path) -> None:
    def reply(request: dict[str, Any]) -> Reply:
        is_red = data_url(RED) in json.dumps(request)
        return Reply(status=400, body=json.dumps({"error": words}).encode()) if is_red else Reply('{"answer": "no"}')

    with ScriptedServer(reply) as server:
        refused, seen = asked(spec_of(server, tmp_path / "c.sqlite"), [about(RED), about(BLUE)])[0]
    assert (refused.reason, refused.lost) == ("http_400", False)
    assert seen.value == {"answer": "no"}


def test_the_bytes_of_an_image_are_in_no_log_error_or_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = data_url(encoded((3, 141, 59), side_px=64))
    body = url.partition(",")[2]
    assert len(body) > 150
    image = base64.b64decode(body)
    escaped = json.dumps({"error": f"cannot read {url} or {body}"}).replace("/", "\\/")
    echoes = (
        Reply(status=500, body=f"cannot read {url}".encode()),
        Reply(url),
        Reply(body=f"<html>{body}</html>".encode()),
        Reply(status=400, body=escaped.encode()),
        Reply(status=401, body=f"Not you: {url[:400]}".encode()),
    )
    told: list[str] = []
    with ScriptedServer(in_turn(*echoes)) as server:
        spec = spec_of(server, tmp_path / "c.sqlite", max_in_flight=1, send_schema=False)
        with open_llm(spec) as llm:
            assert llm is not None
            answers = llm.ask([about(image)])
            with pytest.raises(LlmError) as caught:
                llm.ask([about(image, user="Another?")])
            told += [repr(llm), repr(answers), str(caught.value), repr(about(image)), answers[0].told]
        assert server.num_calls == 5
    out, err = capfd.readouterr()
    seen = "".join([*told, out, err, caplog.text, *(row[3] for row in failures(tmp_path / "c.sqlite"))])
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for start in range(0, len(body) - 24, 12):
        assert body[start : start + 24] not in seen
        assert body[start : start + 24].encode() not in kept
    assert image[:40] not in kept
    assert "[image]" in seen


def test_only_long_runs_are_taken_for_an_image() -> None:
    text = 'see https://host.example/v1/chat/completions and "image_url" of the model Qwen/Qwen3-VL-8B-Instruct'
    assert without_images(text) == text
    assert without_images(f"no {data_url(RED)!r} here") == "no '[image]' here"


def test_an_answer_that_was_lost_on_its_way_is_told_from_one_that_cannot_be_used(tmp_path: Path) -> None:
    """What was lost may come another day; what cannot be used would come again."""
    busy, prose, good = Reply(status=503), Reply("Well."), Reply('{"answer": "no"}')
    found: list[Answer] = []
    for number, script in enumerate(
        [in_turn(prose), in_turn(busy), in_turn(prose, busy), in_turn(busy, prose), in_turn(busy, good)]
    ):
        with ScriptedServer(script) as server:
            found += asked(spec_of(server, tmp_path / f"{number}.sqlite", tries=2), [about(RED)])[0]
    assert [answer.lost for answer in found] == [False, True, True, True, False]
    assert [answer.reason for answer in found] == ["not_json", "http_503", "http_503", "not_json", None]


def test_a_choice_is_read_from_its_own_schema_alone() -> None:
    assert choice_of(json.loads(json.dumps(YES_NO))) == Choice("answer", ("yes", "no"))
    assert choice_of(WORD) is None
    assert choice_of({}) is None
    assert choice_of(YES_NO | {"additionalProperties": True}) is None
    assert choice_of(YES_NO | {"required": ["answer", "why"]}) is None
    assert choice_of(YES_NO | {"required": ["other"]}) is None
