"""Judges that look: what a model is told, what a CLIP compares, and that an answer is of its own image alone."""

import base64
import hashlib
import io
import json
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cluster.process.exit import Draining
from cluster.process.stop_flag import StopFlag
from gen.edit.judge.judge import TASK, Judge, Judged, JudgeLost, draws_of, judge_digest, open_judge
from gen.edit.judge.question import Question, rather_than
from gen.edit.judge.spec import JudgeSpec
from gen.llm.call import LlmError
from gen.make.refill import IMAGE_ERRORS
from gen.model.clip import Clip, ClipSpec
from sandbox.captions import pool_rows
from sandbox.world import CLASS_NAMES, INKS, render
from shards.disk.home import home
from tests.gen.llm.test_ask import in_turn
from tests.support.scripted_server import Reply, ScriptedServer, answering
from tests.support.tiny_llava import tiny_llava

SANDBOX = home() / "sandbox" / "models" / "clip"
RED = Question("Is the ink of the digit red?", "visible", True, "red ink", "blue ink")
PINK = Question("Is the paper pink?", "visible", False, "pink paper", "white paper")
TRUE_RED = Question("Could a digit be written in red?", "plausible", True)
TRUE_PINK = Question("Is there paper of a pink colour?", "plausible", False)
FOUR = (RED, PINK, TRUE_RED, TRUE_PINK)
# what no request may contain: names and values of a question beside its text
OF_A_QUESTION = ("expected", "visible", "plausible", "asks", "red ink", "blue ink", "pink paper", "True", "False")


def picture(seed: int, side_px: int = 16) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)


def vlm(server: ScriptedServer, cache: Path, llm: dict[str, Any] | None = None, **changes: Any) -> JudgeSpec:
    fields = {"provider": "openai", "model": "m", "base_url": server.base_url, "cache": str(cache), "backoff_s": 0.01}
    return JudgeSpec(kind="vlm", llm=fields | (llm or {}), **changes)


def seen(request: dict[str, Any]) -> tuple[NDArray[np.uint8], str]:
    """The image and the question in a request."""
    image, question = request["messages"][1]["content"]
    data = base64.b64decode(image["image_url"]["url"].partition(",")[2], validate=True)
    return np.asarray(Image.open(io.BytesIO(data))), question["text"]


def moody(request: dict[str, Any]) -> Reply:
    """Yes or no, as a function of image and question."""
    image, question = seen(request)
    number = hashlib.sha256(image.tobytes() + question.encode()).digest()[0]
    return Reply(json.dumps({"answer": "yes" if number % 2 else "no"}))


# a vision-language model


def test_a_model_is_never_told_what_is_expected(tmp_path: Path) -> None:
    """With every expectation turned round, and other texts for CLIP, the requests are the same to the last byte."""
    requests = []
    others = [
        replace(one, expected=not one.expected, asks="visible", yes="a strange text", no="another one") for one in FOUR
    ]
    for name, questions in (("as they are", list(FOUR)), ("turned round", others)):
        with ScriptedServer(moody) as server, open_judge(vlm(server, tmp_path / name)) as judge:
            judge.verdicts([(picture(seed), questions) for seed in range(3)])
        assert server.num_calls == 12
        requests.append(sorted(json.dumps(request, sort_keys=True) for request in server.requests))
    assert requests[0] == requests[1]
    for request in map(json.loads, requests[0]):
        system, user = request["messages"]
        assert len(request["messages"]) == 2
        assert system["content"].startswith(TASK)
        image, text = user["content"]
        assert text == {"type": "text", "text": text["text"]}
        assert text["text"] in [one.text for one in FOUR]
        image["image_url"]["url"] = ""
        whole = json.dumps(request)
        assert [word for word in OF_A_QUESTION if word in whole] == []
        assert sum(one.text in whole for one in FOUR) == 1


def test_a_model_sees_the_very_pixels_and_is_bound_to_yes_and_no(tmp_path: Path) -> None:
    image = picture(5)[:, :11]
    with ScriptedServer(answering({"answer": "yes"})) as server, open_judge(vlm(server, tmp_path / "c")) as judge:
        verdict = judge.answers(image, [RED])
    (request,) = server.requests
    assert np.array_equal(seen(request)[0], image)
    schema = request["response_format"]["json_schema"]["schema"]
    assert schema["properties"] == {"answer": {"type": "string", "enum": ["yes", "no"]}}
    assert request["temperature"] == 0
    assert (verdict.status, verdict.score) == ("success", 1.0)


@pytest.mark.parametrize(
    ("answers", "status", "score"), [("ynyn", "success", 1.0), ("nynn", "rejected", 0.25), ("yyyy", "success", 0.5)]
)
def test_answers_become_a_verdict(answers: str, status: str, score: float, tmp_path: Path) -> None:
    words = {one.text: {"y": "yes", "n": "no"}[letter] for one, letter in zip(FOUR, answers, strict=True)}
    with (
        ScriptedServer(lambda request: Reply(json.dumps({"answer": words[seen(request)[1]]}))) as server,
        open_judge(vlm(server, tmp_path / "c")) as judge,
    ):
        verdict = judge.answers(picture(0), FOUR)
    assert (verdict.status, verdict.score) == (status, score)
    assert [one.question for one in verdict.answers] == list(FOUR)
    assert [one.answer for one in verdict.answers] == list(words.values())


def test_only_the_kinds_of_questions_of_the_recipe_are_asked(tmp_path: Path) -> None:
    with ScriptedServer(answering({"answer": "yes"})) as server:
        with open_judge(vlm(server, tmp_path / "c", asks=["plausible"])) as judge:
            verdict = judge.answers(picture(0), FOUR)
            assert [one.question for one in verdict.answers] == [TRUE_RED, TRUE_PINK]
            with pytest.raises(ValueError, match=r"found no question of the kinds plausible about an image"):
                judge.answers(picture(0), [RED])
        assert server.num_calls == 2


def test_the_verdict_on_an_image_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    asked: list[Judged] = [(picture(seed), FOUR[seed % 3 :]) for seed in range(12)]
    with ScriptedServer(moody) as server:
        with open_judge(vlm(server, tmp_path / "together")) as judge:
            together = judge.verdicts(asked)
        with open_judge(vlm(server, tmp_path / "alone")) as judge:
            alone = [judge.answers(*one) for one in reversed(asked)][::-1]
    assert together == alone
    assert {verdict.status for verdict in together} == {"success", "rejected"}


def test_a_second_run_asks_nothing(tmp_path: Path) -> None:
    with ScriptedServer(moody) as server:
        found = []
        for _ in range(2):
            with open_judge(vlm(server, tmp_path / "c")) as judge:
                found.append(judge.verdicts([(picture(seed), FOUR) for seed in range(3)]))
        assert server.num_calls == 12
    assert found[0] == found[1]


def test_every_machine_has_a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's log of writes works on one machine alone."""
    with ScriptedServer(moody) as server:
        for host in ("node-1", "node-2.site", "node-1", "../odd host"):
            monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
            with open_judge(vlm(server, tmp_path / "c.sqlite")) as judge:
                judge.answers(picture(0), [RED])
        assert server.num_calls == 3
    names = {f"c.{host}.sqlite" for host in ("node-1", "node-2.site", "..-odd-host")}
    assert {path.name for path in tmp_path.glob("*.sqlite")} == names


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("Yes.", "not_json"),
        ('{"answer": "Yes"}', "wrong_schema"),
        ('{"answer": true}', "wrong_schema"),
        ('{"answer": "yes", "answer": "no"}', "not_json"),
        ('{"answer": "maybe"}', "wrong_schema"),
        ("", "empty"),
        ("I'm sorry, I cannot judge that.", "refused"),
    ],
)
def test_an_answer_of_no_use_is_no_verdict_after_the_bounded_tries(content: str, reason: str, tmp_path: Path) -> None:
    """No free text is taken for a yes or a no."""

    def reply(request: dict[str, Any]) -> Reply:
        return Reply(content) if seen(request)[1] == RED.text else moody(request)

    with ScriptedServer(reply) as server, open_judge(vlm(server, tmp_path / "c", {"tries": 3})) as judge:
        verdict = judge.answers(picture(0), FOUR)
        assert server.num_calls == 3 + 3
    assert (verdict.status, verdict.accepted, verdict.score) == ("judge_failed", False, None)
    assert verdict.error == f"the judge gave no usable answer ({reason})"


def test_an_image_that_a_server_refuses_is_no_verdict_on_this_image_alone(tmp_path: Path) -> None:
    def reply(request: dict[str, Any]) -> Reply:
        is_bad = np.array_equal(seen(request)[0], picture(1))
        return Reply(status=400, body=b'{"error": "content policy"}') if is_bad else Reply('{"answer": "yes"}')

    with ScriptedServer(reply) as server, open_judge(vlm(server, tmp_path / "c")) as judge:
        verdicts = judge.verdicts([(picture(seed), [RED]) for seed in range(3)])
    assert [verdict.status for verdict in verdicts] == ["success", "judge_failed", "success"]


LOST: dict[str, tuple[Reply, ...]] = {
    "in trouble": (Reply(status=503),),
    "silent": (Reply(hangs=True),),
    "without a key": (Reply(status=401),),
    "without eyes": (Reply(status=400, body=b'{"error": "m is not a multimodal model"}'),),
    "ending in the middle": (Reply('{"answer": "yes"}', hangs_up=True),),
    "one call lost": (Reply(status=503), Reply("no"), Reply('{"answer": "yes"}')),
}


@pytest.mark.parametrize("name", LOST)
@pytest.mark.parametrize("num_images", [1, 12])
def test_a_judge_that_cannot_be_reached_is_no_verdict_at_all(name: str, num_images: int, tmp_path: Path) -> None:
    """In one line, and as an error that is not taken for the fault of an image."""
    with (
        ScriptedServer(in_turn(*LOST[name])) as server,
        open_judge(vlm(server, tmp_path / "c", {"tries": 2, "timeout_s": 0.2, "max_in_flight": 1})) as judge,
        pytest.raises(JudgeLost, match=r"^judge: .*expected .*; ") as caught,
    ):
        judge.verdicts([(picture(seed), [RED]) for seed in range(num_images)])
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, IMAGE_ERRORS)


def test_a_stop_ends_judging(tmp_path: Path) -> None:
    stop = StopFlag()

    def reply(request: dict[str, Any]) -> Reply:
        stop.request("a test")
        return Reply('{"answer": "yes"}', delay_s=0.2)

    with ScriptedServer(reply) as server, open_judge(vlm(server, tmp_path / "c"), stop) as judge:
        with pytest.raises(Draining):
            judge.verdicts([(picture(seed), FOUR) for seed in range(30)])
        assert server.num_calls < 120


def test_a_model_in_this_process_judges_by_what_it_sees(tmp_path: Path) -> None:
    text = "Is it red?"
    folder = tiny_llava(tmp_path / "eyes", f"{TASK}\n\n{text}")
    local = {"provider": "transformers", "model": str(folder), "cache": str(tmp_path / "c"), "device": "cpu"}
    images = [np.full((16, 16, 3), colour, np.uint8) for colour in ((170, 0, 0), (0, 0, 170))]
    judged = [(image, [Question(text, "visible", expected)]) for image in images for expected in (True, False)]
    with open_judge(JudgeSpec(kind="vlm", llm=local)) as judge:
        verdicts = judge.verdicts(judged)
    assert [verdict.answers[0].answer for verdict in verdicts] == ["yes", "yes", "no", "no"]
    assert [verdict.status for verdict in verdicts] == ["success", "rejected", "rejected", "success"]


# CLIP


@pytest.fixture(scope="module")
def clip_spec() -> JudgeSpec:
    return JudgeSpec(kind="clip", clip={"model": str(SANDBOX), "device": "cpu"})


@pytest.fixture(scope="module")
def clip_judge(clip_spec: JudgeSpec) -> Iterator[Judge]:
    with open_judge(clip_spec) as judge:
        yield judge


def test_clip_answers_with_the_nearer_text(clip_judge: Judge) -> None:
    clip = Clip.load(ClipSpec(model=str(SANDBOX), device="cpu"))
    images = [picture(seed, 64) for seed in range(8)]
    near = clip.embed_images(images) @ clip.embed_texts(["red ink", "blue ink", "pink paper", "white paper"]).T
    verdicts = clip_judge.verdicts([(image, FOUR) for image in images])
    for verdict, (red, blue, pink, white) in zip(verdicts, near, strict=True):
        assert [one.question for one in verdict.answers] == [RED, PINK]
        assert [one.answer == "yes" for one in verdict.answers] == [red > blue, pink > white]
        assert verdict.score == ((red > blue) + (white > pink)) / 2
    turned = [replace(one, yes=one.no, no=one.yes) for one in (RED, PINK)]
    for verdict, other in zip(verdicts, clip_judge.verdicts([(image, turned) for image in images]), strict=True):
        assert [one.answer for one in verdict.answers] != [one.answer for one in other.answers]


def test_the_sandbox_clip_tells_the_asked_ink_from_every_other(clip_judge: Judge) -> None:
    """Pictures of which the renderer knows the truth; with one question for each other ink, all of them needed."""
    scenes = [row.scene for row in pool_rows(1500) if row.kind == "plain" and row.scene.sense == "numeral"]
    scenes = [scene for scene in scenes if scene.style == "photo" and scene.ground == "plain"][:40]
    right, wrong = [], []
    for number, scene in enumerate(scenes):
        word = CLASS_NAMES[scene.class_id]
        texts = {ink: f"{word}, the handwritten numeral, {ink} ink on {scene.paper} paper" for ink in INKS}
        another = [ink for ink in INKS if ink != scene.ink][number % 7]
        image = render(scene)
        for asked, found in ((scene.ink, right), (another, wrong)):
            others = [text for ink, text in texts.items() if ink != asked]
            found.append(clip_judge.answers(image, rather_than(texts[asked], others)).score == 1)
    assert len(scenes) == 40
    assert np.mean(right) >= 0.9
    assert np.mean(wrong) <= 0.05


def test_clip_answers_are_of_one_image_and_one_question(clip_judge: Judge) -> None:
    images = [picture(seed, 64) for seed in range(6)]
    together = clip_judge.verdicts([(image, [RED, PINK]) for image in images])
    alone = [clip_judge.answers(image, [RED, PINK]) for image in reversed(images)][::-1]
    one_by_one = [[clip_judge.answers(image, [one]).answers[0] for one in (PINK, RED)][::-1] for image in images]
    assert together == alone
    assert [list(verdict.answers) for verdict in together] == one_by_one


def test_clip_is_not_asked_what_has_no_texts_or_is_a_matter_of_the_world(clip_judge: Judge) -> None:
    with pytest.raises(ValueError, match="found no texts for yes and no, which a CLIP compares"):
        clip_judge.answers(picture(0), [Question("Is it red?", "visible", True)])
    with pytest.raises(ValueError, match="found no question of the kinds visible"):
        clip_judge.answers(picture(0), [TRUE_RED, TRUE_PINK])


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32)])
def test_what_is_no_picture_is_refused(image: Any, clip_judge: Judge, tmp_path: Path) -> None:
    with ScriptedServer(moody) as server, open_judge(vlm(server, tmp_path / "c")) as judge:
        for one in (judge, clip_judge):
            with pytest.raises(ValueError, match=r"expected uint8 \[height, width, 3\]"):
                one.answers(image, [RED])
        assert server.num_calls == 0


# none, and what a run is bound to


def test_without_a_judge_everything_is_accepted_and_has_no_score() -> None:
    with open_judge(JudgeSpec()) as judge:
        verdict = judge.answers(picture(0), FOUR)
        assert judge.verdicts([]) == []
    assert (verdict.status, verdict.score, verdict.answers) == ("success", None, ())
    assert draws_of(JudgeSpec()) is None


def test_the_digest_tells_what_decides_a_verdict_and_nothing_else(clip_spec: JudgeSpec, tmp_path: Path) -> None:
    with ScriptedServer(moody) as server:
        one = vlm(server, tmp_path / "c")
        same = [
            vlm(server, tmp_path / "d"),
            vlm(server, tmp_path / "c", {"timeout_s": 5, "max_in_flight": 2}),
            vlm(server, tmp_path / "c", {"base_url": "http://127.0.0.1:9/v1"}),
            vlm(server, tmp_path / "c", budget=9),
            vlm(server, tmp_path / "c", asks=["plausible", "visible"]),
        ]
        others = [
            JudgeSpec(),
            clip_spec,
            clip_spec.model_copy(update={"threshold": 1.0}),
            vlm(server, tmp_path / "c", {"model": "another"}),
            vlm(server, tmp_path / "c", {"temperature": 0.5}),
            vlm(server, tmp_path / "c", asks=["visible"]),
            vlm(server, tmp_path / "c", threshold=0.75),
        ]
    assert {judge_digest(spec) for spec in same} == {judge_digest(one)}
    assert len({judge_digest(spec) for spec in [one, *others]}) == 1 + len(others)
    assert all(len(judge_digest(spec)) == 64 for spec in others)


def test_the_digest_knows_the_weights_of_a_folder(tmp_path: Path) -> None:
    def spec(folder: Path) -> JudgeSpec:
        local = {"provider": "transformers", "model": str(folder)}
        return JudgeSpec(kind="vlm", llm=local)

    for name in ("a", "b"):
        shutil.copytree(SANDBOX, tmp_path / name)
    assert judge_digest(spec(tmp_path / "a")) == judge_digest(spec(tmp_path / "b"))
    (tmp_path / "b" / "tokenizer_config.json").write_text("{}")
    assert judge_digest(spec(tmp_path / "a")) != judge_digest(spec(tmp_path / "b"))
    (tmp_path / "b" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"expected model\.safetensors"):
        judge_digest(spec(tmp_path / "b"))


def test_a_judge_without_a_key_is_refused_before_the_first_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    spec = JudgeSpec(kind="vlm", llm={"provider": "openai", "model": "m", "cache": str(tmp_path / "c")})
    with pytest.raises(LlmError, match=r"no key for api\.openai\.com"), open_judge(spec):
        pass
